"""One connection to a backend: writes a request, reads the answer, follows its framing.

This file holds the hot path: for each piece of a streamed answer `data_received` counts events, follows the
chunk framing and writes the same bytes object to the client. No awaits, no tasks, no copies there.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

from fairlead.wire.chunked import ChunkScanner
from fairlead.wire.fields import BadHttp
from fairlead.wire.http1 import ResponseHead, parse_response

if TYPE_CHECKING:
    from fairlead.proxy.exchange import Exchange
    from fairlead.proxy.pool import Pool

MAX_HEAD = 65_536  # bytes of an answer's head
MIN_TAIL = 80  # pieces shorter than this ([DONE], the last chunk) cannot hold the usage

IDLE, HEAD, LENGTH, CHUNKED, UNTIL_CLOSE = range(5)


class Upstream(asyncio.Protocol):
    """A connection in the pool or at work for one exchange."""

    __slots__ = (
        "_buffer", "_left", "_scanner", "_write", "closed", "exchange", "idle_since", "paused", "pool", "recode",
        "requests", "sse", "state", "tail", "transport",
    )  # fmt: skip

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.transport: asyncio.Transport = None  # type: ignore[assignment]
        self.exchange: Exchange | None = None
        self.requests = 0  # requests sent on this connection
        self.idle_since = 0.0
        self.closed = False
        self.paused = False
        self.state = IDLE
        self.sse = False
        self.recode = 0  # 0: framing passes as it is; 1: client wants plain bytes; 2: client wants chunks
        self.tail = b""  # the last piece that may hold the usage
        self._buffer = b""
        self._left = 0  # body bytes still to come, for LENGTH
        self._scanner: ChunkScanner | None = None

    # --- asyncio ---------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.pool.open += 1
        self.pool.opened += 1

    def data_received(self, data: bytes) -> None:
        exchange = self.exchange
        if exchange is None:
            self.close()  # nobody asked: whatever it says, it is not an answer to the next request
            return
        state = self.state
        if state == CHUNKED:
            if self.sse:
                exchange.lease.produced += data.count(b"\ndata:")
            if len(data) > MIN_TAIL:
                self.tail = data
            scanner = self._scanner
            assert scanner is not None
            if scanner.whole(data):
                exchange.relay(data)
                return
            try:
                scanner.feed(data)
            except BadHttp as problem:
                exchange.upstream_broken(problem.message)
                return
            if self.recode:
                self._recoded()
            elif scanner.done and scanner.end != len(data):
                exchange.relay(data[: scanner.end])
                self.requests = self.pool.max_requests  # bytes behind the end: do not use it again
            else:
                exchange.relay(data)
            if scanner.done:
                self._answered()
        elif state == LENGTH:
            if len(data) > self._left:
                data = data[: self._left]
                self.requests = self.pool.max_requests
            self._left -= len(data)
            if len(data) > MIN_TAIL:
                self.tail = data if len(data) >= 1024 else self.tail[-1024:] + data
            exchange.relay(data)
            if not self._left:
                self._answered()
        elif state == HEAD:
            self._head(data, exchange)
        elif state == UNTIL_CLOSE:
            self.tail = data
            if self.sse:
                exchange.lease.produced += data.count(b"\ndata:")
            if self.recode == 2:
                data = b"%x\r\n%b\r\n" % (len(data), data)
            exchange.relay(data)
        else:
            self.close()

    def eof_received(self) -> bool:
        return False  # close our side too

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        self.pool.open -= 1
        exchange = self.exchange
        if exchange is None:
            return
        if self.state == UNTIL_CLOSE and exc is None:
            if self.recode == 2:
                exchange.relay(b"0\r\n\r\n")
            self._answered()
        elif self.state == HEAD:
            exchange.upstream_lost(answered=bool(self._buffer))
        else:
            exchange.upstream_broken("the connection to the backend broke")

    def pause_writing(self) -> None:
        """The engine reads its request slowly; the body is in memory already, so there is nobody to stop."""

    def resume_writing(self) -> None:
        """See pause_writing."""

    # --- for the exchange ------------------------------------------------------------------------------------

    def send(self, exchange: Exchange, head: bytes, body: bytes) -> None:
        """Write a request and wait for its answer."""
        self.exchange = exchange
        self.requests += 1
        self.state = HEAD
        self.sse = False
        self.tail = self._buffer = b""
        if len(body) < 16_384:
            self.transport.write(head + body)
        else:
            self.transport.writelines((head, body))

    def begin(self, response: ResponseHead, *, bodyless: bool, to_http10: bool) -> None:
        """The exchange has seen the head: how will the body end, and what will the client get?"""
        self.recode = 0
        self.sse = response.event_stream
        if bodyless:
            self.state, self._left = LENGTH, 0
        elif response.chunked:
            self.state = CHUNKED
            self.recode = 1 if to_http10 else 0
            self._scanner = ChunkScanner([] if to_http10 else None)
        elif response.content_length is not None:
            self.state, self._left = LENGTH, response.content_length
        else:
            self.state = UNTIL_CLOSE
            self.recode = 1 if to_http10 else 2

    @property
    def between_events(self) -> bool:
        """May an event of our own be put in at this place of the stream?"""
        if self.state == CHUNKED:
            return self._scanner is not None and self._scanner.between
        return self.state == UNTIL_CLOSE

    def pause(self) -> None:
        if not self.paused and not self.closed:
            self.paused = True
            self.transport.pause_reading()

    def resume(self) -> None:
        if self.paused and not self.closed:
            self.paused = False
            self.transport.resume_reading()

    def close(self) -> None:
        """Close at once: the engine is to stop working for us."""
        self.exchange = None
        self.closed = True
        if self.transport is not None:
            self.transport.abort()

    # --- inside ----------------------------------------------------------------------------------------------

    def _head(self, data: bytes, exchange: Exchange) -> None:
        buffer = self._buffer + data if self._buffer else data
        end = buffer.find(b"\r\n\r\n")
        if end < 0:
            self._buffer = buffer
            if len(buffer) > MAX_HEAD:
                exchange.upstream_bad("the head of the backend's answer is too long")
            return
        if end > MAX_HEAD:
            exchange.upstream_bad("the head of the backend's answer is too long")
            return
        try:
            response = parse_response(buffer[:end])
        except BadHttp as problem:
            exchange.upstream_bad(problem.message)
            return
        self._buffer = b""
        rest = buffer[end + 4 :]
        if response.status < 200:
            self._buffer = b""
            if response.status == 101:
                exchange.upstream_bad("the backend switched protocols unasked")
                return
            exchange.informational(response)
            if rest:
                self._head(rest, exchange)
            return
        if not exchange.head_received(response):
            return
        if self.state == LENGTH and not self._left:
            if rest:
                self.requests = self.pool.max_requests
            exchange.relay(b"")
            self._answered()
        elif rest:
            self.data_received(rest)
        # Else the head is held back until the body begins: a connection that breaks now gave no answer.

    def _recoded(self) -> None:
        """Pass on the payload of what was just scanned, without its framing."""
        scanner = self._scanner
        if scanner is not None and scanner.sink:
            data = b"".join(scanner.sink)
            scanner.sink.clear()
            if self.exchange is not None:
                self.exchange.relay(data)

    def _answered(self) -> None:
        """The answer has ended as its framing says."""
        exchange, self.exchange = self.exchange, None
        self.state = IDLE
        self._scanner = None
        if exchange is not None:
            exchange.answered(self)
