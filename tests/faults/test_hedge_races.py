"""Case 40: another backend is asked when the first is late; one answer goes out, the loser is closed, both count."""

from __future__ import annotations

import asyncio

import pytest
from hedge_cases import EAGER, PLAIN, STREAM, Late, assert_hedged, both_asked, line_of, page, streaming
from oracle import judged
from peers import Peer, Script, Seen, run, until
from reloading import kept
from running import DONE, LAST, ask, chunk, event, fleet, reply, sse_head

ANSWERS: dict[str, Script] = {"one piece": reply(), "stream": streaming(), "empty": reply(b"")}


def request(name: str, nonce: str = "n0") -> bytes:
    return ask(nonce, body=STREAM if name == "stream" else PLAIN)


@pytest.mark.parametrize("name", list(ANSWERS))
def test_case_40_the_hedge_wins_and_the_first_is_closed_at_once(name: str) -> None:
    async def body() -> None:
        slow = Late()
        async with judged(2, **EAGER) as (f, oracle):
            f.play.scripts = [slow, ANSWERS[name]]
            verdict = await oracle.speak(request(name, "a"), ["a"], closed=False)
            assert verdict.statuses == (200,)
            await slow.closed()
            names = [*f.app.balancer.backends]
            line = (await f.logged(2))[0]
            assert line["hedge"] == {"first": names[0], "second": names[1], "outcome": "won"}
            assert (line["backend"], line["tries"], line["failed_on"]) == (names[1], 2, [])
            assert f.app.recorder.hedges["won"] == 1
            assert [b.errors for b in f.app.balancer.backends.values()] == [0, 0], "the loser is not blamed"
            assert f.seen[0].body == f.seen[1].body

    run(body)


@pytest.mark.parametrize("name", list(ANSWERS))
def test_case_40_the_first_answers_just_after_the_hedge_was_sent(name: str) -> None:
    async def body() -> None:
        first, second = Late(ANSWERS[name]), Late()
        async with fleet(2, **EAGER) as f:
            f.play.scripts = [first, second]
            client = await f.dial()
            await client.send(request(name, "a"))
            await both_asked(first, second)
            first.go.set()
            answer = await client.answer()
            assert (answer.status, answer.whole, answer.field("x-nonce")) == (200, True, "a")
            await second.closed()
            await assert_hedged(f, "lost", winner=0)

    run(body)


def test_both_answer_in_the_same_moment_and_one_goes_out() -> None:
    async def body() -> None:
        first, second = Late(streaming()), Late(streaming())
        async with fleet(2, **EAGER) as f:
            f.play.scripts = [first, second]
            client = await f.dial()
            await client.send(request("stream", "a"))
            await both_asked(first, second)
            second.go.set()
            first.go.set()
            answer = await client.answer()
            assert answer.body == event(0) + event(1) + event(2) + DONE
            client.close()
            line = await line_of(f)
            assert line["hedge"]["outcome"] in ("won", "lost")
            assert line["output_tokens"] == 2, "the first event of a chat is its role"

    run(body)


def test_the_first_is_late_with_its_body_though_its_head_came() -> None:
    async def body() -> None:
        async def head_only(peer: Peer, seen: Seen) -> None:
            await peer.send(sse_head(seen))
            await peer.end(60.0)

        async with fleet(2, **EAGER) as f:
            f.play.scripts = [head_only, streaming()]
            answer = await f.get(request("stream", "a"))
            assert answer.body == event(0) + event(1) + event(2) + DONE
            await assert_hedged(f, "won", winner=1)

    run(body)


def test_the_head_of_the_hedge_wins_nothing() -> None:
    async def body() -> None:
        first, headed = Late(streaming()), asyncio.Event()

        async def head_only(peer: Peer, seen: Seen) -> None:
            await peer.send(sse_head(seen) + chunk(b": ping\n\n"))
            headed.set()
            await peer.end(60.0)

        async with fleet(2, **EAGER) as f:
            f.play.scripts = [first, head_only]
            client = await f.dial()
            await client.send(request("stream", "a"))
            await headed.wait()
            await asyncio.sleep(0.02)
            assert client.unread == b""
            first.go.set()
            answer = await client.answer()
            assert answer.body == event(0) + event(1) + event(2) + DONE
            await assert_hedged(f, "lost", winner=0)

    run(body)


def test_comments_before_the_hedges_first_event_are_passed_on_with_it() -> None:
    async def body() -> None:
        async with fleet(2, **EAGER) as f:
            f.play.scripts = [Late(), streaming(chunk(b": ping\n\n"))]
            answer = await f.get(request("stream", "a"))
            assert answer.body == b": ping\n\n" + event(0) + event(1) + event(2) + DONE
            await assert_hedged(f, "won", winner=1)

    run(body)


@pytest.mark.parametrize("size", [1, 7])
def test_the_hedges_answer_may_come_in_pieces_of_any_size(size: int) -> None:
    async def body() -> None:
        async def play(peer: Peer, seen: Seen) -> None:
            await peer.drip(sse_head(seen) + chunk(event(0)) + chunk(event(1)) + chunk(DONE) + LAST, size)

        async with fleet(2, **EAGER) as f:
            f.play.scripts = [Late(), play]
            answer = await f.get(request("stream", "a"))
            assert (answer.whole, answer.body) == (True, event(0) + event(1) + DONE)
            await assert_hedged(f, "won", winner=1)

    run(body)


def test_a_stream_that_the_hedge_won_and_then_breaks_is_told_like_any_other() -> None:
    async def body() -> None:
        async def breaks(peer: Peer, seen: Seen) -> None:
            await peer.send(sse_head(seen) + chunk(event(0)))
            await asyncio.sleep(0.01)
            peer.reset()

        async with fleet(2, **EAGER) as f:
            f.play.scripts = [Late(), breaks]
            answer = await f.get(request("stream", "a"))
            assert (answer.whole, answer.status) == (False, 200)
            assert b"stream_broken" in answer.body
            line = await line_of(f)
            assert (line["outcome"], line["hedge"]["outcome"], line["failed_on"]) == ("failed", "won", [])
            assert [b.errors for b in f.app.balancer.backends.values()] == [0, 1]

    run(body)


def test_a_kept_connection_that_closes_under_the_hedge_is_tried_again_there() -> None:
    async def body() -> None:
        async def closes(peer: Peer, seen: Seen) -> None:
            peer.close()

        async with fleet(2, **EAGER) as f:
            for engine in f.engines:
                engine.script = reply()
            assert [(await f.get(request("plain"))).status for _ in range(2)] == [200, 200]
            hedged_before = sum(f.app.recorder.hedges.values())
            slow = Late()
            f.engines[0].script = slow
            f.engines[1].script = None
            f.play.scripts = [closes, reply()]
            answer = await f.get(request("plain", "a"))
            assert (answer.status, answer.field("x-nonce")) == (200, "a")
            await slow.closed()
            assert sum(f.app.recorder.hedges.values()) == hedged_before + 1
            assert f.app.recorder.hedges["won"] == 1
            assert [b.errors for b in f.app.balancer.backends.values()] == [0, 0]
            f.resent = 1

    run(body)


def test_what_happened_is_told_by_the_admin_api_and_the_metrics() -> None:
    async def body() -> None:
        async with fleet(2, **EAGER) as f:
            f.play.scripts = [Late(), reply()]
            answer = await f.get(request("plain", "a"))
            id = answer.field("x-request-id")
            first, second = f.app.balancer.backends
            told = await page(f, f"/api/explain/{id}")
            assert told["request"]["hedge"] == {"first": first, "second": second, "outcome": "won"}
            assert told["request"]["hedged"] is True
            sentence = f"{first} was late, so {second} was asked as well, which answered first"
            assert told["explanation"].endswith(sentence)
            assert told["decision"]["backend"] == second
            others = {row["backend"]: row["state"] for row in told["decision"]["not_considered"]}
            assert others == {first: "late"}
            assert (await page(f, "/api/decisions"))["decisions"][0]["hedged"] is True
            metrics = await page(f, "/metrics")
            assert 'fairlead_hedges_total{outcome="won"} 1.0' in metrics
            assert 'fairlead_hedges_total{outcome="failed"} 0.0' in metrics
            assert 'fairlead_hedges_refused_total{reason="budget"} 0.0' in metrics

    run(body)


def test_without_the_option_nobody_is_asked_twice() -> None:
    async def body() -> None:
        slow = Late()
        async with fleet(2) as f:
            f.play.scripts = [slow]
            client = await f.dial()
            await client.send(request("plain", "a"))
            await until(slow.asked.is_set)
            await asyncio.sleep(0.05)
            assert all(exchange.race is None for exchange in f.app.service.exchanges)
            slow.go.set()
            assert (await client.answer()).status == 200
            line = await line_of(f)
            assert (line["hedged"], line["hedge"], line["tries"]) == (False, None, 1)

    run(body)


def test_a_quick_answer_is_not_hedged() -> None:
    async def body() -> None:
        async with fleet(2, hedging={"delay": "5s", "budget": "100%"}) as f:
            assert [(await f.get(request("plain"))).status for _ in range(5)] == [200] * 5
            assert sum(f.app.recorder.hedges.values()) == 0
            assert len(f.seen) == 5

    run(body)


def test_a_reload_turns_it_on_and_off_and_keeps_what_was_learned() -> None:
    async def body() -> None:
        async with kept(2, retries={"attempts": 1}) as k:
            service, play = k.f.app.service, k.f.play
            await k.reload(hedging=EAGER["hedging"])
            play.scripts = [Late(), reply()]
            verdict = await k.oracle.speak(request("plain", "a"), ["a"], closed=False)
            assert verdict.statuses == (200,)
            assert k.f.app.recorder.hedges["won"] == 1
            learned = service.hedges
            assert learned is not None
            told = await k.reload(hedging="250ms")
            assert told["options"] == ["hedging"]
            assert service.hedges is learned
            assert (learned.rules.delay, learned.rules.budget) == (0.25, 0.05)
            slow = Late()
            play.scripts = [slow]
            client = await k.f.dial()
            await client.send(request("plain", "b"))
            await until(slow.asked.is_set)
            await k.reload(hedging=None)
            assert not any([service.hedges])
            slow.go.set()
            answer = await client.answer()
            assert answer.status == 200
            k.oracle.outcomes[200] += 1
            client.close()

    run(body)
