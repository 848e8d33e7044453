"""Case 39: a stream goes on at another engine when its own dies, and the client sees one."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from peers import Peer, Script, Seen, run, until
from running import CHAT, Fleet, fleet
from token_engine import (
    COMPLETIONS,
    PROMPT_IDS,
    TOKENS,
    End,
    assert_one_stream,
    close,
    cut,
    error_event,
    half_a_chunk,
    half_an_event,
    options,
    outcome,
    payload_of,
    proper_end,
    silence,
    speaking,
    told,
    wanting,
)

LAST_TOKEN = len(TOKENS) - 1


def second(f: Fleet) -> dict[str, Any]:
    """What the second engine was asked."""
    asked = json.loads(f.seen[-1].body)
    assert isinstance(asked, dict)
    return asked


@pytest.mark.parametrize("at", [1, 2, len(TOKENS) // 2, LAST_TOKEN])
@pytest.mark.parametrize("counted", [True, False])
@pytest.mark.parametrize("ids", [True, False])
@pytest.mark.parametrize("route", [CHAT, COMPLETIONS])
def test_case_39_a_stream_is_unbroken_wherever_its_engine_dies(route: str, ids: bool, counted: bool, at: int) -> None:
    async def body() -> None:
        async with fleet(2, **options()) as f:
            f.play.scripts = [speaking(at, ids=ids), speaking(id="second")]
            usage: dict[str, Any] = {"stream_options": {"include_usage": True}} if counted else {}
            answer = await f.get(wanting(route, **usage))
            story = told(payload_of(answer))
            assert answer.whole
            assert_one_stream(story, route)
            whole = {"prompt_tokens": 3, "completion_tokens": 8, "total_tokens": 11}
            assert story.usages == ([whole] if counted else [])
            line = await outcome(f)
            assert line["output_tokens"] == len(TOKENS)
            assert second(f)["max_tokens"] == 20 - at
            assert f.app.recorder.retries == {"resume": 1}
            if ids:
                assert f.seen[-1].target == COMPLETIONS
                assert second(f)["prompt"] == PROMPT_IDS + [number for number, _ in TOKENS[:at]]

    run(body)


def test_case_39_a_stream_of_which_only_the_role_was_told_is_asked_for_again() -> None:
    async def body() -> None:
        async with fleet(2, **options()) as f:
            f.play.scripts = [speaking(0), speaking(id="second")]
            answer = await f.get(wanting())
            assert_one_stream(told(payload_of(answer)), CHAT)
            assert (f.seen[1].target, second(f)["max_tokens"]) == (CHAT, 20)
            assert f.app.recorder.retries == {"resume": 1}

    run(body)


def test_case_29_a_stream_without_any_event_is_an_ordinary_retry() -> None:
    async def body() -> None:
        async with fleet(2, **options()) as f:
            f.play.scripts = [speaking(0), speaking()]
            answer = await f.get(wanting(COMPLETIONS))
            assert_one_stream(told(payload_of(answer)), COMPLETIONS)
            assert f.app.recorder.retries == {"connect": 1}

    run(body)


@pytest.mark.parametrize("end", [cut, close, half_an_event, half_a_chunk, error_event, proper_end, silence])
@pytest.mark.parametrize("route", [CHAT, COMPLETIONS])
def test_case_39_every_way_to_die_is_seen(route: str, end: End) -> None:
    async def body() -> None:
        async with fleet(2, **options(timeouts={"idle": "200ms"})) as f:
            f.play.scripts = [speaking(3, end), speaking(id="second")]
            answer = await f.get(wanting(route))
            assert answer.whole
            assert_one_stream(told(payload_of(answer)), route)
            await outcome(f)
            failed = {id: backend.errors for id, backend in f.app.balancer.backends.items()}
            assert sorted(failed.values()) == [0, 1]
            assert f.app.recorder.retries == {"resume": 1}

    run(body)


def test_an_undisturbed_stream_shows_nothing_of_it() -> None:
    async def body() -> None:
        async with fleet(1, **options()) as f:
            f.play.default = speaking()
            client = await f.dial()
            for number in range(2):
                await client.send(wanting(nonce=f"n{number}", stream_options={"include_usage": True}))
                answer = await client.answer()
                story = told(payload_of(answer))
                assert_one_stream(story, CHAT)
                assert story.usages == [{"prompt_tokens": 3, "completion_tokens": 8, "total_tokens": 11}]
            assert len({seen.connection for seen in f.seen}) == 1
            assert all(json.loads(seen.body)["return_token_ids"] is True for seen in f.seen)

    run(body)


def test_a_client_that_asked_for_token_ids_gets_those_of_both_engines() -> None:
    async def body() -> None:
        async with fleet(2, **options()) as f:
            f.play.scripts = [speaking(3), speaking(id="second")]
            answer = await f.get(wanting(return_token_ids=True))
            events = [json.loads(block[6:]) for block in payload_of(answer).split(b"\n\n") if block[6:7] == b"{"]
            ids = [number for said in events for choice in said["choices"] for number in choice.get("token_ids", ())]
            assert ids == [number for number, _ in TOKENS]
            assert [said.get("prompt_token_ids") for said in events].count(PROMPT_IDS) == 1

    run(body)


def test_an_engine_of_another_kind_gets_no_field_that_it_may_not_know() -> None:
    async def body() -> None:
        async with fleet(2, **options("sglang")) as f:
            f.play.scripts = [speaking(3), speaking(id="second")]
            answer = await f.get(wanting())
            assert_one_stream(told(payload_of(answer)), CHAT)
            assert "return_token_ids" not in json.loads(f.seen[0].body)
            assert second(f)["messages"][-1] == {"role": "assistant", "content": " w0é w1é w2é"}

    run(body)


@pytest.mark.parametrize(("limit", "finished"), [(3, "length"), (5, "length")])
def test_the_limit_holds_for_both_parts_together(limit: int, finished: str) -> None:
    async def body() -> None:
        async with fleet(2, **options()) as f:
            f.play.scripts = [speaking(2), speaking(id="second")]
            answer = await f.get(wanting(max_tokens=limit, min_tokens=3))
            story = told(payload_of(answer))
            assert story.text == "".join(text for _, text in TOKENS[:limit])
            assert story.finished == [finished]
            assert (second(f)["max_tokens"], second(f)["min_tokens"]) == (limit - 2, 1)

    run(body)


@pytest.mark.parametrize("route", [CHAT, COMPLETIONS])
@pytest.mark.parametrize("counted", [True, False])
def test_a_stream_that_breaks_behind_its_last_token_is_ended_without_another_engine(route: str, counted: bool) -> None:
    async def body() -> None:
        async with fleet(2, **options()) as f:
            f.play.scripts = [speaking(len(TOKENS))]
            usage: dict[str, Any] = {"stream_options": {"include_usage": True}} if counted else {}
            answer = await f.get(wanting(route, **usage))
            story = told(payload_of(answer))
            assert answer.whole
            assert_one_stream(story, route)
            whole = {"prompt_tokens": 3, "completion_tokens": 8, "total_tokens": 11}
            assert story.usages == ([whole] if counted else [])
            await outcome(f, tries=1)
            assert sum(backend.errors for backend in f.app.balancer.backends.values()) == 1

    run(body)


def test_a_stream_that_had_said_all_it_may_gets_its_finish_reason() -> None:
    async def unfinished(peer: Peer, seen: Seen) -> None:
        seen.body = seen.body.replace(b'"max_tokens": 2', b'"max_tokens": 20')  # this engine tells the reason apart
        await speaking(2)(peer, seen)

    async def body() -> None:
        async with fleet(2, **options()) as f:
            f.play.scripts = [unfinished]
            answer = await f.get(wanting(max_tokens=2))
            story = told(payload_of(answer))
            assert (answer.whole, story.text, story.finished, story.dones) == (True, " w0é w1é", ["length"], 1)
            assert len(f.seen) == 1

    run(body)


def test_an_old_client_gets_one_stream_too() -> None:
    async def body() -> None:
        async with fleet(2, **options()) as f:
            f.play.scripts = [speaking(3), speaking(id="second")]
            answer = await f.get(wanting().replace(b"HTTP/1.1", b"HTTP/1.0"))
            assert_one_stream(told(answer.body), CHAT)

    run(body)


@pytest.mark.parametrize("size", [1, 7])
def test_bytes_that_come_one_by_one_change_nothing(size: int) -> None:
    class Slow(Peer):
        async def send(self, data: bytes) -> None:
            await self.drip(data, size)

    def slowly(script: Script) -> Script:
        async def play(peer: Peer, seen: Seen) -> None:
            peer.__class__ = Slow
            await script(peer, seen)

        return play

    async def body() -> None:
        async with fleet(2, **options()) as f:
            f.play.scripts = [slowly(speaking(2, half_an_event)), slowly(speaking(id="second"))]
            answer = await f.get(wanting())
            assert_one_stream(told(payload_of(answer)), CHAT)

    run(body)


def test_a_client_that_reads_nothing_meanwhile_gets_all_of_it() -> None:
    async def body() -> None:
        async with fleet(2, **options()) as f:
            f.play.scripts = [speaking(3), speaking(id="second")]
            client = await f.dial()
            await client.send(wanting())
            await client.expect(b"w0")
            client.stop_reading()
            await until(lambda: len(f.seen) == 2)
            client.go_on_reading()
            client.read = 0
            assert_one_stream(told(payload_of(await client.answer())), CHAT)

    run(body)


def test_the_records_tell_one_answer_and_nothing_is_learned_from_half_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    learned: list[Any] = []
    monkeypatch.setattr("fairlead.core.balancer.learn", lambda *about, **more: learned.append(about))
    go = asyncio.Event()

    async def dying(peer: Peer) -> None:
        await go.wait()
        peer.reset()

    async def body() -> None:
        async with fleet(2, **options()) as f:
            f.play.scripts = [speaking(3, dying), speaking(id="second")]
            client = await f.dial()
            await client.send(wanting(stream_options={"include_usage": True}))
            await client.expect(b"w2")
            (exchange,) = f.app.service.exchanges
            first = exchange.first_byte_at
            go.set()
            client.read = 0
            assert_one_stream(told(payload_of(await client.answer())), CHAT)
            line = await outcome(f)
            assert (line["prompt_tokens"], line["output_tokens"]) == (3, 8)
            assert exchange.first_byte_at == first
            assert sorted(backend.answered for backend in f.app.balancer.backends.values()) == [0, 1]
            assert not learned

    run(body)
