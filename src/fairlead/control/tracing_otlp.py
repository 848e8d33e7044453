"""How do spans reach a collector? Over OTLP/HTTP, by the OpenTelemetry SDK: batches, retries, encoding.

The only file that imports the SDK (`pip install fairlead[otel]`), and imported only where `tracing` is set.
Rule 1: what waits is bounded here, so that each span that gets lost is counted.
Rule 2: a collector that is gone costs one line in the log, and one when it is back; the SDK's own are not shown.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Mapping, Sequence
from typing import Final

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

from fairlead import __version__
from fairlead.control.tracing import SERVER, Span

log = logging.getLogger("fairlead")

MAX_WAITING: Final = 4_096  # spans that may wait for the collector
MAX_BATCH: Final = 128  # encoding them holds the loop up for some milliseconds at most
PERIOD_SECONDS: Final = 1.0  # between two batches that are not full
EXPORT_SECONDS: Final = 5.0  # for one batch, tries again included
MAX_REASON: Final = 300  # characters of why a batch failed


class Otlp:
    """Brings spans to one endpoint."""

    def __init__(self, endpoint: str, headers: Mapping[str, str], service: str) -> None:
        """`endpoint` is the whole URL. The environment may add what it adds for others: OTEL_RESOURCE_ATTRIBUTES."""
        _be_silent()
        self._resource = Resource.create(
            {"service.name": service, "service.version": __version__, "service.instance.id": str(uuid.uuid4())}
        )
        self._scope = InstrumentationScope("fairlead", __version__)
        inner = OTLPSpanExporter(endpoint=endpoint, headers=dict(headers) or None, timeout=EXPORT_SECONDS)
        self._exporter = _Watched(inner, endpoint)
        self._processor = BatchSpanProcessor(
            self._exporter,
            max_queue_size=MAX_WAITING,
            schedule_delay_millis=PERIOD_SECONDS * 1e3,
            max_export_batch_size=MAX_BATCH,
            export_timeout_millis=EXPORT_SECONDS * 1e3,
        )
        self._given = 0
        self._refused = 0

    @property
    def sent(self) -> int:
        return self._exporter.sent

    @property
    def dropped(self) -> int:
        return self._refused + self._exporter.lost

    def send(self, span: Span) -> None:
        if self._given - self._exporter.taken >= MAX_WAITING:
            self._refused += 1
            return
        self._given += 1
        self._processor.on_end(self._readable(span))

    def close(self) -> None:
        self._processor.shutdown()  # type: ignore[no-untyped-call]
        self._refused += self._given - self._exporter.taken
        self._given = self._exporter.taken

    def give_up(self) -> None:
        self._exporter.shutdown()
        self._refused += self._given - self._exporter.taken
        self._given = self._exporter.taken

    def _readable(self, span: Span) -> ReadableSpan:
        flags, trace_id = TraceFlags(span.flags), int(span.trace_id, 16)
        state = TraceState.from_header([span.state.decode("ascii")])
        parent = None
        if span.parent_id:
            parent = SpanContext(trace_id, int(span.parent_id, 16), span.remote, flags, state)
        return ReadableSpan(
            name=span.name,
            context=SpanContext(trace_id, int(span.span_id, 16), False, flags, state),
            parent=parent,
            resource=self._resource,
            attributes=span.attributes,
            kind=SpanKind.SERVER if span.kind == SERVER else SpanKind.CLIENT,
            status=Status(StatusCode.ERROR if span.failed else StatusCode.UNSET),
            start_time=int(span.began * 1e9),
            end_time=int(span.ended * 1e9),
            instrumentation_scope=self._scope,
        )


class _Watched(SpanExporter):
    """Counts what an exporter does, and tells when it begins to fail and when that is over."""

    def __init__(self, inner: SpanExporter, endpoint: str) -> None:
        self._inner, self._endpoint = inner, endpoint
        self._failing = self._is_shut = False
        self.taken = 0  # spans that are no longer in the queue
        self.sent = 0
        self.lost = 0
        self._on_the_way = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        _heard.first = ""
        self._on_the_way = len(spans)
        self.taken += len(spans)
        try:
            result, why = self._inner.export(spans), ""
        except Exception as problem:  # whatever it is, it is the SDK's, and ends a batch, not the tracing
            result, why = SpanExportResult.FAILURE, f"{type(problem).__name__}: {problem}"
        self._on_the_way = 0
        if self._is_shut:  # counted as lost, as nobody waited for them
            return result
        if result is SpanExportResult.SUCCESS:
            self.sent += len(spans)
            if self._failing:
                self._failing = False
                log.info("tracing: %s takes spans again", self._endpoint)
            return result
        self.lost += len(spans)
        if not self._failing:
            self._failing = True
            why = " ".join((why or _heard.first or "no reason was given").split())[:MAX_REASON]
            log.warning("tracing: %s takes no spans, they are dropped; requests go on: %s", self._endpoint, why)
        return result

    def shutdown(self) -> None:
        if not self._is_shut:
            self._is_shut = True
            self.lost += self._on_the_way
            self._inner.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return True


class _Heard(logging.Handler):
    """Keeps what the SDK had to say first of a batch: the last is that it gives up."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.first = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.first = self.first or record.getMessage()


_heard: Final = _Heard()


def _be_silent() -> None:
    """The SDK logs each failure, and each try: one of them goes into the line that is ours."""
    logger = logging.getLogger("opentelemetry")
    logger.propagate = False
    if _heard not in logger.handlers:
        logger.addHandler(_heard)
