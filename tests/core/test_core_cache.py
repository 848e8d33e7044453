"""The prefix view's evidence: what answers tell, what counters tell, and what happens when an engine is gone.

A view is fed through the balancer's door; its shelf and its trust are looked at.
"""

from __future__ import annotations

import random

import pytest
from core_fleet import MODEL, fleet, place, report

from fairlead.core.balancer import OK, Balancer
from fairlead.core.cluster.cache import COUNTER_TOKENS
from fairlead.core.cluster.ledger import Lease
from fairlead.core.cluster.prefix import DEFAULT_TOKENS
from fairlead.core.cluster.trust import APPROXIMATE, DISTRUSTED, DROP_AFTER, EXACT, TRUSTED_AFTER
from fairlead.core.model import Facts, Kind, Usage
from fairlead.emulator.engine import Engine
from fairlead.emulator.profiles import profile
from fairlead.emulator.work import EmulatedRequest

TOKENS, PARTS = 3_000, 12
ENDS = tuple(range(1_000, 1_000 * PARTS + 1, 1_000))


def prompt(number: int, **more: object) -> Facts:
    """A prompt of 3,000 tokens that has nothing in common with those of another number."""
    facts = Facts(Kind.CHAT, MODEL, True, TOKENS * 4, stream=True, span=TOKENS * 4, block_ends=ENDS)
    facts.blocks = [number * 1_000 + part for part in range(PARTS)]
    for name, value in more.items():
        setattr(facts, name, value)
    return facts


def ask(
    balancer: Balancer,
    number: int,
    now: float,
    cached: int | None = None,
    *,
    tokens: int = TOKENS,
    facts: Facts | None = None,
) -> Lease:
    lease = place(balancer, facts or prompt(number), now)
    balancer.first_token(lease, now + 0.1)
    balancer.finish(lease, OK, now + 0.2, Usage(tokens, 50, cached))
    return lease


class Counting:
    """An engine that tells its counters and nothing else."""

    def __init__(self, balancer: Balancer) -> None:
        self.balancer, self.queries, self.hits = balancer, 0, 0
        self.poll(0.0)

    def poll(self, now: float) -> None:
        report(self.balancer, "a", now, prefix_queries=self.queries, prefix_hits=self.hits)

    def ask(self, number: int, now: float, hits: int, cached: int | None = None) -> Lease:
        self.queries += TOKENS
        self.hits += hits
        return ask(self.balancer, number, now, cached)


def counting() -> Counting:
    return Counting(fleet("expected_completion", "a"))


# --- predictions ---------------------------------------------------------------------------------------------


def test_a_prompt_that_was_sent_is_expected_where_it_was_sent_from_then_on() -> None:
    balancer = fleet("expected_completion", "a", "b")
    first = place(balancer, prompt(1))
    assert first.cached == 0
    second = place(balancer, prompt(1), 0.0, [("b" if first.backend.id == "a" else "a")])
    assert second.backend is first.backend
    assert second.cached == pytest.approx(TOKENS, abs=2)
    assert second.uncached >= 1


def test_prompts_in_token_ids_are_counted_in_their_tokens() -> None:
    """Their text in the body has other lengths than prompts have; shares of it are right all the same."""
    balancer = fleet("expected_completion", "a")
    ids = {"prompt_bytes": 0, "prompt_ids": 2_000, "kind": Kind.COMPLETION}
    ask(balancer, 1, 0.0, facts=prompt(1, **ids))
    half = prompt(1, **ids)
    half.blocks = [*half.blocks[:6], *[7_000 + part for part in range(6)]]
    lease = ask(balancer, 1, 1.0, 1_000, tokens=2_000, facts=half)
    assert (lease.prompt_tokens, lease.cached, lease.uncached) == (2_000, 1_000, 1_000)
    assert balancer.backends["a"].trust.agreed == 1_000


def test_predictions_are_multiplied_with_what_reports_leave_of_them() -> None:
    balancer = fleet("expected_completion", "a")
    ask(balancer, 1, 0.0)
    for i in range(12):
        ask(balancer, 1, 1.0 + i, 1_500)
    factor = balancer.backends["a"].trust.factor
    assert 0.5 < factor < 0.6
    lease = place(balancer, prompt(1), 20.0)
    assert lease.cached == pytest.approx(TOKENS * factor, rel=0.01)
    assert lease.cached_raw == pytest.approx(TOKENS, rel=0.01), "judged is what the shelf says, not what is left of it"


# --- answers that tell ---------------------------------------------------------------------------------------


def test_answers_that_agree_make_the_view_exact() -> None:
    balancer = fleet("expected_completion", "a")
    ask(balancer, 1, 0.0)
    for i in range(TRUSTED_AFTER):
        assert balancer.backends["a"].trust.state == APPROXIMATE
        ask(balancer, 1, 1.0 + i, TOKENS - 8)
    assert balancer.backends["a"].trust.state == EXACT


def test_answers_with_more_cached_than_predicted_are_no_fault_of_the_view() -> None:
    balancer = fleet("expected_completion", "a")
    for i in range(40):
        ask(balancer, i % 10, float(i), TOKENS - 1)
    trust = balancer.backends["a"].trust
    assert (trust.state, trust.factor, trust.drops) == (EXACT, 1.0, 0)


def test_answers_without_anything_cached_empty_the_shelf() -> None:
    balancer = fleet("expected_completion", "a")
    for i in range(DROP_AFTER):
        ask(balancer, i, 0.0)
    backend = balancer.backends["a"]
    assert backend.shelf.blocks
    for i in range(DROP_AFTER):
        ask(balancer, i, 1.0 + i, 0)
    assert not backend.shelf.blocks
    assert backend.shelf.used == 0
    assert (backend.trust.state, backend.trust.drops) == (DISTRUSTED, 1)


def test_small_predictions_are_not_judged() -> None:
    balancer = fleet("expected_completion", "a")
    for i in range(20):
        short = prompt(1, prompt_bytes=800, span=800)
        short.blocks = short.blocks[:1]
        ask(balancer, 1, float(i), 0, tokens=200, facts=short)
    assert balancer.backends["a"].trust.reports == 0


def test_without_any_report_the_view_stays_approximate_and_is_believed() -> None:
    balancer = fleet("expected_completion", "a")
    for i in range(40):
        ask(balancer, 1, float(i))
    trust = balancer.backends["a"].trust
    assert (trust.state, trust.factor, trust.reports) == (APPROXIMATE, 1.0, 0)


# --- counters ------------------------------------------------------------------------------------------------


def test_counters_that_grow_as_predicted_make_the_view_exact() -> None:
    engine = counting()
    engine.ask(1, 0.0, 0)
    for i in range(TRUSTED_AFTER + 1):
        engine.poll(1.0 + i)
        engine.ask(1, 1.5 + i, TOKENS)
    assert engine.balancer.backends["a"].trust.state == EXACT


def test_counters_that_stand_still_empty_the_shelf() -> None:
    engine = counting()
    backend = engine.balancer.backends["a"]
    for i in range(6):
        engine.ask(i, 0.0, 0)
    for i in range(DROP_AFTER):
        assert backend.shelf.blocks
        engine.ask(i, 1.0 + i, 0)
        engine.poll(1.5 + i)
    assert not backend.shelf.blocks
    assert backend.trust.state == DISTRUSTED


def test_counters_are_judged_once_enough_was_predicted() -> None:
    engine = counting()
    trust = engine.balancer.backends["a"].trust
    for i in range(9):
        facts = prompt(1, prompt_bytes=4_000, span=4_000)
        facts.blocks = facts.blocks[:4]
        lease = ask(engine.balancer, 1, float(i), tokens=1_000, facts=facts)
        engine.queries += 1_000
        engine.hits += 1_000 if i else 0
        engine.poll(i + 0.5)
        assert not i or COUNTER_TOKENS / 2 <= lease.cached_raw < COUNTER_TOKENS
        assert trust.reports == i // 2
    assert trust.factor == 1.0


def test_counters_that_begin_anew_tell_of_a_restart() -> None:
    engine = counting()
    backend = engine.balancer.backends["a"]
    for i in range(10):
        engine.ask(1, float(i), TOKENS if i else 0)
        engine.poll(i + 0.5)
    assert backend.trust.state == EXACT
    engine.ask(1, 19.0, TOKENS)  # nobody reads this one's hits
    engine.queries = engine.hits = 0
    engine.poll(20.0)
    assert not backend.shelf.blocks
    assert (backend.trust.state, backend.trust.factor, backend.trust.drops) == (APPROXIMATE, 1.0, 1)
    engine.ask(1, 21.0, 0)
    engine.poll(22.0)
    for i in range(TRUSTED_AFTER):
        engine.ask(1, 23.0 + i, TOKENS)
        engine.poll(23.5 + i)
    assert backend.trust.state == EXACT
    assert backend.trust.factor == 1.0, "what was predicted before the restart is not held against it"


def test_an_engine_without_counters_or_with_half_of_them_is_not_judged_by_them() -> None:
    balancer = fleet("expected_completion", "a")
    for i in range(12):
        ask(balancer, 1, float(i))
        report(balancer, "a", i + 0.5, prefix_queries=i * 100.0)
    assert balancer.backends["a"].trust.reports == 0


def test_hits_counted_before_the_first_token_are_not_missed_afterwards() -> None:
    """A long prompt is counted by the engine when it begins, by us when it is done; a reading falls in between."""
    engine = counting()
    balancer = engine.balancer
    trust = balancer.backends["a"].trust
    engine.ask(1, 0.0, 0)
    engine.poll(0.5)
    for i in range(10):
        now = 10.0 * i
        begun = [place(balancer, prompt(1), now) for _ in range(5)]
        engine.queries += 5 * TOKENS
        engine.hits += 5 * TOKENS
        for j, lease in enumerate(begun):
            balancer.first_token(lease, now + j + 0.5)
            engine.poll(now + j + 0.6)
            balancer.finish(lease, OK, now + j + 0.8, Usage(TOKENS, 50))
    assert trust.reports == 50
    assert (trust.state, trust.drops, trust.factor) == (EXACT, 0, 1.0)


def test_a_lost_cache_is_noticed_with_many_requests_under_way() -> None:
    """What is ahead of us is bounded by what is under way: it cannot hide misses for ever."""
    engine = counting()
    balancer = engine.balancer
    for i in range(40):
        engine.ask(i, 0.0, 0)
    engine.hits += 1_000_000  # of another balancer
    engine.poll(1.0)
    under_way = [place(balancer, prompt(i), 1.5) for i in range(8)]
    for i in range(12):
        engine.ask(8 + i, 2.0 + i, 0)
        engine.poll(2.5 + i)
    assert balancer.backends["a"].trust.drops == 1
    assert len(under_way) == 8


# --- both ----------------------------------------------------------------------------------------------------


def test_answers_that_tell_go_before_counters() -> None:
    """The counters of an engine that several share say little; what answers say of themselves is exact."""
    engine = counting()
    trust = engine.balancer.backends["a"].trust
    engine.ask(1, 0.0, 0)
    for i in range(30):
        engine.ask(1, 1.0 + i, TOKENS, cached=TOKENS)
        engine.poll(1.5 + i)
    assert trust.reports == 30, "and nothing is judged twice"
    assert trust.state == EXACT


def test_an_engine_that_tells_hits_and_leaves_misses_out_is_seen_through() -> None:
    """vLLM's `prompt_tokens_details` is null where nothing was cached, so its answers never tell of a lost cache."""
    engine = counting()
    backend = engine.balancer.backends["a"]
    for i in range(8):
        engine.ask(i, 0.0, 0)
    for i in range(16):
        engine.ask(i % 8, 1.0 + i, TOKENS, cached=TOKENS)
        engine.poll(1.5 + i)
    assert backend.trust.state == EXACT
    for i in range(DROP_AFTER):
        engine.ask(i, 30.0 + i, 0)  # the cache was reset, and the engine runs on
        engine.poll(30.5 + i)
    assert backend.trust.state == DISTRUSTED
    assert backend.trust.drops == 1


def test_a_true_view_of_a_busy_engine_stays_exact_by_either_evidence() -> None:
    """An emulated engine under load, read every second, whose answers tell nothing, everything or hits only."""
    for tells in ("nothing", "all", "hits"):
        balancer, engine, rng = fleet("expected_completion", "a"), Engine(profile("h100-8b")), random.Random(4)
        running: dict[int, Lease] = {}
        cached: dict[int, int] = {}
        now, polled, number = 0.0, 0.0, 0
        while number < 400:
            while len(running) < 12:
                number += 1
                which = rng.randrange(40)
                facts = prompt(which, max_tokens=60)
                hashes = [which * 1_000 + part for part in range(TOKENS // 16)]
                running[number] = place(balancer, facts, now)
                engine.submit(EmulatedRequest(number, TOKENS, hashes, rng.randrange(20, 60)), now)
            result = engine.step()
            assert result is not None
            now = result.end
            for output in result.outputs:
                assert isinstance(output.id, int)
                if output.cached is not None:
                    cached[output.id] = output.cached
                    balancer.first_token(running[output.id], now)
                if output.finished:
                    found: int | None = cached.pop(output.id)
                    if tells == "nothing" or (tells == "hits" and not found):
                        found = None
                    balancer.finish(running.pop(output.id), OK, now, Usage(TOKENS, 40, found))
            if now >= polled + 1.0:
                polled = now
                balancer.poll_result("a", balancer.poll_started("a"), engine.stats(), now)
                balancer.tick(now)
        trust = balancer.backends["a"].trust
        assert (trust.state, trust.drops) == (EXACT, 0), tells
        assert trust.factor > 0.95
        assert trust.reports >= TRUSTED_AFTER


# --- sizes and ends ------------------------------------------------------------------------------------------


def test_the_shelf_is_as_large_as_the_engine_says_its_cache_is() -> None:
    balancer = fleet("expected_completion", "a")
    backend = balancer.backends["a"]
    balancer.tick(0.0)
    assert backend.shelf.limit == DEFAULT_TOKENS * 4
    report(balancer, "a", 1.0, kv_blocks=1_000, block_tokens=16)
    balancer.tick(2.0)
    assert backend.shelf.limit == 1_000 * 16 * 4


def test_a_shelf_found_too_large_is_trimmed_at_once() -> None:
    balancer = fleet("expected_completion", "a")
    backend = balancer.backends["a"]
    for i in range(20):
        ask(balancer, i, float(i))
    assert backend.shelf.used > 20 * TOKENS * 4
    report(balancer, "a", 30.0, kv_blocks=1_000, block_tokens=16)
    balancer.tick(31.0)
    assert backend.shelf.used <= 1_000 * 16 * 4
    assert place(balancer, prompt(19), 32.0).cached > 0, "the latest is kept"
    assert place(balancer, prompt(0), 32.0).cached == 0


def test_the_shelf_follows_the_bytes_that_a_token_of_this_model_takes() -> None:
    balancer = fleet("expected_completion", "a")
    report(balancer, "a", 0.0, kv_blocks=1_000, block_tokens=16)
    for i in range(300):  # twelve bytes to a token
        ask(balancer, i, float(i), tokens=1_000)
    balancer.tick(400.0)
    assert balancer.backends["a"].shelf.limit == pytest.approx(1_000 * 16 * 12, rel=0.1)


def test_a_backend_found_down_has_an_empty_cache_when_it_comes_back() -> None:
    balancer = fleet("expected_completion", "a", "b")
    for i in range(8):
        ask(balancer, i, float(i))
    filled = {id: len(b.shelf.blocks) for id, b in balancer.backends.items()}
    assert all(filled.values())
    for _ in range(3):
        balancer.probe("a", False, "no answer")
    assert not balancer.backends["a"].shelf.blocks
    assert len(balancer.backends["b"].shelf.blocks) == filled["b"]
    assert balancer.backends["a"].trust.state == APPROXIMATE


def test_a_backend_that_leaves_takes_its_shelf_along() -> None:
    balancer = fleet("expected_completion", "a", "b")
    for i in range(8):
        ask(balancer, i, float(i))
    late = place(balancer, prompt(1), 9.0, ["b"])
    balancer.first_token(late, 9.1)
    balancer.remove("a")
    assert balancer.cache.index.blocks == sum(b >= 0 for b in balancer.backends["b"].shelf.blocks)
    balancer.finish(late, OK, 10.0, Usage(TOKENS, 50, 0))  # its report comes too late, and does no harm
    balancer.remove("b")
    assert balancer.cache.index.blocks == 0
