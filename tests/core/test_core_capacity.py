"""Machines of unequal speed, nobody having set a weight: does the work go where it is done?

The brain before emulated engines, in virtual time: three equal engines slowed by 4, 2 and 1. What is asserted are
proportions and orders, with room for chance; never seconds.
"""

from __future__ import annotations

from functools import cache

import pytest
from core_fleet import MODEL, fleet
from core_virtual import Ask, Done, Virtual, asks, shares, steady

from fairlead.core.balancer import OK
from fairlead.core.cluster.ledger import Lease
from fairlead.core.model import Facts, Kind, Usage
from fairlead.emulator.engine import Engine
from fairlead.emulator.profiles import Profile, profile

SPEEDS = {"slow": 1, "middle": 2, "fast": 4}
TOTAL = sum(SPEEDS.values())
FULL = Profile("full", 0.012, 40e-6, 1e-9, 0.05e-6, 5e-6, 200_000, 2048, max_num_seqs=8, max_model_len=16_384)
"""Works on eight requests at once and lets all others wait, as an engine does that is short of KV memory."""


def unequal(policy: str, kind: Profile, *, usage: bool = True) -> Virtual:
    balancer = fleet(policy, *SPEEDS)
    return Virtual(balancer, {id: Engine(kind, slowdown=4 / speed) for id, speed in SPEEDS.items()}, usage=usage)


@cache
def closed(policy: str, name: str, in_flight: int, count: int, usage: bool = True) -> tuple[dict[str, float], float]:
    """(shares of the requests in the steady part of the run, requests per second in it)."""
    run = unequal(policy, FULL if name == "full" else profile(name), usage=usage)
    done = run.closed(asks(count, seed=3), in_flight)
    since, until = steady(done)
    return shares(done, since, until), sum(since <= one.ended < until for one in done) / (until - since)


@cache
def opened(policy: str, per_second: float, count: int = 1500) -> tuple[Virtual, float]:
    """(the run, the mean time to the first token)."""
    run = unequal(policy, profile("h100-8b"))
    done = run.open(asks(count, 3, prompt=(7.6, 0.6), output=(3.9, 0.6)), per_second, seed=5)
    return run, mean_wait(done)


def mean_wait(done: list[Done]) -> float:
    return sum(one.first - one.arrived for one in done) / len(done)


def assert_proportional(got: dict[str, float], tolerance: float) -> None:
    for id, speed in SPEEDS.items():
        assert got[id] == pytest.approx(speed / TOTAL, rel=tolerance), got


# --- closed loop ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("usage", [True, False], ids=["usage", "no_usage"])
def test_full_engines_get_work_in_proportion_to_their_speed(usage: bool) -> None:
    assert_proportional(closed("least_pending_tokens", "full", 96, 1500, usage)[0], 0.20)


@pytest.mark.parametrize("in_flight", [48, 96])
def test_engines_that_batch_get_work_in_proportion_to_their_speed(in_flight: int) -> None:
    assert_proportional(closed("least_pending_tokens", "h100-8b", in_flight, 1500)[0], 0.20)


@pytest.mark.parametrize("in_flight", [48, 96])
def test_engines_that_batch_get_at_least_what_their_speed_asks_for(in_flight: int) -> None:
    got, _ = closed("least_pending_tokens", "h100-8b", in_flight, 1500)
    assert got["fast"] >= 2 / 1.25 * got["middle"]
    assert got["middle"] >= 2 / 1.25 * got["slow"]
    assert got["slow"] > 0.01, "the slow one is not left idle for good"


def test_round_robin_is_blind_to_speed_and_slower_for_it() -> None:
    blind, rate = closed("round_robin", "h100-8b", 96, 1500)
    assert all(share == pytest.approx(1 / 3, rel=0.15) for share in blind.values())
    _, better = closed("least_pending_tokens", "h100-8b", 96, 1500)
    assert better > 1.2 * rate


def test_learned_capacities_tell_the_order_and_the_rough_size() -> None:
    run = unequal("round_robin", profile("h100-8b"))
    run.closed(asks(900, seed=3), 30)
    slow, middle, fast = (run.balancer.backends[id].capacity for id in SPEEDS)
    assert 1.5 < middle / slow < 2.6
    assert 1.5 < fast / middle < 2.6


def test_equal_machines_get_equal_work() -> None:
    balancer = fleet("least_pending_tokens", "a", "b", "c")
    run = Virtual(balancer, {id: Engine(profile("h100-8b")) for id in "abc"})
    done = run.closed(asks(1200, seed=4), 48)
    got = shares(done, *steady(done))
    assert all(share == pytest.approx(1 / 3, rel=0.2) for share in got.values()), got


# --- open loop -----------------------------------------------------------------------------------------------


def test_below_saturation_no_queue_grows_where_round_robin_drowns_the_slow_one() -> None:
    run, _ = opened("least_pending_tokens", 14.0)
    assert max(run.peak.values()) < 60, run.peak
    blind, _ = opened("round_robin", 14.0)
    assert blind.peak["slow"] > 100, "the load is a test only if a blind policy fails it"


def test_the_wait_for_the_first_token_is_shorter_than_with_round_robin() -> None:
    _, wait = opened("least_pending_tokens", 14.0)
    _, blind = opened("round_robin", 14.0)
    assert wait < blind / 3


@pytest.mark.parametrize("policy", ["least_connections", "random"])
def test_the_wait_is_no_longer_than_with_policies_that_know_less(policy: str) -> None:
    assert opened("least_pending_tokens", 10.0)[1] < opened(policy, 10.0)[1]


# --- change --------------------------------------------------------------------------------------------------


def test_a_backend_that_becomes_slow_loses_work_and_regains_it_when_it_heals() -> None:
    balancer = fleet("least_pending_tokens", "a", "b", "c")
    engines = {id: Engine(profile("h100-70b-tp4")) for id in "abc"}
    run = Virtual(balancer, engines)
    run.at = {60.0: lambda: engines["a"].set_slowdown(4.0), 160.0: lambda: engines["a"].set_slowdown(1.0)}
    done = run.open(asks(4200, 6, output=(4.0, 0.5)), 10.0, seed=2)
    assert run.now > 400
    assert shares(done, 20, 60)["a"] == pytest.approx(1 / 3, rel=0.3)
    assert shares(done, 90, 160).get("a", 0.0) < 0.16
    assert shares(done, 320, 420)["a"] > 0.22


def test_a_slow_backend_is_told_by_answers_in_one_piece_as_well() -> None:
    """No stream, no first token to see: the whole time of the answer has to do."""
    balancer = fleet("least_connections", "slow", "fast")
    for i in range(200):
        now = i * 0.5
        balancer.tick(now)
        for id, seconds in (("slow", 2.0), ("fast", 0.5)):
            other = "fast" if id == "slow" else "slow"
            lease = balancer.assign(Facts(Kind.CHAT, MODEL, True, 2000), now, [other])
            assert isinstance(lease, Lease)
            balancer.finish(lease, OK, now + seconds, Usage(500, 60))
    slow, fast = balancer.backends["slow"].capacity, balancer.backends["fast"].capacity
    assert 2.5 < fast / slow < 4.5


def test_a_weight_that_somebody_set_replaces_what_was_learned() -> None:
    balancer = fleet("least_pending_tokens", *SPEEDS, weights={"slow": 5.0})
    run = Virtual(balancer, {id: Engine(profile("h100-8b"), slowdown=4 / speed) for id, speed in SPEEDS.items()})
    run.closed([Ask(400, 100)] * 300, 24)
    balancer.tick(run.now + 1)
    assert [b.capacity for b in balancer.backends.values()] == [5.0, 1.0, 1.0]
