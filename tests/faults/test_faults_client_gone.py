"""Cases 41 to 47: a client that leaves frees the engine within a second, whatever the request was waiting for."""

from __future__ import annotations

import asyncio

import pytest
from peers import Peer, Seen, run, until
from running import CHAT, DONE, LAST, Fleet, ask, chunk, event, fleet, hang, reply, sse_head
from test_faults_retry import BlackHole

WAYS = ["close", "reset", "half_close"]
ROUTES = [CHAT, "/v1/completions", "/v1/responses", "/v1/messages", "/generate_stream"]


async def freed(f: Fleet, waited: float = 1.0) -> None:
    """The engine's connection is closed, the lease too, and nobody is blamed."""
    await until(lambda: not f.busy, "the engine's connection is closed", waited)
    await until(lambda: not f.app.service.exchanges, "the exchange is over", waited)
    assert f.app.balancer.ledger.opened == f.app.balancer.ledger.closed
    assert [backend.errors for backend in f.app.balancer.backends.values()] == [0] * len(f.engines)


async def stall(peer: Peer, seen: Seen) -> None:
    """Begin a stream and go on for ever, slowly."""
    await peer.send(sse_head(seen))
    while not peer.over:
        await peer.send(chunk(event(1)))
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("way", WAYS)
def test_gone_while_waiting_for_the_answer(way: str) -> None:
    async def body() -> None:
        async with fleet(2, default=hang) as f:
            client = await f.dial()
            await client.send(ask())
            await until(lambda: f.seen)
            getattr(client, way)()
            await freed(f)
            (line,) = await f.logged(1)
            assert (line["status"], line["outcome"], line["error"]) == (499, "client_gone", "client_gone")
            assert len(f.seen) == 1

    run(body)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("route", ROUTES)
def test_gone_in_the_middle_of_a_stream(route: str, way: str) -> None:
    async def body() -> None:
        async with fleet(2, default=stall) as f:
            client = await f.dial()
            await client.send(ask(target=route))
            await client.expect(event(1))
            getattr(client, way)()
            await freed(f)
            (line,) = await f.logged(1)
            assert (line["outcome"], line["tries"]) == ("client_gone", 1)

    run(body)


@pytest.mark.parametrize("way", WAYS)
def test_gone_after_the_head_before_the_first_event(way: str) -> None:
    async def head_only(peer: Peer, seen: Seen) -> None:
        await peer.send(sse_head(seen))
        await peer.end(60.0)

    async def body() -> None:
        async with fleet(2, default=head_only) as f:
            client = await f.dial()
            await client.send(ask())
            await until(lambda: f.seen)
            await asyncio.sleep(0.02)
            getattr(client, way)()
            await freed(f)

    run(body)


@pytest.mark.parametrize("way", WAYS)
def test_gone_while_connecting(way: str) -> None:
    async def body() -> None:
        async with fleet(1, timeouts={"connect": "30s"}) as f:
            await f.engines[0].refuse()
            hole = BlackHole(f.engines[0].address)
            try:
                client = await f.dial()
                await client.send(ask())
                await until(lambda: f.app.service.exchanges, "the request is under way")
                getattr(client, way)()
                await freed(f)
                f.unseen_tries = 1
                hanging = [task for task in asyncio.all_tasks() if "_connect(" in repr(task)]
                assert hanging == [], "nobody waits for the connection any more"
            finally:
                hole.close()

    run(body)


def test_gone_just_as_the_connection_comes_about() -> None:
    async def body() -> None:
        async with fleet(2, default=hang) as f:
            for _ in range(30):
                client = await f.dial()
                await client.send(ask())
                await until(lambda: f.app.service.exchanges)
                client.reset()  # at any point between connecting and waiting
                await until(lambda: not f.app.service.exchanges)
            await freed(f)
            f.unseen_tries = 30 - len(f.seen)

    run(body)


@pytest.mark.parametrize("way", ["close", "reset"])
def test_case_46_gone_with_a_pipeline_behind_it(way: str) -> None:
    async def body() -> None:
        async with fleet(1, default=hang) as f:
            client = await f.dial()
            await client.send(ask() + ask("two", body=b"x" * 300_000) + b"x" * 100_000)
            await until(lambda: f.seen)
            await until(lambda: client.transport.get_write_buffer_size() == 0 or client.blocked)
            getattr(client, way)()
            await freed(f)
            assert len(f.seen) == 1

    run(body)


def test_case_46_gone_while_it_does_not_read() -> None:
    async def flood(peer: Peer, seen: Seen) -> None:
        await peer.send(sse_head(seen))
        while not peer.over:
            await peer.send(chunk(event(1) * 400))
            await asyncio.sleep(0)

    async def body() -> None:
        async with fleet(1, default=flood) as f:
            for way in ("reset", "close"):
                client = await f.dial(receive_buffer=4_096)
                client.stop_reading()
                await client.send(ask())
                await until(lambda: any(peer.blocked for peer in f.busy), "the engine is held back")
                getattr(client, way)()
                await freed(f)

    run(body)


def test_gone_during_the_second_try() -> None:
    async def slow_503(peer: Peer, seen: Seen) -> None:
        await reply(b"{}", "503 Busy")(peer, seen)

    async def body() -> None:
        async with fleet(3) as f:
            f.play.scripts = [slow_503, hang]
            client = await f.dial()
            await client.send(ask())
            await until(lambda: len(f.seen) == 2)
            client.reset()
            await until(lambda: not f.app.service.exchanges)
            await until(lambda: not f.busy)
            assert len(f.seen) == 2
            (line,) = await f.logged(1)
            assert (line["tries"], line["outcome"]) == (2, "client_gone")

    run(body)


def test_case_44_many_streams_cut_at_once() -> None:
    async def body() -> None:
        async with fleet(2, default=stall) as f:
            clients = [await f.dial() for _ in range(100)]
            for client in clients:
                await client.send(ask())
            for client in clients:
                await client.expect(event(1))
            for number, client in enumerate(clients):
                getattr(client, WAYS[number % 3])()
            await freed(f)
            f.play.default = reply()
            assert (await f.get()).status == 200

    run(body)


def test_a_connection_whose_client_left_is_not_used_again() -> None:
    async def late(peer: Peer, seen: Seen) -> None:
        await peer.send(sse_head(seen) + chunk(event(1)))
        await asyncio.sleep(0.05)
        await peer.send(chunk(b"data: evil\n\n") + chunk(DONE) + LAST)

    async def body() -> None:
        async with fleet(1) as f:
            for number in range(5):
                f.play.scripts = [late]
                client = await f.dial()
                await client.send(ask("gone"))
                await client.expect(event(1))
                client.close()
                answer = await f.get(ask(f"n{number}"))
                assert answer.field("x-nonce") == f"n{number}"
                assert b"evil" not in answer.raw

    run(body)


def test_a_client_that_leaves_between_requests_is_no_outcome() -> None:
    async def body() -> None:
        async with fleet(1) as f:
            for way in WAYS:
                client = await f.dial()
                await client.send(ask())
                await client.answer()
                getattr(client, way)()
            quiet = await f.dial()
            quiet.close()
            half = await f.dial()
            await half.send(b"POST / HT")
            half.close()
            await until(lambda: not f.app.service.clients)
            assert {line["status"] for line in await f.logged(3)} == {200}

    run(body)
