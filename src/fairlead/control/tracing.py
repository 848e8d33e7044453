"""What is told of a finished request to those who trace it: one span for it, and one for each try at a backend.

Names are those of OpenTelemetry's semantic conventions for HTTP and for generative AI, and `fairlead.*` for what only
we know (docs/tracing.md lists them all).
Rule 1: never in a span: prompts, answers, keys, header values, queries, addresses of clients; backends by their names.
Rule 2: the loop only appends a record to a queue; a thread makes the spans, in short pieces with pauses. What finds
        the queue full is dropped and counted.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from fairlead.control.background import Background
from fairlead.core.balancer import ABANDONED, ERROR, FAILED
from fairlead.core.model import Kind
from fairlead.proxy.record import Record
from fairlead.wire.openai import route_of

if TYPE_CHECKING:
    from fairlead.core.cluster.ledger import Lease
    from fairlead.proxy.trace import Attempt, Trace

log = logging.getLogger("fairlead")

MAX_WAITING: Final = 2_048  # requests that may wait for the thread
PERIOD_SECONDS: Final = 0.25  # between two looks of the thread into the queue
PIECE: Final = 16  # requests in one go, about 1 ms, and then the loop's turn
CLOSE_SECONDS: Final = 3.0  # for a collector that does not answer
LAST_SECONDS: Final = 0.5  # for the thread after that

SERVER, CLIENT = "server", "client"
FIRST_TOKEN: Final = "first token after, s"  # noqa: S105 -- the term of a policy that predicts it
Value = str | int | float | bool


class Span(NamedTuple):
    """One span, ready to be sent. Times are seconds of the wall's clock."""

    name: str
    kind: str
    trace_id: bytes
    span_id: bytes
    parent_id: bytes  # empty: it has none
    remote: bool  # is its parent somebody else's?
    flags: int
    state: bytes  # tracestate
    began: float
    ended: float
    failed: bool
    attributes: dict[str, Value]


class Sender(Protocol):
    """Who brings spans to the collector (tracing_otlp.py)."""

    @property
    def sent(self) -> int:
        """Spans that the collector took."""

    @property
    def dropped(self) -> int:
        """Spans that were given to `send` and got lost."""

    def send(self, span: Span) -> None:
        """Put it into the next batch; never waits."""

    def close(self) -> None:
        """Send what is there. May take long: `give_up` ends it."""

    def give_up(self) -> None:
        """No more patience; called from another thread."""


# --- spans of a record ---------------------------------------------------------------------------------------


def spans(record: Record, trace: Trace, offset: float, engine_of: Callable[[str], str]) -> Iterator[Span]:
    """The request's own span, then its attempts'. `offset` turns the record's times into those of the wall."""
    operation = _operation(trace.kind, record.path)
    common: dict[str, Value] = {}
    if operation:
        common["gen_ai.operation.name"] = operation
    if record.model:
        common["gen_ai.request.model"] = record.model
    yield Span(
        _server_name(record),
        SERVER,
        trace.trace_id,
        trace.span_id,
        trace.parent_id,
        True,
        trace.flags,
        trace.state,
        record.arrived + offset,
        record.arrived + record.duration + offset,
        record.status >= 500 or record.outcome in (FAILED, ERROR, ABANDONED),
        common | _of_request(record),
    )
    name = f"{operation} {record.model or ''}".rstrip() or record.method or "request"
    for attempt in trace.attempts:
        is_last = attempt.lease is record.lease
        backend = attempt.lease.backend.id
        told = common | _of_attempt(attempt, record if is_last else None)
        engine = engine_of(backend)
        if operation and engine:
            told["gen_ai.provider.name"] = engine
        yield Span(
            name,
            CLIENT,
            trace.trace_id,
            attempt.span_id,
            trace.span_id,
            False,
            trace.flags,
            trace.state,
            attempt.lease.opened_at + offset,
            attempt.ended + offset,
            bool(attempt.error) and attempt.error != "client_gone",
            told,
        )


def _operation(kind: str, path: str) -> str:
    """What is asked for, in the words of the conventions where they have one; "" for what is no generation."""
    if kind == Kind.CHAT:
        return "chat"
    if kind == Kind.COMPLETION:
        return "text_completion"
    if kind == Kind.PROMPT_ONLY:
        last = path.rpartition("/")[2]
        return "embeddings" if last in ("embeddings", "embed") else last
    return ""


def _server_name(record: Record) -> str:
    """Method and path, where the path is one that we know: names are to be few."""
    method = record.method or "HTTP"
    return f"{method} {record.path}" if route_of(record.path.encode("latin-1")) is not None else method


def _of_request(record: Record) -> dict[str, Value]:
    told: dict[str, Value] = {"http.response.status_code": record.status, "fairlead.outcome": record.outcome}
    if record.method:
        told["http.request.method"] = record.method
        told["url.path"] = record.path
        told["network.protocol.version"] = record.protocol.removeprefix("HTTP/").replace("2.0", "2")
    if record.error:
        told["error.type"] = record.error
    if record.request_id:
        told["fairlead.request_id"] = record.request_id
    told["fairlead.retries"] = max(record.tries - 1, 0)
    told["fairlead.stream"] = record.stream
    told["fairlead.config_version"] = record.version
    lease = record.lease
    if lease is not None:
        told["fairlead.backend"] = lease.backend.id
        told |= _of_decision(lease) | _of_usage(record)
        if record.ttft is not None and record.stream:  # that of an answer in one piece tells of its last token
            told["gen_ai.server.time_to_first_token"] = record.ttft
    if record.hedge is not None:
        told["fairlead.hedge"] = record.hedge.outcome
    return told


def _of_attempt(attempt: Attempt, record: Record | None) -> dict[str, Value]:
    """`record` is given for the try that was the request's last."""
    lease = attempt.lease
    told: dict[str, Value] = {
        "server.address": lease.backend.id,
        "fairlead.backend": lease.backend.id,
        "fairlead.attempt": attempt.reason,
    }
    if attempt.status is not None:
        told["http.response.status_code"] = attempt.status
    if attempt.error:
        told["error.type"] = attempt.error
    if attempt.outcome:
        told["fairlead.outcome"] = attempt.outcome
    if attempt.first_byte_at > lease.opened_at and lease.facts.stream:
        told["gen_ai.server.time_to_first_token"] = attempt.first_byte_at - lease.opened_at
    told |= _of_decision(lease)
    if record is not None:
        told["fairlead.outcome"] = record.outcome
        told |= _of_usage(record)
    return told


def _of_decision(lease: Lease) -> dict[str, Value]:
    told: dict[str, Value] = {}
    policy, choice = lease.policy, lease.choice
    if policy is not None:
        told["fairlead.policy"] = policy.name
        if FIRST_TOKEN in policy.term_names and choice.index < len(choice.terms):
            told["fairlead.predicted_ttft"] = choice.terms[choice.index][policy.term_names.index(FIRST_TOKEN)]
    if lease.prompt_tokens:
        told["fairlead.predicted_cached_tokens"] = lease.cached_raw
    return told


def _of_usage(record: Record) -> dict[str, Value]:
    told: dict[str, Value] = {}
    if record.prompt_tokens is not None:
        told["gen_ai.usage.input_tokens"] = record.prompt_tokens
    if record.output_tokens is not None:
        told["gen_ai.usage.output_tokens"] = record.output_tokens
    if record.cached_tokens is not None:
        told["gen_ai.usage.cache_read.input_tokens"] = record.cached_tokens
    return told


# --- the queue and its thread --------------------------------------------------------------------------------


class Tracing:
    """Takes records of finished requests on the loop; a thread makes spans of them."""

    def __init__(self, sender: Sender, clock: Callable[[], float], engine_of: Callable[[str], str]) -> None:
        """`clock` is that of the records' times."""
        self._sender, self._clock, self._engine_of = sender, clock, engine_of
        self._waiting: deque[tuple[Record, Trace]] = deque()
        self._refused = 0  # spans for which there was no room
        self._lost = 0  # spans that could not be made
        self._told = False
        self._thread = Background("tracing", self._make, sender.close, period=PERIOD_SECONDS)
        self._thread.start()

    def __repr__(self) -> str:
        return f"<Tracing {len(self._waiting)} waiting, {self.sent} sent, {self.dropped} dropped>"

    @property
    def sent(self) -> int:
        """Spans that the collector took."""
        return self._sender.sent

    @property
    def dropped(self) -> int:
        """Spans that it should have and has not."""
        return self._refused + self._lost + self._sender.dropped

    def take(self, record: Record) -> None:
        """A request is over. Called on the loop."""
        trace = record.trace
        if trace is None or not trace.sampled:
            return
        if len(self._waiting) >= MAX_WAITING or self._thread.closed:
            self._refused += 1 + len(trace.attempts)
        else:
            self._waiting.append((record, trace))

    def close(self) -> None:
        """Send what was taken; waits at most `CLOSE_SECONDS` for a collector that does not answer."""
        if self._thread.closed or self._thread.close(CLOSE_SECONDS):
            return
        self._sender.give_up()
        self._thread.join(LAST_SECONDS)
        log.warning("tracing: the collector did not take the last spans in time, %d are lost", self.dropped)

    def _make(self) -> bool:
        offset, done = time.time() - self._clock(), 0
        while self._waiting:
            record, trace = self._waiting.popleft()
            try:
                for span in spans(record, trace, offset, self._engine_of):
                    self._sender.send(span)
            except Exception:  # a fault of ours; it must not end the tracing, nor tell itself each time
                self._lost += 1 + len(trace.attempts)
                if not self._told:
                    self._told = True
                    log.exception("tracing: a request could not be told; others are, and this is said once")
            done += 1
            if not done % PIECE:
                self._thread.pause()
        return True
