"""The comparison's arithmetic and what is concluded from it."""

from __future__ import annotations

import io
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from fairlead.demo.client import BROKEN, OK, REFUSED, UNFINISHED, Result
from fairlead.demo.figures import Figures, Lateness, figures, percentile, times_better
from fairlead.demo.report import compare, conclusions
from fairlead.demo.timeline import Timeline
from fairlead.demo.words import seconds, time_left, two_lines

PLACED = {"h100-1": 3, "h100-2": 1, "a100-1": 0, "a100-2": 0}


def result(at: float, outcome: str, first: float = 0.1, end: float = 1.0, status: int = 200) -> Result:
    return Result(at, outcome, status, first, end, prompt_tokens=100, cached_tokens=25, output_tokens=10)


def made(policy: str, first: float, end: float, late: Lateness | None = None) -> Figures:
    return figures(policy, [result(0.0, OK, first, end)] * 3, PLACED, late or Lateness(10, 0, 0.001), True)


def test_a_percentile_lies_between_the_nearest_results() -> None:
    assert percentile([4.0, 1.0, 3.0, 2.0], 0.5) == 2.5
    assert percentile([7.0], 0.99) == 7.0
    assert percentile([], 0.5) is None
    assert percentile(list(map(float, range(101))), 0.99) == pytest.approx(99.0)


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0, 1))
def test_percentiles_stay_within_the_values_and_grow(values: list[float], share: float) -> None:
    found, top = percentile(values, share), percentile(values, 1.0)
    assert found is not None and top is not None
    slack = 1e-9 * max(values) + 1e-300
    assert min(values) - slack <= found <= top + slack
    assert top == max(values)


def test_only_full_answers_count_and_the_others_are_not_hidden() -> None:
    results = [
        result(1.0, OK, 0.2, 1.0),
        result(2.0, OK, 0.4, 3.0),
        result(2.5, REFUSED, 0.0, 0.1, 503),
        result(2.6, BROKEN, 9.0, 9.0),
        result(2.7, UNFINISHED, 9.0, 90.0),
    ]
    row = figures("x", results, PLACED, Lateness(), complete=False)
    assert (row.requests, row.finished, row.errors, row.unfinished) == (5, 2, 2, 1)
    assert row.requests == row.finished + row.errors + row.unfinished
    assert row.failures == {"status 503": 1, "broken connection": 1}
    assert row.ttft.mean == pytest.approx(0.3)
    assert row.whole.p50 == 2.0
    assert row.seconds == 4.0  # from 1.0, the first due, to 2.0 + 3.0
    assert row.requests_per_second == 0.5
    assert row.hit_ratio == 0.25
    assert row.shares == {"h100-1": 0.75, "h100-2": 0.25, "a100-1": 0.0, "a100-2": 0.0}
    assert row.as_json()["ttft_seconds"] == {"mean": 0.3, "p50": 0.3, "p99": 0.398}


def test_nothing_measured_is_none_and_not_zero() -> None:
    row = figures("x", [result(0.0, BROKEN)], dict.fromkeys(PLACED, 0), Lateness(), complete=True)
    assert (row.ttft.mean, row.whole.p99, row.hit_ratio, row.requests_per_second) == (None, None, None, None)
    assert sum(row.shares.values()) == 0.0
    assert times_better(None, 1.0) is None


def test_a_busy_machine_is_noticed() -> None:
    late = Lateness()
    for look in range(20):
        late = late.and_one(0.2 if look < 2 else 0.001)
    assert not late.spoils
    late = late.and_one(0.06)
    assert late.spoils and late.worst == 0.2
    assert any("busy" in line for line in conclusions([made("a", 1, 2, late)]))


def test_whatever_wins_is_named() -> None:
    done = [made("round_robin", 0.1, 1.0), made("prefix_hash", 0.4, 4.0)]
    first, second = conclusions(done)
    assert first.startswith("round_robin brought the first token soonest: after 100 ms on average;")
    assert first.endswith("with prefix_hash it took 400 ms, 4.0 times as long.")
    assert "4.00 s and more with prefix_hash" in second
    assert conclusions([made("a", 0.1, 1.0), made("b", 0.1, 1.0)]) == [
        "No policy was clearly ahead in time to first token."
    ]
    assert conclusions([made("a", 0.1, 1.0)]) == []


@pytest.mark.parametrize(("width", "tables"), [(100, 1), (80, 2), (40, 4)])
def test_more_policies_than_fit_side_by_side_stand_below_each_other(width: int, tables: int) -> None:
    out = io.StringIO()
    console = Console(file=out, width=width, highlight=False)
    compare(console, [made(name, 0.1, 1.0) for name in ("round_robin", "random", "least_pending_tokens", "session")])
    lines = out.getvalue().splitlines()
    assert sum(line.split()[:1] == ["requests"] for line in lines) == tables
    assert all(len(line) <= width for line in lines) or width < 45
    assert "\x1b" not in out.getvalue()


def test_the_time_left_falls_and_the_fraction_rises() -> None:
    timeline = Timeline(policies=2, seconds=10.0)
    timeline.begin(100.0)
    assert timeline.fraction(100.0) == 0.0
    fractions, lefts = [], []
    for now in range(101, 131):
        fractions.append(timeline.fraction(float(now)))
        lefts.append(timeline.left(float(now)))
    timeline.policy_ended(131.0)
    assert fractions == sorted(fractions) and fractions[-1] < 1.0
    assert lefts[0] > lefts[10] and min(lefts) > 0
    timeline.policy_ended(140.0)
    assert timeline.left(140.0) == 0.0 and math.isclose(timeline.fraction(140.0), 1.0)


def test_numbers_are_written_for_people() -> None:
    assert [seconds(value) for value in (None, 0.0312, 0.9999, 1.304, 19.53)] == [
        "-", "31 ms", "1.00 s", "1.30 s", "19.5 s",
    ]  # fmt: skip
    assert [time_left(value) for value in (0.0, 0.4, 7.4, 33.0)] == [
        "done", "about 1 s left", "about 7 s left", "about 35 s left",
    ]  # fmt: skip
    assert two_lines("least_pending_tokens") == "least_pending\n_tokens"
    assert two_lines("prefix_hash") == "prefix_hash"
