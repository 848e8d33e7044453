"""The server: vLLM's shapes over loopback, seen by plain HTTP and by the OpenAI and Anthropic SDKs."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import anthropic
import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families

from fairlead.emulator.faults import BadFault, FaultValues
from fairlead.emulator.fleet import EmulatedFleet, PortInUse
from fairlead.emulator.server import EmulatedServer

HELLO: list[Any] = [{"role": "user", "content": "Say something about fairleads. " * 20}]


@asynccontextmanager
async def one_engine(**options: Any) -> AsyncIterator[tuple[EmulatedServer, aiohttp.ClientSession]]:
    options = {"speed": 50, "model": "m", **options}
    async with EmulatedFleet([options.pop("profile", "h100-8b")], **options) as fleet:
        async with aiohttp.ClientSession(fleet.urls[0], timeout=aiohttp.ClientTimeout(20)) as session:
            yield fleet[0], session


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(30):
            await test()

    asyncio.run(bounded())


async def until(condition: Callable[[], bool], seconds: float = 5) -> None:
    """Poll, with a deadline."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the state did not come"
        await asyncio.sleep(0.002)


async def events_of(response: aiohttp.ClientResponse) -> list[str]:
    assert response.status == 200
    assert response.headers["Content-Type"].startswith("text/event-stream")
    text = (await response.read()).decode()
    assert text.endswith("\n\n")
    return text[:-2].split("\n\n")


def test_a_chat_stream_has_a_role_chunk_a_chunk_per_token_usage_and_done() -> None:
    async def body() -> None:
        async with one_engine() as (_, session):
            ask = {"model": "m", "messages": HELLO, "max_tokens": 5, "stream": True}
            ask["stream_options"] = {"include_usage": True}
            async with session.post("/v1/chat/completions", json=ask, headers={"X-Request-Id": "abc"}) as response:
                events = await events_of(response)
            assert events[-1] == "data: [DONE]"
            chunks = [json.loads(event.removeprefix("data: ")) for event in events[:-1]]
            assert {chunk["id"] for chunk in chunks} == {"chatcmpl-abc"}
            assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
            assert [chunk["choices"][0]["finish_reason"] for chunk in chunks[:-1]] == [None] * 5 + ["length"]
            assert all(len(chunk["choices"][0]["delta"]["content"]) == 4 for chunk in chunks[1:-1])
            assert chunks[-1]["choices"] == []
            usage = chunks[-1]["usage"]
            assert usage["completion_tokens"] == 5
            assert usage["total_tokens"] == usage["prompt_tokens"] + 5
            assert usage["prompt_tokens_details"] == {"cached_tokens": 0}

            del ask["stream_options"], ask["stream"]
            async with session.post("/v1/chat/completions", json=ask) as response:
                whole = await response.json()
            said = "".join(chunk["choices"][0]["delta"]["content"] for chunk in chunks[:-1])
            assert whole["choices"][0]["message"] == {"role": "assistant", "content": said}
            cached = whole["usage"]["prompt_tokens_details"]["cached_tokens"]
            assert cached == (usage["prompt_tokens"] - 1) // 16 * 16

    run(body)


def test_the_next_turn_finds_prompt_and_answer_of_the_one_before_in_the_cache() -> None:
    async def body() -> None:
        async with one_engine() as (_, session):
            ask: dict[str, Any] = {"messages": HELLO, "max_tokens": 64}
            async with session.post("/v1/chat/completions", json=ask) as response:
                first = await response.json()
            ask["messages"] = [*HELLO, first["choices"][0]["message"], {"role": "user", "content": "And then? " * 9}]
            async with session.post("/v1/chat/completions", json=ask) as response:
                usage = (await response.json())["usage"]
            assert usage["prompt_tokens_details"]["cached_tokens"] >= first["usage"]["total_tokens"] - 17
            async with session.post("/reset_prefix_cache") as response:
                assert response.status == 200
            async with session.post("/v1/chat/completions", json=ask) as response:
                usage = (await response.json())["usage"]
            assert usage["prompt_tokens_details"]["cached_tokens"] == 0
            async with session.post("/v1/chat/completions", json={**ask, "cache_salt": "other"}) as response:
                usage = (await response.json())["usage"]
            assert usage["prompt_tokens_details"]["cached_tokens"] == 0

    run(body)


def test_the_openai_sdk_is_content() -> None:
    async def body() -> None:
        async with one_engine(mean_output=30) as (server, _):
            client = openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
            async with client:
                assert [model.id async for model in client.models.list()] == ["m"]
                chat = await client.chat.completions.create(model="m", messages=HELLO)
                assert chat.choices[0].finish_reason == "stop" and chat.usage is not None
                assert len(chat.choices[0].message.content or "") == 4 * chat.usage.completion_tokens
                stream = await client.chat.completions.create(
                    model="m",
                    messages=HELLO,
                    stream=True,
                    n=2,
                )
                texts = {0: "", 1: ""}
                async for chunk in stream:
                    for choice in chunk.choices:
                        texts[choice.index] += choice.delta.content or ""
                assert texts[0] == chat.choices[0].message.content != texts[1]
                for prompt, count in (("a b c", 1), (["a", "b"], 2), ([1, 2, 3], 1), ([[1], [2, 3]], 2)):
                    completion = await client.completions.create(model="m", prompt=prompt, max_tokens=2)
                    assert [choice.index for choice in completion.choices] == list(range(count))
                    assert all(len(choice.text) == 8 for choice in completion.choices)
                    assert completion.usage is not None and completion.usage.completion_tokens == 2 * count
                vectors = await client.embeddings.create(model="m", input=["a", "b", "a"], dimensions=8)
                one, two, three = (item.embedding for item in vectors.data)
                assert len(one) == 8 and one == three != two
                with pytest.raises(openai.NotFoundError) as missing:
                    await client.chat.completions.create(model="other", messages=HELLO)
                assert missing.value.type == "NotFoundError"
                with pytest.raises(openai.BadRequestError) as long:
                    await client.completions.create(model="m", prompt="x" * 4 * 131_072, stream=True)
                assert (long.value.type, long.value.param) == ("BadRequestError", "input_tokens")
                with pytest.raises(openai.BadRequestError) as much:
                    await client.completions.create(model="m", prompt="x", max_tokens=131_072)
                assert much.value.param == "max_tokens"

    run(body)


def test_the_anthropic_sdk_is_content() -> None:
    async def body() -> None:
        async with one_engine() as (server, session):
            client = anthropic.AsyncAnthropic(base_url=server.url, api_key="none", max_retries=0)
            async with client:
                said = await client.messages.create(model="m", max_tokens=7, messages=HELLO, system="Be brief.")
                assert said.stop_reason == "max_tokens" and said.usage.output_tokens == 7
                async with client.messages.stream(
                    model="m", max_tokens=7, messages=HELLO, system="Be brief."
                ) as stream:
                    text = await stream.get_final_text()
                    final = await stream.get_final_message()
                assert final.usage.output_tokens == 7
                assert said.content[0].type == "text" and said.content[0].text == text
                with pytest.raises(anthropic.NotFoundError):
                    await client.messages.create(model="other", max_tokens=7, messages=HELLO)
            ask = {"max_tokens": 1, "messages": HELLO, "stream": True}
            async with session.post("/v1/messages", json=ask) as response:
                events = await events_of(response)
            assert [event.split("\n")[0].removeprefix("event: ") for event in events] == [
                "message_start",
                "content_block_start",
                "content_block_delta",
                "content_block_stop",
                "message_delta",
                "message_stop",
            ]
            async with session.post("/v1/messages/count_tokens", json={"messages": HELLO}) as response:
                assert (await response.json())["input_tokens"] == json.loads(events[0].split("data: ")[1])["message"][
                    "usage"
                ]["input_tokens"]

    run(body)


@pytest.mark.parametrize(
    ("path", "sent"),
    [
        ("/v1/chat/completions", "no json"),
        ("/v1/chat/completions", '{"messages": 3}'),
        ("/v1/chat/completions", '{"messages": []}'),
        ("/v1/chat/completions", '{"messages": [{"role": "user", "content": "a"}], "max_tokens": 0}'),
        ("/v1/completions", '{"prompt": {}}'),
        ("/v1/completions", '{"prompt": []}'),
        ("/v1/completions", '{"prompt": [1, "a"]}'),
        ("/v1/completions", '{"prompt": "a", "n": 0}'),
        ("/v1/embeddings", '{"input": "a", "encoding_format": "hex"}'),
        ("/v1/messages", '{"messages": [{"role": "user", "content": "a"}]}'),
        ("/tokenize", "{}"),
        ("/detokenize", '{"tokens": "a"}'),
    ],
)
def test_what_cannot_be_understood_is_a_400(path: str, sent: str) -> None:
    async def body() -> None:
        async with one_engine() as (server, session):
            async with session.post(path, data=sent) as response:
                assert response.status == 400
                assert (await response.json())["error"]["message"]
            assert server.engine.counters.submitted == 0

    run(body)


def test_the_small_routes() -> None:
    async def body() -> None:
        async with one_engine(profile="l4-8b") as (_, session):
            async with session.get("/health") as response:
                assert (response.status, await response.read()) == (200, b"")
            async with session.get("/version") as response:
                assert (await response.json())["version"].startswith("0.32")
            async with session.get("/v1/models") as response:
                model = (await response.json())["data"][0]
            assert (model["id"], model["owned_by"], model["max_model_len"]) == ("m", "vllm", 38_912)
            async with session.post("/tokenize", json={"prompt": "Grüße!"}) as response:
                tokens = await response.json()
            assert tokens["count"] == 2 == len(tokens["tokens"])
            async with session.post("/detokenize", json={"tokens": tokens["tokens"]}) as response:
                assert await response.json() == {"prompt": "Grüße!"}
            async with session.post("/tokenize", json={"messages": HELLO}) as response:
                count = (await response.json())["count"]
            async with session.post("/v1/chat/completions", json={"messages": HELLO, "max_tokens": 1}) as response:
                assert (await response.json())["usage"]["prompt_tokens"] == count

    run(body)


def test_metrics_have_vllms_names_and_count_what_happened() -> None:
    async def body() -> None:
        async with one_engine(model='m"x') as (_, session):
            for limit in ({"max_tokens": 3}, {}):
                async with session.post("/v1/completions", json={"prompt": "x" * 400, **limit}) as response:
                    made = (await response.json())["usage"]["completion_tokens"] + 3 * (not limit)
            async with session.get("/metrics") as response:
                page = await response.text()
            samples = {}
            for family in text_string_to_metric_families(page):
                for sample in family.samples:
                    assert sample.labels.get("engine") == "0"
                    samples[sample.name, sample.labels.get("finished_reason") or sample.labels.get("le")] = sample
            assert samples["vllm:prompt_tokens_total", None].value == 200
            assert samples["vllm:prompt_tokens_total", None].labels["model_name"] == 'm"x'
            assert samples["vllm:prefix_cache_queries_total", None].value == 200
            assert samples["vllm:prefix_cache_hits_total", None].value == 96
            assert samples["vllm:generation_tokens_total", None].value == made
            assert samples["vllm:request_success_total", "stop"].value == 1
            assert samples["vllm:request_success_total", "length"].value == 1
            assert samples["vllm:time_to_first_token_seconds_count", None].value == 2
            assert samples["vllm:time_to_first_token_seconds_bucket", "+Inf"].value == 2
            assert samples["vllm:cache_config_info", None].labels["num_gpu_blocks"] == "27500"
            for gauge in ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc"):
                assert samples[f"vllm:{gauge}", None].value == 0

    run(body)


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_is_aborted(stream: bool) -> None:
    async def body() -> None:
        async with one_engine() as (server, session):
            ask = {"prompt": "x" * 4000, "max_tokens": 50_000, "stream": stream}
            asking = asyncio.create_task(session.post("/v1/completions", json=ask).__aenter__())
            await until(lambda: server.engine.running == 1 and server.engine.counters.generation_tokens > 3)
            if asking.done():
                asking.result().close()
            else:
                asking.cancel()
            await until(lambda: server.engine.counters.aborted == 1)
            assert server.engine.running == 0 and server.engine.kv_usage == 0
            async with session.get("/metrics") as response:
                assert 'finished_reason="abort"} 0.0' in await response.text()

    run(body)


def test_http_1_0_clients_get_an_unframed_stream_that_ends_with_the_connection() -> None:
    async def body() -> None:
        async with one_engine() as (server, _):
            reader, writer = await asyncio.open_connection(server.host, server.port)
            sent = b'{"prompt": "x", "max_tokens": 2, "stream": true}'
            writer.write(b"POST /v1/completions HTTP/1.0\r\nContent-Length: %d\r\n\r\n%b" % (len(sent), sent))
            head, _, events = (await reader.read()).partition(b"\r\n\r\n")
            assert b"chunked" not in head
            assert [event[:6] for event in events.split(b"\n\n")] == [b"data: "] * 3 + [b""]
            writer.close()

    run(body)


def test_engine_time_keeps_pace_with_the_wall_clock() -> None:
    async def body() -> None:
        async with one_engine(speed=20) as (server, session):
            start = time.monotonic()
            async with session.post("/v1/completions", json={"prompt": "x", "max_tokens": 1000}) as response:
                assert response.status == 200
            took = time.monotonic() - start
            assert took >= server.engine.counters.busy_seconds / 20  # never early

    run(body)


def test_faults_can_be_set_shown_and_taken_back() -> None:
    async def body() -> None:
        async with one_engine(faults=FaultValues(slow=3)) as (server, session):
            async with session.get("/emulator/faults") as response:
                assert (await response.json())["slow"] == 3
            for wrong in ({"slw": 1}, {"slow": 0}, {"freeze": 1}, {"status": 200}, {"slow": True}):
                async with session.post("/emulator/faults", json=wrong) as response:
                    assert response.status == 400
                with pytest.raises(BadFault):
                    server.faults.set(**wrong)
            async with session.post("/emulator/faults", json={"status": 503}) as response:
                assert await response.json() == {**server.faults.as_dict(), "slow": 3.0, "status": 503}
            async with session.post("/v1/completions", json={"prompt": "x"}) as response:
                assert response.status == 503
                assert (await response.json())["error"]["type"] == "Service Unavailable"
            async with session.get("/health") as response:
                assert response.status == 200
            server.faults.clear()
            async with session.post("/v1/completions", json={"prompt": "x", "max_tokens": 1}) as response:
                assert response.status == 200

    run(body)


def test_slow_stretches_every_step() -> None:
    async def body() -> None:
        async with one_engine() as (server, session):
            ask = {"prompt": "x" * 40, "max_tokens": 5}
            times = []
            for factor in (1, 4):
                server.faults.set(slow=factor)
                before = server.engine.counters.busy_seconds
                async with session.post("/v1/completions", json=ask) as response:
                    assert response.status == 200
                times.append(server.engine.counters.busy_seconds - before)
            assert times[1] == pytest.approx(4 * times[0])

    run(body)


def test_a_frozen_engine_accepts_and_is_healthy_but_progresses_only_when_thawed() -> None:
    async def body() -> None:
        async with one_engine() as (server, session):
            server.faults.set(freeze=True)
            asking = asyncio.create_task(
                session.post("/v1/completions", json={"prompt": "x", "max_tokens": 3}).__aenter__()
            )
            await until(lambda: server.engine.waiting == 1)
            async with session.get("/health") as response:
                assert response.status == 200
            assert server.engine.counters.steps == 0 and not asking.done()
            server.faults.set(freeze=False)
            assert (await asking).status == 200

    run(body)


def test_a_silent_engine_answers_nothing_until_it_is_audible_again() -> None:
    async def body() -> None:
        async with one_engine() as (server, session):
            async with session.post("/emulator/faults", json={"silent": True}) as response:
                assert response.status == 200
            asking = asyncio.create_task(session.get("/health").__aenter__())
            assert await asyncio.wait({asking}, timeout=0.05) == (set(), {asking})
            async with session.post("/emulator/faults", json={"silent": False}) as response:
                assert response.status == 200
            assert (await asking).status == 200
            assert not server.faults.values.silent

    run(body)


@pytest.mark.parametrize("tokens", [0, 3])
def test_a_crash_cuts_streams_refuses_connections_and_comes_back_empty(tokens: int) -> None:
    async def body() -> None:
        async with one_engine() as (server, session):
            port, engine = server.port, server.engine
            server.faults.set(crash_after_tokens=tokens, down_for=0.05)
            got = b""
            with pytest.raises(aiohttp.ClientError):
                ask = {"prompt": "x", "max_tokens": 50, "stream": True}
                async with session.post("/v1/completions", json=ask) as response:
                    async for data in response.content.iter_any():
                        got += data
            assert got.count(b"data: ") == tokens
            with pytest.raises(aiohttp.ClientConnectorError):
                await session.get("/health")
            assert server.is_down
            await until(lambda: not server.is_down)
            assert server.port == port and server.engine is not engine
            async with session.post("/v1/completions", json={"prompt": "x", "max_tokens": 5}) as response:
                assert response.status == 200

    run(body)


def test_a_port_in_use_stops_the_whole_fleet_with_its_address() -> None:
    async def body() -> None:
        async with one_engine() as (server, _):
            with pytest.raises(PortInUse, match=f"127.0.0.1:{server.port} is already in use"):
                async with EmulatedFleet(["h100-8b"], port=server.port):
                    pass

    run(body)


def test_an_idle_engine_has_no_timer_and_closes_idle_connections_like_vllm() -> None:
    async def body() -> None:
        async with one_engine() as (server, session):
            async with session.post("/v1/completions", json={"prompt": "x", "max_tokens": 2}) as response:
                assert response.status == 200
            assert server._pacer._timer is None and server.engine.is_idle
            assert server._runner is not None and server._runner.server is not None
            assert server._runner.server.connections[0].keepalive_timeout == 5.0

    run(body)
