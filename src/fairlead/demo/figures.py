"""The comparison's arithmetic: from single results to one policy's figures.

Rule 1: pure. Only requests that were answered in full count for times and hits; the others are counted, not hidden.
Rule 2: a percentile lies between the two nearest results (linear), as most people's tools have it.
Rule 3: no figure is None because it is small: None means that there was nothing to measure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from fairlead.demo.client import BROKEN, OK, REFUSED, UNFINISHED, Result

LATE_SECONDS: Final = 0.05  # an event loop this late spoils the times that are compared here
LATE_SHARE: Final = 0.1  # of the half seconds looked at


def percentile(values: Sequence[float], share: float) -> float | None:
    """The value below which `share` of them lie; `values` in any order."""
    if not values:
        return None
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


@dataclass(frozen=True, slots=True)
class Spread:
    """Seconds."""

    mean: float | None
    p50: float | None
    p99: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        mean = sum(values) / len(values) if values else None
        return cls(mean, percentile(values, 0.5), percentile(values, 0.99))


@dataclass(frozen=True, slots=True)
class Lateness:
    """How well the machine kept up: looks at the event loops of all processes, one each half second."""

    looks: int = 0
    late: int = 0
    worst: float = 0.0  # seconds

    def and_one(self, seconds: float) -> Lateness:
        return Lateness(self.looks + 1, self.late + (seconds > LATE_SECONDS), max(self.worst, seconds))

    @property
    def spoils(self) -> bool:
        return self.late > LATE_SHARE * self.looks


@dataclass(frozen=True, slots=True)
class Figures:
    """One policy's row of the comparison."""

    policy: str
    requests: int  # sent
    finished: int
    errors: int
    unfinished: int  # given up at the end of the run
    seconds: float  # from the first request due to the last answer's end
    ttft: Spread
    whole: Spread  # end to end
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    placed: Mapping[str, int]  # requests by backend, as the balancer counted
    failures: Mapping[str, int]  # errors by what happened
    lateness: Lateness
    complete: bool  # False: stopped before all requests were sent

    @property
    def hit_ratio(self) -> float | None:
        return self.cached_tokens / self.prompt_tokens if self.prompt_tokens else None

    @property
    def requests_per_second(self) -> float | None:
        return self.finished / self.seconds if self.finished and self.seconds > 0 else None

    @property
    def shares(self) -> dict[str, float]:
        total = sum(self.placed.values())
        return {name: count / total if total else 0.0 for name, count in self.placed.items()}

    def as_json(self) -> dict[str, Any]:
        """For `--json`; seconds rounded to microseconds."""
        return {
            "policy": self.policy,
            "requests": self.requests,
            "finished": self.finished,
            "errors": self.errors,
            "failures": dict(self.failures),
            "unfinished": self.unfinished,
            "complete": self.complete,
            "seconds": round(self.seconds, 3),
            "requests_per_second": _rounded(self.requests_per_second),
            "ttft_seconds": {name: _rounded(value) for name, value in asdict(self.ttft).items()},
            "end_to_end_seconds": {name: _rounded(value) for name, value in asdict(self.whole).items()},
            "prompt_tokens": self.prompt_tokens,
            "cached_tokens": self.cached_tokens,
            "output_tokens": self.output_tokens,
            "prefix_hit_ratio": _rounded(self.hit_ratio),
            "share": {name: _rounded(share) for name, share in self.shares.items()},
            "late_loops": {"share": _rounded(self.lateness.late / max(self.lateness.looks, 1)),
                           "worst_seconds": _rounded(self.lateness.worst)},
        }  # fmt: skip


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)


def figures(
    policy: str, results: Sequence[Result], placed: Mapping[str, int], lateness: Lateness, complete: bool
) -> Figures:
    """One policy's figures."""
    well = [r for r in results if r.outcome == OK]
    failures = Counter(
        f"status {r.status}" if r.outcome == REFUSED else "broken connection"
        for r in results
        if r.outcome in (BROKEN, REFUSED)
    )
    begun = results[0].at if results else 0.0
    return Figures(
        policy=policy,
        requests=len(results),
        finished=len(well),
        errors=sum(failures.values()),
        unfinished=sum(r.outcome in (UNFINISHED, "") for r in results),
        seconds=max((r.at + r.end for r in well), default=begun) - begun,
        ttft=Spread.of([r.first_token for r in well]),
        whole=Spread.of([r.end for r in well]),
        prompt_tokens=sum(r.prompt_tokens for r in well),
        cached_tokens=sum(r.cached_tokens for r in well),
        output_tokens=sum(r.output_tokens for r in well),
        placed=dict(placed),
        failures=dict(failures),
        lateness=lateness,
        complete=complete,
    )


def times_better(figure: float | None, other: float | None) -> float | None:
    """How many times smaller is `figure` than `other`?"""
    return other / figure if figure and other else None
