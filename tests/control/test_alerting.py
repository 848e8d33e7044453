"""What alerts look at is what the parts know; what they say goes to the log once."""

from __future__ import annotations

import logging
import time
from types import SimpleNamespace
from typing import Any, cast

import pytest
from control_records import finish, make_balancer, place

from fairlead.control.alerting import Alerting, gather
from fairlead.control.fleet import Refused, Versions
from fairlead.control.recorder import SECONDS, Recorder
from fairlead.core.alerts.facts import CONTESTED, PLACED, TOKENS, TTFT, BackendFacts, FleetFacts
from fairlead.core.balancer import Balancer
from fairlead.core.model import EngineStats, Usage
from fairlead.core.retry import RetryRules
from fairlead.proxy.tls import Rotations


def facts(balancer: Balancer, recorder: Recorder | None = None, versions: Versions | None = None) -> FleetFacts:
    ends = [
        SimpleNamespace(what="listen [::]:443", expires=time.time() + 1000.0),
        SimpleNamespace(what="x", expires=None),
    ]
    rotations = cast(Rotations, SimpleNamespace(all=ends))
    return gather(balancer, recorder or Recorder(balancer), rotations, versions or Versions(None), 20.0)


def test_counters_are_those_of_requests_that_another_could_have_taken() -> None:
    balancer = make_balancer("a", "b")
    recorder = Recorder(balancer)
    lease = place(balancer, model="m", stream=True)
    balancer.first_token(lease, 11.0)
    finish(recorder, lease, 12.0, first_byte_at=11.0, usage=Usage(100, 5, 40))
    chosen = lease.backend.id
    balancer.set_draining("b" if chosen == "a" else "a", True)
    alone = place(balancer, model="m")
    finish(recorder, alone, 12.0, usage=Usage(7000, 5, 0))
    (row,) = [b for b in facts(balancer, recorder).backends if b.id == chosen]
    assert (row.counts[PLACED], row.counts[CONTESTED], row.counts[TOKENS]) == (2, 1, 105)
    buckets = row.counts[TTFT:]
    assert len(buckets) == len(SECONDS) + 1 and sum(buckets) == 1


def test_states_are_those_of_the_fleet() -> None:
    balancer = make_balancer("a", "b", "c")
    balancer.set_draining("b", True)
    for _ in range(3):
        balancer.probe("c", False)
    balancer.poll_result("a", balancer.poll_started("a"), EngineStats(waiting=4.0), 15.0)
    balancer.backends["a"].trust.distrusted = True
    a, b, c = facts(balancer).backends
    assert (a.usable, a.waiting, a.metrics_age, a.distrusted) == (True, 4.0, 5.0, True)
    assert (b.up, b.wanted, b.usable, b.metrics_age) == (True, False, False, None)
    assert (c.up, c.wanted) == (False, True)


def test_the_rest_is_what_the_parts_say() -> None:
    balancer, versions = make_balancer("a", "b"), Versions("f.yaml")
    balancer.budget.overflows = 7
    versions.refused(Refused(400, "the file has 1 problem"))
    found = facts(balancer, versions=versions)
    assert (found.overflows, found.refused, found.panics) == (7, "the file has 1 problem", ())
    ((where, left),) = found.certificates
    assert where == "listen [::]:443" and 990 < left <= 1000
    for id in ("a", "b"):
        for _ in range(3):
            balancer.probe(id, False)
    assert facts(balancer).panics == ("m",)


def test_without_a_retry_budget_none_can_be_spent() -> None:
    balancer = make_balancer("a")
    balancer.set_retry(RetryRules(budget=0.0))
    balancer.budget.overflows = 7
    assert facts(balancer).overflows == 0


def told(alerting: Alerting, facts: FleetFacts, caplog: pytest.LogCaptureFixture, *times: float) -> list[Any]:
    caplog.clear()
    for now in times:
        alerting.look(facts, now)
    return [(record.levelname, record.getMessage()) for record in caplog.records]


def test_one_line_when_it_is_raised_and_one_when_it_ends(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="fairlead")
    alerting = Alerting(None, lambda: 0.0)
    down = FleetFacts((BackendFacts("a", up=False), BackendFacts("b")))
    ((level, line),) = told(alerting, down, caplog, *range(200))
    assert level == "WARNING" and line.startswith("alert backend_down raised: backend a fails its health checks")
    well = FleetFacts((BackendFacts("a"), BackendFacts("b")))
    assert told(alerting, well, caplog, *range(200, 300)) == [("INFO", "alert backend_down cleared for backend a")]
    assert alerting.standing() == []
    (over,) = alerting.ended()
    assert (over["alert"], over["severity"], over["backend"]) == ("backend_down", "warning", "a")


def test_one_that_is_muted_says_nothing_and_sends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    alerting = Alerting(None, lambda: 0.0)
    alerting.muted = True
    alerting.follow(alerting.alerts.rules, [cast(Any, "a webhook")])
    assert told(alerting, FleetFacts((BackendFacts("a", up=False),)), caplog, *range(200)) == []
    assert alerting._webhooks is None
