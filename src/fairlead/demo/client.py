"""The load client: sends requests at their times and notes when the answers came.

Rule 1: cheap. One connection and one protocol object per request, no task per event; a streamed event costs a few
microseconds, because what arrives is not parsed but for its head and its end.
Rule 2: times count from the moment a request was due, so a client that is late cannot flatter the fleet.
Rule 3: every request ends with exactly one outcome, whatever happens.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, cast
from urllib.parse import urlsplit

from fairlead.demo.workload import Ask

OK: Final = "ok"
BROKEN: Final = "broken"  # the connection ended before the answer did, or could not be made
REFUSED: Final = "refused"  # a status other than 200
UNFINISHED: Final = "unfinished"  # given up by us
TAIL_BYTES: Final = 2_048  # the usage and [DONE] events fit

_USAGE: Final = re.compile(rb'"usage":\{"prompt_tokens":(\d+).*?"completion_tokens":(\d+)')
_CACHED: Final = re.compile(rb'"cached_tokens":(\d+)')


@dataclass(slots=True)
class Result:
    """What became of one request. Its times are seconds since it was due; 0: that never came."""

    at: float  # when it was due, in seconds after the start
    outcome: str = ""
    status: int = 0
    first_token: float = 0.0
    end: float = 0.0
    prompt_tokens: int = 0  # as the engine counted
    cached_tokens: int = 0
    output_tokens: int = 0


class _Stream(asyncio.Protocol):
    """One request and its streamed answer."""

    def __init__(self, load: Load, result: Result, due: float, request: bytes) -> None:
        self._load, self._result, self._due, self._request = load, result, due, request
        self._tail = b""
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is one by its methods, not by its type
        self.transport.write(self._request)
        self._request = b""

    def data_received(self, data: bytes) -> None:
        result, tail = self._result, self._tail + data
        if not result.status:
            end = tail.find(b"\r\n\r\n")
            if end < 0:
                self._tail = tail
                return
            result.status = int(tail[9:12])
            data = tail = tail[end + 4 :]
        if data and not result.first_token:
            result.first_token = self._load.clock() - self._due
        self._tail = tail = tail[-TAIL_BYTES:]
        if tail.find(b"data: [DONE]") >= 0:
            self._finish(OK)

    def connection_lost(self, exc: Exception | None) -> None:
        self._finish(REFUSED if self._result.status not in (0, 200) else BROKEN)

    def _finish(self, outcome: str) -> None:
        result = self._result
        if result.outcome:
            return
        result.end = self._load.clock() - self._due
        usage, cached = _USAGE.search(self._tail), _CACHED.search(self._tail)
        if usage is not None:
            result.prompt_tokens, result.output_tokens = int(usage[1]), int(usage[2])
        if cached is not None:
            result.cached_tokens = int(cached[1])
        self._load.ended(self, result, outcome)
        if self.transport is not None:
            self.transport.abort() if outcome == UNFINISHED else self.transport.close()

    def give_up(self) -> None:
        self._finish(UNFINISHED)


class Load:
    """One run of a workload against one balancer; `results` grows as requests are sent."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None and parts.port is not None
        self._host, self._port = parts.hostname, parts.port
        self._loop = asyncio.get_running_loop()
        self.clock = self._loop.time
        self.started = self.clock()
        self.results: list[Result] = []
        self.done = 0
        self.errors = 0
        self.sent_all = False
        self._open: set[_Stream] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._quiet = asyncio.Event()

    @property
    def sent(self) -> int:
        return len(self.results)

    @property
    def gave_up(self) -> bool:
        """Was any request ended by us?"""
        return any(result.outcome == UNFINISHED for result in self.results)

    async def run(self, asks: Iterable[Ask], patience: float) -> None:
        """Send everything, then wait `patience` seconds at most for the rest of the answers."""
        try:
            for ask in asks:
                await asyncio.sleep(self.started + ask.at - self.clock())
                self._send(ask)
            self.sent_all = True
            self._quiet.clear()
            if self.done < self.sent:
                async with asyncio.timeout(patience):
                    await self._quiet.wait()
        except TimeoutError:
            pass
        finally:
            for task in self._tasks:
                task.cancel()
            for stream in list(self._open):
                stream.give_up()

    def _send(self, ask: Ask) -> None:
        result = Result(ask.at)
        self.results.append(result)
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nhost: {self._host}:{self._port}\r\nuser-agent: fairlead-demo\r\n"
            f"content-type: application/json\r\nx-session-id: {ask.conversation}\r\nconnection: close\r\n"
            f"content-length: {len(ask.body)}\r\n\r\n"
        )
        stream = _Stream(self, result, self.started + ask.at, head.encode() + ask.body)
        self._open.add(stream)
        task = asyncio.create_task(self._connect(stream))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(self, stream: _Stream) -> None:
        try:
            await self._loop.create_connection(lambda: stream, self._host, self._port)
        except OSError:
            stream.connection_lost(None)

    def ended(self, stream: _Stream, result: Result, outcome: str) -> None:
        """A stream reports its end, once."""
        result.outcome = outcome
        self.done += 1
        self.errors += outcome in (BROKEN, REFUSED)
        self._open.discard(stream)
        if self.done == self.sent:
            self._quiet.set()
