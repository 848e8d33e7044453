"""What does the terminal show? A fleet, what somebody is about to do, and a size make lines.

Rule 1: pure: no terminal, no clock; the same in, the same out.
Rule 2: no line is longer than the terminal is wide, so that none wraps; no more lines than it is high.
Rule 3: a line is text in pieces, each with the name of a style. Nothing is told by colour alone.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

from rich.cells import cell_len, set_cell_size

from fairlead.top.columns import COLUMNS, STATES, UNKNOWN, about, count, fit, fitting, ordered, percent
from fairlead.top.fleet import NOTHING, Fleet, Row, printable

MOST_ALERTS: Final = 3  # lines that they may take
KEYS: Final = "q quit  ? help  up/down select  left/right sort  r reverse  d drain  e enable"
FEW_KEYS: Final = "q quit  ? help"

Piece = tuple[str, str]
Line = list[Piece]
"""Pieces of text, each with a style: "", title, head, dim, good, warn, bad, chosen."""


@dataclass(frozen=True, slots=True)
class Question:
    """Something to be answered with y or n."""

    text: str
    backend: str
    change: tuple[tuple[str, bool], ...]


@dataclass(frozen=True, slots=True)
class State:
    """What somebody looks at."""

    fleet: Fleet = NOTHING
    admin: str = ""
    sort: str = ""  # a column's name; "": in the order of the configuration
    reverse: bool = False
    selected: str = ""  # a backend; "": none
    help: bool = False
    question: Question | None = None
    said: str = ""  # what came of the last thing that was done
    lost: str = ""  # why nothing new comes
    lost_seconds: float = 0.0  # for how long

    @property
    def rows(self) -> list[Row]:
        return ordered(list(self.fleet.rows), self.sort, self.reverse)


def text_of(line: Line) -> str:
    return "".join(text for text, _ in line)


def screen(state: State, width: int, height: int) -> list[Line]:
    """All lines, the last of them at the bottom."""
    width, height = max(width, 1), max(height, 1)
    room_for_top = height - 3  # the table's head, one backend and the last line matter more
    top = _heading(state, width)[: max(room_for_top, 0)]
    room = height - len(top) - 1
    detail = [] if state.help else _detail(state, width)
    body = _help(width) if state.help else table(state, width, room - bool(detail and room > 3))
    lines = [*top, *body[:room]]
    lines += [[("", "")] for _ in range(height - 1 - len(lines))]
    if detail and room > 3:
        lines[-1] = detail
    return [*lines, _cut(_last(state, width), width)]


def once(state: State, width: int) -> list[Line]:
    """Everything there is to see, however many lines that takes."""
    return [*_heading(state, width), *table(state, width, len(state.fleet.rows) + 1)]


def table(state: State, width: int, height: int) -> list[Line]:
    """The head and the rows that fit, with the selected one among them."""
    rows = state.rows
    if not state.fleet.loaded or height < 1:
        return []
    columns = fitting(rows, width)
    head: Line = []
    for column, wide in columns:
        mark = ("^" if state.reverse else "v") if column.name == state.sort else ""
        name = mark + column.name if column.right else column.name + mark
        head.append(((" " if head else "") + fit(name, wide, column.right), "chosen" if mark else "head"))
    lines = [head]
    place = next((i for i, row in enumerate(rows) if row["id"] == state.selected), 0)
    shown = height - 1
    first = min(max(place - shown + 1, 0), max(len(rows) - shown, 0)) if shown < len(rows) else 0
    for row in rows[first : first + shown]:
        is_selected = row["id"] == state.selected
        line: Line = []
        for column, wide in columns:
            gap = " " if line else ""
            style = "chosen" if is_selected else column.level(row)
            line.append((gap + fit(column.text(row), wide, column.right), "dim" if state.lost else style))
        lines.append(line)
    return lines


def _heading(state: State, width: int) -> list[Line]:
    fleet = state.fleet
    if not fleet.loaded:
        waiting = f"no answer yet from {state.admin}" if state.lost else f"asking {state.admin}"
        return [_cut([("fairlead", "title"), (f"  {waiting}", "")], width), [("", "")]]
    clock = time.strftime("%H:%M:%S", time.gmtime(fleet.time)) + "Z"
    shadow = f" (shadow {fleet.shadow})" if fleet.shadow else ""
    status = "" if fleet.status == "ready" else "bad"
    title: Line = [
        (f"fairlead {fleet.version}", "title"),
        (f"  {fleet.status}", status),
        (f"  {fleet.policy}{shadow}", ""),
        (f"  config {fleet.config_version}", ""),
        ("  last reload refused" if fleet.problem else "", "bad"),
        (f"  {clock}  {state.admin}", "dim"),
    ]
    lines = [_cut(title, width), _cut(_sums(fleet), width)]
    alerts = list(fleet.alerts)
    for alert in alerts[: MOST_ALERTS if len(alerts) <= MOST_ALERTS else MOST_ALERTS - 1]:
        lines.append(_cut([("! ", "bad"), (printable(f"{alert['alert']}: {alert['message']}"), "bad")], width))
    if len(alerts) > MOST_ALERTS:
        lines.append(_cut([(f"! and {len(alerts) - MOST_ALERTS + 1} more alerts", "bad")], width))
    return [*lines, [("", "")]]


def _sums(fleet: Fleet) -> Line:
    states = fleet.states()
    known = [state for state in STATES if state in states]
    many = "backend" if len(fleet.rows) == 1 else "backends"
    line: Line = [(f"{len(fleet.rows)} {many}: ", "")]
    for place, state in enumerate([*known, *(state for state in states if state not in STATES)]):
        style = "" if state == "up" else "warn" if state in ("draining", "disabled") else "bad"
        line += [(", " if place else "", ""), (f"{states[state]} {state}", style)]
    requests, tokens = fleet.rate("requests_per_second"), fleet.rate("tokens_per_second")
    ended, errors = fleet.total("answered") + fleet.total("errors"), fleet.total("errors")
    line += [
        (f"  {count(requests)} req/s  {count(tokens)} tok/s", ""),
        (f"  {count(fleet.total('inflight'))} in flight", ""),
        (f"  {count(fleet.total('pending_tokens'))} tokens pending", ""),
        (f"  {percent(errors / ended) if ended else UNKNOWN} failed since its start", ""),
    ]
    return line


def _detail(state: State, width: int) -> Line:
    """What there is to say of the selected backend, in full where the terminal is wide enough; [] when none is."""
    row = next((row for row in state.fleet.rows if row["id"] == state.selected), None)
    if row is None:
        return []
    said = "  ".join(part for part in (row["state"], about(row), row.get("url") or "") if part)
    return _cut([(printable(row["id"]), "title"), (f": {printable(said)}", "")], width)


def _last(state: State, width: int) -> Line:
    """A question, what was done, why nothing comes, or the keys."""
    if state.question is not None:
        return [(f"{state.question.text} [y/n]", "chosen")]
    if state.lost:
        since = f" for {state.lost_seconds:.0f} s" if state.lost_seconds >= 1.0 else ""
        told = printable(f"no answer{since}: {state.lost}; trying again")
        with_keys = f"{told}  ({FEW_KEYS})"
        return [(with_keys if cell_len(with_keys) <= width else told, "bad")]
    if state.said:
        return [(printable(state.said), "warn")]
    return [(KEYS if len(KEYS) <= width else FEW_KEYS, "dim")]


def _help(width: int) -> list[Line]:
    lines: list[Line] = [[("what the columns say, and the key that sorts by each:", "title")]]
    for column in COLUMNS:
        lines.append([(f"  {column.key or ' '}  {column.name:<8} ", "head"), (column.hint, "")])
    lines += [
        [("", "")],
        [("  times, rates, errors and tokens: of the last minute   ~: text was cut", "")],
        [("  left/right: sort by the next column   r: turn it round   0: as configured", "")],
        [("  up/down: select   d: drain it   e: back to work   ?: close this   q: quit", "")],
    ]
    return [_cut(line, width) for line in lines]


def _cut(line: Line, width: int) -> Line:
    """At most so wide; what is cut ends with a ~."""
    if sum(cell_len(text) for text, _ in line) <= width:
        return line
    kept: Line = []
    left = width - 1
    for text, style in line:
        taken = cell_len(text)
        if taken > left:
            return [*kept, (set_cell_size(text, left) + "~", style)]
        kept.append((text, style))
        left -= taken
    return kept
