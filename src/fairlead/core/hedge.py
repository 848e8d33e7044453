"""When is a second backend asked, while the first one has said nothing yet? When, whether, and whom.

A request is hedged when its first byte is late: after a set delay, or (`auto`) when it takes longer than 19 of 20
requests did lately, against what was predicted for each of them. One hedge per request, whoever answers first is
taken: "The Tail at Scale" (Dean and Barroso, 2013).
Rule 1: never more hedges than `budget` times the requests that could have been hedged, at any moment since the start.
Rule 2: only where it is expected to help: on a backend with no queue, that should give its first token sooner than
        what the first one is still expected to take. While nobody is like that, the fleet is saturated: no hedge.
Rule 3: it counts as a try: `retries.attempts` and `retries.window` hold for it.
Rule 4: what is late by itself is no news: the delay follows the median backend of those that could have been chosen,
        so that one bad machine does not make its own lateness the usual.
Rule 5: what was given up early counts as having taken so long at least: in the delay, and in the learned speed.
Pure: a host says when it is time, and carries out what is decided. The simulator does not hedge.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from fairlead.core.balancer import ABANDONED
from fairlead.core.cluster.candidates import has_room
from fairlead.core.cluster.costs import prefill_seconds, step_seconds
from fairlead.core.cluster.ledger import NANO, Lease
from fairlead.core.model import Kind, Refusal
from fairlead.core.policies.expected_completion import CROWDED, first_token_after

if TYPE_CHECKING:
    from collections.abc import Collection

    from fairlead.core.balancer import Balancer
    from fairlead.core.cluster.backend import Backend

LATE: Final = 0.95  # the share of requests that are not late
FLOOR: Final = 0.1  # seconds: no delay that was learned is shorter
SLACK: Final = 0.05  # seconds that an answer may take beside its prompt: network, queues of the engine's front
KEPT: Final = 256  # requests of a backend that are remembered, of each of the two kinds
FEWEST: Final = 20  # before that many are known nothing is said of a backend
FRESH: Final = 16  # so many new ones, and the limit is worked out anew
BURST: Final = 10.0  # hedges that may be saved up

BUDGET, SATURATED, NO_BACKEND, TRIES = "budget", "saturated", "no_backend", "tries"  # why not
REASONS: Final = (BUDGET, SATURATED, NO_BACKEND, TRIES)
WON, LOST, FAILED, CANCELLED = "won", "lost", "failed", "cancelled"
OUTCOMES: Final = (WON, LOST, FAILED, CANCELLED)


@dataclass(frozen=True, slots=True)
class HedgeRules:
    """What the configuration allows."""

    delay: float | None = None  # seconds; None: learned
    budget: float = 0.05  # hedges per request


class Lateness:
    """How many times as long as predicted did one backend's last answers take to begin?"""

    __slots__ = ("_fresh", "_limit", "_ratios")

    def __init__(self) -> None:
        self._ratios: deque[float] = deque(maxlen=KEPT)
        self._fresh = 0
        self._limit: float | None = None

    def observe(self, ratio: float) -> None:
        self._ratios.append(ratio)
        self._fresh += 1

    @property
    def limit(self) -> float | None:
        """The ratio that only one of twenty exceeds; None while too few are known."""
        if self._fresh >= FRESH or (self._limit is None and len(self._ratios) >= FEWEST):
            if len(self._ratios) >= FEWEST:
                ordered = sorted(self._ratios)
                self._limit = ordered[min(int(LATE * len(ordered)), len(ordered) - 1)]
            self._fresh = 0
        return self._limit


class Hedges:
    """Decides on hedges, and learns when they are due. Not thread-safe: one loop drives it."""

    def __init__(self, balancer: Balancer, rules: HedgeRules) -> None:
        self._balancer = balancer
        self.rules = rules  # may be replaced: what was learned stays
        self._lateness: dict[tuple[str, bool], Lateness] = {}  # by backend, and by whether its first byte is the last
        self._saved = 0.0  # hedges that may be sent

    # --- when ------------------------------------------------------------------------------------------------

    def request(self) -> None:
        """A request came that may be hedged."""
        self._saved = min(self._saved + self.rules.budget, BURST)

    def predict(self, lease: Lease, now: float) -> float:
        """Seconds to the first byte of the answer to a request that was just placed."""
        return first_token_after(lease.backend, now) + _rest(lease, lease.backend)

    def delay(self, lease: Lease, predicted: float) -> float | None:
        """Seconds after which a hedge is due; None: nobody knows yet what is late."""
        if self.rules.delay is not None:
            return self.rules.delay
        limits = sorted(
            limit
            for b in lease.candidates
            if (known := self._lateness.get((b.id, _in_one_piece(lease)))) and (limit := known.limit) is not None
        )
        if not limits:
            return None
        return max(limits[(len(limits) - 1) // 2] * (predicted + SLACK), FLOOR)

    # --- whether, and whom -----------------------------------------------------------------------------------

    def send(
        self, lease: Lease, predicted: float, tried: Collection[str], tries: int, arrived: float, now: float
    ) -> Lease | str:
        """A lease on a second backend for a request that is late on its first; or why not."""
        balancer = self._balancer
        rules = balancer.retry_rules
        if tries > rules.attempts or now - arrived >= rules.window:
            return TRIES
        others = [b for b in lease.candidates if b is not lease.backend and b.id not in tried and self._is_sound(b)]
        if not others:
            return NO_BACKEND
        waited = now - lease.opened_at
        # What is late already will be later still: waits have long tails, so it is given as long again.
        left = max(predicted - waited, waited)
        free = [b for b in others if _has_no_queue(b) and _expected(lease, b, now) < left]
        if not free:
            return SATURATED
        if self._saved < 1.0 - 1e-9:  # sums of 5 % are not exact
            return BUDGET
        hedge = balancer.assign(lease.facts, now, (*tried, lease.backend.id), free)
        if isinstance(hedge, Refusal):
            return NO_BACKEND
        self._saved -= 1.0
        return hedge

    def _is_sound(self, backend: Backend) -> bool:
        """Is it still there, and well? One that comes back from a rest has enough to do."""
        passive = backend.passive
        return (
            self._balancer.backends.get(backend.id) is backend
            and backend.up
            and backend.enabled
            and not backend.draining
            and not passive.resting
            and not passive.ramping
            and has_room(backend)
        )

    # --- what came of it -------------------------------------------------------------------------------------

    def answered(self, lease: Lease, predicted: float, now: float) -> None:
        """The answer has begun."""
        key = (lease.backend.id, _in_one_piece(lease))
        known = self._lateness.get(key)
        if known is None:
            if len(self._lateness) > 2 * len(self._balancer.backends):  # of backends that left
                self._lateness = {k: v for k, v in self._lateness.items() if k[0] in self._balancer.backends}
            known = self._lateness[key] = Lateness()
        known.observe((now - lease.opened_at) / (predicted + SLACK))

    def overtaken(self, lease: Lease, predicted: float, now: float) -> None:
        """The hedge answered first: the first backend is let go of, not blamed, but known to be so slow at least."""
        if lease.open:
            self.answered(lease, predicted, now)
            self._balancer.speeds.overtaken(lease, now)
            self._balancer.finish(lease, ABANDONED, now)


def _in_one_piece(lease: Lease) -> bool:
    """Does the answer begin only when all of it was generated?"""
    return not lease.facts.stream and lease.facts.kind != Kind.PROMPT_ONLY


def _rest(lease: Lease, backend: Backend) -> float:
    """Seconds between the first token and the answer's first byte."""
    if not _in_one_piece(lease):
        return 0.0
    step = step_seconds(backend.kv_tokens, backend.decoding)
    return backend.decode_slowdown * step * lease.output_expected / lease.facts.n


def _has_no_queue(backend: Backend) -> bool:
    """Would a request be worked on at once there? By the engine's own word, and by what we sent."""
    return not (
        backend.stats.waiting
        or backend.foreign_waiting
        or backend.overdue > 1.0
        or backend.prefill_slowdown * backend.prefill_work / NANO > CROWDED
    )


def _expected(lease: Lease, backend: Backend, now: float) -> float:
    """Seconds to the answer's first byte on another backend, with nothing found in its cache."""
    own = prefill_seconds(max(lease.prompt_tokens, 1), 0)
    return first_token_after(backend, now, lease.prompt_tokens, own) + _rest(lease, backend)
