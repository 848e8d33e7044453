"""The report: one HTML file that shows a comparison to people who were not there.

Rule 1: it is whole. Nothing is fetched, from file:// or anywhere; the page's own policy forbids it. Nothing in it
depends on the clock or the machine: the same runs give the same bytes.
Rule 2: names, notes and the command come from users: everything is escaped, in the HTML and in the data.
Rule 3: what the figures are, what was done to the traces and how to repeat it stands in the report itself, and that
it is a simulation stands at the top. The comparison and the notes can be read without JavaScript.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from html import escape
from typing import Any, Final

from fairlead import charts
from fairlead.sim import report_charts as draw
from fairlead.sim.summary import FIGURES, Combined, Figure, Summary, combine_all
from fairlead.sim.table import (
    DIFFERENCES,
    best_rows,
    columns,
    differences,
    written,
    written_difference,
)
from fairlead.sim.trace import Run, Trace

START: Final = 'drawEmbedded("data");\n'


class _Page:
    """Collects the body's HTML and the charts' descriptions."""

    def __init__(self) -> None:
        self.parts: list[str] = []
        self.specs: dict[str, dict[str, Any]] = {}

    def add(self, *parts: str) -> None:
        self.parts += parts

    def charts(self, specs: Iterable[dict[str, Any] | None]) -> None:
        """Side by side where there is room."""
        self.add('<div class="grid">')
        for spec in specs:
            if spec is not None:
                key = f"c{len(self.specs)}"
                self.specs[key] = spec
                self.add(f'<div data-chart="{key}"></div>')
        self.add("</div>")


def render_report(
    title: str,
    traces: Sequence[Trace],
    runs: Sequence[Run],
    summaries: Sequence[Summary],
    *,
    command: str = "",
    notes: Sequence[str] = (),
) -> str:
    """The page. `summaries` line up with `runs`; `command` is what people type to get the same again."""
    together = list(zip(runs, summaries, strict=True))
    rows, page = combine_all(summaries), _Page()
    colours = {policy: number for number, policy in enumerate(dict.fromkeys(row.policy for row in rows))}
    skip, slo = (summaries[0].skip, summaries[0].slo) if summaries else (0.0, None)
    keeps = "" if slo is None else f"TTFT at most {slo.ttft:g} s and at most {slo.tpot:g} s per further token"
    goodput = f"Share of the offered requests that were answered with {keeps}."

    page.add(_comparison(rows), _differences(summaries))
    _overview(page, rows, colours, goodput)
    places = list(dict.fromkeys((row.trace, row.fleet) for row in rows))
    for trace, fleet in places:
        here = [row for row in rows if (row.trace, row.fleet) == (trace, fleet)]
        by_policy = {
            row.policy: [run for run, s in together if (s.trace, s.fleet, s.policy) == (trace, fleet, row.policy)]
            for row in here
        }
        first = {policy: min(seeds, key=lambda run: run.seed) for policy, seeds in by_policy.items()}
        page.add(f"<section><h2>{escape(trace)} on {escape(fleet)}</h2>")
        if slo is not None:
            page.charts(
                (
                    draw.ttft_distribution(by_policy, colours, slo, skip),
                    draw.e2e_distribution(by_policy, colours, skip),
                    draw.bars(here, colours, "goodput", "share", "Goodput", goodput),
                    draw.bars(here, colours, "hit_ratio", "share", "Prefix cache hits", _HITS),
                )
            )
            page.charts([draw.waiting_by_policy(first, colours)])
        _courses(page, first, is_open=len(places) == 1)
        page.add(_backends(here), "</section>")
    page.add(_notes(traces, runs, rows, keeps, skip, notes, command))
    return _document(title, _lede(rows), page)


_HITS: Final = "Prompt tokens that were found in a backend's cache, of all prompt tokens of the answered requests."


def _overview(page: _Page, rows: Sequence[Combined], colours: dict[str, int], goodput: str) -> None:
    """What only shows across traces (rates) and fleets."""
    by_rate = [draw.goodput_by_rate(rows, colours, fleet, goodput) for fleet in dict.fromkeys(r.fleet for r in rows)]
    by_fleet = []
    for trace in dict.fromkeys(row.trace for row in rows):
        same = [row for row in rows if row.trace == trace]
        if len({row.fleet for row in same}) > 1:
            by_fleet.append(draw.bars(same, colours, "goodput", "share", f"Goodput by fleet: {trace}", goodput))
    if any(by_rate) or by_fleet:
        page.add("<section><h2>Across loads and fleets</h2>")
        page.charts((*by_rate, *by_fleet))
        page.add("</section>")


def _courses(page: _Page, first: dict[str, Run], is_open: bool) -> None:
    page.add(f"<details{' open' if is_open else ''}><summary>Each policy over time</summary>")
    for policy, run in first.items():
        name = draw.label(policy, run.reference)
        page.charts((draw.share_over_time(run, f"{name}: share"), draw.queue_over_time(run, f"{name}: queues")))
    page.add("</details>")


# --- tables ----------------------------------------------------------------------------------------------------


def _comparison(rows: Sequence[Combined]) -> str:
    several = any(len(row.seeds) > 1 for row in rows)
    parts = ['<section><h2>Comparison</h2><p class="lede">★ marks the best figure of a column.']
    parts.append(" ± is the standard deviation over the seeds.</p>" if several else "</p>")
    for trace, fleet in dict.fromkeys((row.trace, row.fleet) for row in rows):
        here = [row for row in rows if (row.trace, row.fleet) == (trace, fleet)]
        figures = columns(here)
        cells = [_figure_cells(figure, here) for figure in figures]
        body = [
            [_row_head(row.policy, row.reference), *(column[place] for column in cells)]
            for place, row in enumerate(here)
        ]
        parts.append(_table(f"{trace} on {fleet}", ["policy", *(f.label for f in figures)], body))
    return "".join((*parts, "</section>"))


def _figure_cells(figure: Figure, rows: Sequence[Combined]) -> list[str]:
    best = best_rows(figure, rows)
    cells = []
    for place, row in enumerate(rows):
        spread = row.figures[figure.key]
        parts = written(spread.mean, figure.unit, spread.deviation, " ").split(" ±")
        text = escape(parts[0]) + (f" <small>±{escape(parts[1])}</small>" if len(parts) > 1 else "")
        star = '★ <span class="fl-unseen">best: </span>' if place in best else ""
        cells.append(f'<td class="fl-number{" best" if star else ""}">{star}{text}</td>')
    return cells


def _differences(summaries: Sequence[Summary]) -> str:
    found = list(differences(summaries))
    if not found:
        return ""
    parts = [
        "<section><h2>Against the first policy</h2><p>Relative difference of each figure, in percent. With several "
        "seeds it is paired by seed, and the 95 % interval stands in parentheses: one that includes 0 may be chance. "
        'With a single seed there is no telling.</p><div class="grid">'
    ]
    for trace, fleet in dict.fromkeys((other.trace, other.fleet) for _, other, _ in found):
        here = [each for each in found if (each[1].trace, each[1].fleet) == (trace, fleet)]
        body = [
            [
                _row_head(other.policy, other.reference),
                *(f'<td class="fl-number">{escape(written_difference(by_figure[key]))}</td>' for key in DIFFERENCES),
            ]
            for _, other, by_figure in here
        ]
        caption = f"against {here[0][0].policy}: {trace} on {fleet}"
        parts.append(_table(caption, ["policy", *(FIGURES[key].label for key in DIFFERENCES)], body))
    return "".join((*parts, "</div></section>"))


def _backends(rows: Sequence[Combined]) -> str:
    """Of each policy's first seed, as the courses are."""
    head = ["backend", "profile", "requests", "share", "share of tokens", "TTFT mean", "hit ratio"]
    parts = ["<details><summary>Backend by backend</summary>"]
    for row in rows:
        summary = row.summaries[0]
        body = []
        for backend in summary.backends:
            numbers = (
                f"{backend.requests:,}",
                written(backend.share, "share"),
                written(backend.token_share, "share"),
                written(backend.ttft, "s"),
                written(backend.hit_ratio, "share"),
            )
            name = [f'<th scope="row">{escape(backend.name)}</th>', f"<td>{escape(backend.profile)}</td>"]
            body.append([*name, *(f'<td class="fl-number">{escape(number)}</td>' for number in numbers)])
        caption = f"{draw.label(row.policy, row.reference)}, seed {summary.seed}"
        parts.append(_table(caption, head, body, texts=2))
    return "".join((*parts, "</details>"))


def _row_head(policy: str, reference: bool) -> str:
    mark = '<span class="reference">reference</span>' if reference else ""
    name = escape(policy).replace("_", "_<wbr>")  # long names break where people would break them
    return f'<th scope="row">{name}{mark}</th>'


def _table(caption: str, head: Sequence[str], body: Sequence[Sequence[str]], texts: int = 1) -> str:
    """`body` is of ready cells; the first `texts` columns are words, the others numbers."""
    first = "".join(
        f'<th scope="col"{" class=fl-number" if place >= texts else ""}>{escape(each)}</th>'
        for place, each in enumerate(head)
    )
    lines = "".join(f"<tr>{''.join(cells)}</tr>" for cells in body)
    label = escape(caption, quote=True)
    return (
        f'<div class="card"><h3>{escape(caption)}</h3><div class="fl-scroll" role="region" tabindex="0" '
        f'aria-label="{label}"><table class="figures"><thead><tr>{first}</tr></thead><tbody>{lines}</tbody></table>'
        "</div></div>"
    )


# --- words -----------------------------------------------------------------------------------------------------


def _lede(rows: Sequence[Combined]) -> str:
    def counted(what: str, get: Callable[[Combined], Iterable[object]]) -> str:
        found = {each for row in rows for each in get(row)}
        return f"{len(found)} {what}{'' if len(found) == 1 else 's'}"

    policies = counted("policy", lambda row: [row.policy]).replace("policys", "policies")
    sizes = (
        policies,
        counted("fleet", lambda row: [row.fleet]),
        counted("trace", lambda row: [row.trace]),
        counted("seed", lambda row: row.seeds),
    )
    return (
        f"A simulation: {', '.join(sizes)}. The engines are modelled; the balancer is Fairlead's own code, "
        "in simulated time."
    )


def _notes(
    traces: Sequence[Trace],
    runs: Sequence[Run],
    rows: Sequence[Combined],
    keeps: str,
    skip: float,
    notes: Sequence[str],
    command: str,
) -> str:
    lines = [*notes]
    for trace in traces:  # one for each seed: what is the same is told once, below
        lines.append(f"Trace {trace.name}: {len(trace.requests):,} requests. {' '.join(trace.notes)}".rstrip())
    lines += [f"Fleet {fleet}." for fleet in dict.fromkeys(row.fleet for row in rows)]
    seeds = sorted({seed for row in rows for seed in row.seeds})
    lines.append(f"Seeds: {', '.join(map(str, seeds))}. Distributions are over all seeds; courses show the first one.")
    lines.append(
        f"The first {skip:.0%} of the requests (by arrival) are warm-up: left out of times, goodput, hit ratio and "
        "load; counts and output tokens per second cover the whole run."
    )
    lines.append(f"Goodput: answered in full, {keeps}. Refused, failed and unfinished requests are misses.")
    lines.append("Times are of requests that were answered in full. TTFT: arrival to the first token. E2E: arrival "
                 "to the last one. TPOT: time per output token after the first. Percentiles are interpolated "
                 "linearly.")  # fmt: skip
    lines.append("Max/mean load: tokens worked on (prompt tokens not in the cache, and output) of the most loaded "
                 "backend over the mean. Where machines differ, the lowest is not the best.")  # fmt: skip
    if any(row.reference for row in rows):
        lines.append(
            "Policies marked as reference are the routing rules of other projects, written again from their published "
            "behaviour and run under the same conditions; they are not those projects' programs."
        )
    for run in runs:
        lines += [f"{run.policy} on {run.fleet}: {note}" for note in run.notes]
    items = "".join(f"<li>{escape(line)}</li>" for line in dict.fromkeys(lines))
    repeat = f"<h3>How to repeat it</h3><pre><code>{escape(command)}</code></pre>" if command else ""
    return f'<section id="notes"><h2>Notes</h2><ul>{items}</ul>{repeat}</section>'


def _document(title: str, lede: str, page: _Page) -> str:
    script, style = charts.script() + START, charts.style()
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{charts.policy([script], [style])}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="referrer" content="no-referrer">\n'
        f"<title>{escape(title)}</title>\n<style>{style}</style>\n</head>\n<body>\n"
        '<a class="skip-link" href="#notes">To the notes</a>\n'
        f'<header><h1>{escape(title)}</h1><p class="lede">{escape(lede)}</p>'
        "<noscript><p>The charts need JavaScript; the tables do not.</p></noscript></header>\n"
        f"<main>\n{''.join(page.parts)}\n</main>\n<footer><p>Made by fairlead simulate.</p></footer>\n"
        f'<script type="application/json" id="data">{charts.embed(page.specs)}</script>\n'
        f'<script type="module">{script}</script>\n</body>\n</html>\n'
    )
