"""What stands on the dashboard: rows of panels, each one question about the fleet, its answer in PromQL.

Rule 1: every panel has a unit, a sentence on how to read it, and legends.
Rule 2: every metric exists on Fairlead's own page; a test holds that against it, and a real Prometheus reads all of it.
Rule 3: each Fairlead is one `instance`. Sums go over all that are chosen; what is a share is worked out for each.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

FLEET: Final = 'instance=~"$instance"'
ONE: Final = 'instance=~"$instance", backend=~"$backend"'
PROMPT: Final = f'{ONE}, direction="prompt"'
OUTPUT: Final = f'{ONE}, direction="output"'
RATE: Final = "$__rate_interval"


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel. `kind` is Grafana's name of it; of a `timeseries`, `stacked` shows parts of a whole."""

    title: str
    unit: str
    description: str
    queries: tuple[tuple[str, str], ...]  # (PromQL, legend)
    kind: str = "timeseries"
    stacked: bool = False
    most: float | None = None  # upper end of the scale
    steps: tuple[tuple[float, str], ...] = ()  # (from here on, this colour)
    shows_limit: bool = False  # a line where the share alert is raised


@dataclass(frozen=True, slots=True)
class Row:
    title: str
    panels: tuple[Panel, ...]
    columns: int = 3
    height: int = 8


GOOD_ABOVE_ZERO: Final = ((0.0, "red"), (1.0, "green"))
BAD_ABOVE_ZERO: Final = ((0.0, "green"), (1.0, "red"))


def _rate(metric: str, where: str = ONE, by: str = "backend") -> str:
    return f"sum by ({by}) (rate({metric}{{{where}}}[{RATE}]))"


def _quantile(share: float, metric: str, by: str = "backend", where: str = ONE) -> str:
    groups = f"le, {by}" if by else "le"
    return f"histogram_quantile({share:g}, sum by ({groups}) (rate({metric}_bucket{{{where}}}[{RATE}])))"


def _share(metric: str, where: str = "") -> str:
    """Of each backend in all of them, also those that are not chosen."""
    chosen = ", ".join(part for part in (ONE, where) if part)
    whole = ", ".join(part for part in (FLEET, where) if part)
    return f"{_rate(metric, chosen)} / ignoring (backend) group_left () sum(rate({metric}{{{whole}}}[{RATE}]))"


def _sum(metric: str) -> str:
    return f"sum by (backend) ({metric}{{{ONE}}})"


def _percentiles(metric: str) -> tuple[tuple[str, str], ...]:
    return ((_quantile(0.5, metric), "{{backend}} p50"), (_quantile(0.99, metric), "{{backend}} p99"))


GLANCE: Final = Row(
    "Fleet at a glance",
    (
        Panel(
            "Healthy backends", "none", "Backends that checks find well and that do not rest after failures.",
            ((f"sum(min by (backend) (fairlead_backend_up{{{FLEET}}}) "
              f"* (1 - max by (backend) (fairlead_backend_ejected{{{FLEET}}})))", "healthy"),),
            kind="stat", steps=GOOD_ABOVE_ZERO,
        ),
        Panel(
            "Backends out", "none", "Backends that are down, rest, or take no new requests because they are drained.",
            ((f"count(max by (backend) (fairlead_backend_up{{{FLEET}}})) - sum("
              f"min by (backend) (fairlead_backend_up{{{FLEET}}}) "
              f"* (1 - max by (backend) (fairlead_backend_ejected{{{FLEET}}})) "
              f"* (1 - max by (backend) (fairlead_backend_draining{{{FLEET}}})))", "out"),),
            kind="stat", steps=BAD_ABOVE_ZERO,
        ),
        Panel(
            "Alerts", "none", "Alerts that Fairlead raises by itself; GET /api/alerts on its admin address says more.",
            ((f"sum(fairlead_alert_active{{{FLEET}}}) or vector(0)", "active"),), kind="stat", steps=BAD_ABOVE_ZERO,
        ),
        Panel(
            "Requests", "reqps", "Requests that ended, refused ones among them.",
            ((f"sum(rate(fairlead_requests_total{{{FLEET}}}[{RATE}]))", "requests"),), kind="stat",
        ),
        Panel(
            "Errors", "percentunit", "Share of the requests that clients saw fail with a 5xx status.",
            ((f'(sum(rate(fairlead_requests_total{{{FLEET}, code=~"5.."}}[{RATE}])) or vector(0)) '
              f"/ sum(rate(fairlead_requests_total{{{FLEET}}}[{RATE}]))", "failed"),),
            kind="stat", steps=((0.0, "green"), (0.01, "yellow"), (0.05, "red")),
        ),
        Panel(
            "First token, p99", "s", "99 of 100 streamed answers begin within this, queueing and prefill included.",
            ((_quantile(0.99, "fairlead_ttft_seconds", by="", where=FLEET), "p99"),), kind="stat",
        ),
    ),
    columns=6, height=4,
)  # fmt: skip

SHARES: Final = Row(
    "Who gets what",
    (
        Panel(
            "Share of requests", "percentunit",
            "Each backend's part of the requests. Above the line the share alert looks closer: are others healthy?",
            ((_share("fairlead_requests_total", 'backend!=""'), "{{backend}}"),), most=1.0, shows_limit=True,
        ),
        Panel(
            "Share of tokens", "percentunit",
            "Each backend's part of prompt and output tokens: of the work, which requests alone do not show.",
            ((_share("fairlead_tokens_total"), "{{backend}}"),), stacked=True, most=1.0,
        ),
        Panel(
            "Health", "short", "1: healthy. 0: down, or resting after failures.",
            ((f"min by (backend) (fairlead_backend_up{{{ONE}}}) "
              f"* (1 - max by (backend) (fairlead_backend_ejected{{{ONE}}}))", "{{backend}}"),), most=1.0,
        ),
        Panel(
            "In flight", "short", "Requests sent to a backend and not finished.",
            ((_sum("fairlead_inflight_requests"), "{{backend}}"),), stacked=True,
        ),
        Panel(
            "Pending tokens", "short", "Prompt tokens not yet prefilled and output tokens still expected.",
            ((_sum("fairlead_pending_tokens"), "{{backend}}"),), stacked=True,
        ),
        Panel(
            "Learned speed", "short", "Relative to the fleet's mean, which is 1; the weight where weights are set.",
            ((f"avg by (backend) (fairlead_backend_capacity{{{ONE}}})", "{{backend}}"),),
        ),
    ),
)  # fmt: skip

ENGINES: Final = Row(
    "Engines",
    (
        Panel(
            "Queue in the engine", "short", "Requests that wait inside the engine, and those that it works on.",
            ((f"max by (backend) (fairlead_engine_waiting{{{ONE}}})", "{{backend}} waiting"),
             (f"max by (backend) (fairlead_engine_running{{{ONE}}})", "{{backend}} running")),
        ),
        Panel(
            "KV cache in use", "percentunit", "Near 100 % an engine preempts requests, and everything there gets slow.",
            ((f"max by (backend) (fairlead_engine_kv_usage{{{ONE}}})", "{{backend}}"),), most=1.0,
        ),
        Panel(
            "Prompt tokens found cached", "percentunit",
            "Of the prompt tokens, those that the engine had in its cache and did not compute again.",
            ((f"{_rate('fairlead_prefix_hit_tokens_total')} / "
              f"{_rate('fairlead_tokens_total', PROMPT)}", "{{backend}}"),), most=1.0,
        ),
        Panel(
            "Trust in the prefix view", "percentunit",
            "Share of the predicted cached tokens that reports confirm. Long below 80 %: the cache has other users.",
            ((f"min by (backend) (fairlead_prefix_trust{{{ONE}}})", "{{backend}}"),), most=1.0,
        ),
        Panel(
            "Tokens per second", "short", "Output tokens, and prompt tokens as clients sent them.",
            ((_rate("fairlead_tokens_total", OUTPUT), "{{backend}} output"),
             (_rate("fairlead_tokens_total", PROMPT), "{{backend}} prompt")),
        ),
        Panel(
            "Age of the engine's numbers", "s", "Above some seconds Fairlead chooses by old numbers.",
            ((f"max by (backend) (fairlead_engine_metrics_age_seconds{{{ONE}}})", "{{backend}}"),),
        ),
    ),
)  # fmt: skip

TIMES: Final = Row(
    "What clients feel",
    (
        Panel(
            "Time to first token", "s", "From a request's first byte to the first byte of its streamed answer.",
            _percentiles("fairlead_ttft_seconds"),
        ),
        Panel(
            "Time between tokens", "s", "Per token after the first, the mean of each streamed request.",
            _percentiles("fairlead_inter_token_seconds"),
        ),
        Panel(
            "Whole answer", "s", "From a request's first byte to its answer's last. Long answers are long here.",
            _percentiles("fairlead_request_seconds"),
        ),
    ),
)  # fmt: skip

TROUBLES: Final = Row(
    "Troubles",
    (
        Panel(
            "Failed tries", "reqps", "What backends failed, by kind. Retries hide most of it from clients.",
            ((_rate("fairlead_backend_errors_total", by="backend, kind"), "{{backend}} {{kind}}"),),
        ),
        Panel(
            "Answers by status", "reqps", "What clients got. 499: they left before the answer began.",
            ((_rate("fairlead_requests_total", FLEET, "code"), "{{code}}"),), stacked=True,
        ),
        Panel(
            "Retries", "reqps",
            "Requests moved to another backend, by reason; and those that the budget did not allow.",
            ((_rate("fairlead_retries_total", FLEET, "reason"), "{{reason}}"),
             (f"sum(rate(fairlead_retry_overflow_total{{{FLEET}}}[{RATE}]))", "over the budget")),
        ),
        Panel(
            "Hedges", "reqps", "Second backends asked early, by outcome; and late requests that were not hedged.",
            ((_rate("fairlead_hedges_total", FLEET, "outcome"), "{{outcome}}"),
             (_rate("fairlead_hedges_refused_total", FLEET, "reason"), "not: {{reason}}")),
        ),
        Panel(
            "Ejections", "short", "Times in the last quarter of an hour that a backend was taken out, by reason.",
            ((f"sum by (backend, reason) (increase(fairlead_ejections_total{{{ONE}}}[15m]))",
              "{{backend}} {{reason}}"),),
        ),
        Panel(
            "Refused, and clients that left", "reqps",
            "What Fairlead refused or cut off, by reason; clients that left.",
            ((_rate("fairlead_refused_total", FLEET, "reason"), "{{reason}}"),
             (_rate("fairlead_client_aborts_total", FLEET, "phase"), "client left, {{phase}}")),
        ),
    ),
)  # fmt: skip

ITSELF: Final = Row(
    "Fairlead itself",
    (
        Panel(
            "Loop lag", "s", "How late the last tick came. Long above 0.1 s: this process has too much to do.",
            ((f"max by (instance) (fairlead_loop_lag_seconds{{{FLEET}}})", "{{instance}}"),),
        ),
        Panel(
            "Workers", "short", "Processes that carry the traffic (no series where there is one), and replaced ones.",
            ((f"sum by (instance) (fairlead_workers{{{FLEET}}})", "{{instance}} running"),
             (f"sum by (instance) (increase(fairlead_worker_restarts_total{{{FLEET}}}[15m]))",
              "{{instance}} replaced")),
        ),
        Panel(
            "Time of a decision, p99", "s", "What choosing a backend adds to a request.",
            ((_quantile(0.99, "fairlead_decision_seconds", "instance", FLEET), "{{instance}}"),),
        ),
        Panel(
            "Client connections", "short", "Open ones, and how many there may be.",
            ((f"sum by (instance) (fairlead_connections{{{FLEET}}})", "{{instance}} open"),
             (f"sum by (instance) (fairlead_connections_limit{{{FLEET}}})", "{{instance}} limit")),
        ),
        Panel(
            "Request bodies held", "bytes", "Memory of bodies that are read or may be sent again.",
            ((f"sum by (instance) (fairlead_body_bytes{{{FLEET}}})", "{{instance}} held"),
             (f"sum by (instance) (fairlead_body_bytes_limit{{{FLEET}}})", "{{instance}} limit")),
        ),
        Panel(
            "Configuration in force", "short", "Its number grows with each reload; 0 in `last reload`: it was refused.",
            ((f"max by (instance) (fairlead_config_version{{{FLEET}}})", "{{instance}} version"),
             (f"min by (instance) (fairlead_config_last_reload_success{{{FLEET}}})", "{{instance}} last reload")),
        ),
    ),
)  # fmt: skip

ROWS: Final = (GLANCE, SHARES, ENGINES, TIMES, TROUBLES, ITSELF)
