"""The admin API's parts, of all workers together: changes, switches of the policy, views, metrics, alerts.

What is shown is asked from all workers at the moment and merged (merge.py). Once in a while the supervisor also asks by
itself: for the facts that alerts look at, and for the counters, of which the last that was seen of
a worker stays in the sums when it dies.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final, TypeVar

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from fairlead.config.changes import Changes, Step
from fairlead.config.parts import Read, alert_rules, webhook_targets
from fairlead.config.schema import Config, Policy, Shadow
from fairlead.config.switch import read_switch
from fairlead.control.alerting import Alerting
from fairlead.control.switching import SwitchRefused, as_shown
from fairlead.core.alerts.facts import FleetFacts, Together
from fairlead.workers import merge

if TYPE_CHECKING:
    from fairlead.workers.member import Member
    from fairlead.workers.supervisor import Supervisor

T = TypeVar("T")

log = logging.getLogger("fairlead")

WATCH_SECONDS: Final = 1.0  # between two looks for what deserves an alert
MAX_SILENT: Final = 10  # looks in a row that a worker does not answer, each of some seconds: it hangs
PAGE_LOOKS: Final = 2  # such looks between two at the counters


class Orders(Changes):
    """Who takes orders to change, and has them carried out in all workers."""

    def __init__(self, supervisor: Supervisor, read: Read | None, source: str | None) -> None:
        super().__init__(read, source)
        self._supervisor = supervisor

    @property
    def config(self) -> Config:
        return self._supervisor.config

    async def _apply(self, step: Step) -> int:
        return await self._supervisor.apply(step)


class WholeSwitching:
    """The policies in force in all workers."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self.follow(supervisor.config.policy, supervisor.config.shadow)

    def follow(self, policy: Policy, shadow: Shadow | None) -> None:
        """What the file says is in force from now on."""
        self.policy, self.shadow = policy, shadow
        self._read = functools.partial(read_switch, configured=(policy, shadow))

    async def switch(self, body: object) -> dict[str, Any]:
        """Do what `body` asks for and tell what was and what is. SwitchRefused."""
        try:
            policy, shadow = self._read(body, self.policy, self.shadow)
        except ValueError as problem:
            raise SwitchRefused(str(problem)) from None
        old = self.shown()
        told = await self._supervisor.switch(body, policy, shadow)
        warming = next((each["warming"] for each in told.values() if each["warming"]), None)
        return {"old": old, "new": self.shown(), "warming": warming}

    def shown(self) -> dict[str, Any]:
        """The policies in force with their options."""
        return {
            "policy": as_shown(self.policy),
            "shadow": None if self.shadow is None else as_shown(self.shadow),
        }


class Whole:
    """What there is to see of all workers: what `Views` and `MetricsPage` are in one process."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._pages: dict[int, list[Metric]] = {}  # the last of each worker that lives
        self._gone = merge.Totals()
        self._tables: dict[int, list[dict[str, Any]]] = {}  # the last rows of each worker that lives
        self._gone_rows = merge.RowTotals()
        self.alerting = Alerting(alert_rules(supervisor.config), supervisor.clock, supervisor.config.admin.port)
        self._together = Together()
        self._registry = CollectorRegistry()
        self._registry.register(_Page(self))
        self._shown: list[Metric] = []

    def changed(self, config: Config) -> None:
        """Another configuration is in force."""
        self.alerting.follow(alert_rules(config), webhook_targets(config))

    @property
    def _ids(self) -> set[str]:
        """The backends of the configuration."""
        return {backend.name for backend in self._supervisor.config.backends}

    def died(self, worker: int) -> None:
        """Its counters stay."""
        self._together.died(worker)
        self._gone_rows.keep(self._tables.pop(worker, ()), self._ids)
        page = self._pages.pop(worker, None)
        if page is not None:
            others = [sample for other in self._pages.values() for family in other for sample in family.samples]
            known = {sample.labels.get("backend", "") for sample in others}
            self._gone.keep(page, known | self._ids)

    # --- by itself -------------------------------------------------------------------------------------------

    async def watch(self) -> None:
        """Look at the workers, as long as the supervisor runs."""
        looks = 0
        while True:
            try:
                await self._look()
                looks += 1
                if looks % PAGE_LOOKS == 0:
                    await self._ask_pages()
            except Exception:
                log.exception("looking at the workers failed; this is a fault in Fairlead")
            await asyncio.sleep(WATCH_SECONDS)

    async def _look(self) -> None:
        supervisor = self._supervisor
        members = dict(supervisor.members)
        told: dict[int, FleetFacts] = await supervisor.ask_all("facts")
        for worker, member in members.items():
            member.silent = 0 if worker in told else member.silent + 1
            if member.silent >= MAX_SILENT and not member.is_lost:
                log.error("worker %d gives no answer, and is replaced", worker + 1)
                member.kill()
        told = self._of_the_living(told, members)
        if not told:  # nothing is known, so nothing has changed
            return
        problem = supervisor.reloader.versions.problem
        refused = "" if problem is None else str(problem["message"])
        facts = dataclasses.replace(self._together.merge(told, self._ids), refused=refused)
        self.alerting.look(facts, supervisor.clock())

    async def _ask_pages(self) -> None:
        members = dict(self._supervisor.members)
        pages = await self._supervisor.ask_all("page", self._supervisor.reloader.versions)
        self._pages |= self._of_the_living(pages, members)
        self._gone.forget(self._pages.values(), self._ids)

    async def forget(self, old: Config, new: Config) -> None:
        """What the dead had counted of backends that leave would be counted again when they come back."""
        before, after = ({(each.name, each.url) for each in config.backends} for config in (old, new))
        if before - after:
            self._gone_rows.forget(name for name, _ in before - after)
            await self._ask_pages()

    def _of_the_living(self, told: dict[int, T], asked: dict[int, Member]) -> dict[int, T]:
        """Without the answers of those that died since they were asked: these were counted then."""
        members = self._supervisor.members
        return {worker: answer for worker, answer in told.items() if members.get(worker) is asked.get(worker)}

    # --- metrics ---------------------------------------------------------------------------------------------

    async def render(self) -> bytes:
        """The page as text."""
        await self._ask_pages()
        pages = [self._pages[worker] for worker in sorted(self._pages)]
        self._shown = [*merge.merged(pages, self._gone), *self._own()]
        return generate_latest(self._registry)

    def _own(self) -> list[Metric]:
        """What only the supervisor knows."""
        supervisor = self._supervisor
        workers = GaugeMetricFamily("fairlead_workers", "processes that carry traffic", len(supervisor.members))
        restarts = CounterMetricFamily("fairlead_worker_restarts", "workers that had to be replaced")
        restarts.add_metric((), supervisor.restarts)
        alerts = self.alerting.metrics([backend.name for backend in supervisor.config.backends])
        return [*alerts, workers, restarts]

    # --- views -----------------------------------------------------------------------------------------------

    async def ready(self) -> str:
        """Why it cannot take requests; "" when it can."""
        if self._supervisor.stopping:
            return "draining"
        problems = (await self._supervisor.ask_all("ready")).values()
        return "" if "" in problems else next(iter(problems), "no worker serves")

    async def backends(self) -> list[dict[str, Any]]:
        members = dict(self._supervisor.members)
        self._tables |= self._of_the_living(await self._supervisor.ask_all("backends"), members)
        tables = [self._tables[worker] for worker in sorted(self._tables)]
        return merge.backends(tables, self.alerting.shares, self._gone_rows)

    async def decisions(self, limit: int) -> list[dict[str, Any]]:
        return merge.decisions([*(await self._supervisor.ask_all("decisions", limit)).values()], limit)

    async def explain(self, request_id: str) -> dict[str, Any] | None:
        found = (await self._supervisor.ask_all("explain", request_id)).values()
        return next((each for each in found if each is not None), None)

    async def shadow(self) -> dict[str, Any]:
        return merge.shadow([*(await self._supervisor.ask_all("shadow")).values()])

    async def models(self) -> dict[str, dict[str, Any]]:
        return merge.models([*(await self._supervisor.ask_all("models")).values()])

    def alerts(self) -> list[dict[str, Any]]:
        """Alerts that stand."""
        return self.alerting.standing()

    def ended_alerts(self) -> list[dict[str, Any]]:
        """The last alerts that ended, newest first."""
        return self.alerting.ended()


class _Page(Collector):
    """What was merged last."""

    def __init__(self, whole: Whole) -> None:
        self._whole = whole

    def describe(self) -> Iterable[Metric]:
        return []

    def collect(self) -> Iterable[Metric]:
        return self._whole._shown
