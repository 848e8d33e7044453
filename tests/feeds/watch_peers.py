"""Scripted engines on loopback, and a watch whose every event can be waited for.

No test sleeps to wait for a state: the balancer under the watch tells each probe and each reading to a queue.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any

import aiohttp
from aiohttp import web

from fairlead.core.balancer import Balancer
from fairlead.core.model import EngineStats
from fairlead.core.policies.registry import make
from fairlead.feeds.watch import Watch, WatchSettings

PATIENCE = 10.0  # seconds; no test should need them

Reply = int | str | dict[str, Any] | Callable[[web.Request], Awaitable[web.StreamResponse]]

VLLM_METRICS = "# TYPE vllm:num_requests_waiting gauge\nvllm:num_requests_waiting 3\nvllm:num_requests_running 2\n"


def models(*names: str, owner: str = "vllm") -> dict[str, Any]:
    return {"object": "list", "data": [{"id": name, "object": "model", "owned_by": owner} for name in names]}


class ScriptedEngine:
    """Answers each path as `replies` says at that moment: a status, a text, JSON, or a handler; 404 for the rest.

    Its port is its own from the beginning, but nobody listens there before `listen`.
    """

    def __init__(self, **paths: Reply) -> None:
        self.replies: dict[str, Reply] = {"/health": 200, "/v1/models": models("m"), "/metrics": VLLM_METRICS}
        self.asked: list[str] = []
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._runner: web.AppRunner | None = None
        self._released = asyncio.Event()

    async def listen(self) -> None:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.SockSite(self._runner, self._socket).start()

    async def close(self) -> None:
        self._released.set()
        if self._runner is not None:
            await self._runner.cleanup()
        self._socket.close()

    async def never(self, request: web.Request) -> web.StreamResponse:
        """A reply that does not come before the test is over."""
        await self._released.wait()
        return web.Response(status=500)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request.path)
        reply = self.replies.get(request.path, 404)
        if isinstance(reply, int):
            return web.Response(status=reply)
        if isinstance(reply, str):
            return web.Response(text=reply)
        if isinstance(reply, dict):
            return web.json_response(reply)
        return await reply(request)


class Told(Balancer):
    """A balancer that passes on what it is told."""

    def __init__(self) -> None:
        super().__init__(make("round_robin"), random.Random(0), rise=2, fall=2)
        self.probes: asyncio.Queue[tuple[bool, str]] = asyncio.Queue()
        self.readings: asyncio.Queue[EngineStats] = asyncio.Queue()

    def probe(self, id: str, ok: bool, reason: str = "", *, timed_out: bool = False) -> bool:
        changed = super().probe(id, ok, reason, timed_out=timed_out)
        self.probes.put_nowait((ok, reason))
        return changed

    def poll_result(self, id: str, mark: int, stats: EngineStats, now: float) -> None:
        super().poll_result(id, mark, stats, now)
        self.readings.put_nowait(stats)


class Watched:
    """A watch on an engine, with its balancer and what it reported."""

    def __init__(self, watch: Watch, balancer: Told, changes: asyncio.Queue[bool]) -> None:
        self.watch, self.balancer, self.changes = watch, balancer, changes

    @property
    def backend(self) -> Any:
        return self.balancer.backends["b"]

    async def probe(self) -> tuple[bool, str]:
        """The next probe's result."""
        async with asyncio.timeout(PATIENCE):
            return await self.balancer.probes.get()

    async def probe_that(self, ok: bool) -> str:
        """Probes until one ends so; its reason."""
        while True:
            result, reason = await self.probe()
            if result == ok:
                return reason

    async def reading(self) -> EngineStats:
        async with asyncio.timeout(PATIENCE):
            return await self.balancer.readings.get()

    async def change(self) -> bool:
        """The next going up or down."""
        async with asyncio.timeout(PATIENCE):
            return await self.changes.get()


SETTINGS = WatchSettings(
    health_path=None,
    health_interval=0.02,
    health_timeout=1.0,
    metrics_interval=0.02,
    metrics_timeout=0.5,
    metrics_max_bytes=4 << 20,
)


@contextlib.asynccontextmanager
async def engine(**replies: Reply) -> AsyncIterator[ScriptedEngine]:
    """An engine that listens. Paths are given as names: v1_models is /v1/models."""
    made = ScriptedEngine()
    for name, reply in replies.items():
        made.replies["/" + name.replace("v1_", "v1/")] = reply
    try:
        await made.listen()
        yield made
    finally:
        await made.close()


@contextlib.asynccontextmanager
async def watching(url: str, **changed: Any) -> AsyncIterator[Watched]:
    """A watch on `url`; `changed` are its settings."""
    balancer = Told()
    balancer.add("b")
    changes: asyncio.Queue[bool] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    async with aiohttp.ClientSession() as session:
        watch = Watch(
            "b", url, replace(SETTINGS, **changed), balancer, session, loop.time, lambda _, up: changes.put_nowait(up)
        )
        watch.start()
        try:
            yield Watched(watch, balancer, changes)
        finally:
            await watch.stop()


class LagMeter:
    """How long did the loop keep others waiting, at worst?"""

    def __init__(self) -> None:
        self.worst = 0.0

    async def __aenter__(self) -> LagMeter:
        self._task = asyncio.create_task(self._measure())
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _measure(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            begun = loop.time()
            await asyncio.sleep(0.005)
            self.worst = max(self.worst, loop.time() - begun - 0.005)
