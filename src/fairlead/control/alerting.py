"""Who looks for alerts, and who is told? The same for one process and for several: facts in, words out.

About once a second the host gives the facts of now; what is new goes to the log (one line per change), to the webhooks,
to the admin API and to the metrics page.
"""

from __future__ import annotations

import logging
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from fairlead.control.fleet import Versions
from fairlead.control.recorder import SECONDS, Recorder
from fairlead.control.webhook_formats import Sender, row
from fairlead.control.webhooks import FORMAT_NAMES, Target, Webhooks
from fairlead.core.alerts.engine import Alerts
from fairlead.core.alerts.facts import BackendFacts, FleetFacts, facts_of, paces
from fairlead.core.alerts.rules import AlertRules
from fairlead.core.alerts.table import RULES
from fairlead.core.balancer import Balancer
from fairlead.proxy.tls import Rotations

log = logging.getLogger("fairlead")


def gather(balancer: Balancer, recorder: Recorder, rotations: Rotations, versions: Versions, now: float) -> FleetFacts:
    """What alerts look at, of this process."""
    wall = time.time()
    return FleetFacts(
        backends=tuple(backend_facts(balancer, recorder, now)),
        panics=tuple(model for model, panics in balancer.panics(now).items() if panics),
        overflows=balancer.budget.overflows if balancer.retry_rules.budget else 0,
        certificates=tuple((r.what, r.expires - wall) for r in rotations.all if r.expires is not None),
        refused="" if versions.problem is None else str(versions.problem["message"]),
        bounds=SECONDS,
    )


def backend_facts(balancer: Balancer, recorder: Recorder, now: float) -> Iterator[BackendFacts]:
    backends = list(balancer.backends.values())
    times = paces(backends)
    empty = (0,) * (len(SECONDS) + 1)
    for b in backends:
        numbers = recorder.backends.get(b.id)
        tokens, ttft = (numbers.contested_tokens, numbers.ttft.counts) if numbers else (0, empty)
        yield facts_of(b, times[b.id], now, tokens=tokens, ttft=ttft)


class Alerting:
    """What stands, what ended, and whom to tell."""

    def __init__(self, rules: AlertRules | None, clock: Callable[[], float], admin_port: int = 0) -> None:
        self.alerts = Alerts(rules)
        self.muted = False  # this process sees a part only: somebody else looks at the whole
        self._clock = clock
        self._instance = f"{platform.node() or 'fairlead'}:{admin_port}"
        self._webhooks: Webhooks | None = None

    @property
    def shares(self) -> dict[str, float]:
        """Of all requests in the window of the share alert, by backend."""
        return self.alerts.shares

    def follow(self, rules: AlertRules, targets: Sequence[Target]) -> None:
        """These settings from now on. Inside a running event loop, where there are targets."""
        self.alerts.rules = rules
        if self._webhooks is None and targets and not self.muted:
            self._webhooks = Webhooks(self._clock, Sender(self._instance, self._offset()))
        if self._webhooks is not None:
            self._webhooks.follow(targets, self.alerts.active.values())

    def look(self, facts: FleetFacts, now: float) -> None:
        """Call it about once a second."""
        if self.muted:
            return
        raised, ended = self.alerts.observe(facts, now)
        for alert in raised:
            log.warning("alert %s raised: %s", alert.name, alert.message)
        for alert in ended:
            log.info("alert %s cleared%s", alert.name, f" for backend {alert.backend}" if alert.backend else "")
        if self._webhooks is not None:
            self._webhooks.tell([*raised, *ended])

    async def close(self) -> None:
        if self._webhooks is not None:
            await self._webhooks.close()

    def _offset(self) -> float:
        return time.time() - self._clock()

    # --- what there is to see --------------------------------------------------------------------------------

    def standing(self) -> list[dict[str, Any]]:
        """Alerts that stand, in the order in which they were raised."""
        return [row(alert, self._offset()) for alert in self.alerts.active.values()]

    def ended(self) -> list[dict[str, Any]]:
        """The last that ended, newest first."""
        return [row(alert, self._offset()) for alert in reversed(self.alerts.ended)]

    def metrics(self, backends: Iterable[str]) -> Iterator[Metric]:
        """What the metrics page says of all this."""
        yield self.share_metric(backends)
        active = GaugeMetricFamily("fairlead_alert_active", "1 while an alert stands", labels=("alert", "backend"))
        stands = self.alerts.active
        for rule in RULES:
            for id in backends if rule.per_backend else ("",):
                active.add_metric((rule.name, id), float((rule.name, id) in stands))
        yield active
        failures = CounterMetricFamily(
            "fairlead_webhook_failures", "messages about alerts that a webhook did not take", labels=("format",)
        )
        messages = CounterMetricFamily(
            "fairlead_webhook_messages", "messages about alerts that a webhook took", labels=("format",)
        )
        webhooks = self._webhooks
        for format in FORMAT_NAMES:
            failures.add_metric((format,), webhooks.failures[format] if webhooks is not None else 0)
            messages.add_metric((format,), webhooks.messages[format] if webhooks is not None else 0)
        yield failures
        yield messages

    def share_metric(self, backends: Iterable[str]) -> Metric:
        shares = GaugeMetricFamily(
            "fairlead_backend_share", "share of the requests of the alert window", labels=("backend",)
        )
        for id in backends:
            shares.add_metric((id,), self.shares.get(id, 0.0))
        return shares
