"""Each alert is raised for its reason and for no other, and ends when the reason has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random
from statistics import median
from typing import NamedTuple

import pytest
from alert_facts import Change, Fleet, Traffic, Watch
from core_fleet import fleet

from fairlead.core.alerts.facts import BackendFacts, FleetFacts, Together, paces
from fairlead.core.alerts.rules import DAY, AlertRules, ErrorRules, QueueRules, TtftRules
from fairlead.core.alerts.table import BY_NAME, CRITICAL, NAMES, RULES, WARNING

RULES_SET = AlertRules(ttft=TtftRules(target=2.0))


def both(**changed: object) -> Change:
    def change(fleet: Fleet) -> None:
        for id in ("a", "b"):
            fleet.set(id, **changed)

    return change


def one(**changed: object) -> Change:
    return lambda fleet: fleet.set("a", **changed)


def fleet_wide(**changed: object) -> Change:
    def change(fleet: Fleet) -> None:
        fleet.rest = replace(fleet.rest, **changed)  # type: ignore[arg-type]

    return change


def traffic(**changed: float) -> Change:
    """Of a; b goes on as before."""

    def change(fleet: Fleet) -> None:
        fleet.traffic["a"] = Traffic(**changed)  # type: ignore[arg-type]

    return change


def grows(fleet: Fleet) -> None:
    fleet.set("a", waiting=(fleet.rows["a"].waiting or 0.0) + 0.1)


def overflows(fleet: Fleet) -> None:
    fleet.rest = replace(fleet.rest, overflows=fleet.rest.overflows + 1)


class Case(NamedTuple):
    """Something goes wrong, and becomes well again."""

    wrong: Change
    well: Change
    backend: str
    raised_within: int  # seconds of it
    ended_within: int


CASES: dict[str, Case] = {
    "backend_share": Case(traffic(placed=9.0), traffic(), "a", 60, 70),
    "token_share": Case(traffic(tokens=9000), traffic(), "a", 300, 400),
    "no_backend": Case(both(up=False), both(up=True), "", 31, 10),
    "backend_down": Case(one(up=False), one(up=True), "a", 121, 10),
    "panic": Case(fleet_wide(panics=("m",)), fleet_wide(panics=()), "", 61, 60),
    "errors": Case(traffic(failed=0.2), traffic(), "a", 250, 320),
    "retry_budget": Case(overflows, fleet_wide(), "", 5, 130),
    "ttft": Case(traffic(ttft=3.0), traffic(), "", 200, 380),
    "queue_growing": Case(grows, one(waiting=0.0), "a", 800, 121),
    "slow_backend": Case(one(pace=3.5), one(pace=1.0), "a", 301, 120),
    "metrics_stale": Case(one(metrics_age=31.0), one(metrics_age=1.0), "a", 61, 60),
    "prefix_distrusted": Case(one(distrusted=True), one(distrusted=False), "a", 301, 60),
    "certificate": Case(
        fleet_wide(certificates=(("listen [::]:443", 13 * DAY),)),
        fleet_wide(certificates=(("listen [::]:443", 90 * DAY),)), "", 1, 60,
    ),
    "reload_refused": Case(fleet_wide(refused="the file has 1 problem"), fleet_wide(refused=""), "", 61, 1),
}  # fmt: skip


def test_every_alert_has_its_case() -> None:
    assert set(CASES) == set(NAMES)
    assert len({rule.title for rule in RULES}) == len(RULES) == len(BY_NAME)
    assert {rule.severity for rule in RULES} == {WARNING, CRITICAL}


@pytest.mark.parametrize("name", NAMES)
def test_it_is_raised_for_its_reason_alone_and_ends_with_it(name: str) -> None:
    case, watch = CASES[name], Watch("a", "b", rules=RULES_SET)
    watch.run(700)
    assert watch.standing == set()
    watch.run(case.raised_within, case.wrong)
    assert watch.standing == {(name, case.backend)}
    (alert,) = watch.raised
    assert (alert.severity, alert.until) == (BY_NAME[name].severity, None)
    assert alert.since >= 700 + BY_NAME[name].hold
    assert alert.backend in alert.message and len(alert.message) > 60
    watch.run(50, case.wrong)
    assert len(watch.raised) == 1, "it is told once while it stands"
    watch.run(case.ended_within + 1, case.well)
    assert watch.standing == set()
    assert [(over.name, over.since) for over in watch.ended] == [(name, alert.since)]
    assert watch.ended[0].until == list(watch.alerts.ended)[-1].until is not None
    watch.run(700, case.well)
    assert len(watch.raised) == 1


@pytest.mark.parametrize("name", [rule.name for rule in RULES if rule.hold])
def test_what_is_over_before_its_time_is_no_news(name: str) -> None:
    case, watch = CASES[name], Watch("a", "b", rules=RULES_SET)
    watch.run(700)
    for _ in range(3):
        watch.run(int(BY_NAME[name].hold) - 1, case.wrong if name not in ("errors", "ttft", "queue_growing") else None)
        watch.run(700, case.well)
    assert watch.raised == []


@pytest.mark.parametrize("name", NAMES)
def test_it_can_be_turned_off_and_goes_at_once(name: str) -> None:
    case, watch = CASES[name], Watch("a", "b", rules=RULES_SET)
    watch.run(700)
    watch.run(case.raised_within, case.wrong)
    watch.alerts.rules = replace(RULES_SET, off=frozenset({name}))
    watch.run(1, case.wrong)
    assert [alert.name for alert in watch.ended] == [name]
    watch.run(400, case.wrong)
    assert name not in {name for name, _ in watch.standing}


def test_an_alert_goes_with_its_backend() -> None:
    watch = Watch("a", "b", "c")
    watch.run(200, one(up=False))
    assert watch.standing == {("backend_down", "a")}
    del watch.fleet.rows["a"], watch.fleet.traffic["a"]
    watch.run(1)
    assert watch.standing == set()
    assert [alert.backend for alert in watch.ended] == ["a"]


# --- what it must be silent about ----------------------------------------------------------------------------


def silent(change: Change, rules: AlertRules = RULES_SET, ids: tuple[str, ...] = ("a", "b")) -> Watch:
    watch = Watch(*ids, rules=rules)
    watch.run(1500, change)
    assert watch.raised == []
    return watch


def weights(a: float | None, b: float | None, **of_a: float) -> Change:
    def change(fleet: Fleet) -> None:
        fleet.set("a", weight=a)
        fleet.set("b", weight=b)
        fleet.traffic["a"] = Traffic(**of_a)  # type: ignore[arg-type]

    return change


def idle(**changed: object) -> Change:
    def change(fleet: Fleet) -> None:
        fleet.traffic["a"] = Traffic(placed=0.0)
        fleet.set("a", **changed)

    return change


SILENT: dict[str, Change] = {
    "weights explain a share of requests": weights(9.0, None, placed=9.0),
    "weights explain a share of tokens": weights(9.0, 1.0, placed=9.0),
    "a disabled backend": one(wanted=False, up=False),
    "one try in twenty that fails": traffic(placed=0.5, failed=0.05),
    "a queue that is long and does not grow": one(waiting=200.0),
    "old metrics of an engine without requests": idle(metrics_age=9000.0),
    "a slow pace that was learned long ago": idle(pace=9.0),
    "a distrusted view of a backend that draining has emptied": one(distrusted=True, up=False, wanted=False),
    "no metrics, no peers": both(metrics_age=None, waiting=None, pace=None),
    "a certificate that lasts": fleet_wide(certificates=(("listen :443", 15 * DAY), ("TLS with backend a", 99 * DAY))),
}  # fmt: skip


@pytest.mark.parametrize("why", SILENT)
def test_silent(why: str) -> None:
    change = SILENT[why]
    if "without requests" in why or "long ago" in why:  # then b has nearly all, as it should
        silent(change, replace(RULES_SET, off=frozenset({"backend_share", "token_share"})))
    else:
        silent(change)


def test_a_lone_backend_takes_everything() -> None:
    silent(lambda fleet: None, ids=("a",))


def test_nothing_is_said_of_a_fleet_that_is_not_there_yet() -> None:
    watch = Watch()
    watch.run(100)
    assert watch.raised == []


def test_the_fleet_being_down_is_one_alert_and_not_one_for_each() -> None:
    watch = Watch("a", "b", "c", "d")

    def all_down(fleet: Fleet) -> None:
        for id in fleet.rows:
            fleet.set(id, up=False)
            fleet.traffic[id] = Traffic(placed=0.0)
        fleet.rest = replace(fleet.rest, panics=("m",))

    watch.run(600, all_down)
    assert [alert.name for alert in watch.raised] == ["no_backend"]


# --- numbers of the configuration ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rules", "change", "name"),
    [
        (AlertRules(slow=5.0), one(pace=4.0), "slow_backend"),
        (AlertRules(stale=60.0), one(metrics_age=31.0), "metrics_stale"),
        (AlertRules(certificate=DAY), fleet_wide(certificates=(("x", 2 * DAY),)), "certificate"),
        (AlertRules(queue=QueueRules(waiting=100)), one(waiting=50.0), "queue_growing"),
        (AlertRules(), traffic(ttft=60.0), "ttft"),
    ],
)
def test_limits_are_those_that_were_set(rules: AlertRules, change: Change, name: str) -> None:
    watch = Watch("a", "b", rules=rules)
    watch.run(700, change)
    assert name not in {name for name, _ in watch.standing}


def test_a_few_failures_or_retries_that_were_not_given_are_no_alert() -> None:
    watch = Watch("a", "b", rules=AlertRules(errors=ErrorRules(min_errors=1000)))
    watch.run(4, overflows)
    watch.run(600, traffic(failed=0.5))
    assert watch.raised == []


def test_first_tokens_in_the_targets_own_bucket_count_by_halves() -> None:
    watch = Watch("a", rules=AlertRules(ttft=TtftRules(target=3.0)))
    watch.run(400, traffic(ttft=3.9))  # somewhere between 2 and 4 s, as far as the buckets tell
    (alert,) = watch.raised
    assert alert.value == pytest.approx(0.5)


def test_what_was_counted_before_the_first_look_has_just_happened() -> None:
    watch = Watch("a", "b")
    watch.fleet.traffic["a"] = Traffic(placed=30.0)
    watch.run(1)
    assert watch.standing == {("backend_share", "a")}


def test_a_window_that_is_new_begins_when_it_is_set() -> None:
    watch = Watch("a", "b")
    watch.run(300, traffic(failed=0.5))
    watch.run(1000, traffic())
    assert watch.standing == set()
    watch.alerts.rules = AlertRules(errors=ErrorRules(window=1500.0))
    watch.run(100, traffic())
    assert watch.standing == set()


def test_a_reason_that_is_gone_for_a_moment_now_and_then_is_not_gone() -> None:
    watch = Watch("a", "b")
    watch.run(301, one(pace=9.0))
    for _ in range(5):
        watch.run(119, one(pace=1.0))
        watch.run(1, one(pace=9.0))
    assert (len(watch.raised), len(watch.ended)) == (1, 0)


def test_near_the_limit_nothing_flaps() -> None:
    watch = Watch("a", "b")
    watch.run(400, one(pace=3.2))
    for _ in range(5):
        watch.run(150, one(pace=2.5))
        watch.run(30, one(pace=3.2))
    assert (len(watch.raised), len(watch.ended)) == (1, 0)
    watch.run(121, one(pace=2.2))
    assert len(watch.ended) == 1


def test_the_value_of_a_standing_alert_is_that_of_now() -> None:
    watch = Watch("a", "b")
    watch.run(400, one(pace=3.2))
    watch.run(1, one(pace=7.0))
    (alert,) = watch.alerts.active.values()
    assert alert.value == 7.0 and "7.0 times" in alert.message


def test_only_the_last_hundred_that_ended_are_kept() -> None:
    watch = Watch("a", "b")
    for _ in range(120):
        watch.run(61, fleet_wide(refused="x"))
        watch.run(1, fleet_wide(refused=""))
    assert (len(watch.raised), len(watch.alerts.ended)) == (120, 100)


# --- against its peers ---------------------------------------------------------------------------------------


def test_a_pace_is_that_of_a_backend_beside_the_others_of_its_models() -> None:
    balancer = fleet("round_robin", *"abcd")
    for id, slowdown in zip("abcd", (1.0, 2.0, 6.0, 0.5), strict=True):
        balancer.backends[id].slowdown = slowdown
    backends = balancer.backends.values()
    assert paces(backends) == {"a": 1 / 2.0, "b": 2 / 1.0, "c": 6 / 1.0, "d": 0.5 / 2.0}
    balancer.set_models("c", frozenset({"other"}))
    assert paces(backends) == {"a": 1 / 1.25, "b": 2 / 0.75, "c": None, "d": 0.5 / 1.5}
    for _ in range(3):
        balancer.probe("b", False)
    assert paces(backends) == {"a": 1 / 0.5, "b": 2 / 0.75, "c": None, "d": 0.5 / 1.0}


@pytest.mark.parametrize("seed", range(20))
def test_a_pace_is_the_quotient_by_the_median_of_the_others(seed: int) -> None:
    random = Random(seed)
    ids = [f"b{n}" for n in range(random.randrange(2, 9))]
    balancer = fleet("round_robin", *ids)
    for b in balancer.backends.values():
        b.slowdown = random.choice([1.0, 1.0, 2.0, random.uniform(0.5, 4.0)])
    found = paces(balancer.backends.values())
    for id, pace in found.items():
        others = [b.slowdown for b in balancer.backends.values() if b.id != id]
        assert pace == pytest.approx(balancer.backends[id].slowdown / median(others))


def test_weights_are_taken_out_of_a_pace() -> None:
    balancer = fleet("round_robin", "a", "b", weights={"a": 4.0, "b": 1.0})
    balancer.backends["b"].slowdown = 4.0
    assert paces(balancer.backends.values()) == {"a": 1.0, "b": 1.0}


# --- several processes ---------------------------------------------------------------------------------------


def told(**placed: int) -> FleetFacts:
    return FleetFacts(tuple(BackendFacts(id, counts=(n, n, n, 0, 10 * n, n)) for id, n in placed.items()), bounds=())


def counts(facts: FleetFacts) -> dict[str, int]:
    return {b.id: b.counts[0] for b in facts.backends}


def test_counters_of_several_workers_are_summed_and_outlive_them() -> None:
    together = Together()
    assert counts(together.merge({1: told(a=5, b=1), 2: told(a=2)}, {"a", "b"})) == {"a": 7, "b": 1}
    together.died(1)
    assert counts(together.merge({2: told(a=3)}, {"a", "b"})) == {"a": 8}
    assert counts(together.merge({1: told(a=1, b=1), 2: told(a=3)}, {"a", "b"})) == {"a": 9, "b": 2}


def test_a_backend_that_was_replaced_begins_anew_without_going_backwards() -> None:
    together = Together()
    together.merge({1: told(a=50)}, {"a"})
    assert counts(together.merge({1: told(a=2)}, {"a"})) == {"a": 52}
    together.merge({1: told(b=1)}, {"b"})
    assert counts(together.merge({1: told(a=2, b=1)}, {"a", "b"})) == {"a": 2, "b": 1}, "it had left"


def test_a_worker_that_gives_no_answer_for_once_takes_nothing_away() -> None:
    together = Together()
    together.merge({1: told(a=5), 2: told(a=5)}, {"a"})
    assert counts(together.merge({2: told(a=6)}, {"a"})) == {"a": 11}
    assert counts(together.merge({1: told(a=9), 2: told(a=6)}, {"a"})) == {"a": 15}


WORST: list[tuple[str, object, object, Callable[[BackendFacts], object], object]] = [
    ("up", True, False, lambda b: b.up, True),
    ("ejected", True, False, lambda b: b.ejected, True),
    ("waiting", 4.0, None, lambda b: b.waiting, 4.0),
    ("waiting", 4.0, 2.0, lambda b: b.waiting, 3.0),
    ("metrics_age", 4.0, 90.0, lambda b: b.metrics_age, 90.0),
    ("distrusted", False, True, lambda b: b.distrusted, True),
]


@pytest.mark.parametrize(("name", "first", "second", "of", "expected"), WORST)
def test_what_several_see_of_one_thing(
    name: str, first: object, second: object, of: Callable[[BackendFacts], object], expected: object
) -> None:
    rows = [FleetFacts((replace(BackendFacts("a"), **{name: value}),)) for value in (first, second)]  # type: ignore[arg-type]
    (merged,) = Together().merge(dict(enumerate(rows)), {"a"}).backends
    assert of(merged) == expected


def test_the_rest_of_several_workers() -> None:
    together = Together()
    first = FleetFacts(panics=("m",), overflows=3, certificates=(("x", 9.0),), bounds=(1.0,))
    second = FleetFacts(panics=("k", "m"), overflows=4, certificates=(("x", 8.0), ("y", 1.0)), bounds=(1.0,))
    merged = together.merge({1: first, 2: second}, set())
    assert merged == FleetFacts((), ("k", "m"), 7, (("x", 8.0), ("y", 1.0)), "", (1.0,))
    together.died(2)
    assert together.merge({1: first, 2: FleetFacts(overflows=1)}, set()).overflows == 8
