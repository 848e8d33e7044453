"""From single outcomes to figures: how good was a run, how sure is that, and how do two policies compare?

Rule 1: pure, and nothing is flattered. Times are those of requests that were answered in full; every other request is
counted, and is a miss in the goodput. None means that there was nothing to measure, never that it was small.
Rule 2: the first tenth of the requests (by arrival; `skip`) is warm-up: caches are cold and queues empty. It is left
out of times, goodput, hit ratio, load and backend rows. Counts (completed, refused, failed, unfinished, retries) and
the output rate cover the whole run: a failure is a failure whenever it happens.
Rule 3: a percentile lies between the two nearest values (linear interpolation; numpy's default, type 7 in R).
Rule 4: policies are compared seed by seed. Both sides saw the same arrivals, so what the seeds share cancels out.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from fairlead.sim.trace import FAILED, OK, REFUSED, UNFINISHED, Outcome, Request, Run, Trace

SKIP: Final = 0.1  # of the requests are warm-up

T_975: Final = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
    2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
    2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip
"""Student's t, 97.5 % quantile, for 1 to 30 degrees of freedom."""


@dataclass(frozen=True, slots=True)
class Slo:
    """What a request has to keep to count as good. Seconds."""

    ttft: float = 5.0
    tpot: float = 0.1


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds."""

    mean: float | None
    p50: float | None
    p90: float | None
    p99: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> Times:
        ordered = sorted(values)
        mean = statistics.fmean(ordered) if ordered else None
        return cls(mean, quantile(ordered, 0.5), quantile(ordered, 0.9), quantile(ordered, 0.99))


@dataclass(frozen=True, slots=True)
class BackendRow:
    """One backend's part of a run, after the warm-up."""

    name: str
    profile: str
    requests: int  # placed there last: one that moved counts where it ended up, one that was refused nowhere
    share: float | None  # of all requests that were placed
    tokens: int  # prompt tokens that were not in its cache + output tokens
    token_share: float | None
    ttft: float | None  # mean seconds
    hit_ratio: float | None


@dataclass(frozen=True, slots=True)
class Summary:
    """One run in figures."""

    trace: str
    policy: str
    fleet: str
    seed: int
    reference: bool
    slo: Slo
    skip: float
    offered: int  # requests of the trace
    counted: int  # of these, after the warm-up
    completed: int
    refused: int
    failed: int
    unfinished: int
    retries: int
    preemptions: int
    rate: float | None  # requests that arrived per second, from the first to the last arrival
    ttft: Times
    e2e: Times
    tpot: Times
    goodput: float | None  # share of the offered requests that kept the SLO, 0..1
    hit_ratio: float | None  # prompt tokens found in a cache / prompt tokens, of answered requests
    load_tokens: float | None  # most loaded backend / mean over backends, by tokens worked on
    load_requests: float | None  # the same by requests
    output_rate: float | None  # output tokens of answered requests per second
    backends: tuple[BackendRow, ...]

    @property
    def is_uniform(self) -> bool:
        """Are all backends alike? If they are not, the best max/mean load is not the lowest."""
        return len({row.profile for row in self.backends}) < 2


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure of a summary: how it is called and written, and which is better (-1 less, 1 more, 0 neither)."""

    key: str
    label: str
    unit: str  # "s", "share", "factor", "/s" or "count"
    better: int
    get: Callable[[Summary], float | None]


def _times(key: str, label: str, of: Callable[[Summary], Times]) -> tuple[Figure, ...]:
    return (
        Figure(f"{key}_mean", f"{label} mean", "s", -1, lambda s: of(s).mean),
        Figure(f"{key}_p50", f"{label} p50", "s", -1, lambda s: of(s).p50),
        Figure(f"{key}_p90", f"{label} p90", "s", -1, lambda s: of(s).p90),
        Figure(f"{key}_p99", f"{label} p99", "s", -1, lambda s: of(s).p99),
    )


FIGURES: Final[Mapping[str, Figure]] = {
    figure.key: figure
    for figure in (
        *_times("ttft", "TTFT", lambda s: s.ttft),
        *_times("e2e", "E2E", lambda s: s.e2e),
        *_times("tpot", "TPOT", lambda s: s.tpot),
        Figure("goodput", "goodput", "share", 1, lambda s: s.goodput),
        Figure("hit_ratio", "hit ratio", "share", 1, lambda s: s.hit_ratio),
        Figure("load_tokens", "max/mean load", "factor", -1, lambda s: s.load_tokens),
        Figure("load_requests", "max/mean requests", "factor", -1, lambda s: s.load_requests),
        Figure("output_rate", "output tok/s", "/s", 1, lambda s: s.output_rate),
        Figure("completed", "completed", "count", 1, lambda s: s.completed),
        Figure("not_completed", "not answered", "count", -1, lambda s: s.refused + s.failed + s.unfinished),
        Figure("refused", "refused", "count", -1, lambda s: s.refused),
        Figure("failed", "failed", "count", -1, lambda s: s.failed),
        Figure("unfinished", "unfinished", "count", -1, lambda s: s.unfinished),
        Figure("retries", "retries", "count", 0, lambda s: s.retries),
        Figure("preemptions", "preemptions", "count", 0, lambda s: s.preemptions),
    )
}


def quantile(ordered: Sequence[float], share: float) -> float | None:
    """The value below which `share` of them lie; `ordered` ascends."""
    if not ordered:
        return None
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def after_warm_up(run: Run, skip: float = SKIP) -> list[Outcome]:
    """The outcomes that count, in the order of arrival."""

    def arrival(one: Outcome) -> tuple[bool, float, int]:
        # What was never sent may never have come (the turn before it failed): its `arrived` says nothing.
        return one.status == UNFINISHED and not one.tries, one.arrived, one.request

    return sorted(run.outcomes, key=arrival)[int(skip * len(run.outcomes)) :]


def keeps(one: Outcome, request: Request, slo: Slo) -> bool:
    """Was it answered in time? An answer without tokens has to end within the TTFT."""
    if one.status != OK:
        return False
    ttft, tpot = one.ttft, one.tpot(request.output)
    return (one.e2e if ttft is None else ttft) <= slo.ttft and (tpot is None or tpot <= slo.tpot)


def summarize(run: Run, trace: Trace, slo: Slo | None = None, skip: float = SKIP) -> Summary:
    """The run's figures; `trace` is what it was given."""
    slo, requests = slo or Slo(), trace.requests
    every, counted = run.outcomes, after_warm_up(run, skip)
    well = [one for one in counted if one.status == OK]
    rows = _rows(run, requests, counted)
    arrivals = [one.arrived for one in every if one.tries or one.status != UNFINISHED]
    answered = [one for one in every if one.status == OK]
    tpots = [one.tpot(requests[one.request].output) for one in well]
    return Summary(
        trace=run.trace,
        policy=run.policy,
        fleet=run.fleet,
        seed=run.seed,
        reference=run.reference,
        slo=slo,
        skip=skip,
        offered=len(every),
        counted=len(counted),
        completed=len(answered),
        refused=sum(one.status == REFUSED for one in every),
        failed=sum(one.status == FAILED for one in every),
        unfinished=sum(one.status == UNFINISHED for one in every),
        retries=sum(max(one.tries - 1, 0) for one in every),
        preemptions=run.preemptions,
        rate=_over(len(arrivals) - 1, max(arrivals) - min(arrivals)) if arrivals else None,
        ttft=Times.of([one.ttft for one in well if one.ttft is not None]),
        e2e=Times.of([one.e2e for one in well]),
        tpot=Times.of([tpot for tpot in tpots if tpot is not None]),
        goodput=_over(sum(keeps(one, requests[one.request], slo) for one in counted), len(counted)),
        hit_ratio=_hit_ratio(well, requests),
        load_tokens=_max_over_mean([row.tokens for row in rows]),
        load_requests=_max_over_mean([row.requests for row in rows]),
        output_rate=_over(
            sum(requests[one.request].output for one in answered),
            max(one.ended for one in answered) - min(arrivals),
        )
        if answered
        else None,
        backends=rows,
    )


def _rows(run: Run, requests: Sequence[Request], counted: Sequence[Outcome]) -> tuple[BackendRow, ...]:
    sent: dict[str, list[Outcome]] = {name: [] for name in run.backends}
    for one in counted:
        if one.backend and one.status != REFUSED:  # refused by the engine, or moved and then found no place
            sent[one.backend].append(one)
    worked = {
        name: sum(requests[one.request].prompt - one.cached + requests[one.request].output for one in there)
        for name, there in sent.items()
    }
    all_requests, all_tokens = sum(map(len, sent.values())), sum(worked.values())
    rows = []
    for name, profile in zip(run.backends, run.profiles, strict=True):
        well = [one for one in sent[name] if one.status == OK]
        ttft = Times.of([one.ttft for one in well if one.ttft is not None]).mean
        rows.append(
            BackendRow(
                name=name,
                profile=profile,
                requests=len(sent[name]),
                share=_over(len(sent[name]), all_requests),
                tokens=worked[name],
                token_share=_over(worked[name], all_tokens),
                ttft=ttft,
                hit_ratio=_hit_ratio(well, requests),
            )
        )
    return tuple(rows)


def _hit_ratio(well: Sequence[Outcome], requests: Sequence[Request]) -> float | None:
    return _over(sum(one.cached for one in well), sum(requests[one.request].prompt for one in well))


def _max_over_mean(values: Sequence[int]) -> float | None:
    return _over(max(values, default=0) * len(values), sum(values))


def _over(part: float, whole: float) -> float | None:
    return part / whole if whole > 0 else None


# --- several seeds -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Spread:
    """One figure over several seeds."""

    mean: float | None  # None if any seed has none: the mean of the luckier ones would flatter
    deviation: float | None  # standard deviation of a sample; None for a single seed


@dataclass(frozen=True, slots=True)
class Combined:
    """The runs of one policy over one fleet and one trace."""

    trace: str
    fleet: str
    policy: str
    reference: bool
    summaries: tuple[Summary, ...]  # in the order of their seeds
    figures: Mapping[str, Spread]  # by the keys of FIGURES

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(summary.seed for summary in self.summaries)

    @property
    def rate(self) -> float | None:
        """Requests per second that were offered."""
        return _spread([summary.rate for summary in self.summaries]).mean


def combine(summaries: Sequence[Summary]) -> Combined:
    """Mean and spread of runs that differ by their seed alone."""
    kinds = {(s.trace, s.fleet, s.policy, s.reference, s.slo, s.skip) for s in summaries}
    if len(kinds) != 1:
        raise ValueError(f"runs of one trace, fleet and policy are needed to combine them, got {len(kinds)} kinds")
    ordered = tuple(sorted(summaries, key=lambda s: s.seed))
    first = ordered[0]
    if len({s.seed for s in ordered}) < len(ordered):
        raise ValueError(f"two runs of {first.policy!r} over {first.fleet!r} and {first.trace!r} have the same seed")
    figures = {key: _spread([figure.get(s) for s in ordered]) for key, figure in FIGURES.items()}
    return Combined(first.trace, first.fleet, first.policy, first.reference, ordered, figures)


def combine_all(summaries: Sequence[Summary]) -> list[Combined]:
    """The same for many: one for each (trace, fleet, policy), in the order of their first appearance."""
    kinds: dict[tuple[str, str, str], list[Summary]] = {}
    for summary in summaries:
        kinds.setdefault((summary.trace, summary.fleet, summary.policy), []).append(summary)
    return [combine(same) for same in kinds.values()]


def _spread(values: Sequence[float | None]) -> Spread:
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return Spread(None, None)
    return Spread(statistics.fmean(known), statistics.stdev(known) if len(known) > 1 else None)


@dataclass(frozen=True, slots=True)
class Difference:
    """How much higher is a figure than the base's, in percent of the base? `low` to `high` holds it with 95 %."""

    figure: str
    pairs: int  # seeds that both sides have and in which both have the figure
    percent: float | None
    low: float | None = None  # None for fewer than two pairs: one pair says nothing about chance
    high: float | None = None


def compare(base: Sequence[Summary], other: Sequence[Summary], figure: str = "ttft_mean") -> Difference:
    """The paired relative difference of `other` to `base`, over the seeds that both have."""
    get = FIGURES[figure].get
    bases = {summary.seed: get(summary) for summary in base}
    differences = []
    for summary in sorted(other, key=lambda s: s.seed):
        was, now = bases.get(summary.seed), get(summary)
        if was and now is not None:  # nothing can be told in percent of 0
            differences.append((now - was) / was * 100)
    pairs = len(differences)
    if not pairs:
        return Difference(figure, 0, None)
    mean = statistics.fmean(differences)
    if pairs < 2:
        return Difference(figure, pairs, mean)
    half = t_quantile(pairs - 1) * statistics.stdev(differences) / pairs**0.5
    return Difference(figure, pairs, mean, mean - half, mean + half)


def t_quantile(freedom: int) -> float:
    """Student's t, 97.5 %; beyond the table within 0.002."""
    return T_975[freedom - 1] if freedom <= len(T_975) else 1.96 + 2.4 / freedom
