"""A watch that is told to stop does stop, in whatever turn of the loop that meets it.

Python 3.11's `asyncio.wait_for` forgets that it was cancelled when what it waits for came in the same turn. A watch
that was just told to hurry then lived on, and `stop` waited for it forever.
"""

from __future__ import annotations

import asyncio

import pytest
from watch_peers import engine, watching

from fairlead.feeds import watch as watch_module

SETTLED = 20  # turns of the loop after which nothing moves that nobody moves


@pytest.mark.parametrize("turns", range(8))
def test_a_watch_that_was_just_told_to_hurry_can_be_stopped(turns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_module, "HURRY_SECONDS", 0.0)

    async def body() -> None:
        async with engine() as one, watching(one.url, health_interval=60.0, metrics_interval=60.0) as seen:
            await seen.probe()
            await seen.reading()
            for _ in range(SETTLED):
                await asyncio.sleep(0)
            seen.watch.hurry()
            for _ in range(turns):
                await asyncio.sleep(0)
            async with asyncio.timeout(4.0):
                await seen.watch.stop()

    asyncio.run(body())
