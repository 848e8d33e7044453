"""A faulty wire: a TCP proxy on loopback that passes bytes on, and spoils what a test tells it to.

Put it between a client and the balancer, or between the balancer and an engine. Each direction has its own `Faults`:

- `delay`: seconds before each piece goes on                - `rate`: bytes per second
- `slice`: pieces of so many bytes, each on its own         - `corrupt`: offset of a byte whose bits are turned over
- `stall_after`: pass so many bytes, then neither read nor write until `release`
- `drop_after`: pass so many bytes, then swallow the rest without a word
- `half_close_after`: pass so many bytes, then FIN to the receiver; the other direction goes on
- `reset_after`: pass so many bytes, then RST to both sides

Offsets count from the beginning of the connection, in that direction. Without faults it is a plain wire: EOF is passed
on as EOF, a reset as a reset. `Link`s (one per connection) can be stalled, released and reset by hand as well.
Rule 1: it never looks at what the bytes mean. Rule 2: `sleep` is a parameter, so that a test of delays needs no clock.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass

PIECE = 65_536  # bytes read at once

Sleep = Callable[[float], Awaitable[object]]


@dataclass(frozen=True)
class Faults:
    """What is wrong with one direction."""

    delay: float = 0.0
    rate: int | None = None
    slice: int | None = None
    corrupt: int | None = None
    stall_after: int | None = None
    drop_after: int | None = None
    half_close_after: int | None = None
    reset_after: int | None = None

    def cut(self, data: bytes, passed: int) -> Iterator[bytes]:
        """The pieces in which `data` goes on, when so many bytes went before it: none reaches across an event."""
        events = [self.stall_after, self.drop_after, self.half_close_after, self.reset_after]
        while data:
            size = min(len(data), self.slice or len(data))
            size = min([size, *(event - passed for event in events if event is not None and event > passed)])
            yield data[:size]
            data = data[size:]
            passed += size

    def spoiled(self, piece: bytes, passed: int) -> bytes:
        """The piece with its bad byte, if that lies in it."""
        at = -1 if self.corrupt is None else self.corrupt - passed
        return piece if not 0 <= at < len(piece) else piece[:at] + bytes((piece[at] ^ 0xFF,)) + piece[at + 1 :]


class Link:
    """One connection through the wire: two sockets and a task for each direction."""

    def __init__(self, client: socket.socket, target: socket.socket, up: Faults, down: Faults, sleep: Sleep) -> None:
        self.up, self.down = Way(self, client, target, up), Way(self, target, client, down)
        self.broken = False
        self.sleep = sleep
        self._sockets = (client, target)
        loop = asyncio.get_running_loop()
        self.tasks = [loop.create_task(way.carry()) for way in (self.up, self.down)]
        self._ended = loop.create_task(self._end())

    async def _end(self) -> None:
        """Both directions have ended: close; a reset on either side breaks both."""
        done, left = await asyncio.wait(self.tasks, return_when=asyncio.FIRST_EXCEPTION)
        if left or any(task.cancelled() or task.exception() for task in done):
            self.reset()
            await asyncio.gather(*self.tasks, return_exceptions=True)
        for sock in self._sockets:
            if self.broken:  # without lingering a close is a reset
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.close()

    def reset(self) -> None:
        """Break it off, to both sides."""
        self.broken = True
        for task in self.tasks:
            task.cancel()

    async def ended(self) -> None:
        """Wait until both sides are closed."""
        await self._ended


class Way:
    """One direction of a link."""

    def __init__(self, link: Link, source: socket.socket, sink: socket.socket, faults: Faults) -> None:
        self.faults = faults
        self.passed = 0  # bytes that went on
        self.swallowed = 0  # bytes that did not
        self.stalled = asyncio.Event()  # somebody may wait for this
        self._go = asyncio.Event()
        self._go.set()
        self._link, self._source, self._sink = link, source, sink

    def stall(self) -> None:
        """Pass nothing on from here."""
        self._go.clear()

    def release(self) -> None:
        """Go on where it stalled."""
        self._go.set()

    async def carry(self) -> None:
        """Pass on until the source ends."""
        loop = asyncio.get_running_loop()
        with contextlib.suppress(_HalfClosed):
            while data := await loop.sock_recv(self._source, PIECE):
                for piece in self.faults.cut(data, self.passed):
                    await self._pass(piece)
        with contextlib.suppress(OSError):  # the receiver may be gone
            self._sink.shutdown(socket.SHUT_WR)
        while data := await loop.sock_recv(self._source, PIECE):
            self.swallowed += len(data)

    async def _pass(self, piece: bytes) -> None:
        loop, faults = asyncio.get_running_loop(), self.faults
        if faults.drop_after is not None and self.passed >= faults.drop_after:
            self.swallowed += len(piece)
            return
        self._event()  # one that was due before the first byte
        await self._flow()
        if faults.delay or faults.rate:
            await self._link.sleep(faults.delay + (len(piece) / faults.rate if faults.rate else 0.0))
        await loop.sock_sendall(self._sink, faults.spoiled(piece, self.passed))
        self.passed += len(piece)
        if faults.stall_after == self.passed:
            self.stall()
        self._event()
        await self._flow()
        if faults.slice:  # let the receiver have this piece before the next is written
            await asyncio.sleep(0)
            await asyncio.sleep(0)

    def _event(self) -> None:
        if self.faults.reset_after == self.passed:
            raise ConnectionResetError("the wire was told to break here")
        if self.faults.half_close_after == self.passed:
            raise _HalfClosed

    async def _flow(self) -> None:
        if not self._go.is_set():
            self.stalled.set()
            await self._go.wait()


class _HalfClosed(Exception):
    """This direction ends here."""


class FaultProxy:
    """Listens on a port of its own and links every connection to `target`.

    `up` is the way to the target, `down` the way back; change them at any time for the connections that come next.
    """

    def __init__(
        self,
        target: tuple[str, int],
        *,
        up: Faults | None = None,
        down: Faults | None = None,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self.target = target
        self.up, self.down = up or Faults(), down or Faults()
        self.address = ("127.0.0.1", 0)
        self.links: list[Link] = []
        self._sleep = sleep
        self._listener = socket.socket()
        self._task: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        return f"http://{self.address[0]}:{self.address[1]}"

    async def open(self) -> None:
        """Listen on a free port."""
        self._listener.setblocking(False)
        self._listener.bind(self.address)
        self._listener.listen(128)
        self.address = self._listener.getsockname()[:2]
        self._task = asyncio.get_running_loop().create_task(self._accept())

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            client, _ = await loop.sock_accept(self._listener)
            target = socket.socket()
            for sock in (client, target):
                sock.setblocking(False)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # a piece leaves as it was written
            try:
                await loop.sock_connect(target, self.target)
            except OSError:  # refused there, so refused here
                client.close()
                target.close()
                continue
            self.links.append(Link(client, target, self.up, self.down, self._sleep))

    async def close(self) -> None:
        """Break what is left and wait for its end."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._listener.close()
        for link in self.links:
            link.reset()
            await link.ended()

    async def __aenter__(self) -> FaultProxy:
        await self.open()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()
