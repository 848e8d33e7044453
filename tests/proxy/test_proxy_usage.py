"""Token counts are read from the answer in passing, however the network cuts it."""

from __future__ import annotations

import asyncio

import pytest
from peers import Peer, Script, Seen, run
from running import DONE, LAST, ask, chunk, event, fleet, sse_head

USAGE = (
    b'"usage":{"prompt_tokens":31,"total_tokens":40,"completion_tokens":9,"prompt_tokens_details":{"cached_tokens":16}}'
)
EVENT = b'data: {"id":"chatcmpl-0123456789","object":"chat.completion.chunk","choices":[],' + USAGE + b"}\n\n"
JSON = b'{"id":"x","choices":[{"message":{"content":"' + b"y" * 3_000 + b'"}}],' + USAGE + b"}"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"

FORMS = {
    "stream": (b"", chunk(EVENT) + chunk(DONE) + LAST),
    "chunked": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", chunk(JSON) + LAST),
    "length": (HEAD + b"Content-Length: %d\r\n\r\n" % len(JSON), JSON),
}


@pytest.mark.parametrize("form", list(FORMS))
def test_usage_is_found_wherever_the_answer_is_cut(form: str) -> None:
    head, tail = FORMS[form]

    def cut_at(offset: int) -> Script:
        async def play(peer: Peer, seen: Seen) -> None:
            await peer.send(head or sse_head(seen) + chunk(event(1)))
            for piece in (tail[:-offset], tail[-offset:]):
                await peer.send(piece)
                await asyncio.sleep(0.003)

        return play

    async def body() -> None:
        async with fleet(1) as f:
            offsets = list(range(1, 240, 9))
            for offset in offsets:
                f.engines[0].script = cut_at(offset)
                assert (await f.get(ask(f"o{offset}"))).whole
            lines = await f.logged(len(offsets))
            found = {
                offset: (line["prompt_tokens"], line["output_tokens"])
                for offset, line in zip(offsets, lines, strict=True)
            }
            assert found == dict.fromkeys(offsets, (31, 9))

    run(body)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 64])
def test_usage_and_events_are_found_in_a_stream_that_comes_in_small_pieces(size: int) -> None:
    async def play(peer: Peer, seen: Seen) -> None:
        answer = (
            sse_head(seen) + chunk(event(1)) + chunk(event(2)) + chunk(event(3)) + chunk(EVENT) + chunk(DONE) + LAST
        )
        for at in range(0, len(answer), size):
            await peer.send(answer[at : at + size])
            await asyncio.sleep(0)

    async def body() -> None:
        async with fleet(1, default=play) as f:
            assert (await f.get(ask("n1"))).whole
            line = (await f.logged(1))[0]
            assert (line["prompt_tokens"], line["output_tokens"]) == (31, 9)

    run(body)
