"""Which key was that, and what does it do? Pure: bytes become names, a name and a state become another state.

Rule: what changes a backend is asked for first, and only y does it.
"""

from __future__ import annotations

import dataclasses
from typing import Final, NamedTuple

from fairlead.top.columns import COLUMNS
from fairlead.top.fleet import Row
from fairlead.top.screen import Question, State

ESCAPE: Final = b"\x1b"
ARROWS: Final = {b"A": "up", b"B": "down", b"C": "right", b"D": "left", b"H": "home", b"F": "end"}
SORTING: Final = {column.key: column.name for column in COLUMNS if column.key}
SORTED: Final = ("", *(column.name for column in COLUMNS if column.key))


class Change(NamedTuple):
    """To be asked of the admin API."""

    backend: str
    body: dict[str, bool]


def parse(data: bytes) -> tuple[list[str], bytes]:
    """(keys, the beginning of one that is not there yet). Sequences that mean nothing to us are left out."""
    keys = []
    at = 0
    while at < len(data):
        if data[at : at + 1] != ESCAPE:
            if 0x20 <= data[at] < 0x7F:
                keys.append(chr(data[at]))
            elif data[at] in (0x03, 0x04):  # ^C where the terminal does not make a signal of it, and ^D
                keys.append("q")
            at += 1
            continue
        if at + 1 == len(data):
            return keys, data[at:]
        if data[at + 1 : at + 2] not in (b"[", b"O"):
            keys.append("escape")
            at += 1
            continue
        end = at + 2
        while end < len(data) and not 0x40 <= data[end] <= 0x7E:
            end += 1
        if end == len(data):
            return keys, data[at:] if len(data) - at < 32 else b""
        name = ARROWS.get(data[end : end + 1])
        if name and end == at + 2:
            keys.append(name)
        at = end + 1
    return keys, b""


def pressed(state: State, key: str) -> tuple[State, Change | None, bool]:
    """(what is shown now, what is to be asked for, shall it end?)"""
    question = state.question
    if question is not None:
        if key in ("y", "Y"):
            said = dataclasses.replace(state, question=None, said=f"asking for it: {question.backend}")
            return said, Change(question.backend, dict(question.change)), False
        if key == "q":
            return state, None, True
        return dataclasses.replace(state, question=None, said="nothing was changed"), None, False
    state = dataclasses.replace(state, said="")
    if key == "q":
        return state, None, True
    if key == "?" or (key == "escape" and state.help):
        return dataclasses.replace(state, help=not state.help), None, False
    if key in ("up", "down", "home", "end"):
        return _select(state, key), None, False
    if key in ("left", "right"):
        step = 1 if key == "right" else -1
        place = (SORTED.index(state.sort) + step) % len(SORTED)
        return dataclasses.replace(state, sort=SORTED[place], reverse=False), None, False
    if key == "r":
        return dataclasses.replace(state, reverse=not state.reverse), None, False
    if key == "0":
        return dataclasses.replace(state, sort="", reverse=False), None, False
    if key in SORTING:
        name = SORTING[key]
        again = name == state.sort
        return dataclasses.replace(state, sort=name, reverse=again and not state.reverse), None, False
    if key in ("d", "e"):
        return _ask(state, key), None, False
    return state, None, False


def _select(state: State, key: str) -> State:
    rows = state.rows
    if not rows:
        return state
    last = len(rows) - 1
    place = next((i for i, row in enumerate(rows) if row["id"] == state.selected), None)
    if place is None:
        place = last if key in ("up", "end") else 0
    else:
        place = {"up": max(place - 1, 0), "down": min(place + 1, last), "home": 0, "end": last}[key]
    return dataclasses.replace(state, selected=rows[place]["id"])


def _ask(state: State, key: str) -> State:
    row = next((row for row in state.fleet.rows if row["id"] == state.selected), None)
    if row is None:
        return dataclasses.replace(state, said="select a backend first, with the arrows up and down")
    question = _drain(row) if key == "d" else _enable(row)
    if isinstance(question, str):
        return dataclasses.replace(state, said=question)
    return dataclasses.replace(state, question=question)


def _drain(row: Row) -> Question | str:
    if row["state"] == "draining":
        return f"{row['id']} is draining already"
    count = row.get("inflight") or 0
    text = f"drain {row['id']}? its {count:.0f} running requests finish, new ones go elsewhere"
    return Question(text, row["id"], (("drain", True),))


def _enable(row: Row) -> Question | str:
    if row["state"] == "disabled":
        return Question(f"enable {row['id']}?", row["id"], (("enable", True), ("drain", False)))
    if row["state"] == "draining":
        return Question(f"end the drain of {row['id']}?", row["id"], (("drain", False),))
    return f"{row['id']} is {row['state']}: neither draining nor disabled"
