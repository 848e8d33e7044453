"""Many runs at once: policies x fleets x rates x seeds, spread over processes, results in a fixed order.

A `Plan` is cheap to send to another process; traces are read or made there, once per process. Whatever is wrong with a
policy is found before anything runs: `plans` makes each of them once.
"""

from __future__ import annotations

import functools
import inspect
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any, Final

from fairlead.core.policies.registry import POLICIES
from fairlead.core.view import Policy
from fairlead.sim.fleet import Fleet
from fairlead.sim.host import Settings, Simulation
from fairlead.sim.readers import read_trace
from fairlead.sim.rivals.registry import RIVALS
from fairlead.sim.summary import Slo, Summary, summarize
from fairlead.sim.trace import Run, Trace
from fairlead.sim.workload import KINDS, generate, parse_workload

WORDS: Final = {"true": True, "false": False}


class PolicyError(ValueError):
    """A policy or option that does not exist; the message says what to write."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where the requests come from: a file, or a workload that is made."""

    text: str
    skip_bad: bool = False
    limit: int | None = None
    spread: str = "random"

    @property
    def is_made(self) -> bool:
        return self.text.partition(":")[0] in KINDS

    def trace(self, seed: int, speedup: float) -> Trace:
        """TraceError, WorkloadError or ValueError say what is wrong with it."""
        if not self.is_made:
            return read_trace(
                self.text, skip_bad=self.skip_bad, seed=seed, limit=self.limit, spread=self.spread, speedup=speedup
            )
        trace = generate(parse_workload(self.text), seed)
        if speedup != 1.0:  # what people do between two requests takes as long as ever
            requests = [r if r.after >= 0 else replace(r, at=r.at / speedup) for r in trace.requests]
            trace = replace(trace, name=f"{trace.name} x{speedup:g}", requests=requests)
        return trace


@dataclass(frozen=True, slots=True)
class Plan:
    """One run."""

    source: Source
    policy: str  # NAME or NAME:option=value,...
    fleet: Fleet
    seed: int
    speedup: float
    settings: Settings
    slo: Slo


@dataclass(frozen=True, slots=True)
class Result:
    """What came out of one plan."""

    plan: Plan
    run: Run
    summary: Summary


def make_policy(text: str) -> tuple[Policy, bool]:
    """(the policy, is it a reference rule?) of NAME or NAME:option=value,...; PolicyError says what is wrong."""
    name, _, options = text.partition(":")
    known: dict[str, Callable[..., Policy]] = {**POLICIES, **RIVALS}
    rule = known.get(name)
    if rule is None:
        near = get_close_matches(name, known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
        raise PolicyError(f"unknown policy {name!r}; {hint}")
    given: dict[str, Any] = {}
    # A rival's options are part of which rule it is; only Fairlead's own policies take any.
    taken = list(inspect.signature(rule).parameters) if name in POLICIES else []
    for part in filter(None, options.split(",")):
        key, equals, value = part.partition("=")
        if key not in taken or not equals:
            what = f"it takes {', '.join(taken)}" if taken else "it takes none"
            raise PolicyError(f"policy {text!r}: {part!r} is no option of {name}; {what} (write NAME:option=value)")
        try:
            given[key] = WORDS[value] if value in WORDS else float(value)
        except ValueError:
            raise PolicyError(f"policy {text!r}: {key}: {value!r} is no number") from None
    low, high = LIMITS.get(name, (0.0, float("inf")))
    for key, number in given.items():
        if not low <= number <= high:
            raise PolicyError(f"policy {text!r}: {key} must be between {low:g} and {high:g}")
    return rule(**given), name in RIVALS


LIMITS: Final = {"expected_completion": (0.0, 1.0), "prefix_cache": (1.0, 100.0), "prefix_hash": (1.0, 10.0)}
"""Ranges of the options, as the configuration has them."""


@functools.lru_cache(maxsize=2)
def _trace(source: Source, seed: int, speedup: float) -> Trace:
    return source.trace(seed, speedup)


def carry_out(plan: Plan) -> Result:
    """One run, in whatever process."""
    trace = _trace(plan.source, plan.seed, plan.speedup)
    policy, reference = make_policy(plan.policy)
    run = Simulation(trace, plan.fleet, policy, seed=plan.seed, settings=plan.settings, reference=reference).run()
    run.policy = plan.policy
    return Result(plan, run, summarize(run, trace, plan.slo))


def carry_out_all(plans: Sequence[Plan], jobs: int) -> Iterator[Result]:
    """Every plan, in order; `jobs` processes, 1: in this one."""
    if jobs <= 1 or len(plans) == 1:
        yield from map(carry_out, plans)
        return
    # "spawn": the parent may have threads (progress bars do), and a fork of those can hang.
    with multiprocessing.get_context("spawn").Pool(min(jobs, len(plans))) as pool:
        yield from pool.imap(carry_out, plans, chunksize=1)


def plans(
    source: Source,
    policies: Sequence[str],
    fleets: Sequence[Fleet],
    seeds: Sequence[int],
    speedups: Sequence[float],
    settings: Settings,
    slo: Slo,
) -> list[Plan]:
    """All combinations, those that share a trace side by side; PolicyError for a policy that cannot be made."""
    for policy in policies:
        make_policy(policy)
    return [
        Plan(source, policy, fleet, seed, speedup, settings, slo)
        for speedup in speedups
        for seed in seeds
        for fleet in fleets
        for policy in policies
    ]
