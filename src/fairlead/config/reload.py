"""How does another configuration take over while requests run? Whole, or not at all.

First everything that can fail is made ready beside what runs: certificates, the access log, new backends with their
first probes, new listening sockets. When all of it is there, the change is one step between two turns of the loop; if
something is not, it is let go of, and nothing has changed. Then what is out of use is closed, in its own time.

Rule 1: a backend of the same name and URL is the same one: what was learned of it stays. Any other begins anew.
Rule 2: requests keep the route and the headers that they began with; those on a backend that leaves finish there.
Rule 3: settings are replaced whole, never changed in their inside, so that nobody sees half of a change.
Rule 4: one change at a time, in the order in which they were asked for.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import logging
from random import Random
from typing import TYPE_CHECKING, Any

from fairlead.config import fleet
from fairlead.config.parts import (
    PoolSettings,
    Read,
    limit_settings,
    make_access_log,
    make_balancer,
    make_listener,
    pool_settings,
    retry_rules,
    routes,
    set_health,
    share_rules,
    timeout_settings,
    warn_unverified,
    watch_settings,
)
from fairlead.config.problems import ERROR, Problem
from fairlead.config.schema import Backend, Config, Listen, options_of
from fairlead.config.switch import read_switch
from fairlead.control.fleet import Refused, Versions
from fairlead.feeds.watch import Watch
from fairlead.proxy.forwarded import Forwarding
from fairlead.proxy.listener import Listener, why_not
from fairlead.proxy.pool import Pool
from fairlead.proxy.tls import TlsProblem

if TYPE_CHECKING:
    from fairlead.config.build import App
    from fairlead.control.access_log import AccessLog
    from fairlead.proxy.exchange import Exchange

log = logging.getLogger("fairlead")

FIRST_ROUND_SECONDS = 3.0  # how long to wait for a first word of new backends
FIXED = ("admin", "recording")  # options that only a start reads


class Reloader:
    """Changes the configuration of a running App. The admin API's way in, and the signal's."""

    def __init__(self, app: App, read: Read | None, source: str | None) -> None:
        """`read` reads the configuration once more; None: it came from the command line."""
        self._app = app
        self.read = read
        self.versions = Versions(source)
        self._turn = asyncio.Lock()

    @property
    def config(self) -> Config:
        return self._app.config

    # --- what may be asked for -------------------------------------------------------------------------------

    async def reload(self) -> dict[str, Any]:
        """Read the file again and apply it. Refused."""
        try:
            async with self._turn:
                told = await self._reload()
        except Refused as refusal:
            self.versions.refused(refusal)
            log.error("reload refused, version %d stays in force: %s", self.versions.number, refusal)
            for row in refusal.problems:
                log.error("reload: %s", _line(row))
            raise
        log.info("reload: version %d is in force", self.versions.number)
        return told

    async def _reload(self) -> dict[str, Any]:
        if self.read is None:
            raise Refused(409, "there is no file to read again: the engines were given on the command line")
        config, problems = await asyncio.to_thread(self.read)  # it may be long, and lie on a network
        errors = [problem for problem in problems if problem.severity == ERROR]
        if config is None:
            count = f"{len(errors)} problem{'s' if len(errors) != 1 else ''}"
            raise Refused(400, f"the file has {count}: nothing was changed", fleet.as_rows(errors))
        old = self.config
        later = [name for name in FIXED if getattr(config, name) != getattr(old, name)]
        config = dataclasses.replace(config, **{name: getattr(old, name) for name in FIXED})
        differences = _differences(old, config)
        await self._apply(config, from_file=True)
        self.versions.applied(needs_restart=later)
        for name in later:
            log.warning("reload: a new value for %s waits for a restart", name)
        rotations = self._app.service.rotations
        rotations.start()
        await asyncio.to_thread(rotations.look)
        return {
            "version": self.versions.number,
            **differences,
            "needs_restart": later,
            "warnings": fleet.as_rows([problem for problem in problems if problem.severity != ERROR]),
        }

    async def add(self, body: object) -> dict[str, Any]:
        """A backend joins. Refused."""
        async with self._turn:
            with _as_refused():
                config, backend = await asyncio.to_thread(fleet.added, body, self.config)
            await self._apply(config)
            return self._changed(backend.name, f"backend {backend.name}: added")

    async def change(self, id: str, body: object) -> dict[str, Any]:
        """Other options for a backend. Refused."""
        async with self._turn:
            self._known(id)
            with _as_refused():
                change = await asyncio.to_thread(fleet.changed, id, body, self.config)
            await self._apply(change.config)
            if change.drain is not None:
                self._app.balancer.set_draining(id, change.drain)
            return self._changed(id, change.told)

    async def remove(self, id: str, *, force: bool) -> dict[str, Any]:
        """A backend leaves; `force` breaks its requests as the engine's death would. Refused."""
        async with self._turn:
            self._known(id)
            with _as_refused():
                config = await asyncio.to_thread(fleet.without, id, self.config)
            service = self._app.service
            running = service.running_on(id)
            await self._apply(config)
            if force:
                for exchange in service.running_on(id):
                    _take_away(exchange)
            told = self._changed(id, f"backend {id}: removed")
            return {**told, ("broken" if force else "running"): len(running)}

    def _known(self, id: str) -> None:
        if not any(backend.name == id for backend in self.config.backends):
            raise Refused(404, f"no such backend: {id!r:.100}; GET /api/backends lists their ids")

    def _changed(self, id: str, change: str) -> dict[str, Any]:
        self.versions.applied(change)
        log.info("%s, by the admin API; version %d is in force until the next reload", change, self.versions.number)
        lasts = "until the next reload, which reads the file again" if self.read else "until the next start"
        return {"id": id, "version": self.versions.number, "lasts": lasts}

    # --- applying --------------------------------------------------------------------------------------------

    async def _apply(self, config: Config, *, from_file: bool = False) -> None:
        """Make `config` the one in force. Refused when something of it cannot be had."""
        app = self._app
        if app.service.draining:
            raise Refused(409, "it is about to stop: nothing is changed any more")
        old = {backend.name: backend for backend in app.config.backends}
        newcomers = [b for b in config.backends if b.name not in old or old[b.name].url != b.url]
        ready = _Ready(app, config, newcomers)
        try:
            await ready.make(new_log=from_file)
        except BaseException:
            await ready.drop()
            app.keep_rotations()
            raise
        left = self._take_over(config, ready, newcomers, from_file)
        for listener in ready.opened:
            log.info("listening on %s", await listener.serve())
        for listener in ready.out_of_use:
            listener.stop()
        app.keep_rotations()
        for watch in left:
            await watch.stop()
        if ready.old_log is not None:
            await asyncio.to_thread(ready.old_log.close)  # it may wait for a slow disk
            app.log_closed(ready.old_log)

    def _take_over(self, config: Config, ready: _Ready, newcomers: list[Backend], from_file: bool) -> list[Watch]:
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
        service.memory.limit = config.limits.body_memory
        service.set_routes(routes(config))
        if (config.trusted_proxies, config.forwarded) != (app.config.trusted_proxies, app.config.forwarded):
            service.forwarding = Forwarding(config.trusted_proxies, enabled=config.forwarded)
        app.alert.rules = share_rules(config)
        if from_file:
            configured = config.policy, config.shadow
            app.switching.follow(*configured, functools.partial(read_switch, configured=configured))
            ready.old_log = app.swap_log(ready.access_log)
        service.listeners += ready.opened
        app.listening = ready.listening
        app.config = config
        return left


class _Ready:
    """What a change needs, made beside what runs."""

    def __init__(self, app: App, config: Config, newcomers: list[Backend]) -> None:
        self._app, self._config, self._newcomers = app, config, newcomers
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

    async def make(self, *, new_log: bool) -> None:
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
        if new_log and not (unchanged and config.access_log.path == "-"):  # a file may have been moved away
            try:
                self.access_log = await asyncio.to_thread(make_access_log, config, app.clock)
            except OSError as problem:
                raise _refused("access_log.path", f"{config.access_log.path}: {problem.strerror}") from None
        for backend in self._newcomers:
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


def _take_away(exchange: Exchange) -> None:
    """Break it as its engine's death would: tried again elsewhere where that is safe, told to the client where not."""
    upstream = exchange.upstream
    if upstream is not None and upstream.connecting is not None:
        exchange.connect_failed("the backend was removed")
    elif upstream is not None:
        exchange.upstream_broken("the backend was removed")


def _refused(path: str, message: str) -> Refused:
    problem = Problem(source="", path=path, message=message)
    return Refused(400, "what the file asks for cannot be had: nothing was changed", fleet.as_rows([problem]))


@contextlib.contextmanager
def _as_refused() -> Any:
    try:
        yield
    except fleet.FleetError as problem:
        raise Refused(problem.status, str(problem), fleet.as_rows(problem.problems)) from None


def _differences(old: Config, new: Config) -> dict[str, Any]:
    """What a reload changes: names of backends and of options."""
    before, after = ({b.name: b for b in config.backends} for config in (old, new))
    same = [id for id in before if id in after and before[id].url == after[id].url]
    options = [name for name in options_of(Config) if name != "backends" and getattr(old, name) != getattr(new, name)]
    return {
        "added": [id for id in after if id not in same],
        "removed": [id for id in before if id not in same],
        "changed": [id for id in same if before[id] != after[id]],
        "options": options,
    }


def _line(row: dict[str, Any]) -> str:
    hint = f" ({row['hint']})" if row["hint"] else ""
    place = f"line {row['line']}: " if row["line"] else ""
    return f"{place}{row['path'] + ': ' if row['path'] else ''}{row['message']}{hint}"
