"""Which facts of a backend are shown, in which order, and which go first when a terminal is narrow?

Rule: a column is one row of the table below; whatever draws, sorts or drops columns goes by it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from rich.cells import cell_len, set_cell_size

from fairlead.top.fleet import Row, minute, printable

UNKNOWN: Final = "-"
GAP: Final = 1  # between two columns
LEAST_NAME, MOST_NAME = 8, 40
HOT: Final = 0.9  # of the KV cache
OFTEN: Final = 0.05  # errors
STATES: Final = ("up", "draining", "disabled", "ejected", "down")  # from the best to the worst
LEVELS: Final = {"up": "good", "draining": "warn", "disabled": "dim", "ejected": "bad", "down": "bad"}

Value = float | None


def percent(value: Value) -> str:
    if value is None:
        return UNKNOWN
    shown = value * 100.0
    return f"{shown:.1f}%" if 0.0 < shown < 9.95 else f"{shown:.0f}%"


def count(value: Value) -> str:
    """At most five characters: 9999, 12.3k, 4.5M."""
    if value is None:
        return UNKNOWN
    if value < 9_999.5:
        return f"{value:.1f}" if value != int(value) and value < 99.95 else f"{value:.0f}"
    for unit, size in (("k", 1e3), ("M", 1e6), ("G", 1e9)):
        shown = value / size
        if shown < 999.5 or unit == "G":
            return f"{shown:.1f}{unit}" if shown < 99.95 else f"{shown:.0f}{unit}"
    raise AssertionError


def seconds(value: Value) -> str:
    """At most six characters."""
    if value is None:
        return UNKNOWN
    if value < 0.9995:
        shown = value * 1e3
        return f"{shown:.1f}ms" if shown < 99.95 else f"{shown:.0f}ms"
    return f"{value:.2f}s" if value < 9.995 else f"{value:.1f}s" if value < 99.95 else f"{value:.0f}s"


def factor(value: Value) -> str:
    return UNKNOWN if value is None else f"x{value:.2f}" if value < 9.995 else f"x{value:.0f}"


def speed(row: Row) -> str:
    """Learned, or the weight that was set."""
    return factor(row.get("capacity")) if row.get("weight") is None else f"w{row['weight']:g}"


def about(row: Row) -> str:
    """What is wrong with it, else what it is."""
    said = row.get("reason") or row.get("metrics_problem")
    if said:
        return printable(str(said))
    models = row.get("models")
    names = "" if models is None else "any model" if "*" in models else ", ".join(models)
    engine = " ".join(part for part in (row.get("engine"), row.get("version")) if part)
    return printable("  ".join(part for part in (engine, names, "backup" if row.get("backup") else "") if part))


@dataclass(frozen=True, slots=True)
class Column:
    """One fact."""

    name: str  # as it stands above the column
    key: str  # that sorts by it; "": none
    width: int  # with room for the mark of the order; 0: what is left
    text: Callable[[Row], str]
    value: Callable[[Row], Any]  # to sort by; None comes last
    hint: str
    right: bool = True
    level: Callable[[Row], str] = lambda row: ""


def _errors(row: Row) -> str:
    rate = minute(row, "error_rate") or 0.0
    return "bad" if rate >= OFTEN else "warn" if rate else ""


COLUMNS: Final = (
    Column("BACKEND", "n", 0, lambda r: printable(r["id"]), lambda r: r["id"], "its name", right=False),
    Column(
        "STATE", "a", 8, lambda r: r["state"], lambda r: STATES.index(r["state"]) if r["state"] in STATES else 9,
        "up, draining, disabled, ejected or down", right=False, level=lambda r: LEVELS.get(r["state"], ""),
    ),
    Column("REQ", "s", 5, lambda r: percent(r.get("share")), lambda r: r.get("share"), "share of the requests"),
    Column(
        "TOK", "t", 5, lambda r: percent(minute(r, "token_share")), lambda r: minute(r, "token_share"),
        "share of the tokens",
    ),
    Column("FLIGHT", "i", 7, lambda r: count(r.get("inflight")), lambda r: r.get("inflight"), "requests under way"),
    Column(
        "PENDING", "p", 8, lambda r: count(r.get("pending_tokens")), lambda r: r.get("pending_tokens"),
        "tokens still to do, as Fairlead estimates",
    ),
    Column(
        "QUEUE", "w", 6, lambda r: count(r.get("engine_waiting")), lambda r: r.get("engine_waiting"),
        "requests waiting in the engine", level=lambda r: "warn" if r.get("engine_waiting") else "",
    ),
    Column(
        "KV", "k", 5, lambda r: percent(r.get("kv_usage")), lambda r: r.get("kv_usage"),
        "share of its KV cache in use", level=lambda r: "warn" if (r.get("kv_usage") or 0.0) >= HOT else "",
    ),
    Column(
        "HITS", "h", 5, lambda r: percent(r.get("prefix_hit_ratio")), lambda r: r.get("prefix_hit_ratio"),
        "prompt tokens that it found in its prefix cache",
    ),
    Column(
        "TTFT50", "f", 7, lambda r: seconds(minute(r, "ttft_p50")), lambda r: minute(r, "ttft_p50"),
        "median time to the first token",
    ),
    Column(
        "TTFT99", "l", 7, lambda r: seconds(minute(r, "ttft_p99")), lambda r: minute(r, "ttft_p99"),
        "99 of 100 had their first token within this time",
    ),
    Column(
        "TOK/S", "o", 6, lambda r: count(minute(r, "tokens_per_second")), lambda r: minute(r, "tokens_per_second"),
        "output tokens per second",
    ),
    Column(
        "ERR", "x", 5, lambda r: percent(minute(r, "error_rate")), lambda r: minute(r, "error_rate"),
        "share of the requests that it failed", level=_errors,
    ),
    Column(
        "SPEED", "c", 6, speed, lambda r: r.get("capacity"), "learned speed, x1 is the fleet's mean; w: its weight",
    ),
    Column("ABOUT", "", 0, about, about, "what is wrong with it, else its engine and models", right=False),
)  # fmt: skip

IMPORTANCE: Final = (
    "BACKEND", "STATE", "REQ", "FLIGHT", "ERR", "TTFT50", "QUEUE", "PENDING", "KV", "TOK/S", "TTFT99", "TOK", "HITS",
    "SPEED", "ABOUT",
)  # fmt: skip
LEAST_ABOUT: Final = 12


def fitting(rows: list[Row], width: int) -> list[tuple[Column, int]]:
    """The columns that fit, in their order, with their widths; together they take at most `width`."""
    named = {column.name: column for column in COLUMNS}
    longest = max((cell_len(printable(row["id"])) for row in rows), default=0)
    least = min(max(longest, LEAST_NAME), 16)
    left = width - least
    kept = {"BACKEND": least}
    for name in IMPORTANCE[1:]:
        wanted = named[name].width or LEAST_ABOUT
        if left < wanted + GAP:
            break
        kept[name] = wanted
        left -= wanted + GAP
    more = min(max(left, 0), max(min(longest, MOST_NAME) - least, 0))
    kept["BACKEND"] = max(min(least + more, width), 1)
    left -= more
    if "ABOUT" in kept:
        kept["ABOUT"] += max(left, 0)
    return [(column, kept[column.name]) for column in COLUMNS if column.name in kept]


def fit(text: str, width: int, right: bool = False) -> str:
    """Exactly so wide; cut with a ~ where it is longer. Wide characters count as two."""
    if width <= 0:
        return ""
    taken = cell_len(text)
    if taken > width:
        return set_cell_size(text, width - 1) + "~"
    return " " * (width - taken) + text if right else text + " " * (width - taken)


def ordered(rows: list[Row], by: str, reverse: bool) -> list[Row]:
    """Sorted by a column: names from a on, figures from the most; what is not known comes last. "": as configured."""
    column = next((column for column in COLUMNS if column.name == by), None)
    if column is None:
        return rows[::-1] if reverse else rows
    known = [row for row in rows if column.value(row) is not None]
    unknown = [row for row in rows if column.value(row) is None]
    falling = column.right or column.name == "STATE"  # the worst state first
    return sorted(known, key=column.value, reverse=falling != reverse) + unknown
