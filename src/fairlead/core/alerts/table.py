"""Which alerts are there? One row each: its names, how bad it is, who judges, and how long it has to be so.

`hold` is the time that it has to be found without a break before it is raised, `rest` the time that it must not be
found before it ends. Names are used in the configuration, in metrics and in messages: they stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from fairlead.core.alerts import rules
from fairlead.core.alerts.rules import Findings, Scene, Standing

WARNING: Final = "warning"
CRITICAL: Final = "critical"


@dataclass(frozen=True, slots=True)
class Rule:
    """One alert."""

    name: str
    title: str  # what Prometheus and Alertmanager know it by
    severity: str
    judge: Callable[[Scene, Standing], Findings]
    per_backend: bool = False
    hold: float = 0.0  # seconds
    rest: float = 60.0


RULES: Final = (
    Rule(
        "backend_share", "FairleadBackendTakesMostTraffic", WARNING, rules.share_of_requests, per_backend=True, rest=0.0
    ),
    Rule("token_share", "FairleadBackendTakesMostTokens", WARNING, rules.share_of_tokens, per_backend=True),
    Rule("no_backend", "FairleadNoHealthyBackend", CRITICAL, rules.no_backend, hold=30.0, rest=10.0),
    Rule("backend_down", "FairleadBackendDown", WARNING, rules.backend_down, per_backend=True, hold=120.0, rest=10.0),
    Rule("panic", "FairleadPanic", CRITICAL, rules.panic, hold=60.0),
    Rule("errors", "FairleadBackendErrors", WARNING, rules.errors, per_backend=True, hold=60.0),
    Rule("retry_budget", "FairleadRetryBudgetSpent", WARNING, rules.retry_budget),
    Rule("ttft", "FairleadSlowFirstToken", WARNING, rules.slow_first_token, hold=60.0),
    Rule(
        "queue_growing",
        "FairleadEngineQueueGrowing",
        WARNING,
        rules.queue_growing,
        per_backend=True,
        hold=120.0,
        rest=120.0,
    ),
    Rule("slow_backend", "FairleadBackendSlow", WARNING, rules.slow_backend, per_backend=True, hold=300.0, rest=120.0),
    Rule("metrics_stale", "FairleadEngineMetricsStale", WARNING, rules.stale_metrics, per_backend=True, hold=60.0),
    Rule(
        "prefix_distrusted",
        "FairleadPrefixViewDistrusted",
        WARNING,
        rules.distrusted_view,
        per_backend=True,
        hold=300.0,
    ),
    Rule("certificate", "FairleadCertificateEnds", WARNING, rules.certificate),
    Rule("reload_refused", "FairleadReloadRefused", WARNING, rules.reload_refused, hold=60.0, rest=0.0),
)
NAMES: Final = tuple(rule.name for rule in RULES)
BY_NAME: Final = {rule.name: rule for rule in RULES}
