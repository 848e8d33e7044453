"""Case 67: stopping. What runs may finish, nothing new begins, at the deadline the rest is ended visibly."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

from peers import Gone, Peer, Script, Seen, dial, run, until
from running import DONE, LAST, Fleet, ask, chunk, event, fleet, hang, raw, sse_head
from test_faults_midstream import assert_broken

from fairlead.proxy.client import Client


def until_told(go: asyncio.Event) -> Script:
    async def play(peer: Peer, seen: Seen) -> None:
        await peer.send(sse_head(seen) + chunk(event(1)))
        await go.wait()
        await peer.send(chunk(event(2)) + chunk(DONE) + LAST)

    return play


async def begun(f: Fleet, nonce: str = "a") -> Peer:
    client = await f.dial()
    await client.send(ask(nonce))
    await client.expect(event(1))
    client.read = 0
    return client


def stopping(body: Callable[[Fleet, asyncio.Event], object]) -> None:
    async def whole() -> None:
        go = asyncio.Event()
        async with fleet(2, default=until_told(go)) as f:
            await body(f, go)  # type: ignore[misc]

    run(whole)


def test_a_running_stream_finishes_and_nothing_new_begins() -> None:
    async def body(f: Fleet, go: asyncio.Event) -> None:
        client = await begun(f)
        idle = await f.dial()
        await until(lambda: len(f.app.service.clients) == 2)
        stop = asyncio.create_task(f.stop(drain=10.0))
        assert await idle.end() == b""
        try:
            late = await dial(f.address)
            await late.send(ask("late"))
            assert await late.end() == b""
            late.close()
        except OSError:
            pass  # refused: nobody listens any more
        assert not stop.done()
        go.set()
        answer = await client.answer()
        assert answer.whole
        assert answer.body.endswith(DONE)
        assert await client.end() == b"", "the connection is closed behind it"
        assert await stop == 0
        assert len(f.seen) == 1

    stopping(body)


def test_answers_that_begin_during_the_drain_announce_the_close() -> None:
    async def body(f: Fleet, go: asyncio.Event) -> None:
        release = asyncio.Event()

        async def late(peer: Peer, seen: Seen) -> None:
            await release.wait()
            await until_told(go)(peer, seen)

        f.play.scripts = [late]
        client = await f.dial()
        await client.send(ask())
        await until(lambda: f.seen)
        stop = asyncio.create_task(f.stop(drain=10.0))
        await until(lambda: f.app.service.draining)
        release.set()
        go.set()
        answer = await client.answer()
        assert (answer.whole, answer.field("connection")) == (True, "close")
        assert await client.end() == b""
        assert await stop == 0

    stopping(body)


def test_a_kept_connection_begins_nothing_new_while_others_still_run() -> None:
    async def body(f: Fleet, go: asyncio.Event) -> None:
        own = asyncio.Event()
        f.play.scripts = [until_told(own)]
        first = await begun(f, "first")
        second = await begun(f, "second")
        stop = asyncio.create_task(f.stop(drain=10.0))
        await until(lambda: f.app.service.draining)
        own.set()
        assert (await first.answer()).whole
        await first.send(ask("new"))
        try:
            answer = await first.answer()
            assert (answer.status, answer.field("connection")) == (503, "close")
        except Gone:
            pass  # closed without a byte: the client may safely send it elsewhere
        assert [seen.nonce for seen in f.seen] == ["first", "second"]
        go.set()
        assert (await second.answer()).whole
        assert await stop == 0

    stopping(body)


def test_at_the_deadline_streams_end_with_an_error_event() -> None:
    async def body(f: Fleet, go: asyncio.Event) -> None:
        clients = [await begun(f, f"n{number}") for number in range(4)]
        assert await f.stop(drain=0.15) == 4
        for client in clients:
            answer = await client.answer()
            assert_broken(answer, event(1))
            assert client.over
        lines = await f.logged(4)
        assert {(line["error"], line["tries"]) for line in lines} == {("shutdown", 1)}
        assert [backend.errors for backend in f.app.balancer.backends.values()] == [0, 0]
        await until(lambda: not f.busy, "the engines are freed")

    stopping(body)


def test_at_the_deadline_requests_without_an_answer_are_told_to_come_again() -> None:
    async def body(f: Fleet, go: asyncio.Event) -> None:
        f.play.scripts = [hang]
        client = await f.dial()
        await client.send(ask())
        await until(lambda: f.seen)
        assert await f.stop(drain=0.0) == 1
        answer = await client.answer()
        assert answer.status == 503
        assert answer.field("retry-after")
        assert json.loads(answer.body)["error"]["code"] == "shutdown"
        assert await client.end() == b""
        ledger = f.app.balancer.ledger
        assert ledger.opened == ledger.closed

    stopping(body)


def test_a_stop_with_nothing_to_do_is_quick() -> None:
    async def body(f: Fleet, go: asyncio.Event) -> None:
        clients = [await f.dial() for _ in range(5)]
        await until(lambda: len(f.app.service.clients) == 5)
        loop = asyncio.get_running_loop()
        begin = loop.time()
        assert await f.stop(drain=30.0) == 0
        assert loop.time() - begin < 2.0
        for client in clients:
            assert await client.end() == b""

    stopping(body)


def test_health_tells_of_the_drain_on_open_connections() -> None:
    async def body(f: Fleet, go: asyncio.Event) -> None:
        running = await begun(f)
        probe = await f.dial()
        await probe.send(b"GET /health HTTP/1.1\r\n")  # not idle: its request has begun
        await until(lambda: len(f.app.service.clients) == 2)
        stop = asyncio.create_task(f.stop(drain=10.0))
        await until(lambda: f.app.service.draining)
        await probe.send(b"Host: a\r\n\r\n")
        answer = await probe.answer()
        assert (answer.status, answer.field("connection")) == (503, "close")
        go.set()
        assert (await running.answer()).whole
        await stop

    stopping(body)


def test_an_answer_that_waits_in_our_buffer_is_delivered_before_the_end() -> None:
    big = b"x" * 20_000_000

    async def body() -> None:
        async with fleet(1, default=raw(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(big) + big)) as f:
            client = await f.dial(receive_buffer=65_536)
            client.stop_reading()
            await until(lambda: f.app.service.clients)
            (served,) = f.app.service.clients
            # With room for all of it, the engine's last byte reaches us while the client has read nothing: what the
            # sockets do not hold waits in our buffer, however the kernel shares out its own.
            assert isinstance(served, Client)
            served.transport.set_write_buffer_limits(high=2 * len(big))
            await client.send(ask("slow"))
            await until(lambda: f.app.recorder.records)
            assert served.transport.get_write_buffer_size() > 0
            stop = asyncio.create_task(f.stop(drain=10.0))
            await until(lambda: f.app.service.draining)
            client.go_on_reading()
            answer = await client.answer()
            assert len(answer.body) == len(big)
            assert await stop == 0

    run(body)


def test_a_request_on_its_way_in_is_answered() -> None:
    async def body() -> None:
        async with fleet(1) as f:
            client = await f.dial()
            request = ask("half")
            await client.send(request[:-20])
            await until(lambda: any(c.busy for c in f.app.service.clients))
            stop = asyncio.create_task(f.stop(drain=10.0))
            await until(lambda: f.app.service.draining)
            await client.send(request[-20:])
            answer = await client.answer()
            assert answer.whole
            assert await client.end() == b""
            assert await stop == 0

    run(body)
