"""What happened? Counters, histograms, the access log's records and the decisions, as plain numbers.

Called once at the end of each request, on the data plane's loop: it only adds and appends. Everything is
rendered when somebody asks (metrics.py, decisions.py) or in batches (access_log.py). All of it is bounded:
label values come from the configuration and from the engines' model lists, never from clients.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fairlead.core.balancer import Balancer
    from fairlead.core.cluster.ledger import Lease
    from fairlead.proxy.client import Client
    from fairlead.proxy.exchange import Exchange
    from fairlead.wire.http1 import RequestHead

SECONDS = (
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    30.0,
    60.0,
    120.0,
    300.0,
    600.0,
)
TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.25, 0.5, 1.0, 5.0)
MICRO = (5e-6, 1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2)
MAX_DECISIONS = 2_000


class Histogram:
    """Counts per bucket, in the order of `bounds`, the last for what is above them all."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        self.counts[bisect_left(self.bounds, value)] += times
        self.total += value * times


class Record:
    """One finished request, for the access log, `/api/decisions` and `/api/explain`. Times are host seconds."""

    __slots__ = (
        "arrived", "bytes_out", "client", "duration", "error", "kind", "lease", "method", "model", "outcome",
        "output_tokens", "path", "prompt_tokens", "request_id", "status", "stream", "tried", "tries", "ttft",
    )  # fmt: skip

    def __init__(self) -> None:
        self.request_id = ""
        self.arrived = 0.0
        self.client = ""
        self.method = ""
        self.path = ""
        self.model: str | None = None
        self.kind = ""
        self.stream = False
        self.status = 0
        self.outcome = ""
        self.error = ""
        self.lease: Lease | None = None
        self.tries = 0
        self.tried: Sequence[str] = ()  # backends that failed it
        self.prompt_tokens: int | None = None  # as the engine counted, where it did
        self.output_tokens: int | None = None
        self.bytes_out = 0
        self.ttft: float | None = None  # seconds from the request's first byte to the answer's first body byte
        self.duration = 0.0

    @property
    def backend(self) -> str | None:
        return self.lease.backend.id if self.lease is not None else None


class Recorder:
    """Collects. Not thread-safe: one loop drives it."""

    def __init__(self, balancer: Balancer, sink: Callable[[Record], None] | None = None) -> None:
        """`sink` takes each record for the access log."""
        self._balancer = balancer
        self._sink = sink
        self.requests: dict[tuple[str, str, int], int] = {}  # (backend, model, status)
        self.errors: dict[tuple[str, str], int] = {}  # (backend, kind)
        self.refusals: dict[str, int] = {}  # by reason
        self.retries: dict[str, int] = {}  # by reason
        self.aborts: dict[str, int] = {}  # clients that left, by phase
        self.tokens: dict[tuple[str, str], int] = {}  # (backend, direction)
        self.hits: dict[str, int] = {}  # cached prompt tokens by backend
        self.ttft: dict[str, Histogram] = {}  # by backend
        self.inter_token: dict[str, Histogram] = {}
        self.seconds: dict[str, Histogram] = {}
        self.decision = Histogram(MICRO)
        self.records: OrderedDict[str, Record] = OrderedDict()  # the last ones, oldest first
        self.on_connect_failure: Callable[[str], None] | None = None

    def finished(self, exchange: Exchange, now: float) -> None:
        """A request is over."""
        record = Record()
        lease = exchange.lease
        facts = exchange.facts
        record.request_id = request_id = exchange.request_id.decode("latin-1")
        record.arrived = exchange.arrived
        record.client = exchange.client.peer
        record.method = exchange.head.method.decode("latin-1")
        record.path = exchange.path.decode("latin-1")
        record.model = facts.model
        record.kind = facts.kind
        record.stream = facts.stream
        record.status = status = exchange.status
        record.outcome = exchange.outcome
        record.error = exchange.error
        record.lease = lease
        record.tries = exchange.tries
        record.tried = exchange.tried
        record.bytes_out = exchange.bytes_out
        record.duration = duration = now - exchange.arrived
        backend = lease.backend.id if lease is not None else ""
        model = facts.model or ""
        if model and model not in self._balancer.models:
            model = "other"
        key = (backend, model, status)
        self.requests[key] = self.requests.get(key, 0) + 1
        if lease is not None:
            self._observe(record, exchange, backend, duration)
        if exchange.error == "client_gone":
            phase = "streaming" if exchange.first_byte_at else "waiting"
            self.aborts[phase] = self.aborts.get(phase, 0) + 1
        self._keep(request_id, record)

    def _observe(self, record: Record, exchange: Exchange, backend: str, duration: float) -> None:
        lease = exchange.lease
        first = exchange.first_byte_at
        usage = exchange.usage
        if usage is not None:
            record.prompt_tokens, record.output_tokens = usage.prompt_tokens, usage.completion_tokens
            self._count(backend, "prompt", usage.prompt_tokens)
            self._count(backend, "output", usage.completion_tokens)
            if usage.cached_tokens:
                self.hits[backend] = self.hits.get(backend, 0) + usage.cached_tokens
        elif lease.produced:
            record.output_tokens = lease.produced
            self._count(backend, "prompt", lease.prompt_tokens)
            self._count(backend, "output", lease.produced)
        seconds = self.seconds.get(backend)
        if seconds is None:
            seconds = self.seconds[backend] = Histogram(SECONDS)
            self.ttft[backend] = Histogram(SECONDS)
            self.inter_token[backend] = Histogram(TOKEN_SECONDS)
        seconds.observe(duration)
        if first:
            record.ttft = ttft = first - exchange.arrived
            if lease.first_token_at:
                self.ttft[backend].observe(ttft)
                produced = lease.produced
                if produced > 1:
                    gap = (exchange.arrived + duration - first) / (produced - 1)
                    self.inter_token[backend].observe(gap, produced - 1)

    def _count(self, backend: str, direction: str, tokens: int) -> None:
        key = (backend, direction)
        self.tokens[key] = self.tokens.get(key, 0) + tokens

    def _keep(self, request_id: str, record: Record) -> None:
        records = self.records
        records[request_id] = record
        if len(records) > MAX_DECISIONS:
            records.popitem(last=False)
        if self._sink is not None:
            self._sink(record)

    def decided(self, seconds: float) -> None:
        """A choice took this long (the proxy measures one in eight)."""
        self.decision.observe(seconds)

    def early(
        self, client: Client, status: int, reason: str, head: RequestHead | None = None, request_id: bytes = b""
    ) -> None:
        """A request was refused before it became an exchange; `head` is None when not even that could be read."""
        key = ("", "", status)
        self.requests[key] = self.requests.get(key, 0) + 1
        if self._sink is not None:
            record = Record()
            record.arrived = client.arrived
            record.client = client.peer
            record.status = status
            record.outcome = "refused"
            record.error = reason
            record.request_id = request_id.decode("latin-1")
            if head is not None:
                record.method = head.method.decode("latin-1")
                record.path = head.target.partition(b"?")[0].decode("latin-1")
            self._sink(record)

    def refused(self, reason: str) -> None:
        """Bytes or a body that we do not accept."""
        self.refusals[reason] = self.refusals.get(reason, 0) + 1

    def retried(self, reason: str) -> None:
        """A request moves to another backend."""
        self.retries[reason] = self.retries.get(reason, 0) + 1

    def failed(self, backend: str, kind: str) -> None:
        """A backend failed a request."""
        key = (backend, kind)
        self.errors[key] = self.errors.get(key, 0) + 1
        if kind in ("connect", "upstream_broken") and self.on_connect_failure is not None:
            self.on_connect_failure(backend)
