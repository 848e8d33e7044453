"""The comparison on a terminal, and as JSON.

Rule 1: one row for each fleet and policy, in the order in which they were asked for; whatever came out is shown, and
the best figure of each column is marked by a star and not by colour alone. A rival's rule is marked as reference.
Rule 2: it fits the width. Spreads move to a second line, then columns go by their rank until the rest fits; what is
missing is named below the table.
Rule 3: `to_json` has every figure of every run, and the same runs give the same bytes: sorted keys, no wall time.

The JSON: {"schema": "fairlead.simulation/1", "simulated": true, "slo": {"ttft_seconds", "tpot_seconds"},
"warm_up_share", "runs": [...], "combined": [...], "differences": [...]}.
A run has trace, fleet, policy, reference, seed, offered, counted (after the warm-up), rate, figures (by key, as in
sim/summary.py: times in seconds, shares 0 to 1, null where there was nothing to measure) and backends. `combined` has
for each trace, fleet and policy the seeds and each figure's mean and deviation (null for one seed). `differences` has
each policy against the first one of its trace and fleet: percent, low and high (95 %, paired by seed) by figure.
A change that breaks readers of this raises the number in `schema`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, Final

import msgspec
from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fairlead.sim.summary import FIGURES, Combined, Difference, Figure, Spread, Summary, combine_all, compare

SCHEMA: Final = "fairlead.simulation/1"
RANKED: Final = (
    "ttft_mean", "goodput", "ttft_p99", "hit_ratio", "e2e_mean", "load_tokens",
    "ttft_p90", "output_rate", "tpot_mean", "e2e_p99",
)  # fmt: skip
"""The columns, dearest first: the last ones go where there is no room."""
SHOWN: Final = (
    "ttft_mean", "ttft_p90", "ttft_p99", "e2e_mean", "e2e_p99", "tpot_mean", "goodput", "not_completed",
    "hit_ratio", "load_tokens", "output_rate",
)  # fmt: skip
"""The same in the order in which they stand; `not_completed` only where something was not answered."""
DIFFERENCES: Final = ("ttft_mean", "ttft_p99", "e2e_mean", "goodput")
NAME_WIDTH: Final = 24
GAP: Final = 2  # columns between two columns
DECIMALS: Final = 6


# --- how figures are written ---------------------------------------------------------------------------------


def written(value: float | None, unit: str, deviation: float | None = None, between: str = "") -> str:
    """312 ms, 1.30 s, 97.5%, 1.08x; with a deviation 1.30±0.05 s; a dash where there is nothing."""
    if value is None:
        return "-"
    scale, decimals, sign = _style(value, unit)
    spread = "" if deviation is None else f"±{deviation * scale:,.{decimals}f}"
    if between:  # the spread apart, for narrow columns
        return f"{value * scale:,.{decimals}f}{sign}{between}{spread}" if spread else written(value, unit)
    return f"{value * scale:,.{decimals}f}{spread}{sign}"


def _style(value: float, unit: str) -> tuple[float, int, str]:
    if unit == "share":
        return 100.0, 2 if 0.9995 <= value < 1 else 1, "%"  # 100% is all, not nearly all
    if unit == "factor":
        return 1.0, 2, "x"
    if unit != "s":
        return 1.0, 0 if value >= 100 or value == int(value) else 1, ""
    if value < 0.9995:
        return 1e3, 1 if value < 0.09995 else 0, " ms"
    return 1.0, 2 if value < 9.995 else 1, " s"


def written_difference(difference: Difference) -> str:
    """-35.2% (-40.1 to -30.3), the parentheses with the 95 % interval where there are several seeds."""
    if difference.percent is None:
        return "-"
    text = f"{difference.percent:+.1f}%"
    if difference.low is None or difference.high is None:
        return text
    return f"{text} ({difference.low:+.1f} to {difference.high:+.1f})"


def best_rows(figure: Figure, rows: Sequence[Combined]) -> set[int]:
    """The places of the rows that are best in this figure, and of those that are written the same."""
    known = [mean for row in rows if (mean := row.figures[figure.key].mean) is not None]
    if len(rows) < 2 or not figure.better or not known:
        return set()
    if figure.key.startswith("load_") and not all(row.summaries[0].is_uniform for row in rows):
        return set()  # a fast machine should carry more
    best = written(min(known) if figure.better < 0 else max(known), figure.unit)
    same = {place for place, row in enumerate(rows) if written(row.figures[figure.key].mean, figure.unit) == best}
    return set() if len(same) == len(rows) else same  # nobody is ahead


def columns(rows: Sequence[Combined]) -> list[Figure]:
    """What there is to show, in the order of the columns."""
    missed = any(row.figures["not_completed"].mean for row in rows)
    return [FIGURES[key] for key in SHOWN if key != "not_completed" or missed]


# --- terminal --------------------------------------------------------------------------------------------------


def show(console: Console, summaries: Sequence[Summary]) -> None:
    """The comparison: one table for each trace, and the differences to the first policy where seeds allow."""
    for _, rows in groupby(combine_all(summaries), key=lambda row: row.trace):
        table, missing = _table(list(rows), console.width)
        console.print(table)
        if missing:
            console.print(f"Not shown for lack of width: {', '.join(missing)}. --json has them all.", style="dim")
    for line in difference_lines(summaries):
        console.print(line)


def _table(rows: Sequence[Combined], width: int) -> tuple[Table, list[str]]:
    """The table, and the labels of the columns that there was no room for."""
    fleets = [list(same) for _, same in groupby(rows, key=lambda row: row.fleet)]
    figures, names = columns(rows), [_name(row) for row in rows]
    for between in ("", "\n"):
        cells = {figure.key: [cell for same in fleets for cell in _cells(figure, same, between)] for figure in figures}
        kept = _fitting(figures, cells, width - max(_width(name) for name in names))
        if len(kept) == len(figures):
            break
    table = Table(
        box=box.SIMPLE_HEAD,
        header_style="bold",
        show_edge=False,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        title=_title(rows),
        title_justify="left",
        title_style="",
    )
    table.add_column("policy", no_wrap=True)
    for figure in kept:
        table.add_column(_head(figure), justify="right", no_wrap=True)
    place = 0
    for same in fleets:
        if len(fleets) > 1:
            table.add_row(Text(_cut(same[0].fleet), style="bold"))
        for _ in same:
            table.add_row(names[place], *(cells[figure.key][place] for figure in kept))
            place += 1
        table.add_section()
    return table, [figure.label for figure in figures if figure not in kept]


def _fitting(figures: Sequence[Figure], cells: Mapping[str, Sequence[Text]], room: int) -> list[Figure]:
    """The dearest figures whose columns fit into the room, in their order."""
    kept = set()
    for key in ("not_completed", *RANKED):
        if key in cells:
            need = max(_width(text) for text in (*cells[key], Text(_head(FIGURES[key])))) + GAP
            if need <= room:
                kept.add(key)
                room -= need
    return [figure for figure in figures if figure.key in kept]


def _width(text: Text) -> int:
    return max(cell_len(line) for line in text.plain.split("\n"))


def _title(rows: Sequence[Combined]) -> Text:
    seeds = len(rows[0].seeds)
    over = f"mean ± standard deviation over {seeds} seeds" if seeds > 1 else f"seed {rows[0].seeds[0]}"
    fleets = ", ".join(dict.fromkeys(row.fleet for row in rows))
    return Text(f"{rows[0].trace} on {fleets}", style="bold").append(f"\nsimulated; {over}; * best", style="dim")


def _head(figure: Figure) -> str:
    """In two lines, so that columns stay narrow."""
    first, _, rest = figure.label.partition(" ")
    return f"{first}\n{rest}"


def _name(row: Combined) -> Text:
    text = Text(_cut(row.policy))
    return text.append("\n  reference", style="dim") if row.reference else text


def _cut(name: str) -> str:
    return name if len(name) <= NAME_WIDTH else f"{name[: NAME_WIDTH - 1]}…"


def _cells(figure: Figure, rows: Sequence[Combined], between: str) -> list[Text]:
    best = best_rows(figure, rows)
    cells = []
    for place, row in enumerate(rows):
        spread = row.figures[figure.key]
        text = written(spread.mean, figure.unit, spread.deviation, between)
        if place in best:
            cells.append(Text(f"* {text}", style="bold green"))
        else:
            cells.append(Text(text, style="red" if figure.key == "not_completed" and spread.mean else ""))
    return cells


# --- differences -------------------------------------------------------------------------------------------------


def differences(summaries: Sequence[Summary]) -> Iterator[tuple[Combined, Combined, Mapping[str, Difference]]]:
    """(base, other, differences by figure): each policy against the first one of its trace and fleet."""
    first: dict[tuple[str, str], Combined] = {}
    for row in combine_all(summaries):
        base = first.setdefault((row.trace, row.fleet), row)
        if base is not row:
            yield base, row, {key: compare(base.summaries, row.summaries, key) for key in DIFFERENCES}


def difference_lines(summaries: Sequence[Summary]) -> list[str]:
    """Sentences, for runs over several seeds: with one seed, a difference may be chance."""
    lines = []
    for base, other, by_figure in differences(summaries):
        if by_figure["ttft_mean"].pairs > 1:
            told = [f"{FIGURES[key].label} {written_difference(found)}" for key, found in by_figure.items()]
            where = f" ({base.trace}, {base.fleet})" if len({(s.trace, s.fleet) for s in summaries}) > 1 else ""
            lines.append(f"{other.policy} against {base.policy}{where}: {', '.join(told)}.")
    return [*lines, "Relative to the other figure; in parentheses the 95 % interval, paired by seed."] if lines else []


# --- JSON --------------------------------------------------------------------------------------------------------


def to_json(summaries: Sequence[Summary]) -> bytes:
    """Everything, for machines; see the top of this file. At least one summary is needed."""
    slo = summaries[0].slo
    data = {
        "schema": SCHEMA,
        "simulated": True,
        "slo": {"ttft_seconds": slo.ttft, "tpot_seconds": slo.tpot},
        "warm_up_share": summaries[0].skip,
        "runs": [_run(summary) for summary in summaries],
        "combined": [_combined(row) for row in combine_all(summaries)],
        "differences": [
            {
                "trace": other.trace,
                "fleet": other.fleet,
                "base": base.policy,
                "policy": other.policy,
                "figures": {key: _difference(found) for key, found in by_figure.items()},
            }
            for base, other, by_figure in differences(summaries)
        ],
    }
    return msgspec.json.format(msgspec.json.encode(data, order="sorted"), indent=2) + b"\n"


def _run(summary: Summary) -> dict[str, Any]:
    return {
        "trace": summary.trace,
        "fleet": summary.fleet,
        "policy": summary.policy,
        "reference": summary.reference,
        "seed": summary.seed,
        "offered": summary.offered,
        "counted": summary.counted,
        "rate": _rounded(summary.rate),
        "figures": {key: _rounded(figure.get(summary)) for key, figure in FIGURES.items()},
        "backends": [
            {
                "name": row.name,
                "profile": row.profile,
                "requests": row.requests,
                "share": _rounded(row.share),
                "tokens": row.tokens,
                "token_share": _rounded(row.token_share),
                "ttft_mean": _rounded(row.ttft),
                "hit_ratio": _rounded(row.hit_ratio),
            }
            for row in summary.backends
        ],
    }


def _combined(row: Combined) -> dict[str, Any]:
    def both(spread: Spread) -> dict[str, float | None]:
        return {"mean": _rounded(spread.mean), "deviation": _rounded(spread.deviation)}

    return {
        "trace": row.trace,
        "fleet": row.fleet,
        "policy": row.policy,
        "reference": row.reference,
        "seeds": list(row.seeds),
        "figures": {key: both(spread) for key, spread in row.figures.items()},
    }


def _difference(found: Difference) -> dict[str, float | int | None]:
    numbers = {"percent": found.percent, "low": found.low, "high": found.high}
    return {"pairs": found.pairs, **{name: _rounded(value) for name, value in numbers.items()}}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, DECIMALS)
