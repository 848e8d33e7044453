"""Live events: who gets what, what it costs, and who is not waited for."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from control_app import engines, running

from fairlead.control.live import MAX_UNSENT, MAX_VIEWERS, Live

PATIENCE = 10.0


class Source:
    """Snapshots that are counted; `filling` makes them large."""

    def __init__(self, filling: int = 0) -> None:
        self.asked = 0
        self.filling = "x" * filling

    async def __call__(self, history: bool) -> dict[str, Any]:
        self.asked += 1
        return {"number": self.asked, "filling": self.filling, "history": history}


@contextlib.asynccontextmanager
async def serving(live: Live) -> AsyncIterator[int]:
    """Its port."""

    async def handler(request: web.Request) -> web.StreamResponse:
        return await live.serve(request) or web.Response(status=503)

    app = web.Application()
    app.router.add_get("/", handler)
    runner = web.AppRunner(app, handle_signals=False)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield runner.addresses[0][1]
    finally:
        await live.close()
        await runner.cleanup()


async def events(answer: aiohttp.ClientResponse, count: int) -> list[tuple[str, dict[str, Any]]]:
    found: list[tuple[str, dict[str, Any]]] = []
    async with asyncio.timeout(PATIENCE):
        while len(found) < count:
            name = (await answer.content.readline()).decode().removeprefix("event: ").strip()
            data = (await answer.content.readline()).decode().removeprefix("data: ")
            assert await answer.content.readline() == b"\n"
            found.append((name, json.loads(data)))
    return found


async def until(look: Any) -> None:
    async with asyncio.timeout(PATIENCE):
        while not look():
            await asyncio.sleep(0.005)


def test_a_viewer_gets_everything_first_and_then_what_is_true_now() -> None:
    async def body() -> None:
        live = Live(Source(), seconds=0.01)
        async with serving(live) as port, aiohttp.ClientSession() as session:
            async with session.get(f"http://127.0.0.1:{port}/") as answer:
                assert answer.headers["content-type"] == "text/event-stream"
                told = await events(answer, 4)
        assert [name for name, _ in told] == ["full", "now", "now", "now"]
        assert [data["history"] for _, data in told] == [True, False, False, False]
        assert [data["number"] for _, data in told] == [1, 2, 3, 4]

    asyncio.run(body())


def test_all_viewers_get_the_same_snapshot_and_nobody_looking_costs_nothing() -> None:
    async def body() -> None:
        source = Source()
        live = Live(source, seconds=0.02)
        async with serving(live) as port, aiohttp.ClientSession() as session:
            assert live._telling is None
            async with contextlib.AsyncExitStack() as stack:
                answers = [await stack.enter_async_context(session.get(f"http://127.0.0.1:{port}/")) for _ in range(10)]
                later = source.asked + 3
                assert len({await number_after(later, answer) for answer in answers}) == 1
            await until(lambda: live.viewers == 0)
            await until(lambda: live._telling is None)

    async def number_after(least: int, answer: aiohttp.ClientResponse) -> int:
        while True:
            ((name, data),) = await events(answer, 1)
            if name == "now" and data["number"] >= least:
                return int(data["number"])

    asyncio.run(body())


def test_there_is_room_for_so_many_and_again_when_one_leaves() -> None:
    async def body() -> None:
        live = Live(Source(), seconds=0.01)
        async with serving(live) as port:
            url = f"http://127.0.0.1:{port}/"
            async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
                answers = [await session.get(url) for _ in range(MAX_VIEWERS)]
                async with session.get(url) as refused:
                    assert refused.status == 503
                answers[0].close()
                await until(lambda: live.viewers == MAX_VIEWERS - 1)
                async with session.get(url) as welcome:
                    assert welcome.status == 200
                for answer in answers:
                    answer.close()

    asyncio.run(body())


def test_one_that_takes_nothing_is_dropped_and_keeps_nobody_waiting() -> None:
    async def body() -> None:
        live = Live(Source(filling=1_000_000), seconds=0.01)
        async with serving(live) as port, aiohttp.ClientSession() as session:
            with socket.socket() as slow:
                slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                slow.connect(("127.0.0.1", port))
                slow.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
                async with session.get(f"http://127.0.0.1:{port}/", max_line_size=2_000_000) as answer:
                    answer.content._high_water = 8_000_000  # it takes lines of any length
                    reading = asyncio.create_task(drain(answer))
                    await until(lambda: live.dropped == 1)
                    await until(lambda: live.viewers == 1)
                    reading.cancel()
                    with contextlib.suppress(asyncio.CancelledError):
                        await reading
        assert MAX_UNSENT < 100

    async def drain(answer: aiohttp.ClientResponse) -> None:
        async for _ in answer.content.iter_any():
            pass

    asyncio.run(body())


def test_the_end_of_fairlead_ends_the_streams() -> None:
    async def body() -> None:
        async with engines(1) as (one,), running(one.url) as fairlead, aiohttp.ClientSession() as session:
            async with session.get(f"{fairlead.admin}/api/live") as answer:
                ((name, first),) = await events(answer, 1)
                assert name == "full"
                assert [b["id"] for b in first["backends"]] == ["b0"]
                async with asyncio.timeout(PATIENCE):
                    await fairlead.app.stop(drain=0.0)
                    await answer.content.read()

    asyncio.run(body())


def test_what_is_told_live_is_what_the_pages_say() -> None:
    async def body() -> None:
        async with engines(2) as (one, two), running(one.url, two.url) as fairlead:
            ids = [(await fairlead.chat("m"))[1] for _ in range(3)]
            async with aiohttp.ClientSession() as session, session.get(f"{fairlead.admin}/api/live") as answer:
                ((_, first),) = await events(answer, 1)
            shown = await fairlead.json("/api/backends")
            for live, row in zip(first["backends"], shown["backends"], strict=True):
                assert set(live) == set(row)
                for name in ("id", "state", "requests", "answered", "output_tokens", "models"):
                    assert live[name] == row[name]
            assert [d["id"] for d in first["decisions"]] == ids[::-1]
            assert (first["status"], first["alerts"]) == ("ready", [])
            assert {"policy": first["policy"], "shadow": first["shadow"]} == await fairlead.json("/api/policy")
            assert first["loaded"] == (await fairlead.json("/api/config"))["loaded"]

    asyncio.run(body())


def test_who_has_to_ask_others_is_asked_for_everything_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that hangs costs a view one wait, not three: the page takes a long silence for a broken line."""

    async def body() -> None:
        async with engines(1) as (one,), running(one.url) as fairlead:
            admin, views, all_asked = fairlead.app._admin, fairlead.app.views, asyncio.Barrier(3)
            assert admin is not None and admin._sampling is not None
            admin._sampling.cancel()  # it asks, too

            def late(ask: Callable[..., Any]) -> Callable[..., Any]:
                async def answer(*arguments: Any) -> Any:
                    await all_asked.wait()
                    return ask(*arguments)

                return answer

            monkeypatch.setattr(views, "backends", late(views.backends))
            monkeypatch.setattr(views, "decisions", late(views.decisions))
            monkeypatch.setattr(admin, "_ready", late(admin._ready))
            async with asyncio.timeout(PATIENCE):
                shown = await admin._snapshot(False)
            assert ([row["id"] for row in shown["backends"]], shown["status"]) == (["b0"], "ready")

    asyncio.run(body())
