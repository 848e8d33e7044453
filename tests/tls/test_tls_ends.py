"""Case 30 over TLS: is an answer that only the close ends taken for whole where TLS did not tell of the close?

RFC 9112, 9.8: a length, the last chunk or (of a stream) its last word tell that an answer is whole; the end of the
connection does so only when TLS says that it is the engine's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from peers import Answer, Peer, Script, Seen, run
from running import CHAT, DONE, Fleet, ask, event
from scripted_engine import Play
from tls_peers import Authority, TlsEngine, front

JSON = b"Content-Type: application/json\r\n"
STREAM = b"Content-Type: text/event-stream\r\n"
BODY = b'{"id":"a","choices":[]}'


def said(fields: bytes, body: bytes, go: asyncio.Event, *, notify: bool) -> Script:
    """Say so much; then end with or without TLS's farewell, once the client has it all."""

    async def play(peer: Peer, seen: Seen) -> None:
        await peer.send(b"HTTP/1.1 200 OK\r\nX-Nonce: %b\r\n%b\r\n" % (seen.nonce.encode(), fields) + body)
        await go.wait()
        if notify:
            peer.close()
        else:
            peer.transport.abort()

    return play


async def told(f: Fleet, go: asyncio.Event, last: bytes, request: bytes) -> tuple[Answer, Peer]:
    """What the client got."""
    client = await f.dial()
    await client.send(request)
    await client.expect(last)
    client.read = 0
    go.set()
    return await client.answer(), client


@contextmanager
def engines(tmp_path: Path) -> Iterator[tuple[Play, list[TlsEngine], dict[str, object]]]:
    authority = Authority(tmp_path)
    play = Play(said(JSON, BODY, asyncio.Event(), notify=True))
    made = [TlsEngine(play, f"engine{number}", authority.server("127.0.0.1")) for number in range(2)]
    yield play, made, {"backend_tls": {"ca": authority.file}}


ENDS = [
    pytest.param(JSON, BODY, CHAT, True, True, id="until the close, told"),
    pytest.param(JSON, BODY, CHAT, False, False, id="until the close, not told"),
    pytest.param(JSON + b"Content-Length: 23\r\n", BODY, CHAT, False, True, id="with a length"),
    pytest.param(STREAM, event(1) + DONE, CHAT, False, True, id="a stream with its last word"),
    pytest.param(STREAM, event(1), CHAT, True, False, id="a stream without it, told"),
    pytest.param(STREAM, event(1), CHAT, False, False, id="a stream without it, not told"),
    pytest.param(STREAM, event(1), "/v1/other", True, True, id="a stream that is not judged, told"),
    pytest.param(STREAM, event(1), "/v1/other", False, False, id="a stream that is not judged, not told"),
]


@pytest.mark.parametrize("version", ["1.1", "1.0"])
@pytest.mark.parametrize(("fields", "body", "path", "notify", "whole"), ENDS)
def test_case_30_an_end_that_tls_did_not_tell_makes_no_answer_whole(
    tmp_path: Path, fields: bytes, body: bytes, path: str, notify: bool, whole: bool, version: str
) -> None:
    async def case() -> None:
        go = asyncio.Event()
        with engines(tmp_path) as (play, made, options):
            async with front(list(made), play, **options) as f:
                play.scripts = [said(fields, body, go, notify=notify)]
                answer, client = await told(f, go, body, ask("n", path, version=version))
                assert (answer.status, body in answer.body) == (200, True)
                if whole:
                    assert (answer.body, answer.whole) == (body, True)
                elif fields == STREAM:  # an old client knows no end but the close: it has the error event
                    assert answer.body.count(b"stream_broken") == 1
                    assert answer.whole is (version == "1.0")
                else:
                    assert not answer.whole
                    assert client.reset_by_other is (version == "1.0")
                (line,) = await f.logged(1)
                assert (line["outcome"], line["tries"]) == ("ok" if whole else "failed", 1)

    run(case)


def test_case_30_a_head_alone_with_such_an_end_is_no_answer(tmp_path: Path) -> None:
    """It moves to another engine, as a head with a reset behind it does."""

    async def case() -> None:
        go = asyncio.Event()
        go.set()
        with engines(tmp_path) as (play, made, options):
            async with front(list(made), play, **options) as f:
                play.scripts = [said(JSON, b"", go, notify=False), said(JSON, BODY, go, notify=True)]
                client = await f.dial()
                await client.send(ask("n"))
                answer = await client.answer()
                assert (answer.status, answer.body, answer.whole) == (200, BODY, True)
                (line,) = await f.logged(1)
                assert (line["outcome"], line["tries"]) == ("ok", 2)

    run(case)
