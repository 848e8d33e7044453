"""What do alerts look at? Plain numbers of one moment, of one process or of several together.

Whoever hosts the brain makes `FleetFacts` about once a second; rules see nothing else, so they are the same for one
process, for several workers and for a test that writes the numbers down by hand.
Rule 1: counters only grow, and begin again at zero with a backend that begins anew.
Rule 2: None is "not known", and no rule takes it for a number.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from statistics import median

from fairlead.core.cluster.backend import Backend

Counts = tuple[int, ...]
PLACED, CONTESTED, ANSWERED, ERRORS, TOKENS, TTFT = range(6)  # places in Counts; the buckets are from TTFT on


@dataclass(frozen=True, slots=True)
class BackendFacts:
    """Of one backend."""

    id: str
    up: bool = True  # do health checks find it well?
    wanted: bool = True  # False: somebody has drained or disabled it
    ejected: bool = False
    weight: float | None = None
    inflight: int = 0
    counts: Counts = (0, 0, 0, 0, 0)  # placed, contested, answered, errors, contested tokens, first tokens by bucket
    waiting: float | None = None  # requests in the engine's own queue
    pace: float | None = None  # its time for an average request, over its peers'; what weights explain is taken out
    metrics_age: float | None = None  # seconds since its metrics last told something
    distrusted: bool = False  # is the view of its prefix cache?

    @property
    def usable(self) -> bool:
        return self.up and self.wanted and not self.ejected


@dataclass(frozen=True, slots=True)
class FleetFacts:
    """Of all."""

    backends: tuple[BackendFacts, ...] = ()
    panics: tuple[str, ...] = ()  # models with so few usable backends that bad ones are tried
    overflows: int = 0  # counter: retries that the budget did not allow
    certificates: tuple[tuple[str, float], ...] = ()  # (where, seconds until the first of them ends)
    refused: str = ""  # why the last reload was refused, while an older configuration is in force
    bounds: tuple[float, ...] = field(default=(), repr=False)  # upper ends of the buckets of first tokens, seconds


def facts_of(
    backend: Backend, pace: float | None, now: float, *, tokens: int = 0, ttft: Iterable[int] = ()
) -> BackendFacts:
    """One backend's; what only the others or the host know is given to it."""
    b = backend
    return BackendFacts(
        id=b.id,
        up=b.up,
        wanted=b.enabled and not b.draining,
        ejected=b.passive.ejected(now),
        weight=b.weight if b.weight_set else None,
        inflight=b.inflight,
        counts=(b.placed, b.contested, b.answered, b.errors, tokens, *ttft),
        waiting=b.stats.waiting,
        pace=pace,
        metrics_age=now - b.polled_at if b.polled_at > float("-inf") else None,
        distrusted=b.trust.distrusted,
    )


def paces(backends: Iterable[Backend]) -> dict[str, float | None]:
    """How many times longer than its peers does each take? Peers are up and serve a model that it serves, too."""
    backends = list(backends)
    times = {b.id: b.slowdown * b.weight for b in backends}
    alike: dict[frozenset[str], list[float]] = {}  # a fleet has few sets of models, and many backends of each
    for models in {b.models for b in backends if b.models is not None}:
        peers = [b for b in backends if b.up and b.models is not None and not models.isdisjoint(b.models)]
        alike[models] = sorted(times[b.id] for b in peers)
    return {b.id: _pace(times[b.id], alike.get(b.models or frozenset(), []), among=b.up) for b in backends}


def _pace(own: float, times: list[float], *, among: bool) -> float | None:
    """Over the median of the times, of the others if it is among them."""
    place = bisect_left(times, own) if among else len(times)
    count = len(times) - (1 if among else 0)
    if count < 1:
        return None
    middle = [times[at if at < place else at + 1] if among else times[at] for at in ((count - 1) // 2, count // 2)]
    return own / (sum(middle) / 2)


# --- several processes ---------------------------------------------------------------------------------------


class Together:
    """The facts of several workers as those of one. A worker that dies leaves what it had counted."""

    def __init__(self) -> None:
        self._seen: dict[tuple[int, str], Counts] = {}  # what of each worker is in the sums
        self._sums: dict[str, Counts] = {}
        self._overflows_seen: dict[int, int] = {}
        self._overflows = 0

    def died(self, worker: int) -> None:
        """Its counters stay; its successor begins at zero."""
        self._seen = {key: counts for key, counts in self._seen.items() if key[0] != worker}
        self._overflows_seen.pop(worker, None)

    def merge(self, told: Mapping[int, FleetFacts], ids: Collection[str]) -> FleetFacts:
        """Of the workers that answered; `ids` are the backends of the configuration."""
        self._sums = {id: counts for id, counts in self._sums.items() if id in ids}
        self._seen = {key: counts for key, counts in self._seen.items() if key[1] in ids}
        each: dict[str, list[BackendFacts]] = {}
        for worker, facts in told.items():
            self._overflows += max(facts.overflows - self._overflows_seen.get(worker, 0), 0)
            self._overflows_seen[worker] = facts.overflows
            for one in facts.backends:
                if one.id in ids:
                    self._count(worker, one)
                    each.setdefault(one.id, []).append(one)
        first = next(iter(told.values()), FleetFacts())
        return FleetFacts(
            backends=tuple(replace(_worst(rows), counts=self._sums[id]) for id, rows in each.items()),
            panics=tuple(sorted({model for facts in told.values() for model in facts.panics})),
            overflows=self._overflows,
            certificates=_soonest([pair for facts in told.values() for pair in facts.certificates]),
            bounds=first.bounds,
        )

    def _count(self, worker: int, one: BackendFacts) -> None:
        key = worker, one.id
        before = self._seen.get(key, ())
        if before and one.counts[PLACED] < before[PLACED]:
            before = ()  # it has begun anew, with a backend that was replaced
        old, total = _padded(before, one.counts), _padded(self._sums.get(one.id, ()), one.counts)
        self._sums[one.id] = tuple(t + max(new - was, 0) for t, new, was in zip(total, one.counts, old, strict=True))
        self._seen[key] = one.counts


def _padded(counts: Counts, like: Counts) -> Counts:
    return counts + (0,) * (len(like) - len(counts))


def _worst(rows: list[BackendFacts]) -> BackendFacts:
    """What several see of one thing. One that finds it up is enough, one that lets it rest explains its share."""
    known = [row.waiting for row in rows if row.waiting is not None]
    paces = [row.pace for row in rows if row.pace is not None]
    ages = [row.metrics_age for row in rows if row.metrics_age is not None]
    return replace(
        rows[0],
        up=any(row.up for row in rows),
        wanted=any(row.wanted for row in rows),
        ejected=any(row.ejected for row in rows),
        inflight=max(row.inflight for row in rows),
        waiting=sum(known) / len(known) if known else None,
        pace=median(paces) if paces else None,
        metrics_age=max(ages) if ages else None,
        distrusted=any(row.distrusted for row in rows),
    )


def _soonest(pairs: Iterable[tuple[str, float]]) -> tuple[tuple[str, float], ...]:
    found: dict[str, float] = {}
    for where, left in pairs:
        found[where] = min(left, found.get(where, left))
    return tuple(sorted(found.items()))
