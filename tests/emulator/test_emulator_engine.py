"""The step model: laws that hold for every script of arrivals, steps and aborts, and tables worked out by hand."""

from __future__ import annotations

from dataclasses import astuple, replace
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fairlead.emulator.engine import Engine, RequestTooLong
from fairlead.emulator.kvcache import BlockPool
from fairlead.emulator.profiles import Profile, profile
from fairlead.emulator.quiet import apply_blocks
from fairlead.emulator.work import EmulatedRequest, Work

TINY = Profile(
    "tiny", 0.00937, 0.000131, 1.7e-6, 2.3e-5, 0.00041, kv_tokens=83, token_budget=19, max_num_seqs=4, max_model_len=80,
    block_tokens=4,
)  # fmt: skip
"""20 blocks of 4 tokens: preemption and eviction happen all the time."""


def hashes_of(family: int, tokens: int, block: int) -> list[int]:
    """Two requests of one family share all the blocks that both have."""
    return [family * 1000 + index for index in range(tokens // block)]


def request(number: int, prompt: int, output: int, family: int = 0, named_output: bool = False) -> EmulatedRequest:
    tokens = prompt + (output if named_output else 0)
    return EmulatedRequest(number, prompt, hashes_of(family, tokens, TINY.block_tokens), output)


shapes = st.tuples(st.integers(1, 50), st.integers(0, 30), st.integers(0, 2), st.booleans())
scripts = st.lists(
    st.one_of(
        st.tuples(st.just("submit"), shapes),
        st.tuples(st.just("step"), st.integers(1, 5)),
        st.tuples(st.just("abort"), st.integers(0, 30)),
        st.tuples(st.just("abort in flight"), st.integers(0, 30)),
    ),
    max_size=40,
)


def check_blocks(engine: Engine) -> None:
    """Rule 1 of the pool, and that nobody holds more or less than it has computed."""
    pool, size = engine.pool, engine.profile.block_tokens
    tables = [work.table for work in engine._live.values()]
    private = sum(table.count(None) for table in tables)
    held = {block: sum(table.count(block) for table in tables) for block in pool._refs}
    assert held == pool._refs
    assert pool.blank + private + len(pool._refs) == pool.size
    assert set(pool._idle) == {block for block, count in pool._refs.items() if not count}
    assert 0 <= engine.kv_usage <= 1
    for work in engine._running:
        assert len(work.table) * size >= work.computed
    assert all(not work.table for work in engine._waiting)


@given(scripts)
@settings(max_examples=150, deadline=None)
def test_every_request_ends_exactly_once_and_blocks_and_totals_are_conserved(script: list[tuple[str, Any]]) -> None:
    engine = Engine(TINY)
    requests: dict[int, EmulatedRequest] = {}
    produced: dict[int, int] = {}
    first: dict[int, int] = {}
    ended: list[Any] = []
    aborted: set[int] = set()

    def step(abort: int | None = None) -> bool:
        before = astuple(engine.counters)
        if engine.begin_step() is None:
            return False
        chunks = [chunk for _, chunk in engine._prefills]
        assert len(engine._decodes) + sum(chunks) <= TINY.token_budget
        assert engine._decodes or engine._prefills
        assert engine.running <= TINY.max_num_seqs
        check_blocks(engine)
        if abort is not None and engine.abort(abort):
            aborted.add(abort)
        for output in engine.end_step().outputs:
            assert isinstance(output.id, int)
            assert output.id not in ended and output.id not in aborted
            produced[output.id] += output.tokens
            if output.cached is not None:
                assert output.id not in first
                first[output.id] = output.cached
            if output.finished:
                ended.append(output.id)
        check_blocks(engine)
        assert all(old <= new for old, new in zip(before, astuple(engine.counters), strict=True))
        return True

    for verb, detail in script:
        if verb == "submit":
            number = len(requests)
            requests[number] = request(number, *detail)
            produced[number] = 0
            engine.submit(requests[number], engine.clock)
        elif verb == "step":
            for _ in range(detail):
                step()
        elif verb == "abort":
            if engine.abort(detail):
                aborted.add(detail)
            check_blocks(engine)
        else:
            step(abort=detail)
    for _ in range(20_000):
        if not step():
            break
    assert engine.is_idle and not engine._live
    assert sorted(ended) == sorted(set(requests) - aborted)
    assert all(produced[number] == requests[number].output_tokens for number in ended)
    assert all(first[number] <= requests[number].prompt_tokens - 1 for number in ended)
    counters = engine.counters
    assert counters.submitted == counters.finished + counters.aborted
    assert counters.generation_tokens == sum(produced.values())
    assert counters.prompt_tokens == sum(requests[number].prompt_tokens for number in first)
    assert counters.prefix_hits <= counters.prefix_queries
    assert engine.pool.free == engine.pool.size
    assert engine.reset_prefix_cache() and engine.pool.remembered == 0


def run_due(engine: Engine, now: float) -> list[tuple[Any, bool, int | None, float]]:
    """What `advance` does, by single steps."""
    events: list[tuple[Any, bool, int | None, float]] = []
    while True:
        if engine.in_flight:
            if engine.next_event() > now:
                return events
            result = engine.end_step()
            events += [
                (output.id, output.finished, output.cached, result.end)
                for output in result.outputs
                if output.finished or output.cached is not None
            ]
        if engine.clock > now or engine.begin_step() is None:
            return events


def jump_due(engine: Engine, now: float) -> list[tuple[Any, bool, int | None, float]]:
    return [(o.id, o.finished, o.cached, result.end) for result in engine.advance(now) for o in result.outputs]


arrivals = st.lists(
    st.tuples(
        st.floats(0, 1.5),  # seconds since the one before
        st.one_of(shapes, st.integers(0, 12)),  # a request, or an abort of one
        st.sampled_from([1.0, 1.0, 3.7]),  # slowdown from then on
    ),
    max_size=14,
)


@given(arrivals, st.sampled_from([83, 200, 1000]))
@settings(max_examples=150, deadline=None)
def test_a_jump_is_equal_to_its_steps_one_by_one(events: list[tuple[float, Any, float]], kv_tokens: int) -> None:
    engines = [Engine(replace(TINY, kv_tokens=kv_tokens)) for _ in range(2)]
    stepped, jumped = engines
    now, told = 0.0, ([], [])  # type: tuple[float, tuple[list[Any], list[Any]]]
    for number, (gap, what, slowdown) in enumerate([*events, (1e6, None, 1.0)]):
        now += gap
        told[0].extend(run_due(stepped, now))
        told[1].extend(jump_due(jumped, now))
        stats = jumped.stats(now)
        assert stats.generation_tokens == stepped.counters.generation_tokens
        assert stats.kv_usage == pytest.approx(stepped.kv_usage, abs=4 / stepped.pool.size)
        for engine in engines:
            if isinstance(what, tuple):
                engine.submit(request(number, *what), now)
            elif what is not None:
                engine.abort(what, now)
            if slowdown != engine._slowdown:
                engine.set_slowdown(slowdown, now)
        check_blocks(jumped)
        assert jumped.running == stepped.running and jumped.waiting == stepped.waiting
    assert [event[:3] for event in told[0]] == [event[:3] for event in told[1]]
    assert [event[3] for event in told[0]] == pytest.approx([event[3] for event in told[1]], rel=1e-12)
    assert replace(stepped.counters, busy_seconds=0) == replace(jumped.counters, busy_seconds=0)
    assert stepped.counters.busy_seconds == pytest.approx(jumped.counters.busy_seconds, rel=1e-12)
    assert stepped.pool._refs == jumped.pool._refs
    assert list(stepped.pool._idle) == list(jumped.pool._idle)  # forgotten in the same order from here on
    assert stepped.pool.blank == jumped.pool.blank


@given(
    st.lists(st.tuples(st.integers(1, 12), st.integers(0, 1), st.integers(0, 8)), min_size=1, max_size=4),
    st.lists(st.integers(0, 17), unique=True, max_size=12),
    st.integers(0, 4),
    st.integers(2, 12),
)
@settings(max_examples=300, deadline=None)
def test_blocks_of_a_jump_are_taken_and_published_in_the_order_of_steps(
    shapes: list[tuple[int, int, int]], remembered: list[int], blank: int, steps: int
) -> None:
    """What a block displaces, and whether it is a copy, depends on which came first."""

    def build() -> tuple[BlockPool, list[Work]]:
        pool, works = BlockPool(100), []
        for number, (computed, family, named_blocks) in enumerate(shapes):
            hashes = [block * 2 + family for block in range(named_blocks)]
            work = Work(EmulatedRequest(number, computed, hashes, 1000))
            pool.take(work.table, -(-computed // 4))
            work.computed, work.named = computed, min(computed // 4, named_blocks)
            pool.remember(work.table, hashes, 0, work.named)
            works.append(work)
        idle: list[int | None] = []
        pool.take(idle, len(remembered))
        pool.remember(idle, remembered, 0, len(remembered))
        pool.give_back(idle)
        surplus: list[int | None] = []
        pool.take(surplus, max(0, pool.blank - blank))
        return pool, works

    (jumped, works), (stepped, same) = build(), build()
    needed = sum(-(-(work.computed + steps) // 4) - len(work.table) for work in works)
    assume(needed <= jumped.free)
    apply_blocks(works, jumped, 4, steps)
    for _ in range(steps):
        apply_blocks(same, stepped, 4, 1)
        for work in same:
            work.computed += 1
    assert [work.table for work in works] == [work.table for work in same]
    assert (jumped._refs, list(jumped._idle), jumped.blank) == (stepped._refs, list(stepped._idle), stepped.blank)


def test_driving_by_next_event_alone_tells_everything_and_needs_few_calls() -> None:
    engine = Engine(profile("h100-8b"))
    for number in range(4):
        engine.submit(EmulatedRequest(number, 1000, (), 500 + number), 0.0)
    told, calls = [], 0
    while (due := engine.next_event()) != float("inf"):
        told += jump_due(engine, due)
        calls += 1
    assert [(event[0], event[1]) for event in told] == [(n, False) for n in range(4)] + [(n, True) for n in range(4)]
    assert engine.counters.steps == 503
    assert calls < 20


def test_times_of_one_request_by_hand() -> None:
    engine = Engine(profile("h100-8b"))
    engine.submit(EmulatedRequest("a", 1000, (), 3), 5.0)
    times = []
    while (result := engine.step()) is not None:
        times.append(result.duration * 1e3)
    assert times == pytest.approx(
        [6.8 + 20 + 0.0000013 * 1000 * 500 + 0.005, 6.8 + 0.000076 * 1000 + 0.005, 6.8 + 0.000076 * 1001 + 0.005]
    )
    assert engine.clock == pytest.approx(5 + sum(times) / 1e3)


def test_a_long_prompt_is_worked_on_in_chunks_and_decodes_go_first() -> None:
    engine = Engine(profile("a100-8b"))  # 2048 tokens per step
    engine.submit(EmulatedRequest("short", 100, (), 50), 0.0)
    engine.step()
    engine.submit(EmulatedRequest("long", 5000, (), 2), engine.clock)
    chunks, tokens = [], []
    for _ in range(4):
        engine.begin_step()
        chunks.append([chunk for _, chunk in engine._prefills])
        tokens.append([output.id for output in engine.end_step().outputs])
    assert chunks == [[2047], [2047], [906], []]
    assert tokens == [["short"], ["short"], ["short", "long"], ["short", "long"]]


def test_the_second_chunk_attends_to_the_first() -> None:
    engine = Engine(profile("h100-8b"))
    engine.submit(EmulatedRequest("a", 10_000, (), 1), 0.0)
    first, second = engine.step(), engine.step()
    assert first is not None and second is not None
    assert first.duration * 1e3 == pytest.approx(6.8 + 0.02 * 8192 + 1.3e-6 * 8192 * 4096 + 0.005)
    assert second.duration * 1e3 == pytest.approx(6.8 + 0.02 * 1808 + 1.3e-6 * 1808 * (8192 + 904) + 0.005)


@pytest.mark.parametrize(("prompt", "cached"), [(64, 48), (65, 64), (63, 48), (16, 0), (17, 16)])
def test_a_hit_covers_whole_blocks_and_never_the_last_token(prompt: int, cached: int) -> None:
    engine = Engine(profile("h100-8b"))
    hashes = hashes_of(1, 64, 16)
    engine.submit(EmulatedRequest("before", 64, hashes, 1), 0.0)
    engine.step()
    engine.submit(EmulatedRequest("a", prompt, hashes[: prompt // 16], 1), 1.0)
    result = engine.step()
    assert result is not None and [output.cached for output in result.outputs] == [cached]
    assert (engine.counters.prefix_queries, engine.counters.prefix_hits) == (64 + prompt, cached)


def test_requests_of_one_step_share_a_prefix_that_is_just_being_computed() -> None:
    engine = Engine(profile("h100-8b"))
    for name in "ab":
        engine.submit(EmulatedRequest(name, 64, hashes_of(1, 64, 16), 1), 0.0)
    result = engine.step()
    assert result is not None and [output.cached for output in result.outputs] == [0, 48]


def test_the_newest_is_preempted_and_finishes_later_with_its_own_totals() -> None:
    engine = Engine(TINY)  # 80 tokens
    engine.submit(request(1, 16, 60, family=1), 0.0)
    engine.submit(request(2, 16, 30, family=2), 0.0)
    ended, tokens = [], {1: 0, 2: 0}
    while (result := engine.step()) is not None:
        for output in result.outputs:
            assert isinstance(output.id, int)
            tokens[output.id] += output.tokens
            ended += [output.id] if output.finished else []
    assert tokens == {1: 60, 2: 30}
    assert (engine.counters.preemptions, ended) == (1, [1, 2])
    assert engine.counters.prefix_queries == 32  # a preempted request is not looked up again


def test_what_does_not_fit_or_is_there_already_is_refused() -> None:
    engine = Engine(TINY)
    with pytest.raises(RequestTooLong):
        engine.submit(request(1, 60, 21), 0.0)
    engine.submit(request(1, 60, 20), 0.0)
    with pytest.raises(ValueError, match="already"):
        engine.submit(request(1, 4, 4), 0.0)
    with pytest.raises(ValueError, match="prompt_tokens"):
        engine.submit(request(2, 0, 4), 0.0)
    with pytest.raises(RuntimeError):
        engine.end_step()


def test_the_pool_forgets_the_tail_of_the_oldest_first() -> None:
    pool = BlockPool(4)
    for family in (1, 2):
        table: list[int | None] = []
        pool.take(table, 2)
        pool.remember(table, [family * 10, family * 10 + 1], 0, 2)
        pool.give_back(table)
    taken: list[int | None] = []
    pool.take(taken, 1)
    assert pool.match([10, 11], 2)[0] == 1
    pool.take(taken, 1)
    assert pool.match([10, 11], 2)[0] == 0
    assert pool.match([20, 21], 2) == (2, 2)
    assert not pool.forget_all()
    pool.give_back(taken)
    assert pool.forget_all() and pool.blank == 4
