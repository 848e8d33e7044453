"""One connection to a backend: writes a request, reads the answer, follows its framing.

This file holds the hot path: for each piece of a streamed answer `data_received` counts events, follows the
chunk framing and writes the same bytes object to the client. No awaits, no tasks, no copies there.
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, cast

from fairlead.proxy.tries import STREAM_INCOMPLETE
from fairlead.wire.chunked import ChunkScanner
from fairlead.wire.endings import JUDGED, ends_well
from fairlead.wire.fields import BadHttp
from fairlead.wire.http1 import ResponseHead, parse_response
from fairlead.wire.openai import USAGE_TAIL

if TYPE_CHECKING:
    from fairlead.proxy.exchange import Exchange
    from fairlead.proxy.hedge import Hedge
    from fairlead.proxy.pool import Pool

MAX_HEAD = 65_536  # bytes of an answer's head
MAX_INTERIM = 16  # 1xx answers before the final one
# Comments of an event stream, empty lines and the size lines of chunks; the last comment may be cut off.
_COMMENTS = re.compile(rb"(?:[0-9A-Fa-f]*\r?\n|:[^\n]*\n)*(:[^\n]*)?")
MIN_TAIL = 80  # pieces shorter than this ([DONE], the last chunk) cannot hold the usage

IDLE, HEAD, LENGTH, CHUNKED, UNTIL_CLOSE = range(5)
ENDS_EARLY = "the backend's stream ended before its answer did"
NONE, WHOLE, CUT = range(3)  # comments of an event stream


class Upstream(asyncio.Protocol):
    """A connection in the pool or at work for one exchange."""

    __slots__ = (
        "_buffer", "_comment", "_counted", "_ended", "_interim", "_last", "_left", "_scanner", "closed", "connecting",
        "exchange", "idle_since", "paused", "pool", "recode", "requests", "sse", "state", "tail", "transport",
    )  # fmt: skip

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.transport: asyncio.Transport = None  # type: ignore[assignment]
        self.connecting: asyncio.Task[None] | None = None
        self.exchange: Exchange | Hedge | None = None
        self.requests = 0  # requests sent on this connection
        self.idle_since = 0.0
        self.closed = False
        self.paused = False
        self.state = IDLE
        self.sse = False
        self.recode = 0  # 0: framing passes as it is; 1: client wants plain bytes; 2: client wants chunks
        self.tail = b""  # the last piece that may hold the usage
        self._buffer = b""
        self._comment = NONE  # was the last piece without events a comment?
        self._counted = False  # is it among the pool's open ones?
        self._ended = False  # did the other side end it in due form? For TLS that is its close_notify
        self._interim = 0  # 1xx answers seen before the final one
        self._last = b""  # the last piece that is too short for that: [DONE] often comes alone
        self._left = 0  # body bytes still to come, for LENGTH
        self._scanner: ChunkScanner | None = None

    # --- asyncio ---------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        if self.closed:  # given up while it was being made
            self.transport.abort()
            return
        self._counted = True
        self.pool.open += 1
        # To hear at once when the backend does not take all. (0 would be met by TLS that has nothing waiting.)
        self.transport.set_write_buffer_limits(high=1, low=0)

    def data_received(self, data: bytes) -> None:
        exchange = self.exchange
        if exchange is None:
            self.close()  # nobody asked: whatever it says, it is not an answer to the next request
            return
        state = self.state
        if state == CHUNKED:
            scanner = self._scanner
            assert scanner is not None
            if self.sse:
                events = data.count(b"\ndata:")
                if events:
                    exchange.lease.produced += events
                elif (self._comment or scanner.between) and self._only_comments(data):
                    self._relay_comments(data, exchange)
                    return
            if scanner.whole(data):
                if len(data) > MIN_TAIL:
                    self.tail = data
                else:
                    self._last = data
                exchange.relay(data)
                return
            if self.sse:
                exchange.lease.produced += (self.tail[-5:] + data[:5]).count(b"\ndata:")  # cut between two reads
                self.tail = self.tail[-USAGE_TAIL:] + data
            try:
                scanner.feed(data)
            except BadHttp as problem:
                exchange.upstream_broken(problem.message)
                return
            if scanner.sink:
                payload = b"".join(scanner.sink)
                scanner.sink.clear()
                if not self.sse:
                    self.tail = self.tail[-USAGE_TAIL:] + payload
                if self.recode:
                    exchange.relay(payload)
            if scanner.done and self._ends_early(exchange):
                self._end_early(scanner.kept(data), exchange)
                return
            if not self.recode:
                exchange.relay(scanner.kept(data))
            if scanner.done:
                if scanner.end != len(data):
                    self.requests = self.pool.max_requests  # bytes behind the end: do not use it again
                self._answered()
        elif state == LENGTH:
            if len(data) > self._left:
                data = data[: self._left]
                self.requests = self.pool.max_requests
            self._left -= len(data)
            self.tail = self.tail[-USAGE_TAIL:] + data if self.tail else data
            exchange.relay(data)
            if not self._left:
                self._answered()
        elif state == HEAD:
            self._head(data, exchange)
        elif state == UNTIL_CLOSE:
            self.tail = self.tail[-USAGE_TAIL:] + data
            comments = False
            if self.sse:
                events = data.count(b"\ndata:")
                exchange.lease.produced += events
                comments = not events and self._only_comments(data)
            if self.recode == 2:
                data = b"%x\r\n%b\r\n" % (len(data), data)
            if comments:
                exchange.relay_comments(data)
            else:
                exchange.relay(data)
        else:
            self.close()

    def eof_received(self) -> bool:
        self._ended = True
        return False  # close our side too

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        if self._counted:
            self._counted = False
            self.pool.open -= 1
        exchange = self.exchange
        if exchange is None:
            return
        if self.state == UNTIL_CLOSE and exc is None and self._cut_off(exchange):
            exchange.upstream_broken("the connection to the backend ended without TLS saying so")
        elif self.state == UNTIL_CLOSE and exc is None and not self._ends_early(exchange):
            if self.recode == 2:
                exchange.relay(b"0\r\n\r\n")
            self._answered()
        elif self.state == UNTIL_CLOSE and exc is None:
            exchange.upstream_broken(ENDS_EARLY, STREAM_INCOMPLETE)
        elif self.state == HEAD:
            exchange.upstream_lost(answered=bool(self._buffer))
        else:
            exchange.upstream_broken("the connection to the backend broke")

    def pause_writing(self) -> None:
        """The engine reads its request slowly; the body is in memory already, so there is nobody to stop."""
        if self.exchange is not None:
            self.exchange.upstream_blocked(self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        if self.exchange is not None:
            self.exchange.upstream_took_all()

    # --- for the exchange ------------------------------------------------------------------------------------

    def send(self, exchange: Exchange | Hedge, head: bytes, body: bytes) -> None:
        """Write a request and wait for its answer."""
        self.exchange = exchange
        self.requests += 1
        self.state = HEAD
        self.sse = False
        self.tail = self._buffer = self._last = b""
        self._interim = 0
        if len(body) < 16_384:
            self.transport.write(head + body)
        else:
            self.transport.writelines((head, body))

    def begin(self, response: ResponseHead, *, bodyless: bool, plain: bool) -> None:
        """The exchange has seen the head: how will the body end, and what will the client get?"""
        self.recode = 0
        self.sse = response.event_stream
        self._comment = NONE
        if bodyless:
            self.state, self._left = LENGTH, 0
        elif response.chunked:
            self.state = CHUNKED
            self.recode = 1 if plain else 0
            # The payload is wanted apart from its framing for clients without chunks and to find `usage` in JSON.
            self._scanner = ChunkScanner([] if plain or not self.sse else None)
        elif response.content_length is not None:
            self.state, self._left = LENGTH, response.content_length
        else:
            self.state = UNTIL_CLOSE
            self.recode = 1 if plain else 2

    @property
    def between_events(self) -> bool:
        """May an event of our own be put in at this place of the stream?"""
        if self.state == CHUNKED:
            return self.recode == 1 or (self._scanner is not None and self._scanner.between)
        return self.state == UNTIL_CLOSE

    def pause(self) -> None:
        if not self.paused and not self.closed and self._counted:
            self.paused = True
            self.transport.pause_reading()
            if self.exchange is not None and self.exchange.lease is not None:
                self.exchange.lease.paused = True  # that nothing comes is not the engine's fault

    def resume(self) -> None:
        if self.paused and not self.closed:
            self.paused = False
            self.transport.resume_reading()
            if self.exchange is not None and self.exchange.lease is not None:
                self.exchange.lease.paused = False

    def close(self) -> None:
        """Close at once: the engine is to stop working for us."""
        self.exchange = None
        self.closed = True
        if self._counted:
            self.transport.abort()
        elif self.connecting is not None:
            self.connecting.cancel()

    # --- inside ----------------------------------------------------------------------------------------------

    def _head(self, data: bytes, exchange: Exchange | Hedge) -> None:
        buffer = self._buffer + data if self._buffer else data
        self._buffer = b""
        while True:
            end = buffer.find(b"\r\n\r\n")
            if end > MAX_HEAD or (end < 0 and len(buffer) > MAX_HEAD):
                exchange.upstream_bad("the head of the backend's answer is too long")
                return
            if end < 0:
                self._buffer = buffer
                return
            try:
                response = parse_response(buffer[:end])
            except BadHttp as problem:
                exchange.upstream_bad(problem.message)
                return
            rest = buffer[end + 4 :]
            if response.status >= 200:
                break
            self._interim += 1
            if response.status == 101 or self._interim > MAX_INTERIM:
                what = "switched protocols unasked" if response.status == 101 else "sent too many interim answers"
                exchange.upstream_bad(f"the backend {what}")
                return
            exchange.informational(response)
            buffer = rest
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

    def _only_comments(self, data: bytes) -> bool:
        """Is there nothing but comments in this piece of an event stream? Asked only of pieces without an event."""
        before = self._comment
        found = _COMMENTS.fullmatch(b":" + data if before == CUT else data)
        if found is None or not (before or b":" in data):
            self._comment = NONE
            return False
        self._comment = CUT if found[1] is not None else WHOLE
        return True

    def _relay_comments(self, data: bytes, exchange: Exchange | Hedge) -> None:
        """The same as in `data_received`, but for what counts as progress."""
        scanner = self._scanner
        assert scanner is not None
        try:
            scanner.feed(data)
        except BadHttp as problem:
            exchange.upstream_broken(problem.message)
            return
        if scanner.done and self._ends_early(exchange):
            self._end_early(scanner.kept(data), exchange)
            return
        if self.recode:
            assert scanner.sink is not None
            exchange.relay_comments(b"".join(scanner.sink))
            scanner.sink.clear()
        else:
            exchange.relay_comments(scanner.kept(data))
        if scanner.done:
            if scanner.end != len(data):
                self.requests = self.pool.max_requests
            self._answered()

    def _ends_early(self, exchange: Exchange | Hedge) -> bool:
        """The framing says that the stream is over; did the engine not say so?"""
        return self.exchange is not None and self.sse and not ends_well(exchange.path, self._last + self.tail)

    def _cut_off(self, exchange: Exchange | Hedge) -> bool:
        """May somebody else have ended it? Then only a stream's last word can tell that it is whole (RFC 9112, 9.8)."""
        return not (self._ended or (self.sse and exchange.path in JUDGED))

    def _end_early(self, rest: bytes, exchange: Exchange | Hedge) -> None:
        """Relay the stream's last bytes, but not its proper end, so that there is room for an error event."""
        if not self.recode:
            events = rest.removesuffix(b"0\r\n\r\n")
            if events != rest:
                self._scanner = ChunkScanner()  # the body may go on here
            else:  # the end was half relayed: nothing can be put in any more, but it can be left unfinished
                events = rest.removesuffix(b"\r\n")
            if events:
                exchange.relay(events)
        exchange.upstream_broken(ENDS_EARLY, STREAM_INCOMPLETE)

    def _answered(self) -> None:
        """The answer has ended as its framing says."""
        exchange, self.exchange = self.exchange, None
        self.state = IDLE
        self._scanner = None
        if exchange is not None:
            exchange.answered(self)
