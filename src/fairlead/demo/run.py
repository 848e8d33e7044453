"""The demo from start to end: engines, one balancer per policy, the same load on each, the comparison.

Rule 1: every policy finds the fleet alike: engines idle, caches empty, a balancer that has learned nothing yet.
Rule 2: whatever happens, the children are gone when this returns.
Rule 3: being stopped is no failure: what was measured so far is kept and marked as incomplete.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, Final

import aiohttp

from fairlead.demo.children import Child, ChildFailed
from fairlead.demo.client import Load
from fairlead.demo.figures import Figures, Lateness, figures
from fairlead.demo.fleet import balancer_options, engine_options
from fairlead.demo.gauges import Gauges
from fairlead.demo.lag import LagMeter
from fairlead.demo.screen import Screen, Snapshot
from fairlead.demo.timeline import Timeline
from fairlead.demo.workload import Ask, workload

FRAME_SECONDS: Final = 0.25  # between two looks of the live table
POLL_SECONDS: Final = 0.5  # between two readings of the admin API
PATIENCE: Final = 30.0  # seconds that the last answers may take
IDLE_SECONDS: Final = 5.0  # that the engines may take to come to rest
LISTED: Final = 400  # decisions per reading: more than can end in half a second
LIGHT_RATE: Final = 2.0  # requests per second while it is kept running
LIGHT_SECONDS: Final = 60.0  # after which a new workload is made


@dataclass(frozen=True, slots=True)
class Settings:
    """What the options say."""

    policies: Sequence[str]
    seconds: float
    rate: float
    seed: int


class Demo:
    """`async with Demo(settings, screen, stop) as demo:` starts the engines; then `compare` and perhaps `keep`."""

    def __init__(self, settings: Settings, screen: Screen, stop: asyncio.Event) -> None:
        self.settings = settings
        self.done: list[Figures] = []
        self.urls: list[str] = []
        self._screen, self._stop = screen, stop
        self._clock = asyncio.get_running_loop().time
        self._gauges = Gauges()
        self._lateness = Lateness()
        self._timeline = Timeline(len(settings.policies), settings.seconds)

    async def __aenter__(self) -> Demo:
        self._engines = await Child.start("engines", engine_options(self.settings.seed), self._engines_told)
        self.urls = self._engines.ready["urls"]
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2.0))
        self._lag = LagMeter()
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._lag.stop()
        await self._session.close()
        await self._engines.stop()

    @property
    def complete(self) -> bool:
        """Did every policy get all of its requests?"""
        return len(self.done) == len(self.settings.policies) and all(each.complete for each in self.done)

    # --- the comparison --------------------------------------------------------------------------------------

    async def compare(self) -> None:
        """All policies in turn; `done` has the figures. Ends early when stopped. ChildFailed."""
        settings = self.settings
        self._timeline.begin(self._clock())
        for number, policy in enumerate(settings.policies, 1):
            if self._stop.is_set():
                return
            if number > 1:  # they start empty
                await self._empty_caches()
            balancer = await self._balancer(policy)
            try:
                await self._measure(balancer, policy, number)
            finally:
                await balancer.stop()
            self._timeline.policy_ended(self._clock())

    async def _balancer(self, policy: str) -> Child:
        self._gauges.reset()
        return await Child.start("balancer", balancer_options(self.urls, policy, self.settings.seed), self._told)

    async def _measure(self, balancer: Child, policy: str, number: int) -> None:
        settings = self.settings
        asks = workload(settings.seed, settings.seconds, settings.rate)
        self._lag.take()
        self._lateness = Lateness()
        load = Load(balancer.ready["url"])
        try:
            await self._watch(load, asks, balancer, policy, number)
            complete = load.sent_all and not (self._stop.is_set() and load.gave_up)
        finally:
            await self._read(balancer)
        if load.results:
            self.done.append(figures(policy, load.results, self._gauges.placed, self._lateness, complete))

    async def _watch(self, load: Load, asks: Iterable[Ask], balancer: Child, policy: str, number: int) -> None:
        """Run the load and show how it goes, to its end or until stopped."""
        running = asyncio.create_task(load.run(asks, PATIENCE))
        stopped = asyncio.create_task(self._stop.wait())
        read_at = 0.0
        try:
            while not running.done() and not stopped.done():
                self._engines.check()
                balancer.check()
                now = self._clock()
                if now >= read_at:
                    read_at = now + POLL_SECONDS
                    self._lateness = self._lateness.and_one(self._lag.take())
                    await self._read(balancer)
                self._screen.show(self._snapshot(load, policy, number), self._clock())
                await asyncio.wait({running, stopped}, timeout=FRAME_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopped.cancel()
            running.cancel()
            await asyncio.wait({running, stopped})
        if not running.cancelled():
            running.result()

    def _snapshot(self, load: Load, policy: str, number: int) -> Snapshot:
        now, keeps = self._clock(), number == 0
        return Snapshot(
            policy=policy,
            number=number,
            policies=0 if keeps else len(self.settings.policies),
            elapsed=now - load.started,
            seconds=self.settings.seconds,
            sent=load.sent,
            answered=load.done - load.errors,
            errors=load.errors,
            rows=self._gauges.rows(),
            fraction=1.0 if keeps else self._timeline.fraction(now),
            left=0.0 if keeps else self._timeline.left(now),
            done=() if keeps else tuple(self.done),
        )

    def show_on(self, screen: Screen) -> None:
        """From now on."""
        self._screen = screen

    # --- after it --------------------------------------------------------------------------------------------

    async def keep(self, balancer: Child, policy: str) -> None:
        """Light load until stopped. ChildFailed."""
        for round in count(1):
            if self._stop.is_set():
                return
            asks = workload(self.settings.seed + round, LIGHT_SECONDS, LIGHT_RATE)
            await self._watch(Load(balancer.ready["url"]), asks, balancer, policy, 0)

    async def start_to_keep(self, policy: str) -> Child:
        """The balancer for `keep`; the caller stops it."""
        await self._empty_caches()
        return await self._balancer(policy)

    # --- the children ----------------------------------------------------------------------------------------

    def _engines_told(self, status: dict[str, Any]) -> None:
        self._gauges.engines_told(status)
        self._told(status)

    def _told(self, status: dict[str, Any]) -> None:
        self._lateness = self._lateness.and_one(status["lag"])

    async def _read(self, balancer: Child) -> None:
        """Read the admin API; an answer that does not come is no reason to end the demo."""
        with contextlib.suppress(aiohttp.ClientError, TimeoutError):
            admin = balancer.ready["admin"]
            async with self._session.get(f"{admin}/api/backends") as answer:
                self._gauges.backends_told((await answer.json())["backends"])
            async with self._session.get(f"{admin}/api/decisions?limit={LISTED}") as answer:
                self._gauges.decisions_told((await answer.json())["decisions"])

    async def _empty_caches(self) -> None:
        """Wait for the engines to come to rest, then make them forget. ChildFailed when they cannot."""
        heard, until = self._gauges.engine_words, self._clock() + IDLE_SECONDS
        while not (self._gauges.engines_idle and self._gauges.engine_words > heard):
            self._engines.check()
            if self._clock() > until:
                raise ChildFailed("the emulated engines did not come to rest")
            await asyncio.sleep(0.05)
        for url in self.urls:
            async with self._session.post(f"{url}/reset_prefix_cache") as answer:
                if answer.status != 200:
                    raise ChildFailed(f"an emulated engine did not empty its cache: status {answer.status}")
