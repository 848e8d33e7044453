"""Merging, without processes: what do the pages and rows of several workers make together?"""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from fairlead.config.build import App
from fairlead.config.load import parse
from fairlead.control.metrics import MetricsPage
from fairlead.workers import merge
from fairlead.workers.merge import Totals, merged


def counter(name: str, **values: float) -> Metric:
    family = CounterMetricFamily(name, "help", labels=("backend",))
    for backend, value in values.items():
        family.add_metric((backend,), value)
    return family


def gauge(name: str, **values: float) -> Metric:
    family = GaugeMetricFamily(name, "help", labels=("backend",))
    for backend, value in values.items():
        family.add_metric((backend,), value)
    return family


def values(page: list[Metric]) -> dict[tuple[str, str], float]:
    return {(s.name, s.labels.get("backend", "")): s.value for family in page for s in family.samples}


def test_counters_and_histograms_are_summed_label_by_label() -> None:
    pages = []
    for few, many in ((1, 3), (2, 5)):
        histogram = HistogramMetricFamily("fairlead_ttft_seconds", "help", labels=("backend",))
        histogram.add_metric(("a",), [("1.0", few), ("+Inf", many)], few * 10.0)
        pages.append([counter("fairlead_requests", a=few, b=many), histogram])
    whole = merged([*pages, [counter("fairlead_requests", c=7.0)]], Totals())
    assert values(whole[:1]) == {("fairlead_requests_total", id): n for id, n in (("a", 3), ("b", 8), ("c", 7))}
    assert [(s.name, s.labels.get("le"), s.value) for s in whole[1].samples] == [
        ("fairlead_ttft_seconds_bucket", "1.0", 3), ("fairlead_ttft_seconds_bucket", "+Inf", 8),
        ("fairlead_ttft_seconds_count", None, 8), ("fairlead_ttft_seconds_sum", None, 30.0),
    ]  # fmt: skip


def test_a_gauge_is_what_its_row_of_the_table_makes_of_it() -> None:
    cases = {
        "fairlead_inflight_requests": 5.0, "fairlead_backend_up": 1.0, "fairlead_engine_metrics_age_seconds": 4.0,
        "fairlead_backend_capacity": 2.5, "fairlead_config_version": 1.0,
    }  # fmt: skip
    for name, expected in cases.items():
        assert values(merged([[gauge(name, a=1.0)], [gauge(name, a=4.0)]], Totals())) == {(name, "a"): expected}, name


def test_every_gauge_of_the_page_has_its_row() -> None:
    """A new gauge has to say what two workers' values make together: add it to merge.GAUGES, or to merge.WHOLE."""

    async def names() -> set[str]:
        config, problems = parse({"backends": ["http://127.0.0.1:1"], "access_log": False}, "test")
        assert config is not None, problems
        app = App(config)
        page = MetricsPage(app.balancer, app.recorder, app.service, app.alerting, lambda: 0)
        page.versions = app.reloader.versions
        found = {family.name for family in page.collect() if family.type == "gauge"}
        await app.stop(0.0)
        return found

    there = asyncio.run(names())
    assert len(there) > 20
    assert there - set(merge.GAUGES) - set(merge.WHOLE) == set()


def test_counters_of_the_dead_stay_and_those_of_backends_that_left_go() -> None:
    gone = Totals()
    gone.keep([counter("fairlead_requests", a=5.0, old=2.0), gauge("fairlead_connections", a=9.0)], {"a"})
    gone.keep([counter("fairlead_requests", a=1.0)], {"a"})
    page = merged([[counter("fairlead_requests", a=10.0)]], gone)
    assert values(page) == {("fairlead_requests_total", "a"): 16.0}
    assert values(merged([], gone)) == {("fairlead_requests_total", "a"): 6.0}


def test_a_backend_that_left_and_comes_back_does_not_begin_with_what_the_dead_had_counted() -> None:
    gone, rows = Totals(), merge.RowTotals()
    gone.keep([counter("fairlead_requests", a=5.0, b=2.0), counter("fairlead_errors", b=1.0)], {"a", "b"})
    gone.forget([[counter("fairlead_requests", a=7.0, b=3.0)], [counter("fairlead_requests", b=0.0)]], {"a"})
    assert values(gone.page()) == {("fairlead_requests_total", "a"): 5.0, ("fairlead_requests_total", "b"): 2.0}
    gone.forget([[counter("fairlead_requests", a=7.0)]], {"a"})
    assert values(gone.page()) == {("fairlead_requests_total", "a"): 5.0}
    rows.keep([row(id="a", requests=3), row(id="b", requests=4)], {"a", "b"})
    rows.forget(["b", "unheard"])
    shown = merge.backends([[row(id="a", requests=1), row(id="b", requests=1)]], {}, rows)
    assert [each["requests"] for each in shown] == [4, 1]


def test_whatever_dies_and_begins_anew_a_counter_never_goes_backwards() -> None:
    random = Random(3)
    gone = Totals()
    own = [0.0, 0.0, 0.0]
    shown = total = 0.0
    for _ in range(500):
        worker = random.randrange(3)
        if random.random() < 0.2:
            gone.keep([counter("fairlead_requests", a=own[worker])], {"a"})
            own[worker] = 0.0
        else:
            own[worker] += 1
            total += 1
        now = values(merged([[counter("fairlead_requests", a=n)] for n in own], gone))["fairlead_requests_total", "a"]
        assert now >= shown
        shown = now
    assert shown == total


def test_an_event_that_all_see_is_counted_once() -> None:
    gone = Totals()
    gone.keep([counter("fairlead_ejections", a=3.0)], {"a"})
    pages = [[counter("fairlead_ejections", a=2.0)], [counter("fairlead_ejections", a=4.0)]]
    assert values(merged(pages, gone)) == {("fairlead_ejections_total", "a"): 4.0}


def test_what_only_the_whole_can_tell_is_left_out_of_the_workers_words() -> None:
    assert merged([[gauge("fairlead_backend_share", a=1.0), gauge("fairlead_alert_active", a=1.0)]], Totals()) == []


# --- rows ----------------------------------------------------------------------------------------------------


def row(**different: Any) -> dict[str, Any]:
    usual = (
        dict.fromkeys((*merge.ROW_LOADS, *merge.ROW_COUNTS), 0)
        | dict.fromkeys(merge.ROW_MEANS, 1.0)
        | dict.fromkeys(merge.FRESHEST)
    )
    rest = {
        "id": "a", "state": "up", "reason": "", "overdue": 1.0, "ejections": {"failures": 0}, "error_rate": 0.0,
        "ttft_mean": None, "share": 0.0, "prefix_view": None, "ttft_counts": [0, 0],
    }  # fmt: skip
    return usual | rest | different


def test_rows_sum_what_is_done_and_take_the_mean_of_what_is_learned() -> None:
    one = row(inflight=2, requests=10, answered=8, errors=2, capacity=0.5, ttft_mean=1.0, ejections={"failures": 2})
    other = row(inflight=1, requests=30, answered=30, capacity=1.5, ttft_mean=2.0, ejections={"failures": 1})
    (whole,) = merge.backends([[one], [other]], {"a": 0.25})
    names = ("inflight", "requests", "answered", "errors", "capacity", "error_rate", "share", "ejections")
    assert {name: whole[name] for name in names} == {
        "inflight": 3, "requests": 40, "answered": 38, "errors": 2, "capacity": 1.0, "error_rate": 0.05, "share": 0.25,
        "ejections": {"failures": 2},
    }  # fmt: skip
    assert whole["ttft_mean"] == round((8 * 1.0 + 30 * 2.0) / 38, 6)


def test_rows_count_what_the_dead_had_done_but_not_what_they_had_at_hand() -> None:
    gone = merge.RowTotals()
    for _ in range(2):
        gone.keep([row(inflight=5, requests=10, answered=4, ttft_counts=[1, 2]), row(id="left", requests=9)], {"a"})
    (whole,) = merge.backends([[row(inflight=1, requests=3, ttft_counts=[7, 0])]], {}, gone)
    assert (whole["inflight"], whole["requests"], whole["answered"], whole["ttft_counts"]) == (1, 23, 8, [9, 4])
    assert set(gone.rows) == {"a"}


def test_the_worst_state_is_told_with_how_many_are_of_that_opinion() -> None:
    down, ejected = row(state="down", reason="connection refused"), row(state="ejected", reason="rests")
    (whole,) = merge.backends([[row()], [ejected], [down]], {})
    assert (whole["state"], whole["reason"]) == ("down", "connection refused (1 of 3 workers say so)")
    (whole,) = merge.backends([[down], [down]], {})
    assert whole["reason"] == "connection refused", "all agree"


def test_the_engines_word_is_that_of_the_worker_that_asked_last() -> None:
    rows = [
        row(engine_waiting=9.0, metrics_age=3.0),
        row(engine_waiting=1.0, metrics_age=0.5),
        row(metrics_age=None),
    ]
    (whole,) = merge.backends([[each] for each in rows], {})
    assert (whole["engine_waiting"], whole["metrics_age"]) == (1.0, 0.5)


def test_a_backend_that_only_some_know_is_shown() -> None:
    assert [r["id"] for r in merge.backends([[row()], [row(), row(id="b")]], {})] == ["a", "b"]


def test_decisions_are_in_order_of_time_and_no_more_than_asked_for() -> None:
    tables = [[{"time": 5.0}, {"time": 1.0}], [{"time": 4.0}, {"time": 2.0}]]
    assert [r["time"] for r in merge.decisions(tables, 3)] == [5.0, 4.0, 2.0]


def test_what_shadows_would_have_done_is_weighed_by_their_requests() -> None:
    def part(requests: int, agreement: float | None, chosen: float | None, here: int) -> dict[str, Any]:
        return {
            "policy": "random", "shadow": "latency", "active": True, "since": 10.0 - here, "requests": requests,
            "agreement": agreement, "predicted_ttft": {"policy": chosen, "shadow": chosen and chosen / 2},
            "differences": [{"backend": "a", "only_policy": here, "only_shadow": 1}], "errors": here,
            "last_error": None, "estimated_gain": {},
        }  # fmt: skip

    whole = merge.shadow([part(10, 0.5, 1.0, 1), part(30, 0.9, 2.0, 3), part(0, None, None, 0)])
    assert (whole["requests"], whole["agreement"], whole["since"], whole["errors"]) == (40, 0.8, 7.0, 4)
    assert whole["predicted_ttft"] == {"policy": 1.75, "shadow": 0.875}
    assert whole["estimated_gain"] == {"seconds": 0.875, "share": 0.5}
    assert whole["differences"] == [{"backend": "a", "only_policy": 4, "only_shadow": 3}]
    alone = {"policy": "random", "shadow": None}
    assert merge.shadow([alone, alone]) == alone


def test_learned_lengths_are_the_mean_of_what_the_workers_think() -> None:
    one, other = (
        {"m": {"bytes_per_token": 3.0, "mean_output_tokens": 100.0}},
        {"m": {"bytes_per_token": 5.0, "mean_output_tokens": 300.0}},
    )
    assert merge.models([one, other, {}]) == {"m": {"bytes_per_token": 4.0, "mean_output_tokens": 200.0}}
