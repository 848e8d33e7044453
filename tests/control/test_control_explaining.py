"""Why did it go there, and what came of it? Told from what the decision kept, whatever has happened since."""

from __future__ import annotations

import asyncio
import json
import random
from types import SimpleNamespace
from typing import Any

import pytest
from control_app import engines, running
from control_records import make_balancer, place, record
from hypothesis import given
from hypothesis import strategies as st

from fairlead.control import explaining
from fairlead.control.words import SCORES, TERMS, count, in_words, score_means, seconds
from fairlead.core.balancer import Balancer
from fairlead.core.cluster.ledger import Lease
from fairlead.core.hedge import LOST, WON
from fairlead.core.model import EngineStats, Facts, Kind, Usage
from fairlead.core.policies.registry import POLICIES, make
from fairlead.proxy.hedge import Told

# --- words -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", POLICIES)
def test_every_term_and_every_score_has_a_sentence_and_none_is_of_the_past(policy: str) -> None:
    assert tuple(TERMS[policy]) == make(policy).term_names
    assert score_means(policy)


def test_there_are_no_words_for_policies_that_are_not_there() -> None:
    assert set(TERMS) == set(SCORES) == set(POLICIES)


@pytest.mark.parametrize("policy", POLICIES)
@given(value=st.none() | st.floats(allow_nan=False, allow_infinity=False))
def test_any_number_can_be_said(policy: str, value: float | None) -> None:
    said = in_words(policy, dict.fromkeys(make(policy).term_names, value))
    assert len(said) == len(make(policy).term_names)
    assert all("{" not in sentence and sentence for sentence in said)


def test_numbers_stand_in_the_sentences() -> None:
    assert in_words("least_connections", {"in flight": 3.0, "weight": 2.0}) == [
        "requests in flight there: 3",
        "its weight is 2",
    ]
    assert in_words("prefix_hash", {"has room": 1.0}) == ["it is below its bound of requests in flight"]
    assert in_words("prefix_hash", {"has room": 0.0}) == ["it is not below its bound of requests in flight"]
    assert in_words("a policy of tomorrow", {"its term": 0.5}) == ["its term: 0.5"]
    assert in_words("power_of_two", {"in flight": None}) == ["requests in flight there: unknown"]
    assert [seconds(value) for value in (0.0, 8.5e-4, 0.0124, 3.21, 270.0)] == [
        "0 s", "850 us", "12.4 ms", "3.21 s", "4.5 min",
    ]  # fmt: skip
    assert [count(value) for value in (12.0, 4_310.2, 0.25)] == ["12", "4,310", "0.25"]


# --- how fresh, and who was out --------------------------------------------------------------------------------------


def reading(balancer: Balancer, id: str, at: float) -> None:
    balancer.poll_result(id, balancer.poll_started(id), EngineStats(waiting=0.0, running=0.0), at)


def assign(balancer: Balancer, now: float, **facts: Any) -> Lease:
    lease = balancer.assign(Facts(kind=Kind.CHAT, model="m", **facts), now)
    assert isinstance(lease, Lease)
    return lease


def signals(lease: Lease) -> dict[str, Any]:
    rows = explaining.decision_of(record(lease=lease), lease)["candidates"]
    return {row["backend"]: row["signals"] for row in rows}


def test_ages_are_those_of_the_moment_of_the_choice() -> None:
    balancer = make_balancer("a", "b")
    balancer.tick(98.0)
    balancer.probe("a", True)
    reading(balancer, "a", 99.0)
    lease = assign(balancer, 100.0)
    reading(balancer, "a", 500.0)  # later news change nothing about it
    balancer.tick(500.0)
    balancer.probe("a", True)
    assert signals(lease)["a"] == {"metrics_age": 1.0, "check_age": 2.0, "speed_age": None}
    assert signals(lease)["b"]["metrics_age"] is None


def test_a_reading_that_is_not_believed_makes_nothing_fresh() -> None:
    balancer = make_balancer("a", "b")
    reading(balancer, "a", 90.0)
    mark = balancer.poll_started("a")
    balancer.poll_started("a")  # overtakes it
    balancer.poll_result("a", mark, EngineStats(waiting=9.0), 99.0)
    assert signals(assign(balancer, 100.0))["a"]["metrics_age"] == 10.0


def test_a_speed_is_as_old_as_the_last_request_that_showed_it() -> None:
    balancer = Balancer(make("expected_completion"), random.Random(0))
    balancer.add("a")
    balancer.set_models("a", frozenset({"m"}))
    balancer.probe("a", True)
    first = assign(balancer, 10.0, prompt_bytes=4_000, stream=True)
    balancer.first_token(first, 11.0)
    first.produced = 50
    balancer.finish(first, "ok", 14.0, Usage(1_000, 50))
    assert signals(assign(balancer, 20.0))["a"]["speed_age"] is None  # not taken over yet
    balancer.tick(20.0)
    assert signals(assign(balancer, 20.0))["a"]["speed_age"] == 6.0


def out(lease: Lease, **changed: Any) -> dict[str, tuple[str, str]]:
    rows = explaining.decision_of(record(lease=lease, **changed), lease)["not_considered"]
    return {row["backend"]: (row["state"], row["reason"]) for row in rows}


def test_who_was_out_is_told_as_it_was_then() -> None:
    balancer = make_balancer("ok", "down", "drains", "disabled", "rests")
    for _ in range(3):
        balancer.probe("down", False, "connection refused")
    balancer.set_draining("drains", True)
    balancer.set_enabled("disabled", False)
    balancer._candidates.max_ejected = 1.0
    for _ in range(3):
        balancer.finish(_on(balancer, "rests"), "failed", 9.0, reason="connect")
    lease = assign(balancer, 10.0)
    for _ in range(9):
        balancer.probe("down", True)
    balancer.set_draining("drains", False)
    balancer.set_enabled("disabled", True)
    assert lease.backend.id == "ok"
    assert out(lease) == {
        "down": ("down", "connection refused"),
        "drains": ("draining", "takes no new requests"),
        "disabled": ("disabled", "marked as down: it gets no requests"),
        "rests": ("ejected", "rested after failed requests (last: connect)"),
    }


def _on(balancer: Balancer, id: str) -> Lease:
    lease = balancer.assign(Facts(kind=Kind.CHAT, model="m"), 9.0, among=[balancer.backends[id]])
    assert isinstance(lease, Lease)
    return lease


def test_who_is_out_is_found_again_only_after_a_change() -> None:
    balancer = make_balancer("a", "b")
    balancer.set_enabled("b", False)
    one, two = assign(balancer, 1.0), assign(balancer, 2.0)
    assert one.out is two.out
    balancer.set_enabled("b", True)
    assert assign(balancer, 3.0).out == ()


def test_one_that_had_failed_it_and_one_that_was_late_are_told_as_such() -> None:
    balancer = make_balancer("a", "b", "c")
    lease = _on(balancer, "c")
    assert out(lease, tried=("a",)) == {"a": ("tried", "it had failed this request before")}
    late = out(lease, hedge=Told("b", "c", WON))
    assert late == {"b": ("late", "it was asked first, and had not begun to answer")}


@pytest.mark.parametrize(
    ("change", "facts", "state"),
    [
        (lambda b: b.set_models("other", frozenset({"x"})), {}, "other_model"),
        (lambda b: None, {"group": frozenset({"a"})}, "other_route"),
        (lambda b: b.set_options("other", weight=None, max_connections=None, backup=True), {}, "backup"),
        (lambda b: b.set_options("other", weight=None, max_connections=0, backup=False), {}, "full"),
    ],
)
def test_one_that_was_well_is_told_why_it_could_not_have_this_request(change: Any, facts: Any, state: str) -> None:
    balancer = make_balancer("a", "other")
    change(balancer)
    lease = assign(balancer, 1.0, **facts)
    rows = explaining.left_out(explaining._out(record(), lease), lease, balancer.backends.values(), 2.0)
    assert [(row["backend"], row["state"], row["state_now"]) for row in rows] == [("other", state, "up")]


def test_one_that_has_left_since_is_gone() -> None:
    balancer = make_balancer("a", "b")
    balancer.set_enabled("b", False)
    lease = assign(balancer, 1.0)
    balancer.remove("b")
    rows = explaining.left_out(explaining._out(record(), lease), lease, balancer.backends.values(), 2.0)
    assert [(row["backend"], row["state"], row["state_now"]) for row in rows] == [("b", "disabled", "gone")]


# --- what came of it --------------------------------------------------------------------------------------------------


def told(lease: Lease, **changed: Any) -> dict[str, Any]:
    return explaining.after(record(lease=lease, **changed), lease)


def attempts(lease: Lease, **changed: Any) -> list[tuple[str, str]]:
    return [(row["backend"], row["result"]) for row in told(lease, **changed)["attempts"]]


def test_attempts_come_in_their_order() -> None:
    lease = _on(make_balancer("a", "b", "c"), "c")
    assert attempts(lease) == [("c", "ok")]
    assert attempts(lease, tried=("a", "b")) == [("a", "failed"), ("b", "failed"), ("c", "ok")]
    assert attempts(lease, tried=("a", "c"), outcome="failed") == [("a", "failed"), ("c", "failed")]
    assert attempts(lease, hedge=Told("b", "c", WON)) == [("b", "overtaken"), ("c", "ok")]
    assert attempts(lease, hedge=Told("c", "a", LOST)) == [("a", "overtaken"), ("c", "ok")]
    assert attempts(lease, tried=("b",), hedge=Told("b", "c", WON)) == [("b", "failed"), ("c", "ok")]


def test_a_stream_that_went_on_elsewhere_is_told() -> None:
    lease = _on(make_balancer("a", "b"), "b")  # placed at 9.0
    again = told(lease, arrived=5.0, ttft=1.0, tried=("a",))
    assert again["resumed"] is True
    assert "the stream had begun elsewhere and went on at b" in again["words"]
    assert told(lease, arrived=8.5, ttft=1.0, tried=("a",))["resumed"] is False  # a retry before its first byte
    assert told(lease, arrived=8.5)["resumed"] is False


def test_predicted_and_real_stand_beside_each_other() -> None:
    balancer = Balancer(make("expected_completion"), random.Random(0))
    balancer.add("a")
    balancer.set_models("a", frozenset({"m"}))
    balancer.probe("a", True)
    lease = assign(balancer, 10.0, prompt_bytes=40_000, stream=True)
    balancer.first_token(lease, 10.75)
    found = told(lease, arrived=9.5, ttft=1.25, output_tokens=7, cached_tokens=16, duration=3.0)
    names = make("expected_completion").term_names
    predicted = lease.choice.terms[0][names.index("first token after, s")]
    assert found["first_token_predicted"] == round(predicted, 6)
    assert (found["first_token_real"], found["chosen_after"]) == (0.75, 0.5)
    assert any(words.startswith("its first token came after 750 ms; ") for words in found["words"])
    assert "the engine found 16 prompt tokens in its cache; 0 expected" in found["words"]
    assert found["words"][-1] == "it ended with status 200, ok, after 3 s"


def test_a_policy_that_predicts_nothing_says_so_and_a_shadow_may_help() -> None:
    lease = place(make_balancer("a"), model="m")
    assert told(lease)["first_token_predicted"] is None
    lease.opinion = SimpleNamespace(chosen_seconds=0.25)  # type: ignore[assignment]
    assert told(lease)["first_token_predicted"] == 0.25


def test_a_failure_is_named() -> None:
    lease = place(make_balancer("a"), model="m")
    words = told(lease, outcome="failed", status=502, error="upstream_broken", duration=0.5)["words"]
    assert words == [
        "a failed it",
        "it ended with status 502, failed (upstream_broken), after 500 ms",
    ]


# --- by the admin API -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", POLICIES)
def test_the_admin_api_explains_the_decisions_of_every_policy(policy: str) -> None:
    async def body() -> None:
        async with engines(2) as (one, two):
            async with running(one.url, two.url, "http://127.0.0.1:1", policy=policy) as fairlead:
                backends = fairlead.app.balancer.backends
                await fairlead.until("checks", lambda: all(b.signals.check > 0 for b in backends.values()))
                _, id = await fairlead.chat("m", "how are you")
                answer = await fairlead.json(f"/api/explain/{id}")
        decision, after = answer["decision"], answer["after"]
        for row in decision["candidates"]:
            assert row["words"] == in_words(policy, row["terms"])
            assert row["signals"]["check_age"] is not None
            assert row["signals"]["metrics_age"] is not None
        assert decision["score_means"] == score_means(policy)
        assert decision["not_considered"] == [
            {"backend": "b2", "state": "down", "reason": "connection refused", "state_now": "down"}
        ]
        assert after["attempts"] == [{"backend": decision["backend"], "result": "ok"}]
        assert after["first_token_real"] > 0
        assert (after["first_token_predicted"] is None) == (policy != "expected_completion")
        assert answer["request"]["stream"] is True
        assert "how are you" not in json.dumps(answer)

    asyncio.run(body())


def test_a_session_is_told_of_and_never_named() -> None:
    async def body() -> None:
        async with engines(1) as (one,), running(one.url, policy="session") as fairlead:
            _, id = await fairlead.chat("m", x_session_id="anna-7")
            answer = await fairlead.json(f"/api/explain/{id}")
        assert answer["decision"]["estimate"]["session"] is True
        assert "anna-7" not in json.dumps(answer)

    asyncio.run(body())
