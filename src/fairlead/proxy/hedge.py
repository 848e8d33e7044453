"""The second try of a request, beside its exchange; and what is kept of the race between the two.

To its connection a `Hedge` is an exchange. It never writes to the client: what counts is passed on to the exchange that
has taken it over, see hedging.py.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, NamedTuple

from fairlead.core.retry import CONNECT
from fairlead.proxy.forwarded import request_head
from fairlead.proxy.tries import BAD_RESPONSE, CONNECTING, ENGINE_ERROR, UPSTREAM_BROKEN, WAITING
from fairlead.proxy.upstream import Upstream
from fairlead.wire.endings import tells_server_error

if TYPE_CHECKING:
    from fairlead.core.cluster.ledger import Lease
    from fairlead.core.hedge import Hedges
    from fairlead.proxy.hedging import Hedging
    from fairlead.wire.http1 import ResponseHead

MAX_COMMENTS: Final = 65_536  # bytes of comments that a hedge may send before its first event

RUNNING, LEADING, OVER = "running", "leading", "over"  # beside the exchange; taken over by it; closed


class Told(NamedTuple):
    """For the records: who was asked, and what came of the hedge (see core/hedge.py)."""

    first: str
    second: str
    outcome: str


class Race:
    """What an exchange knows of its hedge, before, while and after there is one."""

    __slots__ = ("due", "first", "hedges", "lease", "outcome", "predicted", "refused", "side", "timer")

    def __init__(self, hedges: Hedges) -> None:
        self.hedges = hedges
        self.predicted = 0.0  # seconds to the first byte from the backend of the exchange's lease
        self.timer: asyncio.TimerHandle | None = None  # the wheel's tenths of a second would be long for a short wait
        self.due = 0.0  # when it shall fire
        self.refused = False  # was a hedge wanted that could not be had?
        self.side: Hedge | None = None  # while both run
        self.first = ""  # the backend that was asked first
        self.lease: Lease | None = None  # the hedge's, once there was one
        self.outcome = ""

    @property
    def told(self) -> Told | None:
        return Told(self.first, self.lease.backend.id, self.outcome) if self.lease is not None else None


class Hedge:
    """The second try of an exchange. To its connection it is an exchange; it passes on what comes once it leads."""

    __slots__ = (
        "_exchange", "body", "comments", "counted", "lease", "path", "phase", "predicted", "resent",
        "response", "sent_at", "state", "unsent", "upstream",
    )  # fmt: skip

    def __init__(self, exchange: Hedging, lease: Lease, body: bytes, predicted: float) -> None:
        self._exchange = exchange
        self.upstream: Upstream | None = None
        self.state = RUNNING
        self.lease = lease
        self.predicted = predicted
        self.path = exchange.path
        self.body = body
        self.counted = 0 if body is exchange.body else len(body)  # of it, in `service.memory`, by us
        exchange.service.memory.used += self.counted
        self.phase = CONNECTING
        self.response: ResponseHead | None = None
        self.comments = b""  # that came before its first event
        self.unsent = 0
        self.resent = False
        self.sent_at = 0.0

    def send(self, *, fresh: bool) -> None:
        service = self._exchange.service
        pool = service.pool_of(self.lease.backend.id)
        self.response = None
        self.phase = CONNECTING
        upstream = None if fresh else pool.take()
        if upstream is not None:
            self.connected(upstream)
            return
        self.upstream = upstream = Upstream(pool)
        service.connect(self, upstream)

    def close(self) -> None:
        """Let go of its connection: the engine is to stop working for us."""
        self.state = OVER
        upstream, self.upstream = self.upstream, None
        if upstream is not None:
            upstream.close()

    def _failed(self, reason: str, kind: str = "", *, broke: bool = False) -> None:
        if self.state is RUNNING:
            self._exchange.side_failed(reason, kind, broke=broke)

    # --- what the upstream reports ---------------------------------------------------------------------------

    def connected(self, upstream: Upstream) -> None:
        exchange = self._exchange
        if self.state is LEADING:
            exchange.connected(upstream)
            return
        self.upstream = upstream
        self.phase = WAITING
        self.sent_at = exchange.service.clock()
        self.unsent = 0
        upstream.send(self, request_head(exchange, upstream.pool, len(self.body)), self.body)

    def connect_failed(self, message: str, kind: str = CONNECT) -> None:
        if self.state is LEADING:
            self._exchange.connect_failed(message, kind)
        else:
            self._failed(CONNECT, kind, broke=self.resent and kind == CONNECT)

    def upstream_blocked(self, unsent: int) -> None:
        self.unsent = unsent

    def upstream_took_all(self) -> None:
        self.unsent = 0

    def informational(self, response: ResponseHead) -> None:
        """A 1xx of one that may not win is not for the client."""

    def head_received(self, response: ResponseHead) -> bool:
        if response.status >= 400:
            self._failed(str(response.status))
            return False
        upstream, exchange = self.upstream, self._exchange
        assert upstream is not None
        self.response = response
        upstream.begin(response, bodyless=response.status in (204, 304), plain=exchange.is_plain(response))
        return True

    def relay(self, data: bytes) -> None:
        """The first piece of its answer: it has won, unless that is an error."""
        exchange = self._exchange
        if self.state is RUNNING:
            upstream = self.upstream
            assert upstream is not None
            if data and tells_server_error(data, stream=upstream.sse):
                self._failed(ENGINE_ERROR)
            else:
                exchange.overtaken()
        if self.state is LEADING:
            exchange.relay(data)

    def relay_comments(self, data: bytes) -> None:
        if self.state is LEADING:
            self._exchange.relay_comments(data)
            return
        self.comments += data
        if len(self.comments) > MAX_COMMENTS:
            self._failed(BAD_RESPONSE)

    def answered(self, upstream: Upstream) -> None:
        """All of it came, and nothing of it was worth relaying."""
        if self.state is RUNNING:
            self._exchange.overtaken()
        if self.state is LEADING:
            self._exchange.answered(upstream)

    def upstream_lost(self, *, answered: bool) -> None:
        upstream = self.upstream
        if upstream is not None and not answered and upstream.requests > 1 and not self.resent:
            # A kept connection that the engine was closing as we wrote: no failure of anybody, send again.
            self.resent = True
            self.upstream = None
            self.send(fresh=True)
            return
        self._failed(CONNECT, broke=True)

    def upstream_bad(self, message: str) -> None:
        self._failed(BAD_RESPONSE)

    def upstream_broken(self, message: str, error: str = UPSTREAM_BROKEN) -> None:
        if self.state is LEADING:
            self._exchange.upstream_broken(message, error)
        else:
            kind = "" if error == UPSTREAM_BROKEN else error
            self._failed(CONNECT, kind, broke=self.phase is WAITING and not kind)
