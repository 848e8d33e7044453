"""Trouble that shows before a request ends, and machines that change: how soon are they treated as what they are now?

What is overdue by table; the rest before emulated engines in virtual time, with much room in the seconds asserted.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import cache
from random import Random

import pytest
from core_fleet import chat, fleet, place
from core_virtual import Done, Virtual, asks

from fairlead.core.balancer import OK, Balancer
from fairlead.core.cluster.backend import Backend
from fairlead.core.cluster.costs import FULL_CHUNK
from fairlead.core.cluster.speeds import GRACE_SECONDS, LONG_ANSWER, OVERDUE
from fairlead.core.model import Usage
from fairlead.emulator.engine import Engine
from fairlead.emulator.profiles import profile

# --- overdue -------------------------------------------------------------------------------------------------


def ticks(balancer: Balancer, backend: Backend, since: float, until: float) -> float | None:
    """When `backend` was first seen overdue."""
    now = since
    while now < until:
        now += 0.1
        balancer.tick(now)
        if backend.overdue != 1.0:
            return now
    return None


def test_a_head_that_waits_too_long_raises_overdue_and_its_first_token_ends_it() -> None:
    balancer = fleet("expected_completion", "a", "b")
    a = balancer.backends["a"]
    lease = place(balancer, chat(8_000), 0.0, ["b"])
    usual = lease.work * 1e-9 + lease.predicted_step
    noticed = ticks(balancer, a, 0.0, 10.0)
    assert noticed is not None
    assert OVERDUE * usual + GRACE_SECONDS < noticed < OVERDUE * usual + GRACE_SECONDS + 0.2
    before = a.overdue
    balancer.tick(5.0)
    assert a.overdue == pytest.approx(5.0 / usual)
    assert a.overdue > before
    balancer.first_token(lease, 5.05)
    balancer.tick(5.1)
    assert a.overdue == 1.0


def test_a_stream_that_falls_silent_raises_overdue_and_its_next_token_ends_it() -> None:
    balancer = fleet("expected_completion", "a", "b")
    a = balancer.backends["a"]
    lease = place(balancer, chat(8_000), 0.0, ["b"])
    balancer.first_token(lease, 0.1)
    for i in range(30):
        lease.produced += 5
        balancer.tick(0.2 + i / 10)
        assert a.overdue == 1.0
    noticed = ticks(balancer, a, 3.1, 10.0)
    assert noticed is not None
    assert noticed - 3.1 < OVERDUE * FULL_CHUNK + GRACE_SECONDS + 0.2
    lease.produced += 1
    balancer.tick(noticed + 0.1)
    assert a.overdue == 1.0


def test_an_overdue_backend_that_becomes_idle_is_not_overdue_any_more() -> None:
    balancer = fleet("expected_completion", "a", "b")
    lease = place(balancer, chat(8_000), 0.0, ["b"])
    balancer.tick(8.0)
    assert balancer.backends["a"].overdue > 1.0
    balancer.finish(lease, "client_gone", 8.1)
    balancer.tick(8.2)
    assert balancer.backends["a"].overdue == 1.0


def test_an_answer_in_one_piece_is_overdue_when_even_a_long_one_would_be_there() -> None:
    """Nothing is seen of it before its end: what it may take counts, not its prefill alone."""
    balancer = fleet("expected_completion", "a", "b")
    a = balancer.backends["a"]
    lease = place(balancer, chat(2_000, stream=False), 0.0, ["b"])
    usual = lease.work * 1e-9 + lease.predicted_step
    longest = LONG_ANSWER * lease.output_expected * lease.predicted_step
    assert ticks(balancer, a, 0.0, longest) is None
    balancer.tick(3 * (usual + longest))
    assert a.overdue == pytest.approx(3.0)
    limited = place(balancer, chat(2_000, stream=False, max_tokens=20), 100.0, ["a"])
    assert ticks(balancer, balancer.backends["b"], 100.0, 102.0) is not None
    assert limited.open


def test_a_stream_that_waits_behind_an_answer_in_one_piece_is_watched() -> None:
    balancer = fleet("expected_completion", "a", "b")
    place(balancer, chat(2_000, stream=False, max_tokens=8_000), 0.0, ["b"])
    place(balancer, chat(2_000), 0.0, ["b"])
    assert ticks(balancer, balancer.backends["a"], 0.0, 1.0) is not None


@pytest.mark.parametrize(("name", "per_second"), [("h100-8b", 20.0), ("a100-70b-tp4", 2.0)])
def test_healthy_engines_under_load_are_not_overdue(name: str, per_second: float) -> None:
    balancer = fleet("expected_completion", "a", "b")
    seen: list[float] = []
    watch = balancer.speeds.watch

    def spy(backends: Collection[Backend], now: float) -> None:
        watch(backends, now)
        seen.extend(b.overdue for b in backends)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(balancer.speeds), "watch", lambda _, backends, now: spy(backends, now))
        Virtual(balancer, {id: Engine(profile(name)) for id in "ab"}).open(
            asks(250, 3, prompt=(7.0, 1.2), output=(4.0, 0.6)), per_second, seed=5
        )
    assert sum(value != 1.0 for value in seen) < 0.01 * len(seen)


# --- change --------------------------------------------------------------------------------------------------

SLOW_AT, HEALED_AT = 30.0, 90.0


@cache
def changed(seed: int) -> list[Done]:
    """Three equal engines, one of which is four times slower for a minute."""
    balancer = fleet("expected_completion", *"abc", seed=seed)
    engines = {id: Engine(profile("h100-70b-tp4")) for id in "abc"}
    run = Virtual(balancer, engines)
    run.at = {SLOW_AT: lambda: engines["a"].set_slowdown(4.0), HEALED_AT: lambda: engines["a"].set_slowdown(1.0)}
    return run.open(asks(1_200, 6, output=(4.0, 0.5)), 6.0, seed=seed)


def share(done: list[Done], since: float, until: float) -> float:
    """Of the requests that came in that time, those sent to the machine that changes."""
    sent = [one.backend for one in done if since <= one.arrived < until]
    return sent.count("a") / len(sent)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_machine_that_becomes_four_times_slower_loses_its_traffic_within_seconds(seed: int) -> None:
    done = changed(seed)
    assert share(done, 10.0, SLOW_AT) == pytest.approx(1 / 3, rel=0.35)
    assert share(done, SLOW_AT + 10.0, HEALED_AT) < 0.08


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_it_regains_its_traffic_when_it_has_healed(seed: int) -> None:
    assert share(changed(seed), HEALED_AT + 75.0, HEALED_AT + 100.0) > 0.22


def test_a_machine_that_freezes_is_left_alone_before_anything_ends_there() -> None:
    """Nothing is learned from requests that do not end; that they are overdue is enough."""
    balancer, rng = fleet("expected_completion", "frozen", "b", "c"), Random(1)
    stuck, late = 0, 0
    for i in range(300):
        now = i * 0.1
        balancer.tick(now)
        lease = place(balancer, chat(rng.randrange(400, 8_000)), now)
        if lease.backend.id == "frozen":
            stuck += 1
            late += now > 2.0
            continue
        balancer.first_token(lease, now + 0.03)
        balancer.finish(lease, OK, now + 0.09, Usage(lease.prompt_tokens, 10))
    assert 0 < stuck < 12
    assert late == 0
