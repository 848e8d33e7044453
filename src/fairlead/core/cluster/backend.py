"""What the brain knows of one backend: is it usable, what was sent there, how fast is it?

One mutable record per backend, changed only by the balancer and its parts (ledger, speeds, health);
policies read it. Loads are whole numbers, so a fleet at rest is at exactly zero.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from fairlead.core.cluster.latency import PeakEwma
from fairlead.core.cluster.prefix import Shelf
from fairlead.core.cluster.speed import Speed
from fairlead.core.cluster.trust import Trust
from fairlead.core.health.passive import PassiveFailures
from fairlead.core.health.probes import ProbeCounter
from fairlead.core.model import EngineStats

if TYPE_CHECKING:
    from fairlead.core.cluster.ledger import Lease

NO_STATS = EngineStats()
METRICS, PROBER = TROUBLES = ("metrics", "prober")  # a reading without numbers; a fault in a loop of the watch

Price = tuple[float, float, float, float, float, float, float, float, float, float, bool]
"""What a request's time on a backend depends on, as seconds per unit of what the request brings.

(first-token seconds per second of prefill, stall of streams per second of prefill, decodes that get longer, own decode
seconds per output token, prefill slowdown, decode slowdown; seconds of prefill queued, since when its head is worked
on, most of it that may be taken for done; weight; have other balancers load here?)
"""


class Signals(NamedTuple):
    """When did we last hear what a choice goes by? Seconds on the host's clock, kept with each decision."""

    metrics: float  # a reading of its metrics that was believed
    check: float  # an active check's result
    speed: float  # a request that ended there and told how fast it is


NEVER: Final = float("-inf")
SILENT: Final = Signals(NEVER, NEVER, NEVER)


class Places(Protocol):
    """Requests in flight on one backend, counted by several processes together; see remote.py."""

    def taken(self) -> int: ...

    def take(self) -> None: ...

    def give(self) -> None: ...


class Backend:
    """State of one engine instance. `id` is its configured name and never changes."""

    __slots__ = (
        "answered",
        "answered_at",
        "backup",
        "cache_found",
        "cache_predicted",
        "capacity",
        "contested",
        "contradictions",
        "decode",
        "decode_slowdown",
        "decoding",
        "draining",
        "enabled",
        "epoch",
        "errors",
        "foreign_running",
        "foreign_waiting",
        "id",
        "inflight",
        "kv_tokens",
        "last_first_token_at",
        "latency",
        "max_connections",
        "mirrored",
        "models",
        "news_at",
        "news_work",
        "output_pending",
        "overdue",
        "passive",
        "placed",
        "places",
        "poll_decoding",
        "poll_inflight",
        "polled_at",
        "prefill",
        "prefill_slowdown",
        "prefill_work",
        "price",
        "probes",
        "progress_at",
        "prompt_pending",
        "seed",
        "seen_epoch",
        "shelf",
        "signals",
        "slowdown",
        "speed",
        "stats",
        "troubles",
        "trust",
        "unseen_new",
        "unseen_old",
        "unstarted",
        "weight",
        "weight_set",
    )

    def __init__(
        self,
        id: str,
        *,
        seed: int,
        weight: float | None,
        max_connections: int | None,
        models: frozenset[str] | None,
        probes: ProbeCounter,
        passive: PassiveFailures,
        shelf: Shelf,
    ) -> None:
        self.id = id
        self.seed = seed  # 64-bit hash of the id: its place in consistent hashing
        self.weight = 1.0 if weight is None else weight
        self.weight_set = weight is not None
        self.max_connections = max_connections
        self.models = models  # None: not found out yet
        self.draining = False
        self.enabled = True  # False: the operator lets it have no requests
        self.backup = False  # it gets requests only while no other can take them
        self.probes = probes
        self.passive = passive

        # the ledger's sums over open leases
        self.inflight = 0  # requests
        self.prompt_pending = 0  # prompt tokens sent, not thought cached there and not yet prefilled
        self.prefill_work = 0  # the time that these take: nanoseconds of the reference machine, see costs.py
        self.unstarted: dict[Lease, None] = {}  # requests before their first token, in the order they were sent
        self.output_pending = 0  # expected output tokens not yet produced
        self.decoding = 0  # requests past their first token
        self.kv_tokens = 0  # tokens of those requests, prompt and output: what a decode step reads
        self.last_first_token_at = float("-inf")
        self.progress_at = float("-inf")  # when tokens of running streams were last seen
        self.answered_at = float("-inf")  # when a request that it had to work for last ended well

        # counters for shares and alerts
        self.placed = 0  # requests sent here, retries included
        self.contested = 0  # of these, the ones where another backend could have been chosen
        self.answered = 0  # requests that ended well
        self.errors = 0  # requests that this backend failed
        self.mirrored = 0  # requests that other processes of this balancer sent here, see remote.py
        self.troubles = dict.fromkeys(TROUBLES, 0)  # of those who watch it
        self.places: Places | None = None  # where these count what is in flight; None: there are none

        # the engine's own word, and which of our requests it cannot have counted yet
        self.stats = NO_STATS
        self.polled_at = float("-inf")
        self.signals = SILENT  # another object whenever one of them is new
        self.epoch = 0  # polls started
        self.seen_epoch = 0  # requests sent in earlier epochs were there to be counted by an answered poll
        self.unseen_old = 0  # unanswered requests sent since the last answered poll, before a poll under way
        self.unseen_new = 0  # the same, sent since the last poll was started
        self.news_at = float("-inf")  # when it last said something else than before, see readings.py
        self.news_work = self.contradictions = 0

        # load of other balancers on this engine, from its own word; see foreign.py
        self.poll_inflight = self.poll_decoding = 0  # our own load when the poll under way was started, see foreign.py
        self.foreign_waiting = 0.0  # requests
        self.foreign_running = 0.0

        # What a request's time here depends on, as expected_completion keeps it; None: something has changed since.
        self.price: Price | None = None

        # learned speed: see speeds.py
        self.prefill = Speed()
        self.decode = Speed()
        self.prefill_slowdown = 1.0  # observed over predicted seconds: 2 = half as fast as the reference machine
        self.decode_slowdown = 1.0
        self.latency = PeakEwma()  # seconds to the first token (of an answer in one piece: to its end)
        self.overdue = 1.0  # how many times its usual time the work at hand takes already, 1 unless it is overdue
        self.slowdown = 1.0  # of an average request, against the fleet's mean: 2 = half as fast
        self.speed = 1.0  # learned, the fleet's mean is 1; 1 where weights are set
        self.capacity = self.weight  # relative speed, the fleet's mean is 1; the weight where one is set

        # what its prefix cache is thought to hold
        self.shelf = shelf
        self.trust = Trust()
        self.cache_predicted = 0.0  # tokens predicted for requests started since its counters were last judged
        self.cache_found = 0.0  # by how many its counter of found tokens has grown since

    def heard(self) -> None:
        """One of its signals is new."""
        self.signals = Signals(self.polled_at, self.probes.checked_at, max(self.prefill.at, self.decode.at))

    @property
    def up(self) -> bool:
        """Do active checks call it healthy?"""
        return self.probes.up

    @property
    def delivered_at(self) -> float:
        """When did anything last come out of the engine?"""
        return max(self.progress_at, self.last_first_token_at, self.answered_at)

    def serves(self, model: str | None) -> bool:
        """Can it be offered a request for `model` (None: any)?"""
        models = self.models
        if models is None:
            return False
        return model is None or model in models or "*" in models

    def __repr__(self) -> str:
        state = "up" if self.up else "down"
        return (
            f"<Backend {self.id} {state} inflight={self.inflight} pending={self.prompt_pending}+{self.output_pending}>"
        )
