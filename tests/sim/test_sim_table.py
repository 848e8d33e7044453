"""The comparison on a terminal and as JSON: fits, marks, hides nothing, and is the same each time."""

from __future__ import annotations

import dataclasses
import io
import json

import pytest
from rich.console import Console
from sim_runs import done, made_up, run_of, trace_of

from fairlead.sim.summary import FIGURES, Difference, Summary, combine_all, summarize
from fairlead.sim.table import RANKED, SCHEMA, SHOWN, best_rows, show, to_json, written, written_difference
from fairlead.sim.trace import Request

POLICIES = {"round_robin": 2.0, "expected_completion": 1.0}


def summaries(
    seeds: tuple[int, ...] = (1, 2, 3), losses: float = 0.0, fleet: str = "h100-8b:4,l4-8b:2"
) -> list[Summary]:
    found = [
        summarize(*made_up(policy, slow=slow, seed=seed, requests=120, losses=losses, fleet=fleet))
        for policy, slow in POLICIES.items()
        for seed in seeds
    ]
    rival = [
        summarize(*made_up("sglang_cache_aware", slow=1.5, seed=seed, requests=120, reference=True, fleet=fleet))
        for seed in seeds
    ]
    return found + rival


def printed(found: list[Summary], width: int) -> str:
    out = io.StringIO()
    show(Console(file=out, width=width, highlight=False), found)
    return out.getvalue()


@pytest.mark.parametrize("seeds", [(1,), (1, 2, 3)])
@pytest.mark.parametrize("width", [80, 100, 120, 200])
def test_nothing_is_cut_at_any_width(width: int, seeds: tuple[int, ...]) -> None:
    lines = printed(summaries(seeds), width).splitlines()
    assert max(map(len, lines)) <= width
    assert not any("…" in line for line in lines)


def test_the_dearest_columns_stay_and_the_others_are_named() -> None:
    text = printed(summaries(), 80)
    assert "goodput" in text and "Not shown for lack of width:" in text
    missing = text.split("Not shown for lack of width:")[1]
    assert "E2E p99" in missing and "--json has them all" in " ".join(missing.split())
    assert "Not shown" not in printed(summaries(), 200)
    assert set(RANKED) | {"not_completed"} == set(SHOWN) <= set(FIGURES)


def test_the_best_figure_has_a_star_and_a_rival_is_called_reference() -> None:
    lines = printed(summaries((1,)), 200).splitlines()
    row = {line.split()[0]: line for line in lines if line.split()}
    assert "* " in row["expected_completion"]
    assert "* " not in row["round_robin"]
    assert lines[lines.index(row["sglang_cache_aware"]) + 1].strip() == "reference"


def test_figures_that_are_written_the_same_share_the_star_and_equals_have_none() -> None:
    ask = Request(0.0, 10, 2)

    def one(policy: str, ttft: float) -> Summary:
        return summarize(run_of([done(0, 0.0, ttft)], policy=policy), trace_of(ask), skip=0)

    rows = combine_all([one("a", 0.2), one("b", 0.20001), one("c", 0.4)])
    assert best_rows(FIGURES["ttft_mean"], rows) == {0, 1}
    assert best_rows(FIGURES["goodput"], rows) == set()  # all the same
    assert best_rows(FIGURES["ttft_mean"], rows[:1]) == set()


def test_no_load_is_called_best_where_machines_differ() -> None:
    rows = combine_all(summaries((1,)))
    assert not best_rows(FIGURES["load_tokens"], rows)
    alike = [
        dataclasses.replace(s, backends=tuple(dataclasses.replace(b, profile="x") for b in s.backends))
        for s in summaries((1,))
    ]
    assert best_rows(FIGURES["load_tokens"], combine_all(alike))


def test_requests_without_an_answer_have_a_column_only_where_there_are_some() -> None:
    assert "answered" in printed(summaries(losses=0.1), 80)
    assert "answered" not in printed(summaries(), 80)


def test_several_fleets_have_a_heading_each_and_stars_of_their_own() -> None:
    text = printed(summaries((1,)) + summaries((1,), fleet="h100-8b:6"), 120)
    assert text.count("expected_completion  ") == 2
    stars = [line for line in text.splitlines() if line.startswith("expected_completion") and "* " in line]
    assert len(stars) == 2


def test_differences_are_told_for_several_seeds_only() -> None:
    assert "expected_completion against round_robin: TTFT mean -" in printed(summaries(), 200)
    assert "against" not in printed(summaries((1,)), 200)


def test_a_run_without_an_answer_is_a_row_of_dashes() -> None:
    empty = summarize(run_of([], policy="session"), trace_of())
    assert " -" in printed([empty], 80)


@pytest.mark.parametrize(
    ("value", "unit", "deviation", "text"),
    [(None, "s", None, "-"), (0.00851, "s", None, "8.5 ms"), (0.3119, "s", 0.0121, "312±12 ms"),
     (1.3, "s", 0.05, "1.30±0.05 s"), (0.9997, "s", None, "1.00 s"), (123.4, "s", None, "123.4 s"),
     (0.9751, "share", None, "97.5%"), (0.9996, "share", None, "99.96%"),
     (1.084, "factor", None, "1.08x"), (1234.5, "/s", 3.2, "1,234±3"),
     (0, "count", None, "0"), (8.67, "count", None, "8.7")],
)  # fmt: skip
def test_figures_are_written_for_people(value: float | None, unit: str, deviation: float | None, text: str) -> None:
    assert written(value, unit, deviation) == text


def test_differences_are_written_with_their_interval() -> None:
    assert written_difference(Difference("ttft_mean", 3, -35.21, -40.13, -30.3)) == "-35.2% (-40.1 to -30.3)"
    assert written_difference(Difference("ttft_mean", 1, 4.0)) == "+4.0%"
    assert written_difference(Difference("ttft_mean", 0, None)) == "-"


# --- JSON ------------------------------------------------------------------------------------------------------


def test_json_has_every_figure_of_every_run() -> None:
    found = summaries(losses=0.1)
    data = json.loads(to_json(found))
    assert data["schema"] == SCHEMA and data["simulated"] is True
    assert data["slo"] == {"ttft_seconds": 5.0, "tpot_seconds": 0.1} and data["warm_up_share"] == 0.1
    assert [(run["policy"], run["seed"]) for run in data["runs"]] == [(s.policy, s.seed) for s in found]
    assert data["runs"][0]["figures"].keys() == FIGURES.keys()
    assert data["runs"][0]["figures"]["ttft_mean"] == pytest.approx(found[0].ttft.mean, abs=1e-6)
    assert [row["name"] for row in data["runs"][0]["backends"]] == [row.name for row in found[0].backends]
    assert [row["seeds"] for row in data["combined"]] == [[1, 2, 3]] * 3
    assert {row["policy"] for row in data["differences"]} == {"expected_completion", "sglang_cache_aware"}


def test_the_same_runs_give_the_same_bytes_whatever_the_clock_did() -> None:
    def once(wall: float) -> bytes:
        run, trace = made_up("random", losses=0.1)
        run.wall_seconds = wall
        return to_json([summarize(run, trace)])

    assert once(1.0) == once(2.0)


def test_keys_are_sorted_and_nothing_to_measure_is_null() -> None:
    text = to_json([summarize(run_of([]), trace_of())])
    data = json.loads(text)
    assert list(data) == sorted(data)
    assert list(data["runs"][0]) == sorted(data["runs"][0])
    assert data["runs"][0]["figures"]["ttft_mean"] is None
