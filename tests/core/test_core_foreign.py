"""Load that others put on our engines: seen in what an engine reports beyond our own, and in nothing else."""

from __future__ import annotations

import pytest
from core_fleet import MODEL, chat, fleet, place, report, spread
from hypothesis import given, settings
from hypothesis import strategies as st

from fairlead.core.balancer import OK, Balancer
from fairlead.core.cluster.foreign import FRESH_SECONDS, freshness
from fairlead.core.cluster.ledger import Lease
from fairlead.core.model import EngineStats, Facts, Usage

OPERATIONS = ("place", "place", "first_token", "finish", "fail", "begin", "read", "answer")


def foreign(balancer: Balancer, id: str = "a") -> tuple[float, float]:
    backend = balancer.backends[id]
    return backend.foreign_waiting, backend.foreign_running


class Busy:
    """An engine that reports exactly what we sent there, plus `others` (waiting, running)."""

    def __init__(self, others: tuple[int, int] = (0, 0)) -> None:
        self.balancer = fleet("least_connections", "a")
        self.others = others
        self.leases: list[Lease] = []
        self.mark = 0
        self.reading: EngineStats | None = None

    def count(self) -> EngineStats:
        running = sum(lease.first_token_at is not None for lease in self.leases)
        waiting, more = self.others
        return EngineStats(waiting=len(self.leases) - running + waiting, running=running + more)

    def do(self, what: str, which: int, now: float) -> bool:
        """One thing happens; True when a reading was taken in."""
        balancer, leases = self.balancer, self.leases
        if what == "place":
            leases.append(place(balancer, chat(), now))
        elif what == "first_token" and leases:
            balancer.first_token(leases[which % len(leases)], now)
        elif what in ("finish", "fail") and leases:
            lease = leases.pop(which % len(leases))
            balancer.finish(lease, OK if what == "finish" else "client_gone", now, Usage(100, 10))
        elif what == "begin":
            self.mark, self.reading = balancer.poll_started("a"), None
        elif what == "read" and self.mark:
            self.reading = self.count()
        elif what == "answer" and self.reading is not None:
            balancer.poll_result("a", self.mark, self.reading, now)
            self.mark, self.reading = 0, None
            return True
        return False


@given(st.lists(st.tuples(st.sampled_from(OPERATIONS), st.integers(0, 30)), max_size=80))
@settings(max_examples=300, deadline=None)
def test_our_own_requests_never_look_like_those_of_others(script: list[tuple[str, int]]) -> None:
    busy = Busy()
    for i, (what, which) in enumerate(script):
        busy.do(what, which, i * 0.1)
        assert foreign(busy.balancer) == (0.0, 0.0)


@given(
    st.lists(st.tuples(st.sampled_from(OPERATIONS), st.integers(0, 30)), max_size=80),
    st.tuples(st.integers(0, 20), st.integers(0, 20)),
)
@settings(max_examples=200, deadline=None)
def test_those_of_others_are_never_taken_for_more_than_they_are(
    script: list[tuple[str, int]], others: tuple[int, int]
) -> None:
    busy = Busy(others)
    for i, (what, which) in enumerate(script):
        if busy.do(what, which, i * 0.1):
            waiting, running = foreign(busy.balancer)
            assert min(waiting, running) >= 0.0
            assert waiting + running <= sum(others)
    busy.do("begin", 0, 100.0)
    busy.do("read", 0, 100.0)
    assert busy.do("answer", 0, 100.0)
    assert sum(foreign(busy.balancer)) == sum(others), "a reading in quiet is exact"


def test_a_request_that_came_and_went_during_the_reading_is_ours() -> None:
    busy = Busy()
    for what in ("begin", "place", "read", "finish", "answer"):
        busy.do(what, 0, 1.0)
    assert foreign(busy.balancer) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("waiting", "running", "expected"),
    [
        (0, 2, (0, 0)),  # our two
        (3, 2, (3, 0)),
        (0, 5, (0, 3)),
        (4, 6, (4, 4)),
        (1, 0, (0, 0)),  # fewer than ours: some have ended since
        (None, 5, (0, 3)),
        (3, None, (1, 0)),
        (None, None, (0, 0)),
    ],
)
def test_what_is_left_after_our_own(
    waiting: float | None, running: float | None, expected: tuple[float, float]
) -> None:
    """Two requests of ours are decoding there."""
    balancer = fleet("least_connections", "a")
    for _ in range(2):
        balancer.first_token(place(balancer), 0.1)
    report(balancer, "a", 1.0, waiting=waiting, running=running)
    assert foreign(balancer) == expected


def test_what_waits_there_of_ours_is_told_from_what_runs() -> None:
    balancer = fleet("least_connections", "a")
    leases = [place(balancer) for _ in range(4)]
    for lease in leases[:2]:
        balancer.first_token(lease, 0.1)
    report(balancer, "a", 1.0, waiting=3, running=5)
    assert foreign(balancer) == (1, 3)


def test_an_engine_that_stops_telling_has_no_foreign_load() -> None:
    balancer = fleet("least_connections", "a")
    report(balancer, "a", 1.0, waiting=9, running=9)
    assert foreign(balancer) == (9, 9)
    report(balancer, "a", 2.0, kv_usage=0.5)
    assert foreign(balancer) == (0, 0)


def test_a_reading_is_worth_less_the_older_it_is() -> None:
    balancer = fleet("least_connections", "a")
    backend = balancer.backends["a"]
    assert freshness(backend, 0.0) == 0.0, "never read"
    report(balancer, "a", 10.0, waiting=9, running=9)
    assert freshness(backend, 10.0) == 1.0
    assert freshness(backend, 10.0 + FRESH_SECONDS / 2) == pytest.approx(0.5)
    assert freshness(backend, 10.0 + FRESH_SECONDS) == 0.0
    assert freshness(backend, 100.0) == 0.0


@pytest.mark.parametrize("load", [{"waiting": 12, "running": 4}, {"waiting": 0, "running": 40}], ids=["queue", "runs"])
def test_traffic_goes_elsewhere_while_another_balancer_fills_an_engine(load: dict[str, float]) -> None:
    balancer = fleet("expected_completion", "a", "b")
    report(balancer, "a", 0.0, **load)
    report(balancer, "b", 0.0, waiting=0, running=0)
    early = [place(balancer, chat(4_000), 0.01) for _ in range(8)]
    assert spread(early)["b"] > spread(early)["a"]
    for lease in early:
        balancer.finish(lease, OK, 0.02)
    late = [place(balancer, chat(4_000), FRESH_SECONDS + 1.0) for _ in range(8)]
    assert spread(late) == {"a": 4, "b": 4}, "what was read long ago does not count"


def test_two_balancers_keep_out_of_each_others_way() -> None:
    """Each is told of the other's requests by the engines' counts alone."""
    one, two = (fleet("expected_completion", "a", "b", seed=seed) for seed in (1, 2))
    for _ in range(6):
        place(one, chat(4_000), 0.0, ["b"])
    for id, waiting in (("a", 6), ("b", 0)):
        report(two, id, 0.1, waiting=waiting, running=0)
    leases = [place(two, Facts("chat", MODEL, True, 4_000, stream=True), 0.1) for _ in range(6)]
    assert spread(leases) == {"b": 6}
