"""What-if: the calibration finds the machines again, the replay meets the measurement, answers point the right way.

The ground truth is a simulation on machines whose coefficients the calibration is not told.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import pytest
from rich.console import Console

from fairlead.core.policies.registry import make
from fairlead.emulator.profiles import PROFILES, Profile
from fairlead.sim.calibrate import Fit, calibrate, usable
from fairlead.sim.fleet import Fleet, Member
from fairlead.sim.host import Simulation
from fairlead.sim.trace import FAILED, NO_REQUEST, OK, Measured, Request, Run, Trace
from fairlead.sim.whatif import WhatIf, WhatIfError, run_what_if
from fairlead.sim.workload import generate, parse_workload


def machine(prefill: float, step: float) -> Profile:
    base = PROFILES["h100-8b"]
    return replace(
        base, name="odd", prefill=base.prefill * prefill, attention=base.attention * prefill,
        base=base.base * step, kv_read=base.kv_read * step, sequence=base.sequence * step,
    )  # fmt: skip


ODD = Fleet("odd", tuple(Member(f"g{i}", machine(1.7, 0.6)) for i in (1, 2)))
MIXED = Fleet("mixed", (*ODD.members, Member("slow", machine(6.0, 3.0))))


def flat(seed: int = 1, rate: float = 6.0) -> list[Request]:
    """An open loop: turns come when they came in a run on two usual machines."""
    made = generate(parse_workload(f"chat:rate={rate},seconds=45,think=3"), seed)
    run = Simulation(made, Fleet("two", tuple(Member(n, PROFILES["h100-8b"]) for n in "ab")), make("random")).run()
    asked = [replace(r, at=o.arrived, after=NO_REQUEST) for r, o in zip(made.requests, run.outcomes, strict=True)]
    return sorted(asked, key=lambda r: r.at)


def measured(fleet: Fleet, requests: Sequence[Request], policy: str = "least_connections") -> tuple[Trace, Run]:
    """A recording of these requests on that fleet."""
    trace = Trace("truth", list(requests), block_tokens=16)
    run = Simulation(trace, fleet, make(policy)).run()
    seen = [Measured(o.backend, o.ttft, o.e2e, o.cached, o.status) for o in run.outcomes]
    return replace(trace, measured=seen), run


@cache
def recording(mixed: bool) -> Trace:
    return measured(MIXED if mixed else ODD, flat())[0]


@cache
def answer(mixed: bool) -> WhatIf:
    return run_what_if(recording(mixed), seeds=(1,))


def e2e(run: Run) -> float:
    return sum(o.e2e for o in run.outcomes) / len(run.outcomes)


def test_the_calibration_finds_the_machines_again() -> None:
    fits = {fit.backend: fit for fit in calibrate(usable(recording(True)))}
    for name, prefill, step in (("g1", 1.7, 0.6), ("g2", 1.7, 0.6), ("slow", 6.0, 3.0)):
        assert fits[name].step == pytest.approx(step, rel=0.1), name
        assert fits[name].prefill == pytest.approx(prefill, rel=0.25), name
    assert fits["g1"].alike(fits["g2"])
    assert not fits["g1"].alike(fits["slow"])


@pytest.mark.parametrize("mixed", [False, True])
def test_the_part_that_it_has_not_seen_is_met(mixed: bool) -> None:
    found = answer(mixed)
    errors = {c.name: abs(c.error) for c in found.checks}
    assert errors["TTFT mean"] < 0.1
    assert errors["E2E mean"] < 0.05
    assert found.trust == "good"
    assert found.held_out == pytest.approx(0.4 * found.requests, abs=1)


def test_one_less_and_another_policy_point_the_way_they_would_have_gone() -> None:
    trace, before = measured(MIXED, flat())
    rows = {a.label: a for a in answer(True).answers}
    for label, fleet, policy in (
        ("round_robin", MIXED, "round_robin"),
        ("expected_completion", MIXED, "expected_completion"),
        ("without g1", Fleet("less", MIXED.members[1:]), "expected_completion"),
    ):
        truth = e2e(measured(fleet, trace.requests, policy)[1]) / e2e(before) - 1.0
        said = rows[label].e2e_change
        assert abs(truth) > 0.02, "a case that tells nothing is no test"
        assert (truth > 0) == (said > 0), (label, truth, said)
        assert said == pytest.approx(truth, abs=max(0.5 * abs(truth), 0.03)), label


def test_one_more_and_one_less_are_asked_for_each_kind() -> None:
    labels = [a.label for a in answer(True).answers]
    assert labels[0] == "as it was"
    assert "one more like g1" in labels
    assert "one more like slow" in labels
    assert "without slow" in labels
    assert not any("g2" in label for label in labels), "it is like g1"


def test_it_is_shown_to_people_and_told_to_programs_the_same_each_time() -> None:
    screen = io.StringIO()
    answer(True).show(Console(file=screen, width=80))
    text = screen.getvalue()
    assert "Trust: good" in text
    assert "without slow" in text
    assert max(map(len, text.splitlines())) <= 80
    whole = json.loads(answer(True).to_json())
    assert whole["schema"] == "fairlead.what-if/1"
    assert whole["trust"] == "good"
    assert run_what_if(recording(True), seeds=(1,)).to_json() == answer(True).to_json()


def test_answers_in_one_piece_are_calibrated_by_their_whole_time() -> None:
    trace = recording(False)
    blind = replace(trace, measured=[replace(m, ttft=None) for m in trace.measured])
    fits = calibrate(usable(blind))
    assert all(fit.step == pytest.approx(0.6, rel=0.4) for fit in fits)


def test_failed_requests_are_left_out_and_a_backend_that_came_late_is_taken_for_the_usual_one() -> None:
    trace = recording(False)
    seen = list(trace.measured)
    seen[3] = replace(seen[3], status=FAILED)
    seen[-1] = replace(seen[-1], backend="late")
    found = run_what_if(replace(trace, measured=seen), policies=["random"], seeds=(1,))
    assert found.requests == len(seen) - 1
    assert {fit.backend for fit in found.fits} == {"g1", "g2", "late"}


@pytest.mark.parametrize(
    ("trace", "sentence"),
    [
        (Trace("t", [Request(0.0, 10, 10)]), "holds no measurements"),
        (Trace("t", [Request(0.0, 10, 10)] * 9, measured=[Measured("a", 0.1, 0.2, 0, OK)] * 9), "9 answered requests"),
    ],
)
def test_a_trace_that_does_not_do_is_refused_in_a_sentence(trace: Trace, sentence: str) -> None:
    with pytest.raises(WhatIfError, match=sentence):
        run_what_if(trace)


def test_sessions_are_those_of_the_recording_under_other_policies() -> None:
    """Five people, each of whom stays where the session policy puts them; numbered requests would spread them all."""
    asked = [replace(r, session=f"s{i % 5}") for i, r in enumerate(flat())]
    trace, _ = measured(ODD, asked, "random")
    assert {r.session for r in usable(trace).requests} == {f"s{i}" for i in range(5)}


def test_what_comes_after_the_part_that_is_learned_from_is_load_as_well() -> None:
    """Past saturation: without the later ones the last ones learned from would seem to have run on a slower machine."""
    crowded = Fleet("crowded", (Member("a", machine(8.0, 1.0)),))
    trace = usable(measured(crowded, flat(2))[0])
    half = len(trace.requests) // 2
    alone = replace(trace, requests=trace.requests[:half], measured=trace.measured[:half])
    (together,), (by_itself,) = calibrate(trace, half), calibrate(alone)
    assert together.step == pytest.approx(1.0, rel=0.1)
    assert abs(together.step - 1.0) < abs(by_itself.step - 1.0)


def test_an_unknown_policy_is_found_before_anything_runs() -> None:
    with pytest.raises(ValueError, match="did you mean 'round_robin'"):
        run_what_if(recording(False), policies=["round_robbin"])


def test_a_fit_without_corrections_is_the_built_in_profile() -> None:
    assert Fit("x").profile() == replace(PROFILES["h100-8b"], name="x")
