"""The self-check of a prefix view: what reports make of it, by table and against a real pool of blocks."""

from __future__ import annotations

import random

import pytest
from core_fleet import MODEL, fleet, place, report
from hypothesis import given
from hypothesis import strategies as st

from fairlead.core.balancer import OK, Balancer
from fairlead.core.cluster.trust import (
    APPROXIMATE,
    DISTRUSTED,
    DROP_AFTER,
    EXACT,
    LEAST,
    SHRINK_BELOW,
    SMALLEST,
    TRUSTED_AFTER,
    WINDOW,
    Trust,
)
from fairlead.core.model import Facts, Kind, Usage
from fairlead.emulator.kvcache import BlockPool, Table

BLOCK = 16


def told(trust: Trust, *reports: tuple[int, int]) -> list[bool]:
    """Feed (predicted, reported)."""
    return [trust.observe(predicted, reported, BLOCK) for predicted, reported in reports]


# --- tables --------------------------------------------------------------------------------------------------


def test_without_reports_a_view_is_approximate_and_fully_counted_on() -> None:
    trust = Trust()
    assert (trust.state, trust.factor, trust.size, trust.drops) == (APPROXIMATE, 1.0, 1.0, 0)


def test_reports_that_agree_make_it_exact() -> None:
    trust = Trust()
    told(trust, *[(1_000, 1_000)] * (TRUSTED_AFTER - 1))
    assert trust.state == APPROXIMATE
    told(trust, (1_000, 1_000))
    assert trust.state == EXACT


def test_a_block_of_difference_and_a_larger_hit_are_agreement() -> None:
    trust = Trust()
    told(trust, *[(1_000, 1_000 - BLOCK), (1_000, 5_000)] * TRUSTED_AFTER)
    assert (trust.state, trust.factor) == (EXACT, 1.0)


def test_an_engine_that_has_nothing_any_more_empties_the_shelf_at_the_third_report() -> None:
    trust = Trust()
    told(trust, *[(4_000, 4_000)] * 20)
    assert told(trust, *[(4_000, 0)] * DROP_AFTER) == [False] * (DROP_AFTER - 1) + [True]
    assert (trust.state, trust.drops) == (DISTRUSTED, 1)
    assert trust.factor < 0.9


def test_far_off_reports_count_in_a_row_only() -> None:
    trust = Trust()
    assert not any(told(trust, *[(4_000, 0), (4_000, 0), (4_000, 2_000)] * 10))
    assert trust.drops == 0


def test_distrust_ends_after_good_reports_and_not_after_middling_ones() -> None:
    trust = Trust()
    told(trust, *[(4_000, 0)] * DROP_AFTER, *[(4_000, 1_500)] * 30)
    assert trust.state == DISTRUSTED
    told(trust, *[(4_000, 4_000)] * (TRUSTED_AFTER - 1))
    assert trust.state == DISTRUSTED
    told(trust, (4_000, 4_000))
    assert trust.state == APPROXIMATE
    told(trust, *[(4_000, 4_000)] * 40)
    assert trust.state == EXACT
    assert trust.factor > 0.95


def test_a_restart_that_was_seen_leaves_a_true_and_empty_view() -> None:
    trust = Trust()
    told(trust, *[(4_000, 1_500)] * 20)
    trust.dropped(known=True)
    assert (trust.state, trust.factor, trust.drops) == (APPROXIMATE, 1.0, 1)


@pytest.mark.parametrize(
    ("share", "size"), [(0.5, SHRINK_BELOW), (0.79, SHRINK_BELOW), (0.88, 1.0), (1.0, 1.0)], ids=str
)
def test_a_window_of_reports_decides_on_the_size(share: float, size: float) -> None:
    trust = Trust()
    told(trust, *[(10_000, int(10_000 * share) - BLOCK)] * WINDOW)
    assert trust.size == pytest.approx(size)


def test_a_shelf_that_was_made_smaller_grows_back_while_predictions_hold() -> None:
    trust = Trust()
    told(trust, *[(10_000, 5_000)] * (WINDOW * 3))
    small = trust.size
    assert small == pytest.approx(SHRINK_BELOW**3)
    told(trust, *[(10_000, 10_000)] * WINDOW)
    assert small < trust.size < 1.0
    told(trust, *[(10_000, 10_000)] * (WINDOW * 30))
    assert trust.size == 1.0


@given(st.lists(st.tuples(st.integers(LEAST, 200_000), st.integers(0, 200_000), st.booleans()), max_size=200))
def test_values_stay_in_their_ranges_whatever_is_reported(
    reports: list[tuple[int, int, bool]],
) -> None:
    trust = Trust()
    for predicted, reported, restarted in reports:
        if restarted and reported % 7 == 0:
            trust.dropped(known=True)
        before = trust.drops
        assert trust.observe(predicted, reported, BLOCK) == (trust.drops == before + 1)
        assert 0.0 < trust.factor <= 1.0
        assert SMALLEST <= trust.size <= 1.0
        assert trust.state in (EXACT, APPROXIMATE, DISTRUSTED)


# --- against a pool of blocks --------------------------------------------------------------------------------

TOKENS = 1_024  # of a conversation
PARTS = 16  # blocks of the index per conversation: 64 tokens, 256 bytes
OUTPUT = 64
ENDS = tuple(range(256, 256 * PARTS + 1, 256))
TOLD = 96_000  # KV tokens that the engine says it has


def conversation(number: int) -> Facts:
    blocks = [number * 1_000 + part for part in range(PARTS)]
    return Facts(
        Kind.CHAT, MODEL, True, TOKENS * 4, stream=True, max_tokens=OUTPUT, blocks=blocks, block_ends=ENDS,
        span=TOKENS * 4,
    )  # fmt: skip


class Emulated:
    """One engine's cache: a prompt after the other goes through its pool, and it tells what it found."""

    def __init__(self, tokens: int) -> None:
        self.pool = BlockPool(tokens // BLOCK)

    def ask(self, number: int) -> int:
        hashes = [number * 1_000 + part for part in range(TOKENS // BLOCK)]
        hit, _ = self.pool.match(hashes, len(hashes) - 1)
        table: Table = self.pool.share(hashes, hit)
        self.pool.take(table, (TOKENS + OUTPUT) // BLOCK - hit)
        self.pool.remember(table, hashes, hit, len(hashes))
        self.pool.give_back(table)
        return hit * BLOCK


def ask(balancer: Balancer, engine: Emulated, number: int, now: float) -> tuple[int, int]:
    """(predicted, found)"""
    lease = place(balancer, conversation(number), now)
    balancer.first_token(lease, now + 0.1)
    found = engine.ask(number)
    balancer.finish(lease, OK, now + 0.5, Usage(TOKENS, OUTPUT, found))
    balancer.tick(now + 0.9)
    return lease.cached_raw, found


def watched(tokens: int, count: int, conversations: int) -> tuple[Balancer, list[tuple[int, int]]]:
    """A balancer before one engine that says it holds `TOLD` tokens and holds `tokens`."""
    balancer, engine, rng = fleet("expected_completion", "a"), Emulated(tokens), random.Random(5)
    report(balancer, "a", 0.0, kv_blocks=TOLD // BLOCK, block_tokens=BLOCK)
    return balancer, [ask(balancer, engine, rng.randrange(conversations), float(i)) for i in range(count)]


def test_the_view_of_an_engine_that_tells_the_truth_is_exact_and_right() -> None:
    balancer, seen = watched(TOLD, 1_500, 120)
    trust = balancer.backends["a"].trust
    assert (trust.state, trust.drops) == (EXACT, 0)
    assert trust.size > 0.9
    late = seen[500:]
    assert sum(found for _, found in late) == pytest.approx(sum(wanted for wanted, _ in late), rel=0.1)


def wrong(seen: list[tuple[int, int]]) -> float:
    """Share of the predicted tokens that were not there."""
    return sum(max(predicted - found, 0) for predicted, found in seen) / sum(predicted for predicted, _ in seen)


def test_the_shelf_of_an_engine_with_half_the_cache_settles_near_half() -> None:
    balancer, seen = watched(TOLD // 2, 3_000, 120)
    backend = balancer.backends["a"]
    assert 0.4 < backend.trust.size < 0.8
    assert wrong(seen[1_000:]) < 0.2


def test_without_the_self_check_half_of_what_is_predicted_would_not_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Trust, "observe", lambda *_: False)
    _, seen = watched(TOLD // 2, 3_000, 120)
    assert wrong(seen[1_000:]) > 0.4


def test_a_cache_that_was_reset_is_noticed_and_the_view_becomes_true_again() -> None:
    balancer, engine, rng = fleet("expected_completion", "a"), Emulated(TOLD), random.Random(6)
    report(balancer, "a", 0.0, kv_blocks=TOLD // BLOCK, block_tokens=BLOCK)
    for i in range(400):
        ask(balancer, engine, rng.randrange(60), float(i))
    backend = balancer.backends["a"]
    assert backend.trust.state == EXACT
    assert engine.pool.forget_all()
    for i in range(DROP_AFTER):
        ask(balancer, engine, i, 500.0 + i)
    assert (backend.trust.state, backend.trust.drops) == (DISTRUSTED, 1)
    assert not backend.shelf.blocks
    for i in range(300):
        ask(balancer, engine, rng.randrange(60), 600.0 + i)
    assert (backend.trust.state, backend.trust.drops) == (EXACT, 1)
