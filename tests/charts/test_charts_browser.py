"""What charts.js draws, and what it answers to hands and keys, in a real browser (skipped where there is none)."""

from __future__ import annotations

import json
import re
from html import unescape
from pathlib import Path
from typing import Any

from charts_browser import WATCH, attributes, dom, needs_browser
from sim_runs import made_up

from fairlead import charts
from fairlead.sim.report import render_report
from fairlead.sim.summary import summarize

pytestmark = needs_browser

LINE = {
    "kind": "line", "title": "Waiting", "text": "Requests that wait.", "at": [0, 60, 120],
    "x": {"label": "time", "unit": "time"}, "y": {"label": "requests", "unit": "count"},
    "series": [{"name": "one", "y": [0, 10, 20]}, {"name": "two", "y": [5, None, 7]}],
}  # fmt: skip
AREA = {
    **LINE,
    "kind": "area",
    "title": "Share",
    "series": [{"name": "a", "y": [1, 2, 3]}, {"name": "b", "y": [3, 2, 1]}],
}
CDF = {
    "kind": "cdf", "title": "TTFT", "text": "How soon.", "shares": [0, 0.5, 1], "x": {"label": "TTFT", "unit": "s"},
    "marks": [{"at": 5, "label": "SLO 5 s"}],
    "series": [{"name": "one", "values": [0.1, 1, 10], "of": 0.8}, {"name": "none", "values": []}],
}  # fmt: skip
BAR = {
    "kind": "bar", "title": "Hits", "text": "Found in a cache.", "unit": "share",
    "bars": [
        {"name": "one", "value": 0.5, "spread": 0.1, "group": "left"},
        {"name": "two", "value": None, "group": "right"},
    ],
}  # fmt: skip


def tell(spec: dict[str, Any], body: str, folder: Path, width: int = 900) -> Any:
    """Draws the spec as `chart` in `place`, runs `body` and gives what it returned."""
    script = charts.script() + (
        f"const spec = {charts.embed(spec)};\n"
        'const place = document.getElementById("place"), chart = draw(place, spec);\n'
        "const all = (selector) => [...place.querySelectorAll(selector)];\n"
        "const texts = (selector) => all(selector).map((each) => each.textContent);\n"
        'const press = (key) => all(".fl-plot svg")[0].dispatchEvent(new KeyboardEvent("keydown", { key }));\n'
        'const point = (x) => { const svg = all(".fl-plot svg")[0]; svg.dispatchEvent('
        'new PointerEvent("pointermove", { clientX: svg.getBoundingClientRect().left + x })); };\n'
        "const answer = await (async () => {" + body + "})();\n"
        'document.getElementById("answer").textContent = JSON.stringify(answer);\n'
    )
    page = (
        f'<!doctype html><meta charset="utf-8"><style>{charts.style()}</style><script>{WATCH}</script>'
        f'<div id="place"></div><pre id="answer"></pre><script type="module">{script}</script>'
    )
    document, told = dom(page, folder, width)
    assert told == []
    match = re.search(r'<pre id="answer">(.*?)</pre>', document, re.DOTALL)
    assert match
    return json.loads(unescape(match[1]))


def test_the_report_draws_every_chart_and_nothing_is_complained_about(tmp_path: Path) -> None:
    made = [
        made_up(policy, rate=rate, name=f"chat at {rate:g}", requests=200, losses=0.05)
        for rate in (10.0, 30.0)
        for policy in ("round_robin", "a<b>&'\"")
    ]
    page = render_report(
        "A report", [t for _, t in made], [r for r, _ in made], [summarize(*each) for each in made], command="x"
    )
    watched = page.replace("</title>", f"</title><script>{WATCH}</script>")
    document, told = dom(page.replace("<details><summary>Each", "<details open><summary>Each"), tmp_path)
    assert told == []
    places = attributes(document, "div", "data-chart")
    drawn = re.findall(r'<svg role="img"[^>]*>(.*?)</svg>', document, re.DOTALL)
    assert len(places) == 1 + 2 * (5 + 2 * 2)  # goodput against rate; for each trace five, and two for each policy
    assert sum("<path" in each or "<rect" in each for each in drawn) == len(places)
    assert {"round_robin", "a<b>&'\""} <= set(attributes(document, "path", "data-name"))
    # and the page's own policy would have told of a script that it does not know
    assert any("Content Security Policy" in line for line in dom(watched, tmp_path)[1])


def test_on_a_phone_nothing_stands_out_of_the_page(tmp_path: Path) -> None:
    made = [
        made_up(policy, requests=200) for policy in ("least_pending_tokens", "a_policy_with_quite_a_long_name_indeed")
    ]
    page = render_report("A report", [t for _, t in made], [r for r, _ in made], [summarize(*each) for each in made])
    script = """
      const frame = document.getElementById("frame");
      frame.onload = () => {
        const inside = frame.contentDocument, width = inside.documentElement.clientWidth;
        const seen = [...inside.querySelectorAll(".fl-plot text, h1, h2, h3, p, button")];
        const shown = seen.filter((each) => !each.closest(".fl-unseen"));
        const boxes = shown.map((each) => [each.textContent, each.getBoundingClientRect()]);
        document.getElementById("answer").textContent = JSON.stringify({
          wide: inside.documentElement.scrollWidth - width,
          drawn: inside.querySelectorAll(".fl-plot path").length,
          out: boxes.filter(([, box]) => box.right > width + 1 || box.left < -1).map(([text]) => text),
        });
      };
      frame.srcdoc = PAGE;"""
    frame = (
        '<!doctype html><iframe id="frame" style="width:390px;height:800px;border:0"></iframe><pre id="answer"></pre>'
        f"<script>{script.replace('PAGE', charts.embed(page))}</script>"
    )
    document, told = dom(frame, tmp_path)
    assert told == []
    match = re.search(r'<pre id="answer">(.*?)</pre>', document, re.DOTALL)
    assert match
    answer = json.loads(unescape(match[1]))
    assert answer["drawn"] > 50
    assert (answer["wide"], answer["out"]) == (0, [])


def test_a_line_breaks_where_there_is_nothing_and_has_a_time_axis(tmp_path: Path) -> None:
    lines, labels, dashes = tell(
        LINE,
        'return [all("path[data-name]").map((p) => p.getAttribute("d").match(/M/g).length), texts("svg text"),'
        ' all("path[data-name]").map((p) => p.getAttribute("stroke-dasharray"))];',
        tmp_path,
    )
    assert lines == [1, 2]
    assert {"1 min", "2 min", "requests", "time"} <= set(labels)
    assert len(set(dashes)) == 2  # not by colour alone


def test_the_cursor_follows_the_pointer_and_the_keys(tmp_path: Path) -> None:
    body = """
      const seen = [];
      const look = () => seen.push(all(".fl-tip")[0].hidden ? null : all(".fl-tip")[0].textContent);
      look(); point(880); look(); press("ArrowLeft"); look(); press("ArrowLeft"); press("ArrowLeft"); look();
      press("Escape"); look(); press("ArrowRight"); look();
      return [seen, texts("[aria-live]")[0]];"""
    seen, said = tell(LINE, body, tmp_path)
    assert seen == [None, "2 minone20two7", "1 minone10two-", "0 sone0two5", None, "0 sone0two5"]
    assert said == "0 s: one 0, two 5"


def test_a_distribution_is_read_at_any_time_and_ends_at_its_share(tmp_path: Path) -> None:
    body = """
      point(0); const first = all(".fl-tip")[0].textContent;
      point(5000); const last = all(".fl-tip")[0].textContent;
      return [first, last, texts("svg text")];"""
    first, last, labels = tell(CDF, body, tmp_path)
    assert first == "within 91 msone0%none0%"
    assert last == "within 11 sone80%none0%"
    assert {"SLO 5 s", "100 ms", "1 s", "10 s", "100%"} <= set(labels)


def test_a_series_can_be_put_away_and_the_axis_follows(tmp_path: Path) -> None:
    body = """
      const before = texts(".fl-plot text");
      all(".fl-legend button")[0].click();
      const pressed = all(".fl-legend button").map((b) => b.getAttribute("aria-pressed"));
      return [before, pressed, all("path[data-name]").map((p) => p.dataset.name), texts(".fl-plot text")];"""
    before, pressed, left, after = tell(LINE, body, tmp_path)
    assert pressed == ["false", "true"] and left == ["two"]
    assert "20" in before and "20" not in after


def test_areas_lie_on_each_other(tmp_path: Path) -> None:
    tops = tell(
        AREA,
        'return all("path[data-name]").map((p) => p.getBBox()).map((b) => [Math.round(b.y), Math.round(b.height)]);',
        tmp_path,
    )
    (lower, _), (upper, height) = tops
    assert upper < lower < upper + height  # `b` begins where `a` ends: it slants down as that one rises
    flat = tell(AREA, 'point(10); return [all(".fl-tip")[0].textContent];', tmp_path)
    assert flat == ["0 sb3a1"]  # the upper one first, as they lie


def test_bars_have_their_figures_and_groups(tmp_path: Path) -> None:
    labels, rows = tell(
        BAR,
        'all("details")[0].open = true; await new Promise((done) => setTimeout(done, 50));'
        'return [texts("svg text"), all("tbody tr").map((row) => [...row.cells].map((c) => c.textContent))];',
        tmp_path,
    )
    assert labels == ["left", "one", "50% ±10%", "right", "two", "-"]
    assert rows == [["left: one", "50%", "10%"], ["right: two", "-", "-"]]


def test_the_numbers_are_behind_every_chart(tmp_path: Path) -> None:
    body = """
      all("details")[0].open = true;
      await new Promise((done) => setTimeout(done, 50));
      return all("table tr").map((row) => [...row.cells].map((cell) => cell.textContent));"""
    assert tell(LINE, body, tmp_path) == [
        ["time", "one", "two"],
        ["0 s", "0", "5"],
        ["1 min", "10", "-"],
        ["2 min", "20", "7"],
    ]
    assert tell(CDF, body, tmp_path) == [
        ["TTFT", "one", "none"], ["50% of the answered", "1 s", "-"], ["100% of the answered", "10 s", "-"],
        ["answered", "80%", "100%"],
    ]  # fmt: skip


def test_a_chart_is_drawn_again_from_newer_numbers_and_keeps_its_state(tmp_path: Path) -> None:
    """As a live page does: the cursor stays, a series that was put away stays away, focus is not lost."""
    body = """
      all(".fl-legend button")[0].click();
      const button = all(".fl-legend button")[1]; button.focus();
      point(880);
      const series = [{ name: "one", y: [1, 2, 3, 4] }, { name: "two", y: [9, 9, 9, 9] }];
      chart.update({ ...spec, at: [0, 60, 120, 180], series });
      const names = all("path[data-name]").map((p) => p.dataset.name), tip = all(".fl-tip")[0].textContent;
      const focus = document.activeElement === button;
      chart.remove();
      return [focus, names, tip, place.childElementCount];"""
    focus, names, tip, left = tell(LINE, body, tmp_path)
    assert focus is True and names == ["two"] and tip == "2 mintwo9" and left == 0


def test_a_chart_says_what_it_is_and_hostile_names_stay_text(tmp_path: Path) -> None:
    hostile = {**LINE, "title": "<img src=x onerror=alert(1)>", "series": [{"name": "<script>", "y": [1, 2, 3]}]}
    body = """
      const svg = all(".fl-plot svg")[0], by = (name) => document.getElementById(svg.getAttribute(name)).textContent;
      const named = [by("aria-labelledby"), by("aria-describedby")];
      return [svg.getAttribute("role"), svg.tabIndex, ...named, all("img, script").length];"""
    assert tell(hostile, body, tmp_path) == ["img", 0, "<img src=x onerror=alert(1)>", "Requests that wait.", 0]


def test_nothing_to_show_is_no_error(tmp_path: Path) -> None:
    for spec in (
        {**LINE, "at": [], "series": []},
        {**AREA, "at": [], "series": [{"name": "a", "y": []}]},
        {**CDF, "marks": [], "series": [{"name": "a", "values": []}]},
        {**BAR, "bars": []},
    ):
        assert tell(spec, 'if (spec.kind !== "bar") { point(100); press("ArrowRight"); } return 1;', tmp_path) == 1
