"""One client connection: reads requests, checks and collects them, answers them in order.

One exchange at a time: requests that are pipelined behind it wait in a small buffer. The connection's single
deadline follows what it waits for (a head, a body, a backend, the client's own reading), see timers.py.
"""

from __future__ import annotations

import asyncio
import logging
import select
import socket
import struct
from typing import TYPE_CHECKING, cast

from fairlead.proxy.timers import NEVER, TICK
from fairlead.wire.chunked import ChunkScanner
from fairlead.wire.errors import error_body, render
from fairlead.wire.fields import BadHttp
from fairlead.wire.http1 import RequestHead, check_partial, parse_request

if TYPE_CHECKING:
    from fairlead.proxy.exchange import Exchange
    from fairlead.proxy.service import Service

log = logging.getLogger("fairlead")

MAX_PIECES = 1_024  # chunks of a body kept apart
MAX_PIPELINED = 65_536  # bytes kept of requests behind the running one; then reading stops
LINGER_SECONDS = 2.0  # after an early refusal: read on for so long,
LINGER_BYTES = 65_536  # or so much, so that our answer is not lost in a reset

READ_HEAD, READ_BODY, BUSY, LINGER, CLOSED = range(5)


class Client(asyncio.Protocol):
    """A downstream connection. All its state is of the request at hand, but for what waits in `_buffer`."""

    __slots__ = (
        "_body",
        "_buffer",
        "_head",
        "_left",
        "_lingered",
        "_paused",
        "_pieces",
        "_scanner",
        "_unsent",
        "arrived",
        "deadline",
        "exchange",
        "keep_alive",
        "peer",
        "service",
        "stalled",
        "state",
        "transport",
        "wake",
        "write",
    )  # fmt: skip

    def __init__(self, service: Service) -> None:
        self.service = service
        self.transport: asyncio.Transport = None  # type: ignore[assignment]
        self.peer = ""
        self.state = READ_HEAD
        self.exchange: Exchange | None = None
        self.keep_alive = True
        self.stalled = False  # the client does not read what we write
        self.deadline = NEVER
        self.wake = NEVER
        self.arrived = 0.0  # when the request's first byte came
        self._buffer = b""
        self._head: RequestHead | None = None
        self._body: list[bytes] = []
        self._pieces: list[bytes] = []  # what the scanner found since `_body` was last added to
        self._left = 0  # body bytes to come, where the length is known
        self._scanner: ChunkScanner | None = None
        self._paused = False
        self._lingered = 0
        self._unsent = 0  # bytes in the write buffer when the client was last seen stalled

    # --- asyncio ---------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.write = self.transport.write
        self.arrived = self.service.clock()
        peer = transport.get_extra_info("peername")
        self.peer = peer[0] if isinstance(peer, tuple) else "unix"
        if not self.service.client_connected(self):
            self.state = BUSY
            self._error_and_close(503, "too_many_connections", "too many connections: try again soon", retry_after=1)
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
        """The client will send no more. While an answer is under way that means that it left (as nginx sees it)."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.state = CLOSED
        self.deadline = NEVER
        self.service.client_lost(self)
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
        else:
            self.abort()

    # --- reading ---------------------------------------------------------------------------------------------

    def _read_head(self, buffer: bytes) -> None:
        service = self.service
        if buffer[:2] == b"\r\n":
            buffer = buffer[2:]  # RFC 9112 section 2.2: one empty line before a request is ignored
        if not self._buffer:
            self.arrived = service.clock()
        end = buffer.find(b"\r\n\r\n")
        limit = service.limits.head
        try:
            if end < 0 or end > limit:
                if not self._buffer and buffer:
                    self.set_deadline(service.timeouts.client_header)
                self._buffer = buffer
                check_partial(buffer)
                if len(buffer) > limit:
                    raise BadHttp(431, "head_too_long", f"the request head is longer than {limit} bytes")
                return
            self._buffer = b""
            head = parse_request(buffer[:end], service.limits.headers)
            self._head = head
            self.keep_alive = head.keep_alive
            service.check(head)
            length = head.content_length or 0
            if length > service.limits.body:
                raise self._too_large()
        except BadHttp as problem:
            service.recorder.refused(problem.reason)
            self._error_and_close(problem.status, problem.reason, problem.message)
            return
        rest = buffer[end + 4 :]
        have = len(rest)
        if head.chunked:
            self._body = []
            self._pieces = []
            self._scanner = ChunkScanner(self._pieces)
            self._begin_body(head, rest)
        elif have == length:
            self._request(head, rest)
        elif have > length:
            self._buffer = rest[length:]
            self._request(head, rest[:length])
        else:
            self._body = []
            self._left = length
            self._scanner = None
            self._begin_body(head, rest)

    def _begin_body(self, head: RequestHead, rest: bytes) -> None:
        self.state = READ_BODY
        self.set_deadline(self.service.timeouts.client_body)
        if rest:
            self._read_body(rest)
        elif head.expect_continue:
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _read_body(self, data: bytes) -> None:
        scanner = self._scanner
        head = self._head
        assert head is not None
        self.deadline = self.service.wheel.now + self.service.timeouts.client_body
        if scanner is None:
            have = len(data)
            if have < self._left:
                self._left -= have
                self._body.append(data)
                return
            self._body.append(data[: self._left] if have > self._left else data)
            self._buffer = data[self._left :]
        else:
            try:
                scanner.feed(data)
                if scanner.payload > self.service.limits.body:
                    raise self._too_large()
            except BadHttp as problem:
                self.service.recorder.refused(problem.reason)
                self._error_and_close(problem.status, problem.reason, problem.message)
                return
            if len(self._pieces) > MAX_PIECES:  # a body in tiny chunks must not become millions of objects
                self._body.append(b"".join(self._pieces))
                self._pieces.clear()
            if not scanner.done:
                return
            self._body += self._pieces
            self._buffer = data[scanner.end :]
        body = b"".join(self._body)
        self._body, self._scanner = [], None
        self._request(head, body)

    def _too_large(self) -> BadHttp:
        limit = self.service.limits.body
        return BadHttp(413, "body_too_large", f"the request body is larger than {limit} bytes (limits.body)")

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

    def _next(self) -> None:
        self.state = READ_HEAD
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

    def respond(self, head: RequestHead, status: int, body: bytes, request_id: bytes, extra: bytes = b"") -> None:
        """An answer of our own to a complete request."""
        if self.service.draining:
            self.keep_alive = False
        close = not self.keep_alive
        self.write(render(status, body, request_id, extra, close=close, bodyless=head.method == b"HEAD"))
        self.exchange = None
        if self.keep_alive:
            self._next()
        else:
            self._close()

    def respond_error(
        self, exchange: Exchange, status: int, code: str, message: str, param: str | None, retry_after: int | None
    ) -> None:
        """An error of our own in place of a backend's answer."""
        body = error_body(status, code, message, param, anthropic=exchange.path == b"/v1/messages")
        extra = b"retry-after: %d\r\n" % retry_after if retry_after is not None else b""
        self.respond(exchange.head, status, body, exchange.request_id, extra)

    def _error_and_close(self, status: int, code: str, message: str, retry_after: int | None = None) -> None:
        """Refuse before a request is complete: answer, close our side, and read on a little.

        Closing with unread bytes would send a reset, and a reset can destroy the answer on its way.
        """
        self.keep_alive = False
        extra = b"retry-after: %d\r\n" % retry_after if retry_after is not None else b""
        body = error_body(status, code, message)
        head = self._head  # known when it was the body that we refused
        request_id = (head.request_id if head is not None else None) or self.service.new_request_id()
        self.write(render(status, body, request_id, extra, close=True))
        self.service.recorder.early(self, status, code, head, request_id)
        self._head, self._body, self._scanner, self._buffer = None, [], None, b""
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
            sock = self.transport.get_extra_info("socket")
            if sock is not None:  # without lingering a close is a reset, not an orderly end
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.abort()
        else:
            self._close()

    def has_left(self) -> bool:
        """Has it closed its side? For when its bytes are not read: what stands before its end would hide that."""
        sock = self.transport.get_extra_info("socket")
        if sock is None or sock.fileno() < 0:
            return False
        poll = select.poll()
        poll.register(sock.fileno(), select.POLLRDHUP)
        return bool(poll.poll(0))

    def abort(self) -> None:
        """Close at once."""
        if self.state != CLOSED:
            self.state = LINGER
            self.transport.abort()

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
