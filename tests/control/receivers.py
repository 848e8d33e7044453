"""A receiver of webhooks for tests, and a clock that goes only when it is told."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

from aiohttp import web

from fairlead.control.webhook_formats import Sender
from fairlead.control.webhooks import Target, Webhooks
from fairlead.core.alerts.engine import Alert

PATIENCE = 20.0  # seconds; no test should need them
SECRET = "s3cr3t-Path"


def alert(backend: str = "a", since: float = 10.0, until: float | None = None, name: str = "errors") -> Alert:
    return Alert(name, backend, "warning", since, 0.5, f"backend {backend} failed", until)


class Receiver:
    """Answers each POST with the next of `script` (a status, or "hang"), the last of them again and again."""

    def __init__(self, *script: int | str) -> None:
        self.script = list(script) or [200]
        self.got: list[tuple[str, dict[str, str], Any]] = []  # path, headers, JSON
        self.headers: dict[str, str] = {}  # of its answers
        self.url = ""
        self._hanging = asyncio.Event()

    async def handle(self, request: web.Request) -> web.Response:
        self.got.append((request.path_qs, dict(request.headers), json.loads(await request.read())))
        act = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        if isinstance(act, str):
            await self._hanging.wait()
            act = 200
        return web.Response(status=act, text="x" * 100_000, headers=self.headers)

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[Receiver]:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self.handle)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        self.url = f"http://{host}:{port}/{SECRET}"
        try:
            yield self
        finally:
            self._hanging.set()
            await runner.cleanup()


class Sending:
    """Webhooks whose clock is ours."""

    def __init__(self, *targets: Target, timeout: float = 10.0) -> None:
        self.now = 100.0
        self.webhooks = Webhooks(lambda: self.now, Sender("lb1:9900", 1.79e9), timeout)
        self.webhooks.follow(targets)

    def tell(self, *alerts: Alert) -> None:
        self.webhooks.tell(alerts)

    def pass_(self, seconds: float) -> None:
        """So much time goes by, and who waits for it looks again."""
        self.now += seconds
        for post in self.webhooks._posts.values():
            post._news.set()

    async def until(self, what: str, look: Callable[[], object]) -> None:
        try:
            async with asyncio.timeout(PATIENCE):
                while not look():
                    await asyncio.sleep(0.005)
        except TimeoutError:
            raise AssertionError(f"waited {PATIENCE:g} s for: {what}") from None

    @contextlib.asynccontextmanager
    async def closing(self) -> AsyncIterator[Sending]:
        try:
            yield self
        finally:
            await self.webhooks.close()
