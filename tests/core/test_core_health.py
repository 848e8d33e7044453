"""Who is up, who rests, what may be tried again, and how a request is refused."""

from __future__ import annotations

import pytest
from core_fleet import chat, fleet, join, place, refuse, spread
from hypothesis import given, settings
from hypothesis import strategies as st

from fairlead.core.balancer import ABANDONED, CLIENT_GONE, FAILED, OK, REFUSED, Balancer
from fairlead.core.health.probes import ProbeCounter
from fairlead.core.retry import REASONS, RetryRules

# --- active checks -------------------------------------------------------------------------------------------


def up_after(probes: str, rise: int = 2, fall: int = 3) -> str:
    """The states after each probe (+ good, - bad), as U and D."""
    counter, states = ProbeCounter(rise, fall), ""
    for probe in probes:
        was = counter.up
        assert counter.observe(probe == "+", "why") is (counter.up is not was), "a change is told exactly once"
        states += "U" if counter.up else "D"
    return states


@pytest.mark.parametrize(
    ("probes", "states"),
    [
        ("+", "U"),  # never seen before: joins at once
        ("--+", "DDU"),
        ("+---", "UUUD"),
        ("+--+--+---", "UUUUUUUUUD"),  # only failures in a row count
        ("+---++", "UUUDDU"),  # back after `rise`
        ("+---+-++", "UUUDDDDU"),
    ],
)
def test_rise_and_fall(probes: str, states: str) -> None:
    assert up_after(probes) == states


@settings(derandomize=True, deadline=None)
@given(st.text("+-", max_size=40), st.integers(1, 4), st.integers(1, 4))
def test_rise_and_fall_by_their_definition(probes: str, rise: int, fall: int) -> None:
    expected, up, seen = "", False, False
    for end in range(1, len(probes) + 1):
        past = probes[:end]
        if up and past.endswith("-" * fall):
            up = False
        elif not up and past.endswith("+" * (rise if seen else 1)):
            up = seen = True
        expected += "U" if up else "D"
    assert up_after(probes, rise, fall) == expected


def test_a_backend_gets_requests_from_its_first_good_probe_on() -> None:
    balancer = fleet("round_robin")
    balancer.add("a", models=frozenset({"m"}))
    assert not balancer.can_serve(0.0)
    assert refuse(balancer).code == "no_backend"
    assert balancer.probe("a", True)
    assert balancer.can_serve(0.0)
    assert place(balancer).backend.id == "a"


# --- passive checks ------------------------------------------------------------------------------------------


def fail(balancer: Balancer, id: str, now: float, outcome: str = FAILED) -> None:
    """A request that `id` gets ends with `outcome`."""
    others = [b.id for b in balancer.backends.values() if b.id != id]
    lease = place(balancer, now=now, tried=others)
    assert lease.backend.id == id
    balancer.finish(lease, outcome, now, reason="connect")


def resting(balancer: Balancer, id: str, now: float) -> bool:
    return id not in spread(place(balancer, now=now) for _ in range(2 * len(balancer.backends)))


def test_max_fails_failures_rest_a_backend_for_fail_timeout() -> None:
    balancer = fleet("round_robin", "a", "b")
    for now in (1.0, 2.0):
        fail(balancer, "a", now)
        assert not resting(balancer, "a", now)
    fail(balancer, "a", 3.0)
    assert resting(balancer, "a", 3.0)
    assert resting(balancer, "a", 32.9)
    assert not resting(balancer, "a", 36.1), "a tenth more at most"


def test_failures_that_lie_far_apart_do_not_add_up() -> None:
    balancer = fleet("round_robin", "a", "b")
    for now in (0.0, 31.0, 62.0, 93.0, 124.0):
        fail(balancer, "a", now)
        assert not resting(balancer, "a", now)


def test_a_success_forgets_the_failures() -> None:
    balancer = fleet("round_robin", "a", "b")
    for outcome in (FAILED, FAILED, OK, FAILED, FAILED):
        fail(balancer, "a", 1.0, outcome)
    assert not resting(balancer, "a", 1.0)


@pytest.mark.parametrize("outcome", [CLIENT_GONE, REFUSED, ABANDONED])
def test_what_is_not_the_backends_fault_is_not_counted(outcome: str) -> None:
    balancer = fleet("round_robin", "a", "b")
    for _ in range(10):
        fail(balancer, "a", 1.0, outcome)
    assert not resting(balancer, "a", 1.0)
    assert balancer.backends["a"].errors == 0


def test_back_on_trial_one_failure_rests_it_again_and_one_success_clears_it() -> None:
    balancer = fleet("round_robin", "a", "b")
    for _ in range(3):
        fail(balancer, "a", 1.0)
    fail(balancer, "a", 35.0)
    assert resting(balancer, "a", 35.0)
    assert resting(balancer, "a", 94.0), "twice as long"
    fail(balancer, "a", 102.0, OK)
    fail(balancer, "a", 103.0)
    fail(balancer, "a", 103.0)
    assert not balancer.backends["a"].passive.resting


def test_failures_of_requests_sent_before_the_rest_do_not_lengthen_it() -> None:
    balancer = fleet("round_robin", "a", "b")
    late = [place(balancer, now=1.0, tried=["b"]) for _ in range(5)]
    for _ in range(3):
        fail(balancer, "a", 1.0)
    for lease in late:
        balancer.finish(lease, FAILED, 20.0)
    assert not resting(balancer, "a", 34.1)


def test_max_fails_0_turns_it_off() -> None:
    balancer = fleet("round_robin", "a", "b", max_fails=0)
    for _ in range(100):
        fail(balancer, "a", 1.0)
    assert not resting(balancer, "a", 1.0)


def test_when_all_rest_all_are_tried() -> None:
    balancer = fleet("round_robin", "a", "b")
    for id in ("a", "b"):
        for _ in range(3):
            fail(balancer, id, 1.0)
    assert balancer.can_serve(2.0)
    assert spread(place(balancer, now=2.0) for _ in range(10)) == {"a": 5, "b": 5}
    join(balancer, "c")
    assert spread(place(balancer, now=2.0) for _ in range(10)) == {"c": 10}, "somebody sound is there"


def test_a_rest_ends_by_itself_for_every_model() -> None:
    balancer = fleet("round_robin", "a", "b")
    for _ in range(3):
        fail(balancer, "a", 1.0)
    place(balancer, chat(model=None, needs_model=False), 1.0)
    for _ in range(3):
        fail(balancer, "b", 20.0)
    trial = place(balancer, chat(model=None, needs_model=False), 35.0)
    assert trial.backend.id == "a"
    balancer.finish(trial, OK, 35.0)
    assert spread(place(balancer, chat(model=None, needs_model=False), 35.0) for _ in range(4)) == {"a": 4}
    trial = place(balancer, now=54.0)
    assert trial.backend.id == "b"
    balancer.finish(trial, OK, 54.0)
    assert not any(b.passive.resting for b in balancer.backends.values())


# --- retries -------------------------------------------------------------------------------------------------


def may(balancer: Balancer, reason: str = "connect", tries: int = 1, arrived: float = 0.0, now: float = 0.0) -> bool:
    lease = place(balancer, now=now)
    balancer.finish(lease, ABANDONED, now)
    return balancer.may_retry(lease, reason, tries, arrived, now, [lease.backend.id])


@pytest.mark.parametrize("reason", [*REASONS, "400", "404", "client_gone", ""])
def test_only_listed_reasons_are_tried_again(reason: str) -> None:
    assert may(fleet("round_robin", "a", "b"), reason) is (reason in {"connect", "timeout", "502", "503"})
    rules = RetryRules(on=frozenset({"429", "500"}))
    assert may(fleet("round_robin", "a", "b", retry=rules), reason) is (reason in {"429", "500"})


def test_tries_and_time_are_bounded() -> None:
    balancer = fleet("round_robin", "a", "b")
    assert [may(balancer, tries=tries) for tries in (1, 2, 3)] == [True, True, False]
    assert [may(balancer, arrived=0.0, now=now) for now in (9.9, 10.0, 11.0)] == [True, False, False]
    assert not may(fleet("round_robin", "a", "b", retry=RetryRules(attempts=0)))


def test_there_has_to_be_another_backend() -> None:
    assert not may(fleet("round_robin", "a"))
    balancer = fleet("round_robin", "a", "b", "c")
    lease = place(balancer)
    assert balancer.may_retry(lease, "connect", 1, 0.0, 0.0, ["a", "b"])
    assert not balancer.may_retry(lease, "connect", 1, 0.0, 0.0, ["a", "b", "c"])
    balancer = fleet("round_robin", "a")
    join(balancer, "b", frozenset({"other"}))
    assert not may(balancer), "one that serves another model is none"


def test_what_was_tried_comes_last() -> None:
    balancer = fleet("round_robin", "a", "b", "c")
    assert spread(place(balancer, tried=["a", "b"]) for _ in range(5)) == {"c": 5}
    assert set(spread(place(balancer, tried=["a", "b", "c"]) for _ in range(9))) == set("abc")


def test_the_budget_is_a_floor_and_a_share_of_the_requests() -> None:
    def retries(requests: int, share: float = 0.2) -> int:
        balancer = fleet("round_robin", "a", "b", retry=RetryRules(budget=share))
        leases = [place(balancer, now=1.0) for _ in range(requests)]
        return sum(balancer.may_retry(leases[0], "connect", 1, 1.0, 1.0) for _ in range(5000))

    assert retries(1) == pytest.approx(100, abs=1)  # ten a second over ten seconds are always allowed
    assert retries(5000) == pytest.approx(1100, abs=1)
    assert retries(5000, 0.0) == 0  # none means none


def test_a_spent_budget_fills_again() -> None:
    balancer = fleet("round_robin", "a", "b")
    lease = place(balancer, now=1.0)
    while balancer.may_retry(lease, "connect", 1, 1.0, 1.0):
        pass
    assert not balancer.may_retry(lease, "connect", 1, 2.0, 2.0)
    assert balancer.may_retry(lease, "connect", 1, 20.0, 20.0)


def test_a_refused_retry_costs_no_budget() -> None:
    balancer = fleet("round_robin", "a", "b")
    lease = place(balancer, now=1.0)
    for _ in range(1000):
        balancer.may_retry(lease, "400", 1, 1.0, 1.0)
        balancer.may_retry(lease, "connect", 3, 1.0, 1.0)
        balancer.may_retry(lease, "connect", 1, 1.0, 1.0, ["a", "b"])
    assert balancer.may_retry(lease, "connect", 1, 1.0, 1.0)
