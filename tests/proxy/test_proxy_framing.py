"""Conformance cases 1 to 5: what two parsers could read differently is refused, and no engine sees a byte of it.

Each row is sent on a connection of its own to a running App. Verdict: the status, an error in OpenAI's shape, a
close that the client can see, and nothing at an engine.
"""

from __future__ import annotations

import asyncio
import json

from peers import run
from running import CHAT, Fleet, ask, fleet

POST = b"POST %b HTTP/1.1\r\n" % CHAT.encode()
HOST = b"Host: test\r\n"
TWO = b"\r\n\r\n{}"  # a two-byte body
LAST = b"\r\n\r\n0\r\n\r\n"


async def refused(f: Fleet, data: bytes, statuses: tuple[int, ...] = (400,), *, whole: bool = True) -> str:
    """What is wrong with the way these bytes are refused; "" when nothing is."""
    client = await f.dial()
    if whole:
        await client.send(data + ask("smuggled"))  # bytes behind a refusal are never parsed
    else:
        await client.drip(data)
    try:
        answer = await client.answer()
        rest = await client.end(1.0)
    except AssertionError as problem:
        return str(problem)
    client.close()
    if answer.status not in statuses:
        return f"status {answer.status}"
    if not answer.whole or answer.field("connection") != "close" or not answer.field("x-request-id"):
        return f"not a whole answer that closes: {answer.raw!r}"
    error = json.loads(answer.body)["error"]
    if set(error) != {"message", "type", "code", "param"} or not error["message"] or not error["code"]:
        return f"error {error}"
    return f"then {rest!r}" if rest else ""


def check(rows: dict[str, bytes], statuses: tuple[int, ...] = (400,)) -> None:
    """Every row is refused, in one piece and byte by byte; afterwards the App serves as before."""

    async def body() -> None:
        async with fleet() as f:
            wrong = {}
            for name, data in rows.items():
                if why := await refused(f, data, statuses):
                    wrong[name] = why
                elif why := await refused(f, data, statuses, whole=False):
                    wrong[f"{name}, byte by byte"] = why
                if f.seen:
                    wrong[name] = f"the engine saw {f.seen[0].head!r}"
                    f.engines[0].seen.clear()
            assert wrong == {}
            assert (await f.get()).status == 200
            lines = await f.logged(1)
            assert all(line["status"] in (*statuses, 200) for line in lines)

    run(body)


def test_case_1_a_length_given_in_two_ways_is_refused() -> None:
    length, coding = b"Content-Length: 2\r\n", b"Transfer-Encoding: chunked\r\n"
    end = b"\r\n0\r\n\r\n"
    check({
        "length first": POST + HOST + length + coding + end,
        "coding first": POST + HOST + coding + length + end,
        "upper case": POST + HOST + length.upper() + coding.upper() + end,
        "mixed case": POST + HOST + b"content-LENGTH: 2\r\ntransfer-ENCODING: Chunked\r\n" + end,
        "apart": POST + length + HOST + coding + end,
        "zero length": POST + HOST + b"Content-Length: 0\r\n" + coding + end,
    })  # fmt: skip


def test_case_2_only_one_plain_chunked_is_a_coding() -> None:
    values = (
        b",chunked", b"xchunked", b"chunked, identity", b"chunked,chunked", b"chunked;a", b"chunked,", b"chunked a",
        b"identity, chunked", b"gzip, chunked", b"\x0bchunked", b"chunked\x0b", b"chunked\x00", b"\xa0chunked",
        b"chunked\xa0", b"'chunked'", b"\"chunked\"", b"", b"ch\rnked",
    )  # fmt: skip
    rows = {repr(v): POST + HOST + b"Transfer-Encoding: " + v + LAST for v in values}
    rows["twice"] = POST + HOST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked" + LAST
    rows["twice, other case"] = POST + HOST + b"Transfer-Encoding: chunked\r\ntransfer-encoding: identity" + LAST
    rows["folded"] = POST + HOST + b"Transfer-Encoding:\r\n chunked" + LAST
    rows["space before the colon"] = POST + HOST + b"Transfer-Encoding : chunked" + LAST
    rows["HTTP/1.0"] = b"POST /v1/completions HTTP/1.0\r\n" + HOST + b"Transfer-Encoding: chunked" + LAST
    check(rows, (400, 501))


def test_case_2_a_well_formed_coding_that_is_unknown_is_told_apart() -> None:
    check({
        value: POST + HOST + b"Transfer-Encoding: " + value.encode() + LAST for value in ("gzip", "identity", "br")
    }, (400, 501))  # fmt: skip


def test_case_3_a_content_length_is_plain_digits_once() -> None:
    values = (
        b"", b"+2", b"-2", b"0x2", b"1_0", b"2Z", b"1 1", b"1,2", b"2, 2", b"2,", b"2;", b"\xb2", b"2\x0b", b"2.0",
        b"1234567890123456789", b"9" * 400, b"2\x00", b"\"2\"", b"two",
    )  # fmt: skip
    rows = {repr(v): POST + HOST + b"Content-Length: " + v + TWO for v in values}
    rows["no space"] = POST + HOST + b"Content-Length:+2" + TWO
    rows["twice, alike"] = POST + HOST + b"Content-Length: 2\r\nContent-Length: 2" + TWO
    rows["twice, other case"] = POST + HOST + b"content-length: 2\r\nContent-Length: 2" + TWO
    rows["twice, different"] = POST + HOST + b"Content-Length: 2\r\nContent-Length: 3" + TWO
    rows["folded"] = POST + HOST + b"Content-Length:\r\n 2" + TWO
    check(rows)


def test_case_3_twice_is_refused_after_the_same_head_was_seen_with_one() -> None:
    async def body() -> None:
        async with fleet() as f:
            rest = b"X-Head: the same\r\nContent-Type: application/json\r\n"
            good = POST + HOST + rest + b"Content-Length: 2\r\n\r\n{}"
            for _ in range(3):
                assert (await f.get(good)).status == 200
            seen = len(f.seen)
            for bad in (
                POST + HOST + rest + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}",
                POST + HOST + rest + b"Content-Length: 2\r\ncontent-length: 2\r\n\r\n{}",
                POST + HOST + rest + b"Content-Length: 2\r\nCONTENT-LENGTH:2\r\n\r\n{}",
                POST + HOST + rest + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}",
                POST + HOST + rest + b"Content-Length: 2 2\r\n\r\n{}",
                POST + HOST + rest + b"Content-Length: \r\n\r\n{}",
                POST + rest + b"Content-Length: 2\r\n\r\n{}",
            ):
                assert await refused(f, bad) == ""
            assert len(f.seen) == seen

    run(body)


def test_case_3_leading_zeros_are_decimal_and_forwarded_in_canonical_form() -> None:
    async def body() -> None:
        async with fleet() as f:
            answer = await f.get(POST + HOST + b"Content-Length: 0002\r\n\r\n{}")
            assert answer.status == 200
            assert f.seen[0].field("content-length") == "2"
            assert f.seen[0].body == b"{}"

    run(body)


def test_case_4_a_broken_chunk_is_refused() -> None:
    head = POST + HOST + b"Transfer-Encoding: chunked\r\n\r\n"
    tails = (
        b"0x2\r\n{}\r\n", b"+2\r\n{}\r\n", b"-2\r\n{}\r\n", b"2_0\r\n", b" 2\r\n{}\r\n", b"2 \r\n{}\r\n",
        b"\t2\r\n{}\r\n", b"\r\n{}\r\n", b";a\r\n{}\r\n", b"00000000000000002\r\n{}\r\n", b"2g\r\n{}\r\n",
        b"2\n{}\r\n", b"2\r{}\r\n", b"2\rX{}\r\n", b"2\r\n{}X\r\n", b"2\r\n{}\n", b"2\r\n{}\r", b"2\r\n{}0\r\n\r\n",
        b"2;a\x00b\r\n{}\r\n", b"2;a\x7f\r\n{}\r\n", b"2;a\nb\r\n{}\r\n", b"2;a\rb\r\n{}\r\n",
        b"2;" + b"e" * 5000 + b"\r\n{}\r\n", (b"1;" + b"e" * 900 + b"\r\n{\r\n") * 5, b"2 ;a\r\n{}\r\n",
        b"\xb2\r\n{}\r\n", b"2\x00\r\n{}\r\n", b"2\r\n{}\r\n0\r\nX Y: 1\r\n\r\n", b"2\r\n{}\r\n0\r\nnocolon\r\n\r\n",
        b"2\r\n{}\r\n0\r\n: x\r\n\r\n", b"2\r\n{}\r\n0\r\nX: a\nb\r\n\r\n", b"2\r\n{}\r\n0\r\nX: a\x00\r\n\r\n",
        b"2\r\n{}\r\n0\n\n",
    )  # fmt: skip
    check({repr(tail[:40]): head + tail + b"0\r\n\r\n" for tail in tails})


def test_case_5_a_broken_field_line_is_refused() -> None:
    lines = (
        b": empty name", b"X-Space : a", b"X-Tab\t: a", b"X Y: a", b"X(Y): a", b"X\xc3: a", b"X\x80: a", b"nocolon",
        b" X-First: indented", b"X-A: a\x00b", b"X-A: a\rb", b"X-A: a\nX-B: b", b"X-A: a\r\n folded",
        b"X-A: a\r\n\tfolded", b"X-A: a\x01b", b"X-A: a\x7fb", b"X-A: a\x0bb", b"X@Y: a", b"X,Y: a", b"X=Y: a",
        b"[X]: a", b"\"X\": a", b"X\x00: a", b"\xef\xbb\xbfX: a", b"X-A: a\r\r\nX-B: b", b"\rX: a",
    )  # fmt: skip
    rows = {repr(line): POST + HOST + line + b"\r\nContent-Length: 2" + TWO for line in lines}
    rows["first line indented"] = POST + b" X: a\r\n" + HOST + b"Content-Length: 2" + TWO
    rows["bare LF all over"] = b"POST /v1/completions HTTP/1.1\nHost: test\nContent-Length: 2\n\n{}"
    rows["bare LF once"] = POST + b"Host: test\nContent-Length: 2" + TWO
    rows["bare LF at the end"] = POST + b"Host: test\r\nContent-Length: 2\n\n{}"
    rows["bare LF in the request line"] = b"GET / HTTP/1.1\nHost: test\r\n\r\n"
    check(rows)


def test_a_refusal_does_not_stop_others() -> None:
    async def body() -> None:
        async with fleet(2) as f:
            bad = [refused(f, POST + HOST + b"Content-Length: x" + TWO) for _ in range(20)]
            good = [f.get(ask(f"n{number}")) for number in range(20)]
            verdicts, answers = await asyncio.gather(asyncio.gather(*bad), asyncio.gather(*good))
            assert set(verdicts) == {""}
            assert [answer.field("x-nonce") for answer in answers] == [f"n{number}" for number in range(20)]

    run(body)
