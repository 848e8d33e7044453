"""The configuration: which options are there, what may they be, and what are they when nobody says?

Frozen data and nothing else. This file alone feeds the parser, `fairlead check`, the tables in
docs/configuration.md and the JSON Schema for editors, so a new option is one line here.
Rule 1: one option has one name, one kind, one default and one line of help, and all four stand here.
Rule 2: values are kept in base units (seconds, bytes, shares of 1); the kind says how people write them.
Rule 3: constructors touch no file, socket, clock or log. Only the parser checks ranges, so build a
        `Config` by hand only from values that you would dare to write into the file.
Long because every option stands here, and nowhere else.
"""

# ruff: noqa: RUF009  (`option` is dataclasses.field with a name for what we put into it)

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

KIB: Final = 1024
MIB: Final = 1024 * KIB
DAY: Final = 86_400.0

POLICIES: Final = (
    "expected_completion",
    "prefix_cache",
    "latency",
    "least_pending_tokens",
    "least_waiting",
    "least_connections",
    "power_of_two",
    "prefix_hash",
    "session",
    "round_robin",
    "random",
)
ENGINES: Final = (
    "auto", "vllm", "sglang", "trtllm", "triton", "triton-openai", "tgi", "llamacpp", "lmdeploy", "ollama", "generic",
)  # fmt: skip
RETRY_REASONS: Final = ("connect", "timeout", "429", "500", "502", "503", "504")
ALERTS: Final = (
    "backend_share", "token_share", "no_backend", "backend_down", "panic", "errors", "retry_budget", "ttft",
    "queue_growing", "slow_backend", "metrics_stale", "prefix_distrusted", "certificate", "reload_refused",
)  # fmt: skip
TEMPLATE_NAMES: Final = (  # what an access log's template may speak of, each after a $
    "time_local", "time_iso8601", "remote_addr", "request_method", "request_path", "status", "body_bytes_sent",
    "request_time", "upstream_addr", "upstream_tries", "ttft", "model", "prompt_tokens", "output_tokens", "outcome",
    "error", "request_id", "config_version",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Option:
    """What the parser, the docs and the JSON Schema need to know about one option."""

    kind: str  # a row of `scalars.KINDS`, or "table"
    help: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()  # for "choice": all of them; for "http_path": words allowed besides paths
    zero: bool = False  # 0 may be written though it lies below `low`
    many: bool = False  # a list of these; a single one may stand without brackets
    fewest: int = 0  # for lists
    null: bool = False  # `null` may be written
    table: type[Any] | None = None
    only_for: str | None = None  # meant only when the sibling `name` has this value
    default_text: str | None = None  # for the docs, where the default is worked out from other options


def option(kind: str, help: str, default: Any = MISSING, **facts: Any) -> Any:
    """A dataclass field that carries its `Option`; without a default it has to be written."""
    facts.setdefault("null", default is None)
    return field(default=default, metadata={"option": Option(kind=kind, help=help, **facts)})


def options_of(table: type[Any]) -> Mapping[str, tuple[Option, Any]]:
    """Name -> (option, default or dataclasses.MISSING) of one table, in the order of the file."""
    found: dict[str, tuple[Option, Any]] = {}
    for item in dataclasses.fields(table):
        found[item.name] = (item.metadata["option"], item.default)
    return found


# Tables that may be written as one bare value, and the option which that value then is.
SHORTHAND: Final[dict[str, str]] = {
    "Listen": "address",
    "Backend": "url",
    "Policy": "name",
    "Shadow": "name",
    "AccessLog": "enabled",
    "Recording": "path",
    "Tracing": "endpoint",
    "Decisions": "path",
    "Hedging": "delay",
    "FirstToken": "target",
}


@dataclass(frozen=True, slots=True)
class Address:
    """HOST:PORT to listen on (an IPv6 host is kept without its brackets), or a Unix socket's path."""

    host: str
    port: int
    path: str = ""  # of a Unix socket; host and port mean nothing then

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """One more certificate of a listener."""

    cert: str = option("file", "certificate chain in PEM form, relative to this file")
    key: str = option("file", "its private key in PEM form, without a passphrase")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls(Certificate):
    """Certificates of one listener; files that change are taken up without a restart."""

    more: tuple[Certificate, ...] = option(
        "table", "further certificates, each used for the names that stand in it (SNI)", (),
        many=True, table=Certificate, default_text="none",
    )  # fmt: skip
    min_version: str = option("choice", "oldest version of TLS that is spoken", "1.2", choices=("1.2", "1.3"))
    client_ca: str | None = option(
        "file", "CA certificates in PEM form that clients' certificates are checked by", None
    )
    client_certs: str = option(
        "choice", "must clients show a certificate? Needs `client_ca`", "none", choices=("none", "optional", "required")
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendTls:
    """How https backends are spoken to."""

    verify: bool = option("bool", "check their certificate and its name", True)
    ca: str | None = option(
        "file", "CA certificates in PEM form to check it by", None, default_text="those of this machine"
    )
    server_name: str | None = option(
        "token", "name to ask for (SNI) and to find in the certificate", None, default_text="the URL's host"
    )
    cert: str | None = option("file", "certificate that we show, in PEM form", None)
    key: str | None = option("file", "its private key in PEM form", None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Headers:
    """Headers of requests on their way to the backends."""

    set: tuple[str, ...] = option(
        "header", "`Name: value` to send, in place of what the client sent under that name", (),
        many=True, default_text="none",
    )  # fmt: skip
    remove: tuple[str, ...] = option(
        "header_name", "names of client headers that are not passed on", (), many=True, default_text="none"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Listen:
    """One address on which clients are served."""

    address: Address = option("address", "HOST:PORT; 0.0.0.0 or [::] for all interfaces; unix:/PATH for a socket file")
    tls: Tls | None = option("table", "serve HTTPS with this certificate", None, table=Tls)
    http2: bool = option("bool", "offer HTTP/2 beside HTTP/1.1 (by ALPN, or with prior knowledge without TLS)", True)
    proxy_protocol: bool = option(
        "bool", "connections from `trusted_proxies` begin with a PROXY protocol header, version 1 or 2", False
    )
    half_close: str = option(
        "choice", "what a client that ends only its sending side has done: left (abort), or not (allow; not with TLS)",
        "abort", choices=("abort", "allow"),
    )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """Requests for paths that begin so go to these backends only; the longest match counts."""

    path: str = option("http_path", "beginning of the path, such as /v1/")
    backends: tuple[str, ...] = option("text", "names of backends", many=True, fewest=1)
    strip: bool = option("bool", "take the beginning away before the request is sent on", False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How a backend is chosen."""

    name: str = option("choice", "how a backend is chosen", "expected_completion", choices=POLICIES)
    throughput: float = option(
        "float", "0 cares for the time to the first token only, 1 for the work done in all", 0.5,
        low=0.0, high=1.0, only_for="expected_completion",
    )  # fmt: skip
    overload: float = option(
        "float", "times its fair share of pending tokens at which a backend loses its prefixes to others", 2.0,
        low=1.0, high=10.0, only_for="prefix_cache",
    )  # fmt: skip
    load_factor: float = option(
        "float",
        "how far over its fair share a backend may go before its prompts spill to the next",
        1.25,
        low=1.0,
        high=10.0,
        only_for="prefix_hash",
    )
    header: str | None = option(
        "token", "request header that names the session; asked first", "x-session-id",
        null=True, only_for="session",
    )  # fmt: skip
    cookie: str | None = option("token", "cookie that names the session; asked second", None, only_for="session")
    body_field: str | None = option(
        "text", "top-level body field that names the session; asked last", None, only_for="session"
    )
    ttl: float = option(
        "duration", "a session is forgotten this long after its last request", 1800.0,
        low=1.0, high=30 * DAY, only_for="session",
    )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Shadow(Policy):
    """A second policy that is asked about each request and never obeyed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """One engine instance."""

    url: str = option(
        "url", "base URL, http:// or https://; HOST:PORT alone means http://; unix:/PATH for a socket file"
    )
    name: str = option("text", "name in metrics, logs and the admin API", "", default_text="its host:port")
    weight: float | None = option(
        "float", "share of the work next to the others; unset: learned from its speed", None,
        low=0.001, high=1000.0, default_text="learned",
    )  # fmt: skip
    max_connections: int | None = option(
        "int", "most requests in flight at once", None, low=1, high=1_000_000, default_text="no limit"
    )
    backup: bool = option("bool", "gets requests only while no other backend of its model is up", False)
    down: bool = option("bool", "gets no requests", False)
    engine: str = option("choice", "which engine it is; auto asks it", "auto", choices=ENGINES)
    models: tuple[str, ...] | None = option(
        "text", "models it serves", None, many=True, fewest=1, default_text="asked from the engine"
    )
    metrics_url: str | None = option(
        "link", "where its own metrics are, when not at the usual place", None, default_text="by engine"
    )
    health_path: str | None = option(
        "http_path", "path to probe, instead of `health.path`", None, default_text="`health.path`"
    )

    tls: BackendTls | None = option(
        "table", "how it is spoken to, for https", None, table=BackendTls, default_text="`backend_tls`"
    )
    headers: tuple[str, ...] = option(
        "header", "`Name: value` to send to this backend alone, such as its own key", (),
        many=True, default_text="none",
    )  # fmt: skip

    def __post_init__(self) -> None:
        if not self.name:  # derived here, so that a Backend made by hand has its name too
            object.__setattr__(self, "name", derived_name(self.url))


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """How long to wait for whom."""

    connect: float = option("duration", "to connect to a backend", 5.0, low=0.001, high=600.0)
    first_byte: float = option(
        "duration", "for a backend's first answer byte, queue and prefill included", 600.0,
        low=0.001, high=DAY,
    )  # fmt: skip
    idle: float = option("duration", "between two pieces of a backend's answer", 600.0, low=0.001, high=DAY)
    send: float = option("duration", "a backend may take nothing of a request", 60.0, low=0.001, high=DAY)
    handshake: float = option("duration", "for a client's TLS handshake", 10.0, low=0.001, high=DAY)
    client_header: float = option("duration", "for a client to send a request's whole head", 10.0, low=0.001, high=DAY)
    client_body: float = option("duration", "between two pieces of a client's body", 60.0, low=0.001, high=DAY)
    client_idle: float = option(
        "duration", "a client connection may wait for its next request", 75.0, low=0.001, high=DAY
    )
    client_write: float = option(
        "duration", "a client may take nothing from a waiting answer", 60.0, low=0.001, high=DAY
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Retries:
    """When a failed request is tried elsewhere; never after the answer has begun."""

    attempts: int = option("int", "extra tries after the first", 2, low=0, high=5)
    on: tuple[str, ...] = option(
        "choice", "failures that may be tried again", ("connect", "timeout", "502", "503"),
        many=True, choices=RETRY_REASONS,
    )  # fmt: skip
    window: float = option(
        "duration", "no new try later than this after the request came", 10.0, low=0.001, high=3600.0
    )
    budget: float = option(
        "percent",
        "most retries, as a share of all requests of the last 10 s, and 10/s besides; 0%: none",
        0.2,
        low=0.0,
        high=1.0,
    )
    breaks: int = option(
        "int",
        "backends that may break under one request before it is refused as poison; 0: any number",
        2,
        low=0,
        high=6,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Hedging:
    """When a second backend is asked while the first has not begun to answer (docs/hedging.md)."""

    delay: float | str = option(
        "duration", "a request waits so long before it is hedged; auto: longer than 19 of 20 did lately", "auto",
        low=0.001, high=3600.0, choices=("auto",),
    )  # fmt: skip
    budget: float = option("percent", "most hedges, as a share of the requests", 0.05, low=0.001, high=1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """When a backend counts as up or down."""

    path: str = option("http_path", "path to probe; auto: the engine's own", "auto", choices=("auto",))
    interval: float = option("duration", "time between two probes", 5.0, low=0.1, high=3600.0)
    timeout: float = option("duration", "a probe without an answer has failed", 3.0, low=0.01, high=600.0)
    rise: int = option("int", "good probes in a row that bring it up", 2, low=1, high=100)
    fall: int = option("int", "failed probes in a row that take it down", 3, low=1, high=100)
    max_fails: int = option(
        "int", "failed requests within `fail_timeout` that rest it; 0: never", 3, low=0, high=10_000
    )
    fail_timeout: float = option(
        "duration", "time in which failures count, and length of the first rest", 30.0, low=0.1, high=DAY
    )
    fail_timeout_max: float = option(
        "duration", "longest rest of a backend that fails again and again", 300.0, low=0.1, high=DAY
    )
    slow_start: float = option(
        "duration", "time in which a backend that comes back gets its full share again; 0: at once", 30.0,
        low=0.1, high=DAY, zero=True,
    )  # fmt: skip
    max_ejected: float = option(
        "percent", "most of a model's backends that may rest at one time", 0.5, low=0.0, high=1.0
    )
    no_progress: float = option(
        "duration", "a backend with work at hand gives no token for so long, while others do: it is frozen; 0: never",
        10.0, low=1.0, high=DAY, zero=True,
    )  # fmt: skip
    canary: str = option(
        "choice", "who is sent first to a backend that hung: auto: a token that Fairlead asks for itself, where the "
        "engine is known; off: a request", "auto", choices=("auto", "off"),
    )  # fmt: skip
    outlier_factor: float | None = option(
        "float", "times slower than the others at which a backend is rested; unset: it only gets less", None,
        low=2.0, high=1000.0,
    )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Keepalive:
    """Idle connections kept open to each backend."""

    connections: int = option("int", "idle connections per backend; 0: none", 100, low=0, high=100_000)
    requests: int = option("int", "requests before a connection is renewed", 1000, low=1, high=10_000_000)
    timeout: float = option(
        "duration", "an idle connection is closed after this; engines close theirs at 5s", 4.0,
        low=0.001, high=DAY,
    )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a client may send."""

    body: int = option("size", "largest request body", 32 * MIB, low=KIB, high=1024 * MIB)
    head: int = option("size", "largest request head, all headers together", 64 * KIB, low=KIB, high=MIB)
    headers: int = option("int", "most headers in one head", 100, low=8, high=1000)
    connections: int = option("int", "most client connections at once", 10_000, low=1, high=1_000_000)
    streams: int = option("int", "most requests at once on one HTTP/2 connection", 100, low=1, high=10_000)
    body_memory: int = option(
        "size", "all request bodies held at once; beyond it new ones are refused", 1024 * MIB, low=MIB, high=1 << 50
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """Reading the engines' own metrics."""

    interval: float = option("duration", "time between two readings", 1.0, low=0.05, high=3600.0)
    timeout: float = option("duration", "a reading may take this long", 2.0, low=0.01, high=600.0)
    max_bytes: int = option("size", "largest reading that is accepted", 4 * MIB, low=KIB, high=256 * MIB)


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessLog:
    """One line for each request."""

    enabled: bool = option("bool", "write it", True)
    format: str = option(
        "choice", "text for people, json for machines, combined as nginx has it, template for your own", "text",
        choices=("text", "json", "combined", "template"),
    )  # fmt: skip
    template: str | None = option("text", "the line for `format: template`, with $names in it", None)
    path: str = option("file", "a file, relative to this one; `-` is standard output", "-")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotated:
    """A file that is followed by another when it is full."""

    path: str = option("file", "a file, relative to this one")
    max_bytes: int = option(
        "size", "a file that reaches this becomes FILE.1, and a new one is begun", 64 * MIB, low=64 * KIB,
        high=1024 * 1024 * MIB,
    )  # fmt: skip
    keep: int = option("int", "files kept, the oldest is deleted", 4, low=1, high=1000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording(Rotated):
    """The traffic in lengths, times and hashes, to replay it later; never its text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decisions(Rotated):
    """A line of JSON for each request: who could have had it, what the policy saw, what came of it; never its text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tracing:
    """Spans of OpenTelemetry for each request and each try at a backend (docs/tracing.md)."""

    endpoint: str = option("link", "the collector that takes OTLP over HTTP; without a path, /v1/traces is asked")
    headers: tuple[str, ...] = option(
        "header", "`Name: value` to send to the collector, such as its key", (), many=True, default_text="none"
    )
    sample: float = option(
        "percent", "share of the requests that is kept, of those whose clients tell of no trace", 1.0, low=0.0, high=1.0
    )
    service_name: str = option("text", "what the collector knows us by", "fairlead")


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """Alert: one backend takes most of the traffic."""

    threshold: float = option("percent", "share of the requests that raises it", 0.8, low=0.01, high=1.0)
    window: float = option("duration", "over this time", 60.0, low=1.0, high=DAY)
    min_requests: int = option("int", "with fewer requests than this, stay silent", 20, low=1, high=1_000_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenShare:
    """Alert: one backend gets most of the tokens."""

    threshold: float = option("percent", "share of the tokens that raises it", 0.8, low=0.01, high=1.0)
    window: float = option("duration", "over this time", 300.0, low=1.0, high=DAY)
    min_requests: int = option("int", "with fewer requests than this, stay silent", 100, low=1, high=1_000_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorRate:
    """Alert: a backend fails."""

    threshold: float = option("percent", "share of the tries that raises it", 0.1, low=0.001, high=1.0)
    window: float = option("duration", "over this time", 300.0, low=1.0, high=DAY)
    min_errors: int = option("int", "with fewer failed tries than this, stay silent", 5, low=1, high=1_000_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueGrowth:
    """Alert: an engine's queue grows."""

    waiting: int = option("int", "with so many waiting requests or fewer, stay silent", 10, low=1, high=1_000_000)
    window: float = option("duration", "it has grown over this time", 600.0, low=10.0, high=DAY)


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstToken:
    """Alert: clients wait too long for the first token."""

    target: float = option("duration", "an answer is to begin within this time", low=0.001, high=DAY)
    within: float = option("percent", "share of the answers that has to", 0.95, low=0.01, high=0.9999)
    window: float = option("duration", "over this time", 300.0, low=1.0, high=DAY)
    min_requests: int = option("int", "with fewer answers than this, stay silent", 20, low=1, high=1_000_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Webhook:
    """Who is told of alerts, by HTTP POST."""

    url: str = option("secret_url", "where to; it is never shown, for whoever has it may write there")
    format: str = option("choice", "what a message looks like", "json", choices=("slack", "alertmanager", "json"))
    headers: tuple[str, ...] = option(
        "header", "`Name: value` to send along, such as an Authorization", (), many=True, default_text="none"
    )
    send_resolved: bool = option("bool", "tell of alerts that ended, too", True)
    per_minute: int = option("int", "most messages in a minute; what waits becomes one message", 10, low=1, high=1000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Alerts:
    """What fairlead warns about by itself (docs/alerts.md)."""

    share: Share = option("table", "one backend takes most of the traffic", Share(), table=Share)
    tokens: TokenShare = option("table", "one backend gets most of the tokens", TokenShare(), table=TokenShare)
    errors: ErrorRate = option("table", "a backend fails", ErrorRate(), table=ErrorRate)
    queue: QueueGrowth = option("table", "an engine's queue grows", QueueGrowth(), table=QueueGrowth)
    ttft: FirstToken | None = option("table", "clients wait too long for the first token", None, table=FirstToken)
    slow: float = option("float", "times what its peers take that make a backend slow", 3.0, low=1.1, high=1000.0)
    certificate: float = option("duration", "tell so long before one ends", 14 * DAY, low=1.0, high=3650 * DAY)
    off: tuple[str, ...] = option(
        "choice", "alerts that are never raised", (), choices=ALERTS, many=True, default_text="none"
    )
    webhooks: tuple[Webhook, ...] = option(
        "table", "who is told of alerts", (), many=True, table=Webhook, default_text="nobody"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The whole file."""

    listen: tuple[Listen, ...] = option(
        "table", "where clients are served", (Listen(address=Address("127.0.0.1", 8080)),),
        many=True, fewest=1, table=Listen,
    )  # fmt: skip
    admin: Address = option("address", "admin API, metrics and dashboard; keep it private", Address("127.0.0.1", 9900))
    admin_token_file: str | None = option(
        "file", "whose first line whoever changes something by the admin API has to show (docs/dashboard.md)", None
    )
    policy: Policy = option("table", "how a backend is chosen", Policy(), table=Policy)
    shadow: Shadow | None = option(
        "table", "a second policy that is asked about each request and never obeyed", None, table=Shadow
    )
    backends: tuple[Backend, ...] = option(
        "table", "the engines", (), many=True, fewest=1, table=Backend, default_text="required"
    )
    workers: int = option(
        "int", "processes that carry the traffic, one per processor core that it may use (docs/workers.md)", 1,
        low=1, high=256,
    )  # fmt: skip
    routes: tuple[Route, ...] = option(
        "table", "which paths go to which backends", (), many=True, table=Route, default_text="all to all"
    )
    backend_tls: BackendTls = option("table", "how https backends are spoken to", BackendTls(), table=BackendTls)
    headers: Headers = option("table", "headers of requests on their way to the backends", Headers(), table=Headers)
    trusted_proxies: tuple[str, ...] = option(
        "network", "addresses whose X-Forwarded-* and PROXY protocol headers are believed, such as 10.0.0.0/8", (),
        many=True, default_text="none",
    )  # fmt: skip
    forwarded: bool = option("bool", "tell backends of the client by X-Forwarded-For, -Proto and -Host", True)
    timeouts: Timeouts = option("table", "how long to wait for whom", Timeouts(), table=Timeouts)
    retries: Retries = option("table", "when a failed request is tried elsewhere", Retries(), table=Retries)
    hedging: Hedging | None = option(
        "table", "a second backend is asked when the first is late to begin its answer", None, table=Hedging
    )
    resume: bool = option("bool", "let a stream go on at another engine when its own dies (docs/resume.md)", False)
    health: Health = option("table", "when a backend counts as up or down", Health(), table=Health)
    keepalive: Keepalive = option("table", "idle connections to backends", Keepalive(), table=Keepalive)
    limits: Limits = option("table", "what a client may send", Limits(), table=Limits)
    metrics: Metrics = option("table", "reading the engines' own metrics", Metrics(), table=Metrics)
    access_log: AccessLog = option("table", "one line for each request", AccessLog(), table=AccessLog)
    recording: Recording | None = option(
        "table", "the traffic in lengths, times and hashes, to replay it later", None, table=Recording
    )
    decisions: Decisions | None = option(
        "table", "a line for each request that tells why it went where (docs/explain.md)", None, table=Decisions
    )
    tracing: Tracing | None = option("table", "spans for OpenTelemetry (docs/tracing.md)", None, table=Tracing)
    drain: float = option(
        "duration", "at shutdown, running requests may take this long; 0: stop at once", 30.0,
        low=0.001, high=DAY, zero=True,
    )  # fmt: skip
    drain_delay: float = option(
        "duration", "before that, go on accepting for this long while health and readiness checks fail already", 0.0,
        low=0.001, high=DAY, zero=True,
    )  # fmt: skip
    alerts: Alerts = option("table", "what fairlead warns about by itself", Alerts(), table=Alerts)


def derived_name(url: str) -> str:
    """The name of a backend that was given none: host:port and its path where it has one, or unix:/PATH."""
    if url.startswith("unix:"):
        return url
    try:
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:  # not a URL: the parser never lets one through, a hand-made Backend may
        return url
    host = parts.hostname or ""
    return f"{Address(host, port)}{parts.path.rstrip('/')}"
