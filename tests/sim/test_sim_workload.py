"""Made workloads: laws that hold for every kind, seed and setting; and each kind is what its row of the table says."""

from __future__ import annotations

import re
import statistics
from collections import Counter, defaultdict
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sim_samples import workload_markdown

from fairlead.emulator.engine import Engine
from fairlead.emulator.profiles import profile
from fairlead.emulator.work import EmulatedRequest
from fairlead.sim.generators import building
from fairlead.sim.generators.building import Text, poisson, turns_around, zipf
from fairlead.sim.trace import NO_REQUEST, Request, Trace
from fairlead.sim.workload import KINDS, Workload, WorkloadError, generate, parse_workload, workload_help

PAGE = Path(__file__).resolve().parents[2] / "docs" / "traces.md"

SMALL = {
    "chat": "rate=3,seconds=60",
    "agents": "clients=5,tasks=2,turns=6",
    "bursts": "rate=3,seconds=60,quiet_seconds=15,burst_seconds=5",
    "outliers": "rate=3,seconds=60,share=5%,size=20k",
    "prefix_groups": "rate=2,seconds=60,groups=6,prompts=3",
    "closed_chat": "clients=7,requests=120,turns=4",
    "hot_prefix": "rate=3,seconds=60,move=20",
}
OPEN = {"chat", "bursts", "outliers", "prefix_groups", "hot_prefix"}


def make(text: str, seed: int = 1) -> Trace:
    return generate(parse_workload(text), seed)


@pytest.fixture(params=SMALL)
def small(request: pytest.FixtureRequest) -> Trace:
    return make(f"{request.param}:{SMALL[request.param]}")


def sessions(trace: Trace) -> dict[str, list[Request]]:
    found: dict[str, list[Request]] = defaultdict(list)
    for request in trace.requests:
        found[request.session].append(request)
    return found


def check_laws(trace: Trace) -> None:
    """What the simulator relies on."""
    size = trace.block_tokens
    timed = [request.at for request in trace.requests if request.after == NO_REQUEST]
    assert timed == sorted(timed) and timed[0] >= 0
    waited_for = Counter(request.after for request in trace.requests if request.after != NO_REQUEST)
    assert all(count == 1 for count in waited_for.values())  # a chain has no branches
    for index, request in enumerate(trace.requests):
        assert request.at >= 0 and request.prompt >= 1 and request.output >= 1
        assert len(request.blocks) == request.prompt // size
        assert len(request.blocks) + len(request.output_blocks) == (request.prompt + request.output) // size
        assert all(0 <= block < 1 << 64 for block in (*request.blocks, *request.output_blocks))
        assert request.after == NO_REQUEST or 0 <= request.after < index
        before = trace.requests[request.after] if request.after != NO_REQUEST else None
        if before is not None and before.session == request.session:  # the next turn: all that was said, and more
            said = [*before.blocks, *before.output_blocks]
            assert list(request.blocks[: len(said)]) == said
            assert request.prompt > before.prompt + before.output
            assert request.tenant == before.tenant


# --- laws ----------------------------------------------------------------------------------------------------


def test_every_kind_obeys_the_laws(small: Trace) -> None:
    check_laws(small)


def test_every_kind_obeys_the_laws_with_its_defaults() -> None:
    for kind in KINDS:
        trace = make(kind)
        check_laws(trace)
        assert 500 < len(trace.requests) < 20_000


def test_the_same_seed_gives_the_same_trace_and_another_one_another(small: Trace) -> None:
    assert generate(parse_workload(small.name), 1) == small
    other = generate(parse_workload(small.name), 2)
    assert other.requests != small.requests
    blocks = {block for request in small.requests for block in request.blocks}
    assert not any(block in blocks for request in other.requests for block in request.blocks)


@given(st.data(), st.sampled_from(sorted(KINDS)), st.integers(0, 2**31))
@settings(derandomize=True, max_examples=60, deadline=None)
def test_the_laws_hold_for_every_setting(data: st.DataObject, name: str, seed: int) -> None:
    """Any value of any parameter in its range, as far as the trace stays small."""
    most = {
        "rate": 5, "rate_to": 5, "seconds": 30, "clients": 6, "requests": 60, "tasks": 3, "turns": 8, "tenants": 50,
        "longest": 20_000, "size": 20_000, "stages": 20, "shared": 5_000, "question": 5_000, "hot": 5_000,
        "output": 5_000,
    }  # fmt: skip
    chosen = []
    for parameter in KINDS[name].parameters:
        high = min(parameter.high, most.get(parameter.name, parameter.high))
        if parameter.name not in most and data.draw(st.booleans()):
            continue  # the default
        if parameter.whole:
            chosen.append((parameter.name, float(data.draw(st.integers(int(parameter.low), int(high))))))
        else:
            chosen.append((parameter.name, data.draw(st.floats(parameter.low, high))))
    workload = Workload(name, tuple(chosen))
    try:
        trace = generate(workload, seed)
    except WorkloadError as error:
        if "no request comes" in str(error) and name in OPEN:
            return
        raise
    check_laws(trace)
    values = workload.values
    if "longest" in values:
        talks = [request for request in trace.requests if request.tenant != "outliers"]
        assert all(request.prompt + request.output <= values["longest"] for request in talks)


def test_an_engine_finds_the_turn_before_in_its_cache() -> None:
    """The blocks, given to the emulated engine as they stand: what a turn shares with the one before is hit."""
    trace = make("closed_chat:clients=1,requests=6,turns=6,output=100,question=50")
    engine, cached = Engine(profile("h100-8b")), []
    for number, r in enumerate(trace.requests):
        engine.submit(EmulatedRequest(number, r.prompt, [*r.blocks, *r.output_blocks], r.output), engine.clock)
        while (step := engine.step()) is not None:
            cached += [output.cached for output in step.outputs if output.cached is not None]
    expected = [(r.prompt + r.output - 1) // 16 * 16 for r in trace.requests[:-1]]  # the last token is never computed
    assert cached == [0, *expected]


# --- texts ---------------------------------------------------------------------------------------------------


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 70)), min_size=1, max_size=8),
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 70)), min_size=1, max_size=8),
    st.integers(1, 40),
)
@settings(derandomize=True, max_examples=300, deadline=None)
def test_blocks_are_equal_exactly_as_far_as_texts_are(
    one: list[tuple[str, int]], two: list[tuple[str, int]], size: int
) -> None:
    """Against texts that are written out: token number `place` of a piece is (piece, place)."""

    def hashes(pieces: list[tuple[str, int]]) -> tuple[list[int], list[tuple[str, int]]]:
        text, tokens = Text(size, 7), []
        for word, length in pieces:
            text.say(f"{word}{length}", length)
            tokens += [(f"{word}{length}", place) for place in range(length)]
        assert text.tokens == len(tokens) and len(text.chain) == len(tokens) // size
        return text.chain, tokens

    (chain, tokens), (other_chain, other_tokens) = hashes(one), hashes(two)
    for block, (a, b) in enumerate(zip(chain, other_chain, strict=False)):
        end = (block + 1) * size
        assert (a == b) == (tokens[:end] == other_tokens[:end])


def test_a_fork_goes_its_own_way() -> None:
    text = Text(4, 1)
    text.say("start", 10)
    fork = text.fork()
    fork.say("a", 10)
    text.say("b", 10)
    assert (len(text.chain), len(fork.chain), text.tokens, fork.tokens) == (5, 5, 20, 20)
    assert text.chain[:2] == fork.chain[:2] and not set(text.chain[2:]) & set(fork.chain[2:])


# --- the kinds -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["chat:rate=8,seconds=900", "bursts:rate=8,seconds=900", "outliers:rate=8,seconds=900"]
)
def test_open_loops_bring_the_rate_that_was_asked_for(text: str) -> None:
    counts = [len(make(text, seed).requests) for seed in range(4)]
    assert 0.92 < statistics.mean(counts) / 7_200 < 1.08


def test_tenants_are_unequally_popular_and_share_a_system_prompt_each() -> None:
    trace = make("chat:rate=10,tenants=5,skew=1")
    first = [request for request in trace.requests if request.after == NO_REQUEST]
    counts = Counter(request.tenant for request in first)
    assert max(counts, key=counts.__getitem__) == "tenant1" and len(counts) == 5
    assert 1.5 < counts["tenant1"] / counts["tenant2"] < 2.7  # 2, by Zipf's law
    starts = {tenant: {r.blocks[0] for r in first if r.tenant == tenant} for tenant in counts}
    assert all(len(blocks) == 1 for blocks in starts.values()) and len(set.union(*starts.values())) == 5


def test_turns_and_pauses_are_about_what_was_asked_for() -> None:
    trace = make("chat:rate=20,turns=5,think=8,longest=1000k")
    lengths = [len(turns) for turns in sessions(trace).values()]
    assert 4.6 < statistics.mean(lengths) < 5.4 and min(lengths) == 1
    pauses = [request.at for request in trace.requests if request.after != NO_REQUEST]
    assert 7.4 < statistics.median(pauses) < 8.6 and max(pauses) > 50
    assert statistics.median(r.output for r in trace.requests) == pytest.approx(200, rel=0.05)


def test_another_rate_leaves_the_conversations_as_they_were() -> None:
    slow, fast = sessions(make("chat:rate=2")), sessions(make("chat:rate=6"))
    assert len(fast) > 2 * len(slow) and slow.keys() < fast.keys()
    for name, turns in slow.items():
        assert [(r.prompt, r.output, r.blocks) for r in turns] == [(r.prompt, r.output, r.blocks) for r in fast[name]]


def test_bursts_bring_more_conversations_in_bursts_than_in_quiet() -> None:
    trace = make("bursts:rate=20,seconds=1500,times=6,quiet_seconds=120,burst_seconds=30")
    starts = [request.at for request in trace.requests if request.after == NO_REQUEST]
    burst = sum(at % 150 >= 120 for at in starts)
    rates = burst / 30, (len(starts) - burst) / 120
    assert 5 < rates[0] / rates[1] < 7


def test_outliers_are_few_and_share_nothing() -> None:
    trace = make("outliers:rate=20,share=2%,size=50k")
    huge = [request for request in trace.requests if request.prompt == 50_000]
    assert 0.013 < len(huge) / len(trace.requests) < 0.027
    assert all(request.tenant == "outliers" and request.after == NO_REQUEST for request in huge)
    blocks = [block for request in huge for block in request.blocks]
    assert len(set(blocks)) == len(blocks)
    assert make("outliers:share=0,rate=1").requests and make("outliers:share=1,rate=1").requests


def test_agents_have_long_contexts_short_answers_and_short_pauses() -> None:
    trace = make("agents:clients=20,tasks=3")
    assert statistics.mean(r.prompt for r in trace.requests) > 15_000
    assert statistics.median(r.output for r in trace.requests) < 150
    inside = [r.at for r in trace.requests if r.after != NO_REQUEST and trace.requests[r.after].session == r.session]
    between = [r.at for r in trace.requests if r.after != NO_REQUEST and trace.requests[r.after].session != r.session]
    assert 2.5 < statistics.median(inside) < 3.5 and len(between) == 40
    assert statistics.median(between) > 10
    assert all(6 <= len(turns) <= 18 for turns in sessions(trace).values())


@pytest.mark.parametrize(("text", "clients"), [("closed_chat:clients=30,requests=1000", 30), ("agents:clients=9", 9)])
def test_a_closed_loop_is_one_chain_for_each_client(text: str, clients: int) -> None:
    trace = make(text)
    first = [request for request in trace.requests if request.after == NO_REQUEST]
    assert len(first) == clients and trace.seconds < 1
    client: dict[int, int] = {}
    for index, request in enumerate(trace.requests):
        client[index] = index if request.after == NO_REQUEST else client[request.after]
    chains = Counter(client.values())
    assert len(chains) == clients
    if text.startswith("closed_chat"):
        assert sum(chains.values()) == 1_000 and set(chains.values()) == {33, 34}
        assert all(request.at == 0 for request in trace.requests if request.after != NO_REQUEST)
        ended = [turns for turns in sessions(trace).values() if len(turns) >= 16]
        assert len(ended) >= clients and max(len(turns) for turns in ended) <= 24


def test_clients_take_turns_in_the_order_of_a_trace() -> None:
    """So that the first tenth of a trace is the beginning of all its clients, not all of its first client."""
    trace = make("closed_chat:clients=10,requests=500")
    assert all(len({r.session.partition(".")[0] for r in trace.requests[i : i + 20]}) >= 8 for i in range(0, 480, 20))


def test_prefix_groups_are_as_published() -> None:
    trace = make("prefix_groups:rate=10,seconds=300")
    assert {(request.prompt, request.output) for request in trace.requests} == {(7_200, 1_000)}
    assert len({request.blocks for request in trace.requests}) > 700  # of 750
    groups = {request.tenant: request.blocks[: 6_000 // 16] for request in trace.requests}
    assert len(groups) == 150 == len(set(groups.values()))
    for request in trace.requests:
        assert request.blocks[: 6_000 // 16] == groups[request.tenant]
    answers = [block for request in trace.requests for block in request.output_blocks]
    assert len(set(answers)) == len(answers)


def test_prefix_groups_can_come_faster_and_faster() -> None:
    trace = make("prefix_groups:rate=5,rate_to=45,stages=5,seconds=500")
    stages = Counter(int(request.at // 100) for request in trace.requests)
    assert [round(stages[stage] / 1_000, 1) for stage in range(5)] == pytest.approx([0.5, 1.5, 2.5, 3.5, 4.5], abs=0.25)


def test_a_hot_prefix_is_in_its_share_of_requests_and_moves_when_asked() -> None:
    trace = make("hot_prefix:share=0.3,hot=1600")
    first = Counter(request.blocks[:100] for request in trace.requests)
    (_, hot), (_, next_one) = first.most_common(2)
    assert 0.27 < hot / len(trace.requests) < 0.33 and next_one == 1
    moving = make("hot_prefix:share=0.3,hot=1600,move=200")
    for number in range(3):
        part = [r.blocks[:100] for r in moving.requests if r.tenant == "hot" and r.at // 200 == number]
        assert len(set(part)) == 1 and len(part) > 300
    assert len({r.blocks[:100] for r in moving.requests if r.tenant == "hot"}) == 3
    assert [r.prompt for r in moving.requests] == [r.prompt for r in trace.requests]


def test_the_share_of_a_hot_prefix_changes_what_is_shared_and_nothing_else() -> None:
    none, all_of_them = make("hot_prefix:share=0"), make("hot_prefix:share=1")
    bare = [replace(r, blocks=(), output_blocks=(), tenant="") for r in none.requests]
    assert bare == [replace(r, blocks=(), output_blocks=(), tenant="") for r in all_of_them.requests]
    assert len({r.blocks[0] for r in none.requests}) == len(none.requests)
    assert len({r.blocks[0] for r in all_of_them.requests}) == 1


# --- draws ---------------------------------------------------------------------------------------------------


def test_random_arrivals_have_the_rate_of_each_piece() -> None:
    arrivals = list(poisson(Random(5), [(1_000, 2.0), (500, 0.0), (1_000, 6.0)]))
    assert arrivals == sorted(arrivals)
    counts = [sum(low <= at < high for at in arrivals) for low, high in ((0, 1_000), (1_000, 1_500), (1_500, 2_500))]
    assert counts == pytest.approx([2_000, 0, 6_000], rel=0.05)
    gaps = [b - a for a, b in pairwise(at for at in arrivals if at >= 1_500)]
    assert statistics.pstdev(gaps) / statistics.mean(gaps) == pytest.approx(1, abs=0.05)


def test_numbers_of_turns_have_their_mean() -> None:
    rng = Random(6)
    assert {turns_around(rng, 1) for _ in range(50)} == {1}
    assert statistics.mean(turns_around(rng, 7.5) for _ in range(20_000)) == pytest.approx(7.5, rel=0.03)


def test_zipf_weights() -> None:
    assert zipf(3, 1.0) == pytest.approx([1, 1.5, 1.5 + 1 / 3])
    assert zipf(3, 0.0) == [1, 2, 3]


# --- what people write ---------------------------------------------------------------------------------------


def test_a_workload_is_read_as_it_is_written() -> None:
    assert parse_workload("chat") == Workload("chat")
    workload = parse_workload(" outliers:size=120k,share=2.5%, rate=0.5 ")
    assert workload == Workload("outliers", (("size", 120_000), ("share", 0.025), ("rate", 0.5)))
    assert (workload.values["rate"], workload.values["seconds"]) == (0.5, 600)
    assert str(workload) == "outliers:size=120000,share=0.025,rate=0.5"
    assert parse_workload(str(workload)) == workload


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("caht", "unknown workload 'caht'; did you mean 'chat'?"),
        ("", "unknown workload ''; known: chat, agents,"),
        ("xyz:rate=1", "unknown workload 'xyz'; known: chat, agents,"),
        ("caht:rte=x", "unknown workload 'caht'"),
        ("chat:rte=1", "chat: unknown parameter 'rte'; did you mean 'rate'?"),
        ("chat:rte=x", "chat: unknown parameter 'rte'; did you mean 'rate'?"),
        ("chat:zzz=1", "chat: unknown parameter 'zzz'; known: rate, seconds,"),
        ("chat:clients=4", "chat: unknown parameter 'clients'"),
        ("chat:", "chat: expected NAME=VALUE, got ''"),
        ("chat:rate", "chat: expected NAME=VALUE, got 'rate'"),
        ("chat:=4", "chat: expected NAME=VALUE, got '=4'"),
        ("chat:rate=", "chat: rate: expected a number from 0.001 to 10000 requests/s, got ''"),
        ("chat:rate=fast", "got 'fast'"),
        ("chat:rate=nan", "got 'nan'"),
        ("chat:rate=inf", "got 'inf'"),
        ("chat:rate=-4", "got '-4'"),
        ("chat:rate=1e3", "got '1e3'"),
        ("chat:rate=0", "chat: rate: expected a number from 0.001 to 10000 requests/s, got 0"),
        ("chat:tenants=1.5", "chat: tenants: expected a whole number from 1 to 10000, got 1.5"),
        ("outliers:share=101%", "outliers: share: expected a number from 0 to 1, got 1.01"),
        ("chat:rate=1,rate=2", "chat: rate: is given twice"),
    ],
)
def test_what_is_no_workload_says_why(text: str, said: str) -> None:
    with pytest.raises(WorkloadError) as caught:
        parse_workload(text)
    assert said in str(caught.value)


def test_numbers_that_are_none_are_refused_however_they_come() -> None:
    for value in (float("nan"), float("inf")):
        with pytest.raises(WorkloadError, match="rate: expected a number"):
            Workload("chat", (("rate", value),))


@given(st.text(max_size=30), st.sampled_from(["", *KINDS]))
@settings(derandomize=True, max_examples=300)
def test_any_text_is_a_workload_or_an_error(text: str, kind: str) -> None:
    try:
        workload = parse_workload(f"{kind}:{text}")
    except WorkloadError:
        return
    assert parse_workload(str(workload)) == workload


def test_a_workload_that_is_empty_or_too_large_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(WorkloadError, match=r"^chat:rate=0\.001,seconds=1: no request comes"):
        make("chat:rate=0.001,seconds=1")
    monkeypatch.setattr(building, "MAX_REQUESTS", 100)
    with pytest.raises(WorkloadError, match="more than 100 requests; ask for less time"):
        make("chat")
    monkeypatch.undo()
    monkeypatch.setattr(building, "MAX_BLOCKS", 10_000)
    with pytest.raises(WorkloadError, match="more than 10,000 block hashes"):
        make("prefix_groups")


def test_a_trace_says_that_it_was_made() -> None:
    trace = make("agents:clients=2")
    assert trace.name == "agents:clients=2"
    assert "Made, not recorded" in trace.notes[0] and "seed 1" in trace.notes[1] and "wait for" in trace.notes[2]


# --- the table, its help and its page ------------------------------------------------------------------------


def test_every_default_is_in_its_range() -> None:
    for kind in KINDS.values():
        assert Workload(kind.name, tuple(kind.default_values().items())).values == kind.default_values()


def test_the_help_names_every_kind_and_parameter_with_its_default_and_range() -> None:
    text = workload_help()
    for kind in KINDS.values():
        part = re.search(rf"^{kind.name}: (.*?)(?:\n\n|\Z)", text, re.DOTALL | re.MULTILINE)
        assert part is not None and kind.what in part[1]
        for parameter in kind.parameters:
            line = f"{parameter.name}={parameter.default:g}"
            assert re.search(rf"^  {re.escape(line)} .*\({re.escape(parameter.range)}\)$", part[1], re.MULTILINE), line
    assert all(len(line) <= 120 for line in text.splitlines())


def test_the_page_has_the_table_as_it_is() -> None:
    assert workload_markdown() in PAGE.read_text("utf-8")


def test_every_workload_on_the_page_can_be_made() -> None:
    named = re.findall(r"fairlead simulate ([a-z_]+(?::\S+)?) ", PAGE.read_text("utf-8"))
    assert len(named) >= 2
    for text in named:
        assert parse_workload(text)
