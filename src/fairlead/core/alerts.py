"""The share alert: does one backend get nearly all of the traffic while another could take some?

Counted are requests for which there was a choice (another backend was healthy and served the model), over a
sliding window. Raised when one backend got more than `threshold` of them; not when weights that somebody set
explain it, never for a lone healthy backend. Cleared with some hysteresis, so that it does not flap.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from fairlead.core.cluster.backend import Backend

SAMPLES = 12  # readings per window
HYSTERESIS = 0.05  # the share has to fall this far below the threshold to clear
EXPLAINED = 1.1  # a share up to this many times what the weights ask for is as configured


@dataclass(frozen=True, slots=True)
class ShareRules:
    """When to raise."""

    threshold: float = 0.8  # of the window's requests
    window: float = 60.0  # seconds
    min_requests: int = 20  # in the window; fewer say nothing


@dataclass(frozen=True, slots=True)
class Alert:
    """An alert that stands."""

    name: str
    backend: str
    since: float  # host clock
    value: float
    message: str


class ShareAlert:
    """Watches the shares. `observe` is called about once a second and returns (raised, cleared)."""

    def __init__(self, rules: ShareRules | None = None) -> None:
        self.rules = rules or ShareRules()
        self.shares: dict[str, float] = {}  # of all requests in the window, by backend
        self.active: dict[str, Alert] = {}
        self._readings: deque[tuple[float, dict[Backend, tuple[int, int]]]] = deque()
        self._counts: dict[Backend, tuple[int, int]] = {}
        self._sampled_at = float("-inf")

    def observe(self, backends: Iterable[Backend], now: float) -> tuple[list[Alert], list[Alert]]:
        """Take the counters of now; new alerts and those that ended."""
        backends = list(backends)
        # Keyed by the object, not the name: one that left and came back begins anew. Those that left still count in
        # the total until the window has passed, or the rest would seem to have had all of it.
        counts = self._counts
        counts.update((b, (b.placed, b.contested)) for b in backends)
        if now - self._sampled_at >= self.rules.window / SAMPLES:
            self._readings.append((now, dict(counts)))
            self._sampled_at = now
            # Keep one reading at or before the window's start, so that a window is never shorter than it says.
            while len(self._readings) > 2 and self._readings[1][0] <= now - self.rules.window:
                self._readings.popleft()
        before = self._readings[0][1]
        for gone in [b for b in counts if b not in backends and before.get(b) == counts[b]]:
            del counts[gone]
        placed = {b: n - before.get(b, (0, 0))[0] for b, (n, _) in counts.items()}
        contested = {b: n - before.get(b, (0, 0))[1] for b, (_, n) in counts.items()}
        total = sum(placed[b] for b in backends)
        self.shares = {b.id: placed[b] / total if total else 0.0 for b in backends}
        return self._judge(backends, contested, now)

    def _judge(
        self, backends: list[Backend], contested: dict[Backend, int], now: float
    ) -> tuple[list[Alert], list[Alert]]:
        rules, total = self.rules, sum(contested.values())
        usable = [b for b in backends if b.up and not b.draining and not b.passive.ejected(now)]
        weighted = any(b.weight_set for b in backends)
        weights = sum(b.weight for b in usable)
        raised: list[Alert] = []
        cleared: list[Alert] = []
        for b in backends:
            share = contested[b] / total if total else 0.0
            explained = weighted and b in usable and share <= EXPLAINED * b.weight / weights
            others = any(other is not b for other in usable)
            standing = b.id in self.active
            limit = rules.threshold - (HYSTERESIS if standing else 0.0)
            bad = b in usable and total >= rules.min_requests and share > limit and others and not explained
            if bad and not standing:
                message = (
                    f"backend {b.id} got {share:.0%} of {total} requests in the last {rules.window:.0f} s "
                    "while another healthy backend could have taken some"
                )
                alert = self.active[b.id] = Alert("backend_share", b.id, now, share, message)
                raised.append(alert)
            elif standing and not bad:
                cleared.append(self.active.pop(b.id))
        present = {b.id for b in backends}
        for id in [id for id in self.active if id not in present]:
            cleared.append(self.active.pop(id))
        return raised, cleared
