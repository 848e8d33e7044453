"""How does another configuration take over while requests run? Whole, or not at all.

First everything that can fail is made ready beside what runs: certificates, the access log, new backends with their
first probes, new listening sockets. When all of it is there, the change is one step between two turns of the loop; if
something is not, it is let go of, and nothing has changed. Then what is out of use is closed, in its own time.

Rule 1: a backend of the same name and URL is the same one: what was learned of it stays. Any other begins anew.
Rule 2: requests keep the route and the headers that they began with; those on a backend that leaves finish there.
Rule 3: settings are replaced whole, never changed in their inside, so that nobody sees half of a change.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import logging
import socket
from collections.abc import Mapping
from random import Random
from typing import TYPE_CHECKING

from fairlead.config import fleet
from fairlead.config.changes import Changes, Step
from fairlead.config.parts import (
    PoolSettings,
    Read,
    alert_rules,
    hedges,
    limit_settings,
    make_access_log,
    make_balancer,
    make_listener,
    pool_settings,
    retry_rules,
    routes,
    set_health,
    timeout_settings,
    warn_unverified,
    watch_settings,
    webhook_targets,
)
from fairlead.config.problems import Problem
from fairlead.config.schema import Backend, Config, Listen
from fairlead.config.switch import read_switch
from fairlead.control.fleet import Refused
from fairlead.feeds.watch import Watch
from fairlead.proxy.forwarded import Forwarding
from fairlead.proxy.listener import Listener, why_not
from fairlead.proxy.pool import Pool
from fairlead.proxy.tls import TlsProblem

if TYPE_CHECKING:
    from fairlead.config.build import App
    from fairlead.control.access_log import AccessLog
    from fairlead.proxy.exchange import Exchange
    from fairlead.proxy.hedge import Hedge

log = logging.getLogger("fairlead")

FIRST_ROUND_SECONDS = 3.0  # how long to wait for a first word of new backends

Sockets = Mapping[str, list[socket.socket]]
"""Listening sockets by the address that they are for, as it stands in the configuration."""


class Reloader(Changes):
    """Changes the configuration of a running App."""

    def __init__(self, app: App, read: Read | None, source: str | None) -> None:
        """`read` reads the configuration once more; None: it came from the command line."""
        super().__init__(read, source)
        self._app = app

    @property
    def config(self) -> Config:
        return self._app.config

    # --- applying --------------------------------------------------------------------------------------------

    async def _apply(self, step: Step) -> int:
        return await self.commit(await self.prepare(step))

    async def prepare(self, step: Step, given: Sockets | None = None) -> Ready:
        """The first half: all that can fail. Follow it with `commit` or `drop`. Refused.

        `given` are sockets for new addresses, where somebody else has opened them.
        """
        app = self._app
        if app.service.draining:
            raise Refused(409, "it is about to stop: nothing is changed any more")
        old = {backend.name: backend for backend in app.config.backends}
        newcomers = [b for b in step.config.backends if b.name not in old or old[b.name].url != b.url]
        ready = Ready(app, step, newcomers, given)
        try:
            await ready.make()
        except BaseException:
            await self.drop(ready)
            raise
        return ready

    async def drop(self, ready: Ready) -> None:
        """It came to nothing."""
        await ready.drop()
        self._app.keep_rotations()

    async def commit(self, ready: Ready) -> int:
        """The second half; how many requests ran on the backend that leaves by it."""
        app, step = self._app, ready.step
        running = len(app.service.running_on(step.leaves)) if step.leaves else 0
        left = self._take_over(step.config, ready, ready.newcomers, step.from_file)
        app.recorder.version = step.version
        if step.drain is not None:
            app.balancer.set_draining(*step.drain)
        for listener in ready.opened:
            log.info("listening on %s", await listener.serve())
        for listener in ready.out_of_use:
            listener.stop()
        app.keep_rotations()
        for watch in left:
            await watch.stop()
        if step.force:
            for exchange in app.service.running_on(step.leaves):
                _take_away(exchange)
        if ready.old_log is not None:
            await asyncio.to_thread(ready.old_log.close)  # it may wait for a slow disk
            app.log_closed(ready.old_log)
        if step.from_file:
            app.service.rotations.start()
            await asyncio.to_thread(app.service.rotations.look)
        return running

    def _take_over(self, config: Config, ready: Ready, newcomers: list[Backend], from_file: bool) -> list[Watch]:
        """The step; watches to be stopped are returned. No await in here."""
        app = self._app
        balancer, service = app.balancer, app.service
        new = {backend.name for backend in newcomers}
        staying = {backend.name for backend in config.backends} - new
        left = [app.watches.pop(id) for id in [*app.watches] if id not in staying]
        for watch in left:
            watch.cancel()
            balancer.remove(watch.id)
            service.retire(watch.id)
        balancer.set_retry(retry_rules(config))
        set_health(balancer, config)
        for backend in config.backends:
            id = backend.name
            if id in new:
                balancer.adopt(ready.staged.backends[id])
                app.watches[id] = ready.watches[id]
                app.watches[id].join(balancer)
                app.recorder.joined(id)
            balancer.set_options(
                id, weight=backend.weight, max_connections=backend.max_connections, backup=backend.backup
            )
            balancer.set_enabled(id, not backend.down)
            if from_file:
                balancer.set_draining(id, False)
            settings = watch_settings(config, backend, ready.pool_settings[id].rotation)
            if settings != app.watches[id].settings:
                app.watches[id].change(settings)
            if id in ready.pools:
                if id in service.pools:
                    service.retire(id)
                service.pools[id] = ready.pools[id]
        app.pool_settings = ready.pool_settings
        service.timeouts = timeout_settings(config)
        service.limits = limit_settings(config, service.descriptors)
        service.resume = config.resume
        service.hedges = hedges(config, balancer, service.hedges)
        service.memory.limit = service.limits.body_memory
        service.set_routes(routes(config))
        if (config.trusted_proxies, config.forwarded) != (app.config.trusted_proxies, app.config.forwarded):
            service.forwarding = Forwarding(config.trusted_proxies, enabled=config.forwarded)
        app.alerting.follow(alert_rules(config), webhook_targets(config))
        if from_file:
            configured = config.policy, config.shadow
            app.switching.follow(*configured, functools.partial(read_switch, configured=configured))
            ready.old_log = app.swap_log(ready.access_log)
        service.listeners += ready.opened
        app.listening = ready.listening
        app.config = config
        return left


class Ready:
    """What a change needs, made beside what runs."""

    def __init__(self, app: App, step: Step, newcomers: list[Backend], given: Sockets | None) -> None:
        config = step.config
        self.step, self.newcomers = step, newcomers
        self._app, self._config, self._given = app, config, given
        self.pool_settings: dict[str, PoolSettings] = {}
        self.pools: dict[str, Pool] = {}  # new ones
        # Newcomers are probed on a balancer of their own: nobody sees them before they are part of the fleet.
        self.staged = make_balancer(dataclasses.replace(config, backends=tuple(newcomers)), Random(0))  # noqa: S311
        self.watches: dict[str, Watch] = {}  # of newcomers
        self.listening: list[tuple[Listen, Listener]] = []  # all of them
        self.opened: list[Listener] = []  # the new ones
        self.out_of_use: list[Listener] = []
        self.access_log: AccessLog | None = app.access_log
        self.old_log: AccessLog | None = None  # set once the new one is in use

    async def make(self) -> None:
        """Everything that can fail. Refused."""
        app, config = self._app, self._config
        for index, backend in enumerate(config.backends):
            try:
                made = pool_settings(config, backend, app.service.rotations)
            except TlsProblem as problem:
                raise _refused(f"backends[{index}].tls", str(problem)) from None
            self.pool_settings[backend.name] = made
            if made != app.pool_settings.get(backend.name):
                self.pools[backend.name] = made.make(backend.name, app.service.via)
        unchanged = config.access_log == app.config.access_log
        if self.step.from_file and not (unchanged and config.access_log.path == "-"):  # a file may have been moved away
            try:
                self.access_log = await asyncio.to_thread(make_access_log, config, app.clock)
            except OSError as problem:
                raise _refused("access_log.path", f"{config.access_log.path}: {problem.strerror}") from None
        for backend in self.newcomers:
            warn_unverified(config, backend)
            rotation = self.pool_settings[backend.name].rotation
            watch = app.make_watch(backend, watch_settings(config, backend, rotation), self.staged)
            self.watches[backend.name] = watch
            watch.start()
        await first_rounds([*self.watches.values()])
        await self._listen()

    async def _listen(self) -> None:
        """Last, because it is seen from outside."""
        before, kept = list(self._app.listening), dict[int, Listener]()
        for index, listen in enumerate(self._config.listen):
            same = next((pair for pair in before if pair[0] == listen), None)
            if same is not None:
                before.remove(same)
                kept[index] = same[1]
        for index, listen in enumerate(self._config.listen):
            heir_of = next((pair for pair in before if pair[0].address == listen.address), None)
            if index not in kept and heir_of is not None:
                before.remove(heir_of)
            listener = kept.get(index) or await self._open(index, listen, heir_of[1] if heir_of else None)
            self.listening.append((listen, listener))
        self.out_of_use += [listener for _, listener in before]

    async def _open(self, index: int, listen: Listen, heir_of: Listener | None) -> Listener:
        """A listener that has its address and serves nobody yet. Refused."""
        try:
            listener = make_listener(self._app.service, listen)
            if heir_of is not None:
                listener.inherit(heir_of)
                self.out_of_use.append(heir_of)
            elif self._given is not None:
                listener.adopt(self._given[str(listen.address)])
            else:
                await listener.bind()
        except TlsProblem as problem:
            raise _refused(f"listen[{index}].tls", str(problem)) from None
        except OSError as problem:
            why = why_not(problem, listen.address.path, "listen")
            raise _refused(f"listen[{index}].address", f"{listen.address}: {why}") from None
        self.opened.append(listener)
        return listener

    async def drop(self) -> None:
        """It came to nothing."""
        for watch in self.watches.values():
            await watch.stop()
        for listener in self.opened:
            listener.stop()
        if self.access_log is not None and self.access_log is not self._app.access_log:
            await asyncio.to_thread(self.access_log.close)


async def first_rounds(watches: list[Watch]) -> None:
    """Wait until each backend was asked once, within reason: one that is down is no reason to wait for ever."""
    rounds = [asyncio.ensure_future(watch.first_round.wait()) for watch in watches]
    if rounds:
        _, late = await asyncio.wait(rounds, timeout=FIRST_ROUND_SECONDS)
        for task in late:
            task.cancel()


def _take_away(exchange: Exchange | Hedge) -> None:
    """Break it as its engine's death would: tried again elsewhere where that is safe, told to the client where not."""
    upstream = exchange.upstream
    if upstream is not None and upstream.connecting is not None:
        exchange.connect_failed("the backend was removed")
    elif upstream is not None:
        exchange.upstream_broken("the backend was removed")


def _refused(path: str, message: str) -> Refused:
    problem = Problem(source="", path=path, message=message)
    return Refused(400, "what the file asks for cannot be had: nothing was changed", fleet.as_rows([problem]))
