"""One span per request and one per try at a backend; and engines are told whose children they are."""

from __future__ import annotations

import json
from typing import Any

import pytest

pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="fairlead[otel] is not installed")

from hedge_cases import STREAM
from http2_peer import dial2, head
from otlp_receiver import receiver
from peers import dial, run
from running import CHAT, ask, fleet, reply, stream
from tracing_cases import PARENT, SPAN, TRACE, assert_child, to, told

from fairlead import __version__
from fairlead.control import tracing, tracing_otlp

USAGE = (
    b'{"choices":[],"usage":{"prompt_tokens":30,"completion_tokens":7,"prompt_tokens_details":{"cached_tokens":16}}}'
)


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "PERIOD_SECONDS", 0.01)
    monkeypatch.setattr(tracing_otlp, "PERIOD_SECONDS", 0.01)


def test_a_request_is_a_span_with_one_for_its_try_and_the_engine_is_their_child() -> None:
    async def body() -> None:
        async with receiver() as collector, fleet(1, named=True, **to(collector, service_name="front")) as f:
            f.play.scripts = [reply(USAGE)]
            answer = await f.get(ask("n", fields=f"Traceparent: {PARENT}\r\nTracestate: a=1, b=2\r\n"))
            assert answer.status == 200
            server, (attempt,) = await collector.tree(1)
            assert (server.name, attempt.name) == (f"POST {CHAT}", "chat m")
            assert (server.trace_id, server.parent_id, server.state) == (TRACE, SPAN, "a=1,b=2")
            assert_child(f.seen[0], attempt)
            assert f.seen[0].field("tracestate") == "a=1,b=2"
            assert server.told == {
                "gen_ai.operation.name": "chat",
                "gen_ai.request.model": "m",
                "http.response.status_code": 200,
                "http.request.method": "POST",
                "url.path": CHAT,
                "network.protocol.version": "1.1",
                "gen_ai.usage.input_tokens": 30,
                "gen_ai.usage.output_tokens": 7,
                "gen_ai.usage.cache_read.input_tokens": 16,
                "fairlead.outcome": "ok",
                "fairlead.request_id": answer.field("x-request-id"),
                "fairlead.retries": 0,
                "fairlead.stream": False,
                "fairlead.config_version": 1,
                "fairlead.backend": "engine0",
                "fairlead.policy": "round_robin",
                "fairlead.predicted_cached_tokens": 0,
            }
            assert attempt.told == {
                "gen_ai.operation.name": "chat",
                "gen_ai.request.model": "m",
                "gen_ai.provider.name": "generic",
                "server.address": "engine0",
                "http.response.status_code": 200,
                "gen_ai.usage.input_tokens": 30,
                "gen_ai.usage.output_tokens": 7,
                "gen_ai.usage.cache_read.input_tokens": 16,
                "fairlead.outcome": "ok",
                "fairlead.attempt": "first",
                "fairlead.backend": "engine0",
                "fairlead.policy": "round_robin",
                "fairlead.predicted_cached_tokens": 0,
            }
            assert 0.0 < attempt.seconds <= server.seconds
            assert (server.failed, attempt.failed) == (False, False)
            about = server.resource
            assert (about["service.name"], about["service.version"]) == ("front", __version__)
            assert collector.paths == ["/v1/traces"] * len(collector.paths)

    run(body)


def test_what_the_policy_predicted_is_told() -> None:
    async def body() -> None:
        async with receiver() as collector, fleet(2, policy="expected_completion", **to(collector)) as f:
            f.play.scripts = [stream()]
            await f.get(ask("n", body=STREAM))
            server, (attempt,) = await collector.tree(1)
            assert 0.0 < attempt.told["gen_ai.server.time_to_first_token"] <= attempt.seconds
            assert attempt.told["fairlead.predicted_ttft"] > 0.0
            assert attempt.told["fairlead.policy"] == server.told["fairlead.policy"] == "expected_completion"
            assert server.told["fairlead.stream"] is True
            counted = (await f.logged(1))[0]["output_tokens"]  # by us, as the engine told nothing
            assert server.told["gen_ai.usage.output_tokens"] == counted > 0

    run(body)


def test_a_trace_begins_here_when_the_client_has_none_or_none_that_is_valid() -> None:
    async def body() -> None:
        async with receiver() as collector, fleet(1, **to(collector)) as f:
            await f.get(ask("n", fields=f"traceparent: 00-{TRACE}-{'0' * 16}-01\r\ntracestate: a=1\r\n"))
            server, (attempt,) = await collector.tree(1)
            assert server.trace_id != TRACE and server.parent_id == "" and server.state == ""
            assert_child(f.seen[0], attempt)
            assert f.seen[0].field("tracestate") is None

    run(body)


@pytest.mark.parametrize("version", ["cc-extra", "fe"])
def test_a_later_version_is_taken_up_and_passed_on_as_ours(version: str) -> None:
    async def body() -> None:
        number, _, extra = version.partition("-")
        value = f"{number}{PARENT[2:]}{'-' + extra if extra else ''}"
        async with receiver() as collector, fleet(1, **to(collector)) as f:
            await f.get(ask("n", fields=f"traceparent: {value}\r\n"))
            server, (attempt,) = await collector.tree(1)
            assert (server.trace_id, server.parent_id) == (TRACE, SPAN)
            assert_child(f.seen[0], attempt)

    run(body)


def test_a_client_that_keeps_no_trace_is_passed_on_as_it_came() -> None:
    async def body() -> None:
        value = f"00-{TRACE}-{SPAN}-00"
        async with receiver() as collector, fleet(1, **to(collector)) as f:
            await f.get(ask("n", fields=f"traceparent: {value}\r\ntracestate: A=what,we=do not read\r\n"))
            assert [v for k, v in f.seen[0].fields if k.startswith("trace")] == [value, "A=what,we=do not read"]
            await f.get(ask("o", fields=f"traceparent: {PARENT}\r\n"))
            server, _ = await collector.tree(1)  # of the second
            assert server.trace_id == TRACE and server.parent_id == SPAN

    run(body)


def test_a_request_that_is_left_out_of_the_share_tells_the_engine_so() -> None:
    async def body() -> None:
        async with receiver() as collector, fleet(1, **to(collector, sample=0)) as f:
            await f.get(ask("n"))
            assert told(f.seen[0])[2] == "00"
            await f.get(ask("o", fields=f"traceparent: {PARENT}\r\n"))
            _, (attempt,) = await collector.tree(1)
            assert_child(f.seen[1], attempt)

    run(body)


def test_without_tracing_what_the_client_said_goes_through_untouched() -> None:
    async def body() -> None:
        async with fleet(1) as f:
            await f.get(ask("n", fields="Traceparent: what ever\r\nTracestate: A\r\nTracestate: B\r\n"))
            await f.get(ask("o"))
            assert [v for k, v in f.seen[0].fields if k.startswith("trace")] == ["what ever", "A", "B"]
            assert f.seen[1].field("traceparent") is None

    run(body)


def test_a_request_that_is_refused_at_the_door_has_a_span_and_no_try() -> None:
    async def body() -> None:
        async with receiver() as collector, fleet(1, **to(collector)) as f:
            answer = await f.get(ask("n", body=b"{not json", fields=f"traceparent: {PARENT}\r\n"))
            assert answer.status == 400
            server, _ = await collector.tree(0)
            assert (server.trace_id, server.parent_id) == (TRACE, SPAN)
            assert server.told["http.response.status_code"] == 400
            assert server.told["error.type"] == "bad_body" and not server.failed

    run(body)


def test_names_of_spans_do_not_grow_with_what_clients_ask_for() -> None:
    async def body() -> None:
        async with receiver() as collector, fleet(1, **to(collector)) as f:
            await f.get(ask("n", target="/some/where?key=secret", method="GET", body=b""), "GET")
            server, (attempt,) = await collector.tree(1)
            assert (server.name, attempt.name) == ("GET", "GET")
            assert server.told["url.path"] == "/some/where"
            assert not any(name.startswith("gen_ai") for name in (*server.told, *attempt.told))

    run(body)


def test_over_http2_a_stream_is_traced_as_a_request() -> None:
    async def body() -> None:
        async with receiver() as collector, fleet(1, **to(collector)) as f:
            client = await dial2(f.address)
            fields = [(b"content-type", b"application/json"), (b"traceparent", PARENT.encode()), (b"x-nonce", b"n")]
            id = client.begin(head(b"POST", CHAT.encode(), *fields))
            client.send(id, STREAM, end=True)
            assert (await client.answer(id)).status == 200
            server, (attempt,) = await collector.tree(1)
            assert (server.trace_id, server.parent_id) == (TRACE, SPAN)
            assert server.told["network.protocol.version"] == "2"
            assert_child(f.seen[0], attempt)
            client.close()

    run(body)


def test_headers_that_are_dropped_for_backends_are_dropped_and_ours_are_not() -> None:
    async def body() -> None:
        drop: dict[str, Any] = {"headers": {"remove": ["traceparent", "x-secret"]}}
        async with receiver() as collector, fleet(1, **drop, **to(collector)) as f:
            await f.get(ask("n", fields=f"X-Secret: 1\r\nTraceparent: {PARENT}\r\nX-Other: 2\r\n"))
            _, (attempt,) = await collector.tree(1)
            assert_child(f.seen[0], attempt)
            assert (f.seen[0].field("x-secret"), f.seen[0].field("x-other")) == (None, "2")

    run(body)


def test_prompts_keys_queries_and_addresses_are_never_in_spans() -> None:
    async def body() -> None:
        async with receiver() as collector, fleet(1, named=True, **to(collector)) as f:
            f.play.scripts = [reply(b'{"choices":[{"message":{"content":"sesame-answer"}}]}')]
            fields = "Authorization: Bearer sesame-key\r\nCookie: a=sesame-cookie\r\nBaggage: user=sesame\r\n"
            prompt = b'{"model":"m","messages":[{"role":"user","content":"sesame-prompt"}],"user":"sesame-user"}'
            await f.get(ask("n", target=f"{CHAT}?key=sesame-query", body=prompt, fields=fields))
            await collector.tree(1)
            assert b"sesame" not in collector.raw
            assert b"127.0.0.1" not in collector.raw

    run(body)


def test_the_collector_is_shown_its_headers_and_they_are_told_to_nobody_else() -> None:
    async def body() -> None:
        key = "Bearer sesame"
        async with receiver() as collector, fleet(1, **to(collector, headers=[f"Authorization: {key}"])) as f:
            await f.get(ask("n"))
            await collector.tree(1)
            assert collector.headers[0]["authorization"] == key
            assert "sesame" not in repr(f.seen[0].fields)
            admin = await dial(f.admin)
            await admin.send(b"GET /api/config HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
            shown = json.loads((await admin.answer("GET")).body)["tracing"]
            admin.transport.abort()
            assert shown["headers"] == ["Authorization: (not shown)"]

    run(body)


def test_a_path_of_the_endpoint_is_asked_as_it_stands() -> None:
    async def body() -> None:
        async with receiver() as collector:
            async with fleet(1, tracing=f"{collector.url}/otlp/v1/traces") as f:
                await f.get(ask("n"))
                await collector.tree(1)
            assert set(collector.paths) == {"/otlp/v1/traces"}

    run(body)


@pytest.mark.parametrize("model", ["a\nb", "a\x00b", 'a"b', "ä€😀", "\u2028\u202e", "x" * 512], ids=ascii)
def test_a_hostile_name_of_a_model_arrives_as_it_is_and_breaks_no_batch(model: str) -> None:
    async def body() -> None:
        async with receiver() as collector, fleet(1, backend={"models": ["*"]}, **to(collector)) as f:
            await f.get(ask("n", body=json.dumps({"model": model, "messages": []}).encode()))
            server, _ = await collector.tree(len(f.seen))
            assert server.told["gen_ai.request.model"] == model

    run(body)
