"""What the tests of the emulated server share: one engine and a client, a bound on time, polling with a deadline."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import uvloop

from fairlead.emulator.fleet import EmulatedFleet
from fairlead.emulator.server import EmulatedServer


@asynccontextmanager
async def one_engine(**options: Any) -> AsyncIterator[tuple[EmulatedServer, aiohttp.ClientSession]]:
    options = {"speed": 50, "model": "m", **options}
    async with EmulatedFleet([options.pop("profile", "h100-8b")], **options) as fleet:
        async with aiohttp.ClientSession(fleet.urls[0], timeout=aiohttp.ClientTimeout(20)) as session:
            yield fleet[0], session


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(30):
            await test()

    uvloop.run(bounded())  # as the command does: transports are of other classes there


async def until(condition: Callable[[], bool], seconds: float = 5) -> None:
    """Poll, with a deadline."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the state did not come"
        await asyncio.sleep(0.002)
