"""What does a dashboard that is looked at cost, in the browser and in Fairlead?

    python -m bench.dashboard [--backends 16] [--seconds 30]

Sixteen emulated engines under light load, 15 minutes of history, one Chromium that shows the page: its processes' CPU
time by their own account, and Fairlead's with and without the viewer, as shares of one core. The browser is headless
and has no GPU, so it paints in software; charts that are scrolled out of sight are not drawn, so two places are looked
at. Needs Chromium.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import sys
import time
from pathlib import Path

import aiohttp

from fairlead.config.build import App
from fairlead.config.load import parse
from fairlead.control.history import SLOTS, STEP
from fairlead.emulator.fleet import EmulatedFleet

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "dashboard"))
from dashboard_browser import Page, browser

RATE = 8.0  # requests per second
SETTLED = 6.0  # seconds before measuring begins


async def load(url: str, stop: asyncio.Event) -> None:
    """Requests at random moments."""
    rng, tasks = random.Random(1), set[asyncio.Task[None]]()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def one(number: int) -> None:
            text = "word " * 200 + str(number % 8)
            body = {"model": "m", "messages": [{"role": "user", "content": text}], "max_tokens": 40, "stream": True}
            async with session.post(f"{url}/v1/chat/completions", json=body) as answer:
                await answer.read()

        number = 0
        while not stop.is_set():
            task = asyncio.create_task(one(number := number + 1))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            await asyncio.sleep(rng.expovariate(RATE))
        await asyncio.gather(*tasks)


def fill(app: App) -> None:
    """Fifteen minutes of ups and downs."""
    rng = random.Random(2)
    assert app._admin is not None
    rows, now, wall = app.views.backends(), time.monotonic(), time.time()
    for place in range(SLOTS):
        for row in rows:
            row["requests"] += rng.randrange(20)
            row["answered"], row["output_tokens"] = row["requests"], row["requests"] * 100
            row["ttft_counts"][rng.randrange(4, 12)] += 5
            row.update(inflight=rng.randrange(20), kv_usage=rng.random(), engine_waiting=rng.randrange(5))
            row["prefix_hit_ratio"] = rng.random()
        back = (SLOTS - place) * STEP
        app._admin._history.sample(rows, now - back, wall - back)


async def cpu(page: Page) -> dict[str, float]:
    """CPU seconds by kind of process."""
    session, page.session = page.session, None  # the browser's own business
    told = await page.send("SystemInfo.getProcessInfo")
    page.session = session
    kinds: dict[str, float] = {}
    for process in told["processInfo"]:
        kinds[process["type"]] = kinds.get(process["type"], 0.0) + process["cpuTime"]
    return kinds


async def measure(page: Page | None, seconds: float) -> tuple[dict[str, float], float]:
    """Shares of a core: the browser's by kind of process, and of this process (Fairlead, engines and load)."""
    await asyncio.sleep(SETTLED)
    before, own, began = await cpu(page) if page else {}, time.process_time(), time.monotonic()
    await asyncio.sleep(seconds)
    after, passed = await cpu(page) if page else {}, time.monotonic() - began
    return {k: (after[k] - before.get(k, 0.0)) / passed for k in after}, (time.process_time() - own) / passed


async def main(backends: int, seconds: float) -> None:
    fleet = EmulatedFleet(["h100-8b"] * backends, model="m", seed=1)
    await fleet.start()
    targets = [{"url": url, "name": f"gpu{place}"} for place, url in enumerate(fleet.urls)]
    config, problems = parse(
        {"listen": "127.0.0.1:0", "admin": "127.0.0.1:0", "backends": targets, "access_log": {"enabled": False}},
        "bench",
    )
    assert config is not None, problems
    app, stop = App(config, seed=1), asyncio.Event()
    bound = await app.start()
    fill(app)
    async with contextlib.AsyncExitStack() as stack:
        running = asyncio.create_task(load(bound.data[0], stop))
        _, alone = await measure(None, seconds)
        page = await stack.enter_async_context(browser(1440, 1000))
        await page.open("about:blank")
        empty, _ = await measure(page, seconds)
        await page.open(f"{bound.admin}/")
        for place in ("top", "charts"):
            await page.until("document.getElementById('link')?.dataset.state === 'live'")
            await page.ask(f"document.getElementById('{'status' if place == 'top' else 'charts'}').scrollIntoView()")
            kinds, own = await measure(page, seconds)
            parts = ", ".join(f"{kind} {share:.2%}" for kind, share in sorted(kinds.items()) if share >= 0.0001)
            total = sum(kinds.values()) - sum(empty.values())
            own_part = kinds.get("renderer", 0.0)
            print(f"{place}: {total:.2%} of a core more than an empty page, its own process {own_part:.2%} ({parts})")
            print(f"{place}: Fairlead, engines and load {own:.2%}, without a viewer {alone:.2%}")
        stop.set()
        await running
    await app.stop(drain=0.0)
    await fleet.stop()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backends", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=30.0)
    options = parser.parse_args()
    asyncio.run(main(options.backends, options.seconds))
