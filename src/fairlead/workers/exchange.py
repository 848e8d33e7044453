"""What do workers tell each other, and how? The facts of core/cluster/remote.py, in batches, over pairs of sockets.

Every worker has a line to every other one, made by the supervisor and used without it: one hop less than through the
supervisor, nobody in the middle that would have to carry all of it, and a worker's death shows at once, as its lines
close with it. With N workers there are N - 1 lines in each: for the few tens that a machine has cores for, that is
little.

Rule 1: a batch goes out after 5 ms or 64 facts, encoded once for all.
Rule 2: nobody waits for a slow sibling: one that does not take what is sent loses facts, and is told anew what is open
once it reads again.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from typing import Any, Final, cast

import msgspec

from fairlead.core.cluster.remote import Fact, SharedBalancer

log = logging.getLogger("fairlead")

BATCH_SECONDS: Final = 0.005
BATCH_FACTS: Final = 64
MAX_WAITING: Final = 4 * 1024 * 1024  # bytes that a sibling may be behind
_LENGTH: Final = struct.Struct(">I")


class Exchange:
    """This worker's side."""

    def __init__(self, balancer: SharedBalancer, loop: asyncio.AbstractEventLoop) -> None:
        self.balancer = balancer
        self.lines: dict[int, Line] = {}  # by sibling
        self._loop = loop
        self._batch: list[Fact] = []
        self._timer: asyncio.TimerHandle | None = None
        self._encode = msgspec.msgpack.Encoder().encode

    def tell(self, fact: Fact) -> None:
        """Something happened to an own lease."""
        if not self.lines:
            return
        self._batch.append(fact)
        if len(self._batch) >= BATCH_FACTS:
            self.flush()
        elif self._timer is None:
            self._timer = self._loop.call_later(BATCH_SECONDS, self.flush)

    def flush(self) -> None:
        """Send what has come together."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._batch:
            batch, self._batch = self._batch, []
            data = self.frame(batch)
            for line in self.lines.values():
                line.send(data)

    def frame(self, facts: list[Fact]) -> bytes:
        data = self._encode(facts)
        return _LENGTH.pack(len(data)) + data

    async def join(self, sibling: int, sock: socket.socket) -> None:
        """A sibling is there, at the other end of `sock`. One that had its number before is gone."""
        old = self.lines.pop(sibling, None)
        if old is not None:
            old.end()
        sock.setblocking(False)
        await self._loop.create_unix_connection(lambda: Line(self, sibling), sock=sock)

    def close(self) -> None:
        for line in list(self.lines.values()):
            line.end()


class Line(asyncio.Protocol):
    """A connection to one sibling."""

    def __init__(self, exchange: Exchange, sibling: int) -> None:
        self._exchange, self._sibling = exchange, sibling
        self._transport: asyncio.Transport | None = None
        self._bytes = bytearray()
        self._decode = msgspec.msgpack.Decoder(list[Any]).decode
        self.behind = False  # has it lost facts?
        self.lost = 0  # batches

    def send(self, data: bytes) -> None:
        """Or not, when it does not take what it was sent before."""
        transport = self._transport
        if transport is None:
            return
        waiting = transport.get_write_buffer_size()
        if self.behind:
            if waiting:
                self.lost += 1
                return
            self.behind = False
            data = self._exchange.frame(self._exchange.balancer.open_leases())
        elif waiting + len(data) > MAX_WAITING:
            self.behind = True
            self.lost += 1
            log.warning("worker %d does not read what it is told: it misses facts until it does", self._sibling + 1)
            return
        transport.write(data)

    def end(self) -> None:
        """It is not to be heard any more."""
        if self._transport is not None:
            self._transport.abort()
            self._transport = None
        self._exchange.balancer.gone(self._sibling)

    # --- asyncio.Protocol ------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are not of that class
        self._exchange.flush()  # to the others: this line begins with all that is open, which must not come twice
        self._exchange.lines[self._sibling] = self
        self.send(self._exchange.frame(self._exchange.balancer.open_leases()))

    def data_received(self, data: bytes) -> None:
        if self._transport is None:
            return
        self._bytes += data
        at, end = 0, len(self._bytes)
        while end - at >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._bytes, at)
            if end - at - _LENGTH.size < length:
                break
            at += _LENGTH.size
            self._exchange.balancer.hear(self._sibling, self._decode(memoryview(self._bytes)[at : at + length]))
            at += length
        del self._bytes[:at]

    def connection_lost(self, exc: Exception | None) -> None:
        if self._exchange.lines.get(self._sibling) is self:
            del self._exchange.lines[self._sibling]
            self.end()
