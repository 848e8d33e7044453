"""Case 40: one of the two fails, or both, or nobody waits any more: what goes on, what is retried, what is closed."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from hedge_cases import EAGER, PLAIN, STREAM, Late, assert_hedged, both_asked, line_of, streaming
from oracle import judged
from peers import Peer, Script, Seen, run, until
from running import DONE, LAST, Fleet, ask, chunk, event, fleet, hang, raw, reply, reset, sse_head

LATE_FAILURES: dict[str, Script] = {
    "reset": reset,
    "503": reply(b"{}", "503 Busy"),
    "500": reply(b"{}", "500 Oops"),
    "junk": raw(b"junk\r\n\r\n"),
    "half a head": raw(b"HTTP/1.1 200 OK\r\nContent-", close=True),
    "a head, then closed": raw(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", close=True),
}
ERROR = b'data: {"error":{"message":"EngineCore broke","type":"InternalServerError","code":500}}\n\n'


def request(nonce: str = "a") -> bytes:
    return ask(nonce, body=PLAIN)


@pytest.mark.parametrize("name", [*LATE_FAILURES, "429"])
def test_the_first_fails_and_the_hedge_answers(name: str) -> None:
    async def body() -> None:
        failing = reply(b"{}", "429 Slow down") if name == "429" else LATE_FAILURES[name]
        first, second = Late(failing), Late()
        async with fleet(3, **EAGER) as f:
            f.play.scripts = [first, second]
            client = await f.dial()
            await client.send(request())
            await both_asked(first, second)
            before = next(iter(f.app.balancer.backends.values()))
            first.go.set()
            await until(lambda: before.inflight == 0, "the first lease is closed")
            assert client.unread == b""
            second.go.set()
            answer = await client.answer()
            assert (answer.status, answer.field("x-nonce")) == (200, "a")
            line = await line_of(f)
            names = [*f.app.balancer.backends]
            assert line["hedge"] == {"first": names[0], "second": names[1], "outcome": "won"}
            assert (line["tries"], line["failed_on"]) == (2, [names[0]])
            assert before.errors == int(name != "429")
            assert f.app.recorder.retries == {}, "no retry is made while another try runs"
            assert len(f.seen) == 2

    run(body)


@pytest.mark.parametrize("name", [*LATE_FAILURES, "400", "404", "429", "an error as first event"])
def test_the_hedge_fails_and_the_first_answers(name: str) -> None:
    more = {
        "400": reply(b"{}", "400 No"),
        "404": reply(b"{}", "404 No"),
        "429": reply(b"{}", "429 No"),
        "an error as first event": streaming(chunk(ERROR)),
    }

    async def body() -> None:
        first, second = Late(), Late((LATE_FAILURES | more)[name])
        async with fleet(3, **EAGER) as f:
            f.play.scripts = [first, second]
            client = await f.dial()
            await client.send(request())
            await both_asked(first, second)
            hedged_to = [*f.app.balancer.backends.values()][1]
            second.go.set()
            await until(lambda: hedged_to.inflight == 0, "the hedge's lease is closed")
            await asyncio.sleep(0.02)
            assert client.unread == b""
            first.go.set()
            answer = await client.answer()
            assert (answer.status, answer.field("x-nonce")) == (200, "a")
            line = await line_of(f)
            assert (line["hedge"]["outcome"], line["backend"]) == ("failed", line["hedge"]["first"])
            assert hedged_to.errors == int(not name.startswith("4"))
            assert len(f.seen) == 2, "one hedge, no retry"

    run(body)


def test_both_fail_and_then_a_retry_is_made() -> None:
    async def body() -> None:
        first, second = Late(LATE_FAILURES["503"]), Late(LATE_FAILURES["503"])
        async with judged(3, **EAGER) as (f, oracle):
            f.play.scripts = [first, second, reply()]
            asked = asyncio.create_task(oracle.speak(request(), ["a"], closed=False))
            await both_asked(first, second)
            second.go.set()
            await until(lambda: f.app.recorder.hedges["failed"] == 1)
            assert len(f.seen) == 2
            first.go.set()
            assert (await asked).statuses == (200,)
            names = [*f.app.balancer.backends]
            line = (await f.logged(2))[0]
            assert (line["tries"], line["failed_on"], line["backend"]) == (3, [names[1], names[0]], names[2])
            assert f.app.recorder.retries == {"503": 1}

    run(body)


def test_both_fail_and_a_hedge_counts_as_a_try() -> None:
    async def body() -> None:
        first, second = Late(LATE_FAILURES["503"]), Late(LATE_FAILURES["503"])
        async with fleet(3, retries={"attempts": 1}, **EAGER) as f:
            f.play.scripts = [first, second]
            client = await f.dial()
            await client.send(request())
            await both_asked(first, second)
            first.go.set()
            await until(lambda: next(iter(f.app.balancer.backends.values())).errors == 1)
            second.go.set()
            answer = await client.answer()
            assert (answer.status, answer.body) == (503, b"{}"), "the last word of the fleet"
            line = await line_of(f)
            assert (line["tries"], line["hedge"]["outcome"]) == (2, "failed")
            assert len(f.seen) == 2

    run(body)


@pytest.mark.parametrize("how", ["reset", "half a head", "a head, then closed"])
@pytest.mark.parametrize("broke_first", [0, 1])
def test_two_breaks_are_poison_though_one_was_a_hedge(broke_first: int, how: str) -> None:
    async def body() -> None:
        both = Late(LATE_FAILURES[how]), Late(LATE_FAILURES[how])
        async with fleet(4, **EAGER) as f:
            f.play.scripts = [*both]
            client = await f.dial()
            await client.send(request())
            await both_asked(*both)
            backends = [*f.app.balancer.backends.values()]
            both[broke_first].go.set()
            await until(lambda: backends[broke_first].errors == 1)
            assert client.unread == b""
            both[1 - broke_first].go.set()
            answer = await client.answer()
            assert answer.status == 502
            assert json.loads(answer.body)["error"]["code"] == "poison_suspect"
            assert len(f.seen) == 2
            assert [backend.errors for backend in backends] == [1, 1, 0, 0]

    run(body)


def test_the_hedges_break_may_be_the_last_and_the_first_still_answers() -> None:
    async def body() -> None:
        first, second = Late(LATE_FAILURES["503"]), Late(reset)
        async with fleet(3, retries={"breaks": 1}, **EAGER) as f:
            f.play.scripts = [first, second]
            client = await f.dial()
            await client.send(request())
            await both_asked(first, second)
            second.go.set()
            await until(lambda: f.app.recorder.hedges["failed"] == 1)
            first.go.set()
            answer = await client.answer()
            assert answer.status == 503, "it is relayed: no third backend is risked"
            assert len(f.seen) == 2

    run(body)


def test_a_hedge_that_finds_nobody_there_leaves_the_first_alone() -> None:
    async def body() -> None:
        first = Late()
        async with fleet(2, **EAGER) as f:
            f.play.scripts = [first]
            await f.engines[1].refuse()
            [*f.app.service.pools.values()][1].close()
            client = await f.dial()
            await client.send(request())
            await until(lambda: f.app.recorder.hedges["failed"] == 1)
            first.go.set()
            assert (await client.answer()).status == 200
            await assert_hedged(f, "failed", winner=0, blamed=(1,))
            f.unseen_tries = 1

    run(body)


def test_the_first_times_out_and_the_hedge_has_its_own_time() -> None:
    async def body() -> None:
        second = Late()
        options: dict[str, Any] = {"hedging": {"delay": "250ms", "budget": "100%"}, "timeouts": {"first_byte": "300ms"}}
        async with fleet(2, **options) as f:
            f.play.scripts = [hang, second]
            client = await f.dial()
            await client.send(request())
            first = next(iter(f.app.balancer.backends.values()))
            await until(lambda: first.errors == 1, "the first has timed out")
            second.go.set()
            assert (await client.answer()).status == 200
            await assert_hedged(f, "won", winner=1, blamed=(0,))
            assert f.app.recorder.errors[first.id, "timeout"] == 1

    run(body)


def test_both_time_out_each_in_its_own_time() -> None:
    async def body() -> None:
        options: dict[str, Any] = {"hedging": {"delay": "200ms", "budget": "100%"}, "timeouts": {"first_byte": "300ms"}}
        async with fleet(3, default=hang, retries={"attempts": 1}, **options) as f:
            answer = await f.get(request())
            assert answer.status == 504
            line = await line_of(f)
            assert (line["tries"], line["hedge"]["outcome"]) == (2, "failed")
            assert [b.errors for b in f.app.balancer.backends.values()] == [1, 1, 0]

    run(body)


@pytest.mark.parametrize("then", ["connects", "refuses", "hangs", "client leaves", "loses"])
def test_the_hedge_is_still_connecting_when_it_is_the_only_one(then: str) -> None:
    async def body() -> None:
        first, go, asked = Late(LATE_FAILURES["503"] if then != "loses" else reply()), asyncio.Event(), asyncio.Event()
        more: dict[str, Any] = {"timeouts": {"connect": "200ms"}} if then == "hangs" else {}
        async with fleet(2, **EAGER, **more) as f:
            pool = [*f.app.service.pools.values()][1]
            connect = pool.connect

            async def held(*args: Any) -> None:
                asked.set()
                await go.wait()
                if then == "refuses":
                    raise ConnectionRefusedError
                await connect(*args)

            pool.connect = held  # type: ignore[assignment]
            f.play.scripts = [first]
            client = await f.dial()
            await client.send(request())
            await asked.wait()
            first.go.set()
            if then == "loses":
                assert (await client.answer()).status == 200
                await assert_hedged(f, "lost", winner=0)
                f.unseen_tries = 1
                return
            await until(lambda: next(iter(f.app.balancer.backends.values())).errors == 1)
            if then == "client leaves":
                client.close()
            elif then != "hangs":
                go.set()
            if then == "connects":
                answer = await client.answer()
                assert (answer.status, answer.field("x-nonce")) == (200, "a")
                await assert_hedged(f, "won", winner=1, blamed=(0,))
                return
            f.unseen_tries = 1
            if then == "client leaves":
                await assert_hedged(f, "cancelled", winner=1, blamed=(0,))
                return
            answer = await client.answer()
            assert answer.status == 502
            await assert_hedged(f, "failed", winner=1, blamed=(0, 1))
            kind = "connect_timeout" if then == "hangs" else "connect"
            assert f.app.recorder.errors[[*f.app.balancer.backends][1], kind] == 1

    run(body)


@pytest.mark.parametrize("way", ["close", "reset", "half_close"])
@pytest.mark.parametrize("data", [PLAIN, STREAM])
def test_the_client_leaves_and_both_are_closed(data: bytes, way: str) -> None:
    async def body() -> None:
        first, second = Late(), Late()
        async with fleet(2, **EAGER) as f:
            f.play.scripts = [first, second]
            client = await f.dial()
            await client.send(ask("a", body=data))
            await both_asked(first, second)
            getattr(client, way)()
            await first.closed()
            await second.closed()
            await assert_hedged(f, "cancelled", winner=0)
            assert (await line_of(f))["outcome"] == "client_gone"

    run(body)


@pytest.mark.parametrize("end", ["the client leaves", "it is refused"])
def test_what_has_ended_is_not_looked_at_any_more(end: str) -> None:
    async def body() -> None:
        options: dict[str, Any] = {"hedging": {"delay": "5s", "budget": "100%"}}
        async with fleet(1, **options) as f:
            slow = Late(LATE_FAILURES["half a head"])
            f.play.scripts = [slow]
            client = await f.dial()
            await client.send(request())
            await until(slow.asked.is_set)
            race = next(iter(f.app.service.exchanges)).race
            assert race is not None
            timer = race.timer
            assert timer is not None
            if end == "the client leaves":
                client.close()
            else:
                slow.go.set()
                assert (await client.answer()).status == 502
            await until(lambda: not f.app.service.exchanges)
            assert race.timer is None
            assert timer.cancelled()

    run(body)


def test_a_stop_ends_both() -> None:
    async def body() -> None:
        first, second = Late(), Late()
        async with fleet(2, **EAGER) as f:
            f.play.scripts = [first, second]
            client = await f.dial()
            await client.send(request())
            await both_asked(first, second)
            assert await f.stop() == 1
            assert (await client.answer()).status == 503
            await first.closed()
            await second.closed()
            line = await line_of(f)
            assert (line["error"], line["hedge"]["outcome"]) == ("shutdown", "cancelled")
            assert [b.errors for b in f.app.balancer.backends.values()] == [0, 0]

    run(body)


def test_a_drain_waits_for_the_winner() -> None:
    async def body() -> None:
        first, second = Late(), Late()
        async with fleet(2, **EAGER) as f:
            f.play.scripts = [first, second]
            client = await f.dial()
            await client.send(request())
            await both_asked(first, second)
            stop = asyncio.create_task(f.stop(drain=5.0))
            await until(lambda: f.app.service.draining)
            second.go.set()
            assert (await client.answer()).status == 200
            assert await stop == 0
            await first.closed()

    run(body)


async def _remove(f: Fleet, number: int) -> None:
    id = [*f.app.balancer.backends][number]
    told = await f.app.reloader.remove(id, force=True)
    assert told["broken"] == 1


@pytest.mark.parametrize("removed", [0, 1])
def test_a_backend_that_is_taken_away_ends_its_try_only(removed: int) -> None:
    async def body() -> None:
        both = Late(), Late()
        async with fleet(3, **EAGER) as f:
            f.play.scripts = [*both]
            client = await f.dial()
            await client.send(request())
            await both_asked(*both)
            await _remove(f, removed)
            await both[removed].closed()
            both[1 - removed].go.set()
            answer = await client.answer()
            assert (answer.status, answer.field("x-nonce")) == (200, "a")
            assert len(f.seen) == 2

    run(body)


def test_the_hedge_breaks_in_the_middle_of_its_first_event() -> None:
    async def body() -> None:
        async def half(peer: Peer, seen: Seen) -> None:
            await peer.send(sse_head(seen) + b"40\r\ndata: {")
            await asyncio.sleep(0.01)
            peer.reset()

        first = Late()
        async with fleet(2, **EAGER) as f:
            f.play.scripts = [first, half]
            answer = await f.get(ask("a", body=STREAM))
            assert answer.status == 200
            assert not answer.whole, "its first byte was the commit: then the usual holds"
            await first.closed()

    run(body)


def test_the_hedges_stream_ends_too_early_in_its_first_piece() -> None:
    async def body() -> None:
        async def early(peer: Peer, seen: Seen) -> None:
            await peer.send(sse_head(seen))
            await asyncio.sleep(0.01)
            await peer.send(chunk(event(0)) + LAST)

        async with fleet(2, **EAGER) as f:
            f.play.scripts = [Late(), early]
            answer = await f.get(ask("a", body=STREAM))
            assert (answer.status, answer.whole) == (200, False)
            assert b"stream_broken" in answer.body
            assert (await line_of(f))["error"] == "stream_incomplete"

    run(body)


def test_the_next_request_on_the_connection_is_its_own() -> None:
    async def body() -> None:
        async with fleet(2, **EAGER) as f:
            client = await f.dial()
            for number in range(6):
                f.play.scripts = [Late(), streaming()]
                await client.send(ask(f"n{number}", body=STREAM))
                answer = await client.answer()
                assert answer.field("x-nonce") == f"n{number}"
                assert answer.body == event(0) + event(1) + event(2) + DONE
            assert f.app.recorder.hedges["won"] == 6
            assert LAST not in client.unread

    run(body)
