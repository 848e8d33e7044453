"""The server: vLLM's shapes over loopback, seen by plain HTTP and by the OpenAI SDK."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import aiohttp
import openai
import pytest
from emulator_harness import one_engine, run, until
from prometheus_client.parser import text_string_to_metric_families

HELLO: list[Any] = [{"role": "user", "content": "Say something about fairleads. " * 20}]


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


def test_messages_have_anthropics_shape_whole_and_streamed() -> None:
    async def body() -> None:
        async with one_engine() as (_, session):
            ask: dict[str, Any] = {"model": "m", "max_tokens": 2, "messages": HELLO, "system": "Be brief."}
            async with session.post("/v1/messages", json=ask) as response:
                whole = await response.json()
            assert (whole["type"], whole["role"], whole["model"]) == ("message", "assistant", "m")
            assert (whole["stop_reason"], whole["stop_sequence"]) == ("max_tokens", None)
            async with session.post("/v1/messages", json={**ask, "stream": True}) as response:
                events = await events_of(response)
            names = [event.split("\n")[0].removeprefix("event: ") for event in events]
            data = [json.loads(event.split("\ndata: ")[1]) for event in events]
            assert names == [payload["type"] for payload in data]
            assert names == [
                "message_start",
                "content_block_start",
                *["content_block_delta"] * 2,
                "content_block_stop",
                "message_delta",
                "message_stop",
            ]
            assert data[0]["message"]["content"] == []
            said = "".join(payload["delta"]["text"] for payload in data[2:4])
            assert whole["content"] == [{"type": "text", "text": said}]
            assert data[-2]["delta"]["stop_reason"] == "max_tokens"
            assert data[-2]["usage"] == whole["usage"]
            assert whole["usage"]["output_tokens"] == 2
            del ask["max_tokens"]
            async with session.post("/v1/messages/count_tokens", json=ask) as response:
                assert await response.json() == {"input_tokens": whole["usage"]["input_tokens"]}
            async with session.post("/v1/messages", json={**ask, "max_tokens": 1, "model": "other"}) as response:
                assert response.status == 404
                answer = await response.json()
            assert (answer["type"], answer["error"]["type"]) == ("error", "NotFoundError")

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
