"""Cases 25 to 29 and 33 to 34: failures before the first byte went out to the client.

Moved to another backend within the rules and counted; invisible to the client while another backend can answer; a plain
error in the route's shape when none can.
"""

from __future__ import annotations

import asyncio
import json
import socket

import pytest
from peers import Answer, Peer, Script, Seen, run, until
from running import CHAT, LAST, Fleet, ask, chunk, event, fleet, hang, raw, reply, reset, sse_head, stream


async def head_then_reset(peer: Peer, seen: Seen) -> None:
    """The head of a stream, then death: no event was ever there."""
    await peer.send(sse_head(seen))
    await asyncio.sleep(0.01)
    peer.reset()


async def half_a_head(peer: Peer, seen: Seen) -> None:
    await peer.send(b"HTTP/1.1 200 OK\r\nContent-Le")
    await asyncio.sleep(0.01)
    peer.close()


LOST: dict[str, Script] = {
    "reset": reset,
    "closed": raw(b"", close=True),
    "half a head": half_a_head,
    "a head, then reset": head_then_reset,
    "a head with a length, then closed": raw(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", close=True),
    "interim answer, then closed": raw(b"HTTP/1.1 102 Processing\r\n\r\n", close=True),
    "502": reply(b"{}", "502 Bad Gateway"),
    "503": reply(b"{}", "503 Service Unavailable", b"Retry-After: 7\r\n"),
}


@pytest.mark.parametrize("name", list(LOST))
def test_a_try_that_fails_before_the_answer_goes_elsewhere(name: str) -> None:
    async def body() -> None:
        async with fleet(3, retries={"breaks": 0}) as f:
            f.play.scripts = [LOST[name], LOST[name], stream(5)]
            answer = await f.get(ask("a"))
            assert (answer.status, answer.whole, answer.field("x-nonce")) == (200, True, "a")
            assert answer.body.endswith(b"data: [DONE]\n\n")
            assert len(f.seen) == 3
            assert len({seen.engine for seen in f.seen}) == 3, "never the same backend twice while another is there"
            assert len({(seen.body, seen.field("content-length")) for seen in f.seen}) == 1
            line = (await f.logged(1))[0]
            assert (line["tries"], len(line["failed_on"]), line["status"], line["outcome"]) == (3, 2, 200, "ok")

    run(body)


@pytest.mark.parametrize("name", ["reset", "a head, then reset", "503"])
def test_the_tries_have_an_end(name: str) -> None:
    async def body() -> None:
        async with fleet(4, default=LOST[name], retries={"attempts": 2, "breaks": 0}) as f:
            answer = await f.get(ask("a"))
            assert answer.whole
            assert len(f.seen) == 3
            if name == "503":  # the last word of the fleet is relayed as it is
                assert (answer.status, answer.field("retry-after")) == (503, "7")
            else:
                assert answer.status == 502
                assert json.loads(answer.body)["error"]["code"] == "upstream_unreachable"
                assert not any(engine.url.encode()[7:] in answer.raw for engine in f.engines)

    run(body)


def test_one_backend_alone_is_not_asked_twice() -> None:
    async def body() -> None:
        async with fleet(1) as f:
            f.play.scripts = [reset]
            assert (await f.get()).status == 502
            f.play.scripts = [LOST["503"]]
            assert (await f.get()).status == 503
            assert len(f.seen) == 2
            assert (await f.get()).status == 200

    run(body)


def test_retries_can_be_turned_off() -> None:
    async def body() -> None:
        async with fleet(2, retries={"attempts": 0}) as f:
            f.play.scripts = [reset, LOST["503"]]
            assert [(await f.get()).status for _ in range(3)] == [502, 503, 200]
            assert len(f.seen) == 3

    run(body)


def test_refused_connections_go_elsewhere() -> None:
    async def body() -> None:
        async with fleet(3) as f:
            await f.engines[1].refuse()
            f.app.service.pools[_name(f, 1)].close()
            answers = [await f.get(ask(f"n{number}")) for number in range(9)]
            assert [answer.status for answer in answers] == [200] * 9
            assert [answer.field("x-nonce") for answer in answers] == [f"n{number}" for number in range(9)]
            lines = await f.logged(9)
            moved = [line for line in lines if line["tries"] == 2]
            assert len(moved) == 3
            assert all(line["failed_on"] == [_name(f, 1)] for line in moved)
            assert len(f.engines[1].seen) == 0
            f.unseen_tries = 3

    run(body)


def test_a_backend_that_refuses_rests_after_some_failures_and_comes_back() -> None:
    health = {"max_fails": 3, "fail_timeout": "300ms", "interval": "100ms", "fall": 100}

    async def body() -> None:
        async with fleet(2, health=health) as f:
            await f.engines[0].refuse()
            for _ in range(12):
                assert (await f.get()).status == 200
            tries = sum(line["tries"] for line in await f.logged(12))
            assert 15 <= tries <= 16, "three failures, then it is left alone (but for one trial if time ran on)"
            f.unseen_tries = tries - 12
            await f.engines[0].open()
            seen = len(f.engines[0].seen)

            async def back() -> bool:
                before = f.app.recorder.retries.get("connect", 0)
                assert (await f.get()).status == 200
                f.unseen_tries += f.app.recorder.retries.get("connect", 0) - before
                return len(f.engines[0].seen) > seen

            for _ in range(200):
                if await back():
                    return
                await asyncio.sleep(0.01)
            raise AssertionError("it did not come back")

    run(body)


@pytest.mark.parametrize("path", [CHAT, "/v1/messages"])
def test_all_backends_down_is_503_in_the_shape_of_the_route(path: str) -> None:
    async def body() -> None:
        async with fleet(2, health={"interval": "100ms", "fall": 1, "rise": 1}) as f:
            for engine in f.engines:
                await engine.kill()
            await until(lambda: not any(b.up for b in f.app.balancer.backends.values()), "the probes noticed")
            answer = await f.get(ask(target=path))
            assert answer.status == 503
            assert int(answer.field("retry-after") or 0) >= 1
            said = json.loads(answer.body)
            if path == CHAT:
                assert set(said["error"]) == {"message", "type", "code", "param"}
                assert said["error"]["code"] == "no_backend"
            else:
                assert said["type"] == "error"
                assert said["error"]["type"] == "overloaded_error"
            health = await f.get(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")
            assert health.status == 503
            for engine in f.engines:
                await engine.open()
            await until(lambda: all(b.up for b in f.app.balancer.backends.values()), "they are back")
            assert (await f.get(ask(target=path))).status == 200
            assert len(f.seen) == 1

    run(body)


def test_errors_of_the_fleet_on_messages_have_its_shape() -> None:
    async def body() -> None:
        async with fleet(1) as f:
            f.play.scripts = [reset]
            answer = await f.get(ask(target="/v1/messages"))
            said = json.loads(answer.body)
            assert (answer.status, said["type"], said["error"]["type"]) == (502, "error", "api_error")
            answer = await f.get(ask(target="/v1/messages", body=b"[1]"))
            said = json.loads(answer.body)
            assert (answer.status, said["type"], said["error"]["type"]) == (400, "error", "invalid_request_error")
            answer = await f.get(ask(target="/v1/messages", body=b'{"model":"other"}'))
            assert (answer.status, json.loads(answer.body)["error"]["type"]) == (404, "not_found_error")

    run(body)


@pytest.mark.parametrize("status", ["400 Bad Request", "401 Unauthorized", "404 Not Found", "409 Conflict",
                                    "422 Unprocessable", "429 Too Many Requests", "500 Internal Server Error",
                                    "501 Not Implemented", "504 Gateway Timeout"])  # fmt: skip
def test_other_errors_of_an_engine_are_relayed_unchanged_and_not_tried_again(status: str) -> None:
    async def body() -> None:
        async with fleet(2) as f:
            said = b'{"error":{"message":"no","type":"x","code":null,"param":null}}'
            f.play.scripts = [reply(said, status, b"Retry-After: 3\r\nX-Own: 1\r\n")] * 6
            for _ in range(6):
                answer = await f.get()
                assert (f"{answer.status}", answer.body) == (status[:3], said)
                assert (answer.field("retry-after"), answer.field("x-own")) == ("3", "1")
            assert len(f.seen) == 6
            if status < "500":
                assert [backend.errors for backend in f.app.balancer.backends.values()] == [0, 0]

    run(body)


def test_a_burst_of_client_errors_takes_no_backend_out() -> None:
    async def body() -> None:
        default = reply(b"{}", "400 Bad Request")
        async with fleet(2, default=default, health={"max_fails": 1, "fail_timeout": "30s"}) as f:
            for _ in range(20):
                assert (await f.get()).status == 400
            assert [len(engine.seen) for engine in f.engines] == [10, 10]

    run(body)


def test_what_may_change_something_is_sent_once() -> None:
    async def body() -> None:
        async with fleet(2) as f:
            for script in (reset, head_then_reset, LOST["503"]):
                f.play.scripts = [script]
                before = len(f.seen)
                answer = await f.get(ask(target="/v1/files", body=b"data"))
                assert answer.status in (502, 503)
                assert len(f.seen) == before + 1
            await f.engines[0].refuse()
            f.app.service.pools[_name(f, 0)].close()
            answers = [await f.get(ask(target="/v1/files", body=b"data")) for _ in range(2)]
            assert [answer.status for answer in answers] == [200, 200], "nothing was written yet: safe to move"
            f.unseen_tries = 1

    run(body)


def test_the_retry_window_closes() -> None:
    async def late(peer: Peer, seen: Seen) -> None:
        await asyncio.sleep(0.08)
        peer.reset()

    async def body() -> None:
        async with fleet(2, default=late, retries={"window": "50ms"}) as f:
            assert (await f.get()).status == 502
            assert len(f.seen) == 1

    run(body)


def test_no_answer_in_time_goes_elsewhere_or_is_504() -> None:
    async def body() -> None:
        async with fleet(2, timeouts={"first_byte": "200ms"}) as f:
            f.play.scripts = [hang, reply()]
            assert (await f.get(ask("a"))).field("x-nonce") == "a"
            await until(lambda: len(f.busy) <= 1, "the silent engine's connection is closed")
            f.play.scripts = [hang, hang]
            answer = await f.get(ask("b"))
            assert answer.status == 504
            assert json.loads(answer.body)["error"]["code"] == "upstream_timeout"
            assert len(f.seen) == 4

    run(body)


def test_a_head_without_a_body_in_time_is_no_answer() -> None:
    async def head_only(peer: Peer, seen: Seen) -> None:
        await peer.send(sse_head(seen))
        await peer.end(60.0)

    async def body() -> None:
        async with fleet(2, timeouts={"first_byte": "200ms"}) as f:
            f.play.scripts = [head_only, stream()]
            answer = await f.get(ask("a"))
            assert (answer.status, answer.whole) == (200, True)
            assert len(f.seen) == 2

    run(body)


def _name(f: Fleet, number: int) -> str:
    return f.engines[number].url.removeprefix("http://")


class BlackHole:
    """A port on which connections never come about: its queue is full."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._sockets = [socket.socket()]
        self._sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._sockets[0].bind(address)
        self._sockets[0].listen(0)
        for _ in range(4):
            sock = socket.socket()
            sock.setblocking(False)
            sock.connect_ex(address)
            self._sockets.append(sock)

    def close(self) -> None:
        for sock in self._sockets:
            sock.close()


def test_a_connection_that_does_not_come_about_goes_elsewhere_and_leaves_nothing() -> None:
    async def body() -> None:
        async with fleet(2, timeouts={"connect": "200ms"}) as f:
            await f.engines[0].refuse()
            hole = BlackHole(f.engines[0].address)
            try:
                f.app.service.pools[_name(f, 0)].close()
                tasks = len(asyncio.all_tasks())
                answers: list[Answer] = [await f.get(ask(f"n{number}")) for number in range(2)]
                assert [answer.field("x-nonce") for answer in answers] == ["n0", "n1"]
                f.unseen_tries = 1
                await until(lambda: len(asyncio.all_tasks()) <= tasks + 2, "no task waits for a connection", 1.0)
                hanging = [task for task in asyncio.all_tasks() if "_connect" in repr(task)]
                assert hanging == []
            finally:
                hole.close()

    run(body)


def test_a_kept_connection_that_the_engine_closes_as_we_write_is_nobodys_failure() -> None:
    async def body() -> None:
        async with fleet(1) as f:
            for way in ("close", "reset"):
                for number in range(25):

                    async def race(peer: Peer, seen: Seen, way: str = way) -> None:
                        if len([s for s in f.seen if s.connection == seen.connection]) > 1:
                            getattr(peer, way)()  # not the first request on this connection: it "was closed already"
                            f.resent += 1
                            return
                        await reply()(peer, seen)

                    f.play.scripts = [race, race, race]
                    answer = await f.get(ask(f"k{number}"))
                    assert (answer.status, answer.field("x-nonce")) == (200, f"k{number}")
                    f.play.scripts = []
            lines = await f.logged(50)
            assert {(line["status"], line["tries"]) for line in lines} == {(200, 1)}
            assert f.resent >= 20
            assert f.app.balancer.backends[_name(f, 0)].errors == 0

    run(body)


def test_a_kept_connection_that_was_closed_while_idle_is_not_used() -> None:
    async def body() -> None:
        async with fleet(1) as f:
            for number in range(20):
                answer = await f.get(ask(f"k{number}"))
                assert answer.field("x-nonce") == f"k{number}"
                (peer,) = f.busy
                peer.close()
                await until(lambda peer=peer: peer.lost)  # type: ignore[misc]
            assert len(f.seen) == 20

    run(body)


def test_idle_connections_are_closed_before_the_engine_would() -> None:
    async def body() -> None:
        async with fleet(1, keepalive={"timeout": "200ms"}) as f:
            assert (await f.get()).status == 200
            (peer,) = f.busy
            await until(lambda: peer.over, "our side closed it")
        async with fleet(1, keepalive={"requests": 2, "connections": 1}) as f:
            for _ in range(4):
                assert (await f.get()).status == 200
            assert [seen.connection for seen in f.seen] == [1, 1, 2, 2] or len({s.connection for s in f.seen}) == 2

    run(body)


def test_a_stream_that_ends_at_once_is_an_answer_where_no_last_word_is_known() -> None:
    async def body() -> None:
        async with fleet(2) as f:
            for tail in (LAST, chunk(event(1)) + LAST):
                f.play.scripts = [raw(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
                                      b"Transfer-Encoding: chunked\r\n\r\n" + tail)]  # fmt: skip
                answer = await f.get(ask(target="/generate_stream"))
                assert (answer.status, answer.whole) == (200, True)
            assert len(f.seen) == 2

    run(body)
