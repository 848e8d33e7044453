"""Backends that speak first, hang up at once, or cannot be paused yet; lengths that are spelled in two ways."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, cast

import pytest
from peers import Peer, Seen, run, until
from running import ask, fleet, reply
from scripted_engine import Play
from tls_peers import Authority, TlsEngine, front

from fairlead.proxy.memory import MAX_PIECES, Body, BodyMemory
from fairlead.proxy.upstream import Upstream
from fairlead.wire.fields import BadHttp
from fairlead.wire.http1 import parse_response


def test_a_backend_that_answers_before_it_is_asked_costs_no_connect_timeout() -> None:
    async def body() -> None:
        async with fleet(2, timeouts={"connect": "60s"}, retries={"attempts": 1}) as f:
            await f.engines[0].refuse()
            hurry = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"

            async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                writer.write(hurry)
                writer.close()

            pool = next(pool for pool in f.app.service.pools.values() if pool.id in f.engines[0].url)
            connect = pool.connect

            async def slowly(loop: asyncio.AbstractEventLoop, upstream: Upstream) -> None:
                await connect(loop, upstream)
                await until(lambda: upstream.closed)  # as when the loop has other work before it comes back to us

            pool.connect = slowly  # type: ignore[method-assign]
            port = int(f.engines[0].url.rpartition(":")[2])
            server = await asyncio.start_server(speak, "127.0.0.1", port)
            try:
                for nonce in ("n1", "n2", "n3", "n4"):
                    assert (await f.get(ask(nonce))).status == 200
            finally:
                server.close()
                await server.wait_closed()
            f.unseen_tries += sum(len(line["failed_on"]) for line in await f.logged(4))
            kinds = {kind for (_, kind), count in f.app.recorder.errors.items() if count}
            assert kinds <= {"connect", "503"}, "nobody waited for a deadline"

    run(body)


def test_a_connection_that_is_still_being_made_is_not_paused_and_can_be_later() -> None:
    upstream = Upstream(cast(Any, None))
    upstream.pause()  # there is no transport yet
    assert not upstream.paused


def test_the_time_for_a_first_byte_over_tls_is_not_cut_to_that_for_sending(tmp_path: Path) -> None:
    """Reads of a TLS connection must not look as if the backend took nothing of what we send."""

    async def body() -> None:
        ca = Authority(tmp_path)
        wait = asyncio.Event()

        async def late(peer: Peer, seen: Seen) -> None:
            await wait.wait()
            await reply()(peer, seen)

        async def in_two(peer: Peer, seen: Seen) -> None:
            await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n")
            await asyncio.sleep(0.01)
            await peer.send(b"ok")

        play = Play(reply())
        play.scripts += [reply(), in_two, late]
        engine = TlsEngine(play, "engine0", ca.server("127.0.0.1"))
        timeouts = {"send": "50ms", "first_byte": "30s"}
        async with front([engine], play, backend_tls={"ca": ca.file}, timeouts=timeouts, retries={"attempts": 0}) as f:
            for _ in range(2):
                assert (await f.get()).status == 200
            asked = asyncio.ensure_future(f.get())
            await until(lambda: len(engine.seen) == 3)
            begun = f.app.service.wheel.now
            await until(lambda: f.app.service.wheel.now > begun + 0.4)  # many times `send`
            wait.set()
            assert (await asked).status == 200

    run(body)


def test_a_second_length_in_another_spelling_is_seen_in_answers_that_repeat() -> None:
    assert parse_response(b"HTTP/1.1 200 OK\r\nContent-length: 7").content_length == 7
    for _ in range(2):
        with pytest.raises(BadHttp, match="twice"):
            parse_response(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-length: 7")


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_in_tiny_pieces_is_a_few_objects(chunked: bool) -> None:
    memory = BodyMemory(1 << 30)
    count = 10 * MAX_PIECES
    body = Body(memory, 1 << 30, None if chunked else 2 * count, 0.0)
    for _ in range(count):
        body.feed(b"2\r\nab\r\n" if chunked else b"ab")
    assert len(body._parts) + len(body._pieces) < MAX_PIECES + 20
    if chunked:
        body.feed(b"0\r\n\r\n")
    assert body.take() == b"ab" * count
    assert memory.used == 0
