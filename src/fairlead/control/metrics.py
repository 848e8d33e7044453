"""The Prometheus metrics, rendered from plain numbers when somebody asks.

Labels are backends, models that engines list, status codes and fixed words: nothing that a client can make up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from fairlead import __version__
from fairlead.control.alerting import Alerting
from fairlead.control.decision_log import DecisionLog
from fairlead.control.fleet import Versions
from fairlead.control.recorder import Histogram, Recorder
from fairlead.control.recording import Recording
from fairlead.control.tracing import Tracing
from fairlead.core.alerts.facts import paces
from fairlead.core.balancer import Balancer
from fairlead.core.cluster.backend import METRICS, PROBER
from fairlead.core.cluster.prefix import ENTRY_BYTES
from fairlead.proxy.service import Service
from fairlead.proxy.sockets import open_descriptors

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class MetricsPage(Collector):
    """Everything under `fairlead_`."""

    def __init__(
        self,
        balancer: Balancer,
        recorder: Recorder,
        service: Service,
        alerting: Alerting,
        dropped_lines: Callable[[], int],
        recording: Recording | None = None,
    ) -> None:
        self._balancer = balancer
        self._recorder = recorder
        self._service = service
        self._alerting = alerting
        self._dropped_lines = dropped_lines
        self._recording = recording
        self.versions: Versions | None = None  # of the configuration
        self.decisions: DecisionLog | None = None
        self.tracing: Tracing | None = None
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def render(self) -> bytes:
        """The page as text."""
        return generate_latest(self._registry)

    def describe(self) -> Iterable[Metric]:
        return []  # nothing to check names against: this is the registry's only collector

    def collect(self) -> Iterator[Metric]:
        yield InfoMetricFamily("fairlead_build", "which Fairlead this is", {"version": __version__})
        yield from self._of_requests()
        yield from self._of_backends()
        if self._balancer.uses_prefixes:
            yield from self._of_prefixes()
        yield from self._of_policies()
        if self._recording is not None:
            yield from self._of_recording(self._recording)
        if self.decisions is not None:
            yield from self._of_decisions(self.decisions)
        if self.tracing is not None:
            yield CounterMetricFamily("fairlead_spans", "spans that the collector took", self.tracing.sent)
            yield CounterMetricFamily("fairlead_spans_dropped", "spans that it did not get", self.tracing.dropped)
        if self.versions is not None:
            yield from self._of_config(self.versions)
        yield from self._of_process()

    def _of_requests(self) -> Iterator[Metric]:
        recorder = self._recorder
        requests = CounterMetricFamily(
            "fairlead_requests", "requests that ended, by who answered", labels=("backend", "model", "code")
        )
        for (backend, model, status), count in recorder.requests.items():
            requests.add_metric((backend, model, str(status)), count)
        yield requests
        yield _counters(
            "fairlead_backend_errors", "requests that a backend failed", ("backend", "kind"), recorder.errors
        )
        numbers = self._recorder.backends
        tokens = CounterMetricFamily("fairlead_tokens", "tokens processed", labels=("backend", "direction"))
        for id, n in numbers.items():
            tokens.add_metric((id, "prompt"), n.prompt_tokens)
            tokens.add_metric((id, "output"), n.output_tokens)
        yield tokens
        hits = {id: n.cached_tokens for id, n in numbers.items()}
        yield _counters("fairlead_prefix_hit_tokens", "prompt tokens found cached", ("backend",), hits)
        predicted = {id: n.predicted_tokens for id, n in numbers.items()}
        yield _counters(
            "fairlead_prefix_predicted_tokens",
            "prompt tokens thought to be cached, of requests whose answers told",
            ("backend",),
            predicted,
        )
        yield CounterMetricFamily(
            "fairlead_retry_overflow", "retries that the budget did not allow", self._balancer.budget.overflows
        )
        yield _counters("fairlead_retries", "requests moved to another backend", ("reason",), recorder.retries)
        yield _counters("fairlead_hedges", "second backends asked early, by outcome", ("outcome",), recorder.hedges)
        refused = recorder.hedges_refused
        yield _counters("fairlead_hedges_refused", "late requests that were not hedged", ("reason",), refused)
        yield _counters("fairlead_refused", "what was refused or cut off, by reason", ("reason",), recorder.refusals)
        yield _counters("fairlead_client_aborts", "clients that left before the end", ("phase",), recorder.aborts)
        ttft = {id: n.ttft for id, n in numbers.items()}
        yield _histograms("fairlead_ttft_seconds", "request's first byte to first streamed byte", ttft)
        gaps = {id: n.inter_token for id, n in numbers.items()}
        yield _histograms("fairlead_inter_token_seconds", "time per token after the first, mean of a request", gaps)
        seconds = {id: n.seconds for id, n in numbers.items()}
        yield _histograms("fairlead_request_seconds", "request's first byte to answer's last", seconds)

    def _of_backends(self) -> Iterator[Metric]:
        now = self._service.clock()
        backends = list(self._balancer.backends.values())
        gauge = _Gauges([b.id for b in backends])
        yield gauge("fairlead_backend_up", "1 when checks find it healthy", [float(b.up) for b in backends])
        yield gauge(
            "fairlead_backend_ejected",
            "1 while it rests, or only trials go there",
            [float(b.passive.resting) for b in backends],
        )
        ejections = {(b.id, cause): count for b in backends for cause, count in b.passive.ejections.items()}
        yield _counters("fairlead_ejections", "times that it was taken out", ("backend", "reason"), ejections)
        panic = GaugeMetricFamily(
            "fairlead_panic", "1 while so few backends are usable that bad ones are tried", labels=("model",)
        )
        for model, panics in self._balancer.panics(now).items():
            panic.add_metric((model,), float(panics))
        yield panic
        yield gauge(
            "fairlead_backend_draining", "1 when it takes no new requests", [float(b.draining) for b in backends]
        )
        contested = {b.id: b.contested for b in backends}
        yield _counters(
            "fairlead_contested_requests", "requests sent here that another could have taken", ("backend",), contested
        )
        tokens = {id: n.contested_tokens for id, n in self._recorder.backends.items()}
        yield _counters(
            "fairlead_contested_tokens", "prompt and output tokens of such requests that ended", ("backend",), tokens
        )
        yield gauge("fairlead_inflight_requests", "requests in flight", [b.inflight for b in backends])
        yield gauge(
            "fairlead_pending_tokens",
            "prompt and output tokens still to do",
            [b.prompt_pending + b.output_pending for b in backends],
        )
        known = [b for b in backends if b.stats.waiting is not None]
        yield _Gauges([b.id for b in known])(
            "fairlead_engine_waiting", "requests in the engine's own queue", [b.stats.waiting or 0.0 for b in known]
        )
        known = [b for b in backends if b.stats.running is not None]
        yield _Gauges([b.id for b in known])(
            "fairlead_engine_running", "requests the engine works on", [b.stats.running or 0.0 for b in known]
        )
        known = [b for b in backends if b.stats.kv_usage is not None]
        yield _Gauges([b.id for b in known])(
            "fairlead_engine_kv_usage", "share of the KV cache in use", [b.stats.kv_usage or 0.0 for b in known]
        )
        known = [b for b in backends if b.polled_at > float("-inf")]
        yield _Gauges([b.id for b in known])(
            "fairlead_engine_metrics_age_seconds",
            "age of the last reading of its metrics",
            [now - b.polled_at for b in known],
        )
        troubles = (
            (METRICS, "fairlead_engine_metrics_errors", "readings of its metrics that gave no numbers"),
            (PROBER, "fairlead_prober_restarts", "times that watching it failed by a fault in Fairlead, and went on"),
        )
        for what, name, help in troubles:
            yield _counters(name, help, ("backend",), {b.id: b.troubles[what] for b in backends})
        yield gauge(
            "fairlead_backend_capacity", "speed, the fleet's mean is 1; or its weight", [b.capacity for b in backends]
        )
        times = paces(backends)
        compared = [id for id, value in times.items() if value is not None]
        yield _Gauges(compared)(
            "fairlead_backend_pace",
            "its time for the same work over its peers'; what weights explain is taken out",
            [times[id] or 0.0 for id in compared],
        )
        yield gauge(
            "fairlead_prefill_slowdown",
            "observed over predicted prefill time; 2: half as fast as the reference machine",
            [b.prefill_slowdown for b in backends],
        )
        yield gauge(
            "fairlead_decode_slowdown",
            "observed over predicted decode time; 2: half as fast as the reference machine",
            [b.decode_slowdown for b in backends],
        )
        usable = [b for b in backends if b.up and not b.draining and not b.passive.ejected(now)]
        weights = sum(b.weight for b in usable) if any(b.weight_set for b in backends) else 0.0
        yield gauge(
            "fairlead_backend_weight_share",
            "share that set weights ask for; 0 where none are set",
            [b.weight / weights if weights and b in usable else 0.0 for b in backends],
        )
        yield from self._alerting.metrics([b.id for b in backends])

    def _of_prefixes(self) -> Iterator[Metric]:
        backends = list(self._balancer.backends.values())
        gauge = _Gauges([b.id for b in backends])
        entries = [len(b.shelf.blocks) for b in backends]
        yield gauge("fairlead_prefix_index_blocks", "prefix blocks that it is thought to have cached", entries)
        yield gauge("fairlead_prefix_index_bytes", "memory that they take here", [n * ENTRY_BYTES for n in entries])
        yield gauge(
            "fairlead_prefix_trust",
            "share of the predicted cached tokens that its reports confirm",
            [b.trust.factor for b in backends],
        )
        yield gauge(
            "fairlead_prefix_distrusted",
            "1 while its reports disagree with what it is thought to have cached",
            [float(b.trust.distrusted) for b in backends],
        )
        drops = {b.id: b.trust.drops for b in backends}
        yield _counters(
            "fairlead_prefix_view_drops", "times that the view of its cache was emptied", ("backend",), drops
        )

    def _of_policies(self) -> Iterator[Metric]:
        shadow = self._balancer.shadow
        names = {"policy": self._balancer.policy.name, "shadow": shadow.policy.name if shadow is not None else ""}
        yield InfoMetricFamily("fairlead_policy", "the policies in force", names)
        if shadow is None:
            return
        yield CounterMetricFamily("fairlead_shadow_requests", "requests compared with the shadow", shadow.requests)
        yield CounterMetricFamily(
            "fairlead_shadow_agreements", "of these, the shadow would have taken the same backend", shadow.agreements
        )
        seconds = CounterMetricFamily(
            "fairlead_shadow_predicted_ttft_seconds",
            "predicted seconds to the first token on the chosen backend and on the shadow's",
            labels=("choice",),
        )
        seconds.add_metric(("policy",), shadow.chosen_seconds)
        seconds.add_metric(("shadow",), shadow.shadow_seconds)
        yield seconds
        yield CounterMetricFamily("fairlead_shadow_errors", "requests on which the shadow failed", shadow.errors)

    def _of_recording(self, recording: Recording) -> Iterator[Metric]:
        yield CounterMetricFamily("fairlead_recording_requests", "requests in the recording", recording.written)
        yield CounterMetricFamily(
            "fairlead_recording_dropped", "requests that are missing in the recording", recording.dropped
        )
        yield CounterMetricFamily("fairlead_recording_bytes", "bytes written to it", recording.bytes_written)
        yield GaugeMetricFamily(
            "fairlead_recording_stopped", "1 when its disk has ended it", float(bool(recording.problem))
        )

    def _of_decisions(self, log: DecisionLog) -> Iterator[Metric]:
        yield CounterMetricFamily("fairlead_decision_log_lines", "requests in the log of decisions", log.written)
        yield CounterMetricFamily("fairlead_decision_log_dropped", "requests that are missing in it", log.dropped)
        stopped = float(bool(log.problem))
        yield GaugeMetricFamily("fairlead_decision_log_stopped", "1 when its disk has ended it", stopped)

    def _of_config(self, versions: Versions) -> Iterator[Metric]:
        yield GaugeMetricFamily("fairlead_config_version", "number of the configuration in force", versions.number)
        yield GaugeMetricFamily(
            "fairlead_config_applied_timestamp_seconds", "since when it is in force", versions.applied_at
        )
        yield _counters("fairlead_config_reloads", "reloads, by what became of them", ("result",), versions.reloads)
        yield GaugeMetricFamily(
            "fairlead_config_last_reload_success",
            "0 while the last reload was refused and an older configuration is in force",
            float(versions.problem is None),
        )

    def _of_limits(self, service: Service) -> Iterator[Metric]:
        """What is used, beside what may be."""
        limits, memory = service.limits, service.memory
        yield GaugeMetricFamily("fairlead_connections", "open client connections", len(service.clients))
        yield GaugeMetricFamily("fairlead_connections_limit", "how many there may be", limits.connections)
        yield GaugeMetricFamily("fairlead_body_bytes", "bytes of request bodies held", memory.used)
        yield GaugeMetricFamily("fairlead_body_bytes_limit", "how many may be held", memory.limit)
        used = open_descriptors()
        if used is not None:
            yield GaugeMetricFamily("fairlead_descriptors", "open files and connections of this process", used)
        if service.descriptors:
            yield GaugeMetricFamily("fairlead_descriptors_limit", "how many it may open", service.descriptors)

    def _of_tls(self, service: Service) -> Iterator[Metric]:
        expiry = GaugeMetricFamily(
            "fairlead_tls_expiry_timestamp_seconds", "when the first of its certificates ends", labels=("where",)
        )
        failed = GaugeMetricFamily(
            "fairlead_tls_reload_failed", "1 while changed files cannot be used and older ones serve", labels=("where",)
        )
        for rotation in service.rotations.all:
            if rotation.expires is not None:
                expiry.add_metric((rotation.what,), rotation.expires)
            failed.add_metric((rotation.what,), float(bool(rotation.problem)))
        yield expiry
        yield failed

    def _of_process(self) -> Iterator[Metric]:
        service = self._service
        decisions = HistogramMetricFamily("fairlead_decision_seconds", "time to choose a backend, one request in 8")
        decisions.add_metric((), *_buckets(self._recorder.decision))
        yield decisions
        yield GaugeMetricFamily("fairlead_loop_lag_seconds", "how late the last tick came", service.wheel.lag)
        yield from self._of_limits(service)
        yield from self._of_tls(service)
        pools = list(service.pools.values())
        yield _Gauges([p.id for p in pools])(
            "fairlead_backend_connections", "open connections to it", [p.open for p in pools]
        )
        yield CounterMetricFamily(
            "fairlead_access_log_dropped", "lines lost as the log's reader stalled", self._dropped_lines()
        )


class _Gauges:
    """Gauges with one series per backend."""

    def __init__(self, ids: list[str]) -> None:
        self._ids = ids

    def __call__(self, name: str, help: str, values: list[float] | list[int]) -> GaugeMetricFamily:
        family = GaugeMetricFamily(name, help, labels=("backend",))
        for id, value in zip(self._ids, values, strict=True):
            family.add_metric((id,), value)
        return family


def _counters(
    name: str, help: str, labels: tuple[str, ...], counts: dict[str, int] | dict[tuple[str, str], int]
) -> CounterMetricFamily:
    family = CounterMetricFamily(name, help, labels=labels)
    for key, count in counts.items():
        family.add_metric((key,) if isinstance(key, str) else key, count)
    return family


def _buckets(histogram: Histogram) -> tuple[list[tuple[str, float]], float]:
    """Cumulated buckets and the sum, as the exposition wants them."""
    rows: list[tuple[str, float]] = []
    seen = 0
    for bound, count in zip((*histogram.bounds, float("inf")), histogram.counts, strict=True):
        seen += count
        rows.append(("+Inf" if bound == float("inf") else repr(float(bound)), seen))
    return rows, histogram.total


def _histograms(name: str, help: str, histograms: dict[str, Histogram]) -> HistogramMetricFamily:
    family = HistogramMetricFamily(name, help, labels=("backend",))
    for backend, histogram in histograms.items():
        family.add_metric((backend,), *_buckets(histogram))
    return family
