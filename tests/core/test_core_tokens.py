"""How many tokens is a request? What the estimate starts from, learns, and is bounded by."""

from __future__ import annotations

from random import Random

import pytest
from core_fleet import chat, fleet, place
from hypothesis import given, settings
from hypothesis import strategies as st

from fairlead.core.balancer import CLIENT_GONE, FAILED, OK
from fairlead.core.cluster.tokens import TokenEstimator
from fairlead.core.model import Facts, Kind, Usage


def test_before_anything_is_learned_four_bytes_are_a_token() -> None:
    prompt, output = TokenEstimator().estimate(chat(4000))
    assert 990 <= prompt <= 1010
    assert 100 <= output <= 500


def test_token_ids_are_counted_exactly() -> None:
    assert TokenEstimator().estimate(Facts(Kind.COMPLETION, "m", prompt_ids=123))[0] == 123


def test_the_ratio_converges_to_what_engines_report() -> None:
    tokens, rng = TokenEstimator(), Random(1)
    for _ in range(300):
        size = rng.randrange(200, 20_000)
        tokens.learn(chat(size), int(size / 2.5 * rng.uniform(0.9, 1.1)), 80)
    prompt, output = tokens.estimate(chat(10_000))
    assert prompt == pytest.approx(4000, rel=0.05)
    assert output == pytest.approx(80, rel=0.1)


def test_a_changed_model_is_learned_anew() -> None:
    tokens = TokenEstimator()
    for length in (100, 900):
        for _ in range(400):
            tokens.learn(chat(4000), 1000, length)
        assert tokens.estimate(chat(4000))[1] == pytest.approx(length, rel=0.1)


def test_models_are_learned_apart() -> None:
    tokens = TokenEstimator()
    for _ in range(200):
        tokens.learn(chat(1000, model="dense"), 1000, 10)
        tokens.learn(chat(1000, model="sparse"), 200, 1000)
    assert tokens.estimate(chat(1000, model="dense"))[0] > 4 * tokens.estimate(chat(1000, model="sparse"))[0]
    assert tokens.estimate(chat(4000, model="new")) == TokenEstimator().estimate(chat(4000, model="new"))


@settings(derandomize=True, deadline=None)
@given(limit=st.integers(0, 100_000), n=st.integers(1, 8), length=st.integers(1, 5000))
def test_the_clients_limit_bounds_the_output_and_n_multiplies_it(limit: int, n: int, length: int) -> None:
    tokens = TokenEstimator()
    for _ in range(50):
        tokens.learn(chat(400), 100, length)
    free = tokens.estimate(chat(400))[1]
    bounded = tokens.estimate(chat(400, max_tokens=limit))[1]
    assert bounded == min(free, max(limit, 1))
    assert tokens.estimate(chat(400, max_tokens=limit, n=n))[1] == n * bounded


def test_usage_of_parallel_answers_is_learned_per_answer() -> None:
    tokens = TokenEstimator()
    for _ in range(400):
        tokens.learn(chat(400, n=4), 100, 400)
    assert tokens.estimate(chat(400))[1] == pytest.approx(100, rel=0.1)


@pytest.mark.parametrize(
    ("kind", "expected"), [(Kind.PROMPT_ONLY, (101, 0)), (Kind.CHEAP, (0, 0))], ids=["prompt_only", "cheap"]
)
def test_requests_that_generate_nothing_owe_no_output(kind: str, expected: tuple[int, int]) -> None:
    assert TokenEstimator().estimate(chat(400, kind=kind)) == expected


def test_streams_without_usage_teach_their_length() -> None:
    balancer = fleet("least_pending_tokens", "a")
    for i in range(300):
        lease = place(balancer, now=float(i))
        balancer.first_token(lease, i + 0.1)
        lease.produced += 40
        balancer.finish(lease, OK, i + 0.5)
    lease = place(balancer, now=400.0)
    assert lease.output_expected == pytest.approx(40, rel=0.2)
    assert lease.prompt_tokens == pytest.approx(100, rel=0.05), "no word about prompts: the prior stands"


@pytest.mark.parametrize("outcome", [FAILED, CLIENT_GONE])
def test_answers_that_did_not_end_well_teach_nothing(outcome: str) -> None:
    balancer = fleet("least_pending_tokens", "a", max_fails=0)
    before = balancer.tokens.estimate(chat(4000))
    for i in range(100):
        lease = place(balancer, now=float(i))
        lease.produced += 1
        balancer.finish(lease, outcome, i + 0.5, Usage(5, 1))
    assert balancer.tokens.estimate(chat(4000)) == before


def test_cheap_requests_teach_nothing() -> None:
    balancer = fleet("least_pending_tokens", "a")
    before = balancer.tokens.estimate(chat(4000))
    for i in range(100):
        balancer.finish(place(balancer, chat(kind=Kind.CHEAP)), OK, float(i), Usage(1, 1))
    assert balancer.tokens.estimate(chat(4000)) == before


def test_models_are_remembered_within_a_bound() -> None:
    tokens = TokenEstimator()
    for i in range(5000):
        tokens.learn(chat(400, model=f"m{i}"), 100, 10)
    assert len(tokens.snapshot()) <= 1000


@settings(derandomize=True, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 10**9), st.none() | st.integers(0, 10**7), st.none() | st.integers(0, 10**7))),
    st.integers(0, 10**9),
)
def test_whatever_engines_report_estimates_are_whole_and_positive(
    reports: list[tuple[int, int | None, int | None]], size: int
) -> None:
    tokens = TokenEstimator()
    for prompt_bytes, prompt, output in reports:
        tokens.learn(chat(prompt_bytes), prompt, output)
    estimate = tokens.estimate(chat(size))
    assert all(type(n) is int and n >= 1 for n in estimate)
