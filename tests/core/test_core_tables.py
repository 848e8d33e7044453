"""The simple policies, by tables worked out by hand and by counting."""

from __future__ import annotations

from itertools import pairwise
from random import Random

import pytest
from core_fleet import chat, fleet, join, place, serve, spread
from hypothesis import given, settings
from hypothesis import strategies as st

from fairlead.core.balancer import OK
from fairlead.core.model import Kind

# --- round_robin ---------------------------------------------------------------------------------------------


def test_round_robin_takes_turns_smoothly() -> None:
    balancer = fleet("round_robin", "a", "b", "c", weights={"a": 5.0, "b": 1.0, "c": 1.0})
    assert "".join(place(balancer).backend.id for _ in range(14)) == "aabacaa" * 2


def test_round_robin_without_weights_goes_round() -> None:
    balancer = fleet("round_robin", "a", "b", "c")
    assert "".join(place(balancer).backend.id for _ in range(9)) == "abcabcabc"


@settings(derandomize=True, deadline=None, max_examples=60)
@given(weights=st.lists(st.integers(1, 9), min_size=1, max_size=6))
def test_round_robin_is_exact_in_every_full_turn(weights: list[int]) -> None:
    ids = [f"b{i}" for i in range(len(weights))]
    balancer = fleet("round_robin", *ids, weights={id: float(w) for id, w in zip(ids, weights, strict=True)})
    for _ in range(3):
        counts = spread(place(balancer) for _ in range(sum(weights)))
        assert [counts[id] for id in ids] == weights


def test_round_robin_forgets_neither_turn_nor_fairness_when_one_is_away() -> None:
    balancer = fleet("round_robin", "a", "b", "c")
    place(balancer)
    balancer.set_draining("b", True)
    assert 49 <= spread(place(balancer) for _ in range(100))["a"] <= 51
    balancer.set_draining("b", False)
    back = [place(balancer).backend.id for _ in range(30)]
    assert 9 <= back.count("b") <= 11
    assert ("b", "b") not in pairwise(back), "no burst on the one that comes back"


def test_round_robin_is_fair_where_models_share_a_backend() -> None:
    balancer = fleet("round_robin")
    join(balancer, "one", frozenset({"m1"}))
    join(balancer, "both", frozenset({"m1", "m2"}))
    join(balancer, "two", frozenset({"m2"}))
    counts = spread(place(balancer, chat(model=f"m{1 + i % 2}")) for i in range(300))
    assert min(counts.values()) >= 70, counts


def test_round_robin_forgets_backends_that_left() -> None:
    balancer = fleet("round_robin", "stays")
    for i in range(500):
        join(balancer, f"b{i}")
        place(balancer)
        balancer.remove(f"b{i}")
    assert spread(place(balancer) for _ in range(10)) == {"stays": 10}


# --- random --------------------------------------------------------------------------------------------------


def test_random_draws_by_weight() -> None:
    balancer = fleet("random", "a", "b", "c", weights={"a": 1.0, "b": 2.0, "c": 5.0})
    counts = spread(place(balancer) for _ in range(8000))
    for id, expected in (("a", 1000), ("b", 2000), ("c", 5000)):
        assert abs(counts[id] - expected) < 150, counts


def test_random_does_not_take_turns() -> None:
    balancer = fleet("random", "a", "b")
    drawn = [place(balancer).backend.id for _ in range(400)]
    same = sum(one == other for one, other in pairwise(drawn))
    assert 150 < same < 250


# --- least_connections ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("inflight", "weights", "chosen"),
    [
        ({"a": 1, "b": 0}, {}, "b"),
        ({"a": 3, "b": 4, "c": 2}, {}, "c"),
        ({"a": 1, "b": 2}, {"a": 1.0, "b": 3.0}, "b"),  # 1/1 against 2/3
        ({"a": 1, "b": 4}, {"a": 1.0, "b": 3.0}, "a"),  # 1/1 against 4/3
    ],
)
def test_least_connections_over_weight(inflight: dict[str, int], weights: dict[str, float], chosen: str) -> None:
    balancer = fleet("least_connections", *inflight, weights=weights)
    for id, count in inflight.items():
        for other in inflight:
            balancer.set_draining(other, other != id)
        for _ in range(count):
            place(balancer)
    for id in inflight:
        balancer.set_draining(id, False)
    assert place(balancer).backend.id == chosen


def test_least_connections_keeps_counts_level_whatever_ends() -> None:
    balancer = fleet("least_connections", "a", "b", "c")
    rng, running = Random(3), []
    for _ in range(500):
        running.append(place(balancer))
        if len(running) > 30:
            balancer.finish(running.pop(rng.randrange(len(running))), OK, 0.0)
            running.append(place(balancer))
    counts = spread(running)
    assert max(counts.values()) - min(counts.values()) < len(running) / 3


# --- power_of_two --------------------------------------------------------------------------------------------


def test_power_of_two_takes_the_less_loaded_of_two() -> None:
    balancer = fleet("power_of_two", "a", "b")
    busy = place(balancer)
    idle = "b" if busy.backend.id == "a" else "a"
    for _ in range(20):
        lease = place(balancer)
        assert lease.backend.id == idle
        balancer.finish(lease, OK, 0.0)


def test_power_of_two_never_takes_the_most_loaded_and_draws_every_pair() -> None:
    balancer = fleet("power_of_two", *"abcdefgh")
    balancer.set_draining("a", True)
    for _ in range(100):
        place(balancer)
    balancer.set_draining("a", False)
    most = max(balancer.backends.values(), key=lambda b: b.inflight)
    for id in most.id:  # make it the most loaded one beyond doubt
        for other in balancer.backends:
            balancer.set_draining(other, other != id)
        for _ in range(200):
            place(balancer)
    for id in balancer.backends:
        balancer.set_draining(id, False)
    chosen = set()
    for _ in range(300):
        lease = place(balancer)
        chosen.add(lease.backend.id)
        balancer.finish(lease, OK, 0.0)
    assert most.id not in chosen
    assert len(chosen) >= 6


def test_power_of_two_spreads_far_better_than_random() -> None:
    def widest(policy: str) -> int:
        counts = spread(place(balancer) for balancer in [fleet(policy, *"abcdefghij")] for _ in range(1000))
        return max(counts.values()) - min(counts.values())

    assert widest("power_of_two") <= 8
    assert widest("random") >= 20


# --- least_pending_tokens ------------------------------------------------------------------------------------


def test_least_pending_tokens_sees_sizes_where_counts_are_blind() -> None:
    balancer = fleet("least_pending_tokens", "a", "b")
    long = place(balancer, chat(200_000))
    short = [place(balancer, chat(400, max_tokens=10)) for _ in range(50)]
    assert {lease.backend.id for lease in short} == {"b" if long.backend.id == "a" else "a"}


def test_least_pending_tokens_lets_go_of_prompts_at_the_first_token() -> None:
    balancer = fleet("least_pending_tokens", "a", "b")
    one, two = place(balancer, chat(40_000, max_tokens=10)), place(balancer, chat(8_000, max_tokens=10))
    assert one.backend is not two.backend
    balancer.first_token(one, 1.0)
    assert place(balancer, chat(400, max_tokens=10), 1.0).backend is one.backend


def test_least_pending_tokens_follows_what_streams_produced() -> None:
    balancer = fleet("least_pending_tokens", "a", "b")
    one, two = place(balancer, chat(400, max_tokens=200)), place(balancer, chat(400, max_tokens=200))
    for lease in (one, two):
        balancer.first_token(lease, 1.0)
    two.produced += 150
    balancer.tick(2.0)
    assert place(balancer, now=2.0).backend is two.backend


@pytest.mark.parametrize(
    "policy", ["least_connections", "least_pending_tokens", "least_waiting", "power_of_two", "round_robin", "random"]
)
def test_requests_one_at_a_time_are_shared_by_weight(policy: str) -> None:
    balancer = fleet(policy, "a", "b", weights={"a": 1.0, "b": 2.0})
    balancer.tick(0.0)
    counts = spread([serve(balancer, now=float(i)) for i in range(600)])
    assert counts["b"] == pytest.approx(400, abs=60), counts


def test_cheap_requests_are_spread_though_they_have_no_tokens() -> None:
    balancer = fleet("least_pending_tokens", "a", "b", "c")
    counts = spread(place(balancer, chat(kind=Kind.CHEAP)) for _ in range(300))
    assert counts == {"a": 100, "b": 100, "c": 100}
