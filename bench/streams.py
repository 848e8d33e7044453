"""Many streams at a time: did every event of every stream arrive, and when did the first one?

Rule 1: nothing is parsed while the clock runs; the bytes are kept and checked afterwards, event by event, to the
end marker.
Rule 2: streams start evenly over a little more than twenty intervals: gently, and so that their events are spread
evenly over each interval too.
Rule 3: the cost of an event is taken while all streams are open, from the last first event to shortly before the
first end, so that the cost of starting and ending streams is not in it.
Rule 4: `reads` is told beside `events`: about one read per event shows that nothing was coalesced.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import cast

from bench.answers import Wrong, body_of, split
from bench.stub import event_at, stream_body
from bench.work import Request

_LAST_CHUNK = b"\r\n0\r\n\r\n"
_EVENT = b"data: "
_RAMP = 21  # intervals over which the streams start; with 200 streams the steps fall between the interval's parts


@dataclass
class StreamTally:
    """What came of a run of streams."""

    events: int = 0  # inside the window of the measurement, like `reads`
    reads: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    first_seconds: list[float] = field(default_factory=list)

    def problem(self) -> str | None:
        """One line on what went wrong; None when every stream was whole."""
        if not self.errors:
            return None
        text, count = self.errors.most_common(1)[0]
        return f"{count} x {text}"


class Stream(asyncio.Protocol):
    """One connection with one streaming request; keeps what comes."""

    def __init__(self, request: Request) -> None:
        loop = asyncio.get_running_loop()
        self._request = request
        self._transport: asyncio.Transport
        self.parts: list[bytes] = []
        self.sent_at = self.first_at = 0.0
        self.first: asyncio.Future[None] = loop.create_future()  # the first event is there
        self.ended: asyncio.Future[None] = loop.create_future()

    @property
    def mark(self) -> bytes:
        return self._request.mark

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are not of that class

    def start(self) -> None:
        if self._transport.is_closing():  # hung up on before it began; the check will say so
            self._end()
            return
        self.sent_at = perf_counter()
        self._transport.write(self._request.wire)

    def data_received(self, data: bytes) -> None:
        self.parts.append(data)
        if not self.first_at and _EVENT in data:
            self.first_at = perf_counter()
            self.first.set_result(None)
        if data.endswith(b"0\r\n\r\n") and (b"".join(self.parts[-2:])).endswith(_LAST_CHUNK):
            self._end()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end()

    def _end(self) -> None:
        for future in (self.first, self.ended):
            if not future.done():
                future.set_result(None)

    def close(self) -> None:
        self._transport.abort()

    def check(self, events: int) -> None:
        """Raise Wrong unless this is the whole stream of this request."""
        whole = body_of(b"".join(self.parts))
        if whole is None:
            raise Wrong("stream without its end" if self.parts else "stream without any byte")
        if whole[1] != stream_body(self.mark, events):
            raise Wrong(f"stream of {whole[1].count(_EVENT)} events differs from what was sent")

    def check_first(self) -> None:
        """Raise Wrong unless the first event of this stream, and nothing else, has come."""
        parts = split(b"".join(self.parts))
        if parts is None or event_at(self.mark, 0, 2) not in parts[1]:
            raise Wrong("idle stream without its first event")
        if self.ended.done():
            raise Wrong("idle stream ended early")


async def _connect(port: int, requests: Sequence[Request], tally: StreamTally) -> list[Stream]:
    loop = asyncio.get_running_loop()
    streams = []
    for request in requests:
        try:
            _, stream = await loop.create_connection(lambda r=request: Stream(r), "127.0.0.1", port)  # type: ignore[misc]
            streams.append(stream)
        except OSError as error:
            tally.errors[f"cannot connect: {error.strerror}"] += 1
    return streams


class StreamRun:
    """Connections are opened in `open`, before the clock starts; then `run`."""

    def __init__(self, port: int, requests: Sequence[Request], events: int, interval: float) -> None:
        self._port, self._requests, self._events, self._interval = port, requests, events, interval
        self._streams: list[Stream] = []
        self._from: list[int] = []  # parts per stream before the window, and up to its end
        self._to: list[int] = []
        self._tally = StreamTally()

    async def open(self) -> None:
        self._streams = await _connect(self._port, self._requests, self._tally)

    async def run(self, timeout: float, begin: Callable[[], None], end: Callable[[], None]) -> None:
        """All streams from their requests to their ends; `begin` and `end` are called around the window."""
        loop = asyncio.get_running_loop()
        start = perf_counter()
        step = _RAMP * self._interval / max(1, len(self._streams))
        for index, stream in enumerate(self._streams):
            await self._until(start + index * step)
            stream.start()
        if not self._streams:
            return
        limit = loop.time() + timeout
        await asyncio.wait([stream.first for stream in self._streams], timeout=timeout)
        self._from = [len(stream.parts) for stream in self._streams]
        begin()
        window = perf_counter()
        await self._until(start + (self._events - 2) * self._interval)
        end()
        self._to = [len(stream.parts) for stream in self._streams]
        if self._from and perf_counter() - window < 5 * self._interval:
            self._tally.errors["streams ended before all had begun: the window is too short"] += 1
        await asyncio.wait([stream.ended for stream in self._streams], timeout=limit - loop.time())

    @staticmethod
    async def _until(moment: float) -> None:
        wait = moment - perf_counter()
        if wait > 0.0005:  # the loop's timers tick in milliseconds
            await asyncio.sleep(wait)

    def check(self) -> StreamTally:
        """After the clock: was every stream whole? Closes the connections."""
        tally = self._tally
        for index, stream in enumerate(self._streams):
            stream.close()
            try:
                stream.check(self._events)
            except Wrong as wrong:
                tally.errors[str(wrong)] += 1
                continue
            inside = stream.parts[self._from[index] : self._to[index]]
            # joined, as a proxy may cut an event in two; one cut at the window's edge is lost or won, 1 in 1,000s
            tally.events += b"".join(inside).count(_EVENT)
            tally.reads += len(inside)
            tally.first_seconds.append(stream.first_at - stream.sent_at)
        return tally


class IdleStreams:
    """Streams that have had one event and wait for the next, which does not come."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: list[Stream] = []
        self.tally = StreamTally()

    async def add(self, requests: Sequence[Request], timeout: float, batch: int = 50) -> None:
        """Open one more stream per request and wait until all have their first event."""
        for at in range(0, len(requests), batch):
            streams = await _connect(self._port, requests[at : at + batch], self.tally)
            for stream in streams:
                stream.start()
            self._streams += streams
            if streams:
                await asyncio.wait([stream.first for stream in streams], timeout=timeout)

    def check(self) -> StreamTally:
        for stream in self._streams:
            try:
                stream.check_first()
            except Wrong as wrong:
                self.tally.errors[str(wrong)] += 1
        return self.tally

    def close(self) -> None:
        for stream in self._streams:
            stream.close()
