"""The simulator's host: every request ends exactly once, whatever happens to the machines, and the books are even."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairlead.core.cluster.backend import Backend
from fairlead.core.cluster.ledger import Lease
from fairlead.core.policies.registry import POLICIES, make
from fairlead.sim.fleet import FAULTS, Fault, parse_fault, parse_fleet
from fairlead.sim.host import HURRY, PROBE, Settings, Simulation
from fairlead.sim.machine import Machine
from fairlead.sim.trace import FAILED, NO_REQUEST, OK, REFUSED, UNFINISHED, Outcome, Request, Trace
from fairlead.sim.workload import generate, parse_workload

LOADS = ("inflight", "prompt_pending", "output_pending", "prefill_work", "decoding", "kv_tokens")
FLEET = "h100-8b:2,l4-8b:1"


def one_by_one(count: int, every: float = 0.2, prompt: int = 2_000, output: int = 50) -> Trace:
    return Trace("made", [Request(i * every, prompt, output) for i in range(count)])


class Watched(Simulation):
    """Remembers every backend that the balancer ever had, where requests went, and every end that was announced."""

    def __init__(self, *arguments: Any, **more: Any) -> None:
        self.ever: list[Backend] = []
        self.ends: list[int] = []
        self.places: dict[int, list[str]] = {}  # where each request went
        self.down_at: list[float] = []
        super().__init__(*arguments, **more)

    def _join(self, backend: Machine) -> None:
        super()._join(backend)
        self.ever.append(self.balancer.backends[backend.name])

    def _submit(self, outcome: Outcome, lease: Lease, backend: Machine, tried: tuple[str, ...]) -> None:
        self.places.setdefault(outcome.request, []).append(backend.name)
        super()._submit(outcome, lease, backend, tried)

    def _probe(self, backend: Machine) -> None:
        known = self.balancer.backends.get(backend.name)
        was_up = known is not None and known.up
        super()._probe(backend)
        if known is not None and was_up and not known.up:
            self.down_at.append(self.now)

    def _end(self, outcome: Outcome, status: str) -> None:
        self.ends.append(outcome.request)
        super()._end(outcome, status)


def run(trace: Trace, *faults: str, fleet: str = FLEET, policy: str = "least_connections", **more: Any) -> Watched:
    plan = parse_fleet(fleet).with_faults(tuple(map(parse_fault, faults)))
    sim = Watched(trace, plan, make(policy), settings=Settings(**more))
    sim.run()
    return sim


def assert_even(sim: Watched) -> None:
    """Nothing is lost, nothing is counted twice, time goes forward, and no load is left on any backend, gone or not."""
    outcomes = sim.result.outcomes
    assert [o.request for o in outcomes] == list(range(len(sim.trace.requests)))
    assert {o.status for o in outcomes} <= {OK, REFUSED, FAILED, UNFINISHED}
    assert sorted(sim.ends) == [o.request for o in outcomes if o.status != UNFINISHED], "each ends once"
    assert not sim.balancer.ledger.leases
    assert sim.balancer.ledger.opened == sim.balancer.ledger.closed == sum(o.tries for o in outcomes)
    assert all(len(went) == len(set(went)) for went in sim.places.values()), "none goes back to where it was lost"
    for b in sim.ever:
        assert [getattr(b, name) for name in LOADS] == [0] * len(LOADS), b
        assert not b.unstarted
    for o in outcomes:
        times = [o.arrived, *([o.sent] if o.tries else []), *([] if o.first is None else [o.first])]
        if o.tries or o.status != UNFINISHED:
            times.append(o.ended)
        assert times == sorted(times), o
        assert times[-1] <= sim.now
        assert o.first is not None or o.status != OK
        assert 0 <= o.cached <= sim.trace.requests[o.request].prompt
        before = sim.trace.requests[o.request].after
        assert before == NO_REQUEST or not o.tries or o.arrived >= outcomes[before].ended
    if all(o.status != UNFINISHED for o in outcomes):
        for machine in sim._backends:
            assert machine.engine.is_idle
            assert machine.engine.pool.free == machine.engine.pool.size
            assert not machine.running


machines = st.sampled_from(["h100-8b-1", "h100-8b-2", "l4-8b-1"])
fates = st.builds(
    lambda kind, backend, at, lasts, factor: Fault(kind, backend, at, at + lasts, factor),
    st.sampled_from(FAULTS), machines, st.floats(0, 20), st.floats(0.1, 30) | st.just(float("inf")), st.floats(0.5, 50),
)  # fmt: skip
shapes = st.lists(  # time or pause, prompt, output, the request to wait for (counted back; 0: none)
    st.tuples(st.floats(0, 15), st.integers(1, 45_000), st.integers(0, 300), st.integers(0, 3)), min_size=1, max_size=25
)


@settings(max_examples=150, deadline=None)
@given(
    shape=shapes,
    faults=st.lists(fates, max_size=6),
    policy=st.sampled_from(sorted(POLICIES)),
    overhead=st.sampled_from([0.0, 0.05, 2.0]),
    scrape=st.sampled_from([0.0, 0.1, 3.0]),
)
def test_whatever_happens_every_request_ends_once(
    shape: list[tuple[float, int, int, int]], faults: list[Fault], policy: str, overhead: float, scrape: float
) -> None:
    requests = [
        Request(at, prompt, output, tuple(range(prompt // 16)), after=i - back if 0 < back <= i else NO_REQUEST)
        for i, (at, prompt, output, back) in enumerate(shape)
    ]
    once = [f for i, f in enumerate(faults) if f.kind != "join" or f.backend not in {x.backend for x in faults[:i]}]
    fleet = parse_fleet(FLEET).with_faults(tuple(once))
    sim = Watched(
        Trace("t", requests), fleet, make(policy), settings=Settings(overhead=overhead, scrape=scrape)
    )  # fmt: skip
    sim.run()
    assert_even(sim)
    if not faults:
        assert all(o.status in (OK, REFUSED) for o in sim.result.outcomes)
    if not any(f.kind == "freeze" for f in faults):
        assert all(o.status != UNFINISHED for o in sim.result.outcomes), "only what stands still leaves any"


def test_without_faults_all_are_answered() -> None:
    sim = run(one_by_one(50))
    assert_even(sim)
    assert all(o.status == OK and o.tries == 1 for o in sim.result.outcomes)


def test_a_crash_moves_what_had_no_answer_and_breaks_what_had() -> None:
    sim = run(one_by_one(60, every=0.05, prompt=8_000, output=400), "crash@1.5:h100-8b-1")
    assert_even(sim)
    statuses = [o.status for o in sim.result.outcomes]
    assert FAILED in statuses, "streams that ran there are broken"
    assert any(o.tries == 2 and o.status == OK for o in sim.result.outcomes), "others were tried elsewhere"
    assert all(o.backend != "h100-8b-1" or o.arrived < 1.6 for o in sim.result.outcomes if o.status == OK)


def test_a_machine_that_comes_back_gets_work_again_and_has_forgotten_its_cache() -> None:
    requests = [Request(i * 0.5, 4_000, 20, tuple(range(250))) for i in range(80)]
    sim = run(Trace("t", requests), "crash@10-15:h100-8b-1", fleet="h100-8b:1")
    assert_even(sim)
    late = [o for o in sim.result.outcomes if o.arrived > 18]
    assert late and all(o.status == OK for o in late)
    first = min(late, key=lambda o: o.arrived)
    assert sim.result.outcomes[5].cached > 3_000
    after = next(o for o in sim.result.outcomes if o.arrived >= 15 and o.status == OK)
    assert after.cached == 0
    assert first.expected_cached == 0 or first.cached > 0


def test_a_slow_member_is_slow_after_its_fault_has_healed_and_after_a_crash() -> None:
    plan = parse_fleet("h100-8b:1")
    slow = replace(plan, members=(replace(plan.members[0], slowdown=10.0),))
    trace = one_by_one(60, every=2.0, output=20)

    def times(*faults: str) -> list[float]:
        sim = Simulation(trace, slow.with_faults(tuple(map(parse_fault, faults))), make("random"))
        return [o.e2e for o in sim.run().outcomes]

    usual = times()
    assert times("slow@20-40:h100-8b-1:3")[-1] == pytest.approx(usual[-1], rel=0.01)
    assert times("crash@20-40:h100-8b-1")[-1] == pytest.approx(usual[-1], rel=0.01)
    assert times("slow@20-40:h100-8b-1:3")[14] > 2 * usual[14]


def test_a_frozen_fleet_ends_with_unfinished_requests_and_no_endless_loop() -> None:
    sim = run(one_by_one(20), "freeze@1:h100-8b-1", "crash@1:l4-8b-1", "freeze@1:h100-8b-2", "leave@2:h100-8b-1")
    assert_even(sim)
    assert any(o.status == UNFINISHED for o in sim.result.outcomes)


def test_a_freeze_delays_by_its_length() -> None:
    trace = Trace("t", [Request(0.0, 1_000, 200)])
    usual = run(trace, fleet="h100-8b:1").result.outcomes[0]
    frozen = run(trace, "freeze@0.5-7.5:h100-8b-1", fleet="h100-8b:1").result.outcomes[0]
    assert frozen.ended == pytest.approx(usual.ended + 7.0)


def test_a_fleet_that_is_all_gone_refuses() -> None:
    sim = run(one_by_one(40), "crash@1:h100-8b-1", "crash@1:h100-8b-2", "crash@1:l4-8b-1")
    assert_even(sim)
    assert sim.result.outcomes[-1].status in (REFUSED, FAILED)


def test_one_that_joins_late_and_one_that_leaves() -> None:
    sim = run(one_by_one(100), "join@10:h100-8b-2", "leave@10:h100-8b-1", policy="round_robin")
    assert_even(sim)
    before = {o.backend for o in sim.result.outcomes if o.arrived < 9.9}
    after = {o.backend for o in sim.result.outcomes if o.arrived > 10.1}
    assert before == {"h100-8b-1", "l4-8b-1"}
    assert after == {"h100-8b-2", "l4-8b-1"}
    assert all(o.status == OK for o in sim.result.outcomes)


def test_a_request_too_long_for_the_engine_is_refused_like_a_400() -> None:
    sim = run(Trace("t", [Request(0.0, 60_000, 10), Request(0.1, 100, 10)]), fleet="l4-8b:1")
    assert_even(sim)
    assert [o.status for o in sim.result.outcomes] == [REFUSED, OK]
    assert sim.balancer.backends["l4-8b-1"].errors == 0


def test_a_follower_comes_when_the_one_before_it_has_ended_whatever_its_end() -> None:
    chain = [Request(0.0, 60_000, 10), Request(3.0, 100, 10, after=0), Request(2.0, 100, 10, after=1)]
    sim = run(Trace("t", chain), fleet="l4-8b:1")
    first, second, third = sim.result.outcomes
    assert first.status == REFUSED
    assert second.arrived == pytest.approx(first.ended + 3.0)
    assert third.arrived == pytest.approx(second.ended + 2.0)


def test_overhead_comes_before_the_engine() -> None:
    trace = one_by_one(5, every=5.0)
    usual, late = run(trace), run(trace, overhead=0.1)
    for one, two in zip(usual.result.outcomes, late.result.outcomes, strict=True):
        assert one.ttft is not None and two.ttft is not None
        assert two.ttft == pytest.approx(one.ttft + 0.1, abs=0.01)


def test_metrics_are_read_as_often_as_asked_and_never_if_not_asked() -> None:
    assert run(one_by_one(20), scrape=0.0).balancer.backends["h100-8b-1"].polled_at < 0
    assert run(one_by_one(20), scrape=0.5).balancer.backends["h100-8b-1"].polled_at > 0


def test_a_cache_that_is_reset_is_noticed() -> None:
    trace = generate(parse_workload("chat:rate=4,seconds=120"), 1)
    sim = run(trace, "reset@60:h100-8b-1", fleet="h100-8b:1", policy="expected_completion")
    assert_even(sim)
    assert sim.balancer.backends["h100-8b-1"].trust.drops + sim.balancer.backends["h100-8b-1"].trust.reports > 0


SCRIPT = """
from fairlead.core.policies.registry import POLICIES, make
from fairlead.sim.fleet import parse_fault, parse_fleet
from fairlead.sim.host import Simulation
from fairlead.sim.workload import generate, parse_workload
faults = ("crash@8-14:h100-8b-1", "freeze@10-12:l4-8b-1", "join@5:l4-8b-2", "leave@20:h100-8b-2", "reset@9:l4-8b-1")
fleet = parse_fleet("h100-8b:2,l4-8b:2").with_faults(tuple(map(parse_fault, faults)))
trace = generate(parse_workload("chat:rate=6,seconds=30"), 3)
for name in sorted(POLICIES):
    run = Simulation(trace, fleet, make(name), seed=3).run()
    print(name, run.outcomes, run.samples)
"""


def test_the_order_of_hashes_changes_nothing() -> None:
    said = {
        subprocess.run(
            [sys.executable, "-c", SCRIPT], env={"PYTHONHASHSEED": seed}, capture_output=True, check=True, timeout=60
        ).stdout
        for seed in ("1", "77")
    }
    assert len(said) == 1
    assert len(next(iter(said))) > 100_000


# --- what stands still -----------------------------------------------------------------------------------------


def test_a_request_that_comes_to_a_frozen_idle_machine_begins_when_it_thaws() -> None:
    trace = Trace("t", [Request(5.0, 1_000, 200)])
    usual = run(trace, fleet="h100-8b:1").result.outcomes[0]
    frozen = run(trace, "freeze@2-10:h100-8b-1", fleet="h100-8b:1").result.outcomes[0]
    assert frozen.ended == pytest.approx(usual.ended + 5.0)


def test_a_request_that_comes_to_a_frozen_busy_machine_moves_nothing_there() -> None:
    trace = Trace("t", [Request(0.0, 1_000, 500), Request(5.0, 1_000, 20)])
    long, short = run(trace, "freeze@2-10:h100-8b-1", fleet="h100-8b:1").result.outcomes
    together = Trace("t", [Request(0.0, 1_000, 500), Request(2.0, 1_000, 20)])
    usual, beside = run(together, fleet="h100-8b:1").result.outcomes
    assert long.ended == pytest.approx(usual.ended + 8.0, abs=0.01)
    assert short.first is not None
    assert beside.first is not None
    assert short.first == pytest.approx(beside.first + 8.0, abs=0.01), "it joins the batch as soon as that goes on"


def test_a_machine_that_is_slow_only_while_it_stands_still_loses_no_time() -> None:
    trace = Trace("t", [Request(0.0, 1_000, 500)])
    usual = run(trace, "freeze@2-10:h100-8b-1", fleet="h100-8b:1").result.outcomes[0]
    slow = run(trace, "freeze@2-10:h100-8b-1", "slow@5-6:h100-8b-1:50", fleet="h100-8b:1").result.outcomes[0]
    assert slow.ended == pytest.approx(usual.ended)
    after = run(trace, "freeze@2-10:h100-8b-1", "slow@5:h100-8b-1:2", fleet="h100-8b:1").result.outcomes[0]
    assert after.ended - 10.0 == pytest.approx(2 * (usual.ended - 10.0), abs=0.05), "what it did before stays done"


def test_a_thaw_ends_its_own_freeze_alone() -> None:
    trace = Trace("t", [Request(12.0, 1_000, 20)])
    faults = ("freeze@1-15:h100-8b-1", "crash@2-3:h100-8b-1", "freeze@11-30:h100-8b-1")
    assert run(trace, *faults, fleet="h100-8b:1").result.outcomes[0].ended > 30.0


# --- what is counted -------------------------------------------------------------------------------------------


def test_what_a_machine_got_is_still_known_when_it_has_left() -> None:
    sim = run(one_by_one(100), "leave@5:h100-8b-1", policy="round_robin")
    placed = [sample.placed for sample in sim.result.samples]
    assert all(now >= before for one, two in pairwise(placed) for before, now in zip(one, two, strict=True))
    assert placed[-1][0] > 5


def test_samples_cover_a_run_that_takes_longer_than_its_trace_says_at_even_distances() -> None:
    chain = [Request(0.0, 100, 10), *(Request(30.0, 100, 10, after=i) for i in range(150))]
    result = run(Trace("t", chain)).result
    assert len(result.samples) <= 480
    distances = {round(two.at - one.at, 6) for one, two in pairwise(result.samples)}
    assert len(distances) == 1
    assert result.samples[-1].at + distances.pop() > result.simulated_seconds


def test_preemptions_of_a_machine_that_crashed_are_counted() -> None:
    trace = one_by_one(40, every=0.01, prompt=3_000, output=600)
    usual = run(trace, fleet="l4-8b:1")
    late = usual.now - 1.0
    crashed = run(trace, f"crash@{late:g}:l4-8b-1", fleet="l4-8b:1")
    assert crashed.result.preemptions == usual.result.preemptions > 0


def test_requests_of_any_model_are_served() -> None:
    named = [Request(i * 0.5, 500, 20, model=("", "llama", "qwen")[i % 3]) for i in range(12)]
    assert all(o.status == OK for o in run(Trace("t", named)).result.outcomes)


def test_longer_than_the_engine_takes_is_refused_even_where_the_cache_would_hold_it() -> None:
    longest = parse_fleet("h100-8b:1").members[0].profile.max_model_len
    asked = [Request(0.0, longest - 10, 11), Request(0.1, longest - 10, 10)]
    outcomes = run(Trace("t", asked), fleet="h100-8b:1").result.outcomes
    assert [o.status for o in outcomes] == [REFUSED, OK]


# --- between choice and engine ---------------------------------------------------------------------------------


def test_a_machine_that_crashes_while_a_request_is_on_its_way_loses_it_to_another() -> None:
    trace = Trace("t", [Request(1.0, 1_000, 20)])
    sim = run(trace, "crash@1.2:h100-8b-1", fleet="h100-8b:2", policy="round_robin", overhead=0.5)
    (outcome,) = sim.result.outcomes
    assert (outcome.status, outcome.tries, outcome.backend) == (OK, 2, "h100-8b-2")
    assert outcome.sent == pytest.approx(1.5), "the failed connection is noticed when it is made"
    assert_even(sim)


def test_a_machine_that_leaves_waits_for_what_is_on_its_way() -> None:
    there: list[list[str]] = []

    class Watching(Watched):
        def _submit(self, outcome: Outcome, lease: Lease, backend: Machine, tried: tuple[str, ...]) -> None:
            there.append(list(self.balancer.backends))
            super()._submit(outcome, lease, backend, tried)

    fleet = parse_fleet("h100-8b:2").with_faults((parse_fault("leave@1.2:h100-8b-1"),))
    trace = Trace("t", [Request(1.0, 1_000, 20), Request(9.0, 1_000, 20)])
    sim = Watching(trace, fleet, make("round_robin"), settings=Settings(overhead=0.5))
    outcomes = sim.run().outcomes
    assert [(o.status, o.backend) for o in outcomes] == [(OK, "h100-8b-1"), (OK, "h100-8b-2")]
    assert there == [["h100-8b-1", "h100-8b-2"], ["h100-8b-2"]]
    assert_even(sim)


def test_a_machine_that_joins_while_it_is_down_gets_nothing_before_it_is_up() -> None:
    faults = ("join@2:h100-8b-2", "crash@1-10:h100-8b-2")
    sim = run(one_by_one(100), *faults, fleet="h100-8b:2", policy="round_robin")
    assert all(o.status == OK and o.tries == 1 for o in sim.result.outcomes)
    there = [o.arrived for o in sim.result.outcomes if o.backend == "h100-8b-2"]
    assert 10.0 < min(there) < 12.0


def test_followers_of_a_stream_that_broke_come_all_the_same() -> None:
    chain = [Request(0.0, 1_000, 500), Request(5.0, 500, 20, after=0)]
    sim = run(Trace("t", chain), "crash@2-3:h100-8b-1", fleet="h100-8b:1")
    broken, follower = sim.result.outcomes
    assert (broken.status, broken.ended) == (FAILED, 2.0)
    assert follower.arrived == pytest.approx(7.0)


def test_what_never_came_is_unfinished_and_has_no_time() -> None:
    chain = [Request(0.0, 1_000, 500), Request(5.0, 500, 20, after=0)]
    sim = run(Trace("t", chain), "freeze@1:h100-8b-1", fleet="h100-8b:1")
    assert [o.status for o in sim.result.outcomes] == [UNFINISHED, UNFINISHED]
    assert [o.tries for o in sim.result.outcomes] == [1, 0]


def test_what_a_frozen_fleet_got_at_the_first_moment_stood_until_the_end() -> None:
    sim = run(Trace("t", [Request(0.0, 1_000, 20), Request(7.0, 1_000, 20)]), "freeze@0:h100-8b-1", fleet="h100-8b:1")
    assert [(o.status, o.arrived, o.tries, o.ended) for o in sim.result.outcomes] == [
        (UNFINISHED, 0.0, 1, 7.0),
        (UNFINISHED, 7.0, 1, 7.0),
    ]
    assert_even(sim)


def test_a_machine_that_froze_before_it_had_left_goes_when_it_crashes() -> None:
    trace = Trace("t", [Request(float(i), 1_000, 900) for i in range(0, 60, 2)])
    faults = ("freeze@1-100:h100-8b-1", "leave@4:h100-8b-1", "crash@8-9:h100-8b-1")
    sim = run(trace, *faults, fleet="h100-8b:2", policy="round_robin")
    assert list(sim.balancer.backends) == ["h100-8b-2"]
    assert_even(sim)


def test_a_machine_that_froze_before_it_had_left_finishes_and_goes_when_it_thaws() -> None:
    trace = Trace("t", [Request(float(i), 1_000, 900) for i in range(0, 60, 2)])
    sim = run(trace, "freeze@1-20:h100-8b-1", "leave@4:h100-8b-1", fleet="h100-8b:2", policy="round_robin")
    assert list(sim.balancer.backends) == ["h100-8b-2"]
    assert sim.outcomes[0].status == OK
    assert_even(sim)


def test_what_is_lost_twice_is_suspected_of_breaking_machines_and_goes_to_no_third() -> None:
    crashes = ("crash@1:h100-8b-1", "crash@1.05:h100-8b-2", "crash@1.1:h100-8b-3")
    sim = run(one_by_one(30, every=0.02, prompt=60_000), *crashes, fleet="h100-8b:4")
    assert {len(set(went)) for went in sim.places.values()} == {1, 2}
    assert all(len(set(went)) == len(went) for went in sim.places.values()), "and none goes back to where it was lost"
    assert_even(sim)


def test_connections_that_fail_hurry_the_probes() -> None:
    def down(trace: Trace) -> float:
        return run(trace, "crash@2:h100-8b-1", fleet="h100-8b:2", policy="round_robin").down_at[0]

    calm = Trace("t", [Request(0.0, 1_000, 10), Request(0.0, 1_000, 10), Request(9.0, 1_000, 10)])
    assert down(calm) == pytest.approx(2.0 + HURRY + 2 * PROBE)
    assert down(one_by_one(50, every=0.2, output=5)) < 2.0 + HURRY + 2 * PROBE - 0.5


def test_a_machine_that_is_back_before_a_request_reaches_it_serves_it() -> None:
    sim = run(Trace("t", [Request(1.0, 1_000, 20)]), "crash@1.2-1.4:h100-8b-1", fleet="h100-8b:1", overhead=0.5)
    (outcome,) = sim.result.outcomes
    assert (outcome.status, outcome.tries) == (OK, 1)
    assert outcome.first is not None
    assert outcome.first > 1.5
    assert_even(sim)


def test_a_crash_ends_slowness_and_one_that_begins_while_the_machine_is_down_is_there_when_it_is_back() -> None:
    trace = one_by_one(30, every=2.0, output=20)

    def last(*faults: str) -> float:
        return run(trace, *faults, fleet="h100-8b:1").result.outcomes[-1].e2e

    usual = last()
    assert last("slow@5:h100-8b-1:10", "crash@11-13:h100-8b-1") == pytest.approx(usual)
    assert last("crash@11-13:h100-8b-1", "slow@12:h100-8b-1:10") > 5 * usual


def test_a_request_is_tried_no_more_often_than_the_rules_allow() -> None:
    crashes = [f"crash@{1 + i / 5:g}:h100-8b-{i + 1}" for i in range(5)]
    sim = run(one_by_one(40, every=0.02, prompt=60_000), *crashes, fleet="h100-8b:5")
    assert_even(sim)
    tries = {o.tries for o in sim.result.outcomes}
    assert max(tries) == 1 + sim.balancer.retry_rules.attempts
    assert any(o.status == FAILED and o.first is None and o.tries == max(tries) for o in sim.result.outcomes)


def test_the_same_simulation_says_the_same_again() -> None:
    trace = generate(parse_workload("chat:rate=6,seconds=30"), 3)
    one, two = (run(trace, "crash@10-15:h100-8b-1", policy="power_of_two").result for _ in range(2))
    assert one.outcomes == two.outcomes
    assert one.samples == two.samples
