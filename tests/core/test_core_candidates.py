"""Who can take a request: backups, backends marked as down, and routes. nginx is the model of the first two."""

from __future__ import annotations

import random
from typing import Any

import pytest

from fairlead.core.balancer import FAILED, OK, Balancer
from fairlead.core.cluster.ledger import Lease
from fairlead.core.model import Facts, Kind, Refusal
from fairlead.core.policies.registry import make
from fairlead.core.retry import CONNECT


def balancer(**backends: dict[str, Any]) -> Balancer:
    made = Balancer(make("round_robin"), random.Random(1), max_fails=1, fail_timeout=10.0)
    for id, options in backends.items():
        made.add(id, **{"models": frozenset({"m"}), **options})
        made.probe(id, True)
    return made


def facts(group: frozenset[str] | None = None, model: str | None = "m") -> Facts:
    return Facts(Kind.CHAT, model, True, 400, group=group)


def places(made: Balancer, count: int, now: float = 0.0, **asked: Any) -> dict[str, int]:
    """How many of `count` requests that end at once each backend gets."""
    found: dict[str, int] = {}
    for _ in range(count):
        lease = made.assign(facts(**asked), now)
        assert isinstance(lease, Lease), lease
        made.finish(lease, OK, now)
        found[lease.backend.id] = found.get(lease.backend.id, 0) + 1
    return found


BACKUP = {"backup": True}


def test_a_backup_gets_nothing_while_another_backend_is_up() -> None:
    made = balancer(a={}, b={}, spare=BACKUP)
    assert places(made, 10) == {"a": 5, "b": 5}


def test_a_backup_steps_in_when_the_others_are_down_and_leaves_when_one_is_back() -> None:
    made = balancer(a={}, b={}, spare=BACKUP)
    for id in ("a", "b"):
        for _ in range(3):
            made.probe(id, False)
    assert places(made, 4) == {"spare": 4}
    for _ in range(2):
        made.probe("a", True)
    assert places(made, 4) == {"a": 4}


def test_a_backup_steps_in_while_the_others_rest_after_failures() -> None:
    made = balancer(a={}, spare=BACKUP)
    lease = made.assign(facts(), 0.0)
    assert isinstance(lease, Lease)
    made.finish(lease, FAILED, 0.0, reason=CONNECT)
    assert places(made, 3, now=1.0) == {"spare": 3}
    assert places(made, 3, now=11.0) == {"a": 3}, "its rest is over"


def test_when_backups_rest_as_well_one_that_is_up_is_tried() -> None:
    made = balancer(a={}, spare=BACKUP)
    for _ in range(2):
        lease = made.assign(facts(), 0.0)
        assert isinstance(lease, Lease)
        made.finish(lease, FAILED, 0.0, reason=CONNECT)
    assert sum(places(made, 4, now=1.0).values()) == 4


def test_a_retry_goes_to_a_backup_when_every_other_was_tried() -> None:
    made = balancer(a={}, spare=BACKUP)
    lease = made.assign(facts(), 0.0)
    assert isinstance(lease, Lease)
    assert made.may_retry(lease, CONNECT, 1, 0.0, 0.0)
    again = made.assign(facts(), 0.0, ("a",))
    assert isinstance(again, Lease)
    assert again.backend.id == "spare"


def test_a_backup_takes_what_is_over_the_connection_limits_of_the_others() -> None:
    made = balancer(a={"max_connections": 1}, spare={"backup": True, "max_connections": 1})
    leases = [made.assign(facts(), 0.0) for _ in range(3)]
    assert [lease.backend.id for lease in leases if isinstance(lease, Lease)] == ["a", "spare"]
    assert isinstance(leases[2], Refusal)
    assert leases[2].code == "at_capacity"


def test_a_backup_of_another_model_is_no_help() -> None:
    made = balancer(a={}, spare={"backup": True, "models": frozenset({"other"})})
    for _ in range(3):
        made.probe("a", False)
    refusal = made.assign(facts(), 0.0)
    assert isinstance(refusal, Refusal)
    assert refusal.status == 503


def test_a_backend_marked_as_down_gets_nothing_until_it_is_enabled() -> None:
    made = balancer(a={}, b={"enabled": False})
    assert places(made, 4) == {"a": 4}
    made.set_enabled("b", True)
    assert places(made, 4) == {"a": 2, "b": 2}
    made.set_enabled("a", False)
    assert places(made, 4) == {"b": 4}
    made.set_enabled("b", False)
    refusal = made.assign(facts(), 0.0)
    assert isinstance(refusal, Refusal)
    assert (refusal.status, refusal.code) == (503, "no_backend")
    assert not made.can_serve(0.0)


def test_a_request_goes_only_where_its_route_leads() -> None:
    made = balancer(a={}, b={}, c={})
    assert places(made, 4, group=frozenset({"a", "b"})) == {"a": 2, "b": 2}
    assert places(made, 3, group=frozenset({"c"})) == {"c": 3}
    assert places(made, 3) == {"a": 1, "b": 1, "c": 1}, "no route: all"


def test_a_route_whose_backends_are_down_is_refused_though_others_are_up() -> None:
    made = balancer(a={}, b={})
    for _ in range(3):
        made.probe("a", False)
    refusal = made.assign(facts(group=frozenset({"a"})), 0.0)
    assert isinstance(refusal, Refusal)
    assert (refusal.status, refusal.retry_after) == (503, 1)


def test_the_models_of_a_route_are_those_of_its_backends() -> None:
    made = balancer(a={"models": frozenset({"m"})}, b={"models": frozenset({"x", "y"})})
    asked = facts(group=frozenset({"a"}), model=None)
    lease = made.assign(asked, 0.0)
    assert isinstance(lease, Lease)
    assert asked.model == "m", "one model is all there is on this route"
    refusal = made.assign(facts(group=frozenset({"b"}), model="m"), 0.0)
    assert isinstance(refusal, Refusal)
    assert (refusal.status, refusal.code) == (404, "model_not_found")
    assert "'x', 'y'" in refusal.message
    several = made.assign(facts(group=frozenset({"b"}), model=None), 0.0)
    assert isinstance(several, Refusal)
    assert several.code == "model_required"


@pytest.mark.parametrize("group", [None, frozenset({"a", "spare"})])
def test_a_retry_stays_on_its_route(group: frozenset[str] | None) -> None:
    made = balancer(a={}, spare=BACKUP, other={})
    lease = made.assign(facts(group=group), 0.0)
    assert isinstance(lease, Lease)
    tried: tuple[str, ...] = ()
    seen = []
    for _ in range(3):
        lease = made.assign(facts(group=group), 0.0, tried)
        assert isinstance(lease, Lease)
        seen.append(lease.backend.id)
        tried += (lease.backend.id,)
    if group is not None:
        assert seen[:2] == ["a", "spare"]
        assert "other" not in seen
    else:
        assert sorted(seen) == ["a", "other", "spare"]
