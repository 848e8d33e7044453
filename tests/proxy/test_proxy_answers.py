"""Conformance cases 11 and 12: what engines answer, and how it reaches the client whatever the framing."""

from __future__ import annotations

import asyncio
import json

import h11
import pytest
from peers import Answer, Peer, Script, Seen, run, until
from running import DONE, LAST, ask, chunk, event, fleet, raw, reply, sse_head, stream

OK = b"HTTP/1.1 200 OK\r\nX-Nonce: %NONCE\r\n"


def dripped(script: bytes, *, close: bool = False) -> Script:
    """Say these bytes one at a time."""

    async def play(peer: Peer, seen: Seen) -> None:
        await peer.drip(script.replace(b"%NONCE", seen.nonce.encode()))
        if close:
            peer.close()

    return play


def judged(raw_answer: bytes, *, closed: bool) -> bytes:
    """The body as h11 reads the answer; h11 raises on what it finds wrong."""
    judge = h11.Connection(h11.CLIENT)
    judge.send(h11.Request(method="POST", target="/", headers=[("host", "a"), ("content-length", "0")]))
    judge.send(h11.EndOfMessage())
    judge.receive_data(raw_answer)
    if closed:
        judge.receive_data(b"")
    body = b""
    while True:
        got = judge.next_event()
        if isinstance(got, h11.Data):
            body += got.data
        elif isinstance(got, h11.EndOfMessage):
            return body
        else:
            assert got is not h11.NEED_DATA, "h11 waits for more"


FORMS = {  # name -> (answer, does the close end it?)
    "length": (OK + b"Content-Length: 11\r\n\r\nhello world", False),
    "chunked": (OK + b"Transfer-Encoding: chunked\r\n\r\n" + chunk(b"hello ") + chunk(b"world") + LAST, False),
    "chunked with extensions and trailers": (
        OK + b"Transfer-Encoding: chunked\r\n\r\n6;a=b\r\nhello \r\n5\r\nworld\r\n0;x\r\nX-T: 1\r\n\r\n", False,
    ),
    "until close": (OK + b"\r\nhello world", True),
    "length and close": (OK + b"Connection: close\r\nContent-Length: 11\r\n\r\nhello world", True),
    "HTTP/1.0 until close": (b"HTTP/1.0 200 OK\r\nX-Nonce: %NONCE\r\n\r\nhello world", True),
    "HTTP/1.0 with length": (b"HTTP/1.0 200 OK\r\nX-Nonce: %NONCE\r\nContent-Length: 11\r\n\r\nhello world", True),
}  # fmt: skip
EMPTY = {
    "length": (OK + b"Content-Length: 0\r\n\r\n", False),
    "chunked": (OK + b"Transfer-Encoding: chunked\r\n\r\n" + LAST, False),
    "until close": (OK + b"\r\n", True),
}


def relayed(forms: dict[str, tuple[bytes, bool]], expected: bytes, version: str, fields: str = "") -> None:
    async def body() -> None:
        async with fleet() as f:
            wrong: dict[str, str] = {}
            for name, (answer, close) in forms.items():
                for how, script in (("whole", raw(answer, close=close)), ("dripped", dripped(answer, close=close))):
                    f.play.scripts = [script]
                    client = await f.dial()
                    await client.send(ask("a1", version=version, fields=fields))
                    try:
                        got = await client.answer(seconds=0.5)
                        assert (got.status, got.body, got.whole) == (200, expected, True), got
                        assert got.field("x-nonce") == "a1"
                        assert judged(got.raw, closed=client.over) == expected
                        if version == "1.0":
                            assert got.field("transfer-encoding") is None, got.fields
                        else:  # the connection lives on
                            await client.send(ask("a2"))
                            assert (await client.answer()).field("x-nonce") == "a2"
                    except Exception as problem:
                        wrong[f"{name}, {how}"] = repr(problem)[:300]
                    client.close()
            assert wrong == {}

    run(body)


@pytest.mark.parametrize("fields", ["", "Connection: keep-alive\r\n"], ids=["", "keep-alive"])
@pytest.mark.parametrize("version", ["1.1", "1.0"])
def test_every_framing_reaches_every_client(version: str, fields: str) -> None:
    relayed(FORMS, b"hello world", version, fields)


@pytest.mark.parametrize("version", ["1.1", "1.0"])
def test_empty_answers_of_every_framing_reach_every_client(version: str) -> None:
    relayed(EMPTY, b"", version)


def test_a_stream_split_at_every_offset_gives_the_same_bytes() -> None:
    async def body() -> None:
        async with fleet() as f:
            tail = chunk(event(1)) + chunk("data: ✓ é\n\n".encode()) + chunk(DONE) + LAST
            whole = b""
            client = await f.dial()
            for cut in range(0, len(tail), 3):

                async def play(peer: Peer, seen: Seen, cut: int = cut) -> None:
                    await peer.send(sse_head(seen) + tail[:cut])
                    await asyncio.sleep(0.001)
                    await peer.send(tail[cut:])

                f.play.scripts = [play]
                await client.send(ask())
                got = await client.answer()
                whole = whole or got.body
                assert got.body == whole
                assert whole.endswith(DONE)

    run(body)


def test_events_leave_as_they_come() -> None:
    async def body() -> None:
        async with fleet() as f:
            turn = asyncio.Event()

            async def play(peer: Peer, seen: Seen) -> None:
                await peer.send(sse_head(seen))
                for number in range(4):
                    await peer.send(chunk(event(number)))
                    await turn.wait()
                    turn.clear()
                await peer.send(chunk(DONE) + LAST)

            f.play.scripts = [play]
            client = await f.dial()
            await client.send(ask())
            for number in range(4):
                await client.expect(event(number))
                assert not client.unread.strip(b"\r\n")
                turn.set()
            await client.expect(DONE + b"\r\n" + LAST)

    run(body)


def test_case_11_answers_without_a_body_have_none() -> None:
    async def body() -> None:
        async with fleet() as f:
            rows: list[tuple[str, bytes]] = [
                ("HEAD", OK + b"Content-Length: 11\r\n\r\n"),
                ("HEAD", OK + b"Transfer-Encoding: chunked\r\n\r\n"),
                ("HEAD", OK + b"Content-Length: 4\r\n\r\nevil"),
                ("GET", b"HTTP/1.1 204 No Content\r\nX-Nonce: %NONCE\r\n\r\n"),
                ("GET", b"HTTP/1.1 204 No Content\r\nX-Nonce: %NONCE\r\nContent-Length: 4\r\n\r\nevil"),
                ("GET", b"HTTP/1.1 204 No Content\r\nX-Nonce: %NONCE\r\nTransfer-Encoding: chunked\r\n\r\n" + LAST),
                ("GET", b"HTTP/1.1 304 Not Modified\r\nX-Nonce: %NONCE\r\nContent-Length: 9\r\nETag: x\r\n\r\n"),
                ("GET", b"HTTP/1.1 304 Not Modified\r\nX-Nonce: %NONCE\r\n\r\nHTTP/1.1 200 OK\r\n\r\nevil"),
            ]
            wrong = {}
            for method, said in rows:
                client = await f.dial()
                for number in range(2):  # the next request gets its own answer
                    f.play.scripts = [raw(said)]
                    await client.send(ask(f"h{number}", "/v1/thing", b"", method))
                    got = await client.answer(method)
                    if got.field("x-nonce") != f"h{number}" or got.body or client.unread:
                        wrong[said] = got
                    if got.status == 204 and (got.field("transfer-encoding") or got.field("content-length")):
                        wrong[said] = got  # RFC 9110 section 8.6, RFC 9112 section 6.1
                await client.send(ask("after", "/v1/thing", b"", "GET"))
                assert (await client.answer()).field("x-nonce") == "after"
            assert wrong == {}

    run(body)


def test_case_11_interim_answers_pass_but_not_to_old_clients() -> None:
    async def body() -> None:
        async with fleet() as f:
            hints = b"HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\n\r\n"
            said = b"HTTP/1.1 100 Continue\r\n\r\n" + hints + hints + OK + b"Content-Length: 2\r\n\r\n{}"
            for script in (raw(said), dripped(said)):
                f.play.scripts = [script]
                got = await f.get()
                assert [status for status, _ in got.interim] == [103, 103]
                assert ("link", "</a>; rel=preload") in got.interim[0][1]
                assert (got.status, got.body) == (200, b"{}")
            f.play.scripts = [raw(said)]
            got = await f.get(ask(version="1.0"))
            assert (got.status, got.interim) == (200, [])

    run(body)


def test_case_11_a_flood_of_interim_answers_harms_nobody() -> None:
    async def body() -> None:
        async with fleet() as f:
            f.play.scripts = [raw(b"HTTP/1.1 102 Processing\r\n\r\n" * 3_000 + OK + b"Content-Length: 2\r\n\r\n{}")]
            got = await f.get(ask(version="1.0"))
            assert got.status in (200, 502)
            assert (await f.get()).status == 200

    run(body)


def test_case_11_switching_protocols_unasked_is_a_bad_answer() -> None:
    async def body() -> None:
        async with fleet() as f:
            switch = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nbytes"
            f.play.scripts = [raw(switch)]
            got = await f.get(ask(fields="Connection: Upgrade\r\nUpgrade: websocket\r\n"))
            assert got.status == 502
            assert f.seen[0].field("upgrade") is None
            await until(lambda: not f.busy)

    run(body)


def test_case_12_an_answer_that_cannot_be_trusted_is_502_and_its_connection_is_dropped() -> None:
    async def body() -> None:
        async with fleet(retries={"on": ["connect", "timeout", "502", "503"]}) as f:
            body = b"\r\n\r\n{}"
            rows = (
                OK + b"Content-Length: 2\r\nTransfer-Encoding: chunked" + body,
                OK + b"Content-Length: 2\r\nContent-Length: 2" + body,
                OK + b"Content-Length: 2, 2" + body, OK + b"Content-Length: -2" + body,
                OK + b"Content-Length: x" + body,
                OK + b"Transfer-Encoding: gzip, chunked" + body, OK + b"Transfer-Encoding: chunked, chunked" + body,
                OK + b"X-A: a\x00b" + body, OK + b"X-A: a\r\n folded" + body, OK + b"X-A : a" + body,
                OK + b"X-A: a\nX-B: b" + body, OK + b"nocolon" + body, b"HTTP/2 200 OK" + body,
                b"HTTP/1.1 999 X" + body,
                b"HTTP/1.1 20 OK" + body, b"HTTP/1.1 2000 OK" + body, b"ICY 200 OK" + body, b"\x16\x03\x01\x02\r\n\r\n",
                b"hello\r\n\r\n", b"HTTP/1.1  200 OK" + body, b"http/1.1 200 OK" + body,
                OK + b"X-Big: " + b"x" * (1 << 20) + body, OK + b"X: y\r\n" * 500 + body, b"x" * (1 << 17),
                b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked" + body,
            )  # fmt: skip
            wrong: dict[bytes, Answer] = {}
            for said in rows:
                f.play.scripts = [raw(said)]
                got = await f.get(ask("bad"))
                code = json.loads(got.body)["error"]["code"] if got.status == 502 else ""
                if code != "bad_response" or not got.whole:
                    wrong[said[:80]] = got
                if (await f.get(ask("good"))).field("x-nonce") != "good":
                    wrong[said[:80] + b" then"] = got
            assert wrong == {}
            await until(lambda: len(f.busy) <= 1, "connections of bad answers are closed")

    run(body)


def test_case_12_bytes_behind_the_end_are_not_the_next_answer() -> None:
    async def body() -> None:
        async with fleet() as f:
            second = b"HTTP/1.1 200 OK\r\nX-Nonce: evil\r\nContent-Length: 4\r\n\r\nevil"
            for said in (
                OK + b"Content-Length: 2\r\n\r\n{}evil",
                OK + b"Content-Length: 2\r\n\r\n{}" + second,
                OK + b"Transfer-Encoding: chunked\r\n\r\n" + chunk(b"{}") + LAST + second,
                OK + b"Content-Length: 0\r\n\r\n" + second,
            ):
                f.play.scripts = [raw(said)]
                client = await f.dial()
                for nonce in ("first", "next"):
                    await client.send(ask(nonce))
                    got = await client.answer()
                    assert got.field("x-nonce") == nonce
                    assert b"evil" not in got.body
                assert client.unread == b""

    run(body)


def test_case_12_a_second_answer_that_nobody_asked_for_closes_the_idle_connection() -> None:
    async def body() -> None:
        async with fleet() as f:
            second = b"HTTP/1.1 200 OK\r\nX-Nonce: evil\r\nContent-Length: 4\r\n\r\nevil"
            more = asyncio.Event()

            async def play(peer: Peer, seen: Seen) -> None:
                await reply()(peer, seen)
                await more.wait()
                await peer.send(second)

            f.play.scripts = [play]
            assert (await f.get(ask("first"))).field("x-nonce") == "first"
            more.set()
            await until(lambda: not f.busy, "the connection is closed")
            assert (await f.get(ask("next"))).field("x-nonce") == "next"

    run(body)


def test_connections_to_engines_are_kept_and_used_again() -> None:
    async def body() -> None:
        async with fleet() as f:
            client = await f.dial()
            for number in range(10):
                f.play.scripts = [stream() if number % 2 else reply()]
                await client.send(ask(f"k{number}"))
                assert (await client.answer()).field("x-nonce") == f"k{number}"
            assert len({seen.connection for seen in f.seen}) == 1

    run(body)
