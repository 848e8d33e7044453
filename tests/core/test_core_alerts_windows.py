"""Sliding windows over counters: what they count, what they forget, and what a rising queue is."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random

import pytest

from fairlead.core.alerts.facts import PLACED, BackendFacts, FleetFacts
from fairlead.core.alerts.windows import COURSE_SAMPLES, SAMPLES, Course, Windows


def look(windows: Windows, now: float, placed: Mapping[str, int], *lengths: float) -> None:
    rows = tuple(BackendFacts(id, counts=(count, 0, 0, 0, 0)) for id, count in placed.items())
    windows.take(FleetFacts(rows), frozenset(lengths), now)


def test_a_window_counts_what_was_added_in_it_and_is_never_shorter_than_it_says() -> None:
    windows, rng, history = Windows(), Random(1), [(0.0, 0)]
    look(windows, 0.0, {"a": 0}, 60.0)
    for second in range(1, 400):
        history.append((float(second), history[-1][1] + rng.randrange(5)))
        look(windows, float(second), {"a": history[-1][1]}, 60.0)
        added, whole = windows.added(60.0, PLACED)
        begins = max(0.0, second - 60.0)
        least = history[-1][1] - next(n for at, n in reversed(history) if at <= begins)
        most = history[-1][1] - next(n for at, n in reversed(history) if at <= max(0.0, begins - 60.0 / SAMPLES - 1))
        assert added["a"] == whole
        assert least <= whole <= most, "a reading's time longer at most"


def test_what_was_counted_before_the_first_look_belongs_to_it() -> None:
    windows = Windows()
    look(windows, 5.0, {"a": 7}, 60.0)
    assert windows.added(60.0, PLACED) == ({"a": 7}, 7)


def test_one_that_left_counts_in_the_whole_until_the_window_has_passed() -> None:
    windows = Windows()
    look(windows, 0.0, {"a": 0, "b": 0}, 60.0)
    look(windows, 10.0, {"a": 5, "b": 9}, 60.0)
    look(windows, 20.0, {"a": 6}, 60.0)
    assert windows.added(60.0, PLACED) == ({"a": 6}, 15)
    for second in range(21, 200):
        look(windows, float(second), {"a": 6}, 60.0)
    assert windows.added(60.0, PLACED) == ({"a": 0}, 0)


def test_one_that_comes_back_under_its_name_begins_anew() -> None:
    windows = Windows()
    look(windows, 0.0, {"a": 0}, 60.0)
    look(windows, 10.0, {"a": 50}, 60.0)
    look(windows, 11.0, {"a": 3}, 60.0)
    assert windows.added(60.0, PLACED) == ({"a": 3}, 53)


def test_another_length_begins_now_and_one_that_nobody_asks_for_is_let_go_of() -> None:
    windows = Windows()
    look(windows, 0.0, {"a": 0}, 60.0)
    look(windows, 10.0, {"a": 8}, 60.0, 30.0)
    assert windows.added(30.0, PLACED) == ({"a": 0}, 0)
    assert windows.added(60.0, PLACED) == ({"a": 8}, 8)
    look(windows, 11.0, {"a": 9}, 30.0)
    assert windows.added(30.0, PLACED) == ({"a": 1}, 1)
    with pytest.raises(KeyError):
        windows.added(60.0, PLACED)


def course(*values: float) -> Course:
    """Readings over 80 s, two apart."""
    made = Course(80.0)
    for number in range(2 * COURSE_SAMPLES + 1):
        made.take(values[min(number * len(values) // (2 * COURSE_SAMPLES + 1), len(values) - 1)], float(number))
    return made


@pytest.mark.parametrize(
    ("values", "rises"),
    [((5.0,), False), ((1.0, 2.0, 3.0, 4.0), True), ((9.0, 2.0), False), ((1.0, 1.0, 9.0, 1.0), False)],
)
def test_a_rise_is_one_of_the_whole_newer_half(values: tuple[float, ...], rises: bool) -> None:
    made = course(*values)
    assert made.full
    assert (made.rise() > 0) == rises


def test_a_course_that_is_not_full_says_so() -> None:
    made = Course(80.0)
    for second in range(40):
        made.take(1.0, float(second))
    assert not made.full
