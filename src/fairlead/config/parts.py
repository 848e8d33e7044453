"""A checked `Config` -> the settings and parts that a running balancer is made of. Starts nothing.

Used at the start and again at each reload, so that both read every option alike.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from fairlead.config import schema
from fairlead.config.problems import Problem
from fairlead.config.schema import Backend, Config, Limits, Listen
from fairlead.control.access_log import AccessLog
from fairlead.control.log_formats import renderer
from fairlead.core.alerts import ShareRules
from fairlead.core.balancer import Balancer
from fairlead.core.health.passive import OutlierRules
from fairlead.core.policies.registry import make
from fairlead.core.retry import RetryRules
from fairlead.core.view import Policy
from fairlead.feeds.watch import WatchSettings
from fairlead.proxy.listener import Listener, ListenSettings
from fairlead.proxy.pool import Pool
from fairlead.proxy.service import LimitSettings, Route, Service, TimeoutSettings
from fairlead.proxy.sockets import fitting_connections
from fairlead.proxy.tls import ClientTls, Pair, Rotation, Rotations, ServerTls

log = logging.getLogger("fairlead")

POLICY_OPTIONS: Final = {  # of schema.Policy, by the names that the constructors know them by
    "expected_completion": ("throughput",),
    "prefix_cache": ("overload",),
    "prefix_hash": ("load_factor",),
    "session": ("ttl",),
}

Read = Callable[[], tuple[Config | None, list[Problem]]]
"""Reads the configuration once more, with all problems; see config/load.py."""


# --- the brain -----------------------------------------------------------------------------------------------


def make_policy(policy: schema.Policy) -> Policy:
    """A configured policy with its options."""
    return make(policy.name, **{name: getattr(policy, name) for name in POLICY_OPTIONS.get(policy.name, ())})


def retry_rules(config: Config) -> RetryRules:
    retries = config.retries
    return RetryRules(retries.attempts, frozenset(retries.on), retries.window, retries.budget, retries.breaks)


def outlier_rules(config: Config) -> OutlierRules:
    health = config.health
    return OutlierRules(
        health.fail_timeout_max, health.slow_start, health.max_ejected, health.no_progress, health.outlier_factor or 0.0
    )


def make_balancer(config: Config, rng: random.Random) -> Balancer:
    """The brain for a configuration, with its backends, not yet probed."""
    balancer = Balancer(make_policy(config.policy), rng, retry=retry_rules(config))
    set_health(balancer, config)
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


def set_health(balancer: Balancer, config: Config) -> None:
    """The limits of checks; at the start as well as in a reload."""
    health = config.health
    balancer.set_health(
        rise=health.rise,
        fall=health.fall,
        max_fails=health.max_fails,
        fail_timeout=health.fail_timeout,
        outliers=outlier_rules(config),
    )


def share_rules(config: Config) -> ShareRules:
    share = config.alerts.share
    return ShareRules(share.threshold, share.window, share.min_requests)


# --- the data plane ------------------------------------------------------------------------------------------


def timeout_settings(config: Config) -> TimeoutSettings:
    timeouts = config.timeouts
    return TimeoutSettings(
        connect=timeouts.connect,
        first_byte=timeouts.first_byte,
        idle=timeouts.idle,
        client_header=timeouts.client_header,
        client_body=timeouts.client_body,
        client_idle=timeouts.client_idle,
        client_write=timeouts.client_write,
        send=timeouts.send,
        handshake=timeouts.handshake,
    )


def limit_settings(config: Config, descriptors: int) -> LimitSettings:
    limits = config.limits
    return LimitSettings(
        body=limits.body,
        head=limits.head,
        headers=limits.headers,
        connections=_connections(config, descriptors),
        streams=limits.streams,
        body_memory=limits.body_memory,
    )


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


def routes(config: Config) -> list[Route]:
    return [Route(r.path.encode(), frozenset(r.backends), r.strip) for r in config.routes]


def server_tls(listen: Listen) -> ServerTls | None:
    """How a listener speaks TLS; None: it does not."""
    tls = listen.tls
    if tls is None:
        return None
    pairs = tuple(Pair(each.cert, each.key) for each in (tls, *tls.more))
    return ServerTls(pairs, tls.min_version, tls.client_ca, tls.client_certs, listen.http2)


def make_listener(service: Service, listen: Listen) -> Listener:
    """A listener with its certificates, not yet open. TlsProblem."""
    address, tls = listen.address, server_tls(listen)
    settings = ListenSettings(address.host, address.port, address.path, listen.http2, listen.proxy_protocol)
    rotation = service.rotations.server(f"listen {address}", tls) if tls is not None else None
    return Listener(service, settings, rotation)


# --- backends ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PoolSettings:
    """What connections to a backend are made by: equal settings, same pool."""

    url: str
    connections: int
    requests: int
    timeout: float
    headers: tuple[str, ...]
    drop: tuple[str, ...]
    rotation: Rotation | None
    server_name: str | None

    def make(self, id: str, via: bytes) -> Pool:
        return Pool(
            id,
            self.url,
            connections=self.connections,
            requests=self.requests,
            timeout=self.timeout,
            via=via,
            headers=self.headers,
            drop=self.drop,
            tls=self.rotation,
            server_name=self.server_name,
        )


def client_tls(config: Config, backend: Backend) -> ClientTls | None:
    """How a backend is spoken to with TLS; None: it is not."""
    if not backend.url.startswith("https:"):
        return None
    tls = backend.tls or config.backend_tls
    return ClientTls(tls.verify, tls.ca, tls.server_name, tls.cert, tls.key)


def pool_settings(config: Config, backend: Backend, rotations: Rotations) -> PoolSettings:
    """TlsProblem when its certificates cannot be used."""
    tls, keepalive = client_tls(config, backend), config.keepalive
    return PoolSettings(
        url=backend.url,
        connections=keepalive.connections,
        requests=keepalive.requests,
        timeout=keepalive.timeout,
        headers=_headers(config, backend),
        drop=config.headers.remove,
        rotation=rotations.client(f"TLS with backend {backend.name}", tls) if tls is not None else None,
        server_name=tls.server_name if tls is not None else None,
    )


def warn_unverified(config: Config, backend: Backend) -> None:
    """Say in the log what an operator has asked for and may have forgotten."""
    tls = client_tls(config, backend)
    if tls is not None and not tls.verify:
        log.warning("backend %s is not verified (tls.verify: false): anybody on the way can pose as it", backend.name)


def watch_settings(config: Config, backend: Backend, rotation: Rotation | None) -> WatchSettings:
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
        context=rotation.current if rotation is not None else None,
    )


def _headers(config: Config, backend: Backend) -> tuple[str, ...]:
    """Header lines that it gets from us; its own replace those of all."""
    own = {line.partition(":")[0].lower() for line in backend.headers}
    return (*[line for line in config.headers.set if line.partition(":")[0].lower() not in own], *backend.headers)


# --- logs ----------------------------------------------------------------------------------------------------


def make_access_log(config: Config, clock: Callable[[], float]) -> AccessLog | None:
    """OSError when its file cannot be opened."""
    wanted = config.access_log
    return AccessLog(wanted.path, renderer(wanted.format, wanted.template), clock) if wanted.enabled else None
