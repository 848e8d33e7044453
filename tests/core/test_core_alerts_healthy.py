"""Do the defaults cry wolf? Days of healthy traffic, with what belongs to it: bursts, restarts, stray failures."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from random import Random

import pytest
from core_fleet import fleet
from core_virtual import Virtual, asks

from fairlead.core.alerts.engine import Alert, Alerts
from fairlead.core.alerts.facts import BackendFacts, FleetFacts, facts_of, paces
from fairlead.core.alerts.rules import DAY, AlertRules, TtftRules
from fairlead.emulator.engine import Engine
from fairlead.emulator.profiles import profile

STEP = 5.0  # seconds between two looks: a day is long
BOUNDS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
RULES = AlertRules(ttft=TtftRules(target=2.5))


class Day:
    """A fleet of one kind of machine, one of them older, seen through its numbers."""

    def __init__(self, seed: int, backends: int = 4) -> None:
        self.random = Random(seed)
        self.ids = [f"gpu{n}" for n in range(backends)]
        self.counts = {id: [0] * (5 + len(BOUNDS) + 1) for id in self.ids}
        self.queues = dict.fromkeys(self.ids, 0.0)
        self.paces = dict.fromkeys(self.ids, 1.0)
        self.requests = 0
        # once a day for each: a restart, a cache that was reset, metrics that come late; at some time of the day
        self.restarts, self.resets, self.late = ({id: self.random.uniform(0, DAY) for id in self.ids} for _ in range(3))
        self.mistake, self.burst = self.random.uniform(0, DAY), self.random.uniform(0, DAY - 3600)

    def look(self, at: float) -> FleetFacts:
        """The facts at this second of the day."""
        busy = 0.5 - 0.5 * math.cos(2 * math.pi * at / DAY)  # midnight to noon and back
        up = [id for id in self.ids if not self.restarts[id] <= at < self.restarts[id] + 60.0]
        for _ in range(int(self.random.expovariate(1.0) * (0.2 + 8.0 * busy) * STEP)):
            self._request(self.random.choice(up))
        rows = [self._row(id, at, busy, id in up) for id in self.ids]
        return FleetFacts(
            tuple(rows),
            overflows=int(at > self.mistake),
            certificates=(("listen [::]:443", 60 * DAY - at),),
            refused="one problem" if self.mistake <= at < self.mistake + 30.0 else "",  # and mended
            bounds=BOUNDS,
        )

    def _request(self, id: str) -> None:
        random, counts = self.random, self.counts[id]
        self.requests += 1
        failed = random.random() < 0.01
        ttft = random.lognormvariate(-0.9, 0.6)
        counts[0] += 1
        counts[1] += 1
        counts[3 if failed else 2] += 1
        if not failed:
            counts[4] += int(random.lognormvariate(6.5, 1.2))  # tokens: some requests are a hundred times the usual
            counts[5 + sum(ttft > bound for bound in BOUNDS)] += 1

    def _row(self, id: str, at: float, busy: float, up: bool) -> BackendFacts:
        random = self.random
        bursts = 40.0 if self.burst <= at < self.burst + 240.0 else 0.0  # a batch job, worked off in minutes
        self.queues[id] += (random.uniform(0.0, 8.0 * busy) + bursts - self.queues[id]) * 0.1
        self.paces[id] = min(max(self.paces[id] * random.uniform(0.98, 1.02), 0.7), 1.4)
        return BackendFacts(
            id, up=up, inflight=int(4 * busy), counts=tuple(self.counts[id]), waiting=float(int(self.queues[id])),
            pace=self.paces[id] * (1.9 if id == self.ids[-1] else 1.0),
            metrics_age=20.0 if self.late[id] <= at < self.late[id] + 600.0 else random.uniform(0.0, 2.0),
            distrusted=self.resets[id] <= at < self.resets[id] + 120.0,
        )  # fmt: skip


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_healthy_day_raises_nothing(seed: int) -> None:
    day, alerts = Day(seed), Alerts(RULES)
    raised: list[Alert] = []
    for step in range(int(DAY / STEP)):
        raised += alerts.observe(day.look(step * STEP), step * STEP)[0]
    assert day.requests > 200_000
    assert raised == []


def test_the_day_is_one_on_which_something_would_be_noticed() -> None:
    """With limits that are too tight the same day raises nearly everything: the silence above is not deafness."""
    day = Day(1)
    tight = AlertRules(
        share=replace(RULES.share, threshold=0.35), tokens=replace(RULES.tokens, threshold=0.27),
        errors=replace(RULES.errors, threshold=0.02), queue=replace(RULES.queue, waiting=2, window=120.0),
        ttft=TtftRules(target=0.9), slow=1.5, stale=10.0, certificate=90 * DAY,
    )  # fmt: skip
    alerts = Alerts(tight)
    raised: list[Alert] = []
    for step in range(int(DAY / STEP)):
        raised += alerts.observe(day.look(step * STEP), step * STEP)[0]
    assert {alert.name for alert in raised} >= {
        "backend_share", "token_share", "errors", "queue_growing", "ttft", "slow_backend", "metrics_stale",
        "certificate",
    }  # fmt: skip


@pytest.mark.parametrize("policy", ["expected_completion", "least_pending_tokens", "round_robin"])
def test_the_brain_at_work_before_emulated_engines_raises_nothing(policy: str) -> None:
    balancer = fleet(policy, "a", "b", "c")
    run = Virtual(balancer, {id: Engine(profile("h100-8b"), slowdown=2.0 if id == "c" else 1.0) for id in "abc"})
    alerts, raised, looks = Alerts(), list[Alert](), 0
    tokens: Counter[str] = Counter()
    counted = 0

    def look(at: float) -> None:
        nonlocal looks, counted
        looks += 1
        for done in run.done[counted:]:
            tokens[done.backend] += done.ask.prompt + done.ask.output
        counted = len(run.done)
        backends = list(balancer.backends.values())
        times = paces(backends)
        raised.extend(
            alerts.observe(FleetFacts(tuple(facts_of(b, times[b.id], at, tokens=tokens[b.id]) for b in backends)), at)[
                0
            ]
        )

    for second in range(400):
        run.at[float(second)] = lambda at=float(second): look(at)  # type: ignore[misc]
    run.open(asks(1600, seed=5), per_second=4.0, seed=6)
    assert looks > 350
    assert raised == []
    assert sum(tokens.values()) > 500_000
