"""A client that is cheap enough to share a core with the stubs: closed loop and open loop over keep-alive.

Closed loop: C connections, each sends its next request when it has its answer. Says what a request costs.
Open loop: requests start at fixed times, whether or not earlier ones are answered. Says how long an answer takes.
Rule 1: every answer is checked in full; a wrong one ends up in `errors`, and a run with errors has no figures.
Rule 2: latency runs from the moment the request is handed to the socket; how late the client itself was is told apart.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Protocol, cast

from bench.answers import Wrong, body_of, check_plain
from bench.stub import BODY_AFTER, BODY_BEFORE
from bench.work import Request

_TOO_MANY = 20  # errors after which a run is given up
_OK = b"HTTP/1.1 200 "


@dataclass
class Tally:
    """What came of a run."""

    good: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    wall_seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    lateness: list[float] = field(default_factory=list)

    def problem(self, expected: int) -> str | None:
        """One line on what went wrong; None when every answer was right."""
        if self.errors:
            (text, count), *others = self.errors.most_common()
            return f"{count} x {text}" + (f" and {len(others)} other kinds of errors" if others else "")
        if self.good != expected:
            return f"{self.good} of {expected} answers came"
        return None


class Owner(Protocol):
    """Who is told what happens on a connection."""

    def answered(self, connection: Connection) -> None: ...
    def lost(self, connection: Connection, why: str | None) -> None: ...


class Connection(asyncio.Protocol):
    """One keep-alive connection with at most one request on it."""

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._transport: asyncio.Transport
        self._mark = b""  # of the request in flight
        self._pending = b""
        self.sent_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are not of that class

    def send(self, request: Request) -> None:
        self._mark = request.mark
        self._transport.write(request.wire)

    def data_received(self, data: bytes) -> None:
        if self._pending:
            data = self._pending + data
        end = data.find(b"\r\n\r\n") + 4
        if (
            data.startswith(_OK)
            and data[end:] == BODY_BEFORE + self._mark + BODY_AFTER
            and data.find(b"onnection: close", 0, end) < 0
        ):
            self._mark = self._pending = b""
            self._owner.answered(self)
        else:
            self._slowly(data)

    def _slowly(self, data: bytes) -> None:
        """Incomplete, chunked, the last one on its connection, or wrong."""
        try:
            if not self._mark:
                raise Wrong("bytes without a request")
            whole = body_of(data)
            if whole is None:
                self._pending = data
                return
            head, body = whole
            check_plain(body, self._mark)
        except Wrong as wrong:
            self.drop(str(wrong))
            return
        self._mark = self._pending = b""
        if b"\r\nconnection: close\r\n" in head:
            self._transport.abort()  # connection_lost comes later, when the answer has been counted
        self._owner.answered(self)

    def drop(self, why: str) -> None:
        """Close because of an error."""
        self._mark = b""
        self._transport.abort()
        self._owner.lost(self, why)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._mark:
            self._mark = b""
            self._owner.lost(self, "connection closed before the answer was whole")
        else:
            self._owner.lost(self, None)

    @property
    def is_open(self) -> bool:
        return not self._transport.is_closing()

    def close(self) -> None:
        self._mark = b""
        self._transport.abort()


class ClosedLoop:
    """A fixed number of connections that are never without a request."""

    def __init__(self, port: int, connections: int, tls: ssl.SSLContext | None = None) -> None:
        self._port, self._wanted, self._tls = port, connections, tls
        self._connections: set[Connection] = set()
        self._opening: set[asyncio.Task[None]] = set()
        self._requests: Sequence[Request] = ()
        self._sent = self._total = 0
        self._tally = Tally()
        self._ended: asyncio.Future[None] | None = None

    async def run(self, requests: Sequence[Request], total: int, timeout: float) -> Tally:
        """Send `total` requests, going round `requests`, and wait for every answer."""
        loop = asyncio.get_running_loop()
        while len(self._connections) < self._wanted:
            await self._open()
        self._requests, self._sent, self._total = requests, 0, total
        self._tally = tally = Tally()
        self._ended = loop.create_future()
        start = perf_counter()
        for connection in list(self._connections):
            if connection.is_open:  # else it is about to be replaced
                self._next(connection)
        try:
            await asyncio.wait_for(self._ended, timeout)
        except TimeoutError:
            tally.errors[f"no end after {timeout:.0f} s, {tally.good} of {total} answers"] += 1
        tally.wall_seconds = perf_counter() - start
        self._ended = None
        return tally

    def close(self) -> None:
        self._ended = None
        for task in self._opening:
            task.cancel()
        for connection in list(self._connections):
            connection.close()

    def _next(self, connection: Connection) -> None:
        if self._sent < self._total:
            request = self._requests[self._sent % len(self._requests)]
            self._sent += 1
            connection.send(request)

    def answered(self, connection: Connection) -> None:
        self._tally.good += 1
        if connection.is_open:
            self._next(connection)
        self._see_end()

    def lost(self, connection: Connection, why: str | None) -> None:
        self._connections.discard(connection)
        if why is not None:
            self._tally.errors[why] += 1
        if self._ended is not None and len(self._connections) + len(self._opening) < self._wanted:
            task = asyncio.ensure_future(self._reopen())
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)
        self._see_end()

    def _see_end(self) -> None:
        wrong = self._tally.errors.total()
        over = self._tally.good + wrong >= self._total or wrong >= _TOO_MANY
        if over and self._ended is not None and not self._ended.done():
            self._ended.set_result(None)

    async def _open(self) -> Connection:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(lambda: Connection(self), "127.0.0.1", self._port, ssl=self._tls)
        self._connections.add(connection)
        return connection

    async def _reopen(self) -> None:
        try:
            self._next(await self._open())
        except OSError as error:
            self._tally.errors[f"cannot connect: {error.strerror}"] += 1
            self._see_end()


class OpenLoop:
    """Requests at fixed times; takes a free connection, or opens one more."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._free: list[Connection] = []
        self._all: set[Connection] = set()
        self._tally = Tally()
        self._left = 0
        self._ended: asyncio.Future[None] | None = None

    async def run(self, requests: Sequence[Request], rate: float, total: int, timeout: float) -> Tally:
        """Start `total` requests, `rate` per second, and wait for every answer."""
        loop = asyncio.get_running_loop()
        while len(self._free) < 8:
            self._free.append(await self._open())
        self._tally, self._left = Tally(), total
        tally, self._ended = self._tally, loop.create_future()
        start = perf_counter()
        for index in range(total):
            due = start + index / rate
            wait = due - perf_counter()
            if wait > 0.0005:  # the loop's timers tick in milliseconds
                await asyncio.sleep(wait)
            connection = self._free.pop() if self._free else await self._open()
            if not connection.is_open:
                connection = await self._open()
            tally.lateness.append(max(0.0, perf_counter() - due))
            connection.sent_at = perf_counter()
            connection.send(requests[index % len(requests)])
            if tally.errors.total() >= _TOO_MANY:
                return tally
        try:
            await asyncio.wait_for(self._ended, timeout)
        except TimeoutError:
            tally.errors[f"no end after {timeout:.0f} s, {tally.good} of {total} answers"] += 1
        tally.wall_seconds = perf_counter() - start
        return tally

    def close(self) -> None:
        self._ended = None
        for connection in list(self._all):
            connection.close()

    def answered(self, connection: Connection) -> None:
        self._tally.latencies.append(perf_counter() - connection.sent_at)
        self._tally.good += 1
        if connection.is_open:
            self._free.append(connection)
        self._see_end()

    def lost(self, connection: Connection, why: str | None) -> None:
        self._all.discard(connection)
        if connection in self._free:
            self._free.remove(connection)
        if why is not None:
            self._tally.errors[why] += 1
            self._see_end()

    def _see_end(self) -> None:
        self._left -= 1
        if self._left == 0 and self._ended is not None and not self._ended.done():
            self._ended.set_result(None)

    async def _open(self) -> Connection:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(lambda: Connection(self), "127.0.0.1", self._port)
        self._all.add(connection)
        return connection


class OneShots:
    """A connection for each request, some at a time."""

    def __init__(self, port: int, at_once: int) -> None:
        self._port, self._at_once = port, at_once

    async def run(self, request: Request, total: int, tls: ssl.SSLContext) -> int:
        """How many of `total` requests got the right answer."""
        left = iter(range(total))

        async def client() -> int:
            good = 0
            for _ in left:
                reader, writer = await asyncio.open_connection("127.0.0.1", self._port, ssl=tls)
                try:
                    writer.write(request.wire)
                    head = await reader.readuntil(b"\r\n\r\n")
                    body = await reader.readexactly(len(BODY_BEFORE + request.mark + BODY_AFTER))
                    good += head.startswith(_OK) and body == BODY_BEFORE + request.mark + BODY_AFTER
                finally:
                    writer.transport.abort()
            return good

        return sum(await asyncio.gather(*(client() for _ in range(self._at_once))))
