"""The end of the demo: the comparison as a table, what to conclude, and the same as JSON.

Rule 1: whatever came out is printed; no policy is favoured, and conclusions are drawn from the figures alone.
Rule 2: that the engines are emulated is said plainly.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Final

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fairlead.demo.figures import LATE_SECONDS, Figures, times_better
from fairlead.demo.fleet import FLEET, SLOWEST
from fairlead.demo.words import ratio, seconds, two_lines

LABEL_WIDTH: Final = 28
SAME: Final = 1.05  # figures closer than this are called equal

Cell = Callable[[Figures], float | None]
Writer = Callable[[float | None], str]


def _count(value: float | None) -> str:
    return f"{value:,.0f}"


def _rate(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


# label, figure, how to write it, which is better: -1 less, 1 more, 0 neither
ROWS: Final[tuple[tuple[str, Cell, Writer, int], ...]] = (
    ("requests", lambda f: f.requests, _count, 0),
    ("errors", lambda f: f.errors, _count, 0),
    ("time to first token  mean", lambda f: f.ttft.mean, seconds, -1),
    ("                     p50", lambda f: f.ttft.p50, seconds, -1),
    ("                     p99", lambda f: f.ttft.p99, seconds, -1),
    ("whole answer         mean", lambda f: f.whole.mean, seconds, -1),
    ("                     p50", lambda f: f.whole.p50, seconds, -1),
    ("                     p99", lambda f: f.whole.p99, seconds, -1),
    ("prompt tokens from cache", lambda f: f.hit_ratio, ratio, 1),
    ("answers per second", lambda f: f.requests_per_second, _rate, 1),
)


def compare(console: Console, done: Sequence[Figures]) -> None:
    """The table, in pieces if there are more policies than fit side by side."""
    fit = max(1, (console.width - LABEL_WIDTH) // 17)
    for start in range(0, len(done), fit):
        console.print(_table(done[start : start + fit], done))


def _table(part: Sequence[Figures], done: Sequence[Figures]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", show_edge=False)
    table.add_column("", min_width=LABEL_WIDTH - 2, no_wrap=True)
    for each in part:
        table.add_column(two_lines(each.policy), justify="right", min_width=14)
    for label, figure, write, better in ROWS:
        best = _best([figure(each) for each in done], better)
        cells = []
        for each in part:
            value = figure(each)
            if better and value is not None and write(value) == write(best) and len(done) > 1:
                cells.append(Text(f"* {write(value)}", style="bold green"))
            elif label == "errors" and value:
                cells.append(Text(write(value), style="bold red"))
            else:
                cells.append(Text(write(value)))
        table.add_row(label, *cells)
    if any(each.unfinished for each in part):
        table.add_row("given up unfinished", *(str(each.unfinished) for each in part))
    for place, machine in enumerate(FLEET):
        label = f"{'share of requests' if place == 0 else '':<19}{machine.name}"
        table.add_row(label, *(ratio(each.shares.get(machine.name)) for each in part))
    return table


def _best(values: Sequence[float | None], better: int) -> float | None:
    known = [value for value in values if value is not None]
    if not known or not better:
        return None
    return min(known) if better < 0 else max(known)


def conclusions(done: Sequence[Figures]) -> list[str]:
    """What the figures say, a sentence each."""
    measured = [each for each in done if each.ttft.mean is not None]
    lines = []
    if len(measured) > 1:
        lines += _sentences(measured)
    if any(each.errors for each in done):
        kinds = sum((Counter(each.failures) for each in done), Counter[str]())
        told = ", ".join(f"{count} x {kind}" for kind, count in kinds.most_common())
        lines.append(f"Some requests failed, which they should not, so please report it: {told}.")
    if any(each.lateness.spoils for each in done):
        worst = max(each.lateness.worst for each in done)
        lines.append(
            f"This machine was busy: event loops were often more than {LATE_SECONDS * 1e3:.0f} ms late "
            f"(at worst {seconds(worst)}), so do not trust these figures. Run it again when less else is running."
        )
    return lines


def _sentences(measured: Sequence[Figures]) -> list[str]:
    first = min(measured, key=lambda f: f.ttft.mean or 0.0)
    last = max(measured, key=lambda f: f.ttft.mean or 0.0)
    factor = times_better(first.ttft.mean, last.ttft.mean)
    lines = []
    if factor is None or factor < SAME:
        lines.append("No policy was clearly ahead in time to first token.")
    else:
        lines.append(
            f"{first.policy} brought the first token soonest: after {seconds(first.ttft.mean)} on average; "
            f"with {last.policy} it took {seconds(last.ttft.mean)}, {factor:.1f} times as long."
        )
    whole = min(measured, key=lambda f: f.whole.p99 or 0.0)
    slowest = max(measured, key=lambda f: f.whole.p99 or 0.0)
    factor = times_better(whole.whole.p99, slowest.whole.p99)
    if factor is not None and factor >= SAME:
        lines.append(
            f"The slowest 1% of answers took {seconds(slowest.whole.p99)} and more with {slowest.policy}, which sent "
            f"{ratio(slowest.shares.get(SLOWEST))} of the requests to the slowest engine, "
            f"and {seconds(whole.whole.p99)} with {whole.policy} ({ratio(whole.shares.get(SLOWEST))})."
        )
    return lines


def as_json(done: Sequence[Figures], *, seed: int, seconds: float, rate: float, complete: bool) -> dict[str, Any]:
    """The comparison for machines."""
    return {
        "emulated": True,
        "seed": seed,
        "seconds_per_policy": seconds,
        "requests_per_second_asked": rate,
        "complete": complete,
        "machine_kept_up": not any(each.lateness.spoils for each in done),
        "fleet": [{"name": m.name, "profile": m.profile, "slow": m.slow} for m in FLEET],
        "policies": [each.as_json() for each in done],
    }
