"""Case 48, the way back: where the host asks a backend that hung for a token, no request is its trial."""

from __future__ import annotations

import pytest
from core_fleet import chat, fleet, place, spread

from fairlead.core.balancer import CLIENT_GONE, FAILED, OK, Balancer
from fairlead.core.health.passive import NO_PROGRESS

ALL = [f"session-{number}" for number in range(40)]


def hung(policy: str = "round_robin", by_canary: bool = True) -> tuple[Balancer, float]:
    """Of three, `a` was ejected as it hung; its requests are gone and its rest is over by the time told."""
    balancer = fleet(policy, *"abc")
    leases = [place(balancer, now=0.0) for _ in range(9)]
    for lease in leases:
        balancer.first_token(lease, 0.1)
    for tick in range(1, 150):
        for lease in leases:
            lease.produced += lease.backend.id != "a"
        balancer.tick(tick / 10)
    for lease in leases:
        balancer.finish(lease, CLIENT_GONE, 15.0)
    passive = balancer.backends["a"].passive
    assert passive.cause == NO_PROGRESS
    passive.by_canary = by_canary
    return balancer, passive.ejected_until + 1.0


def sent(balancer: Balancer, now: float) -> set[str]:
    return set(spread(place(balancer, chat(session=session), now) for session in ALL))


@pytest.mark.parametrize("policy", ["round_robin", "expected_completion", "session"])
def test_case_48_no_request_is_sent_there_until_a_token_came(policy: str) -> None:
    balancer, now = hung(policy)
    passive = balancer.backends["a"].passive
    assert not passive.awaits_canary(now - 2.0), "it rests"
    assert passive.awaits_canary(now)
    assert sent(balancer, now) == {"b", "c"}
    balancer.canary("a", now, now + 0.2)
    assert not passive.resting and passive.ramping and passive.share(now + 0.2) == pytest.approx(0.1)
    assert "a" in {place(balancer, now=now + 0.2 + second).backend.id for second in range(60)}


def test_case_48_a_token_that_does_not_come_makes_the_rest_longer() -> None:
    balancer, now = hung()
    balancer.canary("a", now, now + 10.0, "no token within 10 s")
    passive = balancer.backends["a"].passive
    assert passive.streak == 2 and 60.0 <= passive.ejected_until - (now + 10.0) <= 66.0
    assert (passive.cause, passive.reason) == (NO_PROGRESS, "no token within 10 s")
    assert sent(balancer, now + 11.0) == {"b", "c"}


def test_case_48_without_a_canary_a_request_is_the_trial() -> None:
    balancer, now = hung(by_canary=False)
    assert place(balancer, now=now).backend.id == "a"


def test_case_48_a_token_proves_nothing_that_was_asked_for_before_the_ejection() -> None:
    balancer, now = hung()
    balancer.canary("a", 1.0, now)
    assert balancer.backends["a"].passive.resting


def test_case_48_errors_are_tried_by_requests_also_where_a_canary_could_be_asked() -> None:
    balancer = fleet("round_robin", "a", "b", max_fails=1)
    balancer.backends["a"].passive.by_canary = True
    balancer.finish(place(balancer, now=1.0, tried=["b"]), FAILED, 1.0, reason="timeout")
    trial = place(balancer, now=40.0)
    assert trial.backend.id == "a"
    balancer.finish(trial, OK, 40.5)
    assert not balancer.backends["a"].passive.resting


def test_case_48_when_nobody_else_is_there_requests_are_sent_without_waiting_for_the_canary() -> None:
    balancer, now = hung()
    for id in "bc":
        for _ in range(3):
            balancer.probe(id, False, "refused")
    assert sent(balancer, now) == {"a"}
