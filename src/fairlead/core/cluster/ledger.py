"""The ledger of leases: what load did we put where, and is it gone again?

A lease is the load of one request on one backend. It is opened once and closed exactly once on every path:
late callbacks may close again, only the first counts. Sums on the backend are whole numbers kept by
difference, so after any mix of events a fleet at rest stands at exactly zero.
"""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING

from fairlead.core.cluster.backend import Backend
from fairlead.core.cluster.costs import prefill_seconds
from fairlead.core.model import Facts
from fairlead.core.view import Choice, Policy

if TYPE_CHECKING:
    from fairlead.core.cluster.standing import Out
    from fairlead.core.shadow import Opinion

NANO = 1e9  # prefill work is kept in whole nanoseconds of the reference machine
SIGNALS = attrgetter("signals")
MIN_LEFT = 1  # a stream that runs past its expected length still has at least this many tokens to come


class Lease:
    """One request's load on one backend.

    Hosts count tokens in passing with `lease.produced += n`; the ledger takes them over at the next `settle`.
    """

    __slots__ = (
        "backend",
        "cached",
        "cached_raw",
        "candidates",
        "choice",
        "epoch",
        "facts",
        "first_token_at",
        "open",
        "opened_at",
        "opinion",
        "out",
        "output_expected",
        "output_left",
        "paused",
        "policy",
        "predicted_step",
        "previous_first_token_at",
        "produced",
        "prompt_left",
        "prompt_tokens",
        "settled",
        "signals",
        "uncached",
        "work",
    )

    def __init__(
        self,
        backend: Backend,
        facts: Facts,
        candidates: list[Backend],
        choice: Choice,
        prompt: int,
        output: int,
        cached: int,
        step: float,
        now: float,
    ) -> None:
        self.backend = backend
        self.facts = facts
        self.candidates = candidates  # as the policy saw them; never changed afterwards
        self.choice = choice
        self.policy: Policy | None = None  # whose choice it was, set by the balancer: explained in its own terms later
        self.opinion: Opinion | None = None  # what the shadow would have done, where there is one
        self.out: tuple[Out, ...] = ()  # who could not be had at that moment
        self.signals = list(map(SIGNALS, candidates))  # when we last heard of each
        self.opened_at = now
        self.prompt_tokens = prompt
        self.output_expected = output
        self.cached = cached  # prompt tokens that we expect the engine to find in its cache
        self.cached_raw = cached  # the same before the discount that trust.py makes
        self.uncached = max(prompt - cached, 1) if prompt else 0  # (at least one is always computed)
        self.work = int(prefill_seconds(self.uncached, cached) * NANO)  # part of backend.prefill_work until then
        self.prompt_left = self.uncached  # part of backend.prompt_pending
        self.output_left = output  # part of backend.output_pending
        self.produced = 0  # output tokens seen by the host
        self.settled = 0  # of these, taken into the backend's sums
        self.first_token_at: float | None = None
        self.previous_first_token_at = 0.0  # of another request on the same backend, when ours came
        self.predicted_step = step  # modelled seconds of a decode step under the load it found, see speeds.py
        self.epoch = backend.epoch
        self.open = True
        self.paused = False  # its client does not take what comes, so nothing is read from the engine

    def __repr__(self) -> str:
        state = "open" if self.open else "closed"
        return f"<Lease {self.backend.id} {state} prompt={self.prompt_left} output={self.output_left}>"


class Ledger:
    """Opens, moves and closes leases; the only writer of the backends' load sums."""

    __slots__ = ("closed", "leases", "opened")

    def __init__(self) -> None:
        self.leases: set[Lease] = set()  # open ones
        self.opened = 0
        self.closed = 0

    def open(self, lease: Lease) -> None:
        backend = lease.backend
        backend.price = None
        backend.inflight += 1
        backend.prompt_pending += lease.prompt_left
        backend.output_pending += lease.output_left
        backend.prefill_work += lease.work
        backend.unseen_new += 1
        backend.unstarted[lease] = None
        self.leases.add(lease)
        self.opened += 1

    def first_token(self, lease: Lease, now: float) -> bool:
        """The prompt is done: its tokens are no longer pending, the request decodes. False when that is known."""
        if lease.first_token_at is not None or not lease.open:
            return False
        backend = lease.backend
        backend.price = None
        backend.overdue = 1.0  # what was overdue is there; the next tick judges the rest
        lease.first_token_at = now
        lease.previous_first_token_at = backend.last_first_token_at
        backend.last_first_token_at = now
        backend.prompt_pending -= lease.prompt_left
        lease.prompt_left = 0
        backend.prefill_work -= lease.work
        del backend.unstarted[lease]
        backend.decoding += 1
        backend.kv_tokens += lease.prompt_tokens
        self._seen(lease)
        return True

    def settle(self, lease: Lease) -> None:
        """Take the tokens produced since the last time into the backend's sums."""
        new = lease.produced - lease.settled
        if not new or not lease.open or lease.first_token_at is None:
            return
        backend = lease.backend
        lease.settled = lease.produced
        backend.price = None
        backend.kv_tokens += new
        left = max(lease.output_expected - lease.produced, MIN_LEFT)
        backend.output_pending += left - lease.output_left
        lease.output_left = left

    def close(self, lease: Lease) -> bool:
        """Give the load back; False when that was done before."""
        if not lease.open:
            return False
        lease.open = False
        backend = lease.backend
        backend.price = None
        backend.inflight -= 1
        if not backend.inflight:
            backend.overdue = 1.0
        backend.prompt_pending -= lease.prompt_left
        backend.output_pending -= lease.output_left
        if lease.first_token_at is not None:
            backend.decoding -= 1
            backend.kv_tokens -= lease.prompt_tokens + lease.settled
        else:
            backend.prefill_work -= lease.work
            del backend.unstarted[lease]
            self._seen(lease)
        self.leases.discard(lease)
        self.closed += 1
        return True

    @staticmethod
    def _seen(lease: Lease) -> None:
        """The request left the engine's queue: a poll no longer has to be told of it."""
        backend = lease.backend
        if lease.epoch == backend.epoch:
            backend.unseen_new -= 1
        elif lease.epoch >= backend.seen_epoch:
            backend.unseen_old -= 1
