"""Case 67: those who send requests learn of a stop before it begins, and whoever stops us may lose patience."""

from __future__ import annotations

import asyncio
import json

from peers import Peer, Seen, dial, run, until
from running import DONE, LAST, Fleet, ask, chunk, event, fleet, sse_head
from test_faults_drain import begun, until_told
from test_faults_midstream import assert_broken

NEVER = 600.0  # seconds; no test waits for them


async def status_of(f: Fleet, path: str, *, admin: bool) -> tuple[int, str, str | None]:
    """(status, what it says, Connection) of a health check on a new connection."""
    client = await dial(f.admin if admin else f.address)
    await client.send(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
    answer = await client.answer("GET")
    client.transport.abort()
    return answer.status, json.loads(answer.body)["status"], answer.field("connection")


def test_case_67_health_checks_fail_first_while_requests_are_still_served() -> None:
    async def body() -> None:
        go = asyncio.Event()
        async with fleet(1, default=until_told(go), drain_delay=f"{NEVER}s") as f:
            before = await begun(f, "before")
            kept = await f.dial()
            assert await status_of(f, "/readyz", admin=True) == (200, "ready", None)
            stop = asyncio.create_task(f.stop(drain=NEVER))
            await until(lambda: f.app.service.draining)
            assert (await status_of(f, "/readyz", admin=True))[:2] == (503, "draining")
            assert await status_of(f, "/health", admin=False) == (503, "draining", "close")
            late = await f.dial()  # connections are accepted
            for client in (late, kept):
                await client.send(ask("late"))
                await client.expect(event(1))
                client.read = 0
            go.set()
            for client in (late, kept):
                answer = await client.answer()
                assert (answer.status, answer.whole, answer.field("connection")) == (200, True, "close")
                assert await client.end() == b""
            assert (await before.answer()).body.endswith(DONE)
            assert not stop.done()
            f.app.break_off()  # and the rest of the delay is not waited for
            assert await stop == 0

    run(body)


def test_case_67_when_the_delay_is_over_nothing_is_accepted_and_what_runs_finishes() -> None:
    async def body() -> None:
        go = asyncio.Event()
        async with fleet(1, default=until_told(go), drain_delay="100ms") as f:
            client = await begun(f, "long")
            idle = await f.dial()
            stop = asyncio.create_task(f.stop(drain=NEVER))
            assert await idle.end() == b""
            assert not stop.done()
            go.set()
            assert (await client.answer()).whole
            assert await stop == 0

    run(body)


def test_case_67_a_stop_at_once_has_no_delay() -> None:
    async def body() -> None:
        async with fleet(1, drain_delay=f"{NEVER}s") as f:
            async with asyncio.timeout(10.0):
                assert await f.stop(drain=0.0) == 0

    run(body)


def test_case_67_without_patience_streams_and_uploads_are_not_waited_for() -> None:
    async def body() -> None:
        async def play(peer: Peer, seen: Seen) -> None:
            await peer.send(sse_head(seen) + chunk(event(1)))
            await peer.end(60.0)

        async with fleet(1, default=play) as f:
            stream = await begun(f, "stream")
            upload = await f.dial()
            await upload.send(ask("upload")[:-5])
            await until(lambda: sum(client.busy for client in f.app.service.clients) == 2)
            stop = asyncio.create_task(f.stop(drain=NEVER))
            await until(lambda: f.app.service.draining)
            f.app.break_off()
            async with asyncio.timeout(10.0):
                assert await stop == 1, "what was broken off is told"
            answer = await stream.answer()
            assert_broken(answer, event(1))
            assert LAST not in answer.raw
            assert await upload.end() == b""
            assert [seen.nonce for seen in f.seen] == ["stream"]

    run(body)
