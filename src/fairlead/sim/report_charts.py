"""What the report draws: from runs to the descriptions that charts.js understands (see the top of that file).

Rule 1: thinned here, so that a report stays small: a distribution is 107 quantiles, a course at most 60 moments, a
number four digits. What is thinned is said beside the chart.
Rule 2: a policy has the same colour and dashes in every chart; so has a backend.
Rule 3: a distribution is of all offered requests: what was not answered never gets there, and the curve ends lower.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Final

from fairlead.sim.summary import Combined, Slo, after_warm_up, quantile
from fairlead.sim.trace import OK, Outcome, Run, Sample

Spec = dict[str, Any]

MOMENTS: Final = 60
PER_STRETCH: Final = 50  # requests that a stretch of time should have, to speak of shares
LEAST_STRETCHES: Final = 10  # about as many there are of a short run too
BANDS: Final = 8  # backends with a colour of their own; the others share one
SHARES: Final = tuple(sorted({*(n / 100 for n in range(101)), 0.001, 0.005, 0.995, 0.998, 0.999, 0.9995}))
DIGITS: Final = 4
ALL_THE_REST: Final = -1  # its colour


def label(policy: str, reference: bool) -> str:
    return f"{policy} (reference)" if reference else policy


def short(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


# --- distributions and figures ---------------------------------------------------------------------------------


def ttft_distribution(runs: Mapping[str, Sequence[Run]], colours: Mapping[str, int], slo: Slo, skip: float) -> Spec:
    """Time to first token; `runs` by policy, one for each seed."""
    return _distribution(runs, colours, skip, "ttft") | {
        "title": "Time to first token",
        "text": "Share of the offered requests that had their first token within a time (logarithmic). "
        "Higher and further left is better; a curve that ends below 100% lost requests.",
        "x": {"label": "time to first token", "unit": "s"},
        "marks": [{"at": slo.ttft, "label": f"SLO {slo.ttft:g} s"}],
    }


def e2e_distribution(runs: Mapping[str, Sequence[Run]], colours: Mapping[str, int], skip: float) -> Spec:
    """Arrival to the last token."""
    return _distribution(runs, colours, skip, "e2e") | {
        "title": "Whole answer (E2E)",
        "text": "Share of the offered requests that were answered in full within a time (logarithmic).",
        "x": {"label": "arrival to the last token", "unit": "s"},
        "marks": [],
    }


def _distribution(runs: Mapping[str, Sequence[Run]], colours: Mapping[str, int], skip: float, of: str) -> Spec:
    series = []
    for policy, seeds in runs.items():
        counted = [one for run in seeds for one in after_warm_up(run, skip)]
        values = sorted(v for one in counted if (v := _time(one, of)) is not None)
        series.append(
            {
                "name": label(policy, seeds[0].reference),
                "colour": colours[policy],
                "values": [short(v) for share in SHARES if (v := quantile(values, share)) is not None],
                "of": short(len(values) / len(counted)) if counted else 0,
            }
        )
    return {"kind": "cdf", "shares": SHARES, "series": series}


def _time(one: Outcome, of: str) -> float | None:
    if one.status != OK:
        return None
    return one.ttft if of == "ttft" else one.e2e


def bars(rows: Sequence[Combined], colours: Mapping[str, int], key: str, unit: str, title: str, text: str) -> Spec:
    """One figure for each policy, grouped by fleet where there are several."""
    fleets = {row.fleet for row in rows}
    found = []
    for row in rows:
        spread = row.figures[key]
        bar = {
            "name": label(row.policy, row.reference),
            "colour": colours[row.policy],
            "value": None if spread.mean is None else short(spread.mean),
        }
        if spread.deviation is not None:
            bar["spread"] = short(spread.deviation)
        if len(fleets) > 1:
            bar["group"] = row.fleet
        found.append(bar)
    return {"kind": "bar", "title": title, "text": text, "unit": unit, "bars": found}


def goodput_by_rate(rows: Sequence[Combined], colours: Mapping[str, int], fleet: str, text: str) -> Spec | None:
    """Goodput against the offered rate, over one fleet; None where there is one trace alone."""
    rows = [row for row in rows if row.fleet == fleet and row.rate is not None]
    rates: dict[str, list[float]] = {}
    for row in rows:
        rates.setdefault(row.trace, []).append(row.rate or 0.0)
    at = {trace: short(sum(found) / len(found)) for trace, found in rates.items()}
    if len(set(at.values())) < 2:
        return None
    order = sorted(at, key=lambda trace: at[trace])
    by_place = {(row.policy, row.trace): row.figures["goodput"].mean for row in rows}
    policies = {row.policy: row.reference for row in rows}
    return {
        "kind": "line",
        "points": True,
        "title": f"Goodput against load: {fleet}",
        "text": text,
        "at": [at[trace] for trace in order],
        "x": {"label": "requests per second", "unit": "/s"},
        "y": {"label": "goodput", "unit": "share", "max": 1},
        "series": [
            {
                "name": label(policy, reference),
                "colour": colours[policy],
                "y": [None if (v := by_place.get((policy, trace))) is None else short(v) for trace in order],
            }
            for policy, reference in policies.items()
        ],
    }


# --- courses ---------------------------------------------------------------------------------------------------


def thinned(samples: Sequence[Sample]) -> list[Sample]:
    """At most MOMENTS + 1 of them, at even distances, the first and the last one included."""
    if len(samples) <= MOMENTS + 1:
        return list(samples)
    return [samples[round(n * (len(samples) - 1) / MOMENTS)] for n in range(MOMENTS + 1)]


def waiting_by_policy(runs: Mapping[str, Run], colours: Mapping[str, int]) -> Spec:
    """All requests that wait, over time: a line for each policy. The samples of runs may be at different times."""
    end = max((run.samples[-1].at for run in runs.values() if run.samples), default=0.0)
    at = [short(end * n / MOMENTS) for n in range(1, MOMENTS + 1)] if end else []
    return {
        "kind": "line",
        "title": "Requests waiting",
        "text": "In the engines' queues and held back by the balancer, the whole fleet together, at single moments.",
        "at": at,
        "x": {"label": "time", "unit": "time"},
        "y": {"label": "requests", "unit": "count"},
        "series": [
            {"name": label(policy, run.reference), "colour": colours[policy], "y": _waiting_at(run.samples, at)}
            for policy, run in runs.items()
        ],
    }


def _waiting_at(samples: Sequence[Sample], at: Sequence[float]) -> list[int | None]:
    """At each moment what the last sample before it says; None after the run's end."""
    found: list[int | None] = []
    place = 0
    for moment in at:
        while place < len(samples) and samples[place].at <= moment:
            place += 1
        last = samples[place - 1] if place else None
        over = place == len(samples) and found and last is not None and last.at < moment
        found.append(None if last is None or over else sum(last.waiting) + last.held)
    return found


def share_over_time(run: Run, title: str) -> Spec:
    """To which backend did the requests of each stretch of time go?"""
    spans, sent = _stretches(run.samples)
    totals = [sum(each) for each in sent]
    columns = [
        [short(each[place] / total) for each, total in zip(sent, totals, strict=True)]
        for place in range(len(run.backends))
    ]
    last = run.samples[-1].placed if run.samples else []
    return {
        "kind": "area",
        "title": title,
        "text": "Share of the requests that were sent to each backend, by stretch of time.",
        "at": [short((start + end) / 2) for start, end in spans],
        "x": {"label": "time", "unit": "time"},
        "y": {"label": "share of requests", "unit": "share", "max": 1},
        "series": _bands(run, columns, last),
    }


def _stretches(samples: Sequence[Sample]) -> tuple[list[tuple[float, float]], list[list[int]]]:
    """(start and end, requests sent to each backend), each of many requests: a share of a few is all chance."""
    # a backend that left counts nothing any more: that is no request taken back
    gains = [[max(b - a, 0) for a, b in zip(x.placed, y.placed, strict=True)] for x, y in pairwise(samples)]
    total = sum(map(sum, gains))
    enough = max(total / MOMENTS, min(PER_STRETCH, total / LEAST_STRETCHES), 1)
    spans: list[tuple[float, float]] = []
    sent: list[list[int]] = []
    start, since = samples[0].at if samples else 0.0, [0] * len(samples[0].placed) if samples else []
    for gain, after in zip(gains, samples[1:], strict=True):
        since = [a + b for a, b in zip(since, gain, strict=True)]
        if sum(since) >= enough:
            spans.append((start, after.at))
            sent.append(since)
            start, since = after.at, [0] * len(since)
    if spans:  # the rest is too little for a stretch of its own
        spans[-1] = (spans[-1][0], samples[-1].at)
        sent[-1] = [a + b for a, b in zip(sent[-1], since, strict=True)]
    return spans, sent


def queue_over_time(run: Run, title: str) -> Spec:
    """The requests that wait at each backend."""
    samples = thinned(run.samples)
    columns: list[list[float]] = [[each.waiting[place] for each in samples] for place in range(len(run.backends))]
    series = _bands(run, columns, run.samples[-1].placed if run.samples else [])
    if any(each.held for each in samples):
        held = {"name": "held by the balancer", "colour": ALL_THE_REST, "y": [each.held for each in samples]}
        series.append(held)
    return {
        "kind": "area",
        "title": title,
        "text": "Requests in the engines' queues at single moments. Each policy's chart has its own scale.",
        "at": [short(each.at) for each in samples],
        "x": {"label": "time", "unit": "time"},
        "y": {"label": "requests waiting", "unit": "count"},
        "series": series,
    }


def _bands(run: Run, columns: Sequence[Sequence[float]], placed: Sequence[int]) -> list[dict[str, Any]]:
    """A band for each backend; of many, the busiest have their own and the others are added up."""
    names = [f"{name} ({profile})" for name, profile in zip(run.backends, run.profiles, strict=True)]
    order = list(range(len(names)))
    if len(order) > BANDS and placed:
        busiest = sorted(sorted(order, key=lambda place: (-placed[place], place))[: BANDS - 1])
    else:
        busiest = order[:BANDS]
    bands: list[dict[str, Any]] = [
        {"name": names[place], "colour": number, "y": list(columns[place])} for number, place in enumerate(busiest)
    ]
    rest = [columns[place] for place in order if place not in busiest]
    if rest:
        added = [short(sum(each)) for each in zip(*rest, strict=True)]
        bands.append({"name": f"the other {len(rest)}", "colour": ALL_THE_REST, "y": added})
    return bands
