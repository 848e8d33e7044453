"""Case 39 over HTTP/2: streams that survive their engine share a connection with those that need not."""

from __future__ import annotations

import json
from typing import Any

from http2_peer import Http2Client, dial2
from peers import Peer, Seen, run, until
from running import CHAT, fleet
from token_engine import COMPLETIONS, TEXT, TOKENS, error_event, silence, speaking, told, wanting

SURVIVES: dict[str, Any] = {"resume": True, "backend": {"engine": "vllm"}}


def ask2(client: Http2Client, route: str = CHAT, **fields: Any) -> int:
    body = wanting(route, **fields).partition(b"\r\n\r\n")[2]
    return client.ask(body=body, path=route.encode())


def test_streams_of_one_connection_survive() -> None:
    async def body() -> None:
        async with fleet(2, **SURVIVES) as f:
            client = await dial2(f.address)
            for route in (CHAT, COMPLETIONS):
                f.play.scripts = [speaking(3), speaking(id="second")]
                got = await client.answer(ask2(client, route, stream_options={"include_usage": True}))
                story = told(got.body)
                assert (got.ended, story.text, story.finished, story.dones) == (True, TEXT, ["stop"], 1)
                assert {head[0] for head in story.heads} == {"first"}
                assert story.usages == [{"prompt_tokens": 3, "completion_tokens": 8, "total_tokens": 11}]
            client.close()

    run(body)


def test_a_second_death_resets_the_stream_behind_the_error_event() -> None:
    async def body() -> None:
        async with fleet(2, **SURVIVES) as f:
            client = await dial2(f.address)
            f.play.scripts = [speaking(3), speaking(5, id="second")]
            got = await client.answer(ask2(client))
            story = told(got.body)
            assert not got.ended
            assert (story.dones, [error["code"] for error in story.errors]) == (0, ["stream_broken"])
            assert story.text == "".join(text for _, text in TOKENS[:5])
            client.close()

    run(body)


def test_a_closed_window_loses_nothing_of_a_stream_that_moves() -> None:
    async def body() -> None:
        async with fleet(2, **SURVIVES) as f:
            client = await dial2(f.address, auto=False, window=100)
            f.play.scripts = [speaking(3), speaking(id="second")]
            id = ask2(client)
            await until(lambda: len(client.got[id].body) == 100, "the window is full")
            client.open_window(100_000, id)
            got = await client.answer(id)
            assert (got.ended, told(got.body).text) == (True, TEXT)
            client.close()

    run(body)


def test_a_reset_stream_frees_the_second_engine() -> None:
    async def body() -> None:
        async with fleet(2, **SURVIVES) as f:
            client = await dial2(f.address)
            f.play.scripts = [speaking(3), speaking(5, silence, id="second")]
            id = ask2(client)
            await until(lambda: TOKENS[4][1].strip("é").encode() in client.got[id].body)
            client.reset(id)
            await until(lambda: not f.busy, "both engines are free", 1.0)
            (line,) = await f.logged(1)
            assert (line["outcome"], line["tries"]) == ("client_gone", 2)
            assert json.loads(f.seen[1].body)["max_tokens"] == 17
            client.close()

    run(body)


def test_a_stream_that_moves_while_its_window_is_closed_does_not_read_ahead() -> None:
    async def at_once(peer: Peer, seen: Seen) -> None:
        kept: list[bytes] = []

        class Together(Peer):
            async def send(self, data: bytes) -> None:
                kept.append(data)

        own, peer.__class__ = peer.__class__, Together
        await speaking(3, error_event)(peer, seen)
        peer.__class__ = own
        await peer.send(b"".join(kept))

    async def body() -> None:
        async with fleet(2, **SURVIVES) as f:
            client = await dial2(f.address, auto=False, window=100)
            f.play.scripts = [at_once, speaking(id="second")]
            id = ask2(client)
            await until(lambda: len(f.seen) == 2)
            (exchange,) = f.app.service.exchanges
            await until(lambda: exchange.relaying and exchange.upstream is not None and exchange.upstream.paused)
            client.open_window(100_000, id)
            got = await client.answer(id)
            assert (got.ended, told(got.body).text) == (True, TEXT)
            client.close()

    run(body)
