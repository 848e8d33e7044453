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

from fairlead.core.hedge import OUTCOMES, REASONS
from fairlead.proxy.record import Record

if TYPE_CHECKING:
    from fairlead.core.balancer import Balancer
    from fairlead.proxy.downstream import Asker
    from fairlead.proxy.exchange import Exchange
    from fairlead.proxy.trace import Tracer
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
ERROR_KINDS = (
    "connect", "connect_timeout", "tls", "send_timeout", "timeout", "bad_response", "upstream_broken", "upstream_idle",
    "stream_incomplete", "engine_error",
)  # fmt: skip
HURRY_KINDS = frozenset(("connect", "connect_timeout", "tls", "upstream_broken"))  # a probe should look at once
REFUSALS = (
    "too_many_connections", "header_timeout", "body_timeout", "client_stalled", "head_too_long", "too_many_fields",
    "target_too_long", "body_too_large", "body_memory", "descriptors", "bad_framing", "handshake_timeout",
    "tls_handshake", "bad_proxy_protocol", "untrusted_proxy_protocol", "too_many_streams", "rapid_reset", "frame_flood",
    "poison_suspect",
)  # fmt: skip
MAX_LEFT = 100  # backends that are gone and whose requests are still told in the metrics
MAX_PATH = 512  # bytes of a path that are kept
MAX_DECISIONS = 1_000  # more would fall out of the processor caches, which costs every request


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


class BackendNumbers:
    """What is counted of one backend's requests."""

    __slots__ = (
        "cached_tokens",
        "contested_tokens",
        "inter_token",
        "output_tokens",
        "predicted_tokens",
        "prompt_tokens",
        "seconds",
        "ttft",
    )

    def __init__(self) -> None:
        self.prompt_tokens = 0
        self.output_tokens = 0
        self.contested_tokens = 0  # prompt and output, of requests that another backend could have taken
        self.cached_tokens = 0  # prompt tokens that the engine found in its cache
        self.predicted_tokens = 0  # prompt tokens that we thought it would find, of requests where it told
        self.seconds = Histogram(SECONDS)  # request's first byte to answer's last
        self.ttft = Histogram(SECONDS)  # request's first byte to first streamed byte
        self.inter_token = Histogram(TOKEN_SECONDS)  # mean of a request, counted once per token


class Recorder:
    """Collects. Not thread-safe: one loop drives it."""

    def __init__(self, balancer: Balancer, *sinks: Callable[[Record], None]) -> None:
        """Each of the `sinks` takes every record: the access log, the recording."""
        self._balancer = balancer
        self._sinks = sinks
        self._left: list[str] = []  # backends that are gone and whose requests are still counted, oldest first
        self.requests: dict[tuple[str, str, int], int] = {}  # (backend, model, status)
        self.backends: dict[str, BackendNumbers] = {}
        self.errors: dict[tuple[str, str], int] = {}  # (backend, kind)
        for id in balancer.backends:
            self.joined(id)
        self.refusals: dict[str, int] = dict.fromkeys(REFUSALS, 0)  # by reason
        self.retries: dict[str, int] = {}  # by reason
        self.hedges: dict[str, int] = dict.fromkeys(OUTCOMES, 0)
        self.hedges_refused: dict[str, int] = dict.fromkeys(REASONS, 0)
        self.aborts: dict[str, int] = {}  # clients that left, by phase
        self.decision = Histogram(MICRO)
        self.records: OrderedDict[str, Record] = OrderedDict()  # the last ones, oldest first
        self.on_connect_failure: Callable[[str], None] | None = None
        self.tracer: Tracer | None = None  # for requests that are refused before they are anything
        self.version = 1  # of the configuration in force; a request keeps the one that it began with

    def send_to(self, *sinks: Callable[[Record], None]) -> None:
        """Other sinks from the next record on."""
        self._sinks = sinks

    def joined(self, id: str) -> None:
        """A backend is there: its failures are counted from now on, so that the first is a step from 0 to 1."""
        if id in self._left:
            self._left.remove(id)
        for kind in ERROR_KINDS:
            self.errors.setdefault((id, kind), 0)

    def left(self, id: str) -> None:
        """A backend is gone, and its last request too. Counts of requests stay for a while, so that sums go on."""
        self.backends.pop(id, None)
        for kind in ERROR_KINDS:
            self.errors.pop((id, kind), None)
        self._left.append(id)
        if len(self._left) > MAX_LEFT:
            oldest = self._left.pop(0)
            self.requests = {key: count for key, count in self.requests.items() if key[0] != oldest}

    def finished(self, exchange: Exchange, outcome: str, now: float) -> None:
        """A request is over."""
        record = Record.__new__(Record)
        facts = exchange.facts
        record.request_id = request_id = exchange.request_id.decode("latin-1")
        record.arrived = arrived = exchange.arrived
        client, head = exchange.client, exchange.head
        record.peer = client.peer if not head.forwarded else exchange.service.forwarding.client(client.peer, head)
        record.protocol = client.protocol or ("HTTP/1.1" if head.minor else "HTTP/1.0")
        record.method = head.method.decode("latin-1")
        record.path = exchange.path[:MAX_PATH].decode("latin-1")
        record.model = model = facts.model
        record.stream = facts.stream
        record.status = status = exchange.status
        record.outcome = outcome
        record.error = exchange.error
        record.lease = lease = exchange.lease
        record.hedge = exchange.race.told if exchange.race is not None else None
        record.trace = trace = exchange.trace
        if trace is not None:
            trace.close(exchange, now)
        record.version = exchange.version
        record.tries = exchange.tries
        record.tried = exchange.tried
        record.bytes_out = exchange.bytes_out
        record.duration = duration = now - arrived
        record.prompt_tokens = record.output_tokens = record.cached_tokens = record.ttft = None
        first = exchange.first_byte_at
        if first:
            record.ttft = first - arrived
        backend = ""
        if lease is not None:
            backend = lease.backend.id
            numbers = self.backends.get(backend)
            if numbers is None:
                numbers = self.backends[backend] = BackendNumbers()
            numbers.seconds.observe(duration)
            produced = lease.produced
            usage = exchange.usage
            if usage is not None:
                record.prompt_tokens, record.output_tokens = usage.prompt_tokens, usage.completion_tokens
                record.cached_tokens = usage.cached_tokens
                numbers.prompt_tokens += usage.prompt_tokens
                numbers.output_tokens += usage.completion_tokens
                if usage.cached_tokens is not None:
                    numbers.cached_tokens += usage.cached_tokens
                    numbers.predicted_tokens += lease.cached_raw
            elif produced:
                record.output_tokens = produced
                numbers.prompt_tokens += lease.prompt_tokens
                numbers.output_tokens += produced
            if lease.first_token_at is not None:
                numbers.ttft.observe(first - arrived)
                if produced > 1:
                    numbers.inter_token.observe((now - first) / (produced - 1), produced - 1)
            if len(lease.candidates) > 1:
                numbers.contested_tokens += (record.prompt_tokens or 0) + (record.output_tokens or 0)
        if not model:
            model = ""
        elif model not in self._balancer.models:
            model = "other"
        key = (backend, model, status)
        self.requests[key] = self.requests.get(key, 0) + 1
        if exchange.error == "client_gone":
            phase = "streaming" if first else "waiting"
            self.aborts[phase] = self.aborts.get(phase, 0) + 1
        records = self.records
        records[request_id] = record
        if len(records) > MAX_DECISIONS:
            records.popitem(last=False)
        for sink in self._sinks:
            sink(record)

    def decided(self, seconds: float) -> None:
        """A choice took this long (the proxy measures one in eight)."""
        self.decision.observe(seconds)

    def early(
        self, client: Asker, status: int, reason: str, head: RequestHead | None = None, request_id: bytes = b""
    ) -> None:
        """A request was refused before it became an exchange; `head` is None when not even that could be read."""
        key = ("", "", status)
        self.requests[key] = self.requests.get(key, 0) + 1
        if self._sinks:
            record = Record()
            record.arrived = client.arrived
            record.peer = client.peer
            record.status = status
            record.outcome = "refused"
            record.error = reason
            record.version = self.version
            record.request_id = request_id.decode("latin-1")
            if head is not None:
                if self.tracer is not None:
                    record.trace = self.tracer.begin(head)
                record.method = head.method.decode("latin-1")
                record.path = head.target.partition(b"?")[0][:MAX_PATH].decode("latin-1")
            for sink in self._sinks:
                sink(record)

    def refused(self, reason: str) -> None:
        """Something was refused, or cut off for a limit; a limit met shows here whoever met it."""
        self.refusals[reason] = self.refusals.get(reason, 0) + 1

    def retried(self, reason: str) -> None:
        """A request moves to another backend."""
        self.retries[reason] = self.retries.get(reason, 0) + 1

    def hedged(self, word: str) -> None:
        """What came of a hedge, or why a request that was late has none."""
        counts = self.hedges if word in self.hedges else self.hedges_refused
        counts[word] += 1

    def failed(self, backend: str, kind: str) -> None:
        """A backend failed a request."""
        key = (backend, kind)
        self.errors[key] = self.errors.get(key, 0) + 1
        if kind in HURRY_KINDS and self.on_connect_failure is not None:
            self.on_connect_failure(backend)
