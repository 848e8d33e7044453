"""Which engine model explains what was measured? Two factors and a cache size per backend, fitted by replaying.

Every request is replayed on the backend where it really went (`Pinned`), so queues and batches build up as they did.
Then simulated and measured sums are compared per backend, and two factors over a built-in profile are corrected:
`prefill` (its coefficients per prompt token) by the time to the first token, `step` (base and the rest) by the time
after it. A few damped rounds bring them together; nothing is random.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from fairlead.core.model import Facts
from fairlead.core.view import Choice, View
from fairlead.emulator.profiles import PROFILES, Profile
from fairlead.sim.fleet import Fleet, Member
from fairlead.sim.host import Simulation
from fairlead.sim.trace import NO_REQUEST, OK, Measured, Outcome, Request, Run, Trace

START: Final = "h100-8b"
ROUNDS: Final = 10
DAMPING: Final = 0.7  # share of the correction that is made in a round
BOUNDS: Final = (0.02, 50.0)
KV_SHARES: Final = (1.0, 0.5, 0.3, 0.15, 3.0)  # of the starting profile's cache that are tried


class Pinned:
    """Sends every request where it was recorded to have gone; the request's session is its number."""

    name = "as recorded"
    term_names = ("recorded here",)
    needs_prefixes = False

    def __init__(self, backends: Sequence[str]) -> None:
        self._backends = backends

    def choose(self, facts: Facts, view: View) -> Choice:
        wanted = self._backends[int(facts.session or 0)]
        scores = [0.0 if b.id == wanted else 1.0 + b.inflight for b in view.backends]
        index = scores.index(min(scores))
        return Choice(index, "as recorded", scores, [(float(b.id == wanted),) for b in view.backends])


@dataclass(frozen=True, slots=True)
class Fit:
    """One backend's engine, as factors over the built-in profile `h100-8b`."""

    backend: str
    prefill: float = 1.0  # time per prompt token, times
    step: float = 1.0  # time of a decode step, times
    kv_share: float = 1.0  # of its KV cache
    requests: int = 0  # that it was fitted by

    def profile(self) -> Profile:
        """The engine model with these factors."""
        base = PROFILES[START]
        return dataclasses.replace(
            base,
            name=self.backend,
            prefill=base.prefill * self.prefill,
            attention=base.attention * self.prefill,
            base=base.base * self.step,
            kv_read=base.kv_read * self.step,
            sequence=base.sequence * self.step,
            kv_tokens=int(base.kv_tokens * self.kv_share),
            max_model_len=min(base.max_model_len, int(base.kv_tokens * self.kv_share)),
        )

    def alike(self, other: Fit) -> bool:
        """Is it the same kind of machine, as far as can be told?"""
        return all(1 / 1.2 < one / two < 1.2 for one, two in ((self.prefill, other.prefill), (self.step, other.step)))


def usable(trace: Trace) -> Trace:
    """The requests that were answered in full, with their measurements, as an open loop."""
    kept = [
        (r, m)
        for r, m in zip(trace.requests, trace.measured, strict=False)
        if m.status == OK and m.backend and m.duration > 0
    ]
    requests: list[Request] = [dataclasses.replace(r, after=NO_REQUEST) for r, _ in kept]
    return dataclasses.replace(trace, requests=requests, measured=[m for _, m in kept])


def fleet_of(fits: Sequence[Fit], text: str = "as recorded") -> Fleet:
    """The fitted machines."""
    return Fleet(text, tuple(Member(fit.backend, fit.profile()) for fit in fits))


def replay(trace: Trace, fits: Sequence[Fit]) -> Run:
    """The trace on the fitted machines, every request where it really went."""
    numbered = [dataclasses.replace(r, session=str(i)) for i, r in enumerate(trace.requests)]
    pinned = Pinned([m.backend for m in trace.measured])
    return Simulation(dataclasses.replace(trace, requests=numbered), fleet_of(fits), pinned).run()


def calibrate(trace: Trace, stop: int | None = None) -> list[Fit]:
    """Factors for every backend of a `usable` trace, by its first `stop` requests (all of them).

    A backend that comes only later is taken to be like the one that was used most. Later requests are replayed as well,
    as load: without them the last ones before `stop` would run in less company than they had.
    """
    learned = trace.measured[:stop]
    seen = Counter(m.backend for m in learned)
    usual = max(sorted(seen), key=lambda name: seen[name])
    names = sorted(seen) + sorted({m.backend for m in trace.measured} - seen.keys())
    fits = [Fit(name, requests=seen[name]) for name in names]

    def followed(fits: Sequence[Fit]) -> list[Fit]:
        like = next(fit for fit in fits if fit.backend == usual)
        return [fit if fit.requests else dataclasses.replace(like, backend=fit.backend, requests=0) for fit in fits]

    def fitted(fits: Sequence[Fit]) -> list[Fit]:
        for _ in range(ROUNDS):
            outcomes = replay(trace, fits).outcomes[: len(learned)]
            fits = followed([_corrected(fit, learned, outcomes) for fit in fits])
        return list(fits)

    fits = fitted(fits)
    if not any(m.cached for m in learned):
        return fits
    told = sum(m.cached or 0 for m in learned)

    def error(share: float) -> int:
        outcomes = replay(trace, [dataclasses.replace(fit, kv_share=share) for fit in fits]).outcomes
        found = sum(o.cached for o, m in zip(outcomes, learned, strict=False) if m.cached is not None)
        return abs(found - told)

    best = min(KV_SHARES, key=error)  # the first of equals
    if best == KV_SHARES[0]:
        return fits
    return fitted([dataclasses.replace(fit, kv_share=best) for fit in fits])  # what was missing was taken for slowness


def _corrected(fit: Fit, learned: Sequence[Measured], outcomes: Sequence[Outcome]) -> Fit:
    first = [0.0, 0.0]  # measured, simulated seconds to the first token
    rest = [0.0, 0.0]  # and after it
    for measured, outcome in zip(learned, outcomes, strict=True):
        if measured.backend != fit.backend or outcome.ttft is None:
            continue
        if measured.ttft is None:  # an answer in one piece: all of its time is one sum
            rest[0] += measured.duration
            rest[1] += outcome.e2e
            continue
        first[0] += measured.ttft
        first[1] += outcome.ttft
        rest[0] += measured.duration - measured.ttft
        rest[1] += outcome.e2e - outcome.ttft
    return dataclasses.replace(fit, prefill=_moved(fit.prefill, *first), step=_moved(fit.step, *rest))


def _moved(factor: float, measured: float, simulated: float) -> float:
    if measured <= 0 or simulated <= 0:
        return factor
    low, high = BOUNDS
    moved: float = factor * (measured / simulated) ** DAMPING
    return min(max(moved, low), high)
