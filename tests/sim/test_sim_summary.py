"""The figures of a run: what counts, what does not, and what several seeds say."""

from __future__ import annotations

import dataclasses
import statistics
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sim_runs import done, made_up, run_of, trace_of

from fairlead.sim.summary import (
    FIGURES,
    Slo,
    Spread,
    Summary,
    after_warm_up,
    combine,
    combine_all,
    compare,
    quantile,
    summarize,
    t_quantile,
)
from fairlead.sim.trace import FAILED, REFUSED, Outcome, Request

ASK = Request(0.0, prompt=100, output=11)


def test_times_are_means_and_percentiles_of_what_was_answered() -> None:
    outcomes = [done(i, float(i), ttft=0.1 * (i + 1), e2e=0.1 * (i + 1) + 1.0) for i in range(5)]
    found = summarize(run_of(outcomes), trace_of(*[ASK] * 5), skip=0)
    assert found.ttft.mean == pytest.approx(0.3)
    assert found.ttft.p50 == pytest.approx(0.3)
    assert found.ttft.p90 == pytest.approx(0.46)  # between 0.4 and 0.5, as numpy has it
    assert found.e2e.mean == pytest.approx(1.3)
    assert found.tpot.mean == pytest.approx(0.1)  # 1 s for the ten tokens after the first
    assert found.output_rate == pytest.approx(55 / (4 + 1.5))
    assert found.rate == pytest.approx(1.0)


def test_what_was_not_answered_is_counted_and_is_a_miss_but_has_no_times() -> None:
    outcomes = [
        done(0, 0.0),
        done(1, 1.0, ttft=None, status=REFUSED, backend="", tries=0),
        done(2, 2.0, ttft=0.001, status=FAILED, tries=3),
        Outcome(3, 3.0, "a", 3.0, tries=1),
    ]
    found = summarize(run_of(outcomes), trace_of(*[ASK] * 4), skip=0)
    assert (found.completed, found.refused, found.failed, found.unfinished) == (1, 1, 1, 1)
    assert FIGURES["not_completed"].get(found) == 3
    assert found.goodput == 0.25
    assert found.ttft.mean == pytest.approx(0.1)
    assert found.retries == 2
    assert found.offered == found.completed + found.refused + found.failed + found.unfinished


@pytest.mark.parametrize(
    ("ttft", "e2e", "output", "good"),
    [(5.0, 6.0, 11, True), (5.1, 6.0, 11, False), (1.0, 2.01, 11, False), (1.0, 90.0, 1, True), (None, 4.0, 0, True),
     (None, 6.0, 0, False)],
)  # fmt: skip
def test_goodput_keeps_both_limits(ttft: float | None, e2e: float, output: int, good: bool) -> None:
    found = summarize(run_of([done(0, 0.0, ttft, e2e)]), trace_of(Request(0.0, 10, output)), Slo(5.0, 0.1), skip=0)
    assert found.goodput == good


def test_warm_up_leaves_out_the_first_by_arrival_but_counts_their_failures() -> None:
    outcomes = [done(i, float(9 - i), ttft=1.0) for i in range(10)]  # the trace's last one arrives first
    outcomes[9] = done(9, 0.0, ttft=100.0, status=FAILED)
    found = summarize(run_of(outcomes), trace_of(*[ASK] * 10), skip=0.1)
    assert (found.counted, found.failed, found.goodput) == (9, 1, 1.0)


def test_what_never_came_is_no_warm_up() -> None:
    outcomes = [done(0, 5.0), done(1, 6.0), Outcome(2, 0.0)]
    assert [one.request for one in after_warm_up(run_of(outcomes), skip=0.34)] == [1, 2]


def test_hits_and_load_are_weighed_by_tokens() -> None:
    big, small = Request(0.0, 900, 100), Request(0.0, 100, 100)
    outcomes = [done(0, 0.0, backend="a", cached=500), done(1, 1.0, backend="b"), done(2, 2.0, backend="b")]
    found = summarize(run_of(outcomes), trace_of(big, small, small), skip=0)
    assert found.hit_ratio == pytest.approx(500 / 1100)
    assert [row.tokens for row in found.backends] == [500, 400]
    assert found.load_tokens == pytest.approx(500 / 450)
    assert found.load_requests == pytest.approx(2 / 1.5)
    assert [row.share for row in found.backends] == pytest.approx([1 / 3, 2 / 3])
    assert [row.hit_ratio for row in found.backends] == pytest.approx([500 / 900, 0.0])


def test_a_refused_request_is_no_load_wherever_it_was_tried() -> None:
    outcomes = [done(0, 0.0, backend="a"), done(1, 1.0, backend="b", status=REFUSED)]
    found = summarize(run_of(outcomes), trace_of(ASK, ASK), skip=0)
    assert [row.requests for row in found.backends] == [1, 0]


@pytest.mark.parametrize("outcomes", [[], [Outcome(0, 0.0)], [done(0, 0.0, None, status=REFUSED, backend="")]])
def test_a_run_without_answers_has_no_times(outcomes: list[Outcome]) -> None:
    found = summarize(run_of(outcomes), trace_of(ASK))
    for key in ("ttft_mean", "ttft_p99", "e2e_p50", "tpot_mean", "hit_ratio", "load_tokens", "output_rate"):
        assert FIGURES[key].get(found) is None, key
    assert found.goodput == (0.0 if outcomes else None)
    assert combine([found]).figures["ttft_mean"] == Spread(None, None)


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0, 1))
def test_a_quantile_lies_within_and_rises_with_the_share(values: list[float], share: float) -> None:
    ordered = sorted(values)
    found, higher = quantile(ordered, share), quantile(ordered, min(share + 0.1, 1.0))
    assert found is not None
    assert higher is not None
    assert ordered[0] <= found * (1 + 1e-9) and found <= ordered[-1] * (1 + 1e-9)
    assert found <= higher * (1 + 1e-9)


@given(st.lists(st.floats(0.001, 1e3), min_size=2, max_size=40))
def test_quantiles_agree_with_the_standard_library(values: list[float]) -> None:
    expected = statistics.quantiles(values, n=10, method="inclusive")
    assert [quantile(sorted(values), n / 10) for n in range(1, 10)] == pytest.approx(expected)


# --- several seeds -------------------------------------------------------------------------------------------


def test_seeds_combine_to_mean_and_standard_deviation() -> None:
    found = [summarize(*made_up("random", seed=seed)) for seed in (3, 1, 2)]
    together = combine(found)
    values = [summary.ttft.mean for summary in found if summary.ttft.mean is not None]
    assert together.seeds == (1, 2, 3)
    assert together.figures["ttft_mean"].mean == pytest.approx(statistics.fmean(values))
    assert together.figures["ttft_mean"].deviation == pytest.approx(statistics.stdev(values))


def test_one_seed_has_no_deviation_and_a_seed_without_the_figure_takes_the_mean_away() -> None:
    full = summarize(*made_up("random"))
    empty = dataclasses.replace(summarize(run_of([]), trace_of()), seed=2, trace=full.trace, fleet=full.fleet)
    empty = dataclasses.replace(empty, policy=full.policy)
    assert combine([full]).figures["goodput"].deviation is None
    assert combine([full, empty]).figures["ttft_mean"] == Spread(None, None)


def test_only_runs_that_differ_by_seed_alone_are_combined() -> None:
    one, two = summarize(*made_up("random")), summarize(*made_up("session"))
    with pytest.raises(ValueError, match="got 2 kinds"):
        combine([one, two])
    with pytest.raises(ValueError, match="same seed"):
        combine([one, one])
    assert [row.policy for row in combine_all([two, one])] == ["session", "random"]


def _seeded(ttfts: dict[int, float]) -> list[Summary]:
    """One run of one request for each seed."""
    return [summarize(run_of([done(0, 0.0, ttft)], seed=seed), trace_of(ASK), skip=0) for seed, ttft in ttfts.items()]


def test_a_difference_is_paired_by_seed_and_has_a_t_interval() -> None:
    base, other = _seeded({1: 1.0, 2: 2.0, 3: 4.0}), _seeded({3: 2.4, 1: 0.5, 2: 1.2})
    found = compare(base, other, "ttft_mean")  # -50 %, -40 %, -40 %
    assert found.pairs == 3
    assert found.percent == pytest.approx(-130 / 3)
    half = 4.303 * statistics.stdev([-50, -40, -40]) / 3**0.5
    assert found.low == pytest.approx(-130 / 3 - half)
    assert found.high == pytest.approx(-130 / 3 + half)


def test_one_pair_has_no_interval_and_no_pair_no_difference() -> None:
    base, other = summarize(*made_up("random", seed=1)), summarize(*made_up("session", seed=1, slow=2.0))
    found = compare([base], [other])
    assert found.percent is not None and found.percent > 0
    assert (found.pairs, found.low, found.high) == (1, None, None)
    stranger = summarize(*made_up("session", seed=9))
    assert compare([base], [stranger]).percent is None
    assert compare([base], [other], "refused").percent is None  # of 0 nothing is a percentage


def test_the_interval_holds_the_truth_nineteen_times_of_twenty() -> None:
    """Over many made-up comparisons of noise with noise, the true difference 0 is outside in about 5 %."""
    outside = 0
    for case in range(400):
        rng = Random(case)
        base, other = ({seed: rng.gauss(10, 0.1) for seed in range(4)} for _ in range(2))
        found = compare(_seeded(base), _seeded(other))
        assert found.low is not None and found.high is not None
        outside += not found.low <= 0 <= found.high
    assert 0.02 < outside / 400 < 0.09


def test_t_falls_to_the_normal_quantile() -> None:
    found = [t_quantile(freedom) for freedom in range(1, 200)]
    assert found == sorted(found, reverse=True)
    assert t_quantile(60) == pytest.approx(2.000, abs=0.002)
    assert t_quantile(120) == pytest.approx(1.980, abs=0.002)
