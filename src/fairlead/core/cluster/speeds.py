"""How fast is each backend, compared with its peers?

Tokens per second alone mislead: an engine that batches makes more of them the more it is given. So the time
that a request took is held against the time that a reference machine would have needed under the same load;
the ratio of the two sums is the backend's slowdown, its inverse against the fleet's mean the capacity.

Reference step time (continuous batching with chunked prefill, Llama-3.1-8B on an H100; since only ratios
between backends are used, the absolute scale does not matter):
    step    = BASE + KV * (tokens read by the decodes) + SEQ * (requests decoding)
    prefill = TOKEN * u + ATTENTION * u * u / 2 + ceil(u / BUDGET) * step,  u = prompt tokens not found cached
    decode  = (output tokens - 1) * step
slowdown = (observed + PRIOR * g) / (predicted + PRIOR), decayed sums, g the same ratio over the whole fleet and
PRIOR worth a few requests: a ratio of sums that is shrunk to the mean does not swing as a mean of ratios would.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import ceil, exp

from fairlead.core.cluster.backend import Backend
from fairlead.core.cluster.ledger import Lease

BASE = 6.8e-3  # seconds per step
TOKEN = 20e-6  # seconds per prefilled token
ATTENTION = 1.3e-9  # seconds per token and token of context
KV = 0.076e-6  # seconds per KV token read in a decode step
SEQ = 5e-6  # seconds per decoding request
BUDGET = 8192  # tokens per step

MEMORY_SECONDS = 60.0  # e-folding time of what was learned
PRIOR_REQUESTS = 3.0  # requests of average size that the fleet's mean is worth


def step_seconds(backend: Backend) -> float:
    """Modelled decode step of the reference machine under the load that a request finds."""
    return BASE + KV * backend.kv_tokens + SEQ * backend.decoding


def prefill_seconds(uncached: int, step: float) -> float:
    """Modelled prefill of `uncached` tokens beside decodes whose step takes `step` seconds."""
    return TOKEN * uncached + ATTENTION * uncached * uncached / 2 + ceil(uncached / BUDGET) * step


class Speeds:
    """Learns slowdowns from finished requests and writes `slowdown` and `capacity` of the backends."""

    __slots__ = ("_mean_predicted", "_refreshed_at", "_samples")

    def __init__(self) -> None:
        self._mean_predicted = 0.0  # of one request, decayed
        self._samples = 0.0
        self._refreshed_at = float("-inf")

    def close(self, lease: Lease, output_tokens: int, cached_tokens: int, now: float) -> None:
        """Learn from a request that ended well at `now`."""
        backend = lease.backend
        step = lease.predicted_step
        predicted = prefill_seconds(max(lease.prompt_tokens - cached_tokens, 1), step)
        if output_tokens > 1:
            predicted += (output_tokens - 1) * step
        began = lease.opened_at
        if lease.first_token_at is not None and lease.previous_first_token_at > began:
            # Prefills of one engine go one after the other: the wait behind another one is not ours.
            # (Without a first token to observe, as with answers in one piece, the wait counts.)
            began = lease.previous_first_token_at
        backend.speed_observed += now - began
        backend.speed_predicted += predicted
        self._mean_predicted = self._mean_predicted * 0.99 + predicted
        self._samples = self._samples * 0.99 + 1.0

    def refresh(self, backends: Iterable[Backend], now: float) -> None:
        """Forget a little and work out slowdowns and capacities; by the balancer's tick, not per request."""
        backends = list(backends)
        fade = exp(-max(now - self._refreshed_at, 0.0) / MEMORY_SECONDS) if self._samples else 0.0
        self._refreshed_at = now
        prior = PRIOR_REQUESTS * self._mean_predicted / self._samples if self._samples else 0.0
        # Each backend counts about once in the mean, however much traffic it gets; one of which little is known
        # (any more) counts little, or one bad moment long ago would be held against it for ever.
        known = [
            (b.speed_observed / b.speed_predicted, b.speed_predicted / (b.speed_predicted + prior))
            for b in backends
            if b.speed_predicted > 0.0
        ]
        evidence = sum(weight for _, weight in known)
        mean = sum(ratio * weight for ratio, weight in known) / evidence if evidence else 0.0
        weighted = any(b.weight_set for b in backends)
        for b in backends:
            if mean > 0.0:
                b.slowdown = (b.speed_observed + prior * mean) / ((b.speed_predicted + prior) * mean)
                b.speed_observed *= fade
                b.speed_predicted *= fade
            # A weight that somebody set says what to believe; learned speeds serve those who set none.
            b.speed = 1.0 if weighted else 1.0 / b.slowdown
            b.capacity = b.weight if weighted else b.speed
