"""Case 39, the other side: what is not continued ends as it would without it, and nothing is left over."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from peers import Peer, Seen, run, until
from running import CHAT, DONE, LAST, ask, chunk, fleet, sse_head
from token_engine import (
    PROMPT_IDS,
    TOKENS,
    End,
    assert_broken,
    assert_one_stream,
    begun,
    cut,
    error_event,
    half_an_event,
    options,
    outcome,
    payload_of,
    silence,
    speaking,
    told,
    wanting,
)


@pytest.mark.parametrize("end", [cut, half_an_event, silence])
def test_the_death_of_the_second_engine_is_told(end: End) -> None:
    async def body() -> None:
        async with fleet(3, **options(timeouts={"idle": "200ms"})) as f:
            f.play.scripts = [speaking(2, end), speaking(5, end, id="second")]
            assert_broken(await f.get(wanting()), begun(5))
            (line,) = await f.logged(1)
            assert (line["tries"], line["outcome"]) == (2, "failed")
            assert len(f.seen) == 2

    run(body)


def test_a_second_engine_that_breaks_before_its_answer_leaves_a_third_one_alone() -> None:
    async def play(peer: Peer, seen: Seen) -> None:
        peer.reset()

    async def body() -> None:
        async with fleet(3, **options()) as f:
            f.play.scripts = [speaking(2), play]
            assert_broken(await f.get(wanting()), begun(2))
            assert len(f.seen) == 2

    run(body)


def test_a_request_that_breaks_engines_is_known_again_though_it_was_sent_with_a_field_more() -> None:
    async def play(peer: Peer, seen: Seen) -> None:
        peer.reset()

    async def body() -> None:
        async with fleet(3, **options()) as f:
            f.play.default = play
            answers = [await f.get(wanting()) for _ in range(2)]
            assert [json.loads(answer.body)["error"]["code"] for answer in answers] == ["poison_suspect"] * 2
            assert len(f.seen) == 2

    run(body)


def test_a_second_engine_that_refuses_connections_is_passed_over() -> None:
    async def body() -> None:
        async with fleet(3, **options()) as f:
            gone = f.engines[1]
            f.engines[0].script = speaking(2)
            f.engines[2].script = speaking(id="second")
            await gone.refuse()
            answer = await f.get(wanting())
            assert_one_stream(told(payload_of(answer)), CHAT)
            f.unseen_tries = 1
            await outcome(f, tries=3)

    run(body)


@pytest.mark.parametrize("status", [b"400 Bad Request", b"500 Internal Server Error", b"503 Service Unavailable"])
def test_a_second_engine_that_says_no_ends_it(status: bytes) -> None:
    async def play(peer: Peer, seen: Seen) -> None:
        await peer.send(b"HTTP/1.1 %b\r\nContent-Length: 2\r\n\r\n{}" % status)

    async def body() -> None:
        async with fleet(2, **options()) as f:
            f.play.scripts = [speaking(2), play]
            assert_broken(await f.get(wanting()), begun(2))
            assert len(f.seen) == 2

    run(body)


def test_without_another_engine_it_ends() -> None:
    async def body() -> None:
        async with fleet(1, **options()) as f:
            f.play.scripts = [speaking(2)]
            assert_broken(await f.get(wanting()), begun(2))
            assert f.app.recorder.retries == {}

    run(body)


def test_without_another_engine_an_error_event_passes_as_it_came() -> None:
    async def body() -> None:
        async with fleet(1, **options()) as f:
            f.play.scripts = [speaking(2, error_event)]
            story = told(payload_of(await f.get(wanting())))
            assert ([error["code"] for error in story.errors], story.dones) == ([500], 1)

    run(body)


def test_a_spent_budget_ends_it() -> None:
    async def body() -> None:
        async with fleet(2, **options(retries={"budget": 0})) as f:
            f.play.scripts = [speaking(2)]
            assert_broken(await f.get(wanting()), begun(2))
            assert len(f.seen) == 1

    run(body)


def test_off_is_off() -> None:
    async def body() -> None:
        async with fleet(2, backend={"engine": "vllm"}) as f:
            f.play.scripts = [speaking(2)]
            assert_broken(await f.get(wanting()), begun(2))
            assert "return_token_ids" not in json.loads(f.seen[0].body)

    run(body)


def test_chat_is_not_continued_by_an_engine_that_may_not_know_how() -> None:
    async def body() -> None:
        async with fleet(2, **options("generic")) as f:
            f.play.scripts = [speaking(2)]
            assert_broken(await f.get(wanting()), begun(2))
            assert len(f.seen) == 1
            f.unseen_tries = 1  # a backend was chosen, and not asked

    run(body)


REFUSED: list[dict[str, Any]] = [
    {"n": 2},
    {"best_of": 2},
    {"logprobs": True},
    {"top_logprobs": 1},
    {"echo": True},
    {"suffix": "x"},
    {"frequency_penalty": 0.5},
    {"presence_penalty": 0.5},
    {"response_format": {"type": "json_object"}},
    {"guided_json": {}},
    {"guided_regex": "a*"},
    {"structured_outputs": {"regex": "a*"}},
    {"tools": [{"type": "function", "function": {"name": "f"}}]},
    {"no_such_field": 1},
]


@pytest.mark.parametrize("fields", REFUSED, ids=lambda fields: next(iter(fields)))
def test_what_cannot_be_continued_ends_as_without_it(fields: dict[str, Any]) -> None:
    async def body() -> None:
        async with fleet(2, **options()) as f:
            f.play.scripts = [speaking(2)]
            assert_broken(await f.get(wanting(**fields)), begun(2))
            assert "return_token_ids" not in json.loads(f.seen[0].body)
            assert len(f.seen) == 1

    run(body)


@pytest.mark.parametrize("route", ["/v1/messages", "/v1/responses"])
def test_other_dialects_end_as_without_it(route: str) -> None:
    async def play(peer: Peer, seen: Seen) -> None:
        await peer.send(sse_head(seen) + chunk(b'data: {"type":"x"}\n\n'))
        await cut(peer)

    async def body() -> None:
        async with fleet(2, **options()) as f:
            f.play.scripts = [play]
            answer = await f.get(ask("n0", route, b'{"model":"m","stream":true,"max_tokens":9,"input":"x"}'))
            assert (answer.whole, answer.body.count(b"stream_broken") + answer.body.count(b"api_error")) == (False, 1)
            assert len(f.seen) == 1

    run(body)


@pytest.mark.parametrize("delta", [{"tool_calls": [{"index": 0}]}, {"reasoning_content": "hm"}])
def test_tool_calls_and_thoughts_are_not_continued(delta: dict[str, Any]) -> None:
    async def play(peer: Peer, seen: Seen) -> None:
        said = {"id": "first", "choices": [{"index": 0, "delta": delta, "token_ids": [1]}]}
        await peer.send(sse_head(seen) + chunk(b"data: %b\n\n" % json.dumps(said).encode()))
        await cut(peer)

    async def body() -> None:
        async with fleet(2, **options()) as f:
            f.play.scripts = [play]
            answer = await f.get(wanting())
            assert_broken(answer, "")
            assert b"token_ids" not in answer.body
            assert len(f.seen) == 1

    run(body)


def test_more_text_than_is_kept_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fairlead.wire.resume.MAX_KEPT", 30)

    async def body() -> None:
        async with fleet(2, **options()) as f:
            f.play.scripts = [speaking(6)]
            assert_broken(await f.get(wanting()), begun(6))

    run(body)


def test_an_endless_event_passes_and_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fairlead.proxy.resume.MAX_KEPT", 1_000)
    passed = asyncio.Event()

    async def play(peer: Peer, seen: Seen) -> None:
        await peer.send(sse_head(seen) + chunk(b"data: " + b"x" * 5_000))
        await passed.wait()
        await peer.send(chunk(b"x" * 5_000 + b"\n\n" + DONE) + LAST)

    async def body() -> None:
        async with fleet(2, **options()) as f:
            f.play.scripts = [play]
            client = await f.dial()
            await client.send(wanting())
            await client.expect(b"x" * 5_000)
            client.read = 0
            passed.set()
            answer = await client.answer()
            assert (answer.whole, answer.body) == (True, b"data: " + b"x" * 10_000 + b"\n\n" + DONE)

    run(body)


def test_what_is_kept_is_counted_and_given_back() -> None:
    async def body() -> None:
        async with fleet(2, **options()) as f:
            f.play.scripts = [speaking(4, silence)]
            client = await f.dial()
            asked = wanting()
            await client.send(asked)
            await client.expect(b"w3")
            kept = len(begun(4).encode()) + 4 * (4 + len(PROMPT_IDS))
            memory = f.app.service.memory
            await until(lambda: memory.used == len(asked.partition(b"\r\n\r\n")[2]) + kept, "body, text and ids count")
            client.close()
            await until(lambda: not memory.used)

    run(body)


def test_a_client_that_leaves_while_the_second_engine_works_frees_both() -> None:
    async def body() -> None:
        for said in (False, True):
            async with fleet(2, **options()) as f:
                waits = asyncio.Event()

                async def play(peer: Peer, seen: Seen, said: bool = said, waits: asyncio.Event = waits) -> None:
                    waits.set()
                    if said:
                        await speaking(4, silence, id="second")(peer, seen)
                    else:
                        await silence(peer)

                f.play.scripts = [speaking(2), play]
                client = await f.dial()
                await client.send(wanting())
                await waits.wait()
                if said:
                    await client.expect(TOKENS[3][1].strip("é").encode())
                client.close()
                await until(lambda f=f: not f.busy, "both engines are free")  # type: ignore[misc]
                (line,) = await f.logged(1)
                assert line["outcome"] == "client_gone"

    run(body)


def test_the_end_of_the_drain_ends_a_stream_that_waits_for_its_second_engine() -> None:
    async def play(peer: Peer, seen: Seen) -> None:
        await silence(peer)

    async def body() -> None:
        async with fleet(2, **options()) as f:
            f.play.scripts = [speaking(2), play]
            client = await f.dial()
            await client.send(wanting())
            await until(lambda: len(f.seen) == 2)
            await f.stop()
            assert_broken(await client.answer(), begun(2))

    run(body)
