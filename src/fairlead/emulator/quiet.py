"""Quiet runs: how many coming steps change nothing but counts, how long do they take, which blocks do they fill?

Rule 1: a quiet step decodes one token for every running request; nothing ends, nothing enters, nothing is preempted.
Rule 2: applying a run at once leaves the same state as its steps one by one, the order of forgotten blocks included.

With n requests that hold K tokens together, the j-th step (from 0) takes base + s*n + k*(K + n*j): an arithmetic
series, so a whole run is summed, and the number of steps in a time solved, in closed form.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fairlead.emulator.kvcache import BlockPool
from fairlead.emulator.profiles import Profile
from fairlead.emulator.work import Work


@dataclass(frozen=True, slots=True)
class QuietRun:
    """`steps` steps of `first` + j * `growth` seconds each, j = 0, 1, ..."""

    steps: int = 0
    first: float = 0.0
    growth: float = 0.0
    ends_with_finish: bool = False  # the step after the run is one more of the series, in which a request finishes

    def seconds(self, steps: int) -> float:
        """Time of the first `steps` steps (defined for one step more than the run has)."""
        return steps * (self.first + self.growth * (steps - 1) / 2)

    def steps_within(self, seconds: float) -> int:
        """How many steps of the run have ended after `seconds`."""
        if seconds <= 0 or not self.steps:
            return 0
        # growth/2 * j^2 + (first - growth/2) * j = seconds, in the form that is stable for a small growth
        linear = self.first - self.growth / 2
        root = 2 * seconds / (linear + math.sqrt(linear * linear + 2 * self.growth * seconds))
        steps = min(int(root), self.steps)
        while steps < self.steps and self.seconds(steps + 1) <= seconds:  # the root may be one off by rounding
            steps += 1
        while steps and self.seconds(steps) > seconds:
            steps -= 1
        return steps


def quiet_run(running: Sequence[Work], profile: Profile, free: int, slowdown: float) -> QuietRun:
    """The quiet run that these requests have before them with `free` blocks left; no steps if there is none."""
    count = len(running)
    if not count or count > profile.token_budget:
        return QuietRun()
    held = 0
    left = running[0].output - running[0].generated
    for work in reversed(running):  # requests in prefill are mostly the newest
        if not work.generated or work.prompt + work.generated - work.computed != 1:
            return QuietRun()
        held += work.computed
        if work.output - work.generated < left:
            left = work.output - work.generated
    steps, size = left - 1, profile.block_tokens
    ends_with_finish = True
    if count * (steps // size + 2) > free and _blocks_needed(running, size, steps + 1) > free:
        ends_with_finish = False
        low, high = 0, steps  # most steps whose blocks are free: `low` fits, `high + 1` does not
        while low < high:
            middle = (low + high + 1) // 2
            if _blocks_needed(running, size, middle) <= free:
                low = middle
            else:
                high = middle - 1
        steps = low
    first = profile.step_seconds(0, 0.0, held, count) * slowdown
    return QuietRun(steps, first, profile.kv_read * count * slowdown, ends_with_finish)


def _blocks_needed(running: Sequence[Work], size: int, steps: int) -> int:
    needed = 0
    for work in running:
        needed += (work.computed + steps + size - 1) // size - len(work.table)
    return needed


def apply_blocks(running: Sequence[Work], pool: BlockPool, size: int, steps: int) -> None:
    """Give the running requests the blocks that `steps` decode steps fill, and publish those that have hashes."""
    named = False
    for work in running:
        if work.named < len(work.hashes) and (work.computed + steps) // size > work.named:
            named = True
            break
    if named:
        _apply_in_order(running, pool, size, steps)
        return
    for work in running:  # nobody publishes, so which request takes a block first cannot matter
        missing = (work.computed + steps + size - 1) // size - len(work.table)
        if missing > 0:
            pool.take(work.table, missing)


def _apply_in_order(running: Sequence[Work], pool: BlockPool, size: int, steps: int) -> None:
    """The same with blocks taken and published in the order in which single steps would do it."""
    events: list[tuple[int, int, int, int]] = []  # step, place in the batch, 0 = take or 1 = publish, block
    for place, work in enumerate(running):
        computed = work.computed
        for block in range(len(work.table), (computed + steps + size - 1) // size):
            events.append((block * size - computed, place, 0, block))
        for block in range(work.named, min((computed + steps) // size, len(work.hashes))):
            events.append(((block + 1) * size - 1 - computed, place, 1, block))
    events.sort()
    for _, place, publish, block in events:
        work = running[place]
        if publish:
            pool.remember(work.table, work.hashes, block, block + 1)
            work.named = block + 1
        else:
            pool.take(work.table, 1)
