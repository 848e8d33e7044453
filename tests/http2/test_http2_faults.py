"""Resets, lost connections, engines that break, and the drain: each request ends once, and visibly."""

from __future__ import annotations

import asyncio
import dataclasses
import json

from http2_peer import STREAM_BODY, Http2Client, dial2, head
from hyperframe.frame import GoAwayFrame, SettingsFrame
from peers import Peer, Seen, run, until
from running import Fleet, chunk, event, fleet, hang, raw, reply, sse_head

from fairlead.wire.frames import PREFACE


async def stall(peer: Peer, seen: Seen) -> None:
    """Begin a stream and go on for ever."""
    await peer.send(sse_head(seen))
    while not peer.over:
        await peer.send(chunk(event(1)))
        await asyncio.sleep(0.01)


async def two_events_then_reset(peer: Peer, seen: Seen) -> None:
    await peer.send(sse_head(seen) + chunk(event(0)) + chunk(event(1)[:-9]))
    await asyncio.sleep(0.02)
    peer.reset()


async def running(f: Fleet, client: Http2Client, count: int) -> list[int]:
    """So many streams, each with an engine at work and an event come."""
    ids = [client.ask(f"n{number}", STREAM_BODY) for number in range(count)]
    await until(lambda: len(f.busy) == count and all(client.got[id].body for id in ids))
    return ids


def test_a_reset_frees_the_engine_of_its_stream_alone() -> None:
    async def body() -> None:
        async with fleet(2, default=stall) as f:
            client = await dial2(f.address)
            first, second = await running(f, client, 2)
            client.reset(first)
            await until(lambda: len(f.busy) == 1, "one engine's connection is closed", 1.0)
            seen = len(client.got[second].body)
            await until(lambda: len(client.got[second].body) > seen)
            (line,) = await f.logged(1)
            assert (line["outcome"], line["error"], line["status"]) == ("client_gone", "client_gone", 200)
            client.reset(second)
            await until(lambda: not f.busy)
            assert (await client.answer(client.get())).status == 200
            client.close()

    run(body)


def test_a_reset_before_the_answer_frees_the_engine() -> None:
    async def body() -> None:
        async with fleet(1, default=hang) as f:
            client = await dial2(f.address)
            id = client.ask()
            await until(lambda: f.seen)
            client.reset(id)
            await until(lambda: not f.busy, "the engine's connection is closed", 1.0)
            (line,) = await f.logged(1)
            assert (line["status"], line["outcome"]) == (499, "client_gone")
            client.close()

    run(body)


def test_a_reset_in_the_middle_of_the_body_leaves_nothing() -> None:
    async def body() -> None:
        async with fleet(1) as f:
            client = await dial2(f.address)
            id = client.begin(head(b"POST", b"/v1/x", (b"content-length", b"100")))
            client.send(id, b"x" * 50)
            await until(lambda: f.app.service.memory.used == 50)
            client.reset(id)
            await until(lambda: f.app.service.memory.used == 0)
            assert not f.seen
            client.close()

    run(body)


def test_a_lost_connection_frees_the_engines_of_all_its_streams() -> None:
    async def body() -> None:
        async with fleet(3, default=stall) as f:
            client = await dial2(f.address)
            await running(f, client, 3)
            client.close()
            await until(lambda: not f.busy, "all engine connections are closed", 1.0)
            lines = await f.logged(3)
            assert [line["outcome"] for line in lines] == ["client_gone"] * 3

    run(body)


def test_a_broken_event_stream_ends_with_an_error_event_and_a_reset() -> None:
    async def body() -> None:
        async with fleet(1, default=two_events_then_reset) as f:
            client = await dial2(f.address)
            got = await client.answer(client.ask("n", STREAM_BODY))
            assert (got.ended, got.reset) == (False, 2)  # INTERNAL_ERROR
            events = got.body.split(b"\n\n")
            assert events[0] + b"\n\n" == event(0)
            error = json.loads(events[-2].removeprefix(b"data: "))["error"]
            assert error["code"] == "stream_broken"
            (line,) = await f.logged(1)
            assert line["error"] == "upstream_broken"
            assert (await client.answer(client.get())).status == 200
            client.close()

    run(body)


def test_a_broken_answer_of_known_length_ends_with_a_reset() -> None:
    async def body() -> None:
        short = raw(b"HTTP/1.1 200 OK\r\nX-Nonce: %NONCE\r\nContent-Length: 10\r\n\r\nhalf", close=True)
        async with fleet(1, default=short) as f:
            client = await dial2(f.address)
            got = await client.answer(client.ask())
            assert (got.body, got.ended, got.reset) == (b"half", False, 2)
            client.close()

    run(body)


def test_an_engine_that_refuses_is_replaced_by_another() -> None:
    async def body() -> None:
        async with fleet(2) as f:
            f.play.scripts.append(reply(b"{}", "503 Service Unavailable"))
            client = await dial2(f.address)
            got = await client.answer(client.ask("n"))
            assert (got.status, got.field(b"x-nonce")) == (200, b"n")
            (line,) = await f.logged(1)
            assert line["tries"] == 2
            client.close()

    run(body)


def test_an_engine_that_stops_in_the_middle_is_given_up() -> None:
    async def once(peer: Peer, seen: Seen) -> None:
        await peer.send(sse_head(seen) + chunk(event(0)))
        await peer.end(60.0)

    async def body() -> None:
        async with fleet(1, default=once, timeouts={"idle": "300ms"}) as f:
            client = await dial2(f.address)
            got = await client.answer(client.ask("n", STREAM_BODY))
            assert (got.ended, got.reset, b"stream_broken" in got.body) == (False, 2, True)
            (line,) = await f.logged(1)
            assert line["error"] == "upstream_idle"
            client.close()

    run(body)


def test_an_engine_that_never_answers_is_a_gateway_timeout() -> None:
    async def body() -> None:
        async with fleet(1, default=hang, timeouts={"first_byte": "300ms"}) as f:
            client = await dial2(f.address)
            got = await client.answer(client.ask())
            assert (got.status, got.ended) == (504, True)
            client.close()

    run(body)


def test_a_drain_says_goaway_and_finishes_what_runs() -> None:
    gate = asyncio.Event()

    async def wait_then_answer(peer: Peer, seen: Seen) -> None:
        await gate.wait()
        await reply()(peer, seen)

    async def body() -> None:
        gate.clear()
        async with fleet(1, default=wait_then_answer) as f:
            client = await dial2(f.address)
            id = client.ask("n")
            await until(lambda: f.seen)

            async def then() -> None:
                await until(lambda: client.goaway is not None)
                gate.set()

            _, left = await asyncio.gather(then(), f.stop(drain=5.0))
            assert left == 0
            assert ((await client.answer(id)).status, client.got[id].ended) == (200, True)
            assert await client.gone() == (id, 0, b"")

    run(body)


def test_a_stream_opened_behind_the_goaway_is_refused_untouched() -> None:
    async def body() -> None:
        async with fleet(1, default=hang) as f:
            client = await dial2(f.address)
            client.ask("n")
            await until(lambda: f.seen)
            f.app.service.draining = True
            for connection in list(f.app.service.clients):
                connection.finish()
            await until(lambda: client.goaway is not None)
            late = client.ask("late")
            assert (await client.answer(late)).reset == 7  # REFUSED_STREAM
            assert [seen.nonce for seen in f.seen] == ["n"]
            client.close()

    run(body)


def test_a_drain_whose_time_is_over_breaks_streams_visibly() -> None:
    async def body() -> None:
        async with fleet(1, default=stall) as f:
            client = await dial2(f.address)
            (id,) = await running(f, client, 1)
            assert await f.stop(drain=0.05) == 1
            got = await client.answer(id)
            assert (got.ended, got.reset, b"stream_broken" in got.body) == (False, 2, True)
            await client.gone()

    run(body)


def test_a_client_that_says_goaway_still_gets_its_answers() -> None:
    async def body() -> None:
        gate = asyncio.Event()

        async def wait_then_answer(peer: Peer, seen: Seen) -> None:
            await gate.wait()
            await reply()(peer, seen)

        async with fleet(1, default=wait_then_answer) as f:
            client = await dial2(f.address)
            id = client.ask("n")
            await until(lambda: f.seen)
            client.raw(GoAwayFrame(0, last_stream_id=0, error_code=0))
            await until(lambda: client.goaway is not None)
            gate.set()
            assert (await client.answer(id)).status == 200
            await client.gone()

    run(body)


def test_a_connection_too_many_is_told_so_before_it_says_what_it_speaks() -> None:
    async def body() -> None:
        async with fleet(1, limits={"connections": 1}) as f:
            first = await dial2(f.address)
            assert (await first.answer(first.get())).status == 200
            second = await f.dial()
            await second.send(PREFACE)
            assert (await second.answer()).status == 503
            first.close()

    run(body)


def test_a_connection_too_many_that_speaks_http2_gets_a_goaway() -> None:
    async def body() -> None:
        async with fleet(1) as f:
            service = f.app.service
            plain = await f.dial()
            await until(lambda: service.clients)
            limits, service.limits = service.limits, dataclasses.replace(service.limits, connections=0)
            await plain.send(PREFACE + SettingsFrame(0).serialize())
            assert b"too many connections" in await plain.end()
            service.limits = limits
            assert (await f.logged(1))[0]["error"] == "too_many_connections"

    run(body)
