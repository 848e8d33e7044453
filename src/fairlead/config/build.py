"""The only place that wires objects: a checked `Config` becomes a running balancer.

Order of starting: watches first, and a short wait for their first round, so that the first request finds a
fleet; then the admin listener, then the data listeners. Stopping goes the other way round. What a running one may be
changed to, and how, is config/reload.py's work.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import random
import socket
from collections.abc import Callable, Collection
from dataclasses import dataclass
from time import monotonic

import aiohttp
import msgspec

from fairlead.config.parts import (
    PoolSettings,
    Read,
    admin_token,
    alert_rules,
    hedges,
    limit_settings,
    make_access_log,
    make_balancer,
    make_decision_log,
    make_listener,
    make_policy,
    make_tracing,
    pool_settings,
    routes,
    timeout_settings,
    warn_unverified,
    watch_settings,
    webhook_targets,
)
from fairlead.config.reload import Reloader, Sockets, first_rounds
from fairlead.config.schema import Backend, Config, Listen
from fairlead.config.switch import read_switch
from fairlead.control.access_log import AccessLog
from fairlead.control.admin import Admin
from fairlead.control.alerting import Alerting, gather
from fairlead.control.decision_log import DecisionLogError
from fairlead.control.gate import AdminToken, TokenProblem
from fairlead.control.metrics import MetricsPage
from fairlead.control.notices import Notices
from fairlead.control.recorder import Recorder
from fairlead.control.recording import Recording, RecordingError
from fairlead.control.switching import Switching
from fairlead.control.takeover import Offered
from fairlead.control.views import Views
from fairlead.core.alerts.facts import FleetFacts
from fairlead.core.balancer import Balancer
from fairlead.feeds.watch import Watch, WatchSettings
from fairlead.proxy.forwarded import Forwarding
from fairlead.proxy.listener import Listener, open_tcp, why_not
from fairlead.proxy.record import Record
from fairlead.proxy.service import Service
from fairlead.proxy.sockets import raise_descriptor_limit
from fairlead.proxy.tls import TlsProblem

log = logging.getLogger("fairlead")

ALERT_SECONDS = 1.0  # time between two looks for what deserves an alert


class StartError(Exception):
    """It cannot start; the message is a sentence for people."""


@dataclass(frozen=True, slots=True)
class Bound:
    """Where it really listens."""

    data: tuple[str, ...]  # URLs
    admin: str


def url_of(host: str, port: int, tls: bool) -> str:
    shown = f"[{host}]" if ":" in host else host
    return f"{'https' if tls else 'http'}://{shown}:{port}"


def open_token(config: Config) -> AdminToken | None:
    """What the admin API's callers have to show; None: nothing. StartError."""
    try:
        return admin_token(config)
    except TokenProblem as problem:
        raise StartError(f"admin token: {problem}") from None


class App:
    """A running Fairlead. Make it inside a running event loop, then `start`, later `stop`."""

    def __init__(
        self,
        config: Config,
        *,
        seed: int | None = None,
        reread: Read | None = None,
        source: str | None = None,
        brain: Callable[[Config, random.Random], Balancer] = make_balancer,
    ) -> None:
        """`reread` reads the configuration once more for a reload, from `source`; None: it has no file."""
        self.config = config
        loop = asyncio.get_running_loop()
        self.clock = monotonic
        self.balancer = brain(config, random.Random(seed))  # noqa: S311 -- spreads load, no secret
        try:
            self.decisions = make_decision_log(config, self.clock)
        except DecisionLogError as problem:
            raise StartError(f"decisions.path: {problem}") from None
        self.access_log, self.recording = self._logs()
        self.tracing, tracer = make_tracing(config, self.clock, self._engine_of)
        self.recorder = Recorder(self.balancer, *self.sinks())
        descriptors = raise_descriptor_limit()
        self.service = Service(
            loop=loop,
            balancer=self.balancer,
            recorder=self.recorder,
            timeouts=timeout_settings(config),
            limits=limit_settings(config, descriptors),
            models_body=self._models_body,
            hash_prompts=self.recording is not None,
            routes=routes(config),
            forwarding=Forwarding(config.trusted_proxies, enabled=config.forwarded),
        )
        self.service.descriptors = descriptors
        self.service.tracer = self.recorder.tracer = tracer
        self.service.resume, self.service.engine_of = config.resume, self._engine_of
        self.service.hedges = hedges(config, self.balancer)
        self.switching = Switching(
            config.policy,
            config.shadow,
            balancer=self.balancer,
            service=self.service,
            read=functools.partial(read_switch, configured=(config.policy, config.shadow)),
            make=make_policy,
            rng=random.Random(None if seed is None else f"shadow of {seed}"),  # noqa: S311
            tell=self.recording.switched if self.recording is not None else None,
        )
        self.alerting = Alerting(alert_rules(config), self.clock, config.admin.port)
        self.reloader = Reloader(self, reread, source)
        self.watches: dict[str, Watch] = {}
        self.pool_settings: dict[str, PoolSettings] = {}  # of the backends' pools
        self.listening: list[tuple[Listen, Listener]] = []  # in the order of the configuration
        self._lines_dropped = 0  # by access logs that are closed
        self._session: aiohttp.ClientSession | None = None
        self._models_cache: tuple[tuple[int, ...], bytes] = ((), b"")
        self._alerted_at = float("-inf")
        self._notices = Notices(self.balancer)
        self._admin: Admin | None = None

    def _logs(self) -> tuple[AccessLog | None, Recording | None]:
        log, recording = self.config.access_log, self.config.recording
        taken = None
        if recording is not None:
            try:
                taken = Recording(
                    recording.path,
                    balancer=self.balancer,
                    policy=self.config.policy.name,
                    clock=self.clock,
                    max_bytes=recording.max_bytes,
                    keep=recording.keep,
                )
            except RecordingError as problem:
                raise StartError(f"recording.path: {problem}") from None
        try:
            return make_access_log(self.config, self.clock), taken
        except OSError as problem:
            if taken is not None:
                taken.close()
            raise StartError(f"access_log.path: {log.path}: {problem.strerror}") from None

    def sinks(self) -> list[Callable[[Record], None]]:
        """Who takes the records of finished requests."""
        written = [each.take for each in (self.recording, self.decisions, self.tracing) if each is not None]
        return [self.access_log, *written] if self.access_log is not None else [*written]

    # --- life ------------------------------------------------------------------------------------------------

    async def start(
        self,
        given: Sockets | None = None,
        *,
        admin: bool = True,
        recall: Callable[[App], Collection[str]] | None = None,
    ) -> Bound:
        """Start everything. StartError when an address cannot be had.

        `given` are listening sockets that are there already, by address ("admin" for the admin listener); the others
        are opened. Without `admin` another process shows what is in here. `recall` takes over what is known of
        backends; those are not waited for.
        """
        config = self.config
        self.listening = [(listen, self._listener(listen)) for listen in config.listen]
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, limit_per_host=8, keepalive_timeout=4.0),
            headers={"User-Agent": "fairlead"},
        )
        for backend in config.backends:
            warn_unverified(config, backend)
            try:
                made = pool_settings(config, backend, self.service.rotations)
            except TlsProblem as problem:
                raise StartError(f"backend {backend.name}: {problem}") from None
            self.pool_settings[backend.name] = made
            self.service.pools[backend.name] = made.make(backend.name, self.service.via)
            settings = watch_settings(config, backend, made.rotation)
            self.watches[backend.name] = self.make_watch(backend, settings, self.balancer)
        self.recorder.on_connect_failure = self._hurry
        self.alerting.follow(alert_rules(config), webhook_targets(config))
        self.service.wheel.on_tick.append(self._tick)
        self.service.start()
        known = recall(self) if recall is not None else ()
        for watch in self.watches.values():
            watch.start()
        await first_rounds([watch for id, watch in self.watches.items() if id not in known])
        self.views = Views(self.balancer, self.recorder, self.alerting, self.watches, self.clock)
        page = self.page = MetricsPage(
            self.balancer, self.recorder, self.service, self.alerting, self._dropped, self.recording
        )
        page.versions, page.decisions = self.reloader.versions, self.decisions
        page.tracing = self.tracing
        for listen, listener in self.listening:  # all before any serves: what fails must not cost a client
            await self._bind(listener, listen, given or {})
        url = await self._open_admin((given or {}).get("admin")) if admin else ""
        data = [await listener.serve() for _, listener in self.listening]
        self.service.rotations.start()
        return Bound(tuple(data), url)

    async def _open_admin(self, given: list[socket.socket] | None) -> str:
        address = self.config.admin
        token = open_token(self.config)
        self._admin = Admin(self.reloader, self.views, self.page, self.switching, self.not_ready, token)
        try:
            sockets = given or await open_tcp(self.service.loop, address.host, address.port)
            return url_of(*await self._admin.listen(sockets), tls=False)
        except OSError as problem:
            raise StartError(f"admin {address}: {why_not(problem, address.path, 'admin')}") from None

    def make_watch(self, backend: Backend, settings: WatchSettings, balancer: Balancer) -> Watch:
        """A watch that tells `balancer`, not yet started."""
        assert self._session is not None
        return Watch(backend.name, backend.url, settings, balancer, self._session, self.clock, self._backend_changed)

    def _listener(self, listen: Listen) -> Listener:
        """A listener with its certificates, not yet open."""
        try:
            return make_listener(self.service, listen)
        except TlsProblem as problem:
            raise StartError(f"listen {listen.address}: {problem}") from None

    async def _bind(self, listener: Listener, listen: Listen, given: Sockets) -> None:
        """Have its address."""
        self.service.listeners.append(listener)
        sockets = given.get(str(listen.address))
        try:
            if sockets is None:
                await listener.bind()
            else:
                listener.adopt(sockets)
        except OSError as problem:
            raise StartError(f"listen {listen.address}: {why_not(problem, listen.address.path, 'listen')}") from None

    async def stop(self, drain: float | None = None) -> int:
        """Drain and let go of everything; the number of requests that had to be broken off. `drain` 0: at once."""
        config = self.config
        delay = 0.0 if drain == 0.0 else config.drain_delay
        left = await self.service.ending.drain(config.drain if drain is None else drain, delay)
        await self.service.close()
        for watch in self.watches.values():
            await watch.stop()
        await self.alerting.close()
        if self._session is not None:
            await self._session.close()
        if self._admin is not None:
            await self._admin.close()
        if self.access_log is not None:
            self.access_log.close()
        for written in (self.recording, self.decisions, self.tracing):
            if written is not None:
                await asyncio.to_thread(written.close)  # it may wait for a disk, or a collector
        return left

    def reopen_logs(self) -> None:
        """Their files may have been moved away: begin them again under their names."""
        for written in (self.access_log, self.recording, self.decisions):
            if written is not None:
                written.reopen()

    def own_files(self, addresses: Collection[str]) -> None:
        """The socket files of these are ours to remove from now on, though others have made them."""
        for listen, listener in self.listening:
            if str(listen.address) in addresses:
                listener.own_file()

    def offered(self) -> Offered:
        """What a process that takes over gets."""
        each = {str(listen.address): listener.offered() for listen, listener in self.listening}
        sockets = {address: sockets for address, (sockets, _) in each.items()}
        if self._admin is not None:
            sockets["admin"] = self._admin.sockets
        return Offered(sockets, [address for address, (_, file) in each.items() if file])

    async def release(self) -> None:
        """Accept no more: another process has taken over."""
        for listener in self.service.listeners:
            listener.hand_on()
        if self._admin is not None:
            await self._admin.release()

    async def running(self) -> int:
        """How many requests are under way."""
        return len(self.service.exchanges)

    def break_off(self) -> None:
        """No more patience with requests that still run."""
        self.service.ending.break_off()

    # --- between the parts -----------------------------------------------------------------------------------

    def swap_log(self, new: AccessLog | None) -> AccessLog | None:
        """Another access log takes what comes from now on; the old one, to be closed, or None where it is the same."""
        old, self.access_log = self.access_log, new
        if old is None or old is new:
            return None
        self.recorder.send_to(*self.sinks())
        return old

    def log_closed(self, old: AccessLog) -> None:
        self._lines_dropped += old.dropped

    def keep_rotations(self) -> None:
        """Let go of certificates that nobody uses any more."""
        backends = [settings.rotation for settings in self.pool_settings.values()]
        self.service.rotations.keep([*backends, *(listener.tls for _, listener in self.listening)])

    def _tick(self, now: float) -> None:
        for id in self.service.sweep_retired():
            self.recorder.left(id)
        if self.access_log is not None:
            self.access_log.flush()
        if now - self._alerted_at >= ALERT_SECONDS:
            self._alerted_at = now
            self._notices.look(now)
            if not self.alerting.muted:
                self.alerting.look(self.facts(now), now)

    def facts(self, now: float) -> FleetFacts:
        """What alerts look at."""
        return gather(self.balancer, self.recorder, self.service.rotations, self.reloader.versions, now)

    def _hurry(self, backend: str) -> None:
        watch = self.watches.get(backend)
        if watch is not None:
            watch.hurry()

    def _backend_changed(self, watch: Watch, up: bool) -> None:
        id = watch.id
        if up:
            engine = f"{watch.about.engine} {watch.about.version}".strip()
            log.info("backend %s is up (%s)", id, engine or "engine unknown")
        else:
            log.warning("backend %s is down: %s", id, watch.about.problem)
            if self.watches.get(id) is watch:  # one that is about to join has no pool yet
                self.service.pools[id].close()

    def _engine_of(self, backend: str) -> str:
        watch = self.watches.get(backend)
        return watch.about.engine if watch is not None else ""

    def not_ready(self) -> str:
        """Why it cannot take requests; "" when it can."""
        if self.service.draining:
            return "draining"
        return "" if self.balancer.can_serve(self.clock()) else "no backend is up"

    def _dropped(self) -> int:
        return self._lines_dropped + (self.access_log.dropped if self.access_log is not None else 0)

    def _models_body(self) -> bytes:
        """The union of the fleet's models, as /v1/models lists them."""
        key = tuple(id(watch.about.entries) for watch in self.watches.values())
        if self._models_cache[0] != key:
            merged: dict[str, object] = {}
            for watch in self.watches.values():
                for entry in watch.about.entries:
                    merged.setdefault(entry["id"], entry)
            body = msgspec.json.encode({"object": "list", "data": [merged[name] for name in sorted(merged)]})
            self._models_cache = (key, body)
        return self._models_cache[1]
