"""Many runs at once: policies x fleets x rates x seeds, spread over processes, results in a fixed order.

Rule 1: whatever is wrong is found before anything runs: `plans` makes each policy once and looks at every fleet.
Rule 2: a `Plan` is cheap to send to another process; traces are read or made there, and what comes back is figures,
and the single outcomes only where somebody will draw them.
Rule 3: nothing is combined that differs: a trace at another rate has another name, and what is asked twice runs once.
"""

from __future__ import annotations

import functools
import inspect
import math
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from difflib import get_close_matches
from multiprocessing.connection import wait
from typing import Final

from fairlead.core.policies.registry import POLICIES
from fairlead.core.view import Policy
from fairlead.emulator.profiles import PROFILES
from fairlead.sim.fleet import Fleet, check_faults
from fairlead.sim.host import Settings, Simulation
from fairlead.sim.readers import read_trace
from fairlead.sim.rivals.registry import RIVALS
from fairlead.sim.summary import Slo, Summary, summarize
from fairlead.sim.trace import NO_REQUEST, Run, Trace
from fairlead.sim.workload import KINDS, generate, parse_workload

LIMITS: Final = {
    "expected_completion": (0.0, 1.0),
    "prefix_cache": (1.0, 10.0),
    "prefix_hash": (1.0, 10.0),
    "session": (1.0, 2_592_000.0),
}
"""Ranges of the options, as the configuration has them (each of these policies has one)."""

DEFAULT_PROFILE: Final = "h100-8b"
BUSY: Final = 0.7  # how busy a fleet that nobody has named should be
BATCH: Final = 32  # requests that share a decode step then
PER_MACHINE: Final = 8  # clients in a closed loop: more machines than that would stand idle
FEWEST, MOST = 2, 64  # machines of such a fleet


class PolicyError(ValueError):
    """A policy or option that does not exist; the message says what to write."""


class RunError(Exception):
    """A process was lost in the middle of its run, through no fault of the input."""


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
        if self.is_made:
            trace = self._made(seed, speedup)
        else:
            trace = read_trace(
                self.text, skip_bad=self.skip_bad, seed=seed, limit=self.limit, spread=self.spread, speedup=speedup
            )
        return trace if speedup == 1.0 else replace(trace, name=f"{trace.name} x{speedup:g}")

    def _made(self, seed: int, speedup: float) -> Trace:
        trace = generate(parse_workload(self.text), seed)
        if self.limit is not None and self.limit < len(trace.requests):  # a request stands behind the one it waits for
            notes = (*trace.notes, f"Only its first {self.limit:,} requests.")
            trace = replace(trace, requests=trace.requests[: self.limit], notes=notes)
        if speedup != 1.0:  # what people do between two requests takes as long as ever
            requests = [r if r.after != NO_REQUEST else replace(r, at=r.at / speedup) for r in trace.requests]
            notes = (*trace.notes, f"Times of first requests are divided by {speedup:g}; pauses stay as they are.")
            trace = replace(trace, requests=requests, notes=notes)
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
    detailed: bool = False  # are the single outcomes wanted, for charts? They weigh a thousand times the figures


@dataclass(frozen=True, slots=True)
class Result:
    """What came out of one plan."""

    plan: Plan
    run: Run  # without outcomes and samples unless the plan is a detailed one
    summary: Summary


# --- what to run -----------------------------------------------------------------------------------------------


def make_policy(text: str) -> tuple[Policy, bool]:
    """(the policy, is it a reference rule?) of NAME or NAME:option=value,...; PolicyError says what is wrong."""
    name, _, options = text.partition(":")
    known: dict[str, Callable[..., Policy]] = {**POLICIES, **RIVALS}
    rule = known.get(name)
    if rule is None:
        near = get_close_matches(name, known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
        raise PolicyError(f"unknown policy {name!r}; {hint}")
    given: dict[str, float] = {}
    # A rival's options are part of which rule it is; only Fairlead's own policies take any.
    taken = list(inspect.signature(rule).parameters) if name in POLICIES else []
    low, high = LIMITS.get(name, (-math.inf, math.inf))
    for part in filter(None, options.split(",")):
        key, equals, value = part.partition("=")
        if key not in taken or not equals:
            what = f"it takes {', '.join(taken)}" if taken else "it takes none"
            raise PolicyError(f"policy {text!r}: {part!r} is no option of {name}; {what} (write NAME:option=value)")
        if key in given:
            raise PolicyError(f"policy {text!r}: {key} is given twice")
        try:
            given[key] = float(value)
        except ValueError:
            raise PolicyError(f"policy {text!r}: {key}: {value!r} is no number") from None
        if not low <= given[key] <= high:
            raise PolicyError(f"policy {text!r}: {key} must be between {low:g} and {high:g}")
    return rule(**given), name in RIVALS


def default_fleet(trace: Trace) -> str:
    """How many machines of the default profile this traffic keeps busy, as people would write it; no cache helps."""
    machine = PROFILES[DEFAULT_PROFILE]
    work = 0.0
    for request in trace.requests:
        work += request.prompt * (machine.prefill + machine.attention * request.prompt / 2)
        work += request.output * (machine.base / BATCH + machine.sequence + machine.kv_read * request.prompt)
    heads = sum(request.after == NO_REQUEST for request in trace.requests)
    by_clients = math.ceil(heads / PER_MACHINE)  # all that can be under way at once, where each waits for its answer
    by_rate = math.ceil(min(work / (trace.seconds * BUSY), MOST)) if trace.seconds else MOST
    return f"{DEFAULT_PROFILE}:{min(max(min(by_rate, by_clients), FEWEST), MOST)}"


def plans(
    source: Source,
    policies: Sequence[str],
    fleets: Sequence[Fleet],
    seeds: Sequence[int],
    speedups: Sequence[float],
    settings: Settings,
    slo: Slo,
    *,
    detailed: bool = False,
) -> list[Plan]:
    """All combinations, those that share a trace side by side; PolicyError, FleetError or a trace's own error."""
    for policy in policies:
        make_policy(policy)
    block_tokens = trace_of(source, seeds[0], speedups[0]).block_tokens
    for fleet in fleets:
        check_faults(fleet.faults)
        fleet.for_blocks(block_tokens)
    return [
        Plan(source, policy, fleet, seed, speedup, settings, slo, detailed)
        for speedup in dict.fromkeys(speedups)
        for seed in dict.fromkeys(seeds)
        for fleet in dict.fromkeys(fleets)
        for policy in dict.fromkeys(policies)
    ]


@functools.lru_cache(maxsize=2)
def trace_of(source: Source, seed: int, speedup: float) -> Trace:
    """As `source.trace`; the last two are kept."""
    return source.trace(seed, speedup)


# --- running it ------------------------------------------------------------------------------------------------


def carry_out(plan: Plan, tell: Callable[[float], None] | None = None) -> Result:
    """One run, in whatever process; `tell` hears now and then what share of its requests has ended."""
    trace = trace_of(plan.source, plan.seed, plan.speedup)
    policy, reference = make_policy(plan.policy)
    fleet, offered = plan.fleet.for_blocks(trace.block_tokens), len(trace.requests)
    simulation = Simulation(trace, fleet, policy, seed=plan.seed, settings=plan.settings, reference=reference)
    run = simulation.run(None if tell is None else lambda ended: tell(ended / offered))
    run.policy = plan.policy
    summary = summarize(run, trace, plan.slo)
    return Result(plan, run if plan.detailed else replace(run, outcomes=[], samples=[]), summary)


def carry_out_all(
    plans: Sequence[Plan], jobs: int = 1, tell: Callable[[float], None] | None = None
) -> Generator[Result, None, None]:
    """Every plan, in order; `jobs` processes, 1: in this one. `tell` hears how many are done. RunError.

    Close the iterator if you stop early: that ends the processes.
    """
    if jobs <= 1 or len(plans) == 1:
        for before, plan in enumerate(plans):
            yield carry_out(plan, None if tell is None else functools.partial(_tell_more, tell, before))
            if tell is not None:
                tell(before + 1)
        return
    with closing(_in_processes(plans, min(jobs, len(plans)))) as results:
        for done, result in enumerate(results, 1):
            if tell is not None:
                tell(done)
            yield result


def _tell_more(tell: Callable[[float], None], before: int, share: float) -> None:
    tell(before + share)


def _in_processes(plans: Sequence[Plan], jobs: int) -> Generator[Result, None, None]:
    # "spawn": the parent may have threads (progress bars do), and a fork of those can hang.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(jobs, mp_context=context, initializer=_end_with_the_parent)
    others = set(multiprocessing.active_children())
    finished = False
    try:
        with _deaf_to_interrupts():  # the processes inherit it: Ctrl-C is the parent's business alone
            waiting: list[Future[Result]] = [pool.submit(carry_out, plan) for plan in plans]
        waiting.reverse()
        while waiting:  # what has been handed out is not kept here
            yield waiting.pop().result()
        finished = True
    except BrokenProcessPool:
        raise RunError(
            "a process was ended from outside, perhaps for want of memory: try fewer --jobs or a --limit"
        ) from None
    finally:
        if not finished:
            for process in set(multiprocessing.active_children()) - others:
                process.kill()
        pool.shutdown(cancel_futures=True)


@contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_with_the_parent() -> None:
    """A parent that was killed cannot tell its processes to end, and they would wait for work for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
