"""One request of an HTTP/2 connection: collects it, and is the client that its exchange answers.

What it writes waits here until the connection's next flush, and longer while a window or the connection itself is
closed; then the backend is not read any more, so that at most one read of it (256 KiB) waits. Frames are made only in
`pump`, one per turn, so that streams share the connection evenly.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import TYPE_CHECKING

from h2.errors import ErrorCodes

from fairlead.proxy.memory import Body, too_large
from fairlead.proxy.timers import NEVER, TICK
from fairlead.wire.errors import error_body
from fairlead.wire.fields import BadHttp
from fairlead.wire.http2 import Fields, Malformed, answer_fields, interim_fields, own_fields, request_head

if TYPE_CHECKING:
    from fairlead.proxy.exchange import Exchange
    from fairlead.proxy.http2 import Http2Connection
    from fairlead.wire.http1 import RequestHead, ResponseHead

log = logging.getLogger("fairlead")

READ_BODY, BUSY, ANSWERED, CLOSED = range(4)


class Http2Stream:
    """A downstream (see downstream.py) that shares its connection with others."""

    protocol = "HTTP/2.0"
    plain = True

    __slots__ = (
        "_body", "_fields", "_head", "_interims", "_mark", "_queue", "_queued", "_reset", "_sent", "_skip",
        "arrived", "connection", "deadline", "exchange", "id", "open", "peer", "secure", "service", "stalled", "state",
    )  # fmt: skip

    def __init__(self, connection: Http2Connection, id: int) -> None:
        self.connection = connection
        self.service = connection.service
        self.id = id
        self.peer = connection.peer
        self.secure = connection.secure
        self.arrived = self.service.clock()
        self.exchange: Exchange | None = None
        self.stalled = False
        self.deadline = NEVER
        self.state = READ_BODY
        self.open = True  # may the client still send on it?
        self._head: RequestHead | None = None
        self._body: Body | None = None  # while it comes in
        self._interims: list[Fields] = []
        self._fields: Fields | None = None  # the answer's head, until it is sent
        self._queue: deque[bytes] = deque()  # body bytes that could not be sent yet
        self._queued = 0  # bytes in it
        self._skip = 0  # bytes of its first piece that were sent
        self._reset: ErrorCodes | None = None  # how it ends when the queue has been sent, if not properly
        self._sent = 0  # body bytes ever handed on
        self._mark = 0  # those and what the connection took of others', when it was last seen stalled

    # --- reading ---------------------------------------------------------------------------------------------

    def begin(self, fields: Fields, *, ended: bool) -> None:
        """The request's head came; with `ended` it is all."""
        service, limits = self.service, self.service.limits
        self.open = not ended
        try:
            self._head = head = request_head(fields, limits.headers, limits.head)
            service.check(head)
            length = head.content_length or 0
            if length > limits.body:
                raise too_large(limits.body)
            service.memory.check(length)
        except Malformed as problem:
            self._malformed(str(problem))
            return
        except BadHttp as problem:
            self._refuse(problem)
            return
        if ended:
            self._request()
            return
        if head.expect_continue:
            self._interims.append(((b":status", b"100"),))
            self.connection.touch(self)
        # Frames tell where it ends; one byte beyond the limit is where `Body` says that it has all.
        self._body = Body(service.memory, limits.body, limits.body + 1, service.wheel.now + TICK)
        self.set_deadline(service.timeouts.client_body)

    def data(self, data: bytes) -> None:
        """Bytes of the body."""
        body = self._body
        if body is None or not data:
            return
        try:
            if body.feed(data):
                raise too_large(self.service.limits.body)
        except BadHttp as problem:
            self._refuse(problem)
            return
        self.deadline = body.deadline(self.service.wheel.now, self.service.timeouts.client_body)
        self.connection.watch(self.deadline)

    def trailers(self, fields: Fields) -> None:
        """Fields behind the body: dropped, as those of HTTP/1 are."""
        if any(name[:1] == b":" for name, _ in fields) and self.state == READ_BODY:
            self._malformed("a pseudo-header stands behind the body")

    def ended(self) -> None:
        """The client has sent all of the request."""
        self.open = False
        if self.state == READ_BODY:
            self._request()

    def _request(self) -> None:
        head, body = self._head, self._body.take() if self._body is not None else b""
        assert head is not None
        self.state = BUSY
        self.deadline = NEVER
        self._body = None
        try:
            self.service.request(self, head, body)
        except Exception:
            # A fault of ours must not look like one of the network, and must not take the lease with it.
            log.exception("a request could not be handled; this is a fault in Fairlead")
            exchange, self.exchange = self.exchange, None
            if exchange is not None:
                self.state = CLOSED
                exchange.client_gone()
                self.state = BUSY
            self._early(500, "internal_error", "the balancer failed on this request; its log says more")

    def _malformed(self, message: str) -> None:
        """End it without an answer."""
        log.debug("a malformed HTTP/2 request from %s: %s", self.peer, message)
        recorder = self.service.recorder
        recorder.refused("bad_framing")
        recorder.early(self, 400, "bad_framing", self._head, self.service.new_request_id())
        self.connection.faulty(self)

    def _refuse(self, problem: BadHttp) -> None:
        self._early(problem.status, problem.reason, problem.message, 1 if problem.status == 503 else None)

    def _early(self, status: int, code: str, message: str, retry_after: int | None = None) -> None:
        """Answer with an error before the request is complete, or instead of handling it."""
        head = self._head
        request_id = (head.request_id if head is not None else None) or self.service.new_request_id()
        self.service.recorder.refused(code)
        self.service.recorder.early(self, status, code, head, request_id)
        extra = b"retry-after: %d\r\n" % retry_after if retry_after is not None else b""
        self._answer(status, error_body(status, code, message), request_id, extra)

    def _drop_body(self) -> None:
        body, self._body = self._body, None
        if body is not None:
            body.drop()

    # --- what became of it -----------------------------------------------------------------------------------

    def lost(self) -> None:
        """The client reset the stream, or the connection is gone: free the GPU at once."""
        if self.state == CLOSED:
            return
        self.state = CLOSED
        self.deadline = NEVER
        self._queue.clear()
        self._queued = 0
        self._drop_body()
        exchange, self.exchange = self.exchange, None
        if exchange is not None:
            exchange.client_gone()

    def abort(self) -> None:
        """Let go of it: the client takes nothing."""
        if self.state != CLOSED:
            self.exchange = None
            self.connection.drop(self, ErrorCodes.CANCEL)

    # --- deadlines -------------------------------------------------------------------------------------------

    def set_deadline(self, seconds: float) -> None:
        """From now on this long, whatever was set before. The connection watches over it."""
        self.deadline = self.service.wheel.now + TICK + seconds
        self.connection.watch(self.deadline)

    def on_deadline(self) -> None:
        self.deadline = NEVER
        writing = self.state == ANSWERED or (self.exchange is not None and self.exchange.relaying)
        if writing and self.stalled and self._taken() > self._mark:  # slow, but it reads
            self._mark = self._taken()
            self.set_deadline(self.service.timeouts.client_write)
        elif self.exchange is not None:
            self.exchange.on_deadline()
        elif self.state == READ_BODY:
            self._early(408, "body_timeout", "the request's body did not come in time")
        else:
            self.abort()

    def _taken(self) -> int:
        """A number that grows as long as something goes out."""
        return self._sent + (self.connection.taken() if self.connection.blocked else 0)

    # --- answering -------------------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Bytes of the answer's body."""
        if data:
            self._queue.append(data)
            self._queued += len(data)
        self.connection.touch(self)

    def interim(self, exchange: Exchange, response: ResponseHead) -> None:
        """A 1xx before the answer."""
        self._interims.append(interim_fields(response))
        self.connection.touch(self)

    def answer_head(self, exchange: Exchange, response: ResponseHead, recode: int) -> bytes:
        """The answer begins: its fields go out with the first flush."""
        self._fields = answer_fields(response, exchange.request_id)
        if exchange.final:
            self._fields.append((b"x-should-retry", b"false"))
        return b""

    def exchange_ended(self, exchange: Exchange) -> None:
        """The answer was written in full."""
        self.exchange = None
        if self.state != CLOSED:
            self._finish()

    def respond(self, head: RequestHead, status: int, body: bytes, request_id: bytes, extra: bytes = b"") -> None:
        """An answer of our own."""
        self.exchange = None
        self._answer(status, body, request_id, extra, bodyless=head.method == b"HEAD")

    def _answer(
        self, status: int, body: bytes, request_id: bytes, extra: bytes = b"", *, bodyless: bool = False
    ) -> None:
        if self.state == CLOSED:
            return
        self._fields = own_fields(status, len(body), request_id, extra)
        if not bodyless:
            self.write(body)
        self._drop_body()
        self._finish()

    def break_off(self, exchange: Exchange, event: bytes) -> None:
        """The event as far as the windows let it, then a reset: never a proper end."""
        self.exchange = None
        if self.state == CLOSED:
            return
        self._reset = ErrorCodes.INTERNAL_ERROR
        if event:
            self.write(event)
        self._finish()

    def _finish(self) -> None:
        """Nothing more will be written: the rest has the time that a client has for that."""
        self.state = ANSWERED
        self._mark = self._taken()
        self.set_deadline(self.service.timeouts.client_write)
        self.connection.touch(self)

    # --- sending ---------------------------------------------------------------------------------------------

    def pump(self) -> bool:
        """Make the next frame; False when there is nothing more to send, or no room for it."""
        h2 = self.connection.h2
        for fields in self._interims:
            h2.send_headers(self.id, fields)
        self._interims.clear()
        over = self.state == ANSWERED
        if self._fields is not None:
            fields, self._fields = self._fields, None
            end = over and not self._queued and self._reset is None
            h2.send_headers(self.id, fields, end_stream=end)
            if end:
                self.connection.done(self)
                return False
        if self._queued:
            room = min(h2.local_flow_control_window(self.id), h2.max_outbound_frame_size)
            if room <= 0:
                self.stall()
                return False
            data = self._take(room)
            end = over and not self._queued and self._reset is None
            self._sent += len(data)
            if end:
                h2.send_data(self.id, data, end_stream=True)
                self.connection.done(self)
                return False
            h2.send_part(self.id, data)
            if self._queued:
                return True
        if over:
            if self._reset is None:
                h2.end_stream(self.id)
                self.connection.done(self)
            else:
                self.connection.drop(self, self._reset)
        elif self.stalled:
            self._go_on()
        return False

    def _take(self, room: int) -> bytes:
        """The next bytes of the queue, at most so many."""
        queue, skip = self._queue, self._skip
        if self._queued <= room:
            data = queue[0] if len(queue) == 1 else b"".join(queue)
            queue.clear()
            self._queued = self._skip = 0
            return data[skip:] if skip else data
        first = queue[0]
        data = first[skip : skip + room]
        if skip + len(data) == len(first):
            queue.popleft()
            self._skip = 0
        else:
            self._skip = skip + len(data)
        self._queued -= len(data)
        return data

    def stall(self) -> None:
        """The client, or its connection, takes nothing: read no more from the backend."""
        if self.stalled:
            return
        self.stalled = True
        self._mark = self._taken()
        exchange = self.exchange
        if self.state == ANSWERED or (exchange is not None and exchange.relaying):
            self.set_deadline(self.service.timeouts.client_write)
        if exchange is not None and exchange.relaying and exchange.upstream is not None:
            exchange.upstream.pause()  # one whose answer has not begun is paused when it does

    def _go_on(self) -> None:
        self.stalled = False
        exchange = self.exchange
        if exchange is not None and exchange.upstream is not None:
            if exchange.relaying:
                self.set_deadline(self.service.timeouts.idle)
            exchange.upstream.resume()

    @property
    def waiting(self) -> bool:
        """Is there something that could not be sent?"""
        return bool(self._queued) or self.stalled
