"""Learned speeds: two factors per backend, out of what requests took.

By hand where one observation matters, before emulated engines in virtual time where many do. What is overdue, and
machines that change under load, are in test_core_overdue.py.
"""

from __future__ import annotations

from dataclasses import replace
from math import exp

import pytest
from core_fleet import MODEL, chat, fleet, place
from core_virtual import Virtual, asks

from fairlead.core.balancer import OK, Balancer
from fairlead.core.cluster.costs import prefill_seconds
from fairlead.core.cluster.ledger import Lease
from fairlead.core.cluster.speed import FAST, REMEMBERED, Speed
from fairlead.core.cluster.speeds import DOUBT, MEMORY_SECONDS
from fairlead.core.model import Usage
from fairlead.emulator.engine import Engine
from fairlead.emulator.profiles import Profile, profile


def ratio(speed: Speed) -> float:
    return speed.observed / speed.predicted


def one(
    balancer: Balancer, id: str, now: float, prefill: float, decode: float, *, tokens: int = 2_000, output: int = 100
) -> Lease:
    """A request on an idle backend that takes so many times the reference machine's time."""
    others = [other for other in balancer.backends if other != id]
    lease = place(balancer, chat(tokens * 4), now, others)
    first = now + prefill * (lease.work * 1e-9 + lease.predicted_step)
    balancer.first_token(lease, first)
    # The step it is held against: the mean of what it found and what it leaves, both idle.
    balancer.finish(lease, OK, first + decode * (output - 1) * lease.predicted_step, Usage(tokens, output))
    return lease


# --- one memory ----------------------------------------------------------------------------------------------


def test_a_speed_is_a_ratio_of_sums() -> None:
    speed = Speed()
    for observed, predicted in ((1.0, 1.0), (30.0, 10.0)):
        speed.add(observed, predicted, 0.0)
    assert ratio(speed) == pytest.approx(31 / 11)


def test_one_outlier_among_many_is_no_change_and_several_are() -> None:
    speed = Speed()
    for i in range(50):
        speed.add(1.0, 1.0, float(i))
    speed.add(4.0, 1.0, 50.0)
    speed.judge(1.0, 50.0)
    assert ratio(speed) < 1.1
    for i in range(3):
        speed.add(4.0, 1.0, 51.0 + i)
        speed.judge(1.0, 51.0 + i)
    assert ratio(speed) > 2.5


def test_a_machine_that_was_slow_is_believed_to_have_healed() -> None:
    speed = Speed()
    for i in range(50):
        speed.add(4.0, 1.0, float(i))
    for i in range(4):
        speed.add(1.0, 1.0, 50.0 + i)
        speed.judge(2.0, 50.0 + i)
    assert ratio(speed) < 2.0


def test_a_machine_as_fast_as_the_others_is_not_believed_to_surpass_itself() -> None:
    """Prompts that were cached without our knowing look like it."""
    speed = Speed()
    for i in range(50):
        speed.add(1.0, 1.0, float(i))
    for i in range(4):
        speed.add(0.1, 1.0, 50.0 + i)
        speed.judge(1.0, 50.0 + i)
    assert ratio(speed) > 0.9


def test_what_ends_in_one_step_is_one_piece_of_evidence() -> None:
    speed = Speed()
    for i in range(20):
        speed.add(16.0, 1.0, float(i))
        for _ in range(15):
            speed.add(0.0, 1.0, float(i))
        speed.judge(1.0, i + 0.5)
        assert ratio(speed) == pytest.approx(1.0)
        assert speed.fast_observed == pytest.approx(speed.fast_predicted)
    assert speed.count == 20


@pytest.mark.parametrize("later", [0, 1, 3, 40])
def test_a_prediction_is_mended_by_as_much_as_is_left_of_it(later: int) -> None:
    """As if it had been right from the start."""
    mended, right = Speed(), Speed()
    kept = exp(-10.0 / MEMORY_SECONDS)
    for speed, first in ((mended, 10.0), (right, 1.0)):
        speed.add(1.0, first, 5.0)
        for i in range(later):
            speed.add(1.0, 1.0, 6.0 + i / 100)
        speed.fade(kept)
    mended.mend(1.0 - 10.0, 5.0, kept)
    assert mended.predicted == pytest.approx(right.predicted)
    assert mended.fast_predicted == pytest.approx(right.fast_predicted, abs=9 * FAST**REMEMBERED)


def test_a_prediction_from_before_a_change_is_mended_as_far_as_it_went_into_the_new_memory() -> None:
    mended, right = Speed(), Speed()
    for speed, last in ((mended, 1.5), (right, 1.0)):
        for i in range(30):
            speed.add(1.0, 1.0, float(i))
        for i, predicted in enumerate((1.0, last, 1.0)):
            speed.add(6.0, predicted, 40.0 + i)
        speed.judge(1.0, 43.0)
        assert speed.count == 0
    mended.mend(-0.5, 41.0, 1.0)
    assert mended.predicted == pytest.approx(right.predicted)
    mended.mend(-0.5, 3.0, 1.0)
    assert mended.predicted == pytest.approx(right.predicted), "that one is gone"


# --- two factors ---------------------------------------------------------------------------------------------


def test_prefill_and_decode_are_learned_apart() -> None:
    balancer = fleet("expected_completion", "a", "b", "c")
    for i in range(40):
        for id, prefill, decode in (("a", 1.0, 1.0), ("b", 2.0, 1.0), ("c", 1.0, 3.0)):
            one(balancer, id, i * 5.0, prefill, decode)
    balancer.tick(205.0)
    got = {id: (ratio(b.prefill), ratio(b.decode)) for id, b in balancer.backends.items()}
    assert got["a"] == pytest.approx((1.0, 1.0), rel=0.02)
    assert got["b"] == pytest.approx((2.0, 1.0), rel=0.02)
    assert got["c"] == pytest.approx((1.0, 3.0), rel=0.02)


MIXED = {"plain": (1.0, 1.0), "odd": (2.0, 3.0)}  # times the reference's prefill and decode times


@pytest.mark.parametrize("policy", ["round_robin", "expected_completion"])
def test_factors_of_engines_are_recovered_under_load(policy: str) -> None:
    """Steps are shared by prefills and decodes of many requests, and still the two are told apart."""
    kind = profile("h100-70b-tp4")

    def made(prefill: float, decode: float) -> Profile:
        return replace(
            kind, prefill=kind.prefill * prefill, attention=kind.attention * prefill, base=kind.base * decode,
            kv_read=kind.kv_read * decode, sequence=kind.sequence * decode,
        )  # fmt: skip

    balancer = fleet(policy, *MIXED)
    run = Virtual(balancer, {id: Engine(made(*factors)) for id, factors in MIXED.items()})
    run.open(asks(400, 3, prompt=(7.6, 0.5), output=(4.0, 0.5)), 1.0, seed=5)
    odd, plain = balancer.backends["odd"], balancer.backends["plain"]
    assert ratio(odd.prefill) / ratio(plain.prefill) == pytest.approx(2.0, rel=0.3)
    assert ratio(odd.decode) / ratio(plain.decode) == pytest.approx(3.0, rel=0.3)
    assert odd.prefill_slowdown > plain.prefill_slowdown
    assert odd.decode_slowdown > plain.decode_slowdown
    assert odd.slowdown > 1.0 > plain.slowdown


def test_prompts_that_end_together_say_nothing_else_than_prompts_that_end_alone() -> None:
    balancer = fleet("expected_completion", "alone", "together")
    for i in range(40):
        now = i * 4.0
        single = place(balancer, chat(8_000), now, ["together"])
        batch = [place(balancer, chat(8_000), now, ["alone"]) for _ in range(16)]
        seconds = single.work * 1e-9 + single.predicted_step
        balancer.first_token(single, now + seconds)
        for lease in batch:
            balancer.first_token(lease, now + 16 * seconds)
        balancer.tick(now + 16 * seconds + 0.01)
        for lease in (single, *batch):
            balancer.finish(lease, OK, now + 3.0, Usage(2_000, 20))
        balancer.tick(now + 3.5)
        alone, together = (b.prefill_slowdown for b in balancer.backends.values())
        assert alone == pytest.approx(1.0, rel=0.05)
        assert together == pytest.approx(1.0, rel=0.05)


def test_hits_that_nobody_predicted_do_not_make_a_machine_look_fast() -> None:
    """Ten answers run at a time, so the truth about a prompt comes long after its first token."""
    balancer = fleet("round_robin", "a", "b")
    running: list[tuple[float, Lease]] = []
    seconds = prefill_seconds(400, 7_600)
    for i in range(300):
        now = i * 0.5
        while running and running[0][0] <= now:
            ends, lease = running.pop(0)
            balancer.finish(lease, OK, ends, Usage(8_000, 700, 7_600))
        lease = place(balancer, chat(32_000), now)
        balancer.first_token(lease, now + seconds + lease.predicted_step)
        running.append((now + 6.0, lease))
        balancer.tick(now + 0.3)
    balancer.tick(200.0)
    for _, lease in running:
        balancer.finish(lease, OK, 200.0, Usage(8_000, 700, 7_600))
    for b in balancer.backends.values():
        assert ratio(b.prefill) == pytest.approx(1.0, rel=0.15)


def test_parallel_completions_share_their_steps() -> None:
    balancer = fleet("expected_completion", "a")
    for i in range(20):
        lease = place(balancer, chat(8_000, n=4), i * 10.0)
        balancer.first_token(lease, i * 10.0 + 0.05)
        balancer.finish(lease, OK, i * 10.0 + 0.05 + 99 * lease.predicted_step, Usage(2_000, 400))
    assert ratio(balancer.backends["a"].decode) == pytest.approx(1.0, rel=0.01)


def test_answers_in_one_piece_teach_both_factors_together() -> None:
    balancer = fleet("expected_completion", "slow", "fast")
    for i in range(60):
        for id, seconds in (("slow", 2.8), ("fast", 0.7)):
            lease = place(balancer, chat(2_000, stream=False), i * 4.0, ["fast" if id == "slow" else "slow"])
            balancer.finish(lease, OK, i * 4.0 + seconds, Usage(500, 100))
        balancer.tick(i * 4.0 + 3.0)
    slow, fast = balancer.backends.values()
    assert ratio(slow.prefill) / ratio(fast.prefill) == pytest.approx(4.0, rel=0.05)
    assert ratio(slow.decode) / ratio(fast.decode) == pytest.approx(4.0, rel=0.05)


# --- shrinking, fading, weights ------------------------------------------------------------------------------


def test_one_slow_request_among_equals_makes_no_difference_and_many_do() -> None:
    balancer = fleet("expected_completion", "a", "b", "c")
    for i in range(60):
        for id in "abc":
            one(balancer, id, 40.0 + i, 1.0, 1.0)
    one(balancer, "a", 100.0, 4.0, 4.0)
    balancer.tick(105.0)
    a, b, c = balancer.backends.values()
    assert a.prefill_slowdown == b.prefill_slowdown == c.prefill_slowdown, "chance makes no favourites"
    for i in range(8):
        one(balancer, "a", 110.0 + i, 4.0, 4.0)
        balancer.tick(110.9 + i)
    assert a.prefill_slowdown > 1.5 * b.prefill_slowdown
    assert a.decode_slowdown > 1.5 * b.decode_slowdown


def test_evidence_about_an_idle_backend_fades_to_the_mean_of_the_fleet() -> None:
    balancer = fleet("expected_completion", "a", "b", "c")
    for i in range(30):
        for id, factor in (("a", 4.0), ("b", 1.0), ("c", 1.0)):
            one(balancer, id, i * 2.0, factor, factor)
        balancer.tick(i * 2.0 + 1.5)
    a = balancer.backends["a"]
    seen = [a.prefill_slowdown]
    for i in range(300):
        now = 60.0 + i
        for id in "bc":
            one(balancer, id, now, 1.0, 1.0)
        balancer.tick(now + 0.9)
        seen.append(a.prefill_slowdown)
    assert seen[0] > 2.5
    assert seen == sorted(seen, reverse=True)
    assert a.prefill_slowdown == pytest.approx(balancer.speeds.prefill_mean)
    assert balancer.speeds.prefill_mean == pytest.approx(1.0, rel=0.1)
    assert next(i for i, slow in enumerate(seen) if slow < DOUBT) < 240, "and within a few minutes"


def test_what_was_learned_before_the_first_tick_is_kept() -> None:
    balancer = fleet("expected_completion", "a", "b")
    for i in range(20):
        one(balancer, "a", i * 2.0, 4.0, 4.0)
        one(balancer, "b", i * 2.0, 1.0, 1.0)
    balancer.tick(41.0)
    balancer.tick(42.0)
    assert balancer.backends["a"].prefill_slowdown > 1.5 * balancer.backends["b"].prefill_slowdown


def test_a_newcomer_is_taken_for_average() -> None:
    balancer = fleet("expected_completion", "a", "b")
    for i in range(30):
        for id in "ab":
            one(balancer, id, i * 2.0, 5.0, 2.0)
    balancer.add("new", models=frozenset({MODEL}))
    balancer.tick(61.0)
    new = balancer.backends["new"]
    assert new.prefill_slowdown == pytest.approx(5.0, rel=0.05)
    assert new.decode_slowdown == pytest.approx(2.0, rel=0.05)
    assert new.slowdown == pytest.approx(1.0, rel=0.05)


def test_weights_that_were_set_replace_capacity_and_leave_the_factors_learned() -> None:
    balancer = fleet("expected_completion", "a", "b", weights={"a": 3.0})
    for i in range(30):
        for id, factor in (("a", 4.0), ("b", 1.0)):
            one(balancer, id, i * 2.0, factor, factor)
    balancer.tick(61.0)
    a, b = balancer.backends.values()
    assert (a.capacity, b.capacity, a.speed, b.speed) == (3.0, 1.0, 1.0, 1.0)
    assert a.prefill_slowdown > 2.0 * b.prefill_slowdown
