"""An Envoy bootstrap file that comes as near to a Fairlead configuration as Envoy can.

Rule 1: the output passes `envoy --mode validate` (1.36 and later) when the certificates that it names are there.
Rule 2: what Envoy cannot do is listed at the top; nothing is dropped in silence.
Rule 3: header values are read from the environment, so that no key stands in the file.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from typing import Any, Final
from urllib.parse import urlsplit

import yaml

from fairlead.config.schema import KIB, Backend, Config, Listen, Policy, Tls
from fairlead.control.exports.envoy_clusters import Clusters
from fairlead.control.exports.envoy_words import Data, duration, file, place, set_header, socket, typed
from fairlead.control.exports.secrecy import Variables, header_name

ADMIN_PORT: Final = 9901
_LARGEST_HEAD: Final = 8192  # KiB, Envoy's own limit
_HEAD: Final = """\
# Envoy configuration for the same backends, written by `fairlead export envoy`.
# Check it with:   envoy --mode validate --config-path THIS_FILE
# Start it with:   envoy --config-path THIS_FILE --drain-time-s {drain}"""
_NEVER: Final = (
    "routing by model, and by what engines hold in their caches",
    "one list of models for all backends, error answers in the API's own form, metrics in tokens",
    "learned speeds, frozen and slow engines (health.no_progress, health.outlier_factor), canaries",
    "retries.window and retries.breaks: Envoy retries at once, and knows no requests that break engines",
    "timeouts.client_body, client_write and send apart: Envoy has one time for a stream on which nothing moves",
    "limits.body_memory: no limit on all request bodies together",
)
_TEXT: Final = (
    "%START_TIME% %DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT% %REQ(:METHOD)% %PATH(NQ)% %RESPONSE_CODE% "
    "backend=%UPSTREAM_HOST% tries=%UPSTREAM_REQUEST_ATTEMPT_COUNT% time=%DURATION%ms id=%REQ(X-REQUEST-ID)%\n"
)
_JSON: Final = {
    "time": "%START_TIME%",
    "id": "%REQ(X-REQUEST-ID)%",
    "client": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%",
    "method": "%REQ(:METHOD)%",
    "path": "%PATH(NQ)%",
    "status": "%RESPONSE_CODE%",
    "backend": "%UPSTREAM_HOST%",
    "tries": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
    "bytes_out": "%BYTES_SENT%",
    "duration": "%DURATION%",
}


def render(config: Config | None) -> str:
    """The file's text; without a configuration for one backend at 127.0.0.1:8000."""
    known = config or Config(backends=(Backend(url="http://127.0.0.1:8000"),))
    return _Export(known).text()


class _Export:
    def __init__(self, config: Config) -> None:
        self._config = config
        self._left = list(_NEVER)
        self._clusters = Clusters(config, self._left)
        self._variables = Variables()

    def text(self) -> str:
        routes = list(self._routes())
        listeners = [self._listener(number, listen, routes) for number, listen in enumerate(self._config.listen)]
        whole = {
            "admin": {"address": socket("127.0.0.1", ADMIN_PORT)},
            "overload_manager": {"resource_monitors": [self._connections()]},
            "static_resources": {"listeners": listeners, "clusters": self._clusters.made},
        }
        dumped: str = yaml.dump(whole, Dumper=_Plain, sort_keys=False, width=1 << 20)
        return "\n".join(self._comments()) + f"\n\n{dumped}"

    def _comments(self) -> Iterator[str]:
        config = self._config
        yield _HEAD.format(drain=max(1, round(config.drain)))
        if names := self._variables.all:
            yield "#\n# It reads header values from its environment: " + ", ".join(names)
        optional = (
            (config.hedging is not None, "hedging: Envoy hedges after a timeout of its own alone"),
            (config.shadow is not None, "shadow: Envoy can mirror requests, but not ask a policy and not obey it"),
            (config.resume, "resume: a stream that breaks is not taken up by another backend"),
            (config.recording is not None, "recording"),
            (config.decisions is not None, "decisions: Envoy does not tell why it chose a backend"),
            (config.tracing is not None, "tracing: Envoy has its own, by tracing.provider of its connection manager"),
            (bool(config.alerts.webhooks), "alerts: export prometheus-rules, and let Prometheus tell who has to know"),
            (config.drain_delay > 0, "drain_delay: call POST /healthcheck/fail on its admin address beforehand"),
            (any(each.half_close == "allow" for each in config.listen), "listen[].half_close: allow"),
            (config.access_log.format in ("template", "combined"), "access_log.format: it is Envoy's own text here"),
            (config.timeouts.first_byte != config.timeouts.idle, "timeouts.first_byte and idle apart"),
            (config.workers > 1, "workers: say --concurrency when Envoy is started"),
        )  # fmt: skip
        yield "#\n# What Envoy cannot do like Fairlead, and is left out or only near:"
        for words in dict.fromkeys((*self._left, *(words for applies, words in optional if applies))):
            yield f"#   - {words}"

    def _connections(self) -> Data:
        """How many clients there may be, over all listeners."""
        name = "extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig"
        return {
            "name": "envoy.resource_monitors.global_downstream_max_connections",
            "typed_config": typed(name, max_active_downstream_connections=self._config.limits.connections),
        }

    # --- routes --------------------------------------------------------------------------------------------

    def _routes(self) -> Iterator[Data]:
        config = self._config
        by_name = {backend.name: backend for backend in config.backends}
        if not config.routes:
            yield self._route("/", list(config.backends), False)
        for route in sorted(config.routes, key=lambda route: -len(route.path)):  # Envoy takes the first that fits
            yield self._route(route.path, [by_name[name] for name in route.backends], route.strip)

    def _route(self, path: str, group: list[Backend], strip: bool) -> Data:
        base, taken = self._alike(group)
        times, policy = self._config.timeouts, self._config.policy
        idle = max(times.first_byte, times.idle)
        action: Data = {"cluster": self._clusters.of(taken), "timeout": "0s", "idle_timeout": duration(idle)}
        action["auto_host_rewrite"] = True
        rewritten = f"{base}/" if strip or base else ""
        if rewritten:
            rewritten = rewritten if strip or path == "/" else f"{base}{path}"
            action["prefix_rewrite"] = rewritten
        action.update(self._retries(idle))
        if policy.name == "session" and (keys := _session_keys(policy)):
            action["hash_policy"] = keys
        route: Data = {"match": {"prefix": path}, "route": action}
        own = {backend.headers for backend in taken}
        if len(own) == 1 and (headers := own.pop()):
            route["request_headers_to_add"] = [self._set(header, taken[0].name) for header in headers]
        elif len(own) > 1:
            self._left.append("backends[].headers: all backends of a cluster get the same, and these differ")
        return route

    def _alike(self, backends: list[Backend]) -> tuple[str, list[Backend]]:
        """(base path, the backends that have it): that of most of them."""
        kinds: dict[str, list[Backend]] = {}
        for backend in backends:
            kinds.setdefault("" if backend.url.startswith("unix:") else urlsplit(backend.url).path, []).append(backend)
        base = max(kinds, key=lambda kind: len(kinds[kind]))
        for other, others in kinds.items():
            if other != base:
                names = ", ".join(backend.name for backend in others)
                self._left.append(f"{names}: backends of a route share their base path, here {base or '/'}")
        return base, kinds[base]

    def _retries(self, idle: float) -> Data:
        rules = self._config.retries
        words = {"connect": "connect-failure,refused-stream", "timeout": "reset"}
        on = [word for reason, word in words.items() if reason in rules.on]
        statuses = sorted(int(reason) for reason in rules.on if reason.isdecimal())
        on += ["retriable-status-codes"] if statuses else []
        if not rules.attempts or not on:
            return {}
        policy: Data = {
            "retry_on": ",".join(on),
            "num_retries": rules.attempts,
            "per_try_idle_timeout": duration(idle),
            "retry_host_predicate": [
                {
                    "name": "envoy.retry_host_predicates.previous_hosts",
                    "typed_config": typed("extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"),
                }
            ],
            "host_selection_retry_max_attempts": 5,
        }
        if statuses:
            policy["retriable_status_codes"] = statuses
        return {"retry_policy": policy}

    def _set(self, header: str, *where: str) -> Data:
        return set_header(header, self._variables.of(*where, header_name(header)))

    # --- listeners -----------------------------------------------------------------------------------------

    def _listener(self, number: int, listen: Listen, routes: list[Data]) -> Data:
        chain: Data = {
            "filters": [
                {
                    "name": "envoy.filters.network.http_connection_manager",
                    "typed_config": self._manager(number, listen, routes),
                }
            ],
        }
        filters = []
        if listen.tls is not None:
            chain["transport_socket"] = _downstream(listen.tls, listen.http2)
            chain["transport_socket_connect_timeout"] = duration(self._config.timeouts.handshake)
        if listen.proxy_protocol:
            self._left.append("proxy_protocol: Envoy believes whoever connects, so close the port to others")
            name = "extensions.filters.listener.proxy_protocol.v3.ProxyProtocol"
            filters.append({"name": "envoy.filters.listener.proxy_protocol", "typed_config": typed(name)})
        made: Data = {"name": f"listen_{number}", "address": place(listen.address)}
        return {**made, **({"listener_filters": filters} if filters else {}), "filter_chains": [chain]}

    def _manager(self, number: int, listen: Listen, routes: list[Data]) -> Data:
        config, limits, times = self._config, self._config.limits, self._config.timeouts
        host: Data = {"name": "all", "domains": ["*"], "routes": routes}
        if config.headers.set:
            host["request_headers_to_add"] = [self._set(header, "headers") for header in config.headers.set]
        if config.headers.remove:
            host["request_headers_to_remove"] = list(config.headers.remove)
        fields: Data = {
            "stat_prefix": f"listen_{number}",
            "codec_type": "AUTO" if listen.http2 else "HTTP1",
            "http2_protocol_options": {"max_concurrent_streams": limits.streams},
            "common_http_protocol_options": {
                "idle_timeout": duration(times.client_idle),
                "max_headers_count": limits.headers,
            },
            "max_request_headers_kb": min(_LARGEST_HEAD, -(-limits.head // KIB)),
            "request_headers_timeout": duration(times.client_header),
            "stream_idle_timeout": duration(max(times.first_byte, times.idle, times.client_body, times.client_write)),
            "drain_timeout": duration(max(config.drain, 0.001)),
            "normalize_path": False,
            "generate_request_id": True,
            **self._clients(),
            "route_config": {"name": "all", "virtual_hosts": [host]},
            "http_filters": [
                {
                    "name": "envoy.filters.http.buffer",  # retries need whole bodies, and their size is limited
                    "typed_config": typed("extensions.filters.http.buffer.v3.Buffer", max_request_bytes=limits.body),
                },
                {
                    "name": "envoy.filters.http.router",
                    "typed_config": typed("extensions.filters.http.router.v3.Router"),
                },
            ],
        }
        if config.access_log.enabled:
            fields["access_log"] = [_access_log(config.access_log.format, config.access_log.path)]
        manager = "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
        return typed(manager, **fields)

    def _clients(self) -> Data:
        """Whose word on where a request comes from is taken, and what backends hear of it."""
        config = self._config
        networks = [ipaddress.ip_network(each) for each in config.trusted_proxies if each != "unix"]
        if not config.forwarded:
            self._left.append("forwarded: X-Forwarded-Proto is sent all the same")
        if not networks:
            return {"use_remote_address": True, "skip_xff_append": not config.forwarded}
        ranges = [{"address_prefix": str(net.network_address), "prefix_len": net.prefixlen} for net in networks]
        xff = typed(
            "extensions.http.original_ip_detection.xff.v3.XffConfig",
            xff_trusted_cidrs={"cidrs": ranges},
            skip_xff_append=not config.forwarded,
        )
        extension = {"name": "envoy.http.original_ip_detection.xff", "typed_config": xff}
        return {"use_remote_address": False, "original_ip_detection_extensions": [extension]}


class _Plain(yaml.SafeDumper):
    """Writes what stands in several places out in each of them: Envoy's reader is happier without anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _downstream(tls: Tls, http2: bool) -> Data:
    common: Data = {
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_3" if tls.min_version == "1.3" else "TLSv1_2"},
        "tls_certificates": [
            {"certificate_chain": file(each.cert), "private_key": file(each.key)} for each in (tls, *tls.more)
        ],
        "alpn_protocols": ["h2", "http/1.1"] if http2 else ["http/1.1"],
    }
    fields: Data = {"common_tls_context": common}
    if tls.client_ca is not None and tls.client_certs != "none":
        common["validation_context"] = {"trusted_ca": file(tls.client_ca)}
        fields["require_client_certificate"] = tls.client_certs == "required"
    context = typed("extensions.transport_sockets.tls.v3.DownstreamTlsContext", **fields)
    return {"name": "envoy.transport_sockets.tls", "typed_config": context}


def _session_keys(policy: Policy) -> list[Data]:
    """Where a session's name is looked for, in order; the first that is there counts."""
    keys: list[Data] = []
    if policy.header:
        keys.append({"header": {"header_name": policy.header}, "terminal": True})
    if policy.cookie:
        keys.append({"cookie": {"name": policy.cookie}, "terminal": True})
    return keys


def _access_log(kind: str, path: str) -> Data:
    log_format = {"json_format": dict(_JSON)} if kind == "json" else {"text_format_source": {"inline_string": _TEXT}}
    if path == "-":
        name, where = "stdout", typed("extensions.access_loggers.stream.v3.StdoutAccessLog", log_format=log_format)
    else:
        where = typed("extensions.access_loggers.file.v3.FileAccessLog", path=path, log_format=log_format)
        name = "file"
    return {"name": f"envoy.access_loggers.{name}", "typed_config": where}
