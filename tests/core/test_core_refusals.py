"""How a request that cannot be placed is refused: whose fault, what to do."""

from __future__ import annotations

from core_fleet import chat, fleet, join, place, refuse, spread

from fairlead.core.balancer import OK
from fairlead.core.model import ANY_MODEL


def test_an_unknown_model_is_404_and_the_served_ones_are_named() -> None:
    balancer = fleet("round_robin", "a", models=frozenset({"llama", "qwen"}))
    refusal = refuse(balancer, chat(model="lama"))
    assert (refusal.status, refusal.code, refusal.param) == (404, "model_not_found", "model")
    assert all(word in refusal.message for word in ("'lama'", "'llama'", "'qwen'"))
    assert refusal.retry_after is None


def test_names_in_messages_are_bounded() -> None:
    balancer = fleet("round_robin", "a", models=frozenset(f"model-{i:03}" for i in range(500)))
    assert len(refuse(balancer, chat(model="x" * 10_000)).message) < 1000


def test_several_models_and_none_named_is_400() -> None:
    balancer = fleet("round_robin", "a", models=frozenset({"llama", "qwen"}))
    refusal = refuse(balancer, chat(model=None))
    assert (refusal.status, refusal.code, refusal.param) == (400, "model_required", "model")
    assert "'llama'" in refusal.message
    assert place(balancer, chat(model=None, needs_model=False)).backend.id == "a"


def test_a_single_model_is_meant_when_none_is_named() -> None:
    balancer = fleet("round_robin", "a", models=frozenset({"llama"}))
    assert place(balancer, chat(model=None)).facts.model == "llama"


def test_nothing_up_is_503_with_a_time_to_come_back() -> None:
    balancer = fleet("round_robin", "a")
    for _ in range(3):
        balancer.probe("a", False, "connection refused")
    refusal = refuse(balancer)
    assert (refusal.status, refusal.code) == (503, "no_backend")
    assert refusal.retry_after
    assert "refused" not in refusal.message.lower(), "no word about the inside"


def test_a_model_whose_backends_are_down_is_503_not_404() -> None:
    balancer = fleet("round_robin", "a")
    join(balancer, "b", frozenset({"other"}))
    balancer.set_draining("b", True)
    assert refuse(balancer, chat(model="other")).status == 503


def test_while_a_backend_was_never_seen_an_unknown_model_may_be_its() -> None:
    balancer = fleet("round_robin", "a")
    balancer.add("new")
    refusal = refuse(balancer, chat(model="other"))
    assert (refusal.status, refusal.code) == (503, "no_backend")
    assert "'m'" in refusal.message


def test_an_empty_fleet_is_503() -> None:
    refusal = refuse(fleet("round_robin"))
    assert (refusal.status, refusal.code) == (503, "no_backend")


def test_at_capacity_is_503_until_one_ends() -> None:
    balancer = fleet("round_robin", "a", "b", limits={"a": 2, "b": 1})
    leases = [place(balancer) for _ in range(3)]
    refusal = refuse(balancer)
    assert (refusal.status, refusal.code) == (503, "at_capacity")
    assert refusal.retry_after
    balancer.finish(leases[0], OK, 1.0)
    assert place(balancer).backend is leases[0].backend


def test_a_limit_does_not_bind_backends_without_one() -> None:
    balancer = fleet("round_robin", "a", "b", limits={"a": 1})
    assert spread(place(balancer) for _ in range(20)) == {"a": 1, "b": 19}


def test_requests_go_only_where_their_model_is_served() -> None:
    balancer = fleet("least_connections")
    join(balancer, "llama", frozenset({"llama"}))
    join(balancer, "both", frozenset({"llama", "qwen"}))
    join(balancer, "any", ANY_MODEL)
    assert set(spread(place(balancer, chat(model="qwen")) for _ in range(9))) == {"both", "any"}
    assert set(spread(place(balancer, chat(model="llama")) for _ in range(9))) == {"llama", "both", "any"}
    assert set(spread(place(balancer, chat(model="made-up")) for _ in range(9))) == {"any"}
    assert balancer.models == {"llama", "qwen"}


def test_models_may_change() -> None:
    balancer = fleet("round_robin", "a")
    balancer.set_models("a", frozenset({"other"}))
    assert refuse(balancer).status == 404
    assert place(balancer, chat(model="other")).backend.id == "a"
