"""Conformance cases 6 to 10: request lines, pipelines, Expect and hop-by-hop fields, and how bodies are forwarded."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re

from peers import Peer, Seen, run, until
from running import CHAT, LAST, ask, chunk, fleet, reply, stream
from test_proxy_framing import HOST, POST, TWO, check, refused


def test_case_6_a_request_line_or_host_that_is_not_clear_is_refused() -> None:
    end = b"\r\n" + HOST + b"\r\n"
    lines = (
        b"GET / HTTP/1.1\r\n\r\n", b"GET /" + end, b"GET  / HTTP/1.1" + end, b"GET /  HTTP/1.1" + end,
        b"GET\t/\tHTTP/1.1" + end, b" GET / HTTP/1.1" + end, b"GET / HTTP/1.1 " + end, b"GET /a b HTTP/1.1" + end,
        b"GET /#part HTTP/1.1" + end, b"GET /\\x HTTP/1.1" + end, b"GET * HTTP/1.1" + end, b"GET a HTTP/1.1" + end,
        b"OPTIONS * HTTP/1.1" + end, b"GET /\x80 HTTP/1.1" + end, b"GET / HTTP/1.1.1" + end, b"GET / http/1.1" + end,
        b"GET / HTTP/11" + end, b"GET / HTTP/1.10" + end, b"GET / HTTPS/1.1" + end, b"GET HTTP/1.1" + end,
        b"G(T / HTTP/1.1" + end, b"GET / HTTP/1.1\r\n" + HOST + HOST + b"\r\n", b"GET http:///x HTTP/1.1" + end,
        b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", b"GET ftp://a/ HTTP/1.1" + end,
        b"GET / HTTP/1.1\r\nHost: a@b\r\n\r\n", b"GET / HTTP/1.1\r\nHost: a:b\r\n\r\n",
        b"GET http://u@h/ HTTP/1.1" + end,
        b"GET / HTTP/1.1\r\nHost: a\r\nhost: a\r\n\r\n", b"GET / HTTP/1.1\r\nHost: a,b:x\r\n\r\n",
        b"GET /\x00 HTTP/1.1" + end, b"GET /\r HTTP/1.1" + end,
    )  # fmt: skip
    check({repr(line): line for line in lines})


def test_case_6_versions_and_methods_that_are_not_spoken() -> None:
    end = b"\r\n" + HOST + b"\r\n"
    check({v: b"GET / HTTP/%b" % v.encode() + end for v in ("2.0", "3.0", "0.9", "1.2", "1.9", "9.9")}, (505,))
    methods = (b"get", b"CONNECT", b"TRACE", b"PROPFIND", b"Post", b"G")
    check({m.decode(): m + b" / HTTP/1.1" + end for m in methods}, (405, 501))
    check({"CONNECT": b"CONNECT a:443 HTTP/1.1" + end}, (400, 405, 501))


def test_case_6_the_authority_of_an_absolute_target_replaces_host() -> None:
    async def body() -> None:
        async with fleet() as f:
            answer = await f.get(ask("n1", "http://elsewhere:81" + CHAT + "?a=1"))
            assert answer.status == 200
            assert f.seen[0].target == CHAT + "?a=1"
            hosts = [value for name, value in f.seen[0].fields if name == "host"]
            assert len(hosts) == 1
            assert hosts[0] != "test"

    run(body)


def test_case_7_a_pipeline_is_answered_in_order_and_ends_at_the_bad_request() -> None:
    async def body() -> None:
        async with fleet(2) as f:
            client = await f.dial()
            bad = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n"
            await client.send(ask("one") + ask("two") + bad + ask("three"))
            assert [(await client.answer()).field("x-nonce") for _ in range(2)] == ["one", "two"]
            last = await client.answer()
            assert last.status == 400
            assert await client.end() == b""
            assert sorted(seen.nonce for seen in f.seen) == ["one", "two"]

    run(body)


def test_case_7_a_long_pipeline_byte_by_byte_keeps_its_order() -> None:
    async def body() -> None:
        async with fleet(2) as f:
            f.play.scripts = [reply(), stream(), reply(), stream(), reply(status="404 Not Found"), reply()]
            client = await f.dial()
            await client.drip(b"".join(ask(f"n{number}") for number in range(6)))
            answers = [await client.answer() for _ in range(6)]
            assert [answer.field("x-nonce") for answer in answers] == [f"n{number}" for number in range(6)]
            assert [answer.status for answer in answers] == [200, 200, 200, 200, 404, 200]

    run(body)


def test_case_7_a_pipeline_of_hundreds_is_served() -> None:
    async def body() -> None:
        async with fleet() as f:
            client = await f.dial()
            await client.send(b"".join(ask(f"n{number}") for number in range(700)))
            for number in range(700):
                assert (await client.answer()).field("x-nonce") == f"n{number}"

    run(body)


def test_case_7_bytes_in_a_body_or_behind_a_close_are_never_a_request() -> None:
    async def body() -> None:
        async with fleet() as f:
            client = await f.dial()
            inner = ask("inner", "/v1/other")
            await client.send(ask("outer", "/v1/other", body=inner) + ask("next"))
            assert (await client.answer()).field("x-nonce") == "outer"
            assert (await client.answer()).field("x-nonce") == "next"
            await client.send(ask("last", fields="Connection: close\r\n") + ask("never"))
            last = await client.answer()
            assert last.field("x-nonce") == "last"
            assert last.field("connection") == "close"
            assert await client.end() == b""
            assert [seen.nonce for seen in f.seen] == ["outer", "next", "last"]
            assert f.seen[0].body == inner

    run(body)


def test_case_8_an_early_refusal_reaches_a_client_that_is_still_sending() -> None:
    async def body() -> None:
        async with fleet(limits={"body": "1KiB"}) as f:
            client = await f.dial()
            await client.send(POST + HOST + b"Content-Length: 60000\r\n\r\n")
            for _ in range(40):
                await client.send(b"x" * 1500)
            answer = await client.answer()
            assert answer.status == 413
            assert answer.whole
            assert json.loads(answer.body)["error"]["code"] == "body_too_large"
            assert await client.end() == b""
            assert not client.reset_by_other
            assert f.seen == []

    run(body)


def test_case_8_an_early_answer_of_the_engine_is_relayed_and_its_connection_not_used_again() -> None:
    async def body() -> None:
        async with fleet() as f:
            big = b'{"model":"m","prompt":"%b"}' % (b"x" * 8_000_000)

            async def early(peer: Peer, seen: Seen) -> None:
                peer.stop_reading()
                await peer.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\n{}")
                await until(lambda: answered.done())
                peer.go_on_reading()
                await peer.end()

            answered = asyncio.get_running_loop().create_future()
            f.engines[0].early = early
            answer = await f.get(ask(body=big, target="/v1/completions"))
            assert (answer.status, answer.body) == (413, b"{}")
            answered.set_result(None)
            await until(lambda: not f.busy, "the engine's connection is closed")

    run(body)


def test_case_9_expect_is_answered_with_one_100_and_then_the_body_is_read() -> None:
    async def body() -> None:
        async with fleet() as f:
            client = await f.dial()
            await client.send(POST + HOST + b"X-Nonce: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
            assert await client.expect(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            assert f.seen == []
            await client.send(b"{}")
            answer = await client.answer()
            assert (answer.status, answer.interim) == (200, [])
            assert f.seen[0].field("expect") is None
            # body at once: no 100 is needed, and none is owed twice
            await client.send(POST + HOST + b"Expect: 100-Continue\r\nContent-Length: 2\r\n\r\n{}")
            assert (await client.answer()).interim == []
            await client.send(POST + HOST + b"Expect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n")
            await client.expect(b"100 Continue\r\n\r\n")
            await client.drip(chunk(b"{}") + LAST)
            assert (await client.answer()).status == 200

    run(body)


def test_case_9_expect_is_refused_early_ignored_or_unknown() -> None:
    async def body() -> None:
        async with fleet(limits={"body": "1KiB"}) as f:
            client = await f.dial()
            await client.send(POST + HOST + b"Expect: 100-continue\r\nContent-Length: 5000\r\n\r\n")
            answer = await client.answer()
            assert (answer.status, answer.interim) == (413, [])
            assert await client.end() == b""
            old = await f.dial()
            await old.send(b"POST %b HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n" % CHAT.encode())
            await old.send(b"{}")
            answer = await old.answer()
            assert (answer.status, answer.interim) == (200, [])
            for value in (b"100-continue, x", b"", b"200-ok", b"100-continue;a"):
                line = POST + HOST + b"Expect: " + value + b"\r\nContent-Length: 2" + TWO
                assert await refused(f, line, (400, 417)) == "", value
            assert len(f.seen) == 1

    run(body)


def test_case_10_hop_by_hop_fields_end_here() -> None:
    async def body() -> None:
        async with fleet() as f:
            fields = (
                "Connection: close, X-Foo\r\nX-Foo: 1\r\nX-Kept: 2\r\nKeep-Alive: timeout=9\r\nTE: trailers\r\n"
                "Proxy-Authorization: Basic x\r\nProxy-Connection: keep-alive\r\nUpgrade: websocket\r\nTrailer: X-T\r\n"
                "X-Fairlead-Trick: 1\r\nAuthorization: Bearer k\r\nVia: 1.1 other\r\nAccept: */*\r\n"
            )
            back = (
                b"Connection: X-Bar\r\nX-Bar: 1\r\nKeep-Alive: timeout=5\r\nProxy-Authenticate: Basic\r\nX-Kept: 3\r\n"
                b"Upgrade: h2c\r\nTrailer: X-T\r\n"
            )
            f.play.scripts = [reply(fields=back)]
            answer = await f.get(ask("a", fields=fields))
            got = f.seen[0]
            names = {name for name, _ in got.fields}
            gone = {"connection", "x-foo", "keep-alive", "te", "proxy-authorization", "proxy-connection", "upgrade"}
            assert not names & (gone | {"trailer", "x-fairlead-trick"})
            assert (got.field("x-kept"), got.field("authorization"), got.field("accept")) == ("2", "Bearer k", "*/*")
            back_names = {name for name, _ in answer.fields}
            assert not back_names & {"x-bar", "keep-alive", "proxy-authenticate", "upgrade", "trailer"}
            assert answer.field("x-kept") == "3"
            assert answer.field("connection") == "close"

    run(body)


def test_case_10_our_name_comes_last_in_via() -> None:
    async def body() -> None:
        async with fleet() as f:
            await f.get(ask(fields="Via: 1.0 first, 1.1 second\r\n"))
            via = ", ".join(value for name, value in f.seen[0].fields if name == "via")
            assert re.fullmatch(r"1\.0 first, 1\.1 second, 1\.1 fairlead-[0-9a-f]+", via), via

    run(body)


def test_case_10_a_connection_field_cannot_take_away_what_others_decide_by() -> None:
    names = ("host", "authorization", "Content-Length", "transfer-encoding", "x-tenant", "X-Request-Id", "cookie",
             "x-fairlead-x", "content-type", "x-api-key", "expect")  # fmt: skip
    check({n: POST + HOST + b"Connection: close, " + n.encode() + b"\r\nContent-Length: 2" + TWO for n in names})


def test_case_10_a_request_that_comes_back_is_a_loop() -> None:
    async def body() -> None:
        async with fleet() as f:
            await f.get()
            via = f.seen[0].field("via")
            answer = await f.get(ask(fields=f"Via: 1.0 first, {via}\r\n"))
            assert answer.status == 508
            assert len(f.seen) == 1
            assert json.loads(answer.body)["error"]["code"] == "loop"

    run(body)


def test_chunked_bodies_go_on_with_their_length() -> None:
    async def body() -> None:
        async with fleet() as f:
            said = b'{"model":"m","messages":[{"role":"user","content":"%b"}]}' % (b"hello " * 50)
            head = POST + HOST + b"X-Nonce: c\r\nTransfer-Encoding: chunked\r\n\r\n"
            pieces = b"".join(
                b"%X;ext=1\r\n%b\r\n" % (len(said[i : i + 7]), said[i : i + 7]) for i in range(0, len(said), 7)
            )
            trailers = b"0\r\nContent-Length: 3\r\nHost: evil\r\nAuthorization: x\r\nX-Trailer: 1\r\n\r\n"
            client = await f.dial()
            await client.send(head + pieces + trailers + ask("next"))
            assert (await client.answer()).field("x-nonce") == "c"
            assert (await client.answer()).field("x-nonce") == "next"
            await client.drip(head + pieces + trailers)
            assert (await client.answer()).field("x-nonce") == "c"
            for seen in (f.seen[0], f.seen[2]):
                assert seen.body == said
                assert seen.field("content-length") == str(len(said))
                assert not {"transfer-encoding", "x-trailer", "authorization"} & {name for name, _ in seen.fields}
                assert len([1 for name, _ in seen.fields if name == "host"]) == 1

    run(body)


def test_large_bodies_arrive_whole_in_both_directions() -> None:
    async def body() -> None:
        async with fleet() as f:
            for size in (1 << 20, 8 << 20):
                blob = hashlib.sha256(b"%d" % size).digest() * (size // 32)
                f.play.scripts = [reply(blob)]
                answer = await f.get(ask(target="/v1/files", body=blob))
                assert hashlib.sha256(f.seen[-1].body).digest() == hashlib.sha256(blob).digest()
                assert hashlib.sha256(answer.body).digest() == hashlib.sha256(blob).digest()
                assert answer.whole

    run(body)


def test_request_ids_are_kept_when_they_are_harmless() -> None:
    async def body() -> None:
        async with fleet() as f:
            answer = await f.get(ask(fields="X-Request-Id: abc-1.2_Z\r\n"))
            assert (answer.field("x-request-id"), f.seen[0].field("x-request-id")) == ("abc-1.2_Z", "abc-1.2_Z")
            for bad in ("a b", "x" * 129, 'a"b', "é"):
                answer = await f.get(ask(fields=f"X-Request-Id: {bad}\r\n"))
                made = answer.field("x-request-id")
                assert made
                assert made != bad
                assert f.seen[-1].field("x-request-id") == made
                assert len([1 for name, _ in f.seen[-1].fields if name == "x-request-id"]) == 1

    run(body)
