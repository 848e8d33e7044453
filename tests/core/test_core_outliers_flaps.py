"""Cases 50, 51, 55, 56, 105 in the brain: flapping probes, panic, newcomers, keys of ejected homes, frozen metrics."""

from __future__ import annotations

from itertools import pairwise
from random import Random

import pytest
from core_fleet import chat, fleet, place, refuse, serve, spread

from fairlead.core.balancer import FAILED, OK, Balancer
from fairlead.core.cluster.readings import CONTRADICTIONS, FROZEN_SECONDS, TURNOVER
from fairlead.core.health.probes import FLAP_SECONDS, HELD, HOLD_SECONDS
from fairlead.core.model import EngineStats
from fairlead.core.policies.registry import POLICIES

KEYS = [Random(i).getrandbits(64) for i in range(600)]


def probed(balancer: Balancer, id: str, script: str, since: float, every: float = 1.0) -> list[tuple[float, bool]]:
    """Probes of `id`, + good, - refused; when it went up or down by them, and which."""
    found = []
    for number, sign in enumerate(script):
        now = since + number * every
        balancer.tick(now)
        if balancer.probe(id, sign == "+", "refused"):
            found.append((now, balancer.backends[id].up))
    return found


# --- 50: flaps ------------------------------------------------------------------------------------------------


def test_case_50_one_restart_is_no_flap_and_costs_no_extra_time() -> None:
    balancer = fleet("round_robin", "a", "b")
    assert probed(balancer, "a", "+" * 5 + "---" + "++", 0.0) == [(7.0, False), (9.0, True)]


@pytest.mark.parametrize("beat", ["---++", "---+++++", "+++---", "-----++++++++++"])
def test_case_50_flapping_probes_make_no_more_than_one_transition_in_30_s_on_the_whole(beat: str) -> None:
    balancer = fleet("round_robin", "a", "b")
    changes = probed(balancer, "a", beat * (1200 // len(beat)), 0.0)
    assert 10 <= len(changes) <= 1200 / 30 + 2, "it does come back, and not too often"


def test_case_50_a_quiet_time_after_the_return_ends_it() -> None:
    balancer = fleet("round_robin", "a", "b")
    quiet = "+" * int(FLAP_SECONDS + 2)
    changes = probed(balancer, "a", "---++" + quiet + "---++" + quiet, 0.0)
    assert [up for _, up in changes] == [False, True, False, True]
    assert changes[3][0] - changes[2][0] == 2.0, "two good answers were enough"


def test_case_50_restarts_of_a_drained_backend_are_planned_and_no_flaps() -> None:
    balancer = fleet("round_robin", "a", "b")
    balancer.set_draining("a", True)
    changes = probed(balancer, "a", "+" + "---++" * 3, 0.0)
    assert [b - a for (a, _), (b, up) in pairwise(changes) if up] == [2.0, 2.0, 2.0]


def test_case_50_one_that_is_held_back_says_why_and_is_tried_when_nobody_else_is_there() -> None:
    balancer = fleet("round_robin", "a")
    changes = probed(balancer, "a", "---++---+++", 0.0)
    assert [up for _, up in changes] == [False, True, False]
    probes = balancer.backends["a"].probes
    assert probes.reason == HELD and probes.held_until == changes[2][0] + HOLD_SECONDS
    assert place(balancer, now=11.0).backend.id == "a", "no 503 of our own while a backend answers"
    assert balancer.panics(11.0) == {"m": True}
    balancer.probe("a", False, "refused")
    assert refuse(balancer, now=11.0).status == 503


# --- 51: panic ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", POLICIES)
def test_case_51_nothing_is_refused_while_one_backend_answers(policy: str) -> None:
    balancer = fleet(policy, *"abcd", max_fails=1)
    for number in range(8):
        balancer.finish(place(balancer, now=float(number)), FAILED, float(number), reason="timeout")
    assert all(b.passive.resting for b in balancer.backends.values()) and balancer.panics(8.0) == {"m": True}
    tried = spread(place(balancer, chat(prefixes=(key,), session=str(key)), 8.0) for key in KEYS[:200])
    assert set(tried) == set("abcd")


# --- 55: newcomers --------------------------------------------------------------------------------------------


def test_case_55_nothing_is_sent_before_the_model_is_listed_and_a_probe_passed() -> None:
    balancer = fleet("round_robin", "a")
    balancer.add("new")
    assert spread(place(balancer) for _ in range(10)) == {"a": 10}
    balancer.probe("new", True)
    assert spread(place(balancer) for _ in range(10)) == {"a": 10}, "which model it has nobody knows"
    balancer.set_models("new", frozenset({"other"}))
    assert spread(place(balancer) for _ in range(10)) == {"a": 10}, "a wrong one"
    balancer.set_models("new", frozenset({"m"}))
    assert spread(place(balancer) for _ in range(10)) == {"a": 5, "new": 5}


# --- 56: keys -------------------------------------------------------------------------------------------------


def homes(balancer: Balancer, now: float) -> dict[int, str]:
    return {key: serve(balancer, chat(prefixes=(key,), session=str(key)), now).backend.id for key in KEYS}


@pytest.mark.parametrize("policy", ["prefix_hash", "session"])
def test_case_56_only_the_keys_of_an_ejected_home_move_and_return_where_a_hash_places_them(policy: str) -> None:
    balancer = fleet(policy, *"abcd", max_fails=1)
    before = homes(balancer, 1.0)
    balancer.finish(place(balancer, now=2.0, tried=list("bcd")), FAILED, 2.0, reason="timeout")
    during = homes(balancer, 3.0)
    moved = {key for key in KEYS if during[key] != before[key]}
    assert moved == {key for key in KEYS if before[key] == "a"} and "a" not in during.values()
    assert {during[key] for key in moved} == set("bcd"), "spread over all that are left"
    balancer.tick(40.0)
    balancer.finish(place(balancer, now=40.0), OK, 40.0)
    for second in range(41, 110):
        balancer.tick(float(second))
    # A session stays where its conversation is cached by now.
    assert homes(balancer, 110.0) == (before if policy == "prefix_hash" else during)


# --- 105: frozen metrics --------------------------------------------------------------------------------------


def polled(balancer: Balancer, seconds: int, since: float, stats: EngineStats, requests: int = 1) -> None:
    """A reading a second, and some requests between two of them, one of which is always under way at `a`."""
    for second in range(seconds):
        now = since + second
        mark = balancer.poll_started("a")
        balancer.poll_result("a", mark, stats, now)
        for number in range(requests):
            balancer.finish(place(balancer, now=now + number / 10, tried=["b"]), OK, now + 0.5)


@pytest.mark.parametrize("said", [(0.0, 0.0), (40.0, 8.0)])
def test_case_105_numbers_that_stand_still_while_work_goes_through_are_left_out(said: tuple[float, float]) -> None:
    balancer = fleet("least_waiting", "a", "b")
    held = [place(balancer, now=0.0, tried=["b"]) for _ in range(2)]
    stats = EngineStats(waiting=said[0], running=said[1])
    polled(balancer, 40, 1.0, stats)
    a = balancer.backends["a"]
    assert 40.0 - a.polled_at > 40.0 - FROZEN_SECONDS - 5, "the age tells it"
    assert (a.foreign_waiting, a.foreign_running) == (0.0, 0.0)
    for number in range(4):
        held.append(place(balancer, now=41.0 + number / 10))
    assert spread(held) == {"a": 3, "b": 3}, "neither idle nor full: as many as our own books say"
    polled(balancer, 1, 50.0, EngineStats(waiting=said[0] + 1, running=said[1]))
    assert a.polled_at == 50.0, "news is believed at once"


def test_case_105_equal_numbers_of_an_engine_without_work_or_that_agree_with_ours_are_believed() -> None:
    balancer = fleet("round_robin", "a", "b")
    polled(balancer, 60, 1.0, EngineStats(waiting=0.0, running=0.0), requests=0)
    assert balancer.backends["a"].polled_at == 60.0
    polled(balancer, 60, 61.0, EngineStats(waiting=0.0, running=0.0))
    assert balancer.backends["a"].polled_at == 120.0, "short requests fall between the readings"
    place(balancer, now=121.0, tried=["b"])
    polled(balancer, 60, 121.0, EngineStats(waiting=0.0, running=1.0))
    assert balancer.backends["a"].polled_at == 180.0
    assert TURNOVER > 0 and CONTRADICTIONS > 0


def test_case_105_numbers_that_begin_anew_at_zero_make_no_backend_look_busy_or_empty() -> None:
    balancer = fleet("expected_completion", "a", "b")
    old = EngineStats(waiting=3.0, running=9.0, prefix_queries=9e6, prefix_hits=8e6)
    polled(balancer, 3, 1.0, old, requests=0)
    a = balancer.backends["a"]
    assert a.foreign_waiting + a.foreign_running == 12.0
    held = [place(balancer, now=4.0) for _ in range(4)]
    polled(balancer, 1, 5.0, EngineStats(waiting=0.0, running=0.0, prefix_queries=0.0, prefix_hits=0.0), requests=0)
    assert (a.foreign_waiting, a.foreign_running) == (0.0, 0.0)
    held += [place(balancer, now=5.0 + number / 100) for number in range(8)]
    assert spread(held) == {"a": 6, "b": 6}, "our own requests there count on"
