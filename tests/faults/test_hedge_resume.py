"""Hedged before the first token, continued after it: the two options together, and what each engine is asked."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hedge_cases import Late
from peers import Peer, Script, Seen, run, until
from running import CHAT, Fleet, fleet, reply
from token_engine import COMPLETIONS, assert_one_stream, outcome, payload_of, speaking, told, wanting

BOTH: dict[str, Any] = {
    "resume": True,
    "backend": {"engine": "vllm"},
    "hedging": {"delay": "20ms", "budget": "100%"},
}


def names(f: Fleet) -> list[str]:
    return [*f.app.balancer.backends]


@pytest.mark.parametrize("route", [CHAT, COMPLETIONS])
def test_the_hedge_wins_and_its_own_death_is_survived(route: str) -> None:
    async def body() -> None:
        slow = Late()
        async with fleet(3, **BOTH) as f:
            f.play.scripts = [slow, speaking(3), speaking(id="second")]
            answer = await f.get(wanting(route, stream_options={"include_usage": True}))
            assert answer.whole
            story = told(payload_of(answer))
            assert_one_stream(story, route)
            assert story.usages == [{"prompt_tokens": 3, "completion_tokens": 8, "total_tokens": 11}]
            await slow.closed()
            line = await outcome(f, 3)
            assert line["hedge"] == {"first": names(f)[0], "second": names(f)[1], "outcome": "won"}
            assert line["failed_on"] == [names(f)[1]]
            assert f.app.recorder.retries == {"resume": 1}
            assert json.loads(f.seen[2].body)["max_tokens"] == 17

    run(body)


def test_the_first_wins_and_its_own_death_is_survived() -> None:
    async def body() -> None:
        first, second, rest = Late(speaking(3)), Late(), Late(speaking(id="second"))
        async with fleet(4, **BOTH) as f:
            f.play.scripts = [first, second, rest]
            client = await f.dial()
            await client.send(wanting())
            await until(second.asked.is_set)
            first.go.set()
            await second.closed()
            await until(rest.asked.is_set)
            rest.go.set()
            answer = await client.answer()
            assert_one_stream(told(payload_of(answer)), CHAT)
            assert (await outcome(f, 3))["hedge"]["outcome"] == "lost"

    run(body)


def test_what_continues_an_answer_is_not_hedged() -> None:
    async def body() -> None:
        rest = Late(speaking(id="second"))
        async with fleet(3, **BOTH) as f:
            f.play.scripts = [speaking(3), rest]
            client = await f.dial()
            await client.send(wanting())
            await until(rest.asked.is_set)
            race = next(iter(f.app.service.exchanges)).race
            assert race is not None
            assert (race.timer, race.lease) == (None, None)
            rest.go.set()
            assert_one_stream(told(payload_of(await client.answer())), CHAT)
            assert (await outcome(f))["hedged"] is False

    run(body)


@pytest.mark.parametrize("size", [1, 5])
def test_a_hedges_stream_in_small_pieces_is_read_as_one(size: int) -> None:
    async def body() -> None:
        async def play(peer: Peer, seen: Seen) -> None:
            kept: list[bytes] = []

            class Collected:
                lost = False

                async def send(self, data: bytes) -> None:
                    kept.append(data)

            await speaking()(Collected(), seen)  # type: ignore[arg-type]
            await peer.drip(b"".join(kept), size)

        async with fleet(2, **BOTH) as f:
            f.play.scripts = [Late(), play]
            answer = await f.get(wanting())
            assert_one_stream(told(payload_of(answer)), CHAT)
            assert (await outcome(f))["hedge"]["outcome"] == "won"

    run(body)


def test_each_engine_is_asked_in_its_own_way() -> None:
    async def body() -> None:
        async with fleet(2, **BOTH) as f:
            kinds = dict(zip(names(f), ("generic", "vllm"), strict=True))
            f.app.service.engine_of = kinds.__getitem__
            f.play.scripts = [Late(), speaking()]
            answer = await f.get(wanting())
            assert_one_stream(told(payload_of(answer)), CHAT)
            asked = [json.loads(seen.body).get("return_token_ids") for seen in f.seen]
            assert asked == [None, True]
            assert b"token_ids" not in answer.body

    run(body)


FAILURES: dict[str, Script] = {
    "503": reply(b"{}", "503 Busy"),
    "an answer in one piece": reply(b'{"choices":[]}'),
}


def test_the_first_fails_and_the_hedges_answer_is_read_along() -> None:
    async def body() -> None:
        first, second = Late(FAILURES["503"]), Late(speaking(3))
        async with fleet(3, **BOTH) as f:
            f.play.scripts = [first, second, speaking(id="second")]
            client = await f.dial()
            await client.send(wanting())
            await until(second.asked.is_set)
            first.go.set()
            await until(lambda: f.app.balancer.backends[names(f)[0]].errors == 1)
            second.go.set()
            answer = await client.answer()
            assert_one_stream(told(payload_of(answer)), CHAT)
            assert f.app.recorder.retries == {"resume": 1}

    run(body)


def test_an_answer_of_the_hedge_that_is_no_stream_is_passed_on_as_it_is() -> None:
    async def body() -> None:
        async with fleet(2, **BOTH) as f:
            f.play.scripts = [Late(), FAILURES["an answer in one piece"]]
            answer = await f.get(wanting())
            assert (answer.status, answer.body) == (200, b'{"choices":[]}')
            assert (await outcome(f))["hedge"]["outcome"] == "won"

    run(body)
