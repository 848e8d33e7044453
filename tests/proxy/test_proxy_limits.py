"""Limits and slow clients: sizes and counts that are refused, deadlines, and memory when nobody reads."""

from __future__ import annotations

import asyncio
import json

from peers import Peer, Seen, run, until
from running import CHAT, LAST, Fleet, ask, chunk, event, fleet, reply, sse_head
from test_proxy_framing import HOST, POST, check, refused

from fairlead.proxy.client import Client


async def status_of(f: Fleet, data: bytes) -> tuple[int, str]:
    client = await f.dial()
    await client.send(data)
    answer = await client.answer()
    assert await client.end() == b""
    assert answer.whole
    assert answer.field("connection") == "close"
    return answer.status, json.loads(answer.body)["error"]["code"]


def test_what_is_too_large_is_refused_and_no_engine_sees_it() -> None:
    async def body() -> None:
        async with fleet(limits={"body": "1KiB", "head": "32KiB", "headers": 20}) as f:
            long = b"GET /" + b"x" * 17_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n"
            assert (await status_of(f, long))[0] == 414
            many = b"GET / HTTP/1.1\r\n" + HOST + b"X: y\r\n" * 20 + b"\r\n"
            assert (await status_of(f, many))[0] == 431
            big = b"GET / HTTP/1.1\r\n" + HOST + b"X: " + b"y" * 33_000
            assert (await status_of(f, big))[0] == 431
            assert (await status_of(f, big + b"\r\n\r\n"))[0] == 431
            assert await status_of(f, POST + HOST + b"Content-Length: 1025\r\n\r\n") == (413, "body_too_large")
            chunked = POST + HOST + b"Transfer-Encoding: chunked\r\n\r\n"
            assert (await status_of(f, chunked + chunk(b"x" * 600) + chunk(b"x" * 600)))[0] == 413
            assert (await status_of(f, chunked + b"FFFFFFFFFFFFFFFF\r\n"))[0] == 413
            assert (await status_of(f, chunked + b"500\r\n"))[0] == 413
            assert f.seen == []
            assert (await f.get(ask(target="/v1/x", body=b"x" * 1024))).status == 200
            fits = b"GET /v1/x HTTP/1.1\r\n" + HOST + b"X: y\r\n" * 19 + b"\r\n"
            assert (await f.get(fits)).status == 200
            assert {line["status"] for line in await f.logged(10)} == {200, 413, 414, 431}

    run(body)


def test_the_number_of_fields_is_limited_for_heads_that_were_seen_under_another_limit() -> None:
    head = POST + HOST + b"X: y\r\n" * 30 + b"Content-Length: 2\r\n\r\n{}"

    async def body() -> None:
        async with fleet() as wide:
            assert (await wide.get(head)).status == 200
            assert (await wide.get(head)).status == 200
        async with fleet(limits={"headers": 20}) as narrow:
            assert await refused(narrow, head, (431,)) == ""
            assert narrow.seen == []

    run(body)


def test_a_head_or_body_that_does_not_come_in_time_is_408() -> None:
    async def body() -> None:
        async with fleet(timeouts={"client_header": "300ms", "client_body": "300ms", "client_idle": "300ms"}) as f:
            dripping = await f.dial()
            silent = await f.dial()
            stuck = await f.dial()
            idle = await f.dial()
            await stuck.send(POST + HOST + b"Content-Length: 10\r\n\r\nabc")
            await idle.send(ask())
            assert (await idle.answer()).status == 200
            for _ in range(1000):  # a total deadline: each byte does not begin it anew
                if dripping.over:
                    break
                await dripping.send(b"G" if not dripping.received else b"x")
                await asyncio.sleep(0.01)
            assert (await dripping.answer()).status == 408
            assert (await stuck.answer()).status == 408
            assert await silent.end() == b""
            assert await idle.end() == b""  # no stray 408 between requests
            assert len(f.seen) == 1
            assert sorted(line["status"] for line in await f.logged(3)) == [200, 408, 408]

    run(body)


def test_too_many_connections_are_told_so() -> None:
    async def body() -> None:
        async with fleet(limits={"connections": 3}) as f:
            first = [await f.dial() for _ in range(3)]
            await until(lambda: len(f.app.service.clients) == 3)
            extra = await f.dial()
            answer = await extra.answer()
            assert answer.status == 503
            assert answer.field("retry-after")
            assert await extra.end() == b""
            extra.close()
            await first[0].send(ask())
            assert (await first[0].answer()).status == 200
            first[1].close()
            await until(lambda: len(f.app.service.clients) == 2)
            assert (await f.get()).status == 200

    run(body)


def test_a_backend_at_its_connection_limit_gets_no_more() -> None:
    async def body() -> None:
        go = asyncio.Event()

        async def slow(peer: Peer, seen: Seen) -> None:
            await go.wait()
            await reply()(peer, seen)

        async with fleet(2, default=slow, backend={"max_connections": 2}) as f:
            running = [await f.dial() for _ in range(4)]
            for client in running:
                await client.send(ask())
            await until(lambda: len(f.seen) == 4)
            assert [len(engine.seen) for engine in f.engines] == [2, 2]
            answer = await f.get()
            assert answer.status == 503
            assert answer.field("retry-after")
            assert json.loads(answer.body)["error"]["code"] == "at_capacity"
            go.set()
            assert [(await client.answer()).status for client in running] == [200] * 4
            assert (await f.get()).status == 200

    run(body)


def unsent(f: Fleet) -> int:
    """Bytes that wait in the App's buffers for its clients."""
    clients = [client for client in f.app.service.clients if isinstance(client, Client)]
    return sum(client.transport.get_write_buffer_size() for client in clients)


async def settled(f: Fleet) -> int:
    """What waits for clients once an engine is held back for good, or when it is clear that none is."""
    held = 0
    while held < 60 and unsent(f) < 8 << 20:
        held = held + 1 if any(peer.blocked for peer in f.busy) else 0
        await asyncio.sleep(0.002)
    return unsent(f)


def test_a_client_that_stops_reading_stops_the_engine_and_nothing_is_lost() -> None:
    async def body() -> None:
        async with fleet() as f:
            total = 24 << 20
            piece = bytes(range(256)) * 256

            async def flood(peer: Peer, seen: Seen) -> None:
                await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % total)
                for _ in range(total // len(piece)):
                    await peer.send(piece)

            f.play.scripts = [flood]
            client = await f.dial(receive_buffer=16_384)
            await client.send(ask())
            await client.expect(b"\r\n\r\n")
            client.stop_reading()
            assert await settled(f) <= 1 << 18
            client.go_on_reading()
            body = await client.take(total, 20.0)
            assert body == piece * (total // len(piece))

    run(body)


def test_a_pipelined_answer_is_held_back_too_when_the_one_before_it_still_waits() -> None:
    async def body() -> None:
        async with fleet() as f:

            async def to_the_brim(peer: Peer, seen: Seen) -> None:
                """Fill the App's buffer to just below its limit; cross it with the last bytes of the answer."""
                await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                while not unsent(f):
                    peer.transport.write(chunk(b"x" * 3_500))
                    await asyncio.sleep(0.002)
                await peer.send(chunk(b"y" * 30_000) + LAST)

            async def flood(peer: Peer, seen: Seen) -> None:
                await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                for _ in range(300):
                    await peer.send(chunk(b"z" * 65_536))
                await peer.send(LAST)

            f.play.scripts = [to_the_brim, flood]
            client = await f.dial(receive_buffer=4_096)
            client.stop_reading()
            await client.send(ask("one"))
            await until(lambda: f.seen and not f.app.service.exchanges, "the first answer is over")
            assert unsent(f) > 20_000
            await client.send(ask("two"))
            await until(lambda: len(f.seen) == 2, "the second request is under way")
            assert await settled(f) <= 1 << 20
            client.reset()

    run(body)


def test_a_client_that_never_takes_its_answer_is_let_go() -> None:
    async def body() -> None:
        async with fleet(timeouts={"client_write": "300ms", "client_idle": "300ms"}) as f:

            async def endless(peer: Peer, seen: Seen) -> None:
                await peer.send(sse_head(seen))
                while not peer.over:
                    await peer.send(chunk(event(1) * 500))
                    await asyncio.sleep(0)

            f.play.scripts = [endless]
            client = await f.dial(receive_buffer=4_096)
            client.stop_reading()
            await client.send(ask())
            await until(lambda: f.busy)
            await until(lambda: not f.busy, "the engine is freed")
            await until(lambda: not f.app.service.clients, "the client is cut off")
            assert (await f.logged(1))[0]["error"] == "client_stalled"

    run(body)


def test_a_client_that_never_takes_the_end_of_its_answer_is_let_go() -> None:
    async def body() -> None:
        async with fleet(timeouts={"client_write": "300ms", "client_idle": "300ms"}) as f:

            async def fill(peer: Peer, seen: Seen) -> None:
                await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                while not unsent(f):
                    await peer.send(chunk(b"x" * 8_000))
                    await asyncio.sleep(0.001)
                await peer.send(LAST)

            for fields in ("", "Connection: close\r\n"):
                f.play.scripts = [fill]
                client = await f.dial(receive_buffer=4_096)
                client.stop_reading()
                await client.send(ask(fields=fields))
                await until(lambda: f.seen and not f.app.service.exchanges, "the exchange is over")
                await until(lambda: not f.app.service.clients, f"the client is cut off ({fields.strip()})")

    run(body)


def test_a_client_that_reads_slowly_is_not_cut_off() -> None:
    async def body() -> None:
        async with fleet(timeouts={"client_write": "400ms"}) as f:
            total = 12 << 20
            f.play.scripts = [reply(b"x" * total)]
            client = await f.dial(receive_buffer=16_384)
            await client.send(ask())
            await client.expect(b"\r\n\r\n")
            got = 0
            while not got or got < 9 << 20:  # drink, rest, drink again, each rest shorter than the limit
                before = len(client.received)
                client.go_on_reading()
                await until(lambda before=before: len(client.received) > before + 1_500_000)  # type: ignore[misc]
                client.stop_reading()
                await asyncio.sleep(0.15)
                got = len(client.received)
            client.go_on_reading()
            assert len(await client.take(total)) == total

    run(body)


def test_limits_hold_byte_by_byte() -> None:
    check({"fields": POST + HOST + b"X: y\r\n" * 101 + b"\r\n"}, (431,))


def test_an_upload_cut_in_its_middle_reaches_no_engine() -> None:
    async def body() -> None:
        async with fleet() as f:
            for way in ("close", "reset", "half_close"):
                for head in (b"Content-Length: 100\r\n\r\n{", b"Transfer-Encoding: chunked\r\n\r\n5\r\n{}"):
                    client = await f.dial()
                    await client.send(b"POST %b HTTP/1.1\r\n" % CHAT.encode() + HOST + head)
                    await until(lambda: f.app.service.clients)
                    getattr(client, way)()
                    await until(lambda: not f.app.service.clients, way)
            assert f.seen == []

    run(body)
