"""Do the reference rules choose as they are described? Tables worked out by hand, and promises that all of them make.

Backends are taken from a balancer and given their loads by hand, so that a row of a table says all that counts; the
last tests drive every rule through a balancer's own events.
Long because the tables of all rules are meant to be read side by side.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairlead.core.balancer import OK, Balancer
from fairlead.core.cluster.backend import Backend
from fairlead.core.cluster.ledger import Lease
from fairlead.core.model import EngineStats, Facts, Kind
from fairlead.core.policies.registry import POLICIES, make
from fairlead.core.view import Choice, Policy, View
from fairlead.sim.rivals.registry import RIVALS

DOCS = Path(__file__).parents[2] / "docs" / "reference-policies.md"
STATS = ("waiting", "running", "kv_usage")
BLOCK = 64  # bytes of a block of the made-up prompts here

every_rival = pytest.mark.parametrize("name", RIVALS)


def fleet(*loads: dict[str, Any]) -> list[Backend]:
    """Backends a, b, c...: what a row says of each, 0 for the rest; `waiting` and so on are the engine's report."""
    balancer = Balancer(make("random"), Random(1))
    found = []
    for i, load in enumerate(loads):
        backend = balancer.add("abcdefgh"[i], models=frozenset({"m"}))
        told = {name: value for name, value in load.items() if name in STATS}
        if told:
            backend.stats, backend.polled_at = EngineStats(**told), 0.0
        for name in load.keys() - told.keys():
            setattr(backend, name, load[name])
        found.append(backend)
    return found


def look(backends: list[Backend], prompt: int = 100, cached: Sequence[int] | None = None, seed: int = 1) -> View:
    view = View(Random(seed))
    view.backends, view.prompt, view.output = backends, prompt, 50
    view.cached = [0] * len(backends) if cached is None else cached
    return view


def asked(*blocks: int) -> Facts:
    ends = [BLOCK * (i + 1) for i in range(len(blocks))]
    return Facts(kind=Kind.CHAT, model="m", prompt_bytes=BLOCK * len(blocks), blocks=blocks, block_ends=ends)


def choose(policy: Policy, view: View, facts: Facts | None = None) -> Choice:
    return policy.choose(facts or asked(7, 8), view)


def chosen(name: str, loads: list[dict[str, Any]], *, draws: int = 40, **seen: Any) -> set[str]:
    """Everyone that the rule, fresh each time, takes under any of many seeds: several where chance breaks ties."""
    return {
        view.backends[choose(RIVALS[name](), view).index].id
        for view in (look(fleet(*loads), seed=seed, **seen) for seed in range(draws))
    }


# --- vllm_dp -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("loads", "scores", "taken"),
    [
        ([{"waiting": 2, "running": 1}, {"waiting": 1, "running": 6}], [9, 10], {"a"}),
        ([{"waiting": 2, "running": 3}, {"waiting": 1, "running": 6}], [11, 10], {"b"}),
        ([{"waiting": 0, "running": 5}, {"waiting": 1, "running": 1}], [5, 5], {"a"}),  # tie: first
        ([{"waiting": 0, "running": 1}, {}], [1, 0], {"b"}),  # no report: empty
        ([{"running": 3, "inflight": 0}, {"running": 2, "inflight": 90}], [3, 2], {"b"}),  # own counts do not matter
    ],
)
def test_vllm_counts_a_waiting_request_four_times(loads: Any, scores: list[float], taken: set[str]) -> None:
    assert choose(RIVALS["vllm_dp"](), look(fleet(*loads))).scores == scores
    assert chosen("vllm_dp", loads) == taken


def test_vllm_corrects_a_report_until_the_next_one() -> None:
    policy, backends = RIVALS["vllm_dp"](), fleet({"waiting": 0, "running": 0}, {"waiting": 1, "running": 1})
    picks = [choose(policy, look(backends)) for _ in range(3)]
    assert [list(pick.scores) for pick in picks] == [[0, 5], [4, 5], [8, 5]]
    assert [pick.index for pick in picks] == [0, 0, 1]
    backends[0].polled_at = 0.1  # a's next report: its two are forgotten, b's one is not
    assert choose(policy, look(backends)).scores == [0, 9]


def test_vllm_front_ends_begin_at_places_of_their_own_and_count_for_all() -> None:
    backends = fleet({}, {}, {}, {})
    second = RIVALS["vllm_dp"](front_end=1, front_ends=2)
    assert [choose(second, look(backends)).index for _ in range(5)] == [2, 3, 0, 1, 2]
    assert choose(second, look(backends)).scores == [8, 8, 16, 8]


def test_vllm_forgets_backends_that_left() -> None:
    policy = RIVALS["vllm_dp"]()
    for i in range(300):
        [backend] = fleet({})
        backend.id = f"gone{i}"
        choose(policy, look([backend]))
    assert len(policy._added) <= 69  # type: ignore[attr-defined]


# --- sglang_cache_aware --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("inflight", "cached", "taken"),
    [
        ([64, 0], [100, 0], {"a"}),  # 64 apart is not more than 64
        ([65, 0], [100, 0], {"b"}),  # 65 is
        ([195, 130], [100, 0], {"a"}),  # 65 apart, but 195 is not more than 1.5 times 130
        ([196, 130], [100, 0], {"b"}),
        ([9, 5], [30, 0], {"b"}),  # 0.3 is not more than 0.3
        ([9, 5], [31, 0], {"a"}),
        ([9, 5, 5], [31, 31, 10], {"a", "b"}),  # equal matches: any
        ([5, 3, 3], [0, 0, 0], {"b"}),  # equal loads: the first
    ],
)
def test_sglang_goes_by_load_by_match_or_by_load(inflight: list[int], cached: list[int], taken: set[str]) -> None:
    assert chosen("sglang_cache_aware", [{"inflight": n} for n in inflight], cached=cached) == taken


@pytest.mark.parametrize(
    ("inflight", "cached", "taken"),
    [
        ([32, 0], [51, 0], {"a"}),
        ([33, 0], [51, 0], {"b"}),
        ([363, 330], [51, 0], {"a"}),  # 363 is not more than 1.1 times 330
        ([364, 330], [51, 0], {"b"}),
        ([2, 1], [50, 0], {"b"}),
    ],
)
def test_sglang_with_the_librarys_thresholds(inflight: list[int], cached: list[int], taken: set[str]) -> None:
    assert chosen("sglang_cache_aware_32", [{"inflight": n} for n in inflight], cached=cached) == taken


# --- llmd_211 ------------------------------------------------------------------------------------------------


def test_llmd_adds_up_three_scores() -> None:
    backends = fleet({"waiting": 4, "kv_usage": 0.5}, {"waiting": 1, "kv_usage": 0.25}, {"waiting": 0, "kv_usage": 1.0})
    choice = choose(RIVALS["llmd_211"](), look(backends, cached=[80, 20, 0]))
    assert choice.terms == [(0.8, 0.5, 0.0), (0.2, 0.75, 0.75), (0.0, 0.0, 1.0)]
    assert choice.scores == pytest.approx([4 - 2.1, 4 - 1.9, 4 - 1.0])
    assert choice.index == 0


@pytest.mark.parametrize(
    ("loads", "cached", "taken"),
    [
        ([{"waiting": 1}, {"waiting": 0}], [0, 0], {"b"}),  # a queue of one is as bad
        ([{"waiting": 1}, {"waiting": 0}], [51, 0], {"a"}),
        ([{"waiting": 100}, {"waiting": 0}], [51, 0], {"a"}),  # ... as one of a hundred
        ([{"waiting": 3}, {"waiting": 3}, {"waiting": 3}], [0, 0, 0], {"a", "b", "c"}),  # ties: any
        ([{"waiting": 0, "kv_usage": 0.1}, {}], [0, 0], {"b"}),  # no report: empty
        ([{"inflight": 500}, {"inflight": 0}], [1, 0], {"a"}),  # own counts do not matter
    ],
)
def test_llmd_weighs_queues_by_rank_and_prefixes_twice(loads: Any, cached: list[int], taken: set[str]) -> None:
    assert chosen("llmd_211", loads, cached=cached) == taken


# --- dynamo --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "scale"), [("dynamo", 1), ("dynamo_32", 32)])
def test_dynamo_adds_blocks_to_prefill_and_blocks_held(name: str, scale: int) -> None:
    # a: (160 + 320) / 16 = 30, less 40 // 16 = 2 cached; held (800 + 160) / 16 = 60.  b: 320 / 16 = 20; held 1600 / 16.
    backends = fleet({"prompt_pending": 160, "kv_tokens": 800}, {"kv_tokens": 1600})
    choice = choose(RIVALS[name](), look(backends, prompt=320, cached=[40, 0]))
    assert choice.terms == [(28.0, 60.0), (20.0, 100.0)]
    assert choice.scores == [scale * 28 + 60, scale * 20 + 100]
    assert choice.index == (0 if scale == 1 else 1)


@pytest.mark.parametrize(
    ("loads", "cached", "taken"),
    [
        ([{"kv_tokens": 96}, {}], [96, 0], {"a", "b"}),  # a block held costs what a block to prefill does; ties: any
        ([{"kv_tokens": 96}, {}], [95, 0], {"b"}),  # whole blocks only
        ([{}, {}], [200, 112], {"a", "b"}),  # more cached than asked for is no bonus
    ],
)
def test_dynamo_in_small_cases(loads: Any, cached: list[int], taken: set[str]) -> None:
    assert chosen("dynamo", loads, prompt=112, cached=cached) == taken


# --- lmetric, lpwl, least_resident_tokens ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("loads", "cached", "scores", "taken"),
    [
        # (200 + 100 - 60) * 3, 100 * 8: the product
        ([{"prompt_pending": 200, "inflight": 2}, {"inflight": 7}], [60, 0], [720, 800], {"a"}),
        ([{"prompt_pending": 200, "inflight": 2}, {"inflight": 6}], [60, 0], [720, 700], {"b"}),
        # idle, yet 100 * 1 is more than 20 * 4
        ([{}, {"inflight": 3}], [0, 80], [100, 80], {"b"}),
        # ties: fewest in flight, then the first
        ([{"inflight": 3}, {"prompt_pending": 100, "inflight": 1}], [0, 0], [400, 400], {"b"}),
        ([{"inflight": 1}, {"inflight": 1}], [0, 0], [200, 200], {"a"}),
        ([{"inflight": 2}, {"inflight": 1}], [100, 130], [0, 0], {"b"}),
    ],
)
def test_lmetric_multiplies_prefill_and_requests(
    loads: Any, cached: list[int], scores: list[float], taken: set[str]
) -> None:
    assert choose(RIVALS["lmetric"](), look(fleet(*loads), cached=cached)).scores == scores
    assert chosen("lmetric", loads, cached=cached) == taken


@pytest.mark.parametrize(
    ("loads", "cached", "scores", "taken"),
    [
        ([{"prompt_pending": 50, "inflight": 9}, {}], [60, 0], [90, 100], {"a"}),
        ([{"prompt_pending": 70, "inflight": 1}, {}], [60, 0], [110, 100], {"b"}),
        ([{"inflight": 2, "kv_tokens": 10}, {"inflight": 1, "kv_tokens": 9000}], [0, 0], [100, 100], {"b"}),
        ([{"prompt_pending": 5}, {}], [250, 100], [5, 0], {"b"}),  # more cached than asked for is no bonus
    ],
)
def test_lpwl_adds_prefill_only(loads: Any, cached: list[int], scores: list[float], taken: set[str]) -> None:
    assert choose(RIVALS["lpwl"](), look(fleet(*loads), cached=cached)).scores == scores
    assert chosen("lpwl", loads, cached=cached) == taken


def test_lpwl_takes_turns_in_ties_and_only_there() -> None:
    policy, idle = RIVALS["lpwl"](), fleet({"inflight": 1}, {}, {}, {})
    taken = []
    for _ in range(4):
        taken.append(choose(policy, look(idle)).index)
        assert choose(policy, look(idle, cached=[9, 0, 0, 0])).index == 0
    assert taken == [1, 2, 3, 1]


@pytest.mark.parametrize(
    ("loads", "taken"),
    [
        ([{"prompt_pending": 300, "kv_tokens": 100}, {"kv_tokens": 399}], {"b"}),
        ([{"prompt_pending": 300, "kv_tokens": 98}, {"kv_tokens": 399}], {"a"}),
        ([{"kv_tokens": 9, "inflight": 2}, {"prompt_pending": 9, "inflight": 1}], {"b"}),  # tie: fewest in flight
        ([{}, {}], {"a", "b"}),
    ],
)
def test_least_resident_tokens_adds_what_is_held(loads: Any, taken: set[str]) -> None:
    assert chosen("least_resident_tokens", loads, cached=[0, 100]) == taken


# --- chwbl ---------------------------------------------------------------------------------------------------


def order(policy: Policy, backends: list[Backend], facts: Facts) -> list[str]:
    """The backends in the order in which the ring has them for this prompt: shown by an idle fleet's scores."""
    for b in backends:
        b.inflight = 0
    scores = choose(policy, look(backends), facts).scores
    assert sorted(scores) == list(range(len(backends)))
    return [b.id for _, b in sorted(zip(scores, backends, strict=True), key=lambda pair: pair[0])]


def test_chwbl_walks_on_from_backends_over_the_bound() -> None:
    policy, backends, facts = RIVALS["chwbl"](), fleet({}, {}, {}), asked(5)
    first, second, third = order(policy, backends, facts)
    by_id = {b.id: b for b in backends}
    rows = [  # in flight in the ring's order; the bound is 1.25 * (sum + 1) / 3
        ((4, 4, 3), first),  # 5.0
        ((5, 3, 3), first),  # 5.0: at the bound is within it
        ((6, 2, 3), second),  # 5.0
        ((6, 6, 0), third),  # 5.4
        ((1, 0, 0), second),  # 0.83
    ]
    for inflight, taken in rows:
        for id, n in zip((first, second, third), inflight, strict=True):
            by_id[id].inflight = n
        choice = choose(policy, look(backends), facts)
        assert backends[choice.index].id == taken, inflight
        assert choice.terms[0][1] == pytest.approx(1.25 * (sum(inflight) + 1) / 3)


def test_chwbl_hashes_the_first_block_and_chwbl_second_the_second() -> None:
    backends = fleet(*[{}] * 8)
    one, two = RIVALS["chwbl"](), RIVALS["chwbl_second"]()
    shared = [asked(1, i) for i in range(100, 140)]  # everybody's first block, 40 second ones
    assert len({tuple(order(one, backends, f)) for f in shared}) == 1
    assert len({tuple(order(two, backends, f)) for f in shared}) > 30
    assert order(two, backends, asked(1)) == order(one, backends, asked(1)), "no second block: as far as it goes"
    assert order(one, backends, asked()) == order(two, backends, asked()), "no prompt: all to one place"


def test_chwbl_moves_only_the_keys_of_a_backend_that_leaves_and_spreads_them() -> None:
    policy, backends = RIVALS["chwbl"](), fleet(*[{}] * 5)
    before = {key: order(policy, backends, asked(key)) for key in range(1000)}
    homes = Counter(ring[0] for ring in before.values())
    assert min(homes.values()) > 130, homes
    for ring in (policy, RIVALS["chwbl"]()):  # one that knew the backend, one that never did
        after = {key: order(ring, backends[1:], asked(key)) for key in range(1000)}
        assert all(after[key] == [id for id in before[key] if id != "a"] for key in before)
    orphans = Counter(before[key][1] for key in before if before[key][0] == "a")
    assert len(orphans) == 4, "not all to one neighbour"


def test_chwbl_forgets_backends_that_left() -> None:
    policy = RIVALS["chwbl"]()
    for i in range(150):
        [backend] = fleet({})
        backend.id = f"gone{i}"
        choose(policy, look([backend]))
    assert len(policy._ring._ids) <= 69  # type: ignore[attr-defined]


# --- aibrix_prefix, production_stack_prefix -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("inflight", "cached", "taken"),
    [
        ([16, 0], [100, 0], {"a"}),  # 16 apart is not more than 16
        ([17, 0, 0], [100, 0, 0], {"b", "c"}),  # 17 is: fewest in flight, any of them
        ([5, 4, 3], [500, 500, 400], {"b"}),  # longest match, then fewest in flight
        ([4, 4, 3], [500, 509, 400], {"a", "b"}),  # 50 per cent both, in whole ones
        ([4, 4, 3], [500, 510, 400], {"b"}),
        ([2, 1, 1], [9, 0, 0], {"b", "c"}),  # less than one per cent is nothing
        # mean 2, deviation 5.29: the bound is 12.6, and the only one over it is passed over
        ([16, 0, 0, 0, 0, 0, 0, 0], [900, 100, 0, 0, 0, 0, 0, 0], {"b"}),
        ([16, 1, 0, 0, 0, 0, 0, 0], [900, 0, 0, 0, 0, 0, 0, 0], {"c", "d", "e", "f", "g", "h"}),
    ],
)
def test_aibrix_takes_the_longest_match_within_two_deviations(
    inflight: list[int], cached: list[int], taken: set[str]
) -> None:
    loads = [{"inflight": n} for n in inflight]
    assert chosen("aibrix_prefix", loads, prompt=1000, cached=cached, draws=100) == taken


@pytest.mark.parametrize(
    ("cached", "taken"),
    [([64, 63, 0], {"a"}), ([64, 64, 0], {"a", "b"}), ([0, 0, 0], {"a", "b", "c"})],
)
def test_production_stack_does_not_look_at_load(cached: list[int], taken: set[str]) -> None:
    assert chosen("production_stack_prefix", [{"inflight": 500}, {"inflight": 3}, {}], cached=cached) == taken


# --- promises that all make ----------------------------------------------------------------------------------


class Watched:
    """Shows the rule a view with made-up cache contents, and sees that it answers in full and changes nothing."""

    def __init__(self, policy: Policy) -> None:
        self._policy, self._rng = policy, Random(9)
        self.name, self.term_names, self.needs_prefixes = policy.name, policy.term_names, policy.needs_prefixes

    def choose(self, facts: Facts, view: View) -> Choice:
        mine = View(view.rng)
        mine.backends, mine.now, mine.prompt, mine.output = list(view.backends), view.now, view.prompt, view.output
        mine.cached = tuple(self._rng.randrange(view.prompt + 1) for _ in view.backends)
        before, asked_for = shown(mine), copy.deepcopy(facts)
        choice = self._policy.choose(facts, mine)
        assert shown(mine) == before, "the view was changed"
        assert facts == asked_for, "the request's facts were changed"
        assert 0 <= choice.index < len(mine.backends)
        assert choice.reason
        assert not any(sign.isdigit() for sign in choice.reason)
        assert len(choice.scores) == len(choice.terms) == len(mine.backends)
        assert choice.scores[choice.index] == min(choice.scores), "lower is better"
        assert all(len(row) == len(self.term_names) for row in choice.terms)
        return choice


def shown(view: View) -> list[object]:
    """All that a rule is shown, as values."""
    names = ("inflight", "decoding", "prompt_pending", "kv_tokens", "output_pending", "stats", "polled_at", "epoch")
    seen = [[b.id, b.seed, b.weight, *(getattr(b, name) for name in names)] for b in view.backends]
    return [seen, view.now, view.prompt, view.output, view.cached]


@every_rival
def test_a_rule_is_called_what_the_table_says_and_has_its_own_memory(name: str) -> None:
    policy = RIVALS[name]()
    assert policy.name == name
    assert len(set(policy.term_names)) == len(policy.term_names)
    assert isinstance(policy.needs_prefixes, bool)
    assert RIVALS[name]() is not policy


def test_only_the_simulator_offers_them() -> None:
    assert not RIVALS.keys() & POLICIES.keys()


Script = list[tuple[int, int, str, float]]
script = st.lists(
    st.tuples(
        st.integers(0, 5000), st.integers(0, 5), st.sampled_from(["stay", "token", "end", "poll"]), st.floats(0, 5)
    ),
    max_size=30,
)


def drive(name: str, count: int, events: Script, seed: int = 3) -> list[tuple[int, tuple[float, ...]]]:
    """Every choice, through a balancer's own events, with loads and reports as they come about there."""
    balancer = Balancer(Watched(RIVALS[name]()), Random(seed), rise=1)
    ids = [f"b{i}" for i in range(count)]
    for id in ids:
        balancer.add(id, models=frozenset({"m"}))
        balancer.probe(id, True)
    now, log = 1.0, []
    for prompt, key, end, pause in events:
        now += pause
        balancer.tick(now)
        facts = replace(asked(*range(key, key + 3)[:key]), prompt_ids=prompt, prompt_bytes=0)
        lease = balancer.assign(facts, now)
        assert isinstance(lease, Lease)
        log.append((lease.choice.index, tuple(lease.choice.scores)))
        if end == "poll":
            stats = EngineStats(waiting=key, running=lease.backend.inflight, kv_usage=key / 5)
            balancer.poll_result(lease.backend.id, balancer.poll_started(lease.backend.id), stats, now)
        elif end != "stay":
            balancer.first_token(lease, now + 0.1)
            lease.produced += 20
            if end == "end":
                balancer.finish(lease, OK, now + 0.2)
    return log


@every_rival
@settings(derandomize=True, max_examples=30, deadline=None)
@given(count=st.integers(1, 6), events=script)
def test_any_traffic_on_any_fleet_and_again_the_same(name: str, count: int, events: Script) -> None:
    assert drive(name, count, events) == drive(name, count, events)


@every_rival
def test_an_idle_request_without_a_prompt_finds_a_place(name: str) -> None:
    choice = choose(RIVALS[name](), look(fleet({}, {}), prompt=0), Facts())
    assert choice.index in (0, 1)


@every_rival
def test_the_docs_tell_of_every_rule(name: str) -> None:
    assert f"| `{name}` |" in DOCS.read_text("utf-8")


def test_the_docs_tell_of_no_other_rule() -> None:
    rows = [line for line in DOCS.read_text("utf-8").splitlines() if line.startswith("| `")]
    assert [row.split("`")[1] for row in rows] == list(RIVALS)
