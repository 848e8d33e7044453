"""A shadow is asked and never obeyed: it changes no decision, and nothing that goes wrong in it costs a request."""

from __future__ import annotations

from random import Random
from types import SimpleNamespace
from typing import Any, cast

import pytest
from core_fleet import chat, fleet, join, loads, place, serve

from fairlead.core.balancer import CLIENT_GONE, FAILED, OK, Balancer
from fairlead.core.cluster.ledger import Lease
from fairlead.core.model import EngineStats, Facts, Kind, Usage
from fairlead.core.policies.registry import POLICIES, make
from fairlead.core.shadow import MAX_ERRORS, Shadow
from fairlead.core.view import Choice, View

Log = list[tuple[object, ...]]


def shadowed(balancer: Balancer, policy: Any = "round_robin") -> Shadow:
    """Give the balancer a shadow."""
    shadow = Shadow(make(policy) if isinstance(policy, str) else policy, Random(77))
    balancer.set_shadow(shadow)
    return shadow


class To:
    """Always the same place in the view; or an exception."""

    name, term_names, needs_prefixes = "to", (), False

    def __init__(self, index: int = 0, problem: Exception | None = None) -> None:
        self.index, self.problem = index, problem
        self.asked = 0

    def choose(self, facts: Facts, view: View) -> Choice:
        self.asked += 1
        if self.problem is not None:
            raise self.problem
        return Choice(self.index, "told so")


def prompt(rng: Random) -> dict[str, Any]:
    """Facts of a prompt out of few beginnings, with its hashed blocks."""
    head = rng.randrange(8)
    blocks = [head * 100 + i for i in range(20)] + [rng.getrandbits(60) for _ in range(rng.randrange(30))]
    size = 256 * len(blocks)
    return {"prompt_bytes": size, "blocks": tuple(blocks), "block_ends": range(256, 100_000, 256), "span": size}


def script(policy: str, shadow: str | None, seed: int) -> tuple[Log, Balancer]:
    """A busy hour of one balancer; every real decision with its numbers."""
    rng = Random(seed)
    balancer = fleet(policy, "a", "b", "c", seed=seed)
    if shadow is not None:
        shadowed(balancer, shadow)
    now, running, log = 0.0, list[Lease](), Log()
    for _ in range(500):
        now += rng.expovariate(5)
        what = rng.random()
        if what < 0.5:
            facts = Facts(Kind.CHAT, "m", stream=True, session=f"s{rng.randrange(9)}", **prompt(rng))
            lease = place(balancer, facts, now)
            running.append(lease)
            log.append((lease.backend.id, lease.choice.reason, tuple(lease.choice.scores), tuple(lease.choice.terms)))
        elif what < 0.88 and running:
            lease = running.pop(rng.randrange(len(running)))
            balancer.first_token(lease, now)
            lease.produced += rng.randrange(50)
            cached = rng.choice([None, 0, 500])
            usage = Usage(lease.prompt_tokens or 1, 40, cached)
            balancer.finish(lease, rng.choice([OK, OK, OK, FAILED, CLIENT_GONE]), now, usage)
        elif what < 0.95:
            balancer.tick(now)
        else:
            id = rng.choice(list(balancer.backends))
            stats = EngineStats(
                waiting=float(rng.randrange(4)), running=9.0, prefix_queries=now * 1000, prefix_hits=now * 500
            )
            balancer.poll_result(id, balancer.poll_started(id), stats, now)
    return log, balancer


@pytest.mark.parametrize("shadow", ["expected_completion", "random", "prefix_hash", "session"])
@pytest.mark.parametrize("policy", POLICIES)
def test_the_same_seed_gives_the_same_decisions_with_and_without_a_shadow(policy: str, shadow: str) -> None:
    alone, _ = script(policy, None, 5)
    beside, balancer = script(policy, shadow, 5)
    assert alone == beside
    assert balancer.shadow is not None
    assert balancer.shadow.requests > 140 and not balancer.shadow.errors


def test_the_index_of_a_shadow_is_judged_by_what_engines_report() -> None:
    """The leases of a policy without prefixes count whole prompts, and still the predictions are held to account."""
    balancer = fleet("round_robin", "a", "b")
    shadowed(balancer, "expected_completion")
    facts = prompt(Random(1))
    for _ in range(30):
        lease = place(balancer, Facts(Kind.CHAT, "m", **facts))
        assert lease.cached == 0 and lease.prompt_left == lease.prompt_tokens
        balancer.finish(lease, OK, 1.0, Usage(lease.prompt_tokens, 5, 0))
    assert balancer.backends["a"].trust.drops > 0


# --- what it counts -------------------------------------------------------------------------------------------


def test_agreements_and_differences_are_counted_by_backend() -> None:
    balancer = fleet(To(0), "a", "b", "c")
    wish = To(0)
    shadow = shadowed(balancer, wish)
    for index in (0, 1, 1, 2):
        wish.index = index
        place(balancer)
    assert (shadow.requests, shadow.agreements, shadow.errors) == (4, 1, 0)
    assert shadow.differences == {"a": [3, 0], "b": [0, 2], "c": [0, 1]}
    assert repr(shadow) == "<Shadow to, 1 of 4 agreed, 0 errors>"


def test_both_choices_are_judged_by_the_predicted_time_to_the_first_token() -> None:
    balancer = fleet(To(0), "a", "b")
    shadow = shadowed(balancer, To(1))
    first = place(balancer, chat(4000))
    assert first.opinion is not None
    assert first.opinion.chosen_seconds == first.opinion.shadow_seconds > 0  # both are idle
    second = place(balancer, chat(4000))  # a queue at a, none at b
    assert second.opinion is not None
    assert second.opinion.chosen_seconds > 1.5 * second.opinion.shadow_seconds
    assert second.opinion.shadow_seconds == first.opinion.shadow_seconds
    assert shadow.chosen_seconds == first.opinion.chosen_seconds + second.opinion.chosen_seconds
    assert shadow.shadow_seconds == 2 * first.opinion.shadow_seconds
    assert (second.opinion.policy, second.opinion.wanted) == (shadow.policy, 1)


def test_what_a_backend_has_cached_counts_in_the_judgement() -> None:
    balancer = fleet(To(0), "a", "b")
    shadowed(balancer, To(1))
    facts = prompt(Random(2))
    balancer.finish(place(balancer, Facts(Kind.CHAT, "m", **facts)), OK, 1.0)
    opinion = place(balancer, Facts(Kind.CHAT, "m", **facts), 2.0).opinion
    assert opinion is not None
    assert opinion.chosen_seconds < 0.5 * opinion.shadow_seconds


def test_what_leaves_no_choice_or_costs_nothing_is_not_compared() -> None:
    wish = To(0)
    balancer = fleet("round_robin", "a")
    shadow = shadowed(balancer, wish)
    assert place(balancer).opinion is None
    join(balancer, "b")
    assert place(balancer, Facts()).opinion is None
    assert (shadow.requests, wish.asked) == (0, 0)
    assert place(balancer).opinion is not None
    assert (shadow.requests, wish.asked, shadow.since) == (1, 1, 0.0)


def test_a_backend_that_left_is_forgotten() -> None:
    balancer = fleet(To(0), "a", "b", "c")
    shadow = shadowed(balancer, To(2))
    place(balancer)
    balancer.remove("c")
    assert shadow.differences == {"a": [1, 0]}


# --- what goes wrong in it ------------------------------------------------------------------------------------


WISHES = {"raises": To(problem=KeyError("a secret")), "range": To(index=5), "deep": To(problem=RecursionError())}


@pytest.mark.parametrize("wish", WISHES.values(), ids=WISHES)
def test_a_shadow_that_fails_costs_no_request_and_is_turned_off_in_the_end(wish: To) -> None:
    balancer = fleet("round_robin", "a", "b")
    shadow = shadowed(balancer, wish)
    for number in range(MAX_ERRORS + 5):
        lease = place(balancer)
        assert (lease.backend.id, lease.opinion) == ("ab"[number % 2], None)
    assert (shadow.requests, shadow.errors, wish.asked, shadow.active) == (0, MAX_ERRORS, MAX_ERRORS, False)
    assert "Error in " in shadow.problem and ", line " in shadow.problem
    assert "secret" not in shadow.problem and "/" not in shadow.problem
    assert not balancer.uses_prefixes  # nobody wants them any more
    assert set(loads(balancer)) == {"a", "b"}


def test_an_error_now_and_then_is_only_counted() -> None:
    balancer = fleet("round_robin", "a", "b")
    wish = To()
    shadow = shadowed(balancer, wish)
    for problem in (None, ValueError(), None):
        wish.problem = problem
        place(balancer)
    assert (shadow.requests, shadow.errors, shadow.active) == (2, 1, True)


# --- switching ------------------------------------------------------------------------------------------------


def test_another_policy_decides_from_the_next_request_on_and_what_was_learned_stays() -> None:
    balancer = fleet("round_robin", "a", "b")
    serve(balancer)
    old = place(balancer)
    learned = balancer.backends["a"].prefill.observed
    balancer.set_policy(To(1))
    new = place(balancer)
    assert (old.policy and old.policy.name, new.policy and new.policy.name) == ("round_robin", "to")
    assert new.backend.id == "b"
    assert balancer.backends["a"].prefill.observed == learned > 0
    assert balancer.finish(old, OK, 1.0) and balancer.finish(new, OK, 1.0)
    assert all(load == tuple([0] * len(load)) for load in loads(balancer).values())


def test_prefixes_are_wanted_while_the_policy_or_a_shadow_wants_them() -> None:
    balancer = fleet("round_robin", "a", "b")
    wanted = [balancer.uses_prefixes]
    shadowed(balancer, "random")  # its judge wants them
    wanted.append(balancer.uses_prefixes)
    balancer.set_shadow(None)
    wanted.append(balancer.uses_prefixes)
    balancer.set_policy(make("prefix_cache"))
    wanted.append(balancer.uses_prefixes)
    assert wanted == [False, True, False, True]


def test_an_index_that_was_not_kept_starts_empty_again() -> None:
    balancer = fleet("prefix_cache", "a", "b")
    facts = prompt(Random(3))
    place(balancer, Facts(Kind.CHAT, "m", **facts))
    assert balancer.cache.index.blocks
    shadowed(balancer)
    balancer.set_policy(make("round_robin"))
    assert balancer.cache.index.blocks  # the shadow keeps it
    balancer.set_shadow(None)
    assert not balancer.cache.index.blocks
    balancer.set_policy(make("prefix_cache"))
    assert place(balancer, Facts(Kind.CHAT, "m", **facts)).cached == 0


def test_a_comparison_begins_anew_with_another_policy() -> None:
    balancer = fleet("round_robin", "a", "b")
    shadow = shadowed(balancer, To(problem=ValueError()))
    for _ in range(MAX_ERRORS):
        place(balancer)
    shadow.policy = To(1)
    balancer.set_policy(To(0))
    assert (shadow.requests, shadow.errors, shadow.problem, shadow.active) == (0, 0, "", True)
    place(balancer)
    assert (shadow.requests, shadow.differences) == (1, {"a": [1, 0], "b": [0, 1]})


def test_the_view_that_a_shadow_gets_is_its_own() -> None:
    """Even one that writes into it changes nothing."""

    class Vandal(To):
        def choose(self, facts: Facts, view: View) -> Choice:
            view.rng.random()
            view.backends.clear()
            view.cached, view.now = (), 0.0
            return Choice(0, "gone")

    rng = SimpleNamespace(random=lambda: pytest.fail("a draw from the balancer's numbers"), randrange=None)
    balancer = Balancer(make("round_robin"), cast(Any, rng))
    for id in ("a", "b"):
        join(balancer, id)
    shadow = shadowed(balancer, Vandal())
    assert [place(balancer).backend.id for _ in range(3)] == ["a", "b", "a"]
    assert shadow.requests == 3
