"""One request on its way: placed, sent, answered, or moved to another backend while that is still possible.

The exchange owns the request from its last body byte to the last byte of the answer. Whatever happens
(backend breaks, client leaves, deadline passes, shutdown), it ends in `_end` exactly once: there the lease is
closed, the connection returned or closed, and the record written.

Commit point: the first byte of the final answer is written to the client. Before it a request may go elsewhere, as
the retry rules allow; after it never: a stream that breaks then is ended visibly (an error event and no
proper end of the body), so that a cut answer is not taken for a whole one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fairlead.core.balancer import ABANDONED, CLIENT_GONE, FAILED, OK, REFUSED
from fairlead.core.model import Facts, Kind, Refusal, Usage
from fairlead.core.retry import CONNECT, TIMEOUT
from fairlead.proxy.answers import respond_error
from fairlead.proxy.forwarded import request_head
from fairlead.proxy.timers import TICK
from fairlead.proxy.trace import FIRST, RESUME, RETRY
from fairlead.proxy.tries import (
    BAD_RESPONSE,
    BEGUN,
    CONNECT_TIMEOUT,
    CONNECTING,
    ENDED,
    RELAYING,
    SEND_TIMEOUT,
    UPSTREAM_BROKEN,
    WAITING,
    failed,
    judged,
    moved,
)
from fairlead.proxy.upstream import Upstream
from fairlead.wire.endings import ERROR_WORD
from fairlead.wire.errors import error_event
from fairlead.wire.http1 import RequestHead, ResponseHead
from fairlead.wire.openai import USAGE_TAIL, read_usage, stream_overhead

if TYPE_CHECKING:
    from fairlead.core.cluster.ledger import Lease
    from fairlead.proxy.downstream import Downstream
    from fairlead.proxy.hedge import Hedge, Race
    from fairlead.proxy.service import Service
    from fairlead.proxy.trace import Trace

RETRIED = frozenset((500, 502, 503, 504, 429))  # statuses that may be tried elsewhere, if the rules say so
IDEMPOTENT = frozenset((b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE"))


class Exchange:
    """State of one request. Made when its body is complete; `start` sets it off."""

    __slots__ = (
        "arrived", "body", "breaks", "bytes_out", "client", "error", "facts", "final", "first_byte_at", "head", "idle",
        "lease", "path", "phase", "placed", "race", "reached", "replay_safe", "request_id", "resent", "response",
        "service", "status", "target", "trace", "tried", "tries", "unsent", "upstream", "usage", "version", "wheel",
    )  # fmt: skip

    def __init__(
        self,
        service: Service,
        client: Downstream,
        head: RequestHead,
        target: bytes,
        path: bytes,
        body: bytes,
        facts: Facts,
        request_id: bytes,
        arrived: float,
        replay_safe: bool,
    ) -> None:
        self.service = service
        self.wheel = service.wheel
        self.version = service.recorder.version  # of the configuration that it begins under
        self.idle = service.timeouts.idle + TICK
        self.client = client
        self.head = head
        self.target = target  # as the backend is asked for it
        self.path = path  # of that, without the query
        self.body = body  # counted in `service.memory` until it is let go of
        service.memory.used += len(body)
        self.unsent = 0  # bytes of the request that the backend had not taken when it was last looked at
        self.facts = facts
        self.request_id = request_id
        self.arrived = arrived
        self.replay_safe = replay_safe
        self.lease: Lease = None  # type: ignore[assignment]  # set by `_place`, before anything reads it
        self.upstream: Upstream | None = None
        self.response: ResponseHead | None = None
        self.phase = CONNECTING
        self.placed = 0.0  # when the first backend was chosen: the retry window begins here
        self.tries = 0
        self.tried: tuple[str, ...] = ()
        self.resent = False  # in this try, because a kept connection had been closed by the engine
        self.reached = False  # did any backend accept a connection for it?
        self.breaks = 0  # connections that broke while a backend had this request
        self.final = False  # was all done that may be done? Then a client that tries again only adds to the load
        self.first_byte_at = 0.0
        self.bytes_out = 0
        self.status = 0
        self.error = ""  # short fixed word where something went wrong
        self.usage: Usage | None = None
        self.race: Race | None = None  # where it may be hedged
        self.trace: Trace | None = None  # where its spans are kept

    # --- placing ---------------------------------------------------------------------------------------------

    @property
    def relaying(self) -> bool:
        """Has the answer begun?"""
        return self.phase is RELAYING or self.phase is BEGUN

    def start(self) -> None:
        """Choose a backend and send; or answer with the reason why not."""
        self.placed = self.service.clock()
        self.place(self.placed)

    def place(self, now: float) -> None:
        service = self.service
        lease = service.balancer.assign(self.facts, now, self.tried)
        service.placed += 1
        if not service.placed & 7:
            service.recorder.decided(service.clock() - now)
        if isinstance(lease, Refusal):
            self.refuse(lease.status, lease.code, lease.message, lease.param, lease.retry_after)
            return
        self.lease = lease
        if self.trace is not None:
            self.trace.asks(lease, RESUME if self.first_byte_at else RETRY if self.tries else FIRST)
        self.tries += 1
        self.resent = False
        # What must not be sent twice gets a new connection: a kept one may be closing as we write.
        self._send(fresh=not self.replay_safe)

    def _send(self, *, fresh: bool) -> None:
        id = self.lease.backend.id
        pool = self.service.pools.get(id) or self.service.pool_of(id)
        self.response = None
        upstream = None if fresh else pool.take()
        if upstream is not None:
            self.connected(upstream)
            return
        self.phase = CONNECTING
        self.client.set_deadline(self.service.timeouts.connect)
        self.upstream = upstream = Upstream(pool)
        self.service.connect(self, upstream)

    def connected(self, upstream: Upstream) -> None:
        """A connection is there: write the request."""
        self.upstream = upstream
        self.phase = WAITING
        self.reached = True
        self.client.set_deadline(self.service.timeouts.first_byte)
        self.unsent = 0
        upstream.send(self, request_head(self, upstream.pool, len(self.body)), self.body)

    def on(self, backend: str) -> Exchange | Hedge | None:
        """Its try that is placed on this backend."""
        return self if self.lease is not None and self.lease.backend.id == backend else None

    def goes_on(self, reason: str, kind: str) -> bool:
        """This try has failed; does another one run, that is the request's only one from now on?"""
        return False

    # --- what the upstream reports ---------------------------------------------------------------------------

    def connect_failed(self, message: str, kind: str = CONNECT) -> None:
        """No connection could be made; `kind` is how that is counted."""
        if self.phase is CONNECTING:
            self.upstream = None
            failed(self, CONNECT, message, kind)

    def upstream_blocked(self, unsent: int) -> None:
        """The backend does not take the request at once: it has `timeouts.send` for each bit of it."""
        if self.phase is WAITING:
            self.unsent = unsent
            self.client.set_deadline(self.service.timeouts.send)

    def upstream_took_all(self) -> None:
        """Now it has all of the request: the time for its answer begins."""
        if self.phase is WAITING:
            self.unsent = 0
            self.client.set_deadline(self.service.timeouts.first_byte)

    def informational(self, response: ResponseHead) -> None:
        """A 1xx before the answer: passed on to clients that know what it is."""
        if response.status != 100 and not self.bytes_out:
            self.client.interim(self, response)

    def head_received(self, response: ResponseHead) -> bool:
        """The answer's head: keep it until its body begins, or try elsewhere. False: this upstream is done with."""
        if response.status in RETRIED:
            if moved(self, str(response.status)):
                return False
            self.final |= self.tries > 1
        self.response = response
        bodyless = self.head.method == b"HEAD" or response.status in (204, 304)
        upstream = self.upstream
        if upstream is not None:
            upstream.begin(response, bodyless=bodyless, plain=self.client.plain)
        return True

    def relay(self, data: bytes) -> None:
        """Body bytes, framed for this client."""
        client = self.client
        if self.phase is not RELAYING:
            data = self._begin(data)  # sets its own deadline
        else:
            client.deadline = self.wheel.now + self.idle
        self.bytes_out += len(data)
        client.write(data)

    def relay_comments(self, data: bytes) -> None:
        """Comments of an event stream: they keep connections alive, but are no progress. The deadline stays."""
        if self.phase is WAITING:
            data = self._commit(data)
            self.phase = BEGUN
        self.bytes_out += len(data)
        self.client.write(data)

    def _begin(self, data: bytes) -> bytes:
        """The first bytes that are an answer."""
        upstream, client = self.upstream, self.client
        assert upstream is not None
        if self.phase is not BEGUN:
            data = self._commit(data)
        self.phase = RELAYING
        now = self.first_byte_at = self.service.clock()
        if upstream.sse:
            self.service.balancer.first_token(self.lease, now)
        if not client.stalled:
            client.set_deadline(self.service.timeouts.idle)
        return data

    def _commit(self, data: bytes) -> bytes:
        """The first byte goes out now: from here on there is no moving."""
        response, upstream, client = self.response, self.upstream, self.client
        assert response is not None
        assert upstream is not None
        self.status = response.status
        if not self.unsent:  # nobody needs it again
            self._let_body_go()
        if client.stalled:  # it still has not read the answer before this one
            upstream.pause()
            client.set_deadline(self.service.timeouts.client_write)
        return client.answer_head(self, response, self._recode(upstream)) + data

    def _recode(self, upstream: Upstream) -> int:
        """How the framing of the answer differs from the backend's, see upstream.py."""
        return upstream.recode

    def answered(self, upstream: Upstream) -> None:
        """The answer was relayed to its end."""
        response = self.response
        assert response is not None
        if not self.relaying:
            self.relay(b"")  # an empty body has no first byte to wait for
        self.upstream = None
        if response.keep_alive and not upstream.closed and upstream.transport.get_write_buffer_size() == 0:
            upstream.resume()
            upstream.pool.give(upstream, self.service.clock())
        else:
            upstream.close()
        if self.facts.kind != Kind.CHEAP and upstream.tail:
            self.usage = read_usage(upstream.tail[-USAGE_TAIL:])
        produced = self.lease.produced
        if produced:
            self.lease.produced = max(produced - stream_overhead(self.path, self.facts), 0)
        tail, upstream.tail = upstream.tail, b""
        plain = self.status < 500 and ERROR_WORD not in tail  # almost every one, and so without a call
        self._end(OK if plain else judged(self, tail, stream=upstream.sse))

    def upstream_lost(self, *, answered: bool) -> None:
        """The connection went away before an answer began."""
        upstream = self.upstream
        if upstream is not None and not answered and upstream.requests > 1 and not self.resent and self.replay_safe:
            # A kept connection that the engine was closing as we wrote: no failure of anybody, send again.
            self.resent = True
            self.upstream = None
            self._send(fresh=True)
            return
        failed(self, CONNECT, "the connection to the backend broke before an answer began")

    def upstream_bad(self, message: str) -> None:
        """The backend's answer cannot be trusted."""
        failed(self, BAD_RESPONSE, message)

    def upstream_broken(self, message: str, error: str = UPSTREAM_BROKEN) -> None:
        """The answer broke off in its middle."""
        if not self.relaying:
            kind = "" if error == UPSTREAM_BROKEN else error
            failed(self, CONNECT, "the connection to the backend broke before an answer began", kind)
            return
        self.error = error
        self._break(message)

    # --- what the client reports -----------------------------------------------------------------------------

    def client_gone(self) -> None:
        """Nobody waits for the answer: free the GPU at once."""
        if self.phase is ENDED:
            return
        self.drop_upstream()
        self.status = self.status or 499
        self.error = "client_gone"
        self._end(CLIENT_GONE)

    def on_deadline(self) -> None:
        """The time of the phase is over."""
        if self.phase is CONNECTING:
            failed(self, CONNECT, "the backend did not accept a connection in time", CONNECT_TIMEOUT)
        elif self.phase is WAITING and self.unsent and self.upstream is not None:
            left = self.upstream.transport.get_write_buffer_size()
            if left < self.unsent:  # slow, but it reads
                self.upstream_blocked(left)
            else:
                failed(self, TIMEOUT, "the backend takes nothing of the request", SEND_TIMEOUT)
        elif self.phase is WAITING:
            failed(self, TIMEOUT, "the backend did not begin an answer in time")
        elif self.relaying:
            if self.client.stalled:
                self.error = "client_stalled"
                self.service.recorder.refused(self.error)
                self.drop_upstream()
                self._end(CLIENT_GONE, keep_client=True)
                self.client.abort()
            else:
                self.error = "upstream_idle"
                self._break("the backend stopped in the middle of its answer")

    def shutdown(self) -> None:
        """The drain's time is over."""
        if self.relaying:
            self.error = "shutdown"
            self._break("the balancer is shutting down", ABANDONED)
        elif self.phase is not ENDED:
            self.drop_upstream()
            self.refuse(503, "shutdown", "the balancer is shutting down: send the request again", None, 1)

    # --- ends ------------------------------------------------------------------------------------------------

    def _let_body_go(self) -> None:
        self.service.memory.used -= len(self.body)
        self.body = b""

    def drop_upstream(self) -> None:
        upstream, self.upstream = self.upstream, None
        if upstream is not None:
            upstream.close()

    def refuse(
        self,
        status: int,
        code: str,
        message: str,
        param: str | None = None,
        retry_after: int | None = None,
        error: str = "",
    ) -> None:
        """Answer with an error of our own; nothing of another answer was written yet. `error`: as the log calls it."""
        self.status = status
        self.error = error or code
        self._end(REFUSED, keep_client=True)
        respond_error(self, status, code, message, param, retry_after)

    def _break(self, message: str, outcome: str = FAILED) -> None:
        """End a begun answer so that nobody takes it for a whole one."""
        upstream, client = self.upstream, self.client
        event = b""
        if upstream is not None and upstream.sse and upstream.between_events:
            # The empty lines end an event that broke off half-way, so that ours can be read.
            event = b"\n\n" + error_event("stream_broken", message, anthropic=self.path == b"/v1/messages")
        self.drop_upstream()
        if outcome == FAILED:
            self.service.failed(self.lease.backend.id, self.error)
        self._end(outcome, keep_client=True)
        client.break_off(self, event)

    def _end(self, outcome: str, *, keep_client: bool = False) -> None:
        if self.phase is ENDED:
            return
        self.phase = ENDED
        if self.body:
            self._let_body_go()
        service = self.service
        now = service.clock()
        if self.lease is not None:
            worked = self.status < 300
            service.balancer.finish(self.lease, outcome, now, self.usage, self.error, worked=worked)
        service.recorder.finished(self, outcome, now)
        if not service.hash_prompts:  # a recording still reads them; records are kept long, and hashes are many
            self.facts.blocks = ()
        service.ended(self)
        if not keep_client:
            self.client.exchange_ended(self)
