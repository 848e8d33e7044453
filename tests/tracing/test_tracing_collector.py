"""A collector that is slow, gone or full costs spans, which are counted, and nothing else."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
import time
from typing import Any

import pytest

pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="fairlead[otel] is not installed")

from control_records import make_balancer, place, record
from opentelemetry.sdk.trace.export import SpanExportResult
from otlp_receiver import receiver
from peers import run, until
from running import ask, fleet

from fairlead.control import tracing, tracing_otlp
from fairlead.control.tracing import Span, Tracing
from fairlead.control.tracing_otlp import Otlp
from fairlead.proxy.record import Record
from fairlead.proxy.trace import FIRST, Tracer
from fairlead.wire.http1 import parse_request

HEAD = parse_request(b"POST / HTTP/1.1\r\nHost: h", 100)


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "PERIOD_SECONDS", 0.01)
    monkeypatch.setattr(tracing_otlp, "PERIOD_SECONDS", 0.01)


def dead() -> str:
    """Where nobody listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{sock.getsockname()[1]}"


def traced(sample: float = 1.0) -> Record:
    """A finished request with one try."""
    lease = place(make_balancer("a"), model="m")
    trace = Tracer(sample).begin(HEAD)
    assert trace is not None
    trace.asks(lease, FIRST)
    made = record(lease=lease, trace=trace)
    for attempt in trace.attempts:
        attempt.ended = made.arrived + made.duration
    return made


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.getMessage() for each in caplog.records if each.getMessage().startswith("tracing")]


class Shown(logging.Handler):
    """What reaches those who read the log."""

    def __init__(self, records: list[logging.LogRecord]) -> None:
        super().__init__()
        self._records = records

    def emit(self, record: logging.LogRecord) -> None:
        self._records.append(record)


def test_a_collector_that_is_gone_costs_one_line_and_one_more_when_it_is_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def body() -> None:
        async with receiver() as collector, fleet(1, tracing=collector.url) as f:
            assert f.app.tracing is not None
            collector.status = 400  # nobody tries again after that
            for number in range(3):
                assert (await f.get(ask(f"n{number}"))).status == 200
                lost = 2 * (number + 1)
                await until(lambda lost=lost: f.app.tracing.dropped == lost, "the spans are counted")  # type: ignore[misc]
            assert len(lines(caplog)) == 1, caplog.text
            assert f"{collector.url}/v1/traces takes no spans" in lines(caplog)[0]
            collector.status = 200
            for number in range(3, 6):
                await f.get(ask(f"n{number}"))
                count = 2 * (number - 2)
                await until(lambda count=count: f.app.tracing.sent == count)  # type: ignore[misc]
            assert lines(caplog)[1:] == [f"tracing: {collector.url}/v1/traces takes spans again"]

    caplog.set_level(logging.INFO)
    shown: list[logging.LogRecord] = []
    handler = Shown(shown)
    logging.getLogger().addHandler(handler)  # as the program has it; caplog listens to silent loggers as well
    try:
        run(body)
    finally:
        logging.getLogger().removeHandler(handler)
    assert shown
    assert not [each for each in shown if each.name.startswith("opentelemetry")]


def test_requests_do_not_wait_for_a_collector_that_never_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing_otlp, "EXPORT_SECONDS", 0.2)

    async def body() -> None:
        def hush(made: Any) -> None:
            made.silent = asyncio.Event()

        async with receiver(hush) as collector, fleet(1, tracing=collector.url) as f:
            for number in range(20):
                assert (await f.get(ask(f"n{number}"))).status == 200
            await until(lambda: bool(collector.raw), "it was asked")

    run(body)


def test_spans_that_find_no_room_are_dropped_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stuck:
        sent = dropped = 0

        def __init__(self) -> None:
            self.go, self.reached = threading.Event(), threading.Event()
            self.spans: list[Span] = []

        def send(self, span: Span) -> None:
            self.reached.set()
            self.go.wait(10.0)
            self.spans.append(span)

        def close(self) -> None: ...
        def give_up(self) -> None: ...

    monkeypatch.setattr(tracing, "MAX_WAITING", 5)
    sender = Stuck()
    made = Tracing(sender, lambda: 0.0, lambda backend: "")
    made.take(traced())
    assert sender.reached.wait(10.0)
    for _ in range(7):
        made.take(traced())
    assert made.dropped == 2 * 2
    sender.go.set()
    made.close()
    assert len(sender.spans) == 2 * 6
    made.take(traced())
    assert made.dropped == 2 * 3, "after the end as well"


def test_what_waits_for_the_collector_is_bounded_and_the_rest_counted(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tracing_otlp, "MAX_WAITING", 8)
    monkeypatch.setattr(tracing_otlp, "MAX_BATCH", 4)
    monkeypatch.setattr(tracing_otlp, "PERIOD_SECONDS", 3600.0)
    monkeypatch.setattr(tracing_otlp, "EXPORT_SECONDS", 0.05)
    sender = Otlp(dead(), {}, "fairlead")
    made = traced()
    assert made.trace is not None
    count = 0
    for _ in range(200):
        for span in tracing.spans(made, made.trace, 0.0, lambda backend: ""):
            sender.send(span)
            count += 1
    sender.close()
    assert sender.sent == 0
    assert sender.dropped == count, "each of them"
    assert len(lines(caplog)) == 1
    sender.give_up()


def test_a_fault_of_ours_costs_one_request_and_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    class Kept:
        sent = dropped = 0

        def __init__(self) -> None:
            self.spans: list[Span] = []

        def send(self, span: Span) -> None:
            self.spans.append(span)

        def close(self) -> None: ...
        def give_up(self) -> None: ...

    sender = Kept()
    made = Tracing(sender, lambda: 0.0, lambda backend: "")
    broken = traced()
    broken.path = None  # type: ignore[assignment]
    for each in (broken, traced(), broken, traced()):
        made.take(each)
    made.close()
    assert len(sender.spans) == 4
    assert made.dropped == 4
    assert len(lines(caplog)) == 1


def test_while_a_batch_is_on_its_way_no_more_than_the_limit_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing_otlp, "MAX_WAITING", 8)
    monkeypatch.setattr(tracing_otlp, "MAX_BATCH", 4)
    sender = Otlp(dead(), {}, "fairlead")
    reached, go = threading.Event(), threading.Event()

    def export(spans: Any) -> Any:
        reached.set()
        go.wait(10.0)
        return SpanExportResult.SUCCESS

    monkeypatch.setattr(sender._exporter._inner, "export", export)
    made = traced()
    assert made.trace is not None
    pair = list(tracing.spans(made, made.trace, 0.0, lambda backend: ""))
    for span in (*pair, *pair):
        sender.send(span)
    assert reached.wait(10.0)
    on_the_way = sender._exporter.taken
    for _ in range(10):
        for span in pair:
            sender.send(span)
    assert sender.dropped == 4 + 20 - on_the_way - 8
    go.set()
    sender.close()
    assert sender.sent == on_the_way + 8


def test_requests_that_are_not_kept_cost_no_span() -> None:
    class Nobody:
        sent = dropped = 0

        def send(self, span: Span) -> None:
            raise AssertionError("a span was made")

        def close(self) -> None: ...
        def give_up(self) -> None: ...

    made = Tracing(Nobody(), lambda: 0.0, lambda backend: "")
    unkept = traced(sample=0.0)
    assert unkept.trace is not None and not unkept.trace.attempts
    made.take(unkept)
    made.take(record())
    made.close()
    assert made.dropped == 0


def test_a_stop_sends_what_is_there() -> None:
    async def body() -> None:
        async with receiver() as collector:
            async with fleet(1, tracing=collector.url) as f:
                for number in range(5):
                    await f.get(ask(f"n{number}"))
            assert len(collector.spans) == 10
            assert f.app.tracing is not None
            assert (f.app.tracing.sent, f.app.tracing.dropped) == (10, 0)

    slow = pytest.MonkeyPatch()
    slow.setattr(tracing_otlp, "PERIOD_SECONDS", 3600.0)
    slow.setattr(tracing, "PERIOD_SECONDS", 3600.0)
    try:
        run(body)
    finally:
        slow.undo()


def test_a_stop_does_not_wait_longer_than_it_may(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The collector takes the connection and says nothing; a batch may take an hour."""
    monkeypatch.setattr(tracing, "CLOSE_SECONDS", 0.2)
    monkeypatch.setattr(tracing, "LAST_SECONDS", 0.1)
    monkeypatch.setattr(tracing_otlp, "EXPORT_SECONDS", 3600.0)
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        made = Tracing(Otlp(f"http://127.0.0.1:{sock.getsockname()[1]}", {}, "fairlead"), time.monotonic, lambda _: "")
        made.take(traced())
        made.close()  # comes back: else this test ends by its limit of time
        assert "did not take the last spans in time, 2 are lost" in caplog.text
        assert (made.sent, made.dropped) == (0, 2)


def test_the_metrics_tell_what_became_of_spans() -> None:
    async def body() -> None:
        async with receiver() as collector, fleet(1, tracing=collector.url) as f:
            await f.get(ask("n"))
            await collector.tree(1)
            await until(lambda: f.app.tracing is not None and f.app.tracing.sent == 2)
            page = f.app.page.render().decode()
            assert "\nfairlead_spans_total 2.0\n" in page
            assert "\nfairlead_spans_dropped_total 0.0\n" in page
        async with fleet(1) as f:
            assert "fairlead_spans" not in f.app.page.render().decode()

    run(body)
