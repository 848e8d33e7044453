"""`least_waiting`: old numbers must not make herds, and what a poll has counted must not be counted twice."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest
from core_fleet import fleet, join, place, report, spread
from hypothesis import given, settings
from hypothesis import strategies as st

from fairlead.core.balancer import ABANDONED, CLIENT_GONE, FAILED, OK, Balancer
from fairlead.core.cluster.ledger import Lease
from fairlead.core.model import EngineStats

FRESH = 10.0


def waiting(balancer: Balancer, id: str = "a", now: float = 1.0) -> float | None:
    """What the policy takes for the engine's queue; None where it has to guess."""
    backend = balancer.backends[id]
    reported = backend.stats.waiting
    if reported is None or now - backend.polled_at > FRESH:
        return None
    return reported + backend.unseen_old + backend.unseen_new


def reported(*ids: str, now: float = 1.0, policy: str = "least_waiting") -> Balancer:
    balancer = fleet(policy, *ids)
    for id in ids:
        report(balancer, id, now, waiting=0.0)
    return balancer


def test_a_burst_between_two_polls_is_spread() -> None:
    balancer = reported("a", "b", "c", "d")
    counts = spread(place(balancer, now=1.5) for _ in range(100))
    assert set(counts) == set("abcd")
    assert max(counts.values()) - min(counts.values()) <= 2


def test_bursts_between_many_polls_are_spread_as_well() -> None:
    balancer = reported("a", "b", "c")
    running: list[Lease] = []
    for second in range(1, 30):
        new = [place(balancer, now=second + 0.5) for _ in range(20)]
        counts = spread(new)
        assert max(counts.values()) - min(counts[id] for id in "abc") <= 2, counts
        for lease in running:
            balancer.finish(lease, OK, second + 0.9)
        running = new
        for id in "abc":
            report(balancer, id, second + 1.0, waiting=0.0)


def test_the_engines_queue_decides_over_requests_in_flight() -> None:
    balancer = reported("a", "b")
    balancer.set_draining("b", True)
    for _ in range(10):
        balancer.first_token(place(balancer, now=1.0), 1.0)
    balancer.set_draining("b", False)
    report(balancer, "b", 1.1, waiting=5.0)
    assert spread(place(balancer, now=1.2) for _ in range(4)) == {"a": 4}


def test_equal_queues_are_told_apart_by_requests_in_flight() -> None:
    balancer = reported("a", "b")
    leases = [place(balancer, now=1.0) for _ in range(10)]
    for lease in leases:
        balancer.first_token(lease, 1.1)  # nobody waits any more
        if lease.backend.id == "a":
            balancer.finish(lease, OK, 1.2)
    assert spread(place(balancer, now=1.3) for _ in range(1)) == {"a": 1}


def test_a_report_grows_old() -> None:
    balancer = reported("a", now=1.0)
    assert waiting(balancer, now=10.9) == 0.0
    assert waiting(balancer, now=11.1) is None


def test_without_any_report_requests_in_flight_decide() -> None:
    balancer = fleet("least_waiting", "a", "b", "c")
    counts = spread(place(balancer) for _ in range(99))
    assert max(counts.values()) - min(counts.values()) <= 1


def test_an_engine_that_tells_no_queue_is_unknown() -> None:
    balancer = fleet("least_waiting", "a")
    report(balancer, "a", 1.0, running=4.0)
    assert waiting(balancer) is None


def test_a_backend_whose_reports_stop_keeps_its_part() -> None:
    """Its metrics page hangs, its answers do not: it must not be starved for that."""
    balancer = reported("a", "b")
    running: list[Lease] = []
    counts = {"a": 0, "b": 0}
    for i in range(600):
        now = 20.0 + i * 0.05
        if i % 20 == 0:
            report(balancer, "a", now, waiting=0.0)
        lease = place(balancer, now=now)
        counts[lease.backend.id] += 1
        balancer.first_token(lease, now)
        running.append(lease)
        if len(running) > 30:
            balancer.finish(running.pop(0), OK, now)
    assert counts["b"] >= 150, counts


# --- what a poll has counted ---------------------------------------------------------------------------------


def test_requests_sent_before_the_poll_are_in_its_count() -> None:
    balancer = reported("a")
    for _ in range(3):
        place(balancer)
    assert waiting(balancer) == 3
    report(balancer, "a", 1.0, waiting=2.0)  # one of them is being worked on already
    assert waiting(balancer) == 2


def test_requests_sent_while_the_poll_runs_are_added() -> None:
    balancer = reported("a")
    place(balancer)
    mark = balancer.poll_started("a")
    place(balancer)
    place(balancer)
    assert waiting(balancer) == 3
    balancer.poll_result("a", mark, EngineStats(waiting=1.0), 1.0)
    assert waiting(balancer) == 1 + 2


def test_a_poll_that_fails_changes_nothing() -> None:
    balancer = reported("a")
    early = place(balancer)
    balancer.poll_started("a")  # never answers
    late = place(balancer)
    assert waiting(balancer) == 2
    balancer.finish(early, OK, 1.0)
    assert waiting(balancer) == 1
    balancer.first_token(late, 1.0)
    assert waiting(balancer) == 0


def test_an_answer_that_a_later_poll_overtook_is_dropped() -> None:
    balancer = reported("a")
    old = balancer.poll_started("a")
    place(balancer)
    new = balancer.poll_started("a")
    balancer.poll_result("a", old, EngineStats(waiting=9.0), 1.0)
    assert waiting(balancer) == 1
    balancer.poll_result("a", new, EngineStats(waiting=1.0), 1.0)
    assert waiting(balancer) == 1
    balancer.poll_result("a", old, EngineStats(waiting=9.0), 1.0)
    assert waiting(balancer) == 1


@pytest.mark.parametrize("outcome", [OK, FAILED, CLIENT_GONE, ABANDONED])
def test_a_request_that_a_poll_counted_is_not_taken_off_twice(outcome: str) -> None:
    balancer = reported("a")
    lease = place(balancer)
    report(balancer, "a", 1.0, waiting=1.0)
    balancer.first_token(lease, 1.0)
    balancer.finish(lease, outcome, 1.0)
    assert waiting(balancer) == 1, "the poll's word stands until the next"
    place(balancer)
    assert waiting(balancer) == 2


def start(balancer: Balancer, polls: list[int], leases: list[Lease]) -> None:
    polls.append(balancer.poll_started("a"))


def answer(balancer: Balancer, polls: list[int], leases: list[Lease]) -> None:
    if polls:
        balancer.poll_result("a", polls.pop(), EngineStats(waiting=0.0), 1.0)


def arrive(balancer: Balancer, polls: list[int], leases: list[Lease]) -> None:
    leases.append(place(balancer))


def speak(balancer: Balancer, polls: list[int], leases: list[Lease]) -> None:
    if leases:
        balancer.first_token(leases[len(leases) // 2], 1.0)


def leave(balancer: Balancer, polls: list[int], leases: list[Lease]) -> None:
    if leases:
        balancer.finish(leases.pop(len(leases) // 2), OK, 1.0)


Step = Callable[[Balancer, list[int], list[Lease]], None]


@settings(derandomize=True, deadline=None)
@given(script=st.lists(st.sampled_from([start, answer, arrive, arrive, speak, leave]), max_size=60))
def test_the_added_count_is_never_below_zero_and_returns_to_zero(script: list[Step]) -> None:
    balancer = reported("a")
    polls: list[int] = []
    leases: list[Lease] = []
    for step in script:
        step(balancer, polls, leases)
        known = waiting(balancer)
        assert known is not None
        assert 0 <= known <= len([lease for lease in leases if not lease.first_token_at])
    for lease in leases:
        balancer.finish(lease, OK, 1.0)
    assert waiting(balancer) == 0


def test_a_faster_engine_drains_its_queue_and_gets_more() -> None:
    balancer = reported("fast", "slow")
    queues, speeds = {"fast": 0.0, "slow": 0.0}, {"fast": 3.0, "slow": 1.0}
    rng, placed = Random(1), []
    for second in range(200):
        for _ in range(4):
            lease = place(balancer, now=float(second) + rng.random())
            queues[lease.backend.id] += 1
            placed.append(lease)
        for id, speed in speeds.items():
            queues[id] = max(queues[id] - speed, 0.0)
            report(balancer, id, second + 1.0, waiting=queues[id])
        for lease in placed[-4:]:
            balancer.finish(lease, OK, second + 1.0)
    counts = spread(placed)
    assert counts["fast"] > 1.5 * counts["slow"]
    assert max(queues.values()) < 20


def test_a_backend_that_joins_without_reports_is_used() -> None:
    balancer = reported("a")
    join(balancer, "b")
    counts = spread(place(balancer) for _ in range(50))
    assert counts["b"] >= 20
