"""Requests and answers over HTTP/2: the same facts, routes and errors as over HTTP/1, on streams that interleave."""

from __future__ import annotations

import asyncio
import json

from http2_peer import STREAM_BODY, dial2, head
from peers import Peer, Seen, run, until
from running import DONE, LAST, chunk, event, fleet, raw, reply, sse_head, stream


def test_a_request_reaches_an_engine_as_http1_and_is_answered() -> None:
    async def body() -> None:
        async with fleet(1) as f:
            client = await dial2(f.address)
            got = await client.answer(client.ask("n1"))
            assert (got.status, got.ended, json.loads(got.body)) == (200, True, {"nonce": "n1"})
            assert got.field(b"x-nonce") == b"n1"
            assert got.field(b"content-length") == b"%d" % len(got.body)
            assert got.field(b"x-request-id")
            (seen,) = f.seen
            assert seen.head.startswith(b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:")
            assert seen.field("content-type") == "application/json"
            assert seen.field("x-forwarded-host") == "test"
            (line,) = await f.logged(1)
            assert (line["status"], line["outcome"], line["model"]) == (200, "ok", "m")
            client.close()

    run(body)


def test_two_streams_interleave_on_one_connection() -> None:
    gates = {"a": asyncio.Event(), "b": asyncio.Event()}

    async def by_turns(peer: Peer, seen: Seen) -> None:
        mine, other = gates[seen.nonce], gates["b" if seen.nonce == "a" else "a"]
        await peer.send(sse_head(seen))
        for number in range(5):
            await mine.wait()
            mine.clear()
            await peer.send(chunk(event(number)))
            other.set()
        await peer.send(chunk(DONE) + LAST)

    async def body() -> None:
        for gate in gates.values():
            gate.clear()
        async with fleet(2, default=by_turns) as f:
            client = await dial2(f.address)
            a, b = client.ask("a", STREAM_BODY), client.ask("b", STREAM_BODY)
            gates["a"].set()
            first, second = await client.answer(a), await client.answer(b)
            whole = b"".join(event(number) for number in range(5)) + DONE
            assert (first.body, second.body) == (whole, whole)
            assert (first.field(b"x-nonce"), second.field(b"x-nonce")) == (b"a", b"b")
            assert len(f.app.service.clients) == 1
            client.close()

    run(body)


def test_a_chunked_answer_comes_without_its_framing() -> None:
    async def body() -> None:
        async with fleet(1, default=stream(3)) as f:
            client = await dial2(f.address)
            got = await client.answer(client.ask("n", STREAM_BODY))
            assert got.body == event(0) + event(1) + event(2) + DONE
            assert got.field(b"transfer-encoding") is None
            assert got.field(b"content-type") == b"text/event-stream"
            client.close()

    run(body)


def test_an_answer_that_ends_with_its_connection_is_ended_properly() -> None:
    async def body() -> None:
        until_close = raw(
            b"HTTP/1.1 200 OK\r\nX-Nonce: %NONCE\r\nConnection: close, x-hop\r\nX-Hop: 1\r\n\r\nhello", close=True
        )
        async with fleet(1, default=until_close) as f:
            client = await dial2(f.address)
            got = await client.answer(client.ask("n"))
            assert (got.status, got.body, got.ended) == (200, b"hello", True)
            assert {name for name, _ in got.fields} == {b":status", b"x-nonce", b"x-request-id"}
            client.close()

    run(body)


def test_answers_without_a_body_end_with_their_head() -> None:
    async def body() -> None:
        async with fleet(1) as f:
            client = await dial2(f.address)
            for status in ("204 No Content", "304 Not Modified"):
                f.play.scripts.append(raw(b"HTTP/1.1 " + status.encode() + b"\r\nX-Nonce: %NONCE\r\n\r\n"))
                got = await client.answer(client.ask("n"))
                assert (got.status, got.body, got.ended) == (int(status[:3]), b"", True)
            f.play.scripts.append(raw(b"HTTP/1.1 200 OK\r\nX-Nonce: %NONCE\r\nContent-Length: 12\r\n\r\n"))
            got = await client.answer(client.begin(head(b"HEAD", b"/v1/x", (b"x-nonce", b"h")), end=True))
            assert (got.status, got.body, got.ended, got.field(b"content-length")) == (200, b"", True, b"12")
            client.close()

    run(body)


def test_interim_answers_are_passed_on_before_the_final_one() -> None:
    async def body() -> None:
        hints = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
        both = raw(hints + b"HTTP/1.1 200 OK\r\nX-Nonce: %NONCE\r\nContent-Length: 2\r\n\r\nok")
        async with fleet(1, default=both) as f:
            client = await dial2(f.address)
            got = await client.answer(client.ask("n"))
            assert got.interim == [[(b":status", b"103"), (b"link", b"</a>")]]
            assert (got.status, got.body) == (200, b"ok")
            client.close()

    run(body)


def test_expect_continue_is_answered_when_the_body_has_not_come() -> None:
    async def body() -> None:
        async with fleet(1) as f:
            client = await dial2(f.address)
            id = client.begin(head(b"POST", b"/v1/x", (b"expect", b"100-continue"), (b"content-length", b"2")))
            await until(lambda: client.got[id].interim)
            client.send(id, b"{}", end=True)
            got = await client.answer(id)
            assert (got.status, got.interim) == (200, [[(b":status", b"100")]])
            assert f.seen[0].field("expect") is None
            client.close()

    run(body)


def test_a_body_without_a_length_gets_one() -> None:
    async def body() -> None:
        async with fleet(1) as f:
            client = await dial2(f.address)
            id = client.begin(head())
            for part in (b'{"model":"m",', b'"messages":[]', b"}"):
                client.send(id, part)
            client.send(id, b"", end=True)
            assert (await client.answer(id)).status == 200
            assert f.seen[0].body == b'{"model":"m","messages":[]}'
            assert f.seen[0].field("content-length") == "27"
            client.close()

    run(body)


def test_cookie_crumbs_are_joined_and_trailers_dropped() -> None:
    async def body() -> None:
        async with fleet(1) as f:
            client = await dial2(f.address)
            fields = head(b"POST", b"/v1/x", (b"cookie", b"a=1"), (b"cookie", b"b=2"), (b"te", b"trailers"))
            id = client.begin(fields)
            client.send(id, b"x")
            client.h2.send_headers(id, [(b"authorization", b"evil"), (b"x-sum", b"1")], end_stream=True)
            client.flush()
            assert (await client.answer(id)).status == 200
            (seen,) = f.seen
            assert seen.field("cookie") == "a=1; b=2"
            assert [seen.field(name) for name in ("te", "authorization", "x-sum")] == [None, None, None]
            client.close()

    run(body)


def test_errors_have_the_shape_of_the_dialect() -> None:
    async def body() -> None:
        async with fleet(1) as f:
            client = await dial2(f.address)
            got = await client.answer(client.ask("n", b"{"))
            error = json.loads(got.body)["error"]
            assert (got.status, error["type"], error["code"]) == (400, "invalid_request_error", "bad_body")
            await f.engines[0].refuse()
            f.unseen_tries += 2
            got = await client.answer(client.ask("n"))
            error = json.loads(got.body)["error"]
            assert (got.status, error["type"], error["code"]) == (503, "server_error", "upstream_unreachable")
            got = await client.answer(client.ask("n", path=b"/v1/messages"))
            assert json.loads(got.body)["type"] == "error"
            assert got.field(b"x-request-id")
            client.close()

    run(body)


def test_local_routes_are_answered() -> None:
    async def body() -> None:
        async with fleet(1) as f:
            client = await dial2(f.address)
            got = await client.answer(client.get(b"/health"))
            assert (got.status, got.body) == (200, b'{"status":"ok"}')
            got = await client.answer(client.get(b"/v1/models"))
            assert [model["id"] for model in json.loads(got.body)["data"]] == ["m"]
            client.close()

    run(body)


def test_requests_arrive_byte_by_byte() -> None:
    async def body() -> None:
        async with fleet(1, default=reply(b"ok")) as f:
            client = await dial2(f.address)
            client.flush = lambda: None  # type: ignore[method-assign]
            ids = [client.ask(f"n{number}") for number in range(3)]
            for byte in client.h2.data_to_send():
                client.transport.write(bytes((byte,)))
                await asyncio.sleep(0)
            for id in ids:
                assert (await client.answer(id)).body == b"ok"
            assert [seen.nonce for seen in f.seen] == ["n0", "n1", "n2"]
            client.close()

    run(body)
