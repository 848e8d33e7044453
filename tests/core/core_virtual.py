"""A host in virtual time: the brain before emulated engines, no clock and no waiting.

Engines are stepped one step at a time, so the host sees every token when it is made, as with real streams.
Arrivals come in an open loop (a list of times) or a closed one (a number of requests in flight).
Between them, the balancer is ticked ten times a second.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random

from core_fleet import MODEL

from fairlead.core.balancer import OK, Balancer
from fairlead.core.cluster.ledger import Lease
from fairlead.core.model import Facts, Kind, Usage
from fairlead.emulator.engine import Engine
from fairlead.emulator.work import EmulatedRequest

TICK = 0.1
BYTES_PER_TOKEN = 4


@dataclass(frozen=True, slots=True)
class Ask:
    """One request of the load."""

    prompt: int  # tokens
    output: int


@dataclass(slots=True)
class Done:
    """What became of one request."""

    backend: str
    ask: Ask
    arrived: float
    first: float = 0.0
    ended: float = 0.0


def asks(
    count: int, seed: int, prompt: tuple[float, float] = (6.0, 0.7), output: tuple[float, float] = (4.6, 0.6)
) -> list[Ask]:
    """Lengths as people send them: log-normal, (mean, deviation) of the logarithm."""
    rng = Random(seed)
    return [
        Ask(
            min(max(int(rng.lognormvariate(*prompt)), 8), 8000),
            min(max(int(rng.lognormvariate(*output)), 4), 1500),
        )
        for _ in range(count)
    ]


@dataclass(slots=True)
class Virtual:
    """Drives `balancer` over `engines` (by backend id) until every request has ended."""

    balancer: Balancer
    engines: dict[str, Engine]
    at: dict[float, Callable[[], None]] = field(default_factory=dict)  # what else happens, and when
    usage: bool = True  # do answers tell their token counts?
    done: list[Done] = field(default_factory=list)
    now: float = 0.0
    peak: dict[str, int] = field(default_factory=dict)  # most requests in flight, by backend

    def closed(self, load: Sequence[Ask], in_flight: int) -> list[Done]:
        """Keep `in_flight` requests going until the load is used up."""
        return self._run([(0.0, ask) for ask in load[:in_flight]], list(reversed(load[in_flight:])))

    def open(self, load: Sequence[Ask], per_second: float, seed: int) -> list[Done]:
        """Requests come at random, `per_second` of them on average, whatever becomes of them."""
        rng, t, arrivals = Random(seed), 0.0, []
        for ask in load:
            t += rng.expovariate(per_second)
            arrivals.append((t, ask))
        return self._run(arrivals, [])

    def _run(self, arrivals: list[tuple[float, Ask]], rest: list[Ask]) -> list[Done]:
        balancer, engines = self.balancer, self.engines
        running: dict[int, tuple[Lease, Done]] = {}
        steps: list[tuple[float, str]] = []  # ends of the steps in flight
        events = sorted(self.at.items(), reverse=True)
        queue = list(reversed(arrivals))
        number, next_tick = 0, TICK

        def begin(id: str) -> None:
            seconds = engines[id].begin_step()
            if seconds is not None:
                heapq.heappush(steps, (engines[id].clock + seconds, id))

        def arrive(ask: Ask, now: float) -> None:
            nonlocal number
            number += 1
            facts = Facts(Kind.CHAT, MODEL, True, ask.prompt * BYTES_PER_TOKEN, stream=True)
            lease = balancer.assign(facts, now)
            assert isinstance(lease, Lease), lease
            id = lease.backend.id
            running[number] = (lease, Done(id, ask, now))
            self.peak[id] = max(self.peak.get(id, 0), lease.backend.inflight)
            engines[id].submit(EmulatedRequest(number, ask.prompt, (), ask.output), now)
            if not engines[id].in_flight:
                begin(id)

        while queue or running:
            now = min(queue[-1][0] if queue else float("inf"), steps[0][0] if steps else float("inf"))
            while events and events[-1][0] <= now:
                events.pop()[1]()
            while next_tick <= now:
                balancer.tick(next_tick)
                next_tick += TICK
            self.now = now
            if queue and queue[-1][0] <= now:
                arrive(queue.pop()[1], now)
                continue
            _, id = heapq.heappop(steps)
            ended: list[int] = []
            for output in engines[id].end_step().outputs:
                assert isinstance(output.id, int)
                lease, done = running[output.id]
                if not lease.produced:
                    done.first = now
                    balancer.first_token(lease, now)
                lease.produced += output.tokens
                if output.finished:
                    ended.append(output.id)
            for key in ended:
                lease, done = running.pop(key)
                done.ended = now
                usage = Usage(done.ask.prompt, done.ask.output) if self.usage else None
                balancer.finish(lease, OK, now, usage)
                self.done.append(done)
            for _ in ended:
                if rest:
                    arrive(rest.pop(), now)
            if not engines[id].in_flight:
                begin(id)
        return self.done


def shares(done: Sequence[Done], since: float = 0.0, until: float = float("inf")) -> dict[str, float]:
    """Every backend's share of the requests that ended in that time.

    Not of the tokens: a prompt token costs a fraction of an output token, and a policy that knows sizes does
    well to send the long prompts to the fast machines.
    """
    work = Counter(one.backend for one in done if since <= one.ended < until)
    return {id: count / work.total() for id, count in sorted(work.items())}


def steady(done: Sequence[Done]) -> tuple[float, float]:
    """The part of a closed loop in which all places were taken and what can be learned was learned."""
    last = max(one.arrived for one in done)
    return last * 0.2, last
