"""Flow control both ways: nothing is sent beyond the client's windows, and a client that opens none costs nobody."""

from __future__ import annotations

import asyncio

from h2.settings import SettingCodes
from http2_peer import STREAM_BODY, dial2, head
from peers import Peer, Seen, run, until
from running import DONE, Fleet, chunk, event, fleet, reply, sse_head

from fairlead.proxy.http2 import Http2Connection
from fairlead.proxy.http2_stream import Http2Stream

BIG = bytes(range(256)) * 4_096  # 1 MiB
ENDLESS = b"data: " + b"x" * 1_000 + b"\n\n"


async def endless(peer: Peer, seen: Seen) -> None:
    """Stream until nobody reads any more."""
    await peer.send(sse_head(seen))
    while not peer.over:
        await peer.send(chunk(ENDLESS))
        await asyncio.sleep(0)


def test_no_byte_goes_beyond_the_streams_window() -> None:
    async def body() -> None:
        async with fleet(1, default=reply(b"0123456789")) as f:
            client = await dial2(f.address, auto=False, window=4)
            id = client.ask()
            got = client.got[id]
            await until(lambda: got.body == b"0123")
            client.open_window(1, id)
            await until(lambda: got.body == b"01234")
            assert not got.over
            client.open_window(100, id)
            assert ((await client.answer(id)).body, got.ended) == (b"0123456789", True)
            client.close()

    run(body)


def test_no_byte_goes_beyond_the_connections_window() -> None:
    async def body() -> None:
        async with fleet(1, default=reply(BIG)) as f:
            client = await dial2(f.address, auto=False, window=1 << 24)
            first, second = client.ask("a"), client.ask("b")
            await until(lambda: len(client.got[first].body) + len(client.got[second].body) == 65_535)
            client.open_window(2 * len(BIG))
            for id in (first, second):
                assert (await client.answer(id)).body == BIG
            client.close()

    run(body)


def test_streams_take_turns_in_a_shared_window() -> None:
    async def body() -> None:
        async with fleet(1, default=reply(BIG)) as f:
            client = await dial2(f.address, auto=False, window=1 << 24)
            ids = [client.ask(f"n{number}") for number in range(3)]
            await until(lambda: sum(len(client.got[id].body) for id in ids) == 65_535)
            await until(lambda: all(s.waiting for s in _streams(f)))  # all three answers are under way now
            before = [len(client.got[id].body) for id in ids]
            client.open_window(3 * 16_384 * 4)
            await until(lambda: sum(len(client.got[id].body) for id in ids) == 65_535 + 3 * 16_384 * 4)
            assert [len(client.got[id].body) - was for id, was in zip(ids, before, strict=True)] == [16_384 * 4] * 3
            client.close()

    run(body)


def _streams(f: Fleet) -> list[Http2Stream]:
    (connection,) = f.app.service.clients
    assert isinstance(connection, Http2Connection)
    return list(connection.streams.values())


def test_a_closed_window_pauses_the_engine_and_bounds_the_buffer() -> None:
    async def body() -> None:
        async with fleet(1, default=endless) as f:
            client = await dial2(f.address, auto=False, window=20_000)
            id = client.ask("n", STREAM_BODY)
            await until(lambda: len(client.got[id].body) == 20_000)
            await until(lambda: f.busy[0].blocked)  # the engine can write no more
            (stream,) = _streams(f)
            assert stream.stalled
            assert stream._queued <= 262_144
            other = client.get()
            assert (await client.answer(other)).status == 200  # other streams go on
            client.open_window(50_000, id)
            await until(lambda: len(client.got[id].body) == 65_535 - len(client.got[other].body))
            client.reset(id)
            await until(lambda: not f.busy)
            client.close()

    run(body)


def test_a_stream_that_takes_nothing_is_given_up_alone() -> None:
    async def body() -> None:
        async with fleet(1, default=endless, timeouts={"client_write": "300ms"}) as f:
            client = await dial2(f.address, auto=False, window=1_000)
            id = client.ask("n", STREAM_BODY)
            assert (await client.answer(id)).reset == 8  # CANCEL
            await until(lambda: not f.busy)
            (line,) = await f.logged(1)
            assert (line["outcome"], line["error"]) == ("client_gone", "client_stalled")
            assert (await client.answer(client.get())).status == 200
            client.close()

    run(body)


def test_a_stream_that_takes_little_by_little_lives_on() -> None:
    async def body() -> None:
        async with fleet(1, default=reply(b"x" * 40), timeouts={"client_write": "200ms"}) as f:
            client = await dial2(f.address, auto=False, window=4)
            id = client.ask()
            for taken in range(4, 40, 4):
                await until(lambda taken=taken: len(client.got[id].body) == taken)  # type: ignore[misc]
                await asyncio.sleep(0.1)
                client.open_window(4, id)
            assert (await client.answer(id)).ended
            client.close()

    run(body)


def test_a_connection_that_takes_nothing_pauses_every_engine_and_ends() -> None:
    async def body() -> None:
        async with fleet(2, default=endless, timeouts={"client_write": "500ms"}) as f:
            client = await dial2(f.address, window=1 << 30, receive_buffer=4_096)
            client.open_window(1 << 30)
            for nonce in ("a", "b"):
                client.ask(nonce, STREAM_BODY)
            await until(lambda: len(f.busy) == 2)
            client.transport.pause_reading()
            await until(lambda: all(peer.blocked for peer in f.busy))
            assert all(stream._queued <= 262_144 for stream in _streams(f))
            await until(lambda: not f.busy)
            await until(lambda: not f.app.service.clients)
            assert {line["error"] for line in await f.logged(2)} == {"client_stalled"}
            client.transport.resume_reading()
            await until(lambda: client.lost)

    run(body)


def test_a_large_body_comes_through_the_windows_that_we_open() -> None:
    async def body() -> None:
        async with fleet(1) as f:
            client = await dial2(f.address)
            id = client.begin(head(b"POST", b"/v1/x", (b"content-length", b"%d" % len(BIG))))
            at = 0
            while at < len(BIG):
                room = min(client.h2.local_flow_control_window(id), 16_384, len(BIG) - at)
                if room:
                    client.send(id, BIG[at : at + room], end=at + room == len(BIG))
                    at += room
                else:
                    await asyncio.sleep(0)
            assert (await client.answer(id)).status == 200
            assert f.seen[0].body == BIG
            client.close()

    run(body)


def test_a_window_that_shrinks_below_zero_opens_again() -> None:
    async def body() -> None:
        async with fleet(1, default=reply(b"0123456789")) as f:
            client = await dial2(f.address, auto=False, window=6)
            id = client.ask()
            await until(lambda: client.got[id].body == b"012345")
            client.h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 2})
            client.flush()
            client.open_window(4, id)  # back to zero
            client.h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 100})
            client.flush()
            assert (await client.answer(id)).body == b"0123456789"
            client.close()

    run(body)


def test_events_are_not_held_back() -> None:
    gate = asyncio.Event()

    async def one_by_one(peer: Peer, seen: Seen) -> None:
        await peer.send(sse_head(seen))
        for number in range(3):
            await peer.send(chunk(event(number)))
            await gate.wait()
            gate.clear()
        await peer.send(chunk(DONE) + b"0\r\n\r\n")

    async def body() -> None:
        gate.clear()
        async with fleet(1, default=one_by_one) as f:
            client = await dial2(f.address)
            id = client.ask("n", STREAM_BODY)
            for number in range(3):
                await until(lambda n=number: client.got[id].body.endswith(event(n)))  # type: ignore[misc]
                gate.set()
            assert (await client.answer(id)).ended
            client.close()

    run(body)
