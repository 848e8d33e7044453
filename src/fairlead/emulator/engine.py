"""The engine step model: what does an engine with this profile do with these requests, and how long does it take?

Rule 1: pure. No clock, no I/O, no randomness: time comes in as `now`, results go out as values.
Rule 2: one step serves running requests first (a decode takes one token, an unfinished prompt as much as the token
budget leaves), then admits waiting ones in order of arrival while budget, sequences and KV blocks last.
Rule 3: when a running request needs a block and none is free, the newest running request is preempted: it loses
its blocks, goes to the head of the queue and is computed again later.
Rule 4: a request waits for admission until the blocks of all its known tokens are free at once.

This is vLLM V1's scheduler with chunked prefill and prefix caching on. Two ways to drive it, not to be mixed:
`begin_step`/`end_step` (or `step`) for a host that lives in real time, and `next_event`/`advance` for
virtual time, where runs of unchanged decode steps are taken in one closed-form jump.
"""

from __future__ import annotations

import math
from collections import deque

from fairlead.core.model import EngineStats
from fairlead.emulator.kvcache import BlockPool
from fairlead.emulator.profiles import Profile
from fairlead.emulator.quiet import QuietRun, apply_blocks, quiet_run
from fairlead.emulator.work import Counters, EmulatedRequest, Output, RequestId, StepResult, Work


class RequestTooLong(ValueError):
    """The request can never fit this engine, however empty it is."""


class Engine:
    """One engine instance. `slowdown` multiplies the time of steps that begin after it is set."""

    __slots__ = (
        "_blocked",
        "_decodes",
        "_duration",
        "_in_flight",
        "_live",
        "_prefills",
        "_quiet",
        "_running",
        "_slowdown",
        "_waiting",
        "clock",
        "counters",
        "pool",
        "profile",
    )

    def __init__(self, profile: Profile, *, slowdown: float = 1.0) -> None:
        self.profile = profile
        self.pool = BlockPool(profile.kv_blocks)
        self.counters = Counters()
        self.clock = 0.0  # end of the last finished step, or start of the one in flight
        self._slowdown = slowdown
        self._live: dict[RequestId, Work] = {}
        self._running: list[Work] = []  # in order of admission
        self._waiting: deque[Work] = deque()
        self._blocked: Work | None = None  # head of the queue that found too few blocks; asks again when some are freed
        self._in_flight = False
        self._duration = 0.0  # of the step in flight
        self._decodes: list[Work] = []  # what the step in flight works on
        self._prefills: list[tuple[Work, int]] = []
        self._quiet: QuietRun | None = None  # steps known to hold no event, not yet applied

    def __repr__(self) -> str:
        return f"Engine({self.profile.name}, running={self.running}, waiting={self.waiting}, clock={self.clock:.6f})"

    # -- gauges

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def kv_usage(self) -> float:
        """Share of the KV blocks held by requests, 0..1."""
        return 1.0 - self.pool.free / self.pool.size

    @property
    def in_flight(self) -> bool:
        """A step has begun and not ended."""
        return self._in_flight

    @property
    def is_idle(self) -> bool:
        return not (self._running or self._waiting or self._in_flight)

    def stats(self, now: float | None = None) -> EngineStats:
        """What the engine's own metrics would say at `now`; constant time.

        Inside a quiet run the KV usage is interpolated: it may be off by one block per running request.
        """
        counters, generated, used = self.counters, self.counters.generation_tokens, self.pool.size - self.pool.free
        quiet = self._quiet
        if quiet is not None and now is not None:
            steps = quiet.steps_within(now - self.clock)
            generated += steps * len(self._running)
            used = min(self.pool.size, used + steps * len(self._running) // self.profile.block_tokens)
        return EngineStats(
            waiting=len(self._waiting),
            running=len(self._running),
            kv_usage=used / self.pool.size,
            block_tokens=self.profile.block_tokens,
            kv_blocks=self.pool.size,
            prefix_queries=counters.prefix_queries,
            prefix_hits=counters.prefix_hits,
            prompt_tokens=counters.prompt_tokens,
            generation_tokens=generated,
        )

    # -- requests in and out

    def submit(self, request: EmulatedRequest, now: float) -> None:
        """Queue a request. In virtual time call `advance(now)` first, so that nothing due before it is late."""
        if request.prompt_tokens < 1 or request.output_tokens < 0:
            raise ValueError(f"request {request.id!r}: prompt_tokens must be >= 1 and output_tokens >= 0")
        if request.id in self._live:
            raise ValueError(f"request {request.id!r} is already in the engine")
        total = request.prompt_tokens + request.output_tokens
        if total > self.pool.size * self.profile.block_tokens:
            raise RequestTooLong(f"request {request.id!r}: {total} tokens, the KV cache holds {self.profile.kv_tokens}")
        self._settle(now)
        if self.is_idle:
            self.clock = max(self.clock, now)
        work = Work(request)
        self._live[request.id] = work
        self._waiting.append(work)
        self.counters.submitted += 1

    def abort(self, request_id: RequestId, now: float | None = None) -> bool:
        """Drop a request and free its blocks at once; False if it is not here. A step in flight keeps its length."""
        work = self._live.get(request_id)
        if work is None:
            return False
        if now is not None:
            self._settle(now)
        if work in self._running:
            self._running.remove(work)
        else:
            self._waiting.remove(work)
        self._release(work)
        self.counters.aborted += 1
        return True

    def reset_prefix_cache(self) -> bool:
        """Forget all cached prefixes; False, and nothing done, while a request holds blocks."""
        return self.pool.forget_all()

    def set_slowdown(self, factor: float, now: float | None = None) -> None:
        """From the next step on, steps take `factor` times as long."""
        if not factor > 0:
            raise ValueError(f"slowdown must be above 0, got {factor!r}")
        if now is not None:
            self._settle(now)
        self._slowdown = factor
        self._quiet = None

    # -- stepping

    def step(self) -> StepResult | None:
        """Run one whole step; None when there is nothing to do."""
        if self.begin_step() is None:
            return None
        return self.end_step()

    def begin_step(self) -> float | None:
        """Choose what the next step works on; its length in seconds, or None when there is nothing to do."""
        if self._in_flight:
            raise RuntimeError("a step is in flight; end it first")
        if not (self._running or self._waiting):
            return None
        profile, pool, running = self.profile, self.pool, self._running
        budget, size = profile.token_budget, profile.block_tokens
        decodes: list[Work] = []
        prefills: list[tuple[Work, int]] = []
        prefill_tokens, attended, read = 0, 0.0, 0
        preempted, index = False, 0
        while index < len(running) and budget:
            work = running[index]
            computed = work.computed
            rest = work.prompt + work.generated - computed
            chunk = rest if rest <= budget else budget
            missing = (computed + chunk + size - 1) // size - len(work.table)
            if missing > 0:
                while missing > pool.free:
                    preempted = True
                    victim = self._preempt_newest()
                    if victim is work:
                        break
                else:
                    pool.take(work.table, missing)
                if index == len(running):  # it preempted itself
                    break
            self._remember(work, computed + chunk)
            if rest == 1 and work.generated:
                decodes.append(work)
                read += computed
            else:
                prefills.append((work, chunk))
                prefill_tokens += chunk
                attended += chunk * (computed + chunk / 2)
            budget -= chunk
            index += 1
        while self._waiting and budget and not preempted and len(running) < profile.max_num_seqs:
            work = self._waiting[0]
            if work is self._blocked or not self._admit(work):
                self._blocked = work
                break
            computed = work.computed
            chunk = min(work.prompt + work.generated - computed, budget)
            pool.take(work.table, (computed + chunk + size - 1) // size - len(work.table))
            self._remember(work, computed + chunk)
            prefills.append((work, chunk))
            prefill_tokens += chunk
            attended += chunk * (computed + chunk / 2)
            budget -= chunk
        if prefills:
            self._blocked = None  # new blocks may have become shareable: the head of the queue may ask again
        self._decodes, self._prefills, self._quiet = decodes, prefills, None
        sequences = len(decodes) + len(prefills)
        self._duration = self._slowdown * profile.step_seconds(prefill_tokens, attended, read, sequences)
        self._in_flight = True
        return self._duration

    def end_step(self, *, only_events: bool = False) -> StepResult:
        """Finish the step in flight. With `only_events`, outputs are first tokens and ends, not every token."""
        if not self._in_flight:
            raise RuntimeError("no step is in flight")
        self._in_flight = False
        result = StepResult(self.clock, self._duration, [])
        outputs, counters = result.outputs, self.counters
        ended: list[Work] = []
        tokens = 0
        for work in self._decodes:
            if work.done:  # aborted while the step ran
                continue
            work.computed += 1
            work.generated += 1
            tokens += 1
            if work.generated == work.output:
                ended.append(work)
                outputs.append(Output(work.id, 1, True, None))
            elif not only_events:
                outputs.append(Output(work.id, 1, False, None))
        for work, chunk in self._prefills:
            if work.done:
                continue
            work.computed += chunk
            if work.computed < work.prompt + work.generated:
                continue
            cached = None
            if not work.generated:
                counters.prompt_tokens += work.prompt
                cached = work.cached
            new = 1 if work.output else 0
            work.generated += new
            tokens += new
            finished = work.generated == work.output
            if finished:
                ended.append(work)
            if finished or cached is not None or not only_events:
                outputs.append(Output(work.id, new, finished, cached))
        counters.generation_tokens += tokens
        counters.steps += 1
        counters.busy_seconds += self._duration
        self.clock += self._duration
        if ended:
            for work in ended:
                self._release(work)
            counters.finished += len(ended)
            self._running = [work for work in self._running if not work.done]
        return result

    # -- virtual time

    def next_event(self) -> float:
        """When `advance` is next worth calling if nothing is submitted or aborted before; inf when idle."""
        if self._in_flight:
            return self.clock + self._duration
        if not (self._running or self._waiting):
            return math.inf
        quiet = self._quiet_run()
        if not quiet.steps:
            return self.clock
        return self.clock + quiet.seconds(quiet.steps + (1 if quiet.ends_with_finish else 0))

    def advance(self, now: float) -> list[StepResult]:
        """Run everything that is due: steps that begin at or before `now` begin, steps that end by then end.

        Returns the steps in which a first token appeared or a request finished, with only these outputs.
        A request submitted at `now` after this call waits for the step that has just begun, as in an engine.
        """
        results: list[StepResult] = []
        while True:
            if self._in_flight:
                if self.clock + self._duration > now:
                    return results
                result = self.end_step(only_events=True)
                if result.outputs:
                    results.append(result)
            if not (self._running or self._waiting) or self.clock > now:
                return results
            quiet = self._quiet_run()
            if quiet.steps:
                if self.clock + quiet.seconds(quiet.steps) > now:
                    return results  # nothing to tell yet: the run stays unapplied until somebody interferes
                self._jump(quiet.steps)
            self.begin_step()

    def _quiet_run(self) -> QuietRun:
        """The coming steps that change nothing but counts: no end, no admission, no preemption."""
        if self._quiet is None:
            waiting, running = self._waiting, self._running
            may_admit = (
                waiting
                and waiting[0] is not self._blocked
                and len(running) < min(self.profile.max_num_seqs, self.profile.token_budget)
            )
            self._quiet = QuietRun() if may_admit else quiet_run(running, self.profile, self.pool.free, self._slowdown)
        return self._quiet

    def _settle(self, now: float) -> None:
        """Before the batch may change at `now`: apply the quiet steps that are over and begin the one in progress."""
        quiet, self._quiet = self._quiet, None
        if quiet is None or not quiet.steps or self._in_flight:
            return
        self._quiet = quiet
        self._jump(quiet.steps_within(now - self.clock))
        if self.clock < now:
            self.begin_step()

    def _jump(self, steps: int) -> None:
        """Apply `steps` steps of the quiet run at once; equal to stepping them one by one."""
        quiet, self._quiet = self._quiet, None
        if quiet is None or not steps:
            return
        apply_blocks(self._running, self.pool, self.profile.block_tokens, steps)
        for work in self._running:
            work.computed += steps
            work.generated += steps
        seconds = quiet.seconds(steps)
        self.clock += seconds
        self.counters.busy_seconds += seconds
        self.counters.steps += steps
        self.counters.generation_tokens += steps * len(self._running)

    def progress(self, now: float) -> list[tuple[RequestId, int]]:
        """Output tokens of every running request at `now`, in virtual time: those of an unapplied quiet run too."""
        extra = 0
        if self._quiet is not None and not self._in_flight:
            extra = self._quiet.steps_within(now - self.clock)
        return [(work.id, work.generated + extra) for work in self._running if work.generated]

    # -- blocks

    def _admit(self, work: Work) -> bool:
        """Move the head of the queue into the batch if the blocks of all its known tokens are to be had."""
        size, pool = self.profile.block_tokens, self.pool
        known = work.prompt + work.generated
        hit, idle = pool.match(work.hashes, (known - 1) // size)  # the last token is always computed
        if -(-known // size) - hit + idle > pool.free:
            return False
        self._waiting.popleft()
        self._running.append(work)
        work.table = pool.share(work.hashes, hit)
        work.named, work.computed = hit, hit * size
        if work.cached < 0:  # vLLM keeps the look-ups of preempted requests out of these counters
            work.cached = hit * size
            self.counters.prefix_queries += work.prompt
            self.counters.prefix_hits += work.cached
        return True

    def _remember(self, work: Work, tokens: int) -> None:
        """Publish the blocks that are full once `tokens` tokens are computed (vLLM does so when it schedules them)."""
        if work.named < len(work.hashes):
            full = min(tokens // self.profile.block_tokens, len(work.hashes))
            if full > work.named:
                self.pool.remember(work.table, work.hashes, work.named, full)
                work.named = full

    def _preempt_newest(self) -> Work:
        work = self._running.pop()
        self.pool.give_back(work.table)
        work.computed = work.named = 0
        self._waiting.appendleft(work)
        self._blocked = None
        self.counters.preemptions += 1
        return work

    def _release(self, work: Work) -> None:
        work.done = True
        del self._live[work.id]
        self.pool.give_back(work.table)
        self._blocked = self._quiet = None
