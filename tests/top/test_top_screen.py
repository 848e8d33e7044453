"""What does the terminal show? Whole screens at four widths, and what holds at every size."""

from __future__ import annotations

import dataclasses
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from top_samples import ALERT, DOWN, FAST, FLEET, SLOW, row

from fairlead.top.columns import COLUMNS, IMPORTANCE, count, fit, ordered, percent, seconds
from fairlead.top.fleet import Fleet
from fairlead.top.keys import SORTED
from fairlead.top.screen import Line, Question, State, once, screen, text_of

SHOWN = State(fleet=FLEET, admin="http://127.0.0.1:9900", selected="gpu3", sort="FLIGHT")

SCREENS = sorted((Path(__file__).parent / "screens").glob("*.txt"))


def plain(lines: list[Line]) -> list[str]:
    return [text_of(line).rstrip() for line in lines]


@pytest.mark.parametrize("file", SCREENS, ids=lambda file: file.stem)
def test_the_whole_screen(file: Path) -> None:
    width, height = map(int, file.stem.split("x"))
    assert plain(screen(SHOWN, width, height)) == file.read_text("utf-8").splitlines()


def test_there_are_screens_for_narrow_and_for_wide_terminals() -> None:
    assert sorted(int(file.stem.split("x")[0]) for file in SCREENS) == [60, 80, 120, 200]


words = st.text(max_size=30)
rows = st.builds(
    lambda id, state, reason, inflight, kv, ttft: row(
        id, state=state, reason=reason, inflight=inflight, kv_usage=kv, last_minute={"ttft_p50": ttft}
    ),
    words,
    st.sampled_from(["up", "down", "draining", "ejected", "disabled", "something new"]),
    words,
    st.integers(0, 10**13),
    st.none() | st.floats(0, 1),
    st.none() | st.floats(0, 1e6),
)
states = st.builds(
    lambda fleet, sort, reverse, help, said, lost, selected, asks: State(
        fleet=Fleet(fleet, alerts=[ALERT] * len(fleet), time=1.0, policy="p"),
        sort=sort,
        reverse=reverse,
        help=help,
        said=said,
        lost=lost,
        selected=fleet[selected % len(fleet)]["id"] if fleet else "",
        question=Question("really?", "x", ()) if asks else None,
    ),
    st.lists(rows, max_size=12),
    st.sampled_from(SORTED),
    st.booleans(),
    st.booleans(),
    words,
    words,
    st.integers(0, 20),
    st.booleans(),
)


@given(states, st.integers(1, 250), st.integers(1, 40))
def test_no_line_is_too_long_and_there_are_as_many_as_fit(state: State, width: int, height: int) -> None:
    lines = screen(state, width, height)
    assert len(lines) == height
    for line in lines:
        assert cell_len(text_of(line)) <= width
        assert text_of(line).isprintable()


@given(states, st.integers(20, 250))
def test_once_shows_every_backend(state: State, width: int) -> None:
    lines = once(state, width)
    assert len(lines) >= len(state.fleet.rows) + 2
    assert all(cell_len(text_of(line)) <= width for line in lines)


def test_every_column_is_dropped_by_importance_and_none_twice() -> None:
    assert sorted(IMPORTANCE) == sorted(column.name for column in COLUMNS)
    seen: list[set[str]] = []
    for width in range(20, 260):
        head = text_of(once(State(fleet=FLEET), width)[4])
        seen.append({name for name in IMPORTANCE if name in head.split()})
        shown = [name for name in IMPORTANCE if name in seen[-1]]
        assert tuple(shown) == IMPORTANCE[: len(shown)]
    assert all(less <= more for less, more in pairwise(seen))
    assert (len(seen[0]), len(seen[-1])) == (1, len(IMPORTANCE))


def test_no_two_columns_have_the_same_key() -> None:
    keys = [column.key for column in COLUMNS if column.key]
    assert len(set(keys)) == len(keys)
    assert not set(keys) & set("qdejr0?y")


def test_the_selected_backend_is_never_scrolled_away() -> None:
    fleet = Fleet([row(f"gpu{place:03}") for place in range(300)], time=1.0)
    for place in (0, 1, 150, 298, 299):
        state = State(fleet=fleet, selected=f"gpu{place:03}")
        assert sum(line.startswith(f"gpu{place:03} ") for line in plain(screen(state, 80, 20))) == 1


def test_without_an_answer_it_says_whom_it_asks_and_then_why_nothing_comes() -> None:
    state = State(admin="http://h:1")
    assert plain(screen(state, 60, 5))[0] == "fairlead  asking http://h:1"
    state = dataclasses.replace(state, lost="connection refused", lost_seconds=12.0)
    assert plain(screen(state, 80, 5))[0] == "fairlead  no answer yet from http://h:1"
    assert plain(screen(state, 80, 5))[-1] == ("no answer for 12 s: connection refused; trying again  (q quit  ? help)")


def test_a_lost_connection_leaves_the_last_numbers_and_makes_them_dim() -> None:
    lines = screen(dataclasses.replace(SHOWN, lost="timed out", lost_seconds=3.0), 80, 13)
    (line,) = [line for line in lines if text_of(line).startswith("gpu1")]
    assert {style for _, style in line} == {"dim"}
    assert text_of(lines[-1]).startswith("no answer for 3 s: timed out")


def test_what_hurts_stands_out() -> None:
    lines = screen(State(fleet=FLEET), 200, 13)
    styles = {
        text_of(line).split()[0]: {text.strip(): style for text, style in line} for line in lines if text_of(line)
    }
    assert (styles["gpu1"]["3"], styles["gpu1"]["94%"], styles["gpu1"]["0%"]) == ("warn", "warn", "")
    assert styles["gpu2-with-a-long-name"]["1.3%"] == "warn"
    assert (styles["gpu5"]["down"], styles["gpu3"]["draining"], styles["gpu1"]["up"]) == ("bad", "warn", "good")
    broken = row("gpu1", last_minute={"error_rate": 0.05})
    (line,) = [line for line in screen(State(fleet=Fleet([broken], time=1.0)), 200, 9) if "gpu1" in text_of(line)]
    assert (" 5.0%", "bad") in [(text[-5:], style) for text, style in line]


def test_many_alerts_take_three_lines_and_say_how_many_there_are() -> None:
    fleet = dataclasses.replace(FLEET, alerts=[ALERT] * 5)
    said = [line for line in plain(screen(State(fleet=fleet), 80, 20)) if line.startswith("!")]
    assert said[2:] == ["! and 3 more alerts"]
    assert len(said) == 3


def test_a_refused_reload_and_a_shadow_are_told_in_the_title() -> None:
    fleet = dataclasses.replace(FLEET, problem="the file has 1 problem", shadow="random", status="draining")
    title = text_of(screen(State(fleet=fleet), 120, 9)[0])
    assert title.startswith(
        "fairlead 0.1.0  draining  expected_completion (shadow random)  config 7  last reload refused"
    )


def test_text_from_engines_reaches_no_terminal_as_a_command() -> None:
    evil = row("gpu1", state="down", reason="\x1b[2J\x1b]0;owned\x07 \u202e gone")
    (line,) = [line for line in plain(once(State(fleet=Fleet([evil], time=1.0)), 200)) if line.startswith("gpu1")]
    assert line.endswith("?[2J?]0;owned? ? gone")


def test_figures_come_from_the_most_to_the_least_and_the_unknown_last() -> None:
    rows = [DOWN, SLOW, FAST]
    assert [each["id"] for each in ordered(rows, "KV", False)] == ["gpu1", SLOW["id"], "gpu5"]
    assert [each["id"] for each in ordered(rows, "KV", True)] == [SLOW["id"], "gpu1", "gpu5"]
    assert [each["id"] for each in ordered(rows, "BACKEND", False)] == ["gpu1", SLOW["id"], "gpu5"]
    assert ordered(rows, "STATE", False)[0]["id"] == "gpu5"
    assert ordered(rows, "", False) == rows


@given(st.floats(0, 1e15))
def test_no_number_is_wider_than_its_column(value: float) -> None:
    if value < 1e14:
        assert len(count(value)) <= 7
    if value < 1e6:
        assert len(count(value)) <= 5
    if value <= 1:
        assert len(percent(value)) <= 5
    if value < 99_999:
        assert len(seconds(value)) <= 6


def test_text_is_cut_to_its_column_by_cells_not_by_letters() -> None:
    assert fit("abc", 5) == "abc  "
    assert fit("abc", 5, right=True) == "  abc"
    assert fit("abcdef", 4) == "abc~"
    assert cell_len(fit("\u65e5\u672c\u8a9e\u65e5\u672c", 6)) == 6
