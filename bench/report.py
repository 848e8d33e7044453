"""From figures per round to one table: median, spread, ratio to nginx, budget, met or not.

Rule 1: a ratio is taken within a round, where both sides ran one after the other; then its median is quoted.
Rule 2: one failed round fails the cell, with the reason; it is not papered over by the other rounds.
Rule 3: `added` rows are the figure minus the figure without a proxy, in the same round.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from bench.measure import DIRECT

BASE = "nginx"
OURS = "fairlead"


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    title: str
    measurement: str
    figure: str
    unit: str
    digits: int = 1
    is_added: bool = False
    ratio_budget: float | None = None
    value_budget: float | None = None

    @property
    def budget(self) -> str:
        if self.ratio_budget is not None:
            return f"<= {self.ratio_budget:g}x"
        return f"<= {self.value_budget:g} {self.unit}" if self.value_budget is not None else ""


def rows(idle: Sequence[int], streams: int, rate: float) -> list[Row]:
    """The lines, with the budget of the design."""
    return [
        Row("CPU per request, 400-char prompt", "small", "cpu_us", "us", ratio_budget=2.5),
        Row("CPU per request, 40,000-char prompt", "large", "cpu_us", "us", ratio_budget=4.0),
        Row("CPU per request, SDK heads, all lengths vary", "varied", "cpu_us", "us"),
        Row("CPU per request, 400-char prompt, TLS 1.3", "tls", "cpu_us", "us"),
        Row("CPU per TLS 1.3 handshake with one request", "handshake", "cpu_us", "us"),
        Row(f"CPU per streamed event, {streams} streams", "stream", "cpu_us", "us", ratio_budget=1.25),
        Row("first event of a stream, p50", "stream", "first_p50_ms", "ms"),
        Row("first event of a stream, p99", "stream", "first_p99_ms", "ms"),
        Row(f"added latency at {rate:g}/s, p50", "latency", "p50_us", "us", 0, is_added=True),
        Row(f"added latency at {rate:g}/s, p99", "latency", "p99_us", "us", 0, is_added=True),
        *(
            Row(f"memory per idle stream, {count:,} open", "memory", f"kb_{count}", "KB", value_budget=24.0)
            for count in idle
        ),
    ]


@dataclass
class Results:
    """Figures by measurement and target, one entry per round; and why a run failed."""

    figures: dict[tuple[str, str], dict[int, dict[str, float]]] = field(default_factory=dict)
    failures: dict[tuple[str, str], list[str]] = field(default_factory=dict)

    def add(self, measurement: str, target: str, round_: int, figures: dict[str, float]) -> None:
        self.figures.setdefault((measurement, target), {})[round_] = figures

    def fail(self, measurement: str, target: str, why: str) -> None:
        self.failures.setdefault((measurement, target), []).append(why)

    def values(self, row: Row, target: str) -> dict[int, float]:
        """The row's figure per round; empty if the target failed or was not measured."""
        if (row.measurement, target) in self.failures:
            return {}
        rounds = self.figures.get((row.measurement, target), {})
        found = {number: figures[row.figure] for number, figures in rounds.items() if row.figure in figures}
        if row.is_added and target != DIRECT:
            direct = self.figures.get((row.measurement, DIRECT), {})
            if (row.measurement, DIRECT) in self.failures:
                return {}
            return {number: value - direct[number][row.figure] for number, value in found.items() if number in direct}
        return found

    def ratios(self, row: Row, target: str) -> list[float]:
        ours, base = self.values(row, target), self.values(row, BASE)
        # a difference below zero is noise: nothing to divide
        return [ours[n] / base[n] for n in ours if ours[n] > 0.0 and base.get(n, 0.0) > 0.0]


def _cell(values: Sequence[float], digits: int, unit: str = "") -> str:
    middle = f"{median(values):,.{digits}f}{unit}"
    if len(values) < 2:
        return middle
    return f"{middle} ({min(values):,.{digits}f}–{max(values):,.{digits}f})"


def _indented(text: str) -> str:
    return text.replace("\n", "\n    ")


def verdict(row: Row, results: Results) -> bool | None:
    """Is fairlead within the budget? None: no budget, or no figure."""
    if row.ratio_budget is not None:
        ratios = results.ratios(row, OURS)
        return median(ratios) <= row.ratio_budget if ratios else None
    values = results.values(row, OURS)
    if row.value_budget is None or not values:
        return None
    return median(values.values()) <= row.value_budget


def table(lines: Sequence[Row], results: Results, targets: Sequence[str]) -> str:
    """The markdown table: medians, (min–max) over the rounds."""
    proxies = [target for target in targets if target != DIRECT]
    others = [target for target in proxies if target != BASE]
    compared = others if BASE in proxies else []
    header = ["measure", "unit", "no proxy", *proxies, *(f"{name} / {BASE}" for name in compared)]
    header += ["budget", "met"]
    out = [header, ["---"] * len(header)]
    for row in lines:
        cells = [row.title, row.unit]
        for target in (DIRECT, *proxies):
            values = results.values(row, target)
            if values:
                cells.append(_cell(list(values.values()), row.digits))
            else:
                cells.append("failed" if (row.measurement, target) in results.failures else "-")
        for name in compared:
            ratios = results.ratios(row, name)
            cells.append(_cell(ratios, 2, "x") if ratios else "-")
        met = verdict(row, results)
        cells += [row.budget, {True: "met", False: "NOT MET", None: ""}[met]]
        out.append(cells)
    if len(out) == 2:
        return ""
    return "\n".join("| " + " | ".join(cells) + " |" for cells in out)


def notes(results: Results) -> list[str]:
    """What a reader must know to trust the table."""
    found = []
    for (measurement, target), why in results.failures.items():
        found.append(f"FAILED: {measurement} through {target}, {len(why)} round(s): {_indented(why[0])}")
    for (measurement, target), rounds in results.figures.items():
        reads = [figures["reads_per_event"] for figures in rounds.values() if "reads_per_event" in figures]
        if reads and not 0.9 <= median(reads) <= 1.1:
            found.append(f"{measurement} through {target}: {median(reads):.2f} reads per event, so events were merged")
    for figure, text in (
        ("busy", "share of its core that the proxy was busy (below 100%: client and stubs were the limit)"),
        ("others", "share of that core that other processes took (near 0% on a quiet machine)"),
    ):
        shares = [
            f"{measurement} {target} {median(figures[figure] for figures in rounds.values()):.0%}"
            for (measurement, target), rounds in results.figures.items()
            if all(figure in figures for figures in rounds.values())
        ]
        if shares:
            found.append(f"{text}: {', '.join(shares)}")
    return found


def as_json(lines: Sequence[Row], results: Results, facts: Mapping[str, object]) -> dict[str, object]:
    """Everything, for programs: the summary per row and the raw figures per round."""
    summary = []
    targets = sorted({target for _, target in (*results.figures, *results.failures)})
    for row in lines:
        figures: dict[str, object] = {}
        for target in targets:
            values = list(results.values(row, target).values())
            if values:
                entry: dict[str, object] = {"median": median(values), "min": min(values), "max": max(values)}
                ratios = results.ratios(row, target) if target not in (BASE, DIRECT) else []
                if ratios:
                    entry["ratio"] = {"median": median(ratios), "min": min(ratios), "max": max(ratios)}
                figures[target] = entry
            elif (row.measurement, target) in results.failures:
                figures[target] = {"failed": results.failures[row.measurement, target]}
        summary.append(
            {"measure": row.title, "unit": row.unit, "budget": row.budget or None, "met": verdict(row, results)}
            | {"targets": figures}
        )
    raw = [
        {"measurement": measurement, "target": target, "round": number, "figures": figures}
        for (measurement, target), rounds in results.figures.items()
        for number, figures in rounds.items()
    ]
    return {**facts, "summary": summary, "rounds": raw}
