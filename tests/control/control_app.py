"""A whole Fairlead in this process for tests: emulated engines behind it, ports by the system."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp

from fairlead.config.build import App
from fairlead.config.load import parse
from fairlead.emulator.profiles import profile
from fairlead.emulator.server import EmulatedServer

PATIENCE = 10.0  # seconds; no test should need them
SPEED = 2000.0


class Running:
    """A started app and a client for it."""

    def __init__(self, app: App, data: str, admin: str, session: aiohttp.ClientSession) -> None:
        self.app, self.data, self.admin = app, data, admin
        self._session = session

    async def get(self, path: str, headers: dict[str, str] | None = None) -> tuple[int, bytes]:
        """From the admin listener."""
        async with self._session.get(self.admin + path, headers=headers) as answer:
            return answer.status, await answer.read()

    async def json(self, path: str) -> Any:
        async with self._session.get(self.admin + path) as answer:
            assert answer.status == 200, await answer.text()
            return await answer.json()

    async def call(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, bytes]:
        async with self._session.request(method, self.admin + path, data=body, headers=headers) as answer:
            return answer.status, await answer.read()

    async def switch(self, body: object, **headers: str) -> tuple[int, Any]:
        """POST /api/policy as a program does it; `headers` replace those that it sends."""
        fields = {"Content-Type": "application/json"}
        fields |= {name.replace("_", "-").title(): value for name, value in headers.items()}
        async with self._session.post(f"{self.admin}/api/policy", data=json.dumps(body), headers=fields) as answer:
            return answer.status, await answer.json()

    async def chat(self, model: str, text: str = "hello", **headers: str) -> tuple[int, str]:
        """One request through the data port; (status, x-request-id)."""
        body = {
            "model": model,
            "messages": [{"role": "user", "content": text}],
            "max_tokens": 2,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self._session.post(f"{self.data}/v1/chat/completions", json=body, headers=fields) as answer:
            await answer.read()
            return answer.status, answer.headers["x-request-id"]

    async def until(self, what: str, look: Callable[[], object]) -> None:
        """Let the loop run until `look` is true."""
        try:
            async with asyncio.timeout(PATIENCE):
                while not look():
                    await asyncio.sleep(0.005)
        except TimeoutError:
            raise AssertionError(f"waited {PATIENCE:g} s for: {what}") from None


@contextlib.asynccontextmanager
async def engines(count: int, model: str = "m") -> AsyncIterator[list[EmulatedServer]]:
    async with contextlib.AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(EmulatedServer(profile("h100-8b"), model=model, speed=SPEED))
            for _ in range(count)
        ]


@contextlib.asynccontextmanager
async def running(*urls: str, log: Path | None = None, **options: Any) -> AsyncIterator[Running]:
    """Fairlead in front of `urls`; `log` is its access log, in JSON."""
    access_log = {"path": str(log), "format": "json"} if log else {"enabled": False}
    config, problems = parse(
        {
            "listen": "127.0.0.1:0",
            "admin": "127.0.0.1:0",
            "backends": [{"url": url, "name": f"b{place}"} for place, url in enumerate(urls)],
            "health": {"interval": "100ms", "fall": 1, "rise": 1},
            "metrics": {"interval": "50ms"},
            "access_log": access_log,
            **options,
        },
        "test",
    )
    assert config is not None, problems
    app = App(config, seed=1)
    try:
        bound = await app.start()
        async with aiohttp.ClientSession() as session:
            yield Running(app, bound.data[0], bound.admin, session)
    finally:
        await app.stop(drain=0.0)
