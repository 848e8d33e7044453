"""What is done to a balancer's world while requests come in, and what is counted?

Every scenario begins with fresh engines and a fresh balancer. Rule 1: open loop: requests come by the clock (Poisson),
whatever became of those before. Rule 2: no answer within PATIENCE is `hung`, the client leaves.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
import urllib.request
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from bench.proxies import Absent
from bench.reliability.balancers import Balancer, wait_until
from bench.reliability.engine import SECONDS, SLOTS
from bench.reliability.figures import Figure, allowed_tries, bad, count, of, percentile
from bench.soak import Engines
from bench.soak_client import Client

ENGINES = 4
MIX = {"slow": 50, "late": 50}
CAPACITY = ENGINES * SLOTS / (sum(SECONDS.values()) / 2)
RATE = 0.7 * CAPACITY
LIGHT = 0.35 * CAPACITY
PATIENCE = 6.0
SEED = 1
REQUESTS = 5_000


@dataclass
class World:
    """What a scenario may touch."""

    engines: Engines
    balancer: Balancer

    def facts(self, number: int, path: str = "/facts") -> dict[str, Any]:
        url = f"http://127.0.0.1:{self.engines.ports[number]}{path}"
        with urllib.request.urlopen(url, timeout=10.0) as answer:
            return dict(json.load(answer))

    def mood(self, word: str, *numbers: int) -> None:
        for number in numbers:
            self.facts(number, f"/mood/{word}")


@dataclass
class Load:
    """Requests by the clock, and what became of each."""

    port: int
    told: Counter[tuple[str, str]] = field(default_factory=Counter)
    firsts: list[tuple[float, float]] = field(default_factory=list)  # when a stream was asked for, its TTFT
    hung: list[float] = field(default_factory=list)  # when those were asked for
    raced: int = 0

    async def run(self, total: int, rate: float, mix: dict[str, int] | None = None) -> None:
        mix = mix or MIX
        rng = random.Random(SEED)
        loop = asyncio.get_running_loop()
        idle: list[Client] = []
        at = loop.time()
        async with asyncio.TaskGroup() as group:
            for index in range(total):
                at += rng.expovariate(rate)
                await asyncio.sleep(at - loop.time())
                client = idle.pop() if idle else Client(self.port, rng, self.told, ENGINES)
                (kind,) = rng.choices(list(mix), list(mix.values()))
                group.create_task(self._one(client, kind, b"r%08d" % index, idle))
        for client in idle:
            self.raced += client.raced
            client.close()

    async def _one(self, client: Client, kind: str, nonce: bytes, idle: list[Client]) -> None:
        asked = time.monotonic()
        try:
            async with asyncio.timeout(PATIENCE):
                word = await client.ask(kind, nonce)
        except TimeoutError:
            client.close()
            self.told[kind, "hung"] += 1
            self.hung.append(asked)
        else:
            if kind == "slow" and word == "whole":
                self.firsts.append((asked, client.first))
        idle.append(client)

    def ttft(self, begin: float, end: float) -> float:
        """p99 of the streams that were asked for between the two; one that hung took all of PATIENCE."""
        times = [first for at, first in self.firsts if begin <= at < end]
        return percentile(times + [PATIENCE for at in self.hung if begin <= at < end], 0.99)


def _said(load: Load) -> str:
    words = ", ".join(f"{number} {word}" for word, number in bad(load.told).items())
    return f": {words}" if words else ""


async def _while_loaded(world: World, rate: float, act: Callable[[int], None], pause: float) -> tuple[Load, int]:
    """REQUESTS at this rate, and `act` with 0, 1, 2, ... every `pause` seconds for as long as they come."""
    load = Load(world.balancer.port)
    running = asyncio.create_task(load.run(REQUESTS, rate))
    done = 0
    while not running.done():
        await asyncio.wait([running], timeout=pause)
        if not running.done():
            try:
                await asyncio.to_thread(act, done)
            except BaseException:
                running.cancel()
                raise
            done += 1
    await running
    return load, done


async def rolling(world: World) -> Figure:
    def restart(turn: int) -> None:
        number = turn % ENGINES
        world.balancer.drain(number)
        time.sleep(0.1)  # a balancer that is told by a signal needs a moment
        wait_until("a drained engine to be idle", lambda: world.facts(number)["running"] == 0)
        world.engines.kill(number)
        world.engines.start(number)
        world.balancer.undrain(number)

    load, done = await _while_loaded(world, RATE, restart, 0.5)
    failed = REQUESTS - count(load.told, "whole")
    return Figure(f"{of(failed, REQUESTS)}{_said(load)}; {done} restarts", failed == 0 and done >= ENGINES)


async def kill(world: World) -> Figure:
    def murder(turn: int) -> None:
        world.engines.kill(turn % ENGINES)
        time.sleep(0.5)
        world.engines.start(turn % ENGINES)

    load, done = await _while_loaded(world, LIGHT, murder, 1.0)
    lost, silent = count(load.told, "lost", "refused", "error", "hung"), count(load.told, "silent")
    text = f"{of(lost, REQUESTS)} / {of(silent, REQUESTS)}; {count(load.told, 'broken')} broken visibly, {done} kills"
    return Figure(text, lost == silent == 0)


async def upgrade(world: World) -> Figure:
    load, done = await _while_loaded(world, RATE, lambda turn: world.balancer.upgrade(), 2.0)
    failed = REQUESTS - count(load.told, "whole")
    return Figure(f"{of(failed, REQUESTS)}{_said(load)}; {done} upgrades", failed == 0)


async def reloads(world: World) -> Figure:
    load, done = await _while_loaded(world, RATE, lambda turn: world.balancer.reload(), 0.2)
    failed = REQUESTS - count(load.told, "whole")
    return Figure(f"{of(failed, REQUESTS)}{_said(load)}; {done} reloads", failed == 0 and done >= 50)


async def _after(world: World, mood: str, settle: float, measured: float) -> tuple[Load, float, float, float]:
    """5 s of health, then engine 0 changes its mood; (load, onset, p99 before, p99 once `settle` seconds are over)."""
    load = Load(world.balancer.port)
    seconds = 5.0 + settle + measured
    began = time.monotonic()
    running = asyncio.create_task(load.run(int(seconds * LIGHT), LIGHT))
    await asyncio.sleep(5.0)
    await asyncio.to_thread(world.mood, mood, 0)
    onset = time.monotonic()
    await running
    return load, onset, load.ttft(began + 1.0, onset - 0.5), load.ttft(onset + settle, began + 1e9)


async def gray(world: World) -> Figure:
    load, onset, before, after = await _after(world, "frozen", 12.0, 5.0)
    last = (await asyncio.to_thread(world.facts, 0))["last"] - onset
    late = sum(at > onset + 12.0 for at in load.hung)
    ratio = after / before if before else 0.0
    text = f"last request to it after {last:.1f} s; p99 TTFT {ratio:.2f}x; {len(load.hung)} hung, {late} after 12 s"
    return Figure(text, last <= 10.5 and ratio <= 1.1)


async def slow(world: World) -> Figure:
    load, _, before, after = await _after(world, "slow", 10.0, 8.0)
    ratio = after / before if before else 0.0
    return Figure(f"{ratio:.2f}x ({before * 1e3:.0f} to {after * 1e3:.0f} ms){_said(load)}", ratio <= 1.3)


async def gone(world: World) -> Figure:
    total, left = 2_000, {}
    slots = asyncio.Semaphore(20)

    async def leave(number: int) -> None:
        async with slots:
            reader, writer = await asyncio.open_connection("127.0.0.1", world.balancer.port)
            nonce = f"g{number:08d}"
            head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: soak\r\nx-soak: slow\r\nx-nonce: {nonce}\r\n"
            writer.write(f"{head}content-type: application/json\r\ncontent-length: 2\r\n\r\n{{}}".encode())
            await reader.readuntil(b" 3")  # in the middle of the stream
            left[nonce] = time.monotonic()
            writer.transport.abort()

    await asyncio.gather(*(leave(number) for number in range(total)))
    await asyncio.sleep(1.0)
    facts = [await asyncio.to_thread(world.facts, number) for number in range(ENGINES)]
    closed = {nonce: at for fact in facts for nonce, at in fact["gone"].items()}
    delays = [closed[nonce] - at for nonce, at in left.items() if nonce in closed]
    leaked = sum(fact["running"] for fact in facts)
    p99 = percentile(delays, 0.99)
    took = f"p99 {p99 * 1e3:.0f} ms, " if delays else ""
    text = f"{took}{len(delays):,} of {total:,} closed before their end; {leaked} leaked"
    return Figure(text, p99 <= 0.1 and leaked == 0 and len(delays) >= 0.99 * total)


async def race(world: World) -> Figure:
    load = Load(world.balancer.port)
    await load.run(1_000, LIGHT, {"race": 1})
    failed = 1_000 - count(load.told, "whole")
    return Figure(f"{of(failed, 1_000)}{_said(load)}", failed == 0)


def _tries(world: World) -> int:
    return sum(int(world.facts(number)["asked"]) for number in range(ENGINES))


async def failing(world: World) -> Figure:
    await asyncio.to_thread(world.mood, "refusing", *range(ENGINES))
    before, began, total = await asyncio.to_thread(_tries, world), time.monotonic(), 1_500
    await Load(world.balancer.port).run(total, LIGHT)
    tries = await asyncio.to_thread(_tries, world) - before
    allowed = allowed_tries(total, time.monotonic() - began)
    return Figure(f"{tries / total:.2f} tries per request ({allowed / total:.2f} allowed)", tries <= allowed)


async def failing_sdk(world: World) -> Figure:
    try:
        from openai import AsyncOpenAI, OpenAIError
    except ImportError:
        raise Absent("the openai package is not installed") from None
    await asyncio.to_thread(world.mood, "refusing", *range(ENGINES))
    before, began, total = await asyncio.to_thread(_tries, world), time.monotonic(), 300
    slots = asyncio.Semaphore(60)
    async with AsyncOpenAI(base_url=f"http://127.0.0.1:{world.balancer.port}/v1", api_key="none") as client:

        async def ask() -> None:
            async with slots:
                try:
                    await client.chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}])
                except OpenAIError:
                    return
                raise RuntimeError("an engine that refuses has answered")

        await asyncio.gather(*(ask() for _ in range(total)))
    tries = await asyncio.to_thread(_tries, world) - before
    allowed = allowed_tries(total, time.monotonic() - began)
    return Figure(f"{tries / total:.2f} tries per call ({allowed / total:.2f} allowed)", tries <= allowed)


SCENARIOS: dict[str, tuple[str, str, Callable[[World], Awaitable[Figure]]]] = {
    "rolling": ("rolling drain-aware restart of every backend, 70 % load: failed or truncated", "0 of 5,000", rolling),
    "kill": ("`kill -9` of every backend: failed before commit / silently short", "0 / 0 of 5,000", kill),
    "upgrade": ("the balancer is replaced, 70 % load: refused, reset or lost", "0 of 5,000", upgrade),
    "reloads": ("hot reloads, 70 % load: failed", "0 in 50", reloads),
    "gray": ("1 of 4 frozen, `/health` 200", "out within 10 s, p99 TTFT ≤ 1.1x", gray),
    "slow": ("1 of 4 ten times slower: p99 TTFT after 10 s", "≤ 1.3x", slow),
    "gone": ("client gone to upstream closed", "p99 ≤ 100 ms, 0 leaked", gone),
    "race": ("kept connections that close as a request comes: errors", "0 of 1,000", race),
    "failing": ("all engines answer 503, raw client", "≤ 1.2x + 10/s", failing),
    "sdk": ("all engines answer 503, OpenAI's SDK with its retries", "≤ 1.2x + 10/s", failing_sdk),
}
