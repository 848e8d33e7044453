"""Host 3: the brain over emulated engines in virtual time. What would this policy do with this traffic?

Drives the same `Balancer`, policies and health objects as the proxy; what is simulated is the traffic (a trace),
the engines (emulator/engine.py) and what lies between (scrapes, probes, refused connections).
Rule 1: deterministic. Events go by time, then in the order in which they were made; all chance comes from the seed.
Rule 2: nothing is done that nobody can see. The balancer is ticked and the engines are scraped just before the arrivals
that could notice, not ten times a second of virtual time; decode steps that change nothing are taken in one jump.
"""

from __future__ import annotations

import heapq
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Final

from fairlead.core import balancer as brain
from fairlead.core.balancer import Balancer
from fairlead.core.cluster.ledger import Lease
from fairlead.core.model import Facts, Kind, Usage
from fairlead.core.retry import CONNECT
from fairlead.core.view import Policy
from fairlead.emulator.work import EmulatedRequest, StepResult
from fairlead.sim.fleet import CRASH, FREEZE, JOIN, LEAVE, RESET, SLOW, Fault, Fleet
from fairlead.sim.machine import Machine
from fairlead.sim.trace import FAILED, NO_REQUEST, OK, REFUSED, UNFINISHED, Outcome, Run, Sample, Trace

MODEL: Final = "m"
BYTES_PER_TOKEN: Final = 4
TICK: Final = 0.1  # seconds, as in the proxy
SAMPLES: Final = 240  # readings of the fleet over a run
HURRY: Final = 0.25  # seconds from a failed connection to the next probe, as in feeds/watch.py
PROBE: Final = 1.0  # seconds between probes of a backend that is down
MAX_BYTES: Final = 1 << 28  # of a prompt


@dataclass(frozen=True, slots=True)
class Settings:
    """What lies between balancer and engines. Seconds."""

    scrape: float = 0.1  # between two readings of the engines' metrics; 0: never read
    cached_tokens: bool = True  # do answers tell their cached tokens?
    overhead: float = 0.0  # from the balancer's choice to the engine's queue, and tokenizing


class Simulation:
    """One run. `run()` once."""

    def __init__(
        self,
        trace: Trace,
        fleet: Fleet,
        policy: Policy,
        *,
        seed: int = 1,
        settings: Settings | None = None,
        reference: bool = False,
    ) -> None:
        self.trace = trace
        self.settings = settings or Settings()
        self.balancer = Balancer(policy, Random(seed))  # noqa: S311 -- no secret
        self.now = 0.0
        self.outcomes = [Outcome(i, 0.0) for i in range(len(trace.requests))]
        members = fleet.members
        self._backends = [Machine(i, m, trace.block_tokens) for i, m in enumerate(members)]
        self._by_name = {b.name: b for b in self._backends}
        self._weights = {m.name: m.weight for m in members}
        # Every machine serves whatever the trace asks for.
        self._models = frozenset(r.model or MODEL for r in trace.requests) or frozenset((MODEL,))
        self._placed = [0] * len(members)  # by machine, also of those that have left
        self.result = Run(
            trace.name, policy.name, fleet.text, seed, [m.name for m in members], [m.profile.name for m in members],
            reference=reference,
        )  # fmt: skip
        block = trace.block_tokens * BYTES_PER_TOKEN
        self._ends = range(block, MAX_BYTES, block)
        self._events: list[tuple[float, int, Callable[..., None], tuple[object, ...]]] = []
        self._order = 0
        self._arrivals: list[tuple[float, int, int]] = []  # (time, order, request), a heap
        self._followers: dict[int, list[int]] = {}
        self._tried: dict[int, tuple[str, ...]] = {}  # by request: backends that failed it
        self._breaks: dict[int, int] = {}  # and how many broke under it
        self._ticked_at = self._scraped_at = -math.inf
        self._open = 0  # requests arrived and not ended
        self._left = len(trace.requests)
        self._sample_every = max(trace.seconds / SAMPLES, 1.0)
        self._next_sample = 0.0
        late = {f.backend for f in fleet.faults if f.kind == JOIN}
        for backend in self._backends:
            if backend.name not in late:
                self._join(backend)
        for fault in fleet.faults:
            self._at(fault.at, self._fault, fault)
        for i, request in enumerate(trace.requests):
            if request.after == NO_REQUEST:
                self._arrive_at(request.at, i)
            else:
                self._followers.setdefault(request.after, []).append(i)

    # --- the loop --------------------------------------------------------------------------------------------

    def run(self, progress: Callable[[int], None] | None = None) -> Run:
        """Until every request has ended; `progress` is told the number of requests that have, now and then."""
        begun = time.perf_counter()
        events, arrivals, told = self._events, self._arrivals, self._left
        while self._left:
            arrival = arrivals[0][0] if arrivals else math.inf
            if not arrivals and not self._open:
                break
            scrape = self._scrape_due(arrival)
            if events and events[0][0] <= min(arrival, scrape):
                at, _, action, arguments = heapq.heappop(events)
                self._pass(at)
                action(*arguments)
            elif scrape <= arrival and scrape < math.inf:
                self._pass(scrape)
                self._scrape()
            elif arrivals:
                at, _, request = heapq.heappop(arrivals)
                self._pass(at)
                self._arrive(request)
            else:
                break  # nothing can happen any more: a frozen or crashed fleet
            if progress is not None and told - self._left >= 100:
                told = self._left
                progress(len(self.outcomes) - self._left)
        for lease in list(self.balancer.ledger.leases):  # what a standing fleet still holds
            self.balancer.finish(lease, brain.ABANDONED, self.now)
        for outcome in self.outcomes:
            if outcome.status == UNFINISHED and outcome.tries:
                outcome.ended = self.now
        run = self.result
        run.outcomes = self.outcomes
        run.simulated_seconds = self.now
        run.preemptions += sum(b.engine.counters.preemptions for b in self._backends)
        run.wall_seconds = time.perf_counter() - begun
        return run

    def _pass(self, at: float) -> None:
        self.now = at
        samples = self.result.samples
        while at >= self._next_sample:
            self._sample(self._next_sample)
            if len(samples) >= 2 * SAMPLES:  # it takes longer than thought: half as many, at twice the distance
                del samples[1::2]
                self._sample_every *= 2
            self._next_sample = samples[-1].at + self._sample_every

    def _at(self, at: float, action: Callable[..., None], *arguments: object) -> None:
        self._order += 1
        heapq.heappush(self._events, (at, self._order, action, arguments))

    def _arrive_at(self, at: float, request: int) -> None:
        self._order += 1
        heapq.heappush(self._arrivals, (at, self._order, request))

    # --- requests --------------------------------------------------------------------------------------------

    def facts(self, index: int) -> Facts:
        """What the balancer is told of a request; a host that has the bodies may know better."""
        request = self.trace.requests[index]
        span = request.prompt * BYTES_PER_TOKEN
        return Facts(
            Kind.CHAT if request.output else Kind.PROMPT_ONLY,
            request.model or MODEL,
            prompt_bytes=span,
            max_tokens=request.max_tokens,
            stream=True,
            blocks=request.blocks,
            block_ends=self._ends,
            span=span if request.blocks else 0,
            session=request.session or None,
        )

    def _arrive(self, index: int) -> None:
        outcome = self.outcomes[index]
        outcome.arrived = self.now
        self._open += 1
        if self.now - self._ticked_at >= TICK:
            self._tick()
        self._place(outcome, self.facts(index), ())

    def _place(self, outcome: Outcome, facts: Facts, tried: tuple[str, ...]) -> None:
        self._tried[outcome.request] = tried
        lease = self.balancer.assign(facts, self.now, tried)
        if not isinstance(lease, Lease):
            self._end(outcome, REFUSED)
            return
        outcome.tries += 1
        outcome.backend = lease.backend.id
        outcome.sent = self.now
        outcome.expected_cached = lease.cached
        backend = self._by_name[lease.backend.id]
        self._placed[backend.index] += 1
        if self.settings.overhead:
            self._at(self.now + self.settings.overhead, self._submit, outcome, lease, backend, tried)
        else:
            self._submit(outcome, lease, backend, tried)

    def _submit(self, outcome: Outcome, lease: Lease, backend: Machine, tried: tuple[str, ...]) -> None:
        request = self.trace.requests[outcome.request]
        if backend.crashed:
            self._at(self.now + HURRY, self._probe, backend)
            self._failed(outcome, lease, tried)
            return
        engine = backend.engine
        if request.prompt + request.output > engine.profile.max_model_len:
            self.balancer.finish(lease, brain.OK, self.now, worked=False)  # the engine says 400
            self._end(outcome, REFUSED)
            return
        blocks = (*request.blocks, *request.output_blocks) if request.output_blocks else request.blocks
        engine.submit(EmulatedRequest(outcome.request, request.prompt, blocks, request.output), self._catch_up(backend))
        backend.running[outcome.request] = lease
        self._wake(backend)

    def _failed(self, outcome: Outcome, lease: Lease, tried: tuple[str, ...]) -> None:
        """It was not delivered or had no answer yet: another backend, if the rules allow it."""
        again = self.balancer.may_retry(lease, CONNECT, outcome.tries, outcome.arrived, self.now, tried)
        self.balancer.finish(lease, brain.FAILED, self.now, reason=CONNECT)
        if again:
            self._place(outcome, lease.facts, (*tried, lease.backend.id))
        else:
            self._end(outcome, FAILED)

    def _end(self, outcome: Outcome, status: str) -> None:
        outcome.status = status
        outcome.ended = self.now
        self._open -= 1
        self._left -= 1
        for follower in self._followers.pop(outcome.request, ()):
            self._arrive_at(self.now + self.trace.requests[follower].at, follower)

    # --- engines ---------------------------------------------------------------------------------------------

    def _wake(self, backend: Machine) -> None:
        """Look at the engine when something will have happened there."""
        backend.version += 1
        at = backend.engine.next_event()
        if at < math.inf:
            self._at(max(at, self.now), self._advance, backend, backend.version)

    def _catch_up(self, backend: Machine) -> float:
        """Bring the engine to the present; where its own time stands then. A frozen one's stands still: see `_thaw`."""
        if backend.frozen_at is not None:
            return backend.frozen_at
        self._results(backend, backend.engine.advance(self.now))
        return self.now

    def _advance(self, backend: Machine, version: int) -> None:
        if version != backend.version or backend.frozen_at is not None or backend.crashed:
            return
        self._results(backend, backend.engine.advance(self.now))
        self._wake(backend)

    def _results(self, backend: Machine, results: list[StepResult]) -> None:
        balancer, outcomes, requests = self.balancer, self.outcomes, self.trace.requests
        for result in results:
            at = result.end
            for output in result.outputs:
                index = output.id
                assert isinstance(index, int)
                lease = backend.running[index]
                outcome = outcomes[index]
                if output.cached is not None:
                    outcome.first = at
                    outcome.cached = output.cached
                    balancer.first_token(lease, at)
                    lease.produced = output.tokens
                if output.finished:
                    del backend.running[index]
                    request = requests[index]
                    lease.produced = request.output
                    cached = outcome.cached if self.settings.cached_tokens else None
                    balancer.finish(lease, brain.OK, at, Usage(request.prompt, request.output, cached))
                    self._end(outcome, OK)
                    outcome.ended = at

    # --- what the balancer would see -------------------------------------------------------------------------

    def _tick(self) -> None:
        now = self.now
        self._ticked_at = now
        for backend in self._backends:
            running = backend.running
            if running and not backend.crashed:
                until = now if backend.frozen_at is None else backend.frozen_at
                for index, tokens in backend.engine.progress(until):
                    assert isinstance(index, int)
                    running[index].produced = tokens
        self.balancer.tick(now)

    def _scrape_due(self, arrival: float) -> float:
        """When the engines are read before that arrival; inf where there is nothing new to see."""
        every = self.settings.scrape
        if not every or arrival == math.inf:
            return math.inf
        due = math.floor(arrival / every) * every
        return max(due, self.now) if due > self._scraped_at else math.inf

    def _scrape(self) -> None:
        self._scraped_at = now = self.now
        for backend in self._backends:
            if backend.name in self.balancer.backends and not backend.crashed and backend.frozen_at is None:
                mark = self.balancer.poll_started(backend.name)
                self.balancer.poll_result(backend.name, mark, backend.engine.stats(now), now)

    def _probe(self, backend: Machine) -> None:
        known = self.balancer.backends.get(backend.name)
        if known is None:
            return
        self.balancer.probe(backend.name, not backend.crashed, "connection refused" if backend.crashed else "")
        if backend.crashed and known.up:  # once it is down only its restart changes anything
            self._at(self.now + PROBE, self._probe, backend)

    def _sample(self, at: float) -> None:
        engines = [b.engine for b in self._backends]
        waiting, running = [e.waiting for e in engines], [e.running for e in engines]
        self.result.samples.append(Sample(at, waiting, running, [*self._placed], [e.kv_usage for e in engines]))

    # --- fate ------------------------------------------------------------------------------------------------

    def _join(self, backend: Machine) -> None:
        self.balancer.add(backend.name, weight=self._weights[backend.name], models=self._models)
        self._probe(backend)

    def _fault(self, fault: Fault) -> None:
        backend, until = self._by_name[fault.backend], fault.until
        if fault.kind == JOIN:
            self._join(backend)
        elif fault.kind == LEAVE:
            self._leave(backend)
        elif fault.kind == RESET:
            self._catch_up(backend)
            backend.engine.pool.forget_idle()
        elif fault.kind == SLOW:
            self._slow(backend, fault.factor)
            if until < math.inf:
                self._at(until, self._slow, backend, 1.0)
        elif fault.kind == FREEZE and not backend.crashed and backend.frozen_at is None:
            backend.frozen_at = self._catch_up(backend)
            if until < math.inf:
                self._at(until, self._thaw, backend, self.now)
        elif fault.kind == CRASH and not backend.crashed:
            self._crash(backend)
            if until < math.inf:
                self._at(until, self._restart, backend)

    def _slow(self, backend: Machine, factor: float) -> None:
        backend.engine.set_slowdown(factor * backend.slowdown, self._catch_up(backend))
        self._wake(backend)

    def _thaw(self, backend: Machine, since: float) -> None:
        if backend.frozen_at != since:
            return  # it crashed meanwhile, and may have frozen again
        backend.engine.clock += self.now - since  # what it was doing ends that much later
        backend.frozen_at = None
        self._wake(backend)
        self._go_on_leaving(backend)

    def _crash(self, backend: Machine) -> None:
        self._catch_up(backend)
        backend.crashed, backend.frozen_at = True, None
        lost, backend.running = backend.running, {}
        self.result.preemptions += backend.engine.counters.preemptions
        backend.engine = backend.fresh()
        self._at(self.now + HURRY, self._probe, backend)
        for index, lease in lost.items():
            outcome = self.outcomes[index]
            self._breaks[index] = breaks = self._breaks.get(index, 0) + 1
            if outcome.first is None and breaks != self.balancer.retry_rules.breaks:
                self._failed(outcome, lease, self._tried[index])
            else:  # the answer had begun: it breaks off, and says so; or it is refused, as it seems to break engines
                reason = CONNECT if outcome.first is None else "upstream_broken"
                self.balancer.finish(lease, brain.FAILED, self.now, reason=reason)
                self._end(outcome, FAILED)
        self._go_on_leaving(backend)

    def _restart(self, backend: Machine) -> None:
        backend.crashed = False
        self._at(self.now, self._probe, backend)
        self._at(self.now + PROBE, self._probe, backend)

    def _leave(self, backend: Machine) -> None:
        known = self.balancer.backends.get(backend.name)
        if known is None:
            return
        self.balancer.set_draining(backend.name, True)
        if not known.inflight:  # nor on the way there
            self.balancer.remove(backend.name)
        elif backend.frozen_at is None:
            self._at(self.now + PROBE, self._leave, backend)

    def _go_on_leaving(self, backend: Machine) -> None:
        """It stood still, and nobody waited for that: if it was about to leave, it is now."""
        known = self.balancer.backends.get(backend.name)
        if known is not None and known.draining:
            self._leave(backend)
