"""The report is one safe, small, unchanging file; what it draws is what the runs did.

That a browser draws it is shown in tests/charts.
"""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from typing import Any

import pytest
from sim_runs import done, made_up, run_of, trace_of

from fairlead.sim import report_charts
from fairlead.sim.report import render_report
from fairlead.sim.summary import Slo, combine_all, summarize
from fairlead.sim.trace import REFUSED, Request, Run, Sample, Trace

HOSTILE = '</script><script>alert(1)</script><img src=x onerror="alert(2)">&amp;\'"'
VOID = {"meta", "link", "br", "wbr", "img", "input", "hr"}


class Elements(HTMLParser):
    """All elements with their attributes, and whether each one was closed in its turn."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def report(*made: tuple[Run, Trace], title: str = "A comparison", command: str = "fairlead simulate chat") -> str:
    runs, traces = [run for run, _ in made], [trace for _, trace in made]
    return render_report(title, traces, runs, [summarize(*each) for each in made], command=command)


def data_of(page: str) -> dict[str, Any]:
    match = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert match
    found: dict[str, Any] = json.loads(match[1])
    return found


def test_every_element_is_closed_and_every_chart_has_its_data() -> None:
    page = report(made_up("round_robin"), made_up("expected_completion"))
    elements = Elements(page)
    assert not elements.open
    wanted = [attributes["data-chart"] for _, attributes in elements.found if "data-chart" in attributes]
    assert wanted == list(data_of(page)) and len(wanted) == 5 + 2 * 2


def test_nothing_is_fetched_and_the_policy_forbids_it() -> None:
    elements = Elements(report(made_up("random")))
    for tag, attributes in elements.found:
        assert tag not in {"img", "iframe", "object", "embed", "link", "base", "form"}
        assert not {"src", "srcset", "style"} & attributes.keys()
        assert not any(name.startswith("on") for name in attributes)
        assert str(attributes.get("href", "#")).startswith("#")
    policies = [a["content"] for _, a in elements.found if a.get("http-equiv") == "Content-Security-Policy"]
    assert len(policies) == 1
    policy = policies[0] or ""
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy and "http" not in policy


def test_hostile_names_stay_text() -> None:
    run, trace = made_up(HOSTILE, name=HOSTILE, fleet=HOSTILE)
    run.backends = [HOSTILE + name for name in run.backends]
    run.outcomes = [done(one.request, one.arrived, backend=HOSTILE + one.backend) for one in run.outcomes]
    run.notes = [HOSTILE]
    page = report((run, Trace(HOSTILE, trace.requests, notes=[HOSTILE])), title=HOSTILE, command=HOSTILE)
    elements = Elements(page)
    assert not elements.open
    tags = [tag for tag, _ in elements.found]
    assert tags.count("script") == 2 and "img" not in tags
    assert "alert(1)</script>" not in page
    assert any(HOSTILE in text for text in elements.text)  # it can still be read
    assert any(HOSTILE in spec["title"] for spec in data_of(page).values())


def test_the_same_runs_give_the_same_page_whatever_the_clock_did() -> None:
    first, second = made_up("random"), made_up("random")
    second[0].wall_seconds = 99.0
    assert report(first) == report(second)


def test_ten_long_runs_stay_below_a_megabyte() -> None:
    page = report(*(made_up(f"policy_{number}", requests=6000, backends=24, losses=0.05) for number in range(10)))
    assert len(page.encode()) < 400_000


def test_what_one_has_to_know_stands_in_it() -> None:
    run, trace = made_up("round_robin", losses=0.1)
    run.notes.append("one backend crashed on purpose")
    text = " ".join(Elements(report((run, trace), made_up("rival", reference=True))).text)
    for part in (
        "A simulation", "Lengths are made up.", "one backend crashed on purpose", "h100-8b:4,l4-8b:2",
        "TTFT at most 5 s", "Seeds: 1.", "warm-up", "routing rules of other projects",
        "fairlead simulate chat", "not answered",
    ):  # fmt: skip
        assert part in text, part


def test_the_comparison_marks_the_best_for_readers_of_every_kind() -> None:
    page = report(made_up("round_robin", slow=3.0), made_up("expected_completion"))
    row = page[page.index('<th scope="row">expected_<wbr>completion') :].split("</tr>")[0]
    assert '<td class="fl-number best">★ <span class="fl-unseen">best: </span>' in row


def test_no_run_and_runs_without_an_answer_do_not_break_it() -> None:
    assert "0 policies" in render_report("Nothing", [], [], [])
    page = report(
        (run_of([]), trace_of()), (run_of([done(0, 0.0, None, status=REFUSED)], policy="x"), trace_of(Request(0, 1, 1)))
    )
    assert not Elements(page).open


def test_summaries_have_to_line_up_with_their_runs() -> None:
    run, trace = made_up("random")
    with pytest.raises(ValueError):
        render_report("x", [trace], [run], [])


# --- what is drawn ---------------------------------------------------------------------------------------------


def test_a_distribution_is_of_all_offered_requests() -> None:
    outcomes = [done(i, float(i), ttft=i + 1.0) for i in range(3)] + [done(3, 3.0, status=REFUSED)]
    spec = report_charts.ttft_distribution({"a": [run_of(outcomes)]}, {"a": 0}, Slo(2.0, 0.1), skip=0)
    (series,) = spec["series"]
    assert series["of"] == 0.75
    assert (series["values"][0], series["values"][-1]) == (1.0, 3.0)
    assert len(series["values"]) == len(spec["shares"]) and list(spec["shares"]) == sorted(spec["shares"])
    assert spec["marks"] == [{"at": 2.0, "label": "SLO 2 s"}]


def test_seeds_are_pooled_in_a_distribution() -> None:
    runs = [run_of([done(0, 0.0, e2e=1.0)]), run_of([done(0, 0.0, e2e=3.0)], seed=2)]
    (series,) = report_charts.e2e_distribution({"a": runs}, {"a": 0}, skip=0)["series"]
    assert (series["values"][0], series["values"][-1], series["of"]) == (1.0, 3.0, 1.0)


def _sampled(placed: list[list[int]], waiting: list[list[int]] | None = None, held: int = 0) -> Run:
    run = run_of([])
    run.backends = [f"b{number}" for number in range(len(placed[0]))]
    run.profiles = ["p"] * len(run.backends)
    idle = [0] * len(run.backends)
    run.samples = [
        Sample(float(at), waiting[at] if waiting else idle, idle, row, [0.0] * len(idle), held)
        for at, row in enumerate(placed)
    ]
    return run


def test_shares_are_of_each_stretch_and_what_is_too_little_goes_with_the_last() -> None:
    spec = report_charts.share_over_time(_sampled([[0, 0], [3, 1], [3, 5], [3, 5]]), "x")
    assert spec["at"] == [0.5, 2.0]
    assert [band["y"] for band in spec["series"]] == [[0.75, 0], [0.25, 1]]


def test_a_stretch_has_enough_requests_to_speak_of_shares() -> None:
    busy_then_idle = [[10 * at, 10 * at] for at in range(101)] + [[1000, 1000 + at] for at in range(1, 200)]
    spec = report_charts.share_over_time(_sampled(busy_then_idle), "x")
    assert len(spec["at"]) <= 2199 // report_charts.PER_STRETCH
    assert [band["y"][0] for band in spec["series"]] == [0.5, 0.5]
    assert [band["y"][-1] for band in spec["series"]] == [0, 1]


def test_a_backend_that_left_takes_no_request_back() -> None:
    spec = report_charts.share_over_time(_sampled([[0, 0], [4, 4], [0, 6]]), "x")
    assert [band["y"] for band in spec["series"]] == [[0.5, 0], [0.5, 1]]


def test_of_many_backends_the_busiest_have_bands_and_the_others_share_one() -> None:
    placed = [0] * 20, list(range(20))
    spec = report_charts.share_over_time(_sampled([list(row) for row in placed]), "x")
    assert [band["name"] for band in spec["series"]] == [*(f"b{n} (p)" for n in range(13, 20)), "the other 13"]
    assert sum(band["y"][0] for band in spec["series"]) == pytest.approx(1, abs=0.01)


def test_queues_show_what_waits_and_what_is_held() -> None:
    spec = report_charts.queue_over_time(_sampled([[0, 0], [1, 1]], [[1, 2], [3, 4]], held=5), "x")
    assert [band["y"] for band in spec["series"]] == [[1, 3], [2, 4], [5, 5]]
    assert spec["series"][-1]["name"] == "held by the balancer"


def test_waiting_is_compared_at_the_same_moments_and_ends_with_the_run() -> None:
    short, long = _sampled([[0]] * 11, [[2]] * 11), _sampled([[0]] * 21, [[4]] * 21)
    spec = report_charts.waiting_by_policy({"a": short, "b": long}, {"a": 0, "b": 1})
    first, second = (series["y"] for series in spec["series"])
    assert len(first) == len(second) == len(spec["at"]) == report_charts.MOMENTS
    assert set(second) == {4} and first[0] == 2 and first[-1] is None


def test_courses_are_thinned_but_keep_both_ends() -> None:
    samples = _sampled([[0]] * 500).samples
    found = report_charts.thinned(samples)
    assert len(found) == report_charts.MOMENTS + 1
    assert (found[0].at, found[-1].at) == (0.0, 499.0)


def test_goodput_is_drawn_against_rate_where_there_are_several() -> None:
    made = [
        made_up(policy, rate=rate, name=f"chat at {rate}", requests=200)
        for rate in (40.0, 10.0)
        for policy in ("a", "b")
    ]
    rows = combine_all([summarize(*each) for each in made])
    spec = report_charts.goodput_by_rate(rows, {"a": 0, "b": 1}, rows[0].fleet, "")
    assert spec is not None
    assert spec["at"] == sorted(spec["at"]) and [series["name"] for series in spec["series"]] == ["a", "b"]
    by_trace = {row.trace: row.figures["goodput"].mean for row in rows if row.policy == "a"}
    assert spec["series"][0]["y"] == pytest.approx([by_trace["chat at 10.0"], by_trace["chat at 40.0"]], abs=1e-3)
    assert report_charts.goodput_by_rate(rows[:2], {"a": 0, "b": 1}, rows[0].fleet, "") is None


def test_fleets_are_compared_as_groups() -> None:
    made = [made_up("a", fleet=fleet, requests=100) for fleet in ("h100-8b:6", "l4-8b:6")]
    titles = [spec["title"] for spec in data_of(report(*made)).values()]
    assert "Goodput by fleet: chat" in titles
