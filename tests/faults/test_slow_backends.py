"""Cases 20 to 24: backends that cannot be connected to, take no request, give no answer, or stop in the middle of one.

Each has its own deadline and its own name in metrics and logs. Before the commit point the request goes elsewhere as
far as the retry matrix lets it; after it the stream ends visibly.
"""

from __future__ import annotations

import asyncio
import json

import pytest
from peers import Peer, Seen, run, until
from running import CHAT, DONE, LAST, Fleet, ask, chunk, event, fleet, hang, sse_head, stream
from test_faults_retry import BlackHole

LARGE = b'{"model":"m","messages":[{"role":"user","content":"%b"}]}' % (b"word " * 1_600_000)


def errors(f: Fleet) -> dict[str, int]:
    """Failures of backends, by kind."""
    found: dict[str, int] = {}
    for (_, kind), count in f.app.recorder.errors.items():
        if count:
            found[kind] = found.get(kind, 0) + count
    return found


async def swallow(f: Fleet, number: int) -> BlackHole:
    """Replace an engine by a black hole."""
    engine = f.engines[number]
    await engine.refuse()
    f.app.service.pools[engine.url.removeprefix("http://")].close()
    return BlackHole(engine.address)


def test_case_20_a_black_hole_costs_the_connect_deadline_and_then_the_next_backend_answers() -> None:
    async def body() -> None:
        async with fleet(2, timeouts={"connect": "200ms"}) as f:
            hole = await swallow(f, 0)
            try:
                answers = [await f.get(ask(f"n{number}")) for number in range(2)]
                assert [answer.field("x-nonce") for answer in answers] == ["n0", "n1"]
                f.unseen_tries = 1
                assert sorted(line["tries"] for line in await f.logged(2)) == [1, 2]
                assert errors(f) == {"connect_timeout": 1}
                assert f.app.recorder.retries == {"connect_timeout": 1}
            finally:
                hole.close()

    run(body)


def test_case_20_a_black_hole_alone_is_told_apart_from_a_refusal_in_the_log() -> None:
    async def body() -> None:
        async with fleet(1, timeouts={"connect": "200ms"}) as f:
            hole = await swallow(f, 0)
            try:
                answer = await f.get()
                assert (answer.status, json.loads(answer.body)["error"]["code"]) == (502, "upstream_unreachable")
            finally:
                hole.close()
            assert (await f.get()).status == 503, "nobody is there: that may be over soon"
            f.unseen_tries = 2
            assert [line["error"] for line in await f.logged(2)] == ["connect_timeout", "connect"]
            assert errors(f) == {"connect_timeout": 1, "connect": 1}

    run(body)


@pytest.mark.parametrize("method", ["POST", "PATCH"])
def test_case_21_a_silent_backend_is_left_if_the_request_may_be_sent_twice(method: str) -> None:
    async def body() -> None:
        async with fleet(2, timeouts={"first_byte": "300ms"}) as f:
            f.play.scripts = [hang, stream(2)]
            answer = await f.get(
                ask("a", method=method, target=CHAT if method == "POST" else "/v1/x", body=b'{"model":"m"}')
            )
            if method == "POST":
                assert (answer.status, answer.whole, answer.field("x-nonce")) == (200, True, "a")
                assert len({seen.engine for seen in f.seen}) == 2
            else:
                assert answer.status == 504
                error = json.loads(answer.body)["error"]
                assert error["code"] == "upstream_timeout"
                assert "timeouts.first_byte" in error["message"]
                assert len(f.seen) == 1
            assert errors(f) == {"timeout": 1}
            await until(lambda: len(f.busy) == (method == "POST"), "the silent engine's connection is closed")

    run(body)


def test_case_21_a_silent_backend_delays_nobody_else() -> None:
    async def body() -> None:
        async with fleet(2, timeouts={"first_byte": "60s"}) as f:
            f.engines[0].script = hang
            stuck = [await f.dial() for _ in range(8)]
            for number, client in enumerate(stuck):
                await client.send(ask(f"s{number}"))
            await until(lambda: len(f.seen) == 8)
            done = [client for client in stuck if client.received]
            await until(lambda: sum(bool(client.received) for client in stuck) == 4, "the other backend's are answered")
            for number in range(4):
                client = await f.dial()
                await client.send(ask(f"n{number}"))
                done.append(client)
            await until(lambda: sum(bool(client.received) for client in done[-4:]) == 2)
            assert len(f.engines[0].seen) == 6
            for client in f.clients:
                client.reset()

    run(body)


def deaf(f: Fleet) -> None:
    """Engine 0 takes only the head of what it is sent, and what the sockets hold: much less than LARGE."""

    async def early(peer: Peer, seen: Seen) -> None:
        peer.stop_reading()
        await until(lambda: peer.lost, "the balancer gives up", 60.0)

    f.engines[0].early = early


@pytest.mark.parametrize("route", [CHAT, "/v1/other"])
def test_a_backend_that_takes_nothing_of_a_request_fails_the_try(route: str) -> None:
    async def body() -> None:
        async with fleet(2, timeouts={"send": "300ms"}, backend={}) as f:
            deaf(f)
            first = await f.get(ask("a", target=route, body=LARGE))
            second = await f.get(ask("b", target=route, body=LARGE))
            if route == CHAT:
                assert [first.field("x-nonce"), second.field("x-nonce")] == ["a", "b"]
                assert f.app.recorder.retries == {"send_timeout": 1}
                assert sorted(line["tries"] for line in await f.logged(2)) == [1, 2]
            else:  # the engine may have begun on what it took
                lost = first if first.status != 200 else second
                assert sorted((first.status, second.status)) == [200, 504]
                assert "timeouts.send" in json.loads(lost.body)["error"]["message"]
                assert sorted(str(line["error"]) for line in await f.logged(2)) == ["None", "send_timeout"]
            assert errors(f) == {"send_timeout": 1}
            assert f.app.service.memory.used == 0

    run(body)


def test_a_backend_that_takes_a_request_slowly_is_waited_for_while_it_takes_any() -> None:
    async def early(peer: Peer, seen: Seen) -> None:
        peer.stop_reading()
        await until(lambda: peer.lost, "the balancer gives up", 60.0)

    async def body() -> None:
        async with fleet(1) as f:
            f.engines[0].early = early
            client = await f.dial()
            await client.send(ask("a", target="/v1/other", body=bytes(24 << 20)))  # several times what sockets hold
            await until(lambda: f.busy and any(exchange.unsent for exchange in f.app.service.exchanges))
            exchange, peer = next(iter(f.app.service.exchanges)), f.busy[0]
            assert exchange.upstream is not None
            transport = exchange.upstream.transport
            peer.go_on_reading()
            for _ in range(100_000):  # looked at in every turn of the loop
                if transport.get_write_buffer_size() != exchange.unsent:
                    break
                await asyncio.sleep(0)
            peer.stop_reading()
            assert 0 < transport.get_write_buffer_size() < exchange.unsent
            exchange.on_deadline()
            assert exchange.unsent
            assert errors(f) == {}, "it has as much time again"
            peer.go_on_reading()
            await until(lambda: not transport.get_write_buffer_size(), "it took all")
            assert exchange.unsent == 0, "and now the time for an answer runs"
            exchange.on_deadline()
            assert (await client.answer()).status == 504
            assert errors(f) == {"timeout": 1}

    run(body)


def test_an_answer_that_comes_before_the_request_was_taken_is_relayed() -> None:
    async def early(peer: Peer, seen: Seen) -> None:
        peer.stop_reading()
        await peer.send(b"HTTP/1.1 413 Content Too Large\r\nX-Nonce: a\r\nContent-Length: 2\r\n\r\n{}")
        await until(lambda: peer.lost, "the connection is not used again", 60.0)

    async def body() -> None:
        async with fleet(1) as f:
            f.engines[0].early = early
            answer = await f.get(ask("a", body=LARGE))
            assert (answer.status, answer.body) == (413, b"{}")
            assert f.app.service.memory.used == 0

    run(body)


PING = b": ping\n\n"


async def pings(peer: Peer, seen: Seen) -> None:
    for _ in range(300):
        if peer.over:
            return
        await peer.send(chunk(PING))
        await asyncio.sleep(0.01)
    peer.reset()


def test_case_22_comments_reach_the_client_but_are_no_progress() -> None:
    async def play(peer: Peer, seen: Seen) -> None:
        await peer.send(sse_head(seen) + chunk(event(1)))
        await pings(peer, seen)

    async def body() -> None:
        async with fleet(2, timeouts={"idle": "300ms"}) as f:
            f.play.scripts = [play]
            answer = await f.get()
            assert (answer.status, answer.whole) == (200, False)
            assert answer.body.count(PING) > 3
            assert answer.body.count(b'"code":"stream_broken"') == 1
            await until(lambda: not f.busy, "the engine is told to stop")
            line = (await f.logged(1))[0]
            assert (line["error"], line["outcome"], line["tries"]) == ("upstream_idle", "failed", 1)
            assert errors(f) == {"upstream_idle": 1}

    run(body)


def test_case_22_comments_alone_do_not_stand_for_a_first_token() -> None:
    async def play(peer: Peer, seen: Seen) -> None:
        await peer.send(sse_head(seen))
        await pings(peer, seen)

    async def body() -> None:
        async with fleet(1, timeouts={"idle": "60s", "first_byte": "300ms"}) as f:
            f.play.scripts = [play]
            answer = await f.get()
            assert (answer.status, answer.whole) == (200, False)
            assert answer.body.count(b"stream_broken") == 1
            assert (await f.logged(1))[0]["ttft"] is None

    run(body)


def test_case_22_tokens_after_comments_begin_the_stream() -> None:
    hold = asyncio.Event()

    async def play(peer: Peer, seen: Seen) -> None:
        await peer.send(sse_head(seen) + chunk(PING))
        await hold.wait()
        await peer.send(chunk(event(1)) + chunk(PING) + chunk(DONE) + chunk(PING) + LAST)

    async def body() -> None:
        async with fleet(1) as f:
            f.play.scripts = [play]
            client = await f.dial()
            await client.send(ask("a"))
            await client.expect(PING)
            exchange = next(iter(f.app.service.exchanges))
            assert exchange.relaying
            assert exchange.lease.first_token_at is None
            hold.set()
            await client.expect(LAST)
            assert client.received.endswith(chunk(event(1)) + chunk(PING) + chunk(DONE) + chunk(PING) + LAST)
            line = (await f.logged(1))[0]
            assert (line["outcome"], line["ttft"] is not None) == ("ok", True)

    run(body)


@pytest.mark.parametrize(
    ("pieces", "progress"),
    [
        ([b": ping\n\n"], False),
        ([b":\n\n", b":\r\n\r\n"], False),
        ([b": a long", b" comment\n\n"], True),  # a comment over two chunks: its rest is taken for an event
        ([b"event: ping\n\n"], True),
        ([b"data: x\n\n"], True),
        ([b": ping\n\ndata: x\n\n"], True),
        ([b"id: 1\n"], True),
        ([b"\n"], True),
    ],
)
def test_case_22_what_counts_as_progress(pieces: list[bytes], progress: bool) -> None:
    go = asyncio.Event()

    async def play(peer: Peer, seen: Seen) -> None:
        await peer.send(sse_head(seen) + chunk(event(1)))
        await go.wait()
        for piece in pieces:
            await peer.send(chunk(piece))
            await asyncio.sleep(0.01)
        await hang(peer, seen)

    async def body() -> None:
        async with fleet(1) as f:
            f.play.scripts = [play]
            client = await f.dial()
            await client.send(ask())
            await client.expect(chunk(event(1)))
            ours = next(iter(f.app.service.exchanges)).client
            ours.deadline = 1e12  # a mark that progress wipes out
            go.set()
            for piece in pieces:
                await client.expect(chunk(piece))
            assert (ours.deadline != 1e12) == progress
            client.reset()

    run(body)


def test_case_22_comments_cut_by_reads_and_comments_without_chunks_are_known_too() -> None:
    go = asyncio.Event()

    async def play(peer: Peer, seen: Seen) -> None:
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: x\n\n")
        await go.wait()
        await peer.drip(b": one ping\n\n: and another\n\n")
        await hang(peer, seen)

    async def body() -> None:
        async with fleet(1) as f:
            f.play.scripts = [play]
            client = await f.dial()
            await client.send(ask(version="1.0"))
            await client.expect(b"data: x\n\n")
            ours = next(iter(f.app.service.exchanges)).client
            ours.deadline = 1e12
            go.set()
            await client.expect(b": and another\n\n")
            assert ours.deadline == 1e12
            client.reset()

    run(body)


def test_case_23_a_deadline_in_the_middle_of_a_chunk_ends_the_answer_without_an_event() -> None:
    async def play(peer: Peer, seen: Seen) -> None:
        await peer.send(sse_head(seen) + chunk(event(1)) + b"100\r\ndata: begun")
        await hang(peer, seen)

    async def body() -> None:
        async with fleet(2, timeouts={"idle": "200ms"}) as f:
            f.play.scripts = [play]
            client = await f.dial()
            await client.send(ask())
            raw = await client.end()
            assert raw.endswith(b"100\r\ndata: begun"), "nothing of ours within their chunk, and no last chunk"
            await until(lambda: not f.busy, "the engine is told to stop")
            assert len(f.seen) == 1
            assert (await f.logged(1))[0]["error"] == "upstream_idle"

    run(body)


def test_case_23_a_deadline_after_the_retry_window_is_the_last_one() -> None:
    async def body() -> None:
        async with fleet(3, timeouts={"first_byte": "300ms"}, retries={"window": "100ms"}) as f:
            f.play.scripts = [hang]
            answer = await f.get()
            assert (answer.status, json.loads(answer.body)["error"]["code"]) == (504, "upstream_timeout")
            assert len(f.seen) == 1

    run(body)


def test_case_24_nothing_is_written_to_a_client_before_the_answer_begins() -> None:
    go = asyncio.Event()

    async def slow_head(peer: Peer, seen: Seen) -> None:
        await peer.send(sse_head(seen))  # a head alone commits nothing
        await go.wait()
        peer.reset()

    async def body() -> None:
        async with fleet(2) as f:
            f.play.scripts = [slow_head, stream(1)]
            client = await f.dial()
            await client.send(ask("a"))
            await until(lambda: f.seen)
            wheel = f.app.service.wheel
            then = wheel.now + 1.0
            await until(lambda: wheel.now > then, "ten ticks passed")
            assert not client.received
            go.set()
            answer = await client.answer()
            assert (answer.status, answer.field("x-nonce")) == (200, "a")
            assert len(f.seen) == 2, "so it could still go elsewhere"

    run(body)
