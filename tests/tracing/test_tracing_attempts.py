"""Each try at a backend is a span of its own: retries, hedges, resumed streams, and what became of them."""

from __future__ import annotations

import pytest

pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="fairlead[otel] is not installed")

from hedge_cases import EAGER, PLAIN, STREAM, Late, both_asked, streaming
from otlp_receiver import receiver
from peers import run, until
from running import CHAT, ask, fleet, raw, reply, reset
from token_engine import options as resuming
from token_engine import speaking, wanting
from tracing_cases import PARENT, TRACE, assert_child, to, told

from fairlead.control import tracing, tracing_otlp
from fairlead.proxy.hedging import Hedging


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "PERIOD_SECONDS", 0.01)
    monkeypatch.setattr(tracing_otlp, "PERIOD_SECONDS", 0.01)


def test_a_retry_is_a_span_of_its_own_under_the_same_request() -> None:
    async def body() -> None:
        async with receiver() as collector, fleet(2, **to(collector)) as f:
            f.play.scripts = [reply(b"{}", "503 Service Unavailable"), reply()]
            assert (await f.get(ask("n"))).status == 200
            server, (first, second) = await collector.tree(2)
            assert (first.reason, first.failed, first.told["http.response.status_code"]) == ("first", True, 503)
            assert first.told["error.type"] == "503"
            assert (second.reason, second.failed, second.told["http.response.status_code"]) == ("retry", False, 200)
            assert (server.failed, server.told["fairlead.retries"]) == (False, 1)
            for seen, span in zip(f.seen, (first, second), strict=True):
                assert_child(seen, span)
            assert first.told["fairlead.backend"] != second.told["fairlead.backend"]

    run(body)


def test_tries_that_never_reached_a_backend_are_spans_as_well() -> None:
    async def body() -> None:
        async with receiver() as collector, fleet(2, **to(collector)) as f:
            for engine in f.engines:
                await engine.refuse()
            f.unseen_tries = 2
            assert (await f.get(ask("n"))).status == 503
            server, attempts = await collector.tree(2)
            assert [span.told["error.type"] for span in attempts] == ["connect", "connect"]
            assert all(span.failed and "http.response.status_code" not in span.told for span in attempts)
            assert (server.failed, server.told["http.response.status_code"]) == (True, 503)
            assert server.told["fairlead.outcome"] == "refused"

    run(body)


def test_a_broken_stream_is_told_as_one() -> None:
    async def body() -> None:
        begun = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nX-Nonce: %NONCE\r\n\r\n"
        async with receiver() as collector, fleet(1, **to(collector)) as f:
            f.play.scripts = [raw(begun + b"data: {}\n\nda", close=True)]
            client = await f.dial()
            await client.send(ask("n", body=STREAM))
            await client.end()
            server, (attempt,) = await collector.tree(1)
            assert server.told["fairlead.outcome"] == attempt.told["fairlead.outcome"]
            assert server.told.get("error.type") == attempt.told.get("error.type")
            assert attempt.told["http.response.status_code"] == 200

    run(body)


def test_a_hedge_that_wins_and_the_first_that_loses_are_two_spans() -> None:
    async def body() -> None:
        slow = Late()
        async with receiver() as collector, fleet(2, **EAGER, **to(collector)) as f:
            f.play.scripts = [slow, streaming()]
            await f.get(ask("n", body=STREAM))
            await slow.closed()
            server, (first, hedge) = await collector.tree(2)
            assert (first.reason, first.told["fairlead.outcome"], first.failed) == ("first", "lost", False)
            assert (hedge.reason, hedge.told["fairlead.outcome"]) == ("hedge", "ok")
            assert server.told["fairlead.hedge"] == "won"
            assert_child(f.seen[0], first)
            assert_child(f.seen[1], hedge)
            assert hedge.told["gen_ai.server.time_to_first_token"] < server.told["gen_ai.server.time_to_first_token"]

    run(body)


def test_a_hedge_that_loses_ends_when_the_first_answers() -> None:
    async def body() -> None:
        first, second = Late(), Late()
        async with receiver() as collector, fleet(2, **EAGER, **to(collector)) as f:
            f.play.scripts = [first, second]
            client = await f.dial()
            await client.send(ask("n", body=PLAIN))
            await both_asked(first, second)
            first.go.set()
            await client.answer()
            await second.closed()
            _, (won, lost) = await collector.tree(2)
            assert (won.reason, won.told["fairlead.outcome"]) == ("first", "ok")
            assert (lost.reason, lost.told["fairlead.outcome"], lost.failed) == ("hedge", "lost", False)
            assert "http.response.status_code" not in lost.told

    run(body)


def test_a_hedge_that_we_could_not_send_ends_with_the_reason() -> None:
    async def body() -> None:
        first, second = Late(), Late()
        async with receiver() as collector, fleet(2, **EAGER, **to(collector)) as f:
            f.play.scripts = [first, second]
            client = await f.dial()
            await client.send(ask("n", body=PLAIN))
            await both_asked(first, second)
            (exchange,) = f.app.service.exchanges
            assert isinstance(exchange, Hedging)
            exchange.side_failed("connect", "descriptors", broke=False)
            await second.closed()
            first.go.set()
            await client.answer()
            _, (answered, failed) = await collector.tree(2)
            assert answered.told["fairlead.outcome"] == "ok"
            assert (failed.reason, failed.told["error.type"], failed.failed) == ("hedge", "descriptors", True)
            assert failed.seconds < answered.seconds

    run(body)


def test_a_stream_that_goes_on_elsewhere_has_a_span_for_each_engine() -> None:
    async def body() -> None:
        async with receiver() as collector, fleet(2, **resuming(), **to(collector)) as f:
            f.play.scripts = [speaking(3), speaking(id="second")]
            await f.get(wanting(CHAT))
            server, (first, second) = await collector.tree(2)
            assert (first.reason, first.failed) == ("first", True)
            assert (second.reason, second.failed) == ("resume", False)
            assert_child(f.seen[0], first)
            assert_child(f.seen[1], second)
            assert server.told["fairlead.retries"] == 1 and not server.failed

    run(body)


def test_a_client_that_left_is_no_failure_of_ours() -> None:
    async def body() -> None:
        slow = Late()
        async with receiver() as collector, fleet(1, **to(collector)) as f:
            f.play.scripts = [slow]
            client = await f.dial()
            await client.send(ask("n"))
            await until(slow.asked.is_set)
            client.transport.abort()
            server, (attempt,) = await collector.tree(1)
            assert (server.told["http.response.status_code"], server.told["error.type"]) == (499, "client_gone")
            assert not server.failed and not attempt.failed

    run(body)


def test_a_kept_connection_that_had_been_closed_is_no_second_try() -> None:
    async def body() -> None:
        async with receiver() as collector, fleet(1, **to(collector, sample=0)) as f:
            f.play.scripts = [reply(), reset, reply()]
            await f.get(ask("a"))
            f.resent = 1
            assert (await f.get(ask("b", fields=f"traceparent: {PARENT}\r\n"))).status == 200
            _, (attempt,) = await collector.tree(1)
            assert [told(seen) for seen in f.seen[1:]] == [(TRACE, attempt.span_id, "01")] * 2

    run(body)
