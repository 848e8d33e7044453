"""What does a worker do when it is told, and say when it is asked?

It is the App of a single process on sockets that it was given, with a balancer that shares what it knows. All orders
and questions come from the supervisor, by name: each is a method of `Desk`, `on_` before it.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import logging
import socket
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from prometheus_client.core import Metric

from fairlead.config.build import App, StartError
from fairlead.config.changes import Step
from fairlead.config.parts import make_balancer
from fairlead.config.reload import Ready
from fairlead.config.schema import Config, Policy, Shadow
from fairlead.config.switch import read_switch
from fairlead.control.fleet import Refused, Versions
from fairlead.core.alerts.facts import FleetFacts
from fairlead.core.cluster.remote import SharedBalancer
from fairlead.wire.openai import BLOCK_ENDS
from fairlead.workers.channel import as_sockets, take_descriptors
from fairlead.workers.exchange import Exchange
from fairlead.workers.places import Registry, Table
from fairlead.workers.state import Known, known, recall

log = logging.getLogger("fairlead")

LOG_FORMAT = "%(asctime)s %(levelname)s worker {}: %(message)s"


@dataclass(frozen=True, slots=True)
class Start:
    """What a worker is made of. The descriptors that come before it: the table of places, then the sockets."""

    worker: int
    workers: int
    config: Config
    version: int  # of it
    policies: tuple[Policy, Shadow | None]  # in force, whatever the file says
    draining: tuple[str, ...]  # backends
    pseudonym: bytes
    rows: Mapping[str, int]  # of the table of places
    sockets: tuple[tuple[str, int], ...]  # addresses, and how many for each
    known: Mapping[str, Known]


class Desk:
    """Who does what the supervisor asks for."""

    def __init__(self, descriptors: socket.socket) -> None:
        self._descriptors = descriptors
        self._app: App | None = None
        self._balancer: SharedBalancer | None = None
        self._exchange: Exchange | None = None
        self._registry: Registry | None = None
        self._ready: Ready | None = None
        self._turn = 0  # of changes: what was begun in another one is out of date
        self._ending: asyncio.Future[int] | None = None
        self.over = asyncio.Event()

    async def answer(self, what: str, arguments: tuple[Any, ...]) -> Any:
        """One order or question; the name is a method's."""
        told = getattr(self, f"on_{what}")(*arguments)
        return await told if asyncio.iscoroutine(told) else told

    @property
    def app(self) -> App:
        if self._app is None:
            raise Refused(409, "it has not started yet")
        return self._app

    @property
    def balancer(self) -> SharedBalancer:
        assert self._balancer is not None
        return self._balancer

    # --- life ------------------------------------------------------------------------------------------------

    async def on_start(self, start: Start) -> tuple[str, ...]:
        """Begin to serve; the URLs. Refused."""
        places, *numbers = take_descriptors(self._descriptors, 1 + sum(count for _, count in start.sockets))
        table, given = Table(places, start.workers), as_sockets(numbers, start.sockets)
        logging.basicConfig(
            stream=sys.stderr, level=logging.INFO, format=LOG_FORMAT.format(start.worker + 1), force=True
        )
        config = start.config
        try:
            app = App(config, brain=functools.partial(make_balancer, kind=SharedBalancer))
        except StartError as problem:
            raise Refused(400, str(problem)) from None
        app.recorder.version = start.version
        balancer = app.balancer
        assert isinstance(balancer, SharedBalancer)
        self._balancer = balancer
        self._registry = Registry(table, start.worker, start.rows)
        self._exchange = Exchange(balancer, app.service.loop)
        balancer.share(self._exchange.tell, self._registry, BLOCK_ENDS)
        app.service.pseudonym, app.service.via = start.pseudonym, b"1.1 " + start.pseudonym
        configured = config.policy, config.shadow
        app.switching.follow(*start.policies, functools.partial(read_switch, configured=configured))
        app.alerting.muted = True  # the supervisor looks at the facts of all workers
        for id in start.draining:
            balancer.set_draining(id, True)
        app.service.wheel.on_tick.append(lambda now: self._flush())
        try:
            bound = await app.start(given, admin=False, recall=functools.partial(recall, told=start.known))
        except StartError as problem:
            await app.stop(drain=0.0)
            raise Refused(400, str(problem)) from None
        self._app = app
        gc.collect()
        gc.freeze()  # what is there now stays: the collector need not walk over it again and again
        return bound.data

    def _flush(self) -> None:
        assert self._exchange is not None
        self._exchange.flush()

    async def on_peer(self, sibling: int) -> None:
        """A line to a sibling; its end is the next descriptor."""
        sock = socket.socket(fileno=take_descriptors(self._descriptors, 1)[0])
        if self._exchange is None:
            sock.close()
        else:
            await self._exchange.join(sibling, sock)

    async def on_stop(self, drain: float | None) -> int:
        """Drain and end; how many requests had to be broken off."""
        if self._ending is None:
            self._ending = asyncio.ensure_future(self._end(drain))
        return await asyncio.shield(self._ending)

    async def _end(self, drain: float | None) -> int:
        left = 0 if self._app is None else await self._app.stop(drain)
        if self._exchange is not None:
            self._exchange.close()
        self.over.set()
        return left

    def on_break_off(self) -> None:
        """No more patience."""
        self.app.break_off()

    def on_reopen(self) -> None:
        """Files of logs may have been moved away."""
        self.app.reopen_logs()

    def end_soon(self) -> None:
        """The supervisor is gone."""
        self._last = asyncio.ensure_future(self.on_stop(None))

    # --- changes ---------------------------------------------------------------------------------------------

    async def on_prepare(self, step: Step, rows: Mapping[str, int], sockets: tuple[tuple[str, int], ...]) -> None:
        """The first half of a change; sockets for new addresses come before it. Refused."""
        given = as_sockets(take_descriptors(self._descriptors, sum(count for _, count in sockets)), sockets)
        assert self._registry is not None
        self._registry.rows = rows
        await self._drop()
        turn, reloader = self._turn, self.app.reloader
        ready = await reloader.prepare(step, given)
        if turn != self._turn:  # the supervisor waited no longer, and dropped it
            await reloader.drop(ready)
            raise Refused(409, "the change was given up meanwhile")
        self._ready = ready

    async def on_commit(self) -> int:
        """The second half; how many requests run here on the backend that leaves."""
        ready, self._ready = self._ready, None
        assert ready is not None
        return await self.app.reloader.commit(ready)

    async def on_drop(self) -> None:
        """It comes to nothing."""
        await self._drop()

    async def _drop(self) -> None:
        self._turn += 1
        ready, self._ready = self._ready, None
        if ready is not None:
            await self.app.reloader.drop(ready)

    def on_switch(self, body: object) -> dict[str, Any]:
        """Another policy; the supervisor has read the body and found it good."""
        return self.app.switching.switch(body)

    # --- what there is to see --------------------------------------------------------------------------------

    def on_known(self) -> dict[str, Known]:
        return known(self.app)

    async def on_running(self) -> int:
        return await self.app.running()

    def on_in_sight(self) -> int:
        """How many requests this worker knows of, own ones and those of siblings."""
        return len(self.balancer.ledger.leases)

    def on_ready(self) -> str:
        return self.app.not_ready()

    def on_facts(self) -> FleetFacts:
        return self.app.facts(self.app.clock())

    def on_page(self, versions: Versions) -> list[Metric]:
        """The metrics page, of own requests only."""
        self.app.page.versions = versions
        loads = self.balancer.own_loads()
        own: dict[str, Callable[[str], float]] = {
            "fairlead_inflight_requests": lambda id: loads[id][0],
            "fairlead_pending_tokens": lambda id: loads[id][1] + loads[id][2],
        }
        page = list(self.app.page.collect())
        for family in page:
            value = own.get(family.name)
            if value is not None:
                family.samples = [s._replace(value=value(s.labels["backend"])) for s in family.samples]
        return page

    def on_backends(self) -> list[dict[str, Any]]:
        """Rows of own requests."""
        loads = self.balancer.own_loads()
        rows = self.app.views.backends()
        for row in rows:
            requests, prompt, output = loads[row["id"]]
            row.update(
                inflight=requests, pending_tokens=prompt + output, pending_prompt_tokens=prompt,
                pending_output_tokens=output,
            )  # fmt: skip
        return rows

    def on_decisions(self, limit: int) -> list[dict[str, Any]]:
        return self.app.views.decisions(limit)

    def on_explain(self, request_id: str) -> dict[str, Any] | None:
        return self.app.views.explain(request_id)

    def on_shadow(self) -> dict[str, Any]:
        return self.app.views.shadow()

    def on_models(self) -> dict[str, dict[str, Any]]:
        return self.app.views.models()
