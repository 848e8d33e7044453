"""Cases 22, 30 and 31: an answer that breaks off after its beginning is seen to be broken, and never tried again."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from peers import Answer, Peer, Script, Seen, run, until
from running import CHAT, DONE, LAST, Fleet, ask, chunk, event, fleet, hang, reply, sse_head, stream

ROUTES = [CHAT, "/v1/completions", "/v1/responses", "/v1/messages"]


def breaking(
    tail: bytes, way: str = "close", *, length: int | None = None, kind: bytes = b"text/event-stream"
) -> Script:
    """Begin an answer, then end the connection."""

    async def play(peer: Peer, seen: Seen) -> None:
        framing = b"Transfer-Encoding: chunked" if length is None else b"Content-Length: %d" % length
        head = b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\nX-Nonce: %b\r\n%b\r\n\r\n"
        await peer.send(head % (kind, seen.nonce.encode(), framing) + tail)
        await asyncio.sleep(0.01)
        getattr(peer, way)()

    return play


def events_of(body: bytes) -> list[dict[str, Any]]:
    """The stream's events as a client reads them: blocks between empty lines; an unfinished one does not count."""
    found = []
    for block in body.split(b"\n\n")[:-1]:
        lines = [line for line in block.split(b"\n") if line.startswith(b"data:")]
        if lines:
            data = b"\n".join(line[5:].strip() for line in lines)
            try:
                found.append(json.loads(data))
            except ValueError:
                found.append({"junk": data.decode()})
    return found


def assert_broken(answer: Answer, sent: bytes, route: str = CHAT) -> None:
    """Everything that came, then one error event, no proper end."""
    assert (answer.status, answer.whole) == (200, False)
    assert b"[DONE]" not in answer.body
    assert LAST not in answer.raw
    decoded = b"".join(part for part in _chunks_of(answer.body))
    assert decoded.startswith(sent)
    errors = [e for e in events_of(decoded[len(sent) :]) if "error" in e]
    assert len(errors) == 1, decoded
    assert decoded.count(b'"error"') <= 2
    if route == "/v1/messages":
        assert decoded[len(sent) :].lstrip(b"\n").startswith(b"event: error\n")
        assert errors[0]["type"] == "error"
        assert set(errors[0]["error"]) == {"type", "message"}
    else:
        assert set(errors[0]["error"]) == {"message", "type", "code", "param"}


def _chunks_of(framed: bytes) -> list[bytes]:
    """The payload of whole chunks of a body that broke off."""
    found, at = [], 0
    while (end := framed.find(b"\r\n", at)) >= 0:
        size = int(framed[at:end], 16)
        if len(framed) < end + 2 + size:
            break
        found.append(framed[end + 2 : end + 2 + size])
        at = end + 2 + size + 2
    return found


async def one_outcome(f: Fleet, error: str) -> None:
    (line,) = await f.logged(1)
    assert (line["tries"], line["outcome"], line["error"], line["status"]) == (1, "failed", error, 200)
    assert sum(backend.errors for backend in f.app.balancer.backends.values()) == 1
    assert len(f.seen) == 1


@pytest.mark.parametrize("way", ["close", "reset"])
@pytest.mark.parametrize("route", ROUTES)
def test_case_30_a_stream_that_breaks_ends_with_one_error_event(route: str, way: str) -> None:
    async def body() -> None:
        async with fleet(2) as f:
            f.play.scripts = [breaking(chunk(event(1)) + chunk(event(2)), way)]
            client = await f.dial()
            await client.send(ask("a", route))
            answer = await client.answer()
            assert_broken(answer, event(1) + event(2), route)
            assert client.over
            await one_outcome(f, "upstream_broken")

    run(body)


@pytest.mark.parametrize("half", [chunk(event(2)[:20]), chunk(event(2)[:-1]), chunk(event(2)[:-2])])
def test_case_30_an_error_event_stays_readable_behind_half_an_event(half: bytes) -> None:
    async def body() -> None:
        async with fleet(2) as f:
            f.play.scripts = [breaking(chunk(event(1)) + half)]
            answer = await f.get()
            assert_broken(answer, event(1))

    run(body)


def test_case_30_a_stream_that_breaks_inside_a_chunk_is_cut() -> None:
    async def body() -> None:
        async with fleet(2) as f:
            for half in (b"40\r\ndata: {", b"4", b"40", b"40\r", b"5\r\ndata:", b"5\r\ndata:\r", b"0\r\n", b"0\r\n\r"):
                f.play.scripts = [breaking(chunk(event(1)) + half)]
                answer = await f.get()
                assert (answer.status, answer.whole) == (200, False), half
                assert event(1) in answer.body
                assert not answer.raw.endswith(LAST), half
            assert len(f.seen) == 8

    run(body)


@pytest.mark.parametrize("way", ["close", "reset"])
def test_case_30_an_answer_with_a_length_is_cut_short(way: str) -> None:
    async def body() -> None:
        async with fleet(2) as f:
            f.play.scripts = [breaking(b'{"half":', way, length=100, kind=b"application/json")]
            client = await f.dial()
            await client.send(ask("a"))
            answer = await client.answer()
            assert (answer.status, answer.whole, answer.body) == (200, False, b'{"half":')
            assert client.over
            await one_outcome(f, "upstream_broken")

    run(body)


def test_case_30_a_chunked_answer_that_is_no_stream_is_cut_without_an_event() -> None:
    async def body() -> None:
        async with fleet(2) as f:
            f.play.scripts = [breaking(chunk(b'{"half":'), kind=b"application/json")]
            answer = await f.get()
            assert (answer.status, answer.whole) == (200, False)
            assert _chunks_of(answer.body) == [b'{"half":']

    run(body)


def test_case_30_broken_framing_in_a_stream_ends_it() -> None:
    async def body() -> None:
        async with fleet(2) as f:
            for tail in (b"xyz\r\n", b"-1\r\n", b"5\r\nhelloXX", b"\r\n\r\n"):

                async def play(peer: Peer, seen: Seen, tail: bytes = tail) -> None:
                    await peer.send(sse_head(seen) + chunk(event(1)))
                    await until(lambda: any(event(1) in c.received for c in f.clients[-1:]))
                    await peer.send(tail)
                    await peer.end()

                f.play.scripts = [play]
                client = await f.dial()
                await client.send(ask())
                answer = await client.answer()
                assert (answer.status, answer.whole) == (200, False)
                assert LAST not in answer.raw
            await until(lambda: not f.busy, "their connections are closed")

    run(body)


@pytest.mark.parametrize("version", ["1.1", "1.0"])
def test_case_30_a_reset_of_an_answer_that_ends_by_close_is_seen(version: str) -> None:
    async def play(peer: Peer, seen: Seen) -> None:
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\nhello")
        await asyncio.sleep(0.02)
        peer.reset()

    async def body() -> None:
        async with fleet(1) as f:
            f.play.scripts = [play]
            answer = await f.get(ask(version=version))
            assert (answer.status, answer.whole) == (200, False)
            assert LAST not in answer.raw

    run(body)


def test_case_30_an_old_client_gets_the_error_event_too() -> None:
    async def body() -> None:
        async with fleet(1) as f:
            f.play.scripts = [breaking(chunk(event(1)))]
            answer = await f.get(ask(version="1.0"))
            assert answer.body.startswith(event(1))
            assert len([e for e in events_of(answer.body) if "error" in e]) == 1
            assert b"[DONE]" not in answer.body

    run(body)


def test_case_22_a_stall_between_tokens_ends_the_stream() -> None:
    async def play(peer: Peer, seen: Seen) -> None:
        await peer.send(sse_head(seen) + chunk(event(1)))
        await peer.end(60.0)

    async def body() -> None:
        async with fleet(2, timeouts={"idle": "200ms"}) as f:
            f.play.scripts = [play]
            answer = await f.get()
            assert_broken(answer, event(1))
            await until(lambda: not f.busy, "the engine is told to stop")
            await one_outcome(f, "upstream_idle")

    run(body)


def test_a_slow_but_steady_stream_is_not_ended() -> None:
    async def play(peer: Peer, seen: Seen) -> None:
        await peer.send(sse_head(seen))
        for number in range(6):
            await peer.send(chunk(event(number)))
            await asyncio.sleep(0.12)
        await peer.send(chunk(DONE) + LAST)

    async def body() -> None:
        async with fleet(1, timeouts={"idle": "400ms", "first_byte": "300ms"}) as f:
            f.play.scripts = [play]
            answer = await f.get()
            assert answer.whole
            assert len(events_of(answer.body)) == 7

    run(body)


def test_a_pipelined_request_behind_a_broken_answer_is_not_answered() -> None:
    async def body() -> None:
        async with fleet(1) as f:
            f.play.scripts = [breaking(chunk(event(1)))]
            client = await f.dial()
            await client.send(ask("one") + ask("two"))
            assert not (await client.answer()).whole
            assert client.over
            assert [seen.nonce for seen in f.seen] == ["one"]

    run(body)


def test_repeated_breaks_rest_the_backend() -> None:
    async def body() -> None:
        async with fleet(2, health={"max_fails": 2, "fail_timeout": "30s"}) as f:
            f.engines[0].script = breaking(chunk(event(1)))
            f.play.default = stream()
            broken = [not (await f.get()).whole for _ in range(10)]
            assert sum(broken) == 2
            assert not any(broken[4:])

    run(body)


def test_an_engine_killed_under_load_costs_exactly_its_running_streams() -> None:
    async def body() -> None:
        go = asyncio.Event()

        async def slow(peer: Peer, seen: Seen) -> None:
            await peer.send(sse_head(seen) + chunk(event(1)))
            await go.wait()
            await peer.send(chunk(DONE) + LAST)

        async with fleet(2) as f:
            f.play.scripts = [*[slow] * 8, *[hang] * 4]
            clients = [await f.dial() for _ in range(12)]
            for number, client in enumerate(clients):
                await client.send(ask(f"n{number}"))
                await until(lambda number=number: len(f.seen) == number + 1)  # type: ignore[misc]
            for client in clients[:8]:
                await client.expect(b"t1")
                client.read = 0
            f.play.default = reply()
            victims = {seen.nonce for seen in f.engines[0].seen}
            await f.engines[0].kill()
            for number, client in enumerate(clients[8:], 8):
                if f"n{number}" in victims:  # no byte was out yet: moved, nobody noticed
                    assert (await client.answer()).field("x-nonce") == f"n{number}"
            go.set()
            for number, client in enumerate(clients[:8]):
                answer = await client.answer()
                assert answer.field("x-nonce") == f"n{number}"
                assert answer.whole == (f"n{number}" not in victims)
            assert len(victims) == 6
            for client in clients:
                client.close()

    run(body)
