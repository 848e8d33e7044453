"""Scripted peers: raw clients and engines on loopback that do exactly what a test tells them.

A `Peer` is one connection seen from the test's side: it sends and expects bytes, stalls, closes, half-closes or
resets, and keeps every byte that it received. Engines (scripted_engine.py) are made of peers too.
Rule 1: nobody sleeps to wait for a state; whoever waits polls with a deadline. Rule 2: answers are read here by
a small reader of our own, so that the product is not judged by its own parser.
"""

from __future__ import annotations

import asyncio
import re
import socket
import struct
import sys
import time
import warnings
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, cast

import uvloop

PATIENCE = 4.0  # seconds until a wait is called a failure
HUNG = 100.0  # seconds until a test tells what it hangs on; pytest ends it at 120

Script = Callable[["Peer", "Seen"], Awaitable[None]]


class Gone(Exception):
    """The other side closed while more was expected of it."""


def run(body: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a test's body on uvloop; what the loop had to complain about, and tasks left over, fail the test."""
    complaints: list[str] = []

    async def watched() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: complaints.append(repr(context)))
        loop.call_later(HUNG, _tell_tasks)
        before = asyncio.all_tasks()
        try:
            await body()
        except BaseException as problem:
            for complaint in complaints:
                problem.add_note(f"the loop says: {complaint}")
            raise
        await until(lambda: asyncio.all_tasks() <= before, "no task is left over")

    runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
    try:
        runner.run(watched())
    finally:
        # What is still open is warned of while the loop closes; raised there, as pytest would have it, the loop hangs.
        with warnings.catch_warnings(record=True) as left_open:
            warnings.simplefilter("always")
            runner.close()
    complaints += [str(warning.message) for warning in left_open]
    if complaints:
        raise AssertionError("\n".join(complaints))


def _tell_tasks() -> None:
    """Where each task of the loop stands, for whoever reads about a hanging test."""
    print(f"after {HUNG:g} s the test still runs; its tasks:", file=sys.stderr)
    for task in asyncio.all_tasks():
        print(f"{task.get_name()}:", file=sys.stderr)
        at: Any = task.get_coro()  # a task's own stack would show the outermost of its coroutines only
        while (frame := getattr(at, "cr_frame", None) or getattr(at, "ag_frame", None)) is not None:
            print(f"  {frame.f_code.co_filename}:{frame.f_lineno} {frame.f_code.co_name}", file=sys.stderr)
            at = getattr(at, "cr_await", None) or getattr(at, "ag_await", None)


async def until(state: Callable[[], object], what: str = "the state", seconds: float = PATIENCE) -> None:
    """Wait for a state by looking at it often."""
    deadline = time.monotonic() + seconds
    while not state():
        if time.monotonic() > deadline:
            raise AssertionError(f"not reached in {seconds} s: {what}")
        await asyncio.sleep(0.002)


@dataclass
class Seen:
    """A request as an engine received it."""

    head: bytes
    body: bytes
    method: str
    target: str
    fields: list[tuple[str, str]]
    connection: int  # which of the engine's connections
    engine: str = ""

    def field(self, name: str) -> str | None:
        return next((value for key, value in self.fields if key == name), None)

    @property
    def nonce(self) -> str:
        return self.field("x-nonce") or ""


@dataclass
class Answer:
    """A response as a client received it."""

    status: int
    fields: list[tuple[str, str]]
    body: bytes = b""
    whole: bool = True  # did it end as its framing says?
    raw: bytes = b""
    interim: list[tuple[int, list[tuple[str, str]]]] = field(default_factory=list)  # the 1xx before it

    def field(self, name: str) -> str | None:
        return next((value for key, value in self.fields if key == name), None)


def split_head(head: bytes) -> tuple[str, list[tuple[str, str]]]:
    """(first line, fields with names in lower case) of a head without its empty line."""
    first, *lines = head.decode("latin-1").split("\r\n")
    fields = [(name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines)]
    return first, fields


class Peer(asyncio.Protocol):
    """One end of a connection, led by a test."""

    def __init__(self, made: Callable[[Peer], None] | None = None) -> None:
        self.transport: asyncio.Transport = cast(asyncio.Transport, None)
        self.received = bytearray()  # everything, ever
        self.read = 0  # how much of it was consumed by expectations
        self.ended = False  # EOF came
        self.lost = False  # the connection is gone
        self.reset_by_other = False
        self.blocked = False  # we wrote more than the other side takes
        self.number = 0
        self._made = made
        self._changed = asyncio.Event()

    # --- asyncio ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        if self._made is not None:
            self._made(self)

    def data_received(self, data: bytes) -> None:
        self.received += data
        self._changed.set()

    def eof_received(self) -> bool:
        self.ended = True
        self._changed.set()
        return True  # stay half open: the script decides

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        self.reset_by_other = isinstance(exc, ConnectionResetError)
        self._changed.set()

    def pause_writing(self) -> None:
        self.blocked = True

    def resume_writing(self) -> None:
        self.blocked = False
        self._changed.set()

    # --- steps ---

    @property
    def over(self) -> bool:
        return self.ended or self.lost

    @property
    def unread(self) -> bytes:
        return bytes(self.received[self.read :])

    async def _wait(self, deadline: float, what: str) -> None:
        self._changed.clear()
        try:
            async with asyncio.timeout(max(deadline - time.monotonic(), 0.0)):
                await self._changed.wait()
        except TimeoutError:
            raise AssertionError(f"{what} did not come; unread: {self.unread[-500:]!r}") from None

    async def expect(self, pattern: bytes | re.Pattern[bytes], seconds: float = PATIENCE) -> bytes:
        """Consume up to and with the first match; `Gone` when the other side ends before it."""
        deadline = time.monotonic() + seconds
        regex = re.compile(re.escape(pattern)) if isinstance(pattern, bytes) else pattern
        while (match := regex.search(self.received, self.read)) is None:
            if self.over:
                raise Gone(f"waited for {regex.pattern!r}, got {self.unread[-500:]!r}")
            await self._wait(deadline, repr(regex.pattern))
        taken = bytes(self.received[self.read : match.end()])
        self.read = match.end()
        return taken

    async def take(self, size: int, seconds: float = PATIENCE) -> bytes:
        """Consume exactly so many bytes."""
        deadline = time.monotonic() + seconds
        while len(self.received) - self.read < size:
            if self.over:
                raise Gone(f"waited for {size} bytes, got {len(self.received) - self.read}")
            await self._wait(deadline, f"{size} bytes")
        taken = bytes(self.received[self.read : self.read + size])
        self.read += size
        return taken

    async def end(self, seconds: float = PATIENCE) -> bytes:
        """Wait until the other side has ended or broken the connection; what it sent before."""
        deadline = time.monotonic() + seconds
        while not self.over:
            await self._wait(deadline, "the end of the connection")
        rest = self.unread
        self.read = len(self.received)
        return rest

    async def send(self, data: bytes) -> None:
        """Write, and wait while the other side takes nothing."""
        if not self.lost:
            self.transport.write(data)
        while self.blocked and not self.lost:
            await self._wait(time.monotonic() + 60.0, "room to write")

    async def drip(self, data: bytes, size: int = 1) -> None:
        """Write in pieces that arrive one by one (each gets its own turns of the loop)."""
        for i in range(0, len(data), size):
            if self.lost:
                return
            self.transport.write(data[i : i + size])
            await asyncio.sleep(0)
            await asyncio.sleep(0)

    def half_close(self) -> None:
        self.transport.write_eof()

    def close(self) -> None:
        self.transport.close()

    def reset(self) -> None:
        """Close with a reset instead of a FIN."""
        sock = self.transport.get_extra_info("socket")
        if sock is not None and not self.lost:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    def stop_reading(self) -> None:
        self.transport.pause_reading()

    def go_on_reading(self) -> None:
        self.transport.resume_reading()

    # --- messages ---

    async def request_head(self) -> Seen:
        """The next request's head; `Gone` at the end of the connection."""
        head = (await self.expect(b"\r\n\r\n", 60.0))[:-4]
        first, fields = split_head(head)
        method, target, _ = first.split(" ")
        return Seen(head, b"", method, target, fields, self.number)

    async def request_body(self, seen: Seen) -> None:
        """And its body."""
        if seen.field("transfer-encoding") is not None:
            seen.body = await self._chunks()
        else:
            seen.body = await self.take(int(seen.field("content-length") or 0), 60.0)

    async def answer(self, method: str = "POST", seconds: float = PATIENCE) -> Answer:
        """The next final response in full, with the 1xx before it; cut ones come back with `whole` false."""
        begin = self.read
        interim: list[tuple[int, list[tuple[str, str]]]] = []
        while True:
            head = (await self.expect(b"\r\n\r\n", seconds))[:-4]
            first, fields = split_head(head)
            version, status, _ = (first + " ").split(" ", 2)
            assert version == "HTTP/1.1", first
            if not 100 <= int(status) < 200:
                break
            interim.append((int(status), fields))
        got = Answer(int(status), fields, interim=interim)
        length, coding = got.field("content-length"), got.field("transfer-encoding")
        assert length is None or coding is None, fields
        at = self.read
        try:
            if method == "HEAD" or got.status in (204, 304):
                pass
            elif coding is not None:
                assert coding == "chunked"
                got.body = await self._chunks(seconds)
            elif length is not None:
                got.body = await self.take(int(length), seconds)
            else:
                got.body = await self.end(seconds)
                got.whole = not self.reset_by_other
        except Gone:
            got.whole = False
            got.body = bytes(self.received[at:])
            self.read = len(self.received)
        got.raw = bytes(self.received[begin : self.read])
        return got

    async def _chunks(self, seconds: float = PATIENCE) -> bytes:
        parts = []
        while True:
            size = int((await self.expect(b"\r\n", seconds)).partition(b";")[0], 16)
            if not size:
                break
            parts.append(await self.take(size, seconds))
            assert await self.take(2, seconds) == b"\r\n"
        while await self.expect(b"\r\n", seconds) != b"\r\n":
            pass  # trailers
        return b"".join(parts)


async def dial(address: tuple[str, int], receive_buffer: int | None = None) -> Peer:
    """Connect as a client."""
    loop = asyncio.get_running_loop()
    sock = socket.socket()
    sock.setblocking(False)
    if receive_buffer is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    try:
        await loop.sock_connect(sock, address)
    except BaseException:
        sock.close()
        raise
    _, peer = await loop.create_connection(Peer, sock=sock)
    return peer
