"""One client connection: reads requests, checks and collects them, answers them in order.

One exchange at a time: requests that are pipelined behind it wait in a small buffer. The connection's single
deadline follows what it waits for (a head, a body, a backend, the client's own reading), see timers.py.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, cast

from fairlead.proxy.answers import Http1Answers
from fairlead.proxy.http2 import Http2Connection
from fairlead.proxy.memory import Body, too_large
from fairlead.proxy.sockets import has_come, has_left, is_broken, reset_transport
from fairlead.proxy.timers import NEVER, TICK
from fairlead.wire.errors import error_body, render
from fairlead.wire.fields import BadHttp
from fairlead.wire.http1 import EMPTY_LINES, RequestHead, check_partial, parse_request

if TYPE_CHECKING:
    from fairlead.proxy.exchange import Exchange
    from fairlead.proxy.service import Service

log = logging.getLogger("fairlead")

MAX_PIPELINED = 65_536  # bytes kept of requests behind the running one; then reading stops
MAX_UNSENT = 4_096  # bytes that may wait for the client: with one read of the loop (256,000) less than 256 KiB
MAX_REFUSING = 256  # connections beyond the limit that are told so; further ones are just closed
PREFACE_LINE = b"PRI * HTTP/2.0\r\n\r\n"  # what an HTTP/2 client begins with where it expects no HTTP/1
LINGER_SECONDS = 2.0  # after an early refusal: read on for so long,
LINGER_BYTES = 65_536  # or so much, so that our answer is not lost in a reset

READ_HEAD, READ_BODY, BUSY, LINGER, CLOSED = range(5)


class Client(Http1Answers, asyncio.Protocol):
    """A downstream connection. All its state is of the request at hand, but for what waits in `_buffer`."""

    protocol = ""  # told by each request's head

    __slots__ = (
        "_body", "_buffer", "_checked", "_ended", "_head", "_lingered", "_paused", "_unsent", "arrived", "deadline",
        "exchange", "half_close", "http2", "keep_alive", "peer", "plain", "secure", "service", "stalled", "state",
        "transport", "wake", "write",
    )  # fmt: skip

    def __init__(self, service: Service, peer: str = "", *, http2: bool = False, half_close: bool = False) -> None:
        """`peer` where the listener knows better than the socket; `http2`: may it begin with HTTP/2's preface?

        `half_close`: may it end its side and still wait for answers?
        """
        self.service = service
        self.transport: asyncio.Transport = None  # type: ignore[assignment]
        self.peer = peer
        self.http2 = http2
        self.half_close = half_close
        self.secure = False  # does it speak TLS?
        self.state = READ_HEAD
        self.exchange: Exchange | None = None
        self.keep_alive = True
        self.plain = False  # an HTTP/1.0 client, that knows no chunks
        self.stalled = False  # the client does not read what we write
        self.deadline = NEVER
        self.wake = NEVER
        self.arrived = 0.0  # when the request's first byte came
        self._buffer = b""
        self._checked = 0  # bytes of `_buffer` that are known to hold no head's end
        self._ended = False  # has it ended its side, and waits?
        self._head: RequestHead | None = None
        self._body: Body | None = None  # while it comes in
        self._paused = False
        self._lingered = 0
        self._unsent = 0  # bytes in the write buffer when the client was last seen stalled

    # --- asyncio ---------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.write = self.transport.write
        self.arrived = self.service.clock()
        if not self.peer:
            peer = transport.get_extra_info("peername")
            self.peer = peer[0] if isinstance(peer, tuple) and peer else "unix"
        self.secure = transport.get_extra_info("sslcontext") is not None
        self.half_close &= not self.secure  # TLS knows no half
        self.transport.set_write_buffer_limits(high=MAX_UNSENT)
        if not self.service.client_connected(self):
            self.state = BUSY
            if len(self.service.clients) > self.service.limits.connections + MAX_REFUSING:
                self.service.recorder.refused("too_many_connections")
                self.abort()
            else:
                message = "too many connections: try again soon"
                self._error_and_close(503, "too_many_connections", message, retry_after=1)
            return
        self.set_deadline(self.service.timeouts.client_header)

    def data_received(self, data: bytes) -> None:
        state = self.state
        if state == READ_HEAD:
            self._read_head(self._buffer + data if self._buffer else data)
        elif state == READ_BODY:
            self._read_body(data)
        elif state == BUSY:
            self._buffer += data
            if len(self._buffer) > MAX_PIPELINED and not self._paused:
                self._paused = True
                self.service.paused.add(self)
                self.transport.pause_reading()
        elif state == LINGER:
            self._lingered += len(data)
            if self._lingered > LINGER_BYTES:
                self.abort()

    def eof_received(self) -> bool:
        """The client will send no more. While an answer is under way that means that it left, unless told otherwise."""
        self._ended = self.half_close
        waits = self._ended and (self.state == BUSY or (self.state == READ_HEAD and not self._starved))
        if waits:
            self.service.paused.add(self)
        return waits

    def connection_lost(self, exc: Exception | None) -> None:
        self.state = CLOSED
        self.deadline = NEVER
        self.service.client_lost(self)
        if self._body is not None:
            self._body.drop()
        if self.exchange is not None:
            self.exchange.client_gone()

    def pause_writing(self) -> None:
        self.stalled = True
        self._unsent = self.transport.get_write_buffer_size()
        exchange = self.exchange
        if exchange is None or exchange.relaying:  # else the deadline is that of the backend
            self.set_deadline(self.service.timeouts.client_write)
        if exchange is not None and exchange.upstream is not None:
            exchange.upstream.pause()

    def resume_writing(self) -> None:
        self.stalled = False
        exchange = self.exchange
        if exchange is not None and exchange.upstream is not None:
            if exchange.relaying:
                self.set_deadline(self.service.timeouts.idle)
            exchange.upstream.resume()

    # --- deadlines -------------------------------------------------------------------------------------------

    def set_deadline(self, seconds: float) -> None:
        """From now on this long, whatever was set before."""
        wheel = self.service.wheel
        # `now` is up to a tick old: rather a tick late than early.
        self.deadline = deadline = wheel.now + TICK + seconds
        if deadline < self.wake:
            wheel.enter(self)

    def on_deadline(self, now: float) -> None:
        self.deadline = NEVER
        unsent = self.transport.get_write_buffer_size()
        if 0 < unsent < self._unsent:  # slow, but it reads
            self._unsent = unsent
            self.set_deadline(self.service.timeouts.client_write)
        elif self.exchange is not None:
            self.exchange.on_deadline()
        elif self.state == READ_BODY:
            self._error_and_close(408, "body_timeout", "the request's body did not come in time")
        elif self.state == READ_HEAD and self._buffer:
            self._error_and_close(408, "header_timeout", "the request's head did not come in time")
        elif self.state == READ_HEAD and not unsent and has_come(self.transport):
            self.set_deadline(self.service.timeouts.client_header)  # a request that came just now: it is served whole
        elif self.state == READ_HEAD and not unsent:
            self._close()  # nothing of a request was read: it may be sent again
        else:
            if unsent:
                self.service.recorder.refused("client_stalled")
            self.abort()

    # --- reading ---------------------------------------------------------------------------------------------

    def _read_head(self, buffer: bytes) -> None:
        service = self.service
        checked = self._checked
        if not checked:
            self.arrived = service.clock()
        if buffer[:2] == b"\r\n":  # RFC 9112 section 2.2: empty lines before a request are ignored
            buffer, checked = EMPTY_LINES.sub(b"", buffer), 0
        end = buffer.find(b"\r\n\r\n", checked - 3 if checked > 3 else 0)
        limit = service.limits.head
        try:
            if end < 0 or end > limit:
                if not checked and buffer and buffer != b"\r":  # the empty lines before a request win no time
                    self.set_deadline(service.timeouts.client_header)
                self._buffer = buffer
                self._checked = len(buffer)
                check_partial(buffer[checked - 1 if checked and buffer[checked - 1] == 13 else checked : limit + 4])
                if len(buffer) > limit + 3:  # as many may be a head of `limit` bytes whose empty line is not whole
                    raise BadHttp(431, "head_too_long", f"the request head is longer than {limit} bytes")
                return
            self._buffer = b""
            self._checked = 0
            head = parse_request(buffer[:end], service.limits.headers)
            self._head = head
            self.keep_alive = head.keep_alive
            self.plain = head.minor == 0
            service.check(head)
            length = head.content_length or 0
            if length > service.limits.body:
                raise too_large(service.limits.body)
            if length:
                service.memory.check(length)
        except BadHttp as problem:
            if self.http2 and buffer.startswith(PREFACE_LINE):
                self._switch(buffer)
            else:
                self._refuse(problem)
            return
        rest = buffer[end + 4 :]
        have = len(rest)
        if head.chunked:
            self._begin_body(head, None, rest)
        elif have == length:
            self._request(head, rest)
        elif have > length:
            self._buffer = rest[length:]
            self._request(head, rest[:length])
        else:
            self._begin_body(head, length, rest)

    def _switch(self, buffer: bytes) -> None:
        """It speaks HTTP/2 from its first byte: the connection is no longer ours."""
        self.state = CLOSED
        self.deadline = NEVER
        self.service.client_lost(self)
        connection = Http2Connection(self.service, self.peer)
        self.transport.set_protocol(connection)
        connection.connection_made(self.transport)
        connection.data_received(buffer)

    def _begin_body(self, head: RequestHead, length: int | None, rest: bytes) -> None:
        service = self.service
        self.state = READ_BODY
        self._body = Body(service.memory, service.limits.body, length, service.wheel.now + TICK)
        self.set_deadline(self.service.timeouts.client_body)
        if rest:
            self._read_body(rest)
        elif head.expect_continue:
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _read_body(self, data: bytes) -> None:
        body, head = self._body, self._head
        assert body is not None
        assert head is not None
        try:
            whole = body.feed(data)
        except BadHttp as problem:
            self._refuse(problem)
            return
        if whole:
            self._body, self._buffer = None, body.rest
            self._request(head, body.take())
        else:
            self.deadline = body.deadline(self.service.wheel.now, self.service.timeouts.client_body)

    def _request(self, head: RequestHead, body: bytes) -> None:
        self.state = BUSY
        self._head = None
        try:
            self.service.request(self, head, body)
        except Exception:
            # A fault of ours must not look like one of the network, and must not take the lease with it.
            log.exception("a request could not be handled; this is a fault in Fairlead")
            if self.exchange is not None:
                self.exchange.client_gone()
                self.exchange = None
            self._error_and_close(500, "internal_error", "the balancer failed on this request; its log says more")

    # --- answering -------------------------------------------------------------------------------------------

    def exchange_ended(self, exchange: Exchange) -> None:
        """The answer was written in full; what comes next?"""
        self.exchange = None
        if self.state == CLOSED:
            return
        if not self.keep_alive or self.service.draining:
            self._close()
        else:
            self._next()

    def _close(self) -> None:
        """Close when what was written has been taken, within the time a client has for that."""
        self.state = LINGER
        self._unsent = self.transport.get_write_buffer_size()
        self.set_deadline(self.service.timeouts.client_write)
        self.transport.close()

    @property
    def _starved(self) -> bool:
        """Has it ended, and is what it sent no whole request?"""
        if not self._ended:
            return False
        return self.state == READ_BODY or (self.state == READ_HEAD and len(self._buffer) == self._checked)

    def _next(self) -> None:
        self.state = READ_HEAD
        if self._ended and self._starved:
            self._close()
            return
        self.http2 = False
        if self.stalled:
            self._unsent = self.transport.get_write_buffer_size()
        self.deadline = self.service.wheel.now + self.service.timeouts.client_idle
        if self.deadline < self.wake:
            self.service.wheel.enter(self)
        if self._buffer:
            # Not from within the call that ended the last answer: a long pipeline must not grow the stack.
            self.service.loop.call_soon(self._pipelined)

    def _pipelined(self) -> None:
        if self.state != READ_HEAD:
            return
        if self._paused:
            self._paused = False
            self.service.paused.discard(self)
            self.transport.resume_reading()
        buffer, self._buffer = self._buffer, b""
        if buffer:
            self._read_head(buffer)
        if self._starved:
            self._close()

    def _refuse(self, problem: BadHttp) -> None:
        again = 1 if problem.status == 503 else None
        self._error_and_close(problem.status, problem.reason, problem.message, retry_after=again)

    def _error_and_close(self, status: int, code: str, message: str, retry_after: int | None = None) -> None:
        """Refuse before a request is complete: answer, close our side, and read on a little.

        Closing with unread bytes would send a reset, and a reset can destroy the answer on its way.
        """
        self.keep_alive = False
        extra = b"retry-after: %d\r\n" % retry_after if retry_after is not None else b""
        head = self._head  # known when it was the body that we refused
        anthropic = head is not None and head.target.partition(b"?")[0] == b"/v1/messages"
        body = error_body(status, code, message, anthropic=anthropic)
        request_id = (head.request_id if head is not None else None) or self.service.new_request_id()
        self.write(render(status, body, request_id, extra, close=True))
        self.service.recorder.refused(code)
        self.service.recorder.early(self, status, code, head, request_id)
        if self._body is not None:
            self._body.drop()
        self._head, self._body, self._buffer, self._checked = None, None, b"", 0
        self.state = LINGER
        self.set_deadline(LINGER_SECONDS)
        if self.transport.can_write_eof():
            self.transport.write_eof()
        else:
            self.transport.close()

    def cut(self, *, reset: bool) -> None:
        """End a begun answer without its proper end."""
        self.exchange = None
        if self.state == CLOSED:
            return
        if reset:
            self._reset()
        else:
            self._close()

    def has_left(self) -> bool:
        """Has it closed its side, where that means that it left?"""
        return is_broken(self.transport) if self.half_close else has_left(self.transport)

    def abort(self) -> None:
        """Close at once; with a reset when it did not take all, as the kernel would go on offering that."""
        if self.state != CLOSED and self.transport.get_write_buffer_size():
            self._reset()
        elif self.state != CLOSED:
            self.state = LINGER
            self.transport.abort()

    def _reset(self) -> None:
        self.state = LINGER
        reset_transport(self.transport)

    @property
    def busy(self) -> bool:
        """Is a request coming in, under way, or its answer not yet taken?"""
        if self.state in (READ_BODY, BUSY) or (self.state == READ_HEAD and self._buffer):
            return True
        return self.state != CLOSED and self.transport.get_write_buffer_size() > 0

    def finish(self) -> None:
        """Take no more requests: close now if idle, else when what was written has been taken."""
        if self.state == READ_HEAD and not self._buffer:
            self._close()
