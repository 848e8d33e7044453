"""The history: what the counters of a minute say, and how much of it is kept."""

from __future__ import annotations

import base64
import math
import struct
import tracemalloc
from typing import Any

import pytest

from fairlead.control.history import MINUTE, SERIES, SLOTS, STATES, STEP, History, quantile
from fairlead.control.recorder import SECONDS, Histogram

WALL = 1_800_000_000.0


def row(id: str, **counters: Any) -> dict[str, Any]:
    values = {
        "id": id, "state": "up", "requests": 0, "answered": 0, "errors": 0, "prompt_tokens": 0, "output_tokens": 0,
        "ttft_counts": [0] * (len(SECONDS) + 1), "inflight": 0, "pending_tokens": 0, "engine_waiting": None,
        "kv_usage": None, "prefix_hit_ratio": None, "capacity": 1.0,
    }  # fmt: skip
    return {**values, **counters}


def floats(text: str) -> list[float]:
    packed = base64.b64decode(text)
    return list(struct.unpack(f"<{len(packed) // 4}f", packed))


def test_before_the_first_sample_nothing_is_known() -> None:
    (shown,), whole = History().measure([row("a", requests=5)], 10.0)
    assert shown["last_minute"]["requests_per_second"] is None
    assert (shown["last_minute"]["token_share"], shown["last_minute"]["ttft_p99"]) == (0.0, None)
    assert whole["error_rate"] is None
    assert "ttft_counts" not in shown


def test_a_rate_needs_a_second() -> None:
    history = History()
    history.sample([row("a")], 0.0, WALL)
    for now, rate in ((0.01, None), (2.0, 3.0)):
        (shown,), _ = history.measure([row("a", requests=6)], now)
        assert shown["last_minute"]["requests_per_second"] == rate


def test_figures_are_those_of_the_last_minute_and_not_of_all_time() -> None:
    history = History()
    for second in range(0, 201, 5):  # 1 request per second until 100, then 4
        done = min(second, 100) + 4 * max(second - 100, 0)
        history.sample([row("a", requests=done, output_tokens=10 * done)], float(second), WALL + second)
    (shown,), whole = history.measure([row("a", requests=500, output_tokens=5000)], 200.0)
    assert shown["last_minute"]["requests_per_second"] == 4.0
    assert whole["tokens_per_second"] == 40.0


def test_shares_and_errors_are_of_what_was_added() -> None:
    history = History()
    history.sample([row("a", answered=90, errors=10, prompt_tokens=1000), row("b")], 0.0, WALL)
    rows = [
        row("a", answered=97, errors=13, prompt_tokens=1300),
        row("b", answered=10, prompt_tokens=80, output_tokens=20),
    ]
    (a, b), whole = history.measure(rows, 10.0)
    assert (a["last_minute"]["error_rate"], a["last_minute"]["token_share"]) == (0.3, 0.75)
    assert (b["last_minute"]["error_rate"], b["last_minute"]["token_share"]) == (0.0, 0.25)
    assert whole["error_rate"] == 0.15
    assert "token_share" not in whole


def test_a_backend_that_began_anew_counts_from_zero() -> None:
    history = History()
    history.sample([row("a", requests=1000, answered=900, errors=100)], 0.0, WALL)
    (shown,), _ = history.measure([row("a", requests=4, answered=4)], 4.0)
    assert (shown["last_minute"]["requests_per_second"], shown["last_minute"]["error_rate"]) == (1.0, 0.0)


@pytest.mark.parametrize(
    ("values", "share", "found"),
    [
        ([], 0.5, None),
        ([0.3] * 10, 0.5, 0.375),  # in the middle of 0.25 to 0.5
        ([0.3] * 10, 1.0, 0.5),
        ([0.0005] * 4, 0.5, 0.0005),  # the first bucket begins at 0
        ([0.3] * 99 + [1e9], 0.999, 600.0),  # above all bounds
        ([0.002, 0.2, 2.0, 20.0], 0.5, 0.25),
    ],
)
def test_quantiles_are_prometheus_own(values: list[float], share: float, found: float | None) -> None:
    histogram = Histogram(SECONDS)
    for value in values:
        histogram.observe(value)
    assert quantile(histogram.counts, share) == (None if found is None else pytest.approx(found))


def test_a_course_begins_with_the_first_sample_and_tells_the_oldest_first() -> None:
    history = History()
    states = ["up", "up", "down", "ejected"]
    for place, state in enumerate(states):
        history.sample([row("a", state=state, inflight=place, kv_usage=0.5)], place * STEP, WALL + place * STEP)
    shown = history.shown()
    assert floats(shown["backends"]["a"]["inflight"]) == [0.0, 1.0, 2.0, 3.0]
    assert [shown["states"][int(value)] for value in floats(shown["backends"]["a"]["state"])] == states
    at = struct.unpack("<4d", base64.b64decode(shown["at"]))
    assert list(at) == [WALL + place * STEP for place in range(4)]
    assert all(math.isnan(value) for value in floats(shown["backends"]["a"]["engine_waiting"]))
    assert floats(shown["whole"]["inflight"]) == [0.0, 1.0, 2.0, 3.0]


def test_the_last_sample_is_the_end_of_the_course_and_has_a_number() -> None:
    history = History()
    history.sample([row("a", inflight=7)], 0.0, WALL)
    first = history.latest
    assert first is not None
    assert first is history.latest
    assert (first["number"], first["backends"]["a"]["inflight"]) == (1, 7)
    assert set(first["backends"]["a"]) == set(first["whole"]) == set(SERIES)
    assert history.shown()["number"] == 1


def test_only_fifteen_minutes_are_kept_in_a_ring() -> None:
    history = History()
    for place in range(SLOTS + 50):
        history.sample([row("a", inflight=place)], place * STEP, WALL + place * STEP)
    course = floats(history.shown()["backends"]["a"]["inflight"])
    assert course == [float(place) for place in range(50, SLOTS + 50)]
    assert (SLOTS - 1) * STEP == 900.0


def test_one_that_joins_late_lines_up_and_one_that_left_takes_nothing() -> None:
    history = History()
    history.sample([row("a")], 0.0, WALL)
    history.sample([row("a"), row("b", inflight=3)], STEP, WALL + STEP)
    late = floats(history.shown()["backends"]["b"]["inflight"])
    assert math.isnan(late[0]) and late[1] == 3.0
    history.sample([row("b")], 2 * STEP, WALL + 2 * STEP)
    assert set(history.shown()["backends"]) == {"b"}


def test_what_a_backend_takes_is_bounded() -> None:
    """The docs say 17 KB; this many backends make the fleet's own part disappear in the mean."""

    def taken(backends: int) -> int:
        history = History()
        tracemalloc.start()
        for place in range(30):  # rings are made whole; the minute is full after thirteen
            counts = [place * 1000] * (len(SECONDS) + 1)
            rows = [row(f"backend-{n}", requests=place * 100_000, ttft_counts=counts) for n in range(backends)]
            history.sample(rows, place * STEP, WALL)
        size = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        return size

    assert 5_000 < (taken(20) - taken(10)) / 10 < 20_000


def test_a_sample_that_comes_late_does_not_shorten_the_minute() -> None:
    history = History()
    for at in (0.0, 5.0, 62.0):
        history.sample([row("a", requests=int(at))], at, WALL + at)
    (shown,), _ = history.measure([row("a", requests=80)], 70.0)
    assert shown["last_minute"]["requests_per_second"] == round((80 - 5) / 65, 4)
    assert MINUTE == 60.0
    assert STATES[0] == "up"
