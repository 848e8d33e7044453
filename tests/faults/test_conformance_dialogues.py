"""Conformance cases that take more than one word: both sides speak in turn, or what is passed on is looked at.

Cases 3, 6 and 8 to 13; G1 to G8 behind each (oracle.py).
"""

from __future__ import annotations

import asyncio
import json
import re

import pytest
from bench.conformance.payloads import HOST, LAST, POST, answer, good
from oracle import judged
from peers import Peer, Script, Seen, run, until
from running import ask, chunk, raw, reply

OK = b"HTTP/1.1 200 OK\r\nX-Nonce: %NONCE\r\n"


def test_case_3_leading_zeros_go_on_in_canonical_form() -> None:
    async def body() -> None:
        async with judged() as (f, oracle):
            sent = POST + HOST + b"X-Nonce: z\r\nContent-Length: 000000000000000013\r\n\r\n" + b'{"model":"m"}'
            await oracle.speak(sent, ["z"], closed=False)
            assert f.seen[0].field("content-length") == "13"

    run(body)


def test_case_6_the_authority_of_the_target_counts_and_the_hosts_of_clients_go_no_further() -> None:
    async def body() -> None:
        async with judged() as (f, oracle):
            request = ask("a", "http://elsewhere:81/v1/chat/completions?b=c")
            await oracle.speak(request, ["a"], closed=False)
            seen = f.seen[0]
            assert seen.target == "/v1/chat/completions?b=c"
            assert [value for name, value in seen.fields if name == "host"] == [
                f.engines[0].url.removeprefix("http://")
            ]

    run(body)


def test_case_6_the_preface_of_http_2_is_a_version_that_is_not_spoken_where_it_is_off() -> None:
    async def body() -> None:
        async with judged(listen={"address": "127.0.0.1:0", "http2": False}) as (_, oracle):
            verdict = await oracle.speak(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9))
            assert verdict.statuses == (505,)

    run(body)


@pytest.mark.parametrize("status", ["401 Unauthorized", "413 Too Large", "429 Too Many"])
def test_case_8_an_engine_that_answers_before_it_has_read_all_is_heard_and_left(status: str) -> None:
    big = b'{"model":"m","prompt":"%b"}' % (b"x" * 8_000_000)

    async def body() -> None:
        heard = asyncio.Event()

        async def early(peer: Peer, seen: Seen) -> None:
            peer.stop_reading()
            await peer.send(answer(b"no", status=status.encode()).replace(b"%NONCE", seen.nonce.encode()))
            await heard.wait()
            peer.go_on_reading()
            await peer.end()

        async with judged(retries={"on": ["connect"]}) as (f, oracle):
            f.engines[0].early = early
            client = await f.dial()
            await client.send(ask("e", "/v1/completions", big))
            got = await client.answer()
            assert (got.status, got.body, got.field("x-nonce")) == (int(status[:3]), b"no", "e")
            oracle.outcomes[got.status] += 1
            heard.set()
            await until(lambda: not f.busy, "the engine's connection is closed")
            f.engines[0].early = None
            await client.send(ask("next"))
            assert (await client.answer()).field("x-nonce") == "next"
            oracle.outcomes[200] += 1

    run(body)


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_case_9_one_100_then_the_body_then_one_answer(framing: str) -> None:
    async def body() -> None:
        async with judged() as (f, oracle):
            client = await f.dial()
            field = b"Content-Length: 2" if framing == "length" else b"Transfer-Encoding: chunked"
            await client.send(POST + HOST + b"X-Nonce: c\r\nExpect: 100-Continue\r\n" + field + b"\r\n\r\n")
            assert await client.expect(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            assert f.seen == []
            await client.drip(b"{}" if framing == "length" else chunk(b"{}") + LAST)
            got = await client.answer()
            assert (got.status, got.interim, got.field("x-nonce")) == (200, [], "c")
            assert (f.seen[0].field("expect"), f.seen[0].body) == (None, b"{}")
            oracle.outcomes[200] += 1

    run(body)


def test_case_9_what_can_be_refused_from_the_head_is_refused_without_100() -> None:
    async def body() -> None:
        async with judged(limits={"body": "1KiB"}) as (f, oracle):
            for fields, status in (
                (b"Content-Length: 5000", 413),
                (b"Content-Length: 5\r\nContent-Encoding: gzip", 415),
                (b"Content-Length: 5\r\nConnection: host", 400),
            ):
                head = POST + HOST + b"Expect: 100-continue\r\n" + fields + b"\r\n\r\n"
                verdict = await oracle.speak(head)
                assert (verdict.statuses, verdict.answers[0].interim) == ((status,), [])
            assert f.seen == []

    run(body)


def test_case_10_hop_by_hop_fields_end_here_in_both_directions() -> None:
    async def body() -> None:
        async with judged() as (f, oracle):
            fields = (
                "Connection: X-Foo\r\nX-Foo: 1\r\nX-Kept: 2\r\nKeep-Alive: timeout=9\r\nTE: trailers\r\n"
                "Trailer: X-T\r\nProxy-Authorization: Basic x\r\n"
                "Proxy-Connection: keep-alive\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\n"
            )
            back = (
                b"Connection: X-Bar\r\nX-Bar: 1\r\nKeep-Alive: timeout=5\r\nProxy-Authenticate: Basic\r\nX-Kept: 3\r\n"
                b"Upgrade: h2c\r\nTrailer: X-T\r\n"
            )
            f.play.scripts = [reply(fields=back)]
            verdict = await oracle.speak(ask("h", fields=fields), ["h"], closed=False)
            seen, got = f.seen[0], verdict.answers[0]
            gone = {"connection", "x-foo", "keep-alive", "te", "trailer", "proxy-authorization", "proxy-connection",
                    "upgrade", "http2-settings"}  # fmt: skip
            assert not {name for name, _ in seen.fields} & gone
            back_gone = {"connection", "x-bar", "keep-alive", "proxy-authenticate", "upgrade", "trailer"}
            assert not {name for name, _ in got.fields} & back_gone
            assert (seen.field("x-kept"), got.field("x-kept")) == ("2", "3")

    run(body)


def test_case_10_our_name_comes_last_in_via_and_a_request_that_has_it_is_a_loop() -> None:
    async def body() -> None:
        async with judged() as (f, oracle):
            await oracle.speak(ask("v", fields="Via: 1.0 first\r\n"), ["v"], closed=False)
            via = ", ".join(value for name, value in f.seen[0].fields if name == "via")
            assert re.fullmatch(r"1\.0 first, 1\.1 fairlead-[0-9a-f]+", via), via
            seen = len(f.seen)
            verdict = await oracle.speak(ask("w", fields=f"Via: 1.0 a, {via}\r\n"))
            assert verdict.statuses == (508,)
            assert json.loads(verdict.answers[0].body)["error"]["code"] == "loop"
            assert f.app.recorder.refusals["loop"] == 1
            assert len(f.seen) == seen

    run(body)


def test_case_11_interim_answers_go_to_those_who_know_them() -> None:
    async def body() -> None:
        async with judged() as (f, oracle):
            hints = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
            said = b"HTTP/1.1 100 Continue\r\n\r\n" + hints * 2 + answer()
            for version, expected in (("1.1", [103, 103]), ("1.0", [])):
                f.play.scripts = [raw(said)]
                verdict = await oracle.speak(ask(f"i{version}", version=version), closed=version == "1.0")
                assert [status for status, _ in verdict.answers[0].interim] == expected

    run(body)


def test_case_11_bytes_behind_a_request_to_upgrade_are_the_next_request_or_refused() -> None:
    async def body() -> None:
        async with judged() as (f, oracle):
            upgrade = b"Connection: Upgrade\r\nUpgrade: websocket\r\n"
            await oracle.speak(good(b"u", upgrade) + good(b"n"), ["u", "n"], count=2, closed=False)
            verdict = await oracle.speak(good(b"u2", upgrade) + b"\x81\x05hello\r\n\r\n", ["u2"], count=2)
            assert verdict.statuses == (200, 400)
            assert all(seen.field("upgrade") is None for seen in f.seen)

    run(body)


def test_case_12_a_word_that_nobody_asked_for_closes_an_idle_connection() -> None:
    async def body() -> None:
        more = asyncio.Event()

        async def play(peer: Peer, seen: Seen) -> None:
            await reply()(peer, seen)
            await more.wait()
            await peer.send(answer(b"evil").replace(b"%NONCE", b"evil"))

        async with judged() as (f, oracle):
            f.play.scripts = [play]
            client = await f.dial()
            await client.send(ask("first"))
            assert (await client.answer()).field("x-nonce") == "first"
            more.set()
            await until(lambda: not f.busy, "the connection is closed")
            await client.send(ask("next"))
            assert (await client.answer()).field("x-nonce") == "next"
            oracle.outcomes[200] += 2

    run(body)


TRAILERS = b"Content-Length: 3\r\nAuthorization: evil\r\nX-Benign: evil\r\n"


def test_case_13_trailers_of_engines_are_dropped_wherever_they_are_cut() -> None:
    said = chunk(b"hello ") + chunk(b"world") + b"0\r\n" + TRAILERS + b"\r\n"

    def cut(at: int) -> Script:
        async def play(peer: Peer, seen: Seen) -> None:
            head = (
                OK.replace(b"%NONCE", seen.nonce.encode()) + b"Trailer: X-Benign\r\nTransfer-Encoding: chunked\r\n\r\n"
            )
            await peer.send(head)
            await peer.drip(said[:at], max(at, 1))
            await peer.send(said[at:])

        return play

    async def body() -> None:
        async with judged() as (f, oracle):
            for at in range(len(said) + 1):
                f.play.scripts = [cut(at)]
                nonce = oracle.nonce()
                got = (await oracle.speak(ask(nonce), [nonce], closed=False)).answers[0]
                assert got.body == b"hello world"
                assert got.raw.endswith(b"5\r\nworld\r\n0\r\n\r\n"), at

    run(body)


def test_case_13_trailers_of_clients_are_dropped() -> None:
    async def body() -> None:
        async with judged() as (f, oracle):
            head = POST + HOST + b"X-Nonce: t\r\nTransfer-Encoding: chunked\r\n\r\n"
            await oracle.speak(head + chunk(b"{}") + b"0\r\n" + TRAILERS + b"\r\n", ["t"], closed=False)
            seen = f.seen[0]
            assert (seen.field("content-length"), seen.body) == ("2", b"{}")
            assert not {"transfer-encoding", "x-benign", "authorization"} & {name for name, _ in seen.fields}

    run(body)
