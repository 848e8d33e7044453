"""What the brain knows of one backend: is it usable, what was sent there, how fast is it?

One mutable record per backend, changed only by the balancer and its parts (ledger, speeds, health);
policies read it. Loads are whole numbers, so a fleet at rest is at exactly zero.
"""

from __future__ import annotations

from fairlead.core.health.passive import PassiveFailures
from fairlead.core.health.probes import ProbeCounter
from fairlead.core.model import EngineStats

NO_STATS = EngineStats()


class Backend:
    """State of one engine instance. `id` is its configured name and never changes."""

    __slots__ = (
        "answered",
        "capacity",
        "contested",
        "decoding",
        "draining",
        "epoch",
        "errors",
        "id",
        "inflight",
        "kv_tokens",
        "last_first_token_at",
        "max_connections",
        "models",
        "output_pending",
        "passive",
        "placed",
        "polled_at",
        "probes",
        "prompt_pending",
        "seed",
        "seen_epoch",
        "slowdown",
        "speed",
        "speed_observed",
        "speed_predicted",
        "stats",
        "unseen_new",
        "unseen_old",
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
    ) -> None:
        self.id = id
        self.seed = seed  # 64-bit hash of the id: its place in consistent hashing
        self.weight = 1.0 if weight is None else weight
        self.weight_set = weight is not None
        self.max_connections = max_connections
        self.models = models  # None: not found out yet
        self.draining = False
        self.probes = probes
        self.passive = passive

        # the ledger's sums over open leases
        self.inflight = 0  # requests
        self.prompt_pending = 0  # prompt tokens sent and not yet prefilled, as far as we can tell
        self.output_pending = 0  # expected output tokens not yet produced
        self.decoding = 0  # requests past their first token
        self.kv_tokens = 0  # tokens of those requests, prompt and output: what a decode step reads
        self.last_first_token_at = float("-inf")

        # counters for shares and alerts
        self.placed = 0  # requests sent here, retries included
        self.contested = 0  # of these, the ones where another backend could have been chosen
        self.answered = 0  # requests that ended well
        self.errors = 0  # requests that this backend failed

        # the engine's own word, and which of our requests it cannot have counted yet
        self.stats = NO_STATS
        self.polled_at = float("-inf")
        self.epoch = 0  # polls started
        self.seen_epoch = 0  # requests sent in earlier epochs were there to be counted by an answered poll
        self.unseen_old = 0  # unanswered requests sent since the last answered poll, before a poll under way
        self.unseen_new = 0  # the same, sent since the last poll was started

        # learned speed: see speeds.py
        self.speed_observed = 0.0
        self.speed_predicted = 0.0
        self.slowdown = 1.0  # observed over predicted time, against the fleet's mean: 2 = half as fast
        self.speed = 1.0  # learned, the fleet's mean is 1; 1 where weights are set
        self.capacity = self.weight  # relative speed, the fleet's mean is 1; the weight where one is set

    @property
    def up(self) -> bool:
        """Do active checks call it healthy?"""
        return self.probes.up

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
