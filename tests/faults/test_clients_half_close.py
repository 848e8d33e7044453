"""Case 47: a client that ends its sending side has left, unless the listener says `half_close: allow`; then it waits.

In both ways what it cut off in the middle reaches no engine, and in both its connection is closed in the end.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from peers import Peer, Seen, run, until
from running import DONE, LAST, Fleet, ask, chunk, event, fleet, hang, sse_head
from test_faults_client_gone import stall

ALLOW: dict[str, Any] = {"listen": {"address": "127.0.0.1:0", "half_close": "allow"}}
PIPELINED = 300  # requests behind the first: more bytes than are read ahead


def held(go: asyncio.Event) -> Any:
    async def play(peer: Peer, seen: Seen) -> None:
        await peer.send(sse_head(seen) + chunk(event(1)))
        await go.wait()
        await peer.send(chunk(event(2)) + chunk(DONE) + LAST)

    return play


async def ticks(f: Fleet, count: int) -> None:
    """So many turns of the clockwork, that looks for clients that left."""
    seen: list[float] = []
    f.app.service.wheel.on_tick.append(seen.append)
    await until(lambda: len(seen) >= count, f"{count} ticks")
    f.app.service.wheel.on_tick.remove(seen.append)


@pytest.mark.parametrize("mode", ["abort", "allow"])
@pytest.mark.parametrize("begun", [True, False], ids=["in a stream", "before the answer"])
def test_case_47_a_half_closed_client_has_left_or_waits_as_the_listener_says(mode: str, begun: bool) -> None:
    async def body() -> None:
        go = asyncio.Event()

        async def waiting(peer: Peer, seen: Seen) -> None:
            if not begun:
                await go.wait()
            await held(go)(peer, seen)

        listen = {"address": "127.0.0.1:0", "half_close": mode}
        async with fleet(1, default=waiting, listen=listen) as f:
            client = await f.dial()
            await client.send(ask("n"))
            await until(lambda: f.seen)
            if begun:
                await client.expect(event(1))
                client.read = 0
            client.half_close()
            if mode == "abort":
                await until(lambda: not f.busy, "the engine is free")
                go.set()
                assert DONE not in await client.end()
                (line,) = await f.logged(1)
                assert (line["outcome"], line["status"]) == ("client_gone", 200 if begun else 499)
                return
            await ticks(f, 6)
            assert len(f.busy) == 1
            go.set()
            answer = await client.answer()
            assert (answer.status, answer.whole, answer.body) == (200, True, event(1) + event(2) + DONE)
            assert await client.end() == b""
            (line,) = await f.logged(1)
            assert (line["outcome"], line["tries"]) == ("ok", 1)

    run(body)


def test_case_47_all_that_was_asked_before_the_end_is_answered() -> None:
    """More than is read ahead, too: such a client is not read for a while, and the end is behind the bytes."""

    async def body() -> None:
        go = asyncio.Event()
        async with fleet(2, **ALLOW) as f:
            f.play.scripts = [held(go)]
            client = await f.dial()
            rest = b"".join(ask(f"n{number}", fields="X-Padding: " + "x" * 200 + "\r\n") for number in range(PIPELINED))
            await client.send(ask("first") + ask(method="GET", target="/health", body=b"") + rest)
            client.half_close()
            await ticks(f, 12)
            go.set()
            assert (await client.answer()).field("x-nonce") == "first"
            assert (await client.answer()).status == 200  # ours
            for number in range(PIPELINED):
                assert (await client.answer()).field("x-nonce") == f"n{number}"
            assert await client.end() == b""
            assert len(f.seen) == PIPELINED + 1

    run(body)


PARTS = {
    "nothing": b"",
    "half a head": b"POST /v1/chat/completions HTTP/1.1\r\nHost:",
    "half a body": ask()[:-5],
    "half a chunk": b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n40\r\nhalf",
}


@pytest.mark.parametrize("behind", [True, False], ids=["behind a request", "alone"])
@pytest.mark.parametrize("part", list(PARTS))
def test_case_47_what_is_no_whole_request_reaches_no_engine_and_keeps_no_connection(part: str, behind: bool) -> None:
    async def body() -> None:
        async with fleet(1, **ALLOW) as f:
            client = await f.dial()
            await client.send(ask("n") + PARTS[part] if behind else PARTS[part])
            client.half_close()
            if behind:
                assert (await client.answer()).field("x-nonce") == "n"
            assert await client.end() == b""
            assert len(f.seen) == behind
            await until(lambda: not f.app.service.clients, "the connection is gone", 2.0)

    run(body)


@pytest.mark.parametrize("play", [stall, hang], ids=["in a stream", "before the answer"])
def test_case_47_one_that_waits_and_then_breaks_off_frees_the_engine(play: Any) -> None:
    async def body() -> None:
        async with fleet(1, default=play, **ALLOW) as f:
            client = await f.dial()
            await client.send(ask())
            await until(lambda: f.seen)
            client.half_close()
            await ticks(f, 2)
            assert len(f.busy) == 1
            client.reset()
            await until(lambda: not f.busy, "the engine is free")
            (line,) = await f.logged(1)
            assert line["outcome"] == "client_gone"

    run(body)
