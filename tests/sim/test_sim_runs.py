"""Many runs: all combinations in a fixed order, the same figures from one process and several, nothing run in vain."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from fairlead.config import schema
from fairlead.core.policies.registry import POLICIES
from fairlead.sim.fleet import FleetError, parse_fault, parse_fleet
from fairlead.sim.host import Settings
from fairlead.sim.readers.lines import TraceError
from fairlead.sim.rivals.registry import RIVALS
from fairlead.sim.runs import (
    LIMITS,
    Plan,
    PolicyError,
    RunError,
    Source,
    carry_out,
    carry_out_all,
    default_fleet,
    make_policy,
    plans,
)
from fairlead.sim.summary import Slo
from fairlead.sim.trace import NO_REQUEST, Request, Trace
from fairlead.sim.workload import WorkloadError

SMALL = Source("chat:rate=2,seconds=20")
TWO, THREE = parse_fleet("h100-8b:2"), parse_fleet("l4-8b:3")
LINE = '{"timestamp": %d, "input_length": 700, "output_length": 20, "hash_ids": [1, 2]}'


def planned(source: Source = SMALL, policies: tuple[str, ...] = ("random", "lmetric"), **more: bool) -> list[Plan]:
    return plans(source, policies, [TWO, THREE], [1, 2], [1.0], Settings(), Slo(), **more)


# --- policies --------------------------------------------------------------------------------------------------


def test_every_policy_can_be_made_and_reference_rules_are_told_apart() -> None:
    for name in (*POLICIES, *RIVALS):
        policy, reference = make_policy(name)
        assert policy.name == name
        assert reference == (name in RIVALS)


def test_options_reach_the_policy() -> None:
    low, _ = make_policy("expected_completion:throughput=0")
    high, _ = make_policy("expected_completion:throughput=1")
    assert vars(low) != vars(high)


def test_ranges_of_options_are_those_of_the_configuration() -> None:
    options = [option for option, _ in schema.options_of(schema.Policy).values()]
    found = {option.only_for: (option.low, option.high) for option in options if option.low is not None}
    assert found == LIMITS


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("lmetrik", "unknown policy 'lmetrik'; did you mean 'lmetric'?"),
        ("expected_completon", "did you mean 'expected_completion'?"),
        ("", "known: expected_completion"),
        ("expected_completion:thruput=1", "'thruput=1' is no option of expected_completion; it takes throughput"),
        ("expected_completion:throughput", "is no option"),
        ("expected_completion:throughput=much", "'much' is no number"),
        ("expected_completion:throughput=1.1", "throughput must be between 0 and 1"),
        ("expected_completion:throughput=nan", "throughput must be between 0 and 1"),
        ("session:ttl=inf", "ttl must be between 1 and"),
        ("prefix_cache:overload=2,overload=3", "overload is given twice"),
        ("round_robin:weight=1", "it takes none"),
        ("dynamo:prefill_load_scale=2", "it takes none"),
    ],
)
def test_a_policy_that_cannot_be_meant_is_refused_with_a_sentence(text: str, sentence: str) -> None:
    with pytest.raises(PolicyError) as found:
        make_policy(text)
    assert sentence in str(found.value)


# --- plans -----------------------------------------------------------------------------------------------------


def test_plans_are_all_combinations_with_runs_of_one_trace_side_by_side() -> None:
    made = plans(SMALL, ["random", "lmetric"], [TWO, THREE], [1, 2], [1.0, 3.0], Settings(), Slo())
    assert len(made) == len(set(made)) == 16
    assert [(p.speedup, p.seed) for p in made] == [(s, n) for s in (1.0, 3.0) for n in (1, 2) for _ in range(4)]
    assert [(p.fleet, p.policy) for p in made[:4]] == [(f, p) for f in (TWO, THREE) for p in ("random", "lmetric")]


def test_what_is_asked_twice_is_planned_once() -> None:
    again = parse_fleet("h100-8b:2")
    assert len(plans(SMALL, ["random", "random"], [TWO, again], [1, 1], [2.0, 2.0], Settings(), Slo())) == 1


def test_what_is_wrong_is_found_before_anything_runs() -> None:
    with pytest.raises(PolicyError):
        planned(policies=("random", "lmetrik"))
    with pytest.raises(WorkloadError):
        planned(Source("chat:rte=2"))
    with pytest.raises(TraceError):
        planned(Source("nowhere.jsonl"))
    with pytest.raises(FleetError, match="smaller than one block"):
        tiny = parse_fleet("l4-8b:1").members[0].profile
        assert tiny.kv_tokens < 100_000
        plans(_blocks_of(100_000), ["random"], [THREE], [1], [1.0], Settings(), Slo())
    with pytest.raises(FleetError, match="joins once"):
        twice = TWO.with_faults((parse_fault("join@1:h100-8b-1"), parse_fault("join@2:h100-8b-1")))
        plans(SMALL, ["random"], [twice], [1], [1.0], Settings(), Slo())


class _BlocksOf(Source):
    def trace(self, seed: int, speedup: float) -> Trace:
        return Trace("large blocks", [Request(0.0, 10, 10)], block_tokens=100_000)


def _blocks_of(tokens: int) -> Source:
    return _BlocksOf(f"blocks of {tokens}")


# --- sources ---------------------------------------------------------------------------------------------------


def test_a_trace_at_another_rate_has_another_name_whether_it_is_read_or_made(tmp_path: Path) -> None:
    file = tmp_path / "t.jsonl"
    file.write_text("\n".join(LINE % (i * 517) for i in range(20)) + "\n")
    for source in (Source(str(file)), SMALL):
        usual, fast = source.trace(1, 1.0), source.trace(1, 4.0)
        assert fast.name == f"{usual.name} x4"
        assert fast.seconds == pytest.approx(usual.seconds / 4)
        assert any("divided by 4" in note for note in fast.notes)
        assert len(fast.requests) == len(usual.requests)


def test_pauses_between_two_requests_of_a_conversation_are_not_sped_up() -> None:
    usual, fast = SMALL.trace(1, 1.0), SMALL.trace(1, 4.0)
    pauses = [r.at for r in usual.requests if r.after != NO_REQUEST]
    assert pauses
    assert [r.at for r in fast.requests if r.after != NO_REQUEST] == pauses


@pytest.mark.parametrize("limit", [1, 7, 1_000])
def test_a_limit_keeps_the_first_requests_and_what_they_wait_for(limit: int) -> None:
    whole = SMALL.trace(1, 1.0)
    trace = Source(SMALL.text, limit=limit).trace(1, 1.0)
    assert list(trace.requests) == list(whole.requests[:limit])
    assert all(r.after < i for i, r in enumerate(trace.requests))
    assert any("Only its first" in note for note in trace.notes) == (limit < len(whole.requests))


def test_a_default_fleet_grows_with_the_work_and_never_beyond_what_clients_can_ask_at_once() -> None:
    def machines(*requests: Request) -> int:
        return int(default_fleet(Trace("t", requests)).partition(":")[2])

    little = [Request(float(i), 500, 50) for i in range(100)]
    much = [Request(i / 100, 20_000, 500) for i in range(1_000)]
    assert machines(*little) == 2
    assert machines(*much) == 64
    assert 2 < machines(*[Request(i / 4, 8_000, 300) for i in range(400)]) < 64
    closed = [Request(0.0, 20_000, 500) for _ in range(24)] + [Request(1.0, 20_000, 500, after=i) for i in range(24)]
    assert machines(*closed) == 3
    assert machines(Request(0.0, 1, 1)) == 2


# --- running ---------------------------------------------------------------------------------------------------


def test_one_process_and_two_give_the_same_in_the_same_order() -> None:
    made = planned()
    heard: list[float] = []
    alone = list(carry_out_all(made, 1, heard.append))
    together = list(carry_out_all(made, 2))
    assert [r.plan for r in alone] == made
    assert [r.plan for r in together] == made
    assert [r.summary for r in alone] == [r.summary for r in together]
    assert len({r.summary.ttft for r in alone}) > 4, "they are different runs"
    assert heard == sorted(heard)
    assert heard[-1] == len(made)


def test_progress_of_a_single_run_is_told_by_its_requests() -> None:
    (plan,) = plans(Source("chat:rate=20,seconds=60"), ["random"], [TWO], [1], [1.0], Settings(), Slo())
    heard: list[float] = []
    list(carry_out_all([plan], 4, heard.append))
    assert len(heard) > 5
    assert heard == sorted(heard)
    assert 0 < heard[0] < heard[-1] == 1.0


def test_single_outcomes_come_back_only_where_they_are_wanted() -> None:
    (lean, *_), (full, *_) = planned(), planned(detailed=True)
    one, other = carry_out(lean), carry_out(full)
    assert one.summary == other.summary
    assert len(other.run.outcomes) == other.summary.offered
    assert other.run.samples
    assert not one.run.outcomes
    assert not one.run.samples
    assert one.run.simulated_seconds == other.run.simulated_seconds


def test_runs_are_named_as_they_were_asked_for() -> None:
    (plan,) = plans(SMALL, ["expected_completion:throughput=0.2"], [TWO], [1], [1.0], Settings(), Slo())
    assert carry_out(plan).summary.policy == "expected_completion:throughput=0.2"


def test_who_stops_early_waits_for_nothing_and_leaves_no_process_behind() -> None:
    before = set(multiprocessing.active_children())
    with closing(carry_out_all(planned(), 2)) as running:
        next(running)
        started = set(multiprocessing.active_children()) - before
    assert set(multiprocessing.active_children()) == before
    assert [process.exitcode for process in started] == [-signal.SIGKILL] * 2


def test_processes_do_not_hear_ctrl_c() -> None:
    before = set(multiprocessing.active_children())
    running = carry_out_all(planned(), 2)
    found = [next(running)]
    for process in set(multiprocessing.active_children()) - before:
        assert process.pid is not None
        os.kill(process.pid, signal.SIGINT)
    assert len([*found, *running]) == len(planned())


ORPHANS = """
from fairlead.sim.fleet import parse_fleet
from fairlead.sim.host import Settings
from fairlead.sim.runs import Source, carry_out_all, plans
from fairlead.sim.summary import Slo
chat, fleet = Source("chat:rate=2,seconds=20"), parse_fleet("h100-8b:2")
made = plans(chat, ["random"], [fleet], range(4), [1.0], Settings(), Slo())
running = carry_out_all(made, 2)
for _ in made[:3]:
    next(running)
print("going", flush=True)
input()
"""


def test_processes_end_when_their_parent_is_killed() -> None:
    parent = subprocess.Popen([sys.executable, "-c", ORPHANS], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert parent.stdout is not None
    assert parent.stdout.readline() == b"going\n"
    parent.kill()
    assert parent.communicate(timeout=60)[0] == b"", "the pipe closes when the last process that has it is gone"


def test_a_process_that_is_killed_is_an_error_and_not_an_endless_wait() -> None:
    before = set(multiprocessing.active_children())
    running = carry_out_all(planned(Source("chat:rate=20,seconds=300")), 2)
    next(running)
    for process in set(multiprocessing.active_children()) - before:
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
    with pytest.raises(RunError, match="try fewer --jobs"):
        list(running)
