"""One run of one arm, in a process of a pool; values of our own modules are turned about for its time only."""

from __future__ import annotations

import functools
import importlib
from typing import Any

from bench.policies.experiments import Case, World, fleet_of, trace_of
from fairlead.sim.host import Simulation
from fairlead.sim.summary import Slo, Summary, summarize
from fairlead.sim.trace import Trace


@functools.lru_cache(maxsize=2)
def _trace(world: World, seed: int) -> Trace:
    return trace_of(world, seed)


def job(task: tuple[Case, int, int]) -> Summary:
    """One run, in a process of its own pool."""
    case, row, seed = task
    arm = case.arms[row]
    trace = _trace(case.world, seed)
    before: list[tuple[Any, str, Any]] = []
    for module, name, _ in arm.patches:
        found = importlib.import_module(module)
        before.append((found, name, getattr(found, name)))
    for (module, name, _), (_, _, value) in zip(before, arm.patches, strict=True):
        setattr(module, name, value)
    try:
        run = Simulation(
            trace, fleet_of(case), arm.make(), seed=seed, settings=arm.settings, reference=arm.reference
        ).run()
    finally:
        for module, name, value in before:
            setattr(module, name, value)
    run.policy = arm.label
    return summarize(run, trace, Slo(*case.slo))
