"""A checked `Config` -> the settings and parts that a running balancer is made of. Starts nothing.

Used at the start and again at each reload, so that both read every option alike.
"""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from fairlead.config import schema
from fairlead.config.problems import Problem
from fairlead.config.schema import Backend, Config, Limits, Listen
from fairlead.control.access_log import AccessLog
from fairlead.control.decision_log import DecisionLog
from fairlead.control.gate import VARIABLE, AdminToken
from fairlead.control.log_formats import renderer
from fairlead.control.tracing import Tracing
from fairlead.control.webhooks import Target
from fairlead.core.alerts.rules import (
    STALE_READINGS,
    STALE_SECONDS,
    AlertRules,
    ErrorRules,
    QueueRules,
    ShareRules,
    TtftRules,
)
from fairlead.core.balancer import Balancer
from fairlead.core.health.passive import OutlierRules
from fairlead.core.hedge import HedgeRules, Hedges
from fairlead.core.policies.registry import make
from fairlead.core.retry import BUDGET_FLOOR, RetryRules
from fairlead.core.view import Policy
from fairlead.feeds.watch import WatchSettings
from fairlead.proxy.listener import Listener, ListenSettings
from fairlead.proxy.pool import Pool
from fairlead.proxy.service import LimitSettings, Route, Service, TimeoutSettings
from fairlead.proxy.sockets import fitting_connections
from fairlead.proxy.tls import ClientTls, Pair, Rotation, Rotations, ServerTls
from fairlead.proxy.trace import Tracer

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
    return RetryRules(
        retries.attempts, frozenset(retries.on), retries.window, retries.budget, retries.breaks,
        floor=BUDGET_FLOOR / config.workers,
    )  # fmt: skip


def hedges(config: Config, balancer: Balancer, old: Hedges | None = None) -> Hedges | None:
    """Who decides on hedges; None: nobody. What the old one has learned stays."""
    hedging = config.hedging
    if hedging is None:
        return None
    rules = HedgeRules(None if isinstance(hedging.delay, str) else hedging.delay, hedging.budget)
    if old is None:
        return Hedges(balancer, rules)
    old.rules = rules
    return old


def outlier_rules(config: Config) -> OutlierRules:
    health = config.health
    return OutlierRules(
        health.fail_timeout_max, health.slow_start, health.max_ejected, health.no_progress, health.outlier_factor or 0.0
    )


def make_balancer(config: Config, rng: random.Random, kind: type[Balancer] = Balancer) -> Balancer:
    """The brain for a configuration, with its backends, not yet probed."""
    balancer = kind(make_policy(config.policy), rng, retry=retry_rules(config))
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


# --- alerts --------------------------------------------------------------------------------------------------


def alert_rules(config: Config) -> AlertRules:
    alerts = config.alerts
    share, tokens, errors, queue, ttft = alerts.share, alerts.tokens, alerts.errors, alerts.queue, alerts.ttft
    return AlertRules(
        share=ShareRules(share.threshold, share.window, share.min_requests),
        tokens=ShareRules(tokens.threshold, tokens.window, tokens.min_requests),
        errors=ErrorRules(errors.threshold, errors.window, errors.min_errors),
        queue=QueueRules(queue.waiting, queue.window),
        ttft=None if ttft is None else TtftRules(ttft.target, ttft.within, ttft.window, ttft.min_requests),
        slow=alerts.slow,
        stale=max(STALE_SECONDS, STALE_READINGS * config.metrics.interval),
        certificate=alerts.certificate,
        off=frozenset(alerts.off),
    )


def webhook_targets(config: Config) -> list[Target]:
    return [Target(w.url, w.format, w.headers, w.send_resolved, w.per_minute) for w in config.alerts.webhooks]


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
        body_memory=_part(limits.body_memory, config),
    )


def _part(limit: int, config: Config) -> int:
    """What one of the workers may have of it."""
    return -(-limit // config.workers)


def _connections(config: Config, descriptors: int) -> int:
    """How many client connections to allow: as configured, or what this process has file descriptors for."""
    wanted = _part(config.limits.connections, config)
    fitting = fitting_connections(wanted, descriptors, len(config.backends))
    if fitting < wanted:
        usual = config.limits.connections == Limits().connections  # nobody asked for so many
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
    settings = ListenSettings(
        address.host,
        address.port,
        address.path,
        listen.http2,
        listen.proxy_protocol,
        half_close=listen.half_close == "allow",
    )
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
        canary_timeout=config.health.no_progress if config.health.canary == "auto" else 0.0,
    )


def _headers(config: Config, backend: Backend) -> tuple[str, ...]:
    """Header lines that it gets from us; its own replace those of all."""
    own = {line.partition(":")[0].lower() for line in backend.headers}
    return (*[line for line in config.headers.set if line.partition(":")[0].lower() not in own], *backend.headers)


# --- logs ----------------------------------------------------------------------------------------------------


def admin_token(config: Config) -> AdminToken | None:
    """From the environment, else from the file that the configuration names. TokenProblem."""
    text = os.environ.get(VARIABLE, "")
    if text:
        return AdminToken(text=text)
    return None if config.admin_token_file is None else AdminToken(file=config.admin_token_file)


def make_access_log(config: Config, clock: Callable[[], float]) -> AccessLog | None:
    """OSError when its file cannot be opened."""
    wanted = config.access_log
    return AccessLog(wanted.path, renderer(wanted.format, wanted.template), clock) if wanted.enabled else None


def make_decision_log(config: Config, clock: Callable[[], float]) -> DecisionLog | None:
    """DecisionLogError when its file cannot be written."""
    wanted = config.decisions
    return DecisionLog(wanted.path, clock=clock, max_bytes=wanted.max_bytes, keep=wanted.keep) if wanted else None


def make_tracing(
    config: Config, clock: Callable[[], float], engine_of: Callable[[str], str]
) -> tuple[Tracing | None, Tracer | None]:
    """Who tells the collector of requests, and who begins their traces. ImportError without the extra for it."""
    wanted = config.tracing
    if wanted is None:
        return None, None
    from fairlead.control.tracing_otlp import Otlp  # an extra, and slow to import

    endpoint = (
        wanted.endpoint if urlsplit(wanted.endpoint).path.strip("/") else f"{wanted.endpoint.rstrip('/')}/v1/traces"
    )
    headers = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in wanted.headers)}
    return Tracing(Otlp(endpoint, headers, wanted.service_name), clock, engine_of), Tracer(wanted.sample)
