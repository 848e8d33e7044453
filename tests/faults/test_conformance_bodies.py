"""Conformance case 15: JSON that the balancer reads and an engine could read differently is refused, and fast.

400 `ambiguous_body` (415 where the body is encoded), the connection lives on (the request was framed well), and no
engine sees a byte of it. What is no JSON at all is `bad_body`; what only looks odd goes through as it is.
"""

from __future__ import annotations

import gzip
import json

import pytest
from bench.conformance.payloads import shown
from oracle import CANARY_FIELDS, CANARY_PROMPT, judged
from peers import run
from running import CHAT, ask

PROMPT = b'"messages":[{"role":"user","content":"%b"}]' % CANARY_PROMPT.encode()


def said(fields: bytes) -> bytes:
    return b"{" + fields + b"," + PROMPT + b"}"


PLAIN = said(b'"model":"m"')
AMBIGUOUS = (
    said(b'"model":"m","model":"x"'), said(b'"model":"m","model":"m"'), b'{"model":"x",' + PROMPT + b',"model":"m"}',
    said(b'"model":"m","stream":true,"stream":false'), said(b'"model":"m","max_tokens":1,"max_tokens":100000'),
    said(b'"model":"m","cache_salt":"a","cache_salt":"b"'), b'{"model":"m",' + PROMPT + b"," + PROMPT + b"}",
    said(b'"model":"m","mod\\u0065l":"x"'), said(b'"mod\\u0065l":"m"'), said(b'"model":"m","Model":"x"'),
    said(b'"model":"m","x":"\\"model\\":","model":"x"'), b"\xef\xbb\xbf" + PLAIN, PLAIN.decode().encode("utf-16"),
    PLAIN.decode().encode("utf-16-le"), PLAIN.decode().encode("utf-32"), said(b'"model":"m","temperature":NaN'),
    said(b'"model":"m","max_tokens":Infinity'), said(b'"model":"m","x":[-Infinity]'),
    said(b'"model":"m","x":' + b"[" * 10_000 + b"]" * 10_000),
    said(b'"model":"m","x":' + b'{"a":' * 10_000 + b"1" + b"}" * 10_000), said(b'"model":1'), said(b'"model":["m"]'),
    said(b'"model":{"m":1}'), said(b'"model":true'), said(b'"model":""'), said(b'"model":"m","stream":"true"'),
    said(b'"model":"m","stream":1'), said(b'"model":"m","max_tokens":"5"'), said(b'"model":"m","max_tokens":1.5'),
    said(b'"model":"m","max_tokens":true'), said(b'"model":"m","max_tokens":[5]'),
    said(b'"model":"m","max_completion_tokens":"5"'), said(b'"model":"m","n":"2"'), said(b'"model":"m","cache_salt":1'),
)  # fmt: skip
BROKEN = (b"", b"{", PLAIN[:-1], PLAIN + b"x", b"null", b"[]", b'"x"', b"7", b"{'model':1}", b"model=m")
CLEAR = (
    PLAIN, b" \r\n\t" + PLAIN + b"\n", said(b'"model":"m","x":{"model":"x","model":"y"}'),
    said(b'"model":"m","max_tokens":5.0'),
    said(b'"model":"m","stream":null,"max_tokens":null,"cache_salt":null,"n":null'),
    said(b'"model":"m","max_tokens":-1'), said(b'"model":"m","x":"\\"model\\":\\"x\\""'),
    said(b'"model":"m","Temperature":1,"x":' + b"[" * 100 + b"]" * 100),
    said('"model":"m","x":"é✓𝄞\\ud834\\udd1e"'.encode()),
)  # fmt: skip


def check(bodies: tuple[bytes, ...], status: int, code: str, fields: str = "", target: str = CHAT) -> None:
    async def body() -> None:
        async with judged() as (f, oracle):
            wrong: dict[str, object] = {}
            for sent in bodies:
                for pieces in ((), (1,) * min(len(sent), 300)):
                    seen = len(f.seen)
                    nonce = oracle.nonce()
                    request = ask(nonce, target, sent, fields=CANARY_FIELDS + fields)
                    verdict = await oracle.speak(request, closed=status == 415, pieces=pieces)
                    answer = verdict.answers[0]
                    got = (answer.status, json.loads(answer.body).get("error", {}).get("code", ""))
                    new = [
                        request.nonce for request in f.seen[seen:] if request.nonce == nonce and request.body == sent
                    ]
                    if got != (status, code) or new != ([nonce] if status == 200 else []):
                        wrong[shown(sent)] = got, new
                    if code and json.loads(answer.body)["error"]["type"] != "invalid_request_error":
                        wrong[shown(sent)] = answer.body, new
            assert wrong == {}
            counted = {reason: times for reason, times in f.app.recorder.refusals.items() if times}
            assert counted == ({code: 2 * len(bodies)} if code else {})

    run(body)


def test_a_body_that_could_be_read_in_two_ways_is_refused() -> None:
    check(AMBIGUOUS, 400, "ambiguous_body")


def test_a_body_that_nobody_can_read_is_refused() -> None:
    check(BROKEN, 400, "bad_body")


def test_a_body_that_is_clear_goes_on_byte_by_byte() -> None:
    check(CLEAR, 200, "")


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "gzip, identity", "x"])
def test_an_encoded_body_is_refused_before_it_is_read(coding: str) -> None:
    check((gzip.compress(PLAIN, mtime=0),), 415, "ambiguous_body", f"Content-Encoding: {coding}\r\n")


def test_identity_is_no_coding_and_what_is_not_read_may_be_encoded() -> None:
    check((PLAIN,), 200, "", "Content-Encoding: identity\r\n")
    check((gzip.compress(PLAIN, mtime=0),), 200, "", "Content-Encoding: gzip\r\n", "/v1/files")


def test_the_shape_of_an_error_is_that_of_the_route() -> None:
    async def body() -> None:
        async with judged() as (f, oracle):
            for sent, fields in ((b'{"model":1}', ""), (b"{}", "Content-Encoding: gzip\r\n")):
                request = ask("a", "/v1/messages", sent, fields=fields)
                answer = (await oracle.speak(request, closed=bool(fields))).answers[0]
                told = json.loads(answer.body)
                assert (told["type"], told["error"]["type"]) == ("error", "invalid_request_error")
            assert all(seen.nonce != "a" for seen in f.seen)

    run(body)
