"""The only place that wires objects: a checked `Config` becomes a running balancer.

Order of starting: watches first, and a short wait for their first round, so that the first request finds a
fleet; then the admin listener, then the data listeners. Stopping goes the other way round.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import random
from dataclasses import dataclass
from time import monotonic

import aiohttp
import msgspec

from fairlead.config import schema
from fairlead.config.schema import Backend, Config, Limits, Listen
from fairlead.config.switch import read_switch
from fairlead.control.access_log import AccessLog
from fairlead.control.admin import Admin
from fairlead.control.log_formats import renderer
from fairlead.control.metrics import MetricsPage
from fairlead.control.notices import Notices
from fairlead.control.recorder import Recorder
from fairlead.control.recording import Recording, RecordingError
from fairlead.control.switching import Switching
from fairlead.control.views import Views
from fairlead.core.alerts import ShareAlert, ShareRules
from fairlead.core.balancer import Balancer
from fairlead.core.policies.registry import make
from fairlead.core.retry import RetryRules
from fairlead.core.view import Policy
from fairlead.feeds.watch import Watch, WatchSettings
from fairlead.proxy.forwarded import Forwarding
from fairlead.proxy.listener import Listener, ListenSettings, why_not
from fairlead.proxy.pool import Pool
from fairlead.proxy.service import LimitSettings, Route, Service, TimeoutSettings
from fairlead.proxy.sockets import fitting_connections, raise_descriptor_limit
from fairlead.proxy.tls import ClientTls, Pair, Rotation, ServerTls, TlsProblem

log = logging.getLogger("fairlead")

FIRST_ROUND_SECONDS = 3.0  # how long a start waits to hear from the backends
ALERT_SECONDS = 1.0  # time between two looks at the shares
POLICY_OPTIONS = {  # of schema.Policy, by the names that the constructors know them by
    "expected_completion": ("throughput",),
    "prefix_cache": ("overload",),
    "prefix_hash": ("load_factor",),
    "session": ("ttl",),
}


class StartError(Exception):
    """It cannot start; the message is a sentence for people."""


@dataclass(frozen=True, slots=True)
class Bound:
    """Where it really listens."""

    data: tuple[str, ...]  # URLs
    admin: str


def make_policy(policy: schema.Policy) -> Policy:
    """A configured policy with its options."""
    return make(policy.name, **{name: getattr(policy, name) for name in POLICY_OPTIONS.get(policy.name, ())})


def make_balancer(config: Config, rng: random.Random) -> Balancer:
    """The brain for a configuration, with its backends, not yet probed."""
    retries, health = config.retries, config.health
    balancer = Balancer(
        make_policy(config.policy),
        rng,
        retry=RetryRules(retries.attempts, frozenset(retries.on), retries.window, retries.budget),
        rise=health.rise,
        fall=health.fall,
        max_fails=health.max_fails,
        fail_timeout=health.fail_timeout,
    )
    for backend in config.backends:
        balancer.add(
            backend.name,
            weight=backend.weight,
            max_connections=backend.max_connections,
            models=frozenset(backend.models) if backend.models else None,
            backup=backend.backup,
            enabled=not backend.down,
        )
    return balancer


def server_tls(listen: Listen) -> ServerTls | None:
    """How a listener speaks TLS; None: it does not."""
    tls = listen.tls
    if tls is None:
        return None
    pairs = tuple(Pair(each.cert, each.key) for each in (tls, *tls.more))
    return ServerTls(pairs, tls.min_version, tls.client_ca, tls.client_certs, listen.http2)


def client_tls(config: Config, backend: Backend) -> ClientTls | None:
    """How a backend is spoken to with TLS; None: it is not."""
    if not backend.url.startswith("https:"):
        return None
    tls = backend.tls or config.backend_tls
    return ClientTls(tls.verify, tls.ca, tls.server_name, tls.cert, tls.key)


def _watch_settings(config: Config, backend: Backend, rotation: Rotation | None) -> WatchSettings:
    path = backend.health_path or config.health.path
    return WatchSettings(
        health_path=None if path == "auto" else path,
        health_interval=config.health.interval,
        health_timeout=config.health.timeout,
        metrics_interval=config.metrics.interval,
        metrics_timeout=config.metrics.timeout,
        metrics_max_bytes=config.metrics.max_bytes,
        metrics_url=backend.metrics_url,
        engine=None if backend.engine == "auto" else backend.engine,
        models=frozenset(backend.models) if backend.models else None,
        server_name=(backend.tls or config.backend_tls).server_name if rotation is not None else None,
        context=(lambda: rotation.context) if rotation is not None else None,
    )


def _headers(config: Config, backend: Backend) -> list[str]:
    """Header lines that it gets from us; its own replace those of all."""
    own = {line.partition(":")[0].lower() for line in backend.headers}
    return [line for line in config.headers.set if line.partition(":")[0].lower() not in own] + list(backend.headers)


def _connections(config: Config, descriptors: int) -> int:
    """How many client connections to allow: as configured, or what this process has file descriptors for."""
    wanted = config.limits.connections
    fitting = fitting_connections(wanted, descriptors, len(config.backends))
    if fitting < wanted:
        usual = wanted == Limits().connections  # nobody asked for so many
        log.log(
            logging.DEBUG if usual else logging.WARNING,
            "limits.connections: lowered from %d to %d, as this process may open %d files (ulimit -Hn) and each "
            "client connection can need one more to a backend",
            wanted, fitting, descriptors,
        )  # fmt: skip
    return fitting


def _url(host: str, port: int, tls: bool) -> str:
    shown = f"[{host}]" if ":" in host else host
    return f"{'https' if tls else 'http'}://{shown}:{port}"


class App:
    """A running Fairlead. Make it inside a running event loop, then `start`, later `stop`."""

    def __init__(self, config: Config, *, seed: int | None = None) -> None:
        self.config = config
        loop = asyncio.get_running_loop()
        self.clock = monotonic
        self.balancer = make_balancer(config, random.Random(seed))  # noqa: S311 -- spreads load, no secret
        self.access_log, self.recording = self._logs()
        sinks = [self.access_log, self.recording.take if self.recording is not None else None]
        self.recorder = Recorder(self.balancer, *[sink for sink in sinks if sink is not None])
        timeouts, limits = config.timeouts, config.limits
        descriptors = raise_descriptor_limit()
        self.service = Service(
            loop=loop,
            balancer=self.balancer,
            recorder=self.recorder,
            timeouts=TimeoutSettings(
                connect=timeouts.connect,
                first_byte=timeouts.first_byte,
                idle=timeouts.idle,
                client_header=timeouts.client_header,
                client_body=timeouts.client_body,
                client_idle=timeouts.client_idle,
                client_write=timeouts.client_write,
                send=timeouts.send,
                handshake=timeouts.handshake,
            ),
            limits=LimitSettings(
                body=limits.body,
                head=limits.head,
                headers=limits.headers,
                connections=_connections(config, descriptors),
                streams=limits.streams,
                body_memory=limits.body_memory,
            ),
            models_body=self._models_body,
            hash_prompts=self.recording is not None,
            routes=[Route(r.path.encode(), frozenset(r.backends), r.strip) for r in config.routes],
            forwarding=Forwarding(config.trusted_proxies, enabled=config.forwarded),
        )
        self.service.descriptors = descriptors
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
        share = config.alerts.share
        self.alert = ShareAlert(ShareRules(share.threshold, share.window, share.min_requests))
        self.watches: dict[str, Watch] = {}
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
        if not log.enabled:
            return None, taken
        try:
            return AccessLog(log.path, renderer(log.format, log.template), self.clock), taken
        except OSError as problem:
            if taken is not None:
                taken.close()
            raise StartError(f"access_log.path: {log.path}: {problem.strerror}") from None

    # --- life ------------------------------------------------------------------------------------------------

    async def start(self) -> Bound:
        """Start everything. StartError when an address cannot be had."""
        config = self.config
        listeners = [self._listener(listen) for listen in config.listen]
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, limit_per_host=8, keepalive_timeout=4.0),
            headers={"User-Agent": "fairlead"},
        )
        for backend in config.backends:
            tls = client_tls(config, backend)
            rotation = self._backend_context(backend, tls) if tls is not None else None
            self.service.pools[backend.name] = Pool(
                backend.name,
                backend.url,
                connections=config.keepalive.connections,
                requests=config.keepalive.requests,
                timeout=config.keepalive.timeout,
                via=self.service.via,
                headers=_headers(config, backend),
                drop=config.headers.remove,
                tls=rotation,
                server_name=tls.server_name if tls is not None else None,
            )
            self.watches[backend.name] = Watch(
                backend.name,
                backend.url,
                _watch_settings(config, backend, rotation),
                self.balancer,
                self._session,
                self.clock,
                self._backend_changed,
            )
        self.recorder.on_connect_failure = self._hurry
        self.service.wheel.on_tick.append(self._tick)
        self.service.start()
        for watch in self.watches.values():
            watch.start()
        rounds = [asyncio.ensure_future(watch.first_round.wait()) for watch in self.watches.values()]
        _, late = await asyncio.wait(rounds, timeout=FIRST_ROUND_SECONDS)
        for task in late:
            task.cancel()
        views = Views(self.balancer, self.recorder, self.alert, self.watches, self.clock)
        page = MetricsPage(self.balancer, self.recorder, self.service, self.alert, self._dropped, self.recording)
        self._admin = Admin(config, views, page, self.switching, self._not_ready)
        try:
            admin = _url(*await self._admin.listen(config.admin), tls=False)
        except OSError as problem:
            raise StartError(f"admin {config.admin}: {why_not(problem, config.admin.path, 'admin')}") from None
        data = [await self._open(listener, listen) for listener, listen in zip(listeners, config.listen, strict=True)]
        self.service.rotations.start()
        return Bound(tuple(data), admin)

    def _backend_context(self, backend: Backend, tls: ClientTls) -> Rotation:
        if not tls.verify:
            log.warning(
                "backend %s is not verified (tls.verify: false): anybody on the way can pose as it", backend.name
            )
        try:
            return self.service.rotations.client(f"TLS with backend {backend.name}", tls)
        except TlsProblem as problem:
            raise StartError(f"backend {backend.name}: {problem}") from None

    def _listener(self, listen: Listen) -> Listener:
        """A listener with its certificates, not yet open."""
        address, tls = listen.address, server_tls(listen)
        settings = ListenSettings(address.host, address.port, address.path, listen.http2, listen.proxy_protocol)
        try:
            rotation = self.service.rotations.server(f"listen {address}", tls) if tls is not None else None
        except TlsProblem as problem:
            raise StartError(f"listen {address}: {problem}") from None
        return Listener(self.service, settings, rotation)

    async def _open(self, listener: Listener, listen: Listen) -> str:
        """Begin to serve on it; its URL."""
        self.service.listeners.append(listener)
        try:
            return await listener.open()
        except OSError as problem:
            raise StartError(f"listen {listen.address}: {why_not(problem, listen.address.path, 'listen')}") from None

    async def stop(self, drain: float | None = None) -> int:
        """Drain and let go of everything; the number of requests that had to be broken off."""
        left = await self.service.drain(self.config.drain if drain is None else drain)
        await self.service.close()
        for watch in self.watches.values():
            await watch.stop()
        if self._session is not None:
            await self._session.close()
        if self._admin is not None:
            await self._admin.close()
        if self.access_log is not None:
            self.access_log.close()
        if self.recording is not None:
            self.recording.close()
        return left

    # --- between the parts -----------------------------------------------------------------------------------

    def _tick(self, now: float) -> None:
        if self.access_log is not None:
            self.access_log.flush()
        if now - self._alerted_at >= ALERT_SECONDS:
            self._alerted_at = now
            self._notices.look(now)
            raised, cleared = self.alert.observe(self.balancer.backends.values(), now)
            for alert in raised:
                log.warning("alert %s raised: %s", alert.name, alert.message)
            for alert in cleared:
                log.info("alert %s cleared for backend %s", alert.name, alert.backend)

    def _hurry(self, backend: str) -> None:
        watch = self.watches.get(backend)
        if watch is not None:
            watch.hurry()

    def _backend_changed(self, id: str, up: bool) -> None:
        watch = self.watches[id]
        if up:
            engine = f"{watch.about.engine} {watch.about.version}".strip()
            log.info("backend %s is up (%s)", id, engine or "engine unknown")
        else:
            log.warning("backend %s is down: %s", id, watch.about.problem)
            self.service.pools[id].close()

    def _not_ready(self) -> str:
        if self.service.draining:
            return "draining"
        return "" if self.balancer.can_serve(self.clock()) else "no backend is up"

    def _dropped(self) -> int:
        return self.access_log.dropped if self.access_log is not None else 0

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
