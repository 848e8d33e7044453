"""Cases 17 to 19: clients that send slowly, go idle, or do not read.

A slow client is told so, or let go of, within a time that its bytes cannot stretch; no engine sees a byte of what did
not come in whole, and no engine works for a client that takes nothing.
"""

from __future__ import annotations

import asyncio
import json
import socket

import pytest
from peers import Gone, Peer, Seen, run, until
from running import CHAT, LAST, Fleet, ask, chunk, event, fleet, reply, sse_head

from fairlead.proxy.memory import FLOOR_RATE, Body, BodyMemory

POST = b"POST %b HTTP/1.1\r\nHost: test\r\n" % CHAT.encode()


def refusals(f: Fleet) -> dict[str, int]:
    """What was refused or cut off, by reason."""
    return {reason: count for reason, count in f.app.recorder.refusals.items() if count}


async def drip(client: Peer, byte: bytes) -> None:
    """Send it again and again, as long as anybody takes it (and not for ever)."""
    for _ in range(300):
        if client.over or client.received:
            break
        await client.send(byte)
        await asyncio.sleep(0.01)


async def told(client: Peer, status: int, code: str) -> None:
    """The client gets this error, whole, and then the close."""
    answer = await client.answer()
    assert (answer.status, answer.whole, answer.field("connection")) == (status, True, "close")
    assert json.loads(answer.body)["error"]["code"] == code
    assert await client.end() == b""


@pytest.mark.parametrize("byte", [b"x", b"\r\n"])
def test_case_17_a_dripping_head_has_one_deadline_in_all(byte: bytes) -> None:
    async def body() -> None:
        async with fleet(timeouts={"client_header": "300ms", "client_idle": "300ms"}) as f:
            clients = [await f.dial() for _ in range(20)]
            for client in clients:
                await client.send(b"GET / HTTP/1.1\r\nHost: test\r\nX-Long: ")
            await asyncio.gather(*[drip(client, byte if byte == b"x" else b"y\r\nX: ") for client in clients])
            for client in clients:
                await told(client, 408, "header_timeout")
            assert (await f.get()).status == 200
            assert len(f.seen) == 1
            assert refusals(f) == {"header_timeout": 20}
            assert [line["error"] for line in await f.logged(21)].count("header_timeout") == 20

    run(body)


def test_case_17_empty_lines_before_a_request_win_no_time() -> None:
    async def body() -> None:
        async with fleet(timeouts={"client_header": "300ms"}) as f:
            client = await f.dial()
            loop = asyncio.get_running_loop()
            until_then = loop.time() + 3.0
            while not client.over and loop.time() < until_then:
                await client.send(b"\r")
                await asyncio.sleep(0.01)
                await client.send(b"\n")
                await asyncio.sleep(0.01)
            assert client.over, "the connection is closed though bytes came all the time"
            assert not f.seen

    run(body)


@pytest.mark.parametrize("head", [b"Content-Length: 100000\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n186A0\r\n"])
def test_case_17_a_body_below_the_floor_rate_is_408(head: bytes) -> None:
    async def body() -> None:
        async with fleet(timeouts={"client_body": "300ms"}) as f:
            client = await f.dial()
            await client.send(POST + head)
            await drip(client, b"x")
            await told(client, 408, "body_timeout")
            assert not f.seen
            assert refusals(f) == {"body_timeout": 1}
            assert f.app.service.memory.used == 0
            assert (await f.logged(1))[0]["path"] == CHAT

    run(body)


def test_case_17_the_time_for_a_body_grows_with_its_bytes_and_no_rest_is_long() -> None:
    body = Body(BodyMemory(1 << 20), 1 << 20, 100_000, 1000.0)
    assert body.deadline(1000.0, 60.0) == 1060.0
    body.feed(b"x" * 10_240)
    assert body.deadline(1030.0, 60.0) == 1000.0 + 10_240 / FLOOR_RATE + 60.0
    body.feed(b"x" * 80_000)
    assert body.deadline(1040.0, 60.0) == 1100.0, "quick bytes win no more than the usual rest"


def test_case_17_a_slow_body_above_the_floor_rate_is_served() -> None:
    async def body() -> None:
        async with fleet(timeouts={"client_body": "300ms"}) as f:
            client = await f.dial()
            text = b'{"model":"m","messages":[{"role":"user","content":"%b"}]}' % (b"x" * 4_000)
            await client.send(POST + b"X-Nonce: slow\r\nContent-Length: %d\r\n\r\n" % len(text))
            for i in range(0, len(text), 80):  # 8 KB/s, for longer than the limit of one rest
                await client.send(text[i : i + 80])
                await asyncio.sleep(0.01)
            assert (await client.answer()).status == 200
            assert f.seen[0].body == text

    run(body)


def test_case_18_an_idle_connection_is_closed_plainly() -> None:
    async def body() -> None:
        async with fleet(timeouts={"client_idle": "200ms", "client_header": "200ms"}) as f:
            used, unused = await f.dial(), await f.dial()
            await used.send(ask())
            assert (await used.answer()).status == 200
            assert (await used.end(), await unused.end()) == (b"", b"")
            assert not used.reset_by_other
            assert not unused.reset_by_other
            assert len(await f.logged(1)) == 1
            assert refusals(f) == {}

    run(body)


def test_case_18_a_request_that_lies_in_the_socket_at_the_deadline_is_served_whole() -> None:
    async def body() -> None:
        async with fleet(timeouts={"client_idle": "60s"}) as f:
            client = await f.dial()
            await client.send(ask("first"))
            assert (await client.answer()).status == 200
            ours = next(iter(f.app.service.clients))
            sock = socket.socket(fileno=client.transport.get_extra_info("socket").fileno())
            try:
                sock.send(ask("second"))  # in the kernel, and not yet read by the loop
            finally:
                sock.detach()
            ours.on_deadline(f.app.service.clock())  # type: ignore[attr-defined]
            answer = await client.answer()
            assert (answer.status, answer.field("x-nonce")) == (200, "second")

    run(body)


def test_case_18_requests_that_race_the_close_are_served_whole_or_not_at_all() -> None:
    async def body() -> None:
        async with fleet(timeouts={"client_idle": "200ms"}) as f:
            clients = [await f.dial() for _ in range(40)]
            for number, client in enumerate(clients):
                await client.send(ask(f"n{number}"))
                assert (await client.answer()).status == 200

            async def race(number: int, client: Peer) -> bool:
                await asyncio.sleep(0.18 + number * 0.005)
                await client.send(ask(f"late{number}"))
                try:
                    answer = await client.answer()
                except Gone:
                    assert not client.unread, "a part of an answer"
                    return False
                assert (answer.status, answer.whole, answer.field("x-nonce")) == (200, True, f"late{number}")
                return True

            served = await asyncio.gather(*[race(number, client) for number, client in enumerate(clients)])
            late = [seen for seen in f.seen if seen.nonce.startswith("late")]
            assert len(late) == sum(served), "what was not answered was not sent on"

    run(body)


def waiting(f: Fleet) -> list[int]:
    """Bytes in the App's buffer, by client."""
    return [client.transport.get_write_buffer_size() for client in f.app.service.clients]  # type: ignore[attr-defined]


def test_case_19_clients_that_stop_reading_hold_little_memory_and_then_nothing() -> None:
    async def endless(peer: Peer, seen: Seen) -> None:
        await peer.send(sse_head(seen))
        while not peer.over:
            await peer.send(chunk(event(1) * 1_000))

    async def body() -> None:
        async with fleet(default=endless, timeouts={"client_write": "1s"}) as f:
            clients = [await f.dial(receive_buffer=4_096) for _ in range(20)]
            for client in clients:
                client.stop_reading()
                await client.send(ask())
            await until(lambda: len(f.busy) == 20 and all(peer.blocked for peer in f.busy), "engines are held back")
            assert len(waiting(f)) == 20
            assert max(waiting(f)) <= 1 << 18
            # The loop hands us up to 256,000 bytes at once: the mark is low enough for one such read behind it.
            marks = [client.transport.get_write_buffer_limits() for client in f.app.service.clients]  # type: ignore[attr-defined]
            assert max(high for _, high in marks) + 256_000 <= 1 << 18
            await until(lambda: not f.busy, "the engines are freed")
            await until(lambda: not f.app.service.clients, "the clients are let go of")
            assert refusals(f) == {"client_stalled": 20}
            assert {(line["error"], line["outcome"]) for line in await f.logged(20)} == {
                ("client_stalled", "client_gone")
            }
            for client in clients:  # a reset: nobody takes what came for a whole answer
                client.go_on_reading()
            await until(lambda: all(client.lost for client in clients))
            assert all(client.reset_by_other for client in clients)

    run(body)


def test_case_19_a_client_that_does_not_take_the_end_of_its_answer_is_counted() -> None:
    async def body() -> None:
        async with fleet(timeouts={"client_write": "300ms"}) as f:

            async def fill(peer: Peer, seen: Seen) -> None:
                await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                while not sum(waiting(f)):
                    await peer.send(chunk(b"x" * 3_000))
                    await asyncio.sleep(0.001)
                await peer.send(LAST)

            f.play.scripts = [fill]
            client = await f.dial(receive_buffer=4_096)
            client.stop_reading()
            await client.send(ask(fields="Connection: close\r\n"))
            await until(lambda: f.seen and not f.app.service.clients, "the client is let go of")
            assert refusals(f) == {"client_stalled": 1}
            assert (await f.logged(1))[0]["outcome"] == "ok"

    run(body)


def test_case_19_others_are_served_beside_clients_that_do_not_read() -> None:
    async def body() -> None:
        async with fleet() as f:
            f.play.scripts = [reply(b"x" * (8 << 20))]
            stuck = await f.dial(receive_buffer=4_096)
            stuck.stop_reading()
            await stuck.send(ask())
            await until(lambda: any(waiting(f)))
            for number in range(10):
                assert (await f.get(ask(f"n{number}"))).field("x-nonce") == f"n{number}"
            stuck.reset()

    run(body)
