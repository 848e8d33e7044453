"""`latency`: an average that jumps up and comes down slowly, and Prequal's choice by it; and the bound on load."""

from __future__ import annotations

from math import exp
from random import Random

import pytest
from core_fleet import chat, fleet, place, spread
from hypothesis import given
from hypothesis import strategies as st

from fairlead.core.balancer import OK, Balancer
from fairlead.core.cluster.latency import DECAY_SECONDS, FADE_SECONDS, PeakEwma
from fairlead.core.policies.bounded import room
from fairlead.core.policies.latency import HOT_SCORE


def test_nothing_is_known_at_first() -> None:
    assert PeakEwma().value(5.0) == 0.0


def test_a_peak_counts_at_once_and_is_forgiven_with_time() -> None:
    average = PeakEwma()
    average.observe(0.1, 0.0)
    average.observe(2.0, 1.0)
    assert average.value(1.0) == 2.0
    average.observe(0.1, 1.0 + DECAY_SECONDS)
    assert average.value(1.0 + DECAY_SECONDS) == pytest.approx(2.0 * exp(-1) + 0.1 * (1 - exp(-1)))


def test_one_that_gets_nothing_fades() -> None:
    average = PeakEwma()
    average.observe(3.0, 10.0)
    assert average.value(10.0 + FADE_SECONDS) == pytest.approx(3.0 * exp(-1))
    assert average.value(10.0 + 20 * FADE_SECONDS) < 1e-6


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 60)), min_size=1))
def test_the_average_lies_between_what_was_seen(seen: list[tuple[float, float]]) -> None:
    average, now = PeakEwma(), 0.0
    for seconds, pause in seen:
        now += pause
        average.observe(seconds, now)
    values = [seconds for seconds, _ in seen]
    assert 0.0 <= average.value(now) <= max(values)
    assert average.value(now) >= min(values) * (1 - 1e-9)


def told(balancer: Balancer, **seconds: float) -> None:
    for id, value in seconds.items():
        balancer.backends[id].latency.observe(value, 0.0)


def test_the_soonest_is_taken_and_the_same_are_shared() -> None:
    balancer = fleet("latency", "quick", "slow")
    told(balancer, quick=0.1, slow=1.0)
    assert place(balancer).backend.id == "quick"
    even = fleet("latency", "a", "b")
    told(even, a=0.5, b=0.5)
    assert set(spread(place(even) for _ in range(2))) == {"a", "b"}


def test_a_hot_one_is_left_alone_however_soon_it_answers() -> None:
    balancer = fleet("latency", "hot", "b", "c", "d", "e", "f", "g")
    told(balancer, hot=0.001, b=5.0, c=5.0, d=5.0, e=5.0, f=5.0, g=5.0)
    first = place(balancer)
    assert first.backend.id == "hot"
    second = place(balancer)
    assert second.backend.id != "hot"
    assert second.choice.scores[0] >= HOT_SCORE


def test_first_tokens_are_what_teaches_it_and_whole_answers_where_nothing_streams() -> None:
    balancer = fleet("latency", "a")
    lease = place(balancer, chat(), 1.0)
    balancer.first_token(lease, 1.4)
    balancer.finish(lease, OK, 9.0)
    assert balancer.backends["a"].latency.value(1.4) == pytest.approx(0.4)
    balancer.finish(place(balancer, chat(), 10.0), OK, 12.5)
    assert balancer.backends["a"].latency.value(12.5) == pytest.approx(2.5)


@given(st.lists(st.integers(0, 40), min_size=1, max_size=8), st.floats(1.0, 3.0), st.integers(0, 1000))
def test_at_least_one_backend_has_room(loads: list[int], factor: float, seed: int) -> None:
    balancer = fleet("random", *(f"b{i}" for i in range(len(loads))))
    rng = Random(seed)
    backends = list(balancer.backends.values())
    for backend, load in zip(backends, loads, strict=True):
        backend.inflight, backend.capacity = load, rng.uniform(0.2, 5.0)
    may = room(backends, factor)
    assert any(may)
    fair = factor * (sum(loads) + 1) / sum(b.capacity for b in backends)
    assert may == [b.inflight < fair * b.capacity for b in backends]


def test_a_backend_at_its_share_is_full() -> None:
    balancer = fleet("random", "a", "b")
    balancer.backends["a"].inflight = 1
    assert room(list(balancer.backends.values()), 1.0) == [False, True]
