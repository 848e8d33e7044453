"""The backends' side of an Envoy configuration: clusters, health, connections and TLS to them.

Rule 1: one cluster for each group of backends that a route names; inside it each backend keeps its own TLS.
Rule 2: what Envoy cannot say of one backend apart from the others is left out, and `left` says so.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from typing import Any, Final
from urllib.parse import urlsplit

from fairlead.config.schema import Backend, BackendTls, Config, Policy
from fairlead.control.exports.envoy_words import CA_FILE, Data, duration, file, percent, socket, typed, weights

_PROBE: Final = "/health"  # of nearly all engines
_FEWEST: Final = "LEAST_REQUEST"
_NEAREST: Final = {"round_robin": "ROUND_ROBIN", "random": "RANDOM", "session": "RING_HASH"}
_RETRY_FLOOR: Final = 3  # retries at once that are always allowed


class Clusters:
    """Makes clusters, each once, and remembers what it could not say."""

    def __init__(self, config: Config, left: list[str]) -> None:
        self._config, self._left = config, left
        self._names: dict[tuple[str, ...], str] = {}
        self.made: list[Data] = []

    def of(self, backends: list[Backend]) -> str:
        """The name of the cluster of these backends."""
        key = tuple(backend.name for backend in backends)
        if key not in self._names:
            self._names[key] = name = f"llm_{len(self._names) + 1}" if self._names else "llm"
            self.made.append(self._cluster(name, backends))
        return self._names[key]

    def _cluster(self, name: str, backends: list[Backend]) -> Data:
        config = self._config
        named = [backend for backend in backends if not _is_address(backend)]
        if named and (files := [each for each in backends if each.url.startswith("unix:")]):
            self._left.append(f"{', '.join(each.url for each in files)}: no socket files beside names to look up")
            backends = [each for each in backends if each not in files]
        cluster: Data = {
            "name": name,
            "type": "STRICT_DNS" if named else "STATIC",
            "connect_timeout": duration(config.timeouts.connect),
            **_balancing(config.policy, config.health.slow_start, self._left),
            "circuit_breakers": self._breakers(backends),
            "health_checks": list(self._checks(backends)),
            **self._outliers(),
            "typed_extension_protocol_options": {
                "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": self._protocol()
            },
            **self._tls(backends),
            "load_assignment": {"cluster_name": name, "endpoints": list(self._endpoints(backends))},
        }
        return cluster

    # --- who -----------------------------------------------------------------------------------------------

    def _endpoints(self, backends: list[Backend]) -> Iterator[Data]:
        shares = weights([backend.weight for backend in backends])
        made = [self._endpoint(backend, shares[n] if shares else None) for n, backend in enumerate(backends)]
        first = [each for each, backend in zip(made, backends, strict=True) if not backend.backup]
        second = [each for each, backend in zip(made, backends, strict=True) if backend.backup]
        for priority, group in enumerate(group for group in (first, second) if group):
            yield {"priority": priority, "lb_endpoints": group}

    def _endpoint(self, backend: Backend, weight: int | None) -> Data:
        where: Data
        if backend.url.startswith("unix:"):
            where = {"address": {"pipe": {"path": backend.url.removeprefix("unix:")}}, "hostname": "localhost"}
        else:
            parts = urlsplit(backend.url)
            host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
            where = {"address": socket(host, port), "hostname": host}
        endpoint: Data = {"endpoint": where}
        if backend.down:
            endpoint["health_status"] = "UNHEALTHY"
        if weight is not None:
            endpoint["load_balancing_weight"] = weight
        if (tls := self._options(backend)) is not None:
            match = {"fairlead": _key(tls)}
            endpoint["metadata"] = {"filter_metadata": {"envoy.transport_socket_match": match}}
        return endpoint

    # --- how they are spoken to ----------------------------------------------------------------------------

    def _protocol(self) -> Data:
        keepalive = self._config.keepalive
        if keepalive.connections:
            self._left.append(f"keepalive.connections ({keepalive.connections}): no limit on idle connections")
        common = {
            "idle_timeout": duration(keepalive.timeout),
            "max_requests_per_connection": keepalive.requests if keepalive.connections else 1,
        }
        return typed(
            "extensions.upstreams.http.v3.HttpProtocolOptions",
            common_http_protocol_options=common,
            explicit_http_config={"http_protocol_options": {}},
        )

    def _breakers(self, backends: list[Backend]) -> Data:
        retries = self._config.retries
        threshold: Data = {"priority": "DEFAULT"}
        for what in ("max_connections", "max_pending_requests", "max_requests"):
            threshold[what] = self._config.limits.connections * 2  # its own 1024 would refuse clients
        if retries.attempts:
            threshold["retry_budget"] = {
                "budget_percent": percent(retries.budget),
                "min_retry_concurrency": _RETRY_FLOOR if retries.budget else 0,
            }
        breakers: Data = {"thresholds": [threshold]}
        limits = {backend.max_connections for backend in backends}
        if len(limits) == 1 and (limit := limits.pop()):
            breakers["per_host_thresholds"] = [{"priority": "DEFAULT", "max_connections": limit}]
        elif any(limits):
            self._left.append("backends[].max_connections: one limit for all backends of a cluster, and these differ")
        return breakers

    def _tls(self, backends: list[Backend]) -> Data:
        found = {_key(tls): tls for backend in backends if (tls := self._options(backend)) is not None}
        if not found:
            return {}
        # No match: an endpoint without TLS is spoken to in the clear.
        return {
            "transport_socket_matches": [
                {"name": key, "match": {"fairlead": key}, "transport_socket": _transport(tls)}
                for key, tls in found.items()
            ]
        }

    def _options(self, backend: Backend) -> BackendTls | None:
        return (backend.tls or self._config.backend_tls) if backend.url.startswith("https:") else None

    # --- how they are -------------------------------------------------------------------------------------

    def _checks(self, backends: list[Backend]) -> Iterator[Data]:
        health = self._config.health
        paths = {backend.health_path or health.path for backend in backends}
        path = next(iter(paths)) if len(paths) == 1 else health.path
        if len(paths) > 1:
            self._left.append(f"backends[].health_path: all backends of a cluster are probed alike, at {path}")
        if path == "auto":
            path = _PROBE
            self._left.append(
                f"health.path auto, which asks each kind of engine in its own way: all are asked for {path}"
            )
        yield {
            "timeout": duration(health.timeout),
            "interval": duration(health.interval),
            "healthy_threshold": health.rise,
            "unhealthy_threshold": health.fall,
            "http_health_check": {"path": path},
        }

    def _outliers(self) -> Data:
        health = self._config.health
        if not health.max_fails:
            return {}
        return {
            "outlier_detection": {
                "consecutive_5xx": health.max_fails,
                "enforcing_consecutive_5xx": 100,
                "enforcing_consecutive_gateway_failure": 0,
                "enforcing_success_rate": 0,
                "interval": "1s",
                "base_ejection_time": duration(health.fail_timeout),
                "max_ejection_time": duration(max(health.fail_timeout_max, health.fail_timeout)),
                "max_ejection_percent": round(health.max_ejected * 100),
            }
        }


def _balancing(policy: Policy, slow_start: float, left: list[str]) -> Data:
    kind = _NEAREST.get(policy.name, _FEWEST)
    if policy.name == "session" and not (policy.header or policy.cookie):
        left.append("policy.body_field: Envoy looks into no body; fewest requests is the nearest")
        kind = _FEWEST
    elif kind == _FEWEST and policy.name not in ("power_of_two", "least_connections"):
        left.append(f"policy {policy.name}: Envoy knows no tokens, caches or speeds; fewest requests is the nearest")
    ramp = {"slow_start_config": {"slow_start_window": duration(slow_start)}} if slow_start else {}
    if kind == "ROUND_ROBIN":
        return {"lb_policy": kind, **({"round_robin_lb_config": ramp} if ramp else {})}
    if kind != _FEWEST:
        if ramp:
            left.append(f"health.slow_start: not beside the policy {policy.name}")
        return {"lb_policy": kind}
    return {"lb_policy": kind, "least_request_lb_config": {"choice_count": 2, **ramp}}


def _key(tls: BackendTls) -> str:
    """A short name that tells apart what is spoken to in another way."""
    words = [tls.server_name or "", tls.ca or "", tls.cert or "", "" if tls.verify else "unverified"]
    return "tls " + "|".join(words)


def _transport(tls: BackendTls) -> Data:
    common: Data = {}
    if tls.verify:
        validation: Data = {"trusted_ca": file(tls.ca or CA_FILE)}
        if tls.server_name is not None:
            kind = "IP_ADDRESS" if _is_ip(tls.server_name) else "DNS"
            validation["match_typed_subject_alt_names"] = [
                {"san_type": kind, "matcher": {"exact": tls.server_name}}
            ]  # fmt: skip
        common["validation_context"] = validation
    if tls.cert is not None and tls.key is not None:
        common["tls_certificates"] = [{"certificate_chain": file(tls.cert), "private_key": file(tls.key)}]
    named: dict[str, Any] = {"sni": tls.server_name} if tls.server_name else {"auto_host_sni": True}
    if tls.verify and not tls.server_name:
        named["auto_sni_san_validation"] = True
    context = typed("extensions.transport_sockets.tls.v3.UpstreamTlsContext", **named, common_tls_context=common)
    return {"name": "envoy.transport_sockets.tls", "typed_config": context}


def _is_address(backend: Backend) -> bool:
    return backend.url.startswith("unix:") or _is_ip(urlsplit(backend.url).hostname or "")


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
