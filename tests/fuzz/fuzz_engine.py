"""Which inputs are worth keeping? A coverage-guided loop of our own, and the counting of a target's steps.

It needs nothing but Python: lines of the fuzzed modules that run are traced, and an input that reaches a new pair
of lines (one behind the other) joins the corpus. It sees less than atheris, which also learns from comparisons that
fail, and it is there on every machine.
"""

from __future__ import annotations

import random
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from fuzz_mutate import mutate
from fuzz_targets import Target

import fairlead

SOURCE = str(Path(fairlead.__file__).parent)
SLOW = 0.05  # seconds; the bound of the project's figures
MOST_FAULTS = 50  # kinds of them, after which a run ends
TRACED = 4  # of so many inputs one is traced: tracing costs most of the time


@dataclass
class Report:
    """What a run did."""

    target: str
    engine: str
    tried: int = 0
    seconds: float = 0.0
    slow: int = 0  # inputs that took longer than SLOW, with the clock of the process
    slowest: float = 0.0
    crashes: list[tuple[bytes, str]] = field(default_factory=list)
    found: list[bytes] = field(default_factory=list)  # inputs that reached something new
    forwarded: int = 0  # by the differential check: requests that the upstream received


def kind_of(fault: Exception) -> str:
    """Faults of one kind are told once: numbers aside, they begin alike."""
    return re.sub(r"[0-9]+", "0", f"{type(fault).__name__}: {str(fault)[:60]}")


def lines_run(call: Callable[[], object], modules: tuple[str, ...] = ()) -> tuple[int, set[tuple[str, int, int]]]:
    """(lines of fairlead's code that ran, pairs of lines that followed each other)."""
    count = 0
    pairs: set[tuple[str, int, int]] = set()
    parts = tuple(f"{SOURCE}/{name.removeprefix('fairlead.').replace('.', '/')}" for name in modules) or (SOURCE,)

    def enter(frame: FrameType, event: str, arg: Any) -> Any:
        file = frame.f_code.co_filename
        if not file.startswith(parts):
            return None
        before = -frame.f_code.co_firstlineno

        def step(frame: FrameType, event: str, arg: Any) -> Any:
            nonlocal count, before
            if event == "line":
                count += 1
                pairs.add((file, before, frame.f_lineno))
                before = frame.f_lineno
            return step

        return step

    old = sys.gettrace()
    sys.settrace(enter)
    try:
        call()
    finally:
        sys.settrace(old)
    return count, pairs


def fuzz(
    target: Target, seconds: float, seed: int, most: int = sys.maxsize, traced: int = TRACED, faults: int = MOST_FAULTS
) -> Report:
    """Mutate the corpus for so long, or for so many inputs or faults; each kind of fault counts once.

    One of `traced` inputs is looked at for new coverage (0: none), and joins what is mutated.
    """
    rng = random.Random(f"{target.name} {seed}")
    pool = [data for _, data in target.corpus()]
    report = Report(target.name, "own")
    seen: set[tuple[str, int, int]] = set()
    kinds: set[str] = set()
    for data in pool if traced else []:
        seen |= lines_run(lambda data=data: _quiet(target, data), target.modules)[1]  # type: ignore[misc]
    began = time.monotonic()
    while time.monotonic() - began < seconds and report.tried < most and len(report.crashes) < faults:
        data = mutate(rng.choice(pool), rng, target.words, pool)
        at = time.process_time()
        try:
            target.run(data)
        except Exception as fault:
            kind = kind_of(fault)
            if kind not in kinds:
                kinds.add(kind)
                report.crashes.append((data, f"{type(fault).__name__}: {str(fault)[:2_000]}"))
        took = time.process_time() - at
        report.slowest = max(report.slowest, took)
        report.slow += took > SLOW
        report.tried += 1
        if traced and report.tried % traced == 0:
            pairs = lines_run(lambda data=data: _quiet(target, data), target.modules)[1]  # type: ignore[misc]
            if not pairs <= seen:
                seen |= pairs
                pool.append(data)
                report.found.append(data)
    report.seconds = time.monotonic() - began
    return report


def _quiet(target: Target, data: bytes) -> None:
    try:
        target.run(data)
    except Exception:
        return  # counted where it was run untraced
