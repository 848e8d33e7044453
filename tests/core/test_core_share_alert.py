"""The share alert: raised when one backend gets nearly everything for no good reason, and only then."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from core_fleet import chat, fleet, join, place, serve

from fairlead.core.alerts.engine import Alert, Alerts
from fairlead.core.alerts.facts import FleetFacts, facts_of
from fairlead.core.alerts.rules import AlertRules, ShareRules
from fairlead.core.alerts.table import NAMES
from fairlead.core.balancer import ABANDONED, FAILED, Balancer
from fairlead.core.view import Choice, View


def share_alert(rules: ShareRules | None = None) -> Alerts:
    """Nothing but this alert."""
    return Alerts(AlertRules(share=rules or ShareRules(), off=frozenset(NAMES) - {"backend_share"}))


def facts(balancer: Balancer, now: float) -> FleetFacts:
    backends = list(balancer.backends.values())
    return FleetFacts(tuple(facts_of(b, None, now) for b in backends))


class To:
    """Sends every request to the wanted backend, where it is a candidate."""

    name = "to"
    term_names = ()
    needs_prefixes = False

    def __init__(self) -> None:
        self.wanted: Callable[[int], str] = lambda number: "a"
        self.number = 0

    def choose(self, facts: object, view: View) -> Choice:
        self.number += 1
        wanted = self.wanted(self.number)
        ids = [b.id for b in view.backends]
        return Choice(ids.index(wanted) if wanted in ids else 0, "told so", [0.0] * len(ids), [()] * len(ids))


class Scene:
    """A fleet, its alert, and a clock: `run` sends requests, one a tenth of a second, and looks once a second."""

    def __init__(self, *ids: str, rules: ShareRules | None = None, weights: dict[str, float] | None = None) -> None:
        self.policy = To()
        self.balancer: Balancer = fleet(self.policy, *ids, weights=weights)
        self.alert = share_alert(rules)
        self.now = 0.0
        self.raised: list[Alert] = []
        self.cleared: list[Alert] = []
        self.look()

    def look(self) -> None:
        raised, cleared = self.alert.observe(facts(self.balancer, self.now), self.now)
        shares = self.alert.shares.values()
        assert all(0.0 <= share <= 1.0 for share in shares), self.alert.shares
        assert sum(shares) == pytest.approx(1.0) or not any(shares)
        self.raised += raised
        self.cleared += cleared

    @property
    def standing(self) -> list[str]:
        return [backend for _, backend in self.alert.active]

    def run(self, seconds: int, part: float = 1.0, per_second: int = 10) -> None:
        """`part` of the requests to a, the others to b."""
        self.policy.wanted = lambda number: "a" if number * 61 % 100 < part * 100 else "b"
        for _ in range(seconds):
            for _ in range(per_second):
                self.now += 1.0 / per_second
                self.balancer.finish(place(self.balancer, now=self.now), ABANDONED, self.now)
            self.now = round(self.now)
            self.look()


def test_raised_when_one_gets_nearly_all_and_another_could_take_some() -> None:
    scene = Scene("a", "b")
    scene.run(60)
    assert [alert.backend for alert in scene.raised] == ["a"]
    (alert,) = scene.raised
    assert alert.name == "backend_share"
    assert alert.value > 0.8
    assert "a" in alert.message
    assert scene.standing == ["a"]


@pytest.mark.parametrize(("part", "expected"), [(0.5, 0), (0.78, 0), (0.85, 1)])
def test_the_threshold(part: float, expected: int) -> None:
    scene = Scene("a", "b")
    scene.run(120, part)
    assert len(scene.standing) == expected


def test_it_is_raised_once_while_it_stands_and_cleared_once() -> None:
    scene = Scene("a", "b")
    scene.run(300)
    scene.run(120, 0.5)
    scene.run(60, 0.5)
    assert (len(scene.raised), len(scene.cleared)) == (1, 1)
    assert not scene.standing


def test_it_does_not_flap_just_under_the_threshold() -> None:
    scene = Scene("a", "b")
    scene.run(120, 0.9)
    scene.run(120, 0.78)
    assert scene.standing == ["a"]
    scene.run(120, 0.70)
    assert not scene.standing
    scene.run(120, 0.78)
    assert not scene.standing


@pytest.mark.parametrize("why", ["only one", "down", "draining", "ejected", "other model"])
def test_not_for_a_lone_healthy_backend(why: str) -> None:
    scene = Scene("a") if why in ("only one", "other model") else Scene("a", "b")
    if why == "down":
        for _ in range(3):
            scene.balancer.probe("b", False)
    elif why == "draining":
        scene.balancer.set_draining("b", True)
    elif why == "ejected":
        for _ in range(3):
            lease = place(scene.balancer, tried=["a"])
            scene.balancer.finish(lease, FAILED, 1e6)  # rests beyond the end of this test
    elif why == "other model":
        join(scene.balancer, "b", frozenset({"other"}))
    scene.now = 1e6 if why == "ejected" else 0.0
    scene.run(25)
    assert not scene.raised


def test_not_when_the_others_were_at_their_connection_limit() -> None:
    scene = Scene("a")
    join(scene.balancer, "b", max_connections=1)
    place(scene.balancer, tried=["a"])  # a long one: b is full from now on
    scene.look()
    scene.run(60)
    assert not scene.raised, "no other backend could have taken any of these"


def test_cleared_when_the_other_one_goes_down() -> None:
    scene = Scene("a", "b")
    scene.run(60)
    for _ in range(3):
        scene.balancer.probe("b", False)
    scene.look()
    assert [alert.backend for alert in scene.cleared] == ["a"]


def test_weights_that_somebody_set_explain_a_share() -> None:
    scene = Scene("a", "b", weights={"a": 9.0, "b": 1.0})
    scene.run(120, 0.9)
    assert not scene.raised
    wrong = Scene("a", "b", weights={"a": 1.0, "b": 9.0})
    wrong.run(120, 0.9)
    assert [alert.backend for alert in wrong.raised] == ["a"]


def test_few_requests_say_nothing() -> None:
    scene = Scene("a", "b", rules=ShareRules(min_requests=20))
    scene.run(19, per_second=1)
    assert not scene.raised
    scene.run(3, per_second=1)
    assert scene.raised


def test_cleared_when_traffic_ends() -> None:
    scene = Scene("a", "b")
    scene.run(60)
    scene.run(130, per_second=0)
    scene.now += 130
    for _ in range(20):
        scene.now += 10
        scene.look()
    assert not scene.standing
    assert scene.alert.shares == {"a": 0.0, "b": 0.0}


def test_an_alert_goes_with_its_backend() -> None:
    scene = Scene("a", "b", "c")
    scene.run(60)
    scene.balancer.remove("a")
    scene.look()
    assert [alert.backend for alert in scene.cleared] == ["a"]
    assert not scene.standing
    assert set(scene.alert.shares) == {"b", "c"}


def test_a_backend_that_comes_back_under_its_name_starts_anew() -> None:
    scene = Scene("a", "b")
    scene.run(60, 0.5)
    scene.balancer.remove("a")
    join(scene.balancer, "a")
    scene.look()
    scene.run(30, 0.5)
    assert not scene.raised
    scene.run(120)
    assert [alert.backend for alert in scene.raised] == ["a"]


def test_shares_add_up_and_slide() -> None:
    scene = Scene("a", "b")
    scene.run(100, 1.0)
    scene.run(100, 0.25)
    assert scene.alert.shares["a"] == pytest.approx(0.25, abs=0.05)
    assert sum(scene.alert.shares.values()) == pytest.approx(1.0)


@pytest.mark.parametrize("policy", ["least_pending_tokens", "least_connections", "least_waiting", "round_robin"])
def test_a_policy_at_work_raises_nothing_on_equal_backends(policy: str) -> None:
    balancer, alert = fleet(policy, "a", "b"), share_alert()
    raised = []
    for second in range(300):
        balancer.tick(float(second))
        raised += alert.observe(facts(balancer, float(second)), float(second))[0]
        serve(balancer, chat(200 + second * 37 % 3000), float(second), seconds=0.8 + second % 7 / 50)
    assert not raised
