"""Where does a request stand in its trace, and which spans are to be told of it?

Only with `tracing`: an exchange without a `Trace` pays one look at None. Spans themselves are made later, of the
finished record and of what is noted here (control/tracing.py).
Rule 1: who asks decides whether a trace is kept (its sampled flag); where nobody asks, `sample` does.
Rule 2: a request whose asker keeps no trace is passed on as it came: there is no span of ours to name.
Rule 3: each attempt at a backend is a span of its own, and the backend is told that span as its parent.
"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Final

from fairlead.wire.trace_context import SAMPLED, Parent, parent_value, read_parent

if TYPE_CHECKING:
    from fairlead.core.cluster.ledger import Lease
    from fairlead.proxy.exchange import Exchange
    from fairlead.wire.http1 import RequestHead

FIRST, RETRY, HEDGE, RESUME = "first", "retry", "hedge", "resume"  # why a backend was asked
_NAMES: Final = (b"traceparent", b"tracestate")


class Attempt:
    """One try at one backend. It began when its lease did."""

    __slots__ = ("ended", "error", "first_byte_at", "lease", "outcome", "reason", "span_id", "status")

    def __init__(self, lease: Lease, span_id: bytes, reason: str) -> None:
        self.lease = lease
        self.span_id = span_id
        self.reason = reason
        self.ended = 0.0
        self.status: int | None = None  # of its answer, where it gave one
        self.error = ""  # short fixed word where it failed
        self.outcome = ""  # of the hedge's race, where it was in one and did not fail
        self.first_byte_at = 0.0


class Trace:
    """The context of one request."""

    __slots__ = ("_rng", "attempts", "flags", "forward", "kind", "parent_id", "span_id", "state", "trace_id")

    def __init__(self, parent: Parent | None, sampled: bool, forward: bytes, rng: Random) -> None:
        self._rng = rng
        self.forward = forward  # the client's header lines without those that tell of a trace
        self.span_id = _some_id(rng, 64)
        self.attempts: list[Attempt] = []
        self.kind = ""  # of the request, see core/model.py; set at its end
        if parent is None:
            self.trace_id, self.parent_id, self.state = _some_id(rng, 128), b"", b""
            self.flags = SAMPLED if sampled else 0
        else:
            self.trace_id, self.parent_id, self.flags, self.state = parent

    @property
    def sampled(self) -> bool:
        return bool(self.flags & SAMPLED)

    def asks(self, lease: Lease, reason: str) -> None:
        """A backend is asked."""
        if self.flags & SAMPLED:
            self.attempts.append(Attempt(lease, _some_id(self._rng, 64), reason))

    def lines(self, backend: str) -> bytes:
        """Header lines for a backend that is asked, each after a CRLF."""
        span_id = self.span_id
        for attempt in reversed(self.attempts):
            if attempt.lease.backend.id == backend:
                span_id = attempt.span_id
                break
        line = b"\r\ntraceparent: " + parent_value(self.trace_id, span_id, self.flags)
        return b"%b\r\ntracestate: %b" % (line, self.state) if self.state else line

    def over(self, lease: Lease, now: float, error: str = "", outcome: str = "") -> None:
        """The try with this lease has come to its end; that of the whole request is `close`."""
        for attempt in reversed(self.attempts):
            if attempt.lease is lease and not attempt.ended:
                attempt.ended, attempt.outcome = now, outcome
                attempt.error = error
                if error.isdigit():
                    attempt.status = int(error)
                return

    def close(self, exchange: Exchange, now: float) -> None:
        """The request is over, and so is its last attempt."""
        self.kind = exchange.facts.kind
        response = exchange.response
        for attempt in self.attempts:
            if attempt.ended:
                continue
            attempt.ended, attempt.error = now, exchange.error
            if response is not None and attempt.lease is exchange.lease:
                attempt.status = response.status
                attempt.first_byte_at = exchange.first_byte_at


class Tracer:
    """Begins traces. One per service."""

    __slots__ = ("_bound", "_rng")

    def __init__(self, sample: float, rng: Random | None = None) -> None:
        """`sample` of the requests that belong to no trace yet are kept, from 0 to 1."""
        self._bound = round(sample * (1 << 64))
        self._rng = rng or Random()  # noqa: S311 -- names spans, guards nothing

    def begin(self, head: RequestHead) -> Trace | None:
        """What a request that came with this head belongs to; None: it goes on as it came."""
        forward = head.forward
        parent = None
        if b"\r\ntrace" in forward.lower():  # else there is no need to look at each line
            forward, parent = _parted(head)
        if parent is None:
            return Trace(None, self._rng.getrandbits(64) < self._bound, forward, self._rng)
        return Trace(parent, True, forward, self._rng) if parent.sampled else None


def _parted(head: RequestHead) -> tuple[bytes, Parent | None]:
    """The lines that tell of no trace, each after a CRLF, and what the others tell."""
    told: tuple[list[bytes], list[bytes]] = [], []
    others = []
    for line in head.lines:
        name, _, value = line.partition(b":")
        key = name.lower()
        if key in _NAMES:
            told[_NAMES.index(key)].append(value.strip(b" \t"))
        else:
            others.append(b"\r\n" + line)
    return b"".join(others), read_parent(*told)


def _some_id(rng: Random, bits: int) -> bytes:
    """An identifier of so many bits, none of them all zero."""
    return b"%0*x" % (bits // 4, rng.getrandbits(bits) or 1)
