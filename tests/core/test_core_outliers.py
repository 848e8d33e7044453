"""Ejection, the way back, the floor and panic: how a backend leaves the rotation and how it comes back."""

from __future__ import annotations

from random import Random

import pytest
from core_fleet import chat, fleet, place, spread
from hypothesis import given, settings
from hypothesis import strategies as st

from fairlead.core.balancer import CLIENT_GONE, ERROR, FAILED, OK, Balancer
from fairlead.core.cluster.ledger import Lease
from fairlead.core.health.passive import DEAD, OutlierRules, PassiveFailures
from fairlead.core.model import Kind, Refusal
from fairlead.core.policies.registry import POLICIES

every_policy = pytest.mark.parametrize("policy", POLICIES)
OUT_FOR = 33.0  # the first rest, at its longest


def break_one(balancer: Balancer, id: str, now: float, reason: str = "timeout") -> None:
    """As many requests fail there as it takes to eject it."""
    others = [b for b in balancer.backends if b != id]
    for _ in range(3):
        balancer.finish(place(balancer, now=now, tried=others), FAILED, now, reason=reason)
    assert balancer.backends[id].passive.ejected(now)


def usable(balancer: Balancer, now: float, count: int = 40) -> set[str]:
    """Who gets some of these requests, which all end well at once but tell nothing."""
    found = set()
    for _ in range(count):
        lease = place(balancer, now=now)
        found.add(lease.backend.id)
        balancer.finish(lease, ERROR, now)
    return found


# --- how long -------------------------------------------------------------------------------------------------


def rests(count: int, longest: float = 300.0, pause: float = 0.0) -> list[float]:
    """Lengths of rests of a backend that fails again `pause` seconds after it came back from each."""
    passive, now, lengths = PassiveFailures(1, 30.0, OutlierRules(longest=longest)), 0.0, []
    for _ in range(count):
        passive.fail("timeout", now, now, Random(1))
        lengths.append(passive.ejected_until - now)
        now = passive.ejected_until
        if pause:
            passive.succeed(now, now)
            now += pause
    return lengths


def test_each_rest_in_a_row_is_longer_up_to_a_limit() -> None:
    base = [30.0, 60.0, 90.0, 120.0, 150.0, 150.0]
    assert rests(6, 150.0) == pytest.approx([seconds * (1 + 0.1 * Random(1).random()) for seconds in base])


def test_a_success_alone_does_not_forgive_but_a_quiet_time_does() -> None:
    assert rests(3, pause=1.0)[2] > 89.0
    assert rests(3, pause=100.0)[2] < 34.0


def test_the_limit_never_shortens_what_fail_timeout_asks_for() -> None:
    passive = PassiveFailures(1, 600.0, OutlierRules(longest=300.0))
    passive.fail("timeout", 0.0, 0.0, Random(1))
    assert passive.ejected_until >= 600.0


def test_ends_of_rests_are_spread_by_the_balancers_random_numbers() -> None:
    ends = set()
    for seed in range(8):
        balancer = fleet("round_robin", "a", "b", seed=seed)
        break_one(balancer, "a", 1.0)
        ends.add(balancer.backends["a"].passive.ejected_until)
    assert len(ends) == 8
    assert all(31.0 <= end <= 34.0 for end in ends)


def test_a_failure_during_a_rest_extends_it() -> None:
    balancer = fleet("round_robin", "a")  # alone it is tried all the same
    break_one(balancer, "a", 1.0)
    before = balancer.backends["a"].passive.ejected_until
    balancer.finish(place(balancer, now=20.0), FAILED, 21.0, reason="timeout")
    assert balancer.backends["a"].passive.ejected_until == pytest.approx(before + 20.0)


def test_an_engine_that_comes_up_after_it_was_down_needs_no_trial_but_starts_slowly() -> None:
    balancer = fleet("round_robin", "a", "b")
    balancer.tick(1.0)
    break_one(balancer, "a", 1.0, "connect")
    for _ in range(3):
        balancer.probe("a", False, "refused")
    balancer.tick(5.0)
    for _ in range(2):
        balancer.probe("a", True)
    passive = balancer.backends["a"].passive
    assert not passive.resting
    assert passive.ramping
    assert 0.0 < passive.share(5.0) < 0.2
    places = {place(balancer, now=5.0 + i / 10).backend.id for i in range(300)}
    assert places == {"a", "b"}


# --- the way back ---------------------------------------------------------------------------------------------


@every_policy
def test_a_trial_is_made_one_at_a_time_whatever_the_policy_would_say(policy: str) -> None:
    balancer = fleet(policy, "a", "b", "c")
    break_one(balancer, "a", 1.0)
    now = 1.0 + OUT_FOR
    trial = place(balancer, now=now)
    assert trial.backend.id == "a"
    held = [place(balancer, chat(400 + i), now) for i in range(20)]
    assert "a" not in spread(held)
    balancer.finish(trial, CLIENT_GONE, now)  # proves nothing
    trial = place(balancer, now=now + 0.1)
    assert trial.backend.id == "a"
    balancer.finish(trial, OK, now + 0.2)
    assert not balancer.backends["a"].passive.resting


def test_a_trial_that_fails_rests_it_again_for_longer() -> None:
    balancer = fleet("round_robin", "a", "b")
    break_one(balancer, "a", 1.0)
    balancer.finish(place(balancer, now=40.0), FAILED, 40.0, reason="timeout")
    passive = balancer.backends["a"].passive
    assert 60.0 <= passive.ejected_until - 40.0 <= 66.0
    assert passive.ejections == {"failures": 2, "no_progress": 0, "slow": 0}
    assert usable(balancer, 99.0) == {"b"}


def test_a_request_that_failed_elsewhere_is_not_made_a_trial() -> None:
    balancer = fleet("round_robin", "a", "b", "c")
    break_one(balancer, "a", 1.0)
    assert place(balancer, now=40.0, tried=["b"]).backend.id == "c"


def arrivals(policy: str, per_second: int, seconds: int, since: float) -> list[tuple[float, str]]:
    """When and where: requests that take a second each, at four backends of which one comes back at `since`."""
    balancer = fleet(policy, "a", "b", "c", "d")
    break_one(balancer, "a", since - 40.0)
    running: list[tuple[float, Lease]] = []
    found = []
    for i in range(per_second * seconds):
        now = since + i / per_second
        while running and running[0][0] <= now:
            at, lease = running.pop(0)
            balancer.finish(lease, OK, at)
        balancer.tick(now)
        lease = place(balancer, chat(400 + i % 7 * 40, session=str(i % 50), prefixes=(i % 50 + 1,)), now)
        found.append((now - since, lease.backend.id))
        running.append((now + 1.0, lease))
    return found


@every_policy
def test_a_slow_start_never_gives_more_than_a_tenth_above_the_fair_share(policy: str) -> None:
    found = arrivals(policy, 40, 90, 100.0)
    for begin in range(0, 60, 10):
        window = [id for at, id in found if begin <= at < begin + 10]
        share = window.count("a") / len(window) / 0.25
        allowed = min(0.1 + (begin + 10) / 30, 1.1)  # at the end of the window
        assert share <= allowed + 0.05, (begin, share)
    if policy in ("round_robin", "random", "least_connections", "power_of_two"):
        late = [id for at, id in found if at >= 70]
        assert late.count("a") / len(late) == pytest.approx(0.25, abs=0.06), "in the end it has its share again"
        middle = [id for at, id in found if 10 <= at < 20]
        assert 0.03 < middle.count("a") / len(middle) < 0.22


def test_slow_start_0_gives_the_whole_share_at_once() -> None:
    balancer = fleet("round_robin", "a", "b", outliers=OutlierRules(slow_start=0.0))
    break_one(balancer, "a", 1.0)
    balancer.finish(place(balancer, now=40.0), OK, 40.0)
    assert spread(place(balancer, now=40.0) for _ in range(10)) == {"a": 5, "b": 5}


def test_when_all_come_back_together_none_is_held_back() -> None:
    balancer = fleet("round_robin", "a", "b")
    for id in ("a", "b"):
        break_one(balancer, id, 1.0)
    for id, other, now in (("a", "b", 2.0), ("b", "a", 3.0)):
        balancer.finish(place(balancer, now=now, tried=[other]), OK, now)
        assert balancer.backends[id].passive.ramping
    assert spread(place(balancer, now=4.0) for _ in range(10)) == {"a": 5, "b": 5}


# --- what is nobody's fault -----------------------------------------------------------------------------------


def test_the_outcome_counts_at_the_end_of_a_stream() -> None:
    """Case 54: an engine that always dies at the fifth token opens the breaker, though each stream had begun well."""
    balancer = fleet("round_robin", "a", "b")
    for number in range(6):
        lease = place(balancer, now=float(number))
        balancer.first_token(lease, number + 0.1)
        lease.produced = 5
        bad = lease.backend.id == "a"
        balancer.finish(lease, FAILED if bad else OK, number + 0.5, reason="upstream_broken")
    assert balancer.backends["a"].passive.ejected(6.0)
    assert usable(balancer, 6.0) == {"b"}


@pytest.mark.parametrize(("outcome", "worked"), [(CLIENT_GONE, True), (OK, False), (ERROR, True)])
def test_clients_that_leave_and_answers_that_say_no_never_eject(outcome: str, worked: bool) -> None:
    balancer = fleet("round_robin", "a", "b", max_fails=1)
    for _ in range(1000):
        balancer.finish(place(balancer, now=1.0), outcome, 1.0, worked=worked)
    assert not any(b.passive.resting for b in balancer.backends.values())


def test_an_ejection_leaves_running_streams_alone() -> None:
    balancer = fleet("round_robin", "a", "b")
    leases = [place(balancer, now=0.5, tried=["b"]) for _ in range(4)]
    break_one(balancer, "a", 1.0)
    assert all(lease.open for lease in leases)
    assert balancer.backends["a"].inflight == 4


def test_a_probe_that_times_out_takes_no_backend_down_that_gives_tokens() -> None:
    """Case 50."""
    balancer = fleet("round_robin", "a", "b")
    lease = place(balancer, now=0.0, tried=["b"])
    balancer.first_token(lease, 0.2)
    for second in range(1, 30):
        lease.produced += 10
        balancer.tick(float(second))
        assert not balancer.probe("a", False, "no answer", timed_out=True)
        assert not balancer.probe("b", False, "no answer", timed_out=True) or second == 3
    assert balancer.backends["a"].up and not balancer.backends["b"].up
    balancer.tick(41.0)
    assert [balancer.probe("a", False, "no answer", timed_out=True) for _ in range(3)] == [False, False, True]


def test_a_probe_that_is_refused_counts_whatever_was_delivered() -> None:
    balancer = fleet("round_robin", "a", "b")
    balancer.first_token(place(balancer, now=1.0, tried=["b"]), 1.0)
    balancer.tick(1.1)
    assert [balancer.probe("a", False, "refused") for _ in range(3)] == [False, False, True]


# --- the floor and panic --------------------------------------------------------------------------------------


def test_beyond_the_floor_the_least_bad_stay_in() -> None:
    balancer = fleet("round_robin", "a", "b", "c", "d")
    break_one(balancer, "a", 1.0, "connect")
    break_one(balancer, "b", 1.1)
    assert usable(balancer, 1.5) == {"c", "d"}
    break_one(balancer, "c", 2.0)
    assert usable(balancer, 2.5) == {"b", "d"}, "two of four at most are out, the dead one among them"
    assert balancer.panics(2.5) == {"m": False}


@pytest.mark.parametrize(("share", "left"), [(0.25, 3), (0.5, 2), (0.75, 2), (1.0, 2)])
def test_the_floor_is_a_share_of_the_models_backends(share: float, left: int) -> None:
    balancer = fleet("round_robin", *"abcd", outliers=OutlierRules(max_ejected=share))
    break_one(balancer, "a", 1.0)
    break_one(balancer, "b", 1.1)
    found = usable(balancer, 2.0)
    assert len(found) == left and found >= {"c", "d"}


def test_a_floor_of_all_means_that_nobody_is_ejected() -> None:
    balancer = fleet("round_robin", "a", "b", max_fails=1, outliers=OutlierRules(max_ejected=0.0))
    for _ in range(20):
        balancer.finish(place(balancer, now=1.0), FAILED, 1.0, reason="timeout")
    assert usable(balancer, 1.0) == {"a", "b"}


def test_panic_tries_all_that_are_not_known_to_be_dead() -> None:
    """Case 51."""
    balancer = fleet("round_robin", *"abcdef")
    for id in "ab":  # down, and they say so
        for _ in range(3):
            balancer.probe(id, False, "answered 503")
    for _ in range(3):  # nobody knows
        balancer.probe("c", False, "no answer", timed_out=True)
    assert usable(balancer, 1.0) == set("def")
    break_one(balancer, "d", 1.0)
    assert balancer.panics(1.0) == {"m": False}
    assert usable(balancer, 1.0) == set("def"), "the floor"
    break_one(balancer, "e", 2.0, "connect")
    assert usable(balancer, 2.5) == set("cdf")
    assert balancer.panics(2.5) == {"m": True}
    for id in "ab":
        for _ in range(2):
            balancer.probe(id, True)
    assert usable(balancer, 3.0) == set("abf")
    assert balancer.panics(3.0) == {"m": False}


def test_a_backend_alone_is_always_tried() -> None:
    balancer = fleet("round_robin", "a")
    for reason in ("timeout", *DEAD):
        break_one(balancer, "a", 1.0, reason) if not balancer.backends["a"].passive.resting else None
        assert usable(balancer, 1.5) == {"a"}
    assert balancer.panics(2.0) == {"m": True}


def test_a_request_that_all_candidates_failed_is_tried_where_errors_were_the_last_thing_heard() -> None:
    balancer = fleet("round_robin", "a", "b", "c")
    break_one(balancer, "a", 1.0)
    lease = place(balancer, now=2.0, tried=["b"])
    assert lease.backend.id == "c"
    assert balancer.may_retry(lease, "timeout", 2, 2.0, 2.0, ["b"])
    assert place(balancer, now=2.0, tried=["b", "c"]).backend.id == "a"


# --- laws -----------------------------------------------------------------------------------------------------

steps = st.tuples(
    st.sampled_from(["ask", "ask", "ask", "ok", "fail", "refuse", "leave", "tick", "probe"]),
    st.integers(0, 7), st.floats(0.0, 15.0),
)  # fmt: skip


@settings(derandomize=True, max_examples=150, deadline=None)
@given(st.integers(1, 4), st.lists(steps, max_size=80), st.sampled_from(["round_robin", "expected_completion"]))
def test_somebody_is_always_tried_trials_are_made_one_at_a_time_and_every_ejection_ends(
    count: int, script: list[tuple[str, int, float]], policy: str
) -> None:
    ids = "abcd"[:count]
    balancer, now, open_leases = fleet(policy, *ids, max_fails=1), 0.0, []
    for kind, which, pause in script:
        now += pause
        if kind == "ask":
            trials = {b.id for b in balancer.backends.values() if b.passive.on_trial(now) and b.passive.trial}
            lease = balancer.assign(chat(kind=Kind.CHAT), now)
            if isinstance(lease, Refusal):
                assert not any(b.up for b in balancer.backends.values())
                continue
            sound = [b for b in balancer.backends.values() if b.up and not b.passive.resting]
            assert lease.backend.id not in trials or not sound, "a second trial beside the first"
            open_leases.append(lease)
        elif kind == "tick":
            balancer.tick(now)
        elif kind == "probe":
            balancer.probe(ids[which % count], which % 3 > 0, timed_out=which % 2 == 0)
        elif open_leases:
            lease = open_leases.pop(which % len(open_leases))
            outcome = {"ok": OK, "leave": CLIENT_GONE}.get(kind, FAILED)
            balancer.finish(lease, outcome, now, reason="connect" if kind == "refuse" else "timeout")
    for lease in open_leases:
        balancer.finish(lease, CLIENT_GONE, now)
    for id in ids:
        for _ in range(2):
            balancer.probe(id, True)
    for _ in range(200):  # from now on all is well: two hundred requests and a while bring everybody back
        now += 5.0
        balancer.tick(now)
        balancer.finish(place(balancer, now=now), OK, now)
    assert not any(b.passive.resting or b.passive.ramping for b in balancer.backends.values())
