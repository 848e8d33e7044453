"""The default policy's formula: a table worked out by hand, laws that hold for any state, and its edges.

Seconds of the reference machine (cluster/costs.py): 20 us per prompt token, 1.3 ns per token and token of context,
a step of 6.8 ms + 0.076 us per token held + 5 us per request; a step full of prompt takes 170.64 ms.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from random import Random

import pytest
from core_fleet import MODEL, chat, fleet, place, report, spread
from hypothesis import given, settings
from hypothesis import strategies as st

from fairlead.core.balancer import Balancer
from fairlead.core.cluster.backend import Backend
from fairlead.core.model import Facts, Kind
from fairlead.core.policies.expected_completion import CROWDED, NEAR, TOP_PRICE, ExpectedCompletion
from fairlead.core.view import Choice, View

NOW = 100.0


@dataclass(frozen=True, slots=True)
class State:
    """What one backend looks like."""

    queued: tuple[int, ...] = ()  # prompts without their first token, in tokens
    head_age: float = 0.0  # seconds since the first of them was sent
    decoding: tuple[int, ...] = ()  # prompts whose answers run
    slow: float = 1.0
    pace: float = 1.0
    overdue: float = 1.0
    foreign: tuple[float, float] = (0.0, 0.0)  # waiting, running
    weight: float | None = None
    cached: int = 0


@dataclass(slots=True)
class Scene:
    """Backends in given states, and a policy that is asked about one request."""

    states: tuple[State, ...]
    prompt: int = 1_000
    output: int = 100
    throughput: float = 0.5
    backends: list[Backend] = field(default_factory=list)

    def choose(self, seed: int = 1) -> Choice:
        ids = [f"b{i}" for i in range(len(self.states))]
        weights = {id: s.weight for id, s in zip(ids, self.states, strict=True) if s.weight is not None}
        balancer = fleet("least_connections", *ids, weights=weights)
        self.backends = list(balancer.backends.values())
        for id, state in zip(ids, self.states, strict=True):
            self._fill(balancer, id, state, [other for other in ids if other != id])
        view = View(Random(seed))
        view.backends, view.now = self.backends, NOW
        view.prompt, view.output = self.prompt, self.output
        view.cached = [state.cached for state in self.states]
        return ExpectedCompletion(self.throughput).choose(Facts(Kind.CHAT, MODEL), view)

    @staticmethod
    def _fill(balancer: Balancer, id: str, state: State, others: list[str]) -> None:
        backend = balancer.backends[id]
        for tokens in state.decoding:
            ids = Facts(Kind.COMPLETION, MODEL, True, prompt_ids=tokens, stream=True)
            balancer.first_token(place(balancer, ids, NOW - 50.0, others), NOW - 40.0)
        for tokens in state.queued:
            ids = Facts(Kind.COMPLETION, MODEL, True, prompt_ids=tokens, stream=True)
            place(balancer, ids, NOW - state.head_age, others)
        backend.prefill_slowdown, backend.decode_slowdown, backend.overdue = state.slow, state.pace, state.overdue
        backend.foreign_waiting, backend.foreign_running = state.foreign
        backend.polled_at, backend.price = NOW, None


# --- by hand -------------------------------------------------------------------------------------------------

HAND = [
    # name, state, (cached, queued, own, first, others, decoding): 1,000 prompt tokens, 100 output tokens
    ("idle", State(), (0, 0.0, 0.02065, 0.0214729, 0.0, 0.68)),
    # prompt: 400 tokens behind 600; 8 answers of 2,000 tokens: step 8.056 ms
    ("decoding", State(decoding=(2_000,) * 8, cached=600), (600, 0.0, 0.008416, 0.0088133, 0.135168, 0.8056)),
    # head: 42.6 ms of work, for 10 ms of ours, which are 5 of its
    ("queue", State(queued=(2_000,), head_age=0.01, slow=2.0), (0, 0.0376, 0.02065, 0.1211430, 0.00848, 0.68)),
    # head sent long ago: at most nine tenths of it are taken for done
    ("old head", State(queued=(2_000,), head_age=9.0), (0, 0.00426, 0.02065, 0.0259028, 0.00848, 0.68)),
    # two before us with prompts like ours, four running with contexts like ours
    ("others", State(foreign=(2.0, 4.0)), (0, 0.0413, 0.02065, 0.0645363, 0.13348, 0.7124)),
    ("slow decode", State(decoding=(2_000,) * 8, pace=3.0), (0, 0.0, 0.02065, 0.0216249, 0.36872, 2.4168)),
    ("overdue", State(overdue=10.0), (0, 0.0, 0.02065, 0.214729, 0.0, 6.8)),
]  # fmt: skip


@pytest.mark.parametrize(("name", "state", "row"), HAND, ids=[name for name, *_ in HAND])
def test_terms_and_score_as_worked_out_by_hand(name: str, state: State, row: tuple[float, ...]) -> None:
    choice = Scene((state,)).choose()
    assert choice.terms[0][:6] == pytest.approx(row, rel=1e-4)
    _, _, _, first, others, decoding = row
    assert choice.scores[0] == pytest.approx(first + 0.05 * (others + decoding), rel=1e-4)
    assert choice.index == 0, "one candidate is the choice, whatever its score"


def test_no_more_streams_than_the_cap_count_as_stalled() -> None:
    few, many, more = (
        Scene((State(decoding=(10,) * n),), output=0).choose().terms[0][4] for n in (8, 16, 64)
    )  # fmt: skip
    assert many == pytest.approx(2 * few)
    assert more == pytest.approx(many)


# --- laws ----------------------------------------------------------------------------------------------------

tokens = st.integers(1, 30_000)
states = st.builds(
    State,
    queued=st.lists(tokens, max_size=4).map(tuple),
    head_age=st.floats(0.0, 5.0),
    decoding=st.lists(tokens, max_size=20).map(tuple),
    slow=st.floats(0.1, 20.0),
    pace=st.floats(0.1, 20.0),
    overdue=st.sampled_from([1.0, 1.0, 3.0, 50.0]),
    foreign=st.sampled_from([(0.0, 0.0), (0.0, 0.0), (3.0, 0.0), (0.0, 7.0), (2.5, 1.5)]),
    weight=st.sampled_from([None, 0.5, 4.0]),
)
requests = {
    "prompt": st.integers(0, 40_000),
    "output": st.integers(0, 4_000),
    "throughput": st.sampled_from([0.0, 0.3, 0.5, 1.0]),
}


def worse(state: State, how: str, by: int) -> State:
    """The same backend with more on it, or slower."""
    values = {name: getattr(state, name) for name in State.__slots__}
    if how == "queued":
        values["queued"] = (*state.queued, by)
    elif how == "decoding":
        values["decoding"] = (*state.decoding, by)
    elif how in ("slow", "pace", "overdue"):
        values[how] *= 1.0 + by / 10_000
    else:
        waiting, running = state.foreign
        values["foreign"] = (waiting + by / 10_000, running) if how == "waiting" else (waiting, running + by / 10_000)
    return State(**values)


@given(
    st.lists(states, min_size=1, max_size=2),
    st.sampled_from(["queued", "decoding", "slow", "pace", "overdue", "waiting", "running"]),
    tokens,
    *requests.values(),
)
@settings(max_examples=150, deadline=None)
def test_more_work_or_less_speed_never_makes_a_backend_more_attractive(
    fleet_of: list[State], how: str, by: int, prompt: int, output: int, throughput: float
) -> None:
    state = fleet_of[0]
    if how == "decoding":  # one more answer's context, no shorter than theirs: foreign ones are taken to be like ours
        by = max(by, *state.decoding, 1)
        if not state.decoding:
            by = max(by, prompt)
    before = Scene((state,), prompt, output, throughput).choose().scores[0]
    after = Scene((worse(state, how, by),), prompt, output, throughput).choose().scores[0]
    assert after >= before * (1 - 1e-9)


@given(states, st.integers(0, 40_000), st.integers(0, 40_000), *requests.values())
@settings(max_examples=150, deadline=None)
def test_more_in_the_cache_never_makes_a_backend_less_attractive(
    state: State, one: int, two: int, prompt: int, output: int, throughput: float
) -> None:
    less, more = sorted((min(one, prompt - 1), min(two, prompt - 1))) if prompt else (0, 0)
    values = {name: getattr(state, name) for name in State.__slots__}
    scores = [
        Scene((State(**(values | {"cached": cached})),), prompt, output, throughput).choose().scores[0]
        for cached in (less, more)
    ]
    assert scores[1] <= scores[0] * (1 + 1e-9)


@given(st.lists(states, min_size=1, max_size=5), st.integers(0, 50_000), *requests.values())
@settings(max_examples=150, deadline=None)
def test_the_terms_explain_the_scores_and_the_lowest_score_is_taken(
    fleet_of: list[State], cached: int, prompt: int, output: int, throughput: float
) -> None:
    hit = {"cached": min(cached, prompt)}
    fleet_of[0] = State(**{name: getattr(fleet_of[0], name) for name in State.__slots__} | hit)
    scene = Scene(tuple(fleet_of), prompt, output, throughput)
    choice = scene.choose()
    queues = [row[1] * row[6] for row in choice.terms]  # seconds, but for the decodes that stretch them
    price = choice.terms[0][-1]
    if throughput and min(queues) > CROWDED:
        assert price > TOP_PRICE * throughput**3
    elif max(queues) == 0:
        assert price == pytest.approx(TOP_PRICE * throughput**3)
    for state, backend, score, row in zip(fleet_of, scene.backends, choice.scores, choice.terms, strict=True):
        named = dict(zip(ExpectedCompletion.term_names, row, strict=True))
        first, others, decode = (named[name] for name in ("first token after, s", "delay to others, s", "decoding, s"))
        assert score * backend.weight == pytest.approx(first + price * (others + decode))
        assert first > 0.0
        assert min(row) >= 0.0
        assert row[-1] == price
        assert named["prompt tokens cached"] == state.cached
        assert named["prefill slowdown"] == pytest.approx(state.slow * state.overdue)
        assert named["decode slowdown"] == pytest.approx(state.pace * state.overdue)
    assert choice.scores[choice.index] <= min(choice.scores) * NEAR


@given(st.lists(states, min_size=2, max_size=4), st.integers(1, 20_000), st.integers(0, 4_000))
@settings(max_examples=60, deadline=None)
def test_with_the_dial_at_zero_the_first_token_is_all_that_counts(
    fleet_of: list[State], prompt: int, output: int
) -> None:
    scene = Scene(tuple(fleet_of), prompt, output, throughput=0.0)
    choice = scene.choose()
    first = [row[3] / b.weight for row, b in zip(choice.terms, scene.backends, strict=True)]
    assert choice.scores == pytest.approx(first)
    assert [round(s, 9) for s in choice.scores] == [
        round(s, 9) for s in Scene(tuple(fleet_of), prompt, 1, throughput=0.0).choose().scores
    ], "the length of the answer does not matter"


def test_the_dial_decides_between_a_soon_first_token_and_undisturbed_streams() -> None:
    """One has half of the prompt cached and many streams, the other is empty but cold."""
    states_of = (State(cached=3_000, decoding=(4_000,) * 16), State())
    assert Scene(states_of, 6_000, 400, throughput=0.0).choose().index == 0
    assert Scene(states_of, 6_000, 400, throughput=1.0).choose().index == 1


# --- ties, weights, kinds ------------------------------------------------------------------------------------


def test_equal_and_idle_backends_share_by_chance() -> None:
    chosen = Counter(Scene((State(),) * 3).choose(seed).index for seed in range(60))
    assert set(chosen) == {0, 1, 2}
    assert min(chosen.values()) > 8


def test_among_near_scores_the_fewest_in_flight_decide() -> None:
    busy = State(decoding=(1,))
    assert all(Scene((busy, State()), 20_000, 1).choose(seed).index == 1 for seed in range(10))


def test_a_weight_that_was_set_is_divided_by() -> None:
    light, heavy = Scene((State(weight=1.0), State(weight=4.0))).choose().scores
    assert light == pytest.approx(4 * heavy)


def test_weights_draw_traffic_in_their_direction() -> None:
    balancer = fleet("expected_completion", "a", "b", weights={"a": 3.0, "b": 1.0})
    got = spread(place(balancer, chat(4_000), 0.0) for _ in range(40))
    assert got["a"] > 1.5 * got["b"]


@pytest.mark.parametrize("kind", [Kind.CHEAP, Kind.PROMPT_ONLY, Kind.COMPLETION, Kind.CHAT])
def test_every_kind_finds_its_place(kind: str) -> None:
    balancer = fleet("expected_completion", "a", "b", "c")
    report(balancer, "a", 0.0, waiting=50, running=50)
    leases = [place(balancer, Facts(kind, MODEL, True, 0 if kind == Kind.CHEAP else 4_000), 0.0) for _ in range(12)]
    assert spread(leases)["a"] <= 1
    assert {lease.backend.id for lease in leases} >= {"b", "c"}
    for lease in leases:
        assert all(score > 0 for score in lease.choice.scores)
        balancer.finish(lease, "ok", 1.0)
    assert all(b.prefill_work == b.inflight == b.kv_tokens == 0 for b in balancer.backends.values())


def test_the_price_that_is_kept_per_backend_is_never_out_of_date() -> None:
    """Whatever happens to a backend, its kept numbers are those that would be worked out anew."""
    balancer, rng = fleet("expected_completion", "a", "b"), Random(3)
    leases = []
    for i in range(400):
        now = i * 0.2
        leases.append(place(balancer, chat(rng.randrange(400, 40_000)), now))
        one = leases[rng.randrange(len(leases))]
        balancer.first_token(one, now)
        one.produced += rng.randrange(20)
        if rng.random() < 0.8:
            balancer.finish(leases.pop(rng.randrange(len(leases))), "ok", now + 0.1)
        balancer.tick(now + 0.15)
        kept = {id: b.price for id, b in balancer.backends.items()}
        view = View(Random(1))
        view.backends, view.now, view.prompt, view.output = list(balancer.backends.values()), now + 0.2, 500, 50
        view.cached = [0, 0]
        scores = ExpectedCompletion().choose(Facts(), view).scores
        for b in balancer.backends.values():
            b.price = None
        assert ExpectedCompletion().choose(Facts(), view).scores == scores, (i, kept)
