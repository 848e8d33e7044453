"""Cases 30 to 33: is every answer that ended too early, or ended in an error, seen for what it is?"""

from __future__ import annotations

import asyncio
import json

import openai
import pytest
from oracle import judged
from peers import Peer, Script, Seen, run, until
from running import CHAT, DONE, LAST, ask, chunk, event, fleet, raw, reply, sse_head
from test_faults_midstream import assert_broken, breaking

from fairlead.wire.endings import ends_well, tells_server_error

STOP = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
LAST_WORDS = [
    (CHAT, DONE),
    (CHAT, STOP),
    ("/v1/completions", DONE),
    ("/v1/responses", b'event: response.completed\ndata: {"type":"response.completed"}\n\n'),
    ("/v1/responses", b'event: response.incomplete\ndata: {"type":"response.incomplete"}\n\n'),
    ("/v1/responses", b'event: response.failed\ndata: {"type":"response.failed"}\n\n'),
    ("/v1/messages", b'event: message_stop\ndata: {"type":"message_stop"}\n\n'),
    ("/v1/messages", b'event: error\ndata: {"type":"error","error":{"type":"api_error","message":"x"}}\n\n'),
    (CHAT, b'data: {"error":{"message":"out of memory","type":"server_error","code":500}}\n\n'),
]
ROUTES = [CHAT, "/v1/completions", "/v1/responses", "/v1/messages"]
CUTS: dict[str, list[bytes]] = {  # how the end of a stream comes in
    "at once": [chunk(event(1)) + LAST],
    "the end alone": [chunk(event(1)), LAST],
    "with a comment before": [chunk(event(1)), chunk(b": ping\n\n"), LAST],
    "an extension": [chunk(event(1)), b"0;x=1\r\n\r\n"],
}


def pieces(parts: list[bytes]) -> Script:
    async def play(peer: Peer, seen: Seen) -> None:
        await peer.send(sse_head(seen))
        for part in parts:
            await peer.send(part)
            await asyncio.sleep(0.005)

    return play


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize(("route", "word"), LAST_WORDS)
def test_case_31_a_stream_with_its_last_word_is_whole(route: str, word: bytes, together: bool) -> None:
    async def body() -> None:
        async with judged(1) as (f, oracle):
            parts = [chunk(event(1)), chunk(word), LAST]
            f.play.scripts = [pieces([b"".join(parts)] if together else parts)]
            verdict = await oracle.speak(ask("n", route), ["n"], closed=False)
            assert verdict.answers[0].body == event(1) + word

    run(body)


@pytest.mark.parametrize("cut", list(CUTS))
@pytest.mark.parametrize("route", ROUTES)
def test_case_31_a_stream_without_its_last_word_gets_an_error_event(route: str, cut: str) -> None:
    async def body() -> None:
        async with fleet(2) as f:
            f.play.scripts = [pieces(CUTS[cut])]
            answer = await f.get(ask("n", route))
            if cut == "an extension":  # the end was relayed in a form that leaves no room: cut
                assert (answer.status, answer.whole) == (200, False)
            else:
                assert_broken(answer, event(1) if "comment" not in cut else event(1) + b": ping\n\n", route)
            (line,) = await f.logged(1)
            assert (line["outcome"], line["error"], line["tries"]) == ("failed", "stream_incomplete", 1)
            assert sum(backend.errors for backend in f.app.balancer.backends.values()) == 1

    run(body)


@pytest.mark.parametrize("version", ["1.1", "1.0"])
@pytest.mark.parametrize("chunked", [True, False])
def test_case_31_every_framing_is_seen_through(version: str, chunked: bool) -> None:
    framing = b"Transfer-Encoding: chunked\r\n" if chunked else b""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n" + framing + b"\r\n"

    async def body() -> None:
        async with fleet(1) as f:
            for end in (b"", DONE):
                said = chunk(event(1)) + (chunk(end) if end else b"") + LAST if chunked else event(1) + end
                f.play.scripts = [raw(head + said, close=True)]
                answer = await f.get(ask(version=version))
                assert (b'"error"' in answer.body) == (not end)
                assert event(1) in answer.body
                if end:
                    assert answer.whole
            assert [line["error"] for line in await f.logged(2)] == ["stream_incomplete", None]

    run(body)


def test_case_31_a_stream_without_a_single_event_goes_elsewhere() -> None:
    async def body() -> None:
        async with fleet(2) as f:
            f.play.scripts = [pieces([LAST]), pieces([chunk(event(1)) + chunk(DONE) + LAST])]
            answer = await f.get(ask("n"))
            assert (answer.status, answer.whole, answer.body) == (200, True, event(1) + DONE)
            (line,) = await f.logged(1)
            assert (line["tries"], line["outcome"]) == (2, "ok")
            assert f.app.recorder.retries == {"stream_incomplete": 1}

    run(body)


def test_the_last_word_is_found_across_chunks_and_not_in_a_text_that_quotes_it() -> None:
    chat = b"/v1/chat/completions"
    whole = b"".join(chunk(part) for part in (event(1), b"data: [DO", b"NE]\n\n")) + LAST
    assert ends_well(chat, whole)
    assert not ends_well(
        chat, chunk(b'data: {"choices":[{"delta":{"content":"\\"finish_reason\\": \\"stop\\""}}]}\n\n')
    )
    assert not ends_well(chat, chunk(b'data: {"choices":[{"delta":{},"finish_reason":null}]}\n\n') + LAST)
    assert ends_well(b"/generate_stream", LAST), "no last word is known there"


def test_case_30_the_openai_sdk_raises_on_every_early_end() -> None:
    ends: list[Script] = [
        breaking(chunk(event(1))),
        breaking(chunk(event(1)), "reset"),
        breaking(chunk(event(1)) + b"40\r\nhalf"),
        pieces([chunk(event(1)) + LAST]),
        raw(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n" + event(1), close=True),
    ]

    async def body() -> None:
        async with fleet(1) as f:
            url = f"http://{f.address[0]}:{f.address[1]}/v1"
            async with openai.AsyncOpenAI(base_url=url, api_key="none") as client:
                for end in ends:
                    f.play.scripts = [end]
                    with pytest.raises(Exception) as raised:
                        async for _ in await client.chat.completions.create(
                            model="m", messages=[{"role": "user", "content": "x"}], stream=True
                        ):
                            pass
                    assert type(raised.value).__name__ in ("APIError", "RemoteProtocolError", "APIConnectionError")
            assert len(f.seen) == len(ends), "what has begun is not sent again"

    run(body)


@pytest.mark.parametrize(
    ("said", "blamed"),
    [
        (b'{"error":{"message":"x","type":"server_error","code":500}}', True),
        (b'{"error":{"message":"x","type":"InternalServerError","code":null}}', True),
        (b'{"error":{"message":"x","type":"invalid_request_error","code":400}}', False),
        (b'{"error":null,"choices":[]}', False),
        (b'{"choices":[{"text":"{\\"error\\":{\\"code\\":500}}"}]}', False),
    ],
)
@pytest.mark.parametrize("stream", [True, False])
def test_case_32_an_error_inside_a_200_passes_unchanged_and_is_counted_if_it_is_the_servers(
    said: bytes, blamed: bool, stream: bool
) -> None:
    async def body() -> None:
        async with judged(2) as (f, oracle):
            events = b"data: " + said + b"\n\n"
            f.play.scripts = [pieces([chunk(events) + chunk(DONE) + LAST]) if stream else reply(said)]
            verdict = await oracle.speak(ask("n"), ["n"], closed=False)
            assert verdict.answers[0].body == (events + DONE if stream else said)
            line = (await f.logged(2))[0]
            assert (line["tries"], line["error"]) == (1, "engine_error" if blamed else None)
            assert sum(backend.errors for backend in f.app.balancer.backends.values()) == blamed

    run(body)


def test_an_error_is_only_what_can_be_read_as_one() -> None:
    for data in (b"", b'"error"', b'{"error":', b'{"error":"text"}', b'["error"]', b'{"error":{"code":true}}'):
        assert not tells_server_error(data, stream=False)
        assert not tells_server_error(b"data: " + data, stream=True)


@pytest.mark.parametrize(
    "junk",
    [b"\x16\x03\x01\x02\x00junk\r\n\r\n", b"HTTP/1.1 999 What\r\n\r\n", b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000],
)
def test_case_33_junk_is_502_once_and_its_connection_is_dropped(junk: bytes) -> None:
    async def body() -> None:
        async with judged(2) as (f, oracle):
            f.play.scripts = [raw(junk)]
            verdict = await oracle.speak(ask("n"), closed=False)
            assert json.loads(verdict.answers[0].body)["error"]["code"] == "bad_response"
            assert (verdict.statuses, len(f.seen)) == ((502,), 2), "it was not tried again; the second is the next one"
            await until(lambda: len(f.busy) <= 1, "the connection is dropped")

    run(body)
