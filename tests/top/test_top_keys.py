"""Which key was that, and what does it do?"""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st
from top_samples import DISABLED, DOWN, DRAINING, FAST, FLEET, SLOW

from fairlead.top.keys import ARROWS, SORTED, SORTING, Change, parse, pressed
from fairlead.top.screen import State

STATE = State(fleet=FLEET)
KNOWN = {*ARROWS.values(), "escape"}


@pytest.mark.parametrize(
    ("data", "keys", "rest"),
    [
        (b"q", ["q"], b""),
        (b"\x1b[A\x1b[B\x1bOC\x1bOD", ["up", "down", "right", "left"], b""),
        (b"\x1b[H\x1b[F", ["home", "end"], b""),
        (b"d\x1b", ["d"], b"\x1b"),
        (b"\x1b[", [], b"\x1b["),
        (b"\x1bd", ["escape", "d"], b""),
        (b"\x1b\x1b[A", ["escape", "up"], b""),
        (b"\x1b[1;5A\x1b[200~y", ["y"], b""),  # ctrl-up, and the beginning of a paste: nothing of ours
        (b"\x03", ["q"], b""),
        ("ä\u4e2d".encode(), [], b""),
        (b"\x1b[" + b"1" * 40, [], b""),
    ],
)
def test_bytes_become_keys(data: bytes, keys: list[str], rest: bytes) -> None:
    assert parse(data) == (keys, rest)


@given(st.binary(max_size=60))
def test_any_bytes_are_keys_or_nothing_and_whole_or_by_the_byte_alike(data: bytes) -> None:
    keys, rest = parse(data)
    assert all(key in KNOWN or len(key) == 1 for key in keys)
    assert len(rest) < 32
    by_byte, waiting = [], b""
    for place in range(len(data)):
        found, waiting = parse(waiting + data[place : place + 1])
        by_byte += found
    if len(data) < 32:
        assert (by_byte, waiting) == (keys, rest)


keys = st.sampled_from([*KNOWN, *"qrde?0yn", *SORTING, "z"])


@given(st.lists(keys, max_size=30))
def test_nothing_but_a_y_that_was_asked_for_changes_a_backend(typed: list[str]) -> None:
    state = STATE
    for key in typed:
        asked = state.question
        state, change, over = pressed(state, key)
        assert (change is not None) == (asked is not None and key == "y")
        assert over == (key == "q")
        assert state.sort in SORTED
        if change is not None and asked is not None:
            assert change == Change(asked.backend, dict(asked.change))


def chosen(row_id: str, key: str) -> State:
    return pressed(dataclasses.replace(STATE, selected=row_id), key)[0]


@pytest.mark.parametrize(
    ("id", "key", "change"),
    [
        (FAST["id"], "d", {"drain": True}),
        (DOWN["id"], "d", {"drain": True}),
        (DRAINING["id"], "e", {"drain": False}),
        (DISABLED["id"], "e", {"enable": True, "drain": False}),
    ],
)
def test_what_is_asked_for(id: str, key: str, change: dict[str, bool]) -> None:
    asked = chosen(id, key)
    assert asked.question is not None
    assert id in asked.question.text
    assert pressed(asked, "y")[1] == Change(id, change)


@pytest.mark.parametrize(
    ("id", "key", "said"),
    [
        (DRAINING["id"], "d", "gpu3 is draining already"),
        (FAST["id"], "e", "gpu1 is up: neither draining nor disabled"),
        (DOWN["id"], "e", "gpu5 is down: neither draining nor disabled"),
        ("gone", "d", "select a backend first, with the arrows up and down"),
    ],
)
def test_what_makes_no_sense_is_not_asked_for(id: str, key: str, said: str) -> None:
    told = chosen(id, key)
    assert (told.question, told.said) == (None, said)


def test_the_selection_follows_the_order_on_the_screen() -> None:
    state = pressed(STATE, "p")[0]
    assert state.sort == "PENDING"
    first, second = (state.rows[0]["id"], state.rows[1]["id"])
    state = pressed(state, "down")[0]
    assert state.selected == first
    state = pressed(state, "down")[0]
    assert state.selected == second
    assert pressed(state, "end")[0].selected == state.rows[-1]["id"]
    assert pressed(state, "home")[0].selected == first
    assert pressed(STATE, "up")[0].selected == DOWN["id"]
    assert pressed(State(), "down")[0].selected == ""


def test_the_same_letter_again_turns_the_order_round() -> None:
    state = pressed(STATE, "x")[0]
    assert (state.sort, state.reverse) == ("ERR", False)
    state = pressed(state, "x")[0]
    assert (state.sort, state.reverse) == ("ERR", True)
    assert pressed(pressed(state, "n")[0], "x")[0].reverse is False


def test_going_right_comes_round_to_the_configured_order() -> None:
    state, seen = STATE, []
    for _ in SORTED:
        state = pressed(state, "right")[0]
        seen.append(state.sort)
    assert seen == [*SORTED[1:], ""]
    assert pressed(STATE, "left")[0].sort == SORTED[-1]


def test_sorting_keeps_the_selected_backend() -> None:
    state = dataclasses.replace(STATE, selected=SLOW["id"])
    for key in ("n", "r", "right", "0"):
        state = pressed(state, key)[0]
        assert state.selected == SLOW["id"]
