"""When is a request late, who may be asked as well, and how often? In virtual time, without any host."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

import pytest
from core_fleet import chat, fleet
from core_fleet import place as put
from hypothesis import given, settings
from hypothesis import strategies as st

from fairlead.core.balancer import ABANDONED, OK, Balancer
from fairlead.core.cluster.ledger import Lease
from fairlead.core.hedge import (
    BUDGET,
    BURST,
    FEWEST,
    FLOOR,
    NO_BACKEND,
    SATURATED,
    SLACK,
    TRIES,
    HedgeRules,
    Hedges,
    Lateness,
)
from fairlead.core.model import EngineStats, Facts
from fairlead.core.retry import RetryRules

A_SECOND = HedgeRules(1.0, 1.0)


def hedges(balancer: Balancer, rules: HedgeRules = A_SECOND, requests: int = 10) -> Hedges:
    """With this many requests behind it."""
    made = Hedges(balancer, rules)
    for _ in range(requests):
        made.request()
    return made


def stream(prompt_bytes: int = 4_000) -> Facts:
    return chat(prompt_bytes)


def place(balancer: Balancer, facts: Facts, now: float, others: Sequence[str] = ()) -> Lease:
    """A request placed on one that is none of the others, where all could have been chosen."""
    lease = put(balancer, facts, now, others)
    lease.candidates = [*balancer.backends.values()]
    return lease


def late(balancer: Balancer, made: Hedges, waited: float = 2.0, **options: Any) -> Lease | str:
    """What comes of a request that was placed on `a` at 0 and waits since."""
    lease = place(balancer, stream(), 0.0, ["b", "c"])
    assert lease.backend.id == "a"
    predicted = made.predict(lease, 0.0)
    asked: dict[str, Any] = {"tried": (), "tries": 1, "arrived": 0.0} | options
    return made.send(lease, predicted, now=waited, **asked)


# --- when ----------------------------------------------------------------------------------------------------


def test_a_set_delay_is_taken_as_it_is() -> None:
    balancer = fleet("round_robin", "a", "b")
    lease = place(balancer, stream(), 0.0)
    assert hedges(balancer, HedgeRules(0.3)).delay(lease, 99.0) == 0.3


def test_nobody_is_late_while_too_little_is_known() -> None:
    balancer = fleet("round_robin", "a", "b")
    made = hedges(balancer, HedgeRules(None))
    for number in range(FEWEST):
        lease = place(balancer, stream(), float(number), ["b"])
        assert made.delay(lease, 0.1) is None
        made.answered(lease, 0.1, number + 0.2)
        balancer.finish(lease, OK, number + 0.3)
    assert made.delay(place(balancer, stream(), 50.0, ["b"]), 0.1) is not None


@given(st.lists(st.floats(0.01, 100.0), min_size=FEWEST, max_size=600), st.integers(0, 1000))
@settings(max_examples=50, derandomize=True, database=None)
def test_about_one_of_twenty_is_beyond_the_limit(ratios: list[float], seed: int) -> None:
    Random(seed).shuffle(ratios)
    known = Lateness()
    for ratio in ratios:
        known.observe(ratio)
    last = ratios[-256:]
    limit = known.limit
    assert limit in last
    assert sum(ratio > limit for ratio in last) <= len(last) * 0.05
    assert sum(ratio >= limit for ratio in last) >= 1


def learned(balancer: Balancer, made: Hedges, factors: dict[str, float]) -> None:
    """Each of these backends has taken so many times the predicted second and its slack, 40 times."""
    others = set(factors)
    for id, factor in factors.items():
        for number in range(40):
            lease = place(balancer, stream(), float(number), sorted(others - {id}))
            made.answered(lease, 1.0, number + factor * (1.0 + SLACK))
            balancer.finish(lease, ABANDONED, number + 0.5)


def test_the_learned_delay_follows_what_was_predicted_and_how_answers_came_lately() -> None:
    balancer = fleet("round_robin", "a", "b", "c")
    made = hedges(balancer, HedgeRules(None))
    learned(balancer, made, {"a": 2.0, "b": 2.0, "c": 2.0})
    lease = place(balancer, stream(), 100.0)
    assert made.delay(lease, 1.0) == pytest.approx(2.0 * (1.0 + SLACK))
    assert made.delay(lease, 3.0) == pytest.approx(2.0 * (3.0 + SLACK))
    made = hedges(balancer, HedgeRules(None))
    learned(balancer, made, {"a": 0.5, "b": 0.5, "c": 0.5})
    assert made.delay(lease, 0.0) == FLOOR


def test_one_bad_machine_does_not_make_its_lateness_the_usual() -> None:
    balancer = fleet("round_robin", "a", "b", "c", "d")
    made = hedges(balancer, HedgeRules(None))
    learned(balancer, made, {"a": 2.0, "b": 2.0, "c": 2.0, "d": 50.0})
    lease = place(balancer, stream(), 100.0, ["a", "b", "c"])
    assert lease.backend.id == "d"
    assert made.delay(lease, 1.0) == pytest.approx(2.0 * (1.0 + SLACK))


def test_answers_in_one_piece_and_streams_are_late_apart() -> None:
    balancer = fleet("round_robin", "a", "b")
    made = hedges(balancer, HedgeRules(None))
    learned(balancer, made, {"a": 2.0, "b": 2.0})
    assert made.delay(place(balancer, chat(4_000, stream=False), 100.0), 1.0) is None
    whole, streamed = place(balancer, chat(4_000, stream=False), 101.0), place(balancer, stream(), 101.0)
    assert made.predict(whole, 101.0) > 5 * made.predict(streamed, 101.0), "all of it has to be generated"


def test_what_was_given_up_counts_as_having_taken_so_long_at_least() -> None:
    balancer = fleet("round_robin", "a", "b")
    made = hedges(balancer, HedgeRules(None))
    a = balancer.backends["a"]
    for number in range(40):
        lease = place(balancer, stream(), float(number), ["b"])
        made.overtaken(lease, 0.1, number + 0.9)
    assert a.inflight == 0
    assert made.delay(place(balancer, stream(), 100.0), 0.1) == pytest.approx(0.9)
    assert a.errors == 0, "not blamed"
    assert a.prefill.observed > 10 * a.prefill.predicted, "but known to be slow"


def test_a_lease_that_is_closed_already_teaches_nothing() -> None:
    balancer = fleet("round_robin", "a", "b")
    made = hedges(balancer, HedgeRules(None))
    lease = place(balancer, stream(), 0.0)
    balancer.finish(lease, ABANDONED, 0.1)
    made.overtaken(lease, 0.1, 5.0)
    assert lease.backend.prefill.observed == 0.0


# --- whether and whom ----------------------------------------------------------------------------------------


def test_another_backend_is_chosen_with_a_lease_of_its_own() -> None:
    balancer = fleet("round_robin", "a", "b", "c")
    lease = late(balancer, hedges(balancer))
    assert isinstance(lease, Lease)
    assert lease.backend.id in ("b", "c")
    assert [b.inflight for b in balancer.backends.values()].count(1) == 2
    assert balancer.budget.take(2.0), "it is no retry, and takes nothing from their budget"


def test_whoever_failed_it_before_is_not_asked() -> None:
    for _ in range(5):
        balancer = fleet("random", "a", "b", "c")
        lease = late(balancer, hedges(balancer), tried=("b",))
        assert isinstance(lease, Lease)
        assert lease.backend.id == "c"


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"tries": 3}, TRIES),
        ({"arrived": -10.0}, TRIES),
        ({"tried": ("b", "c")}, NO_BACKEND),
        ({}, "a lease"),
        ({"tries": 2, "arrived": -7.9}, "a lease"),
    ],
)
def test_the_rules_for_tries_hold(options: dict[str, Any], why: str) -> None:
    balancer = fleet("round_robin", "a", "b", "c")
    balancer.set_retry(RetryRules(attempts=2, window=10.0))
    made = late(balancer, hedges(balancer), **options)
    assert (made if isinstance(made, str) else "a lease") == why


def test_the_budget_is_never_exceeded_and_not_saved_up_for_ever() -> None:
    balancer = fleet("round_robin", "a", "b")
    made = hedges(balancer, HedgeRules(1.0, 0.05), requests=0)
    sent = 0
    for number in range(1, 1001):
        made.request()
        lease = place(balancer, stream(), number * 10.0, ["b"])
        hedge = made.send(lease, 0.1, (), 1, number * 10.0, number * 10.0 + 1.0)
        balancer.finish(lease, ABANDONED, number * 10.0 + 2.0)
        if isinstance(hedge, Lease):
            sent += 1
            balancer.finish(hedge, ABANDONED, number * 10.0 + 2.0)
        else:
            assert hedge == BUDGET
        assert sent <= number * 0.05 + 1e-6
    assert sent == 50
    for _ in range(10_000):
        made.request()
    burst = 0
    while isinstance(hedge := made.send(place(balancer, stream(), 2e4, ["b"]), 0.1, (), 1, 2e4, 2e4 + 9.0), Lease):
        burst += 1
        balancer.finish(hedge, ABANDONED, 2e4 + 9.0)
    assert (hedge, burst) == (BUDGET, BURST)


def _busy_by_its_own_word(balancer: Balancer, id: str) -> None:
    balancer.poll_result(id, 0, EngineStats(waiting=1.0), 0.0)


def _busy_with_what_we_sent_by_its_own_word(balancer: Balancer, id: str) -> None:
    place(balancer, stream(40), 0.0, [other for other in balancer.backends if other != id])
    balancer.poll_result(id, balancer.poll_started(id), EngineStats(waiting=1.0), 0.1)
    assert balancer.backends[id].foreign_waiting == 0.0


def _busy_by_what_we_sent(balancer: Balancer, id: str) -> None:
    others = [other for other in balancer.backends if other != id]
    for _ in range(3):
        place(balancer, stream(100_000), 1.9, others)


def _overdue(balancer: Balancer, id: str) -> None:
    balancer.backends[id].overdue = 2.0


@pytest.mark.parametrize(
    "busy", [_busy_by_its_own_word, _busy_with_what_we_sent_by_its_own_word, _busy_by_what_we_sent, _overdue]
)
def test_while_every_other_has_a_queue_the_fleet_is_saturated(busy: Any) -> None:
    balancer = fleet("round_robin", "a", "b", "c")
    busy(balancer, "b")
    free = late(balancer, hedges(balancer))
    assert isinstance(free, Lease)
    assert free.backend.id == "c"
    balancer = fleet("round_robin", "a", "b", "c")
    busy(balancer, "b")
    busy(balancer, "c")
    assert late(balancer, hedges(balancer)) == SATURATED


def test_a_hedge_has_to_be_sooner_than_what_is_left_for_the_first() -> None:
    balancer = fleet("round_robin", "a", "b", "c")
    assert late(balancer, hedges(balancer), waited=0.001) == SATURATED, "it may be there before"
    balancer = fleet("round_robin", "a", "b", "c")
    for b in balancer.backends.values():
        b.prefill_slowdown, b.price = 100.0, None
    made = hedges(balancer)
    lease = place(balancer, stream(), 0.0, ["b", "c"])
    predicted = made.predict(lease, 0.0)
    assert 2.0 < predicted < 2.5
    for waited in (1.0, 2.0):
        assert made.send(lease, predicted, (), 1, 0.0, waited) == SATURATED
    assert isinstance(made.send(lease, predicted, (), 1, 0.0, 2.5), Lease)


def test_what_is_still_predicted_for_the_first_may_be_reason_enough() -> None:
    balancer = fleet("round_robin", "a", "b")
    balancer.backends["b"].prefill_slowdown = 50.0
    lease = place(balancer, stream(), 0.0, ["b"])
    made = hedges(balancer)
    assert made.send(lease, 1.0, (), 1, 0.0, 0.3) == SATURATED, "it would be there at 1.3 s at the earliest"
    assert isinstance(made.send(lease, 5.0, (), 1, 0.0, 0.3), Lease)


@pytest.mark.parametrize("how", ["down", "draining", "disabled", "gone", "resting", "coming back", "full"])
def test_only_those_that_are_well_are_asked(how: str) -> None:
    balancer = fleet("round_robin", "a", "b")
    b = balancer.backends["b"]
    lease = place(balancer, stream(), 0.0, ["b"])
    made = hedges(balancer)
    match how:
        case "down":
            for _ in range(9):
                balancer.probe("b", False)
        case "draining":
            balancer.set_draining("b", True)
        case "disabled":
            balancer.set_enabled("b", False)
        case "gone":
            balancer.remove("b")
        case "resting":
            for _ in range(9):
                balancer.finish(place(balancer, stream(), 1.0, ["a"]), "failed", 1.0, reason="connect")
        case "coming back":
            b.passive.ramp_since = 1.0
        case "full":
            b.max_connections = 1
            place(balancer, stream(), 1.9, ["a"])
    assert made.send(lease, 0.1, (), 1, 0.0, 2.0) == NO_BACKEND


def test_the_memory_of_backends_that_left_is_bounded() -> None:
    balancer = fleet("round_robin", "a", "b")
    made = hedges(balancer)
    for number in range(100):
        balancer.add(f"n{number}", models=frozenset({"m"}))
        balancer.probe(f"n{number}", True)
        balancer.probe(f"n{number}", True)
        lease = place(balancer, stream(), float(number), ["a", "b"])
        made.answered(lease, 0.1, number + 0.5)
        balancer.remove(f"n{number}")
    assert len(made._lateness) <= 8
