"""What does a request cost over HTTP/2, beside HTTP/1, in our own code alone?

Like bench/hotpath.py: the real objects over memory transports, so that only Python work is left. The client's bytes
are made beforehand or not counted. Run: python -m bench.http2
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from h2.config import H2Configuration
from h2.connection import H2Connection

from bench.hotpath import (
    ANSWER,
    CHUNK,
    FIELDS,
    NOMINAL,
    STREAM_HEAD,
    Wire,
    build,
    request,
    run_events,
    run_requests,
    yardstick,
)
from fairlead.proxy.http2 import Http2Connection
from fairlead.proxy.upstream import Upstream

ROUNDS = 7


class Caller(Wire):
    """The client's side of a memory transport: it opens its windows again as a client does."""

    def __init__(self) -> None:
        super().__init__()
        self.h2 = H2Connection(H2Configuration(client_side=True, header_encoding=None))
        self.h2.initiate_connection()
        self.h2.increment_flow_control_window(2**30)
        self.spent = 0.0  # seconds that the client's side took: not ours

    def write(self, data: Any) -> None:
        start = time.process_time()
        self._read(data)
        self.spent += time.process_time() - start

    def _read(self, data: Any) -> None:
        for event in self.h2.receive_data(bytes(data)):
            length = getattr(event, "flow_controlled_length", 0)
            if length:
                self.h2.acknowledge_received_data(length, event.stream_id)  # type: ignore[attr-defined]

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...

    def ask(self, data: bytes) -> bytes:
        """The bytes of a request that is written down as HTTP/1."""
        head, _, body = data.partition(b"\r\n\r\n")
        first, *lines = head.split(b"\r\n")
        method, path, _ = first.split(b" ")
        fields = [(b":method", method), (b":scheme", b"http"), (b":authority", b"127.0.0.1:8080"), (b":path", path)]
        for line in lines:
            name, _, value = line.partition(b": ")
            if name.lower() not in (b"host", b"connection"):
                fields.append((name.lower(), value))
        id = self.h2.get_next_available_stream_id()
        self.h2.send_headers(id, fields)
        for at in range(0, len(body), 16_384):
            self.h2.send_data(id, body[at : at + 16_384], end_stream=at + 16_384 >= len(body))
        return bytes(self.h2.data_to_send())


async def turn() -> None:
    """Let what was scheduled run."""
    await asyncio.sleep(0)
    await asyncio.sleep(0)


class Meter:
    """Sums the time of our side alone."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __enter__(self) -> None:
        self._start = time.process_time()

    def __exit__(self, *exc: object) -> None:
        self.seconds += time.process_time() - self._start


def working(upstreams: list[Upstream]) -> Upstream:
    return next(upstream for upstream in upstreams if upstream.exchange is not None)


async def http2_requests(
    connection: Http2Connection, caller: Caller, upstreams: list[Upstream], data: bytes, n: int
) -> float:
    meter = Meter()
    for _ in range(n):
        asked = caller.ask(data)
        with meter:
            connection.data_received(asked)
            working(upstreams).data_received(ANSWER)
            connection._flush()
    return meter.seconds - theirs(caller)


async def http2_events(connection: Http2Connection, caller: Caller, upstreams: list[Upstream], n: int) -> float:
    connection.data_received(caller.ask(request(400, True, FIELDS)))
    upstream = working(upstreams)
    upstream.data_received(STREAM_HEAD)
    meter = Meter()
    for number in range(n):
        with meter:
            upstream.data_received(CHUNK)
            connection._flush()
        if not number & 63:
            connection.data_received(caller.h2.data_to_send())
    upstream.data_received(b"0\r\n\r\n")
    connection._flush()
    return meter.seconds - theirs(caller)


def theirs(caller: Caller) -> float:
    """Time that the client's side took within ours, since the last call."""
    spent, caller.spent = caller.spent, 0.0
    return spent


async def main() -> None:
    loops = 1_500
    service, client, upstreams = build()
    caller = Caller()
    connection = Http2Connection(service)
    connection.connection_made(caller)
    connection.data_received(caller.h2.data_to_send())
    await turn()
    small = request(400, False, FIELDS)
    rows: dict[str, list[float]] = {}
    for _ in range(ROUNDS):
        unit = yardstick() / NOMINAL
        start = time.process_time()
        run_requests(client, upstreams, small, loops)
        rows.setdefault("request, HTTP/1", []).append((time.process_time() - start) / loops / unit)
        spent = await http2_requests(connection, caller, upstreams, small, loops)
        rows.setdefault("request, HTTP/2", []).append(spent / loops / unit)
        start = time.process_time()
        run_events(client, upstreams, loops * 4)
        rows.setdefault("streamed event, HTTP/1", []).append((time.process_time() - start) / loops / 4 / unit)
        spent = await http2_events(connection, caller, upstreams, loops * 4)
        rows.setdefault("streamed event, HTTP/2", []).append(spent / loops / 4 / unit)
    for name, times in rows.items():
        print(f"{name:<28} {sorted(times)[len(times) // 2] * 1e6:10.2f} us")


if __name__ == "__main__":
    asyncio.run(main())
