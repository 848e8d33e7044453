"""Case 73: many reloads under load, with streams that outlive them: nobody notices, and nothing is left of them."""

from __future__ import annotations

import asyncio
import random
from typing import Any

from peers import Peer, Seen, run, until
from reloading import Kept, begun, finished, held, kept
from running import DONE, LAST, ask, chunk, event, sse_head

RELOADS = 50
CLIENTS = 8
SEED = 5


def changes(k: Kept, rng: random.Random, version: int) -> dict[str, Any]:
    """Something else in the file, of several kinds at once; engines are told the version."""
    one, two, three = k.document["all"]
    weighted = rng.choice([one, {**one, "weight": rng.choice([1, 2, 5])}, {**one, "max_connections": 500}])
    return {
        "backends": rng.choice([[weighted, two, three], [weighted, two], [two, three, weighted], [three, weighted]]),
        "policy": rng.choice(["round_robin", "expected_completion", "least_connections", {"name": "session"}]),
        "shadow": rng.choice([None, "latency"]),
        "timeouts": {"connect": "2s", "idle": rng.choice(["300s", "600s"])},
        "keepalive": {"connections": rng.choice([0, 2, 100])},
        "headers": {"set": [f"X-Version: {version}"]},
        "routes": rng.choice([[], [{"path": "/", "backends": [one["name"]]}]]),
        "listen": [{"address": "127.0.0.1:0", "http2": rng.choice([True, False])}],
        "limits": {"streams": rng.randrange(50, 200)},
    }


def test_fifty_reloads_under_load_fail_no_request_and_leave_nothing_behind() -> None:
    async def slow(peer: Peer, seen: Seen) -> None:
        await peer.send(sse_head(seen))
        for number in range(4):
            await peer.send(chunk(event(number)))
            await asyncio.sleep(0.002)  # the engine's pace: so that streams run across several reloads
        await peer.send(chunk(DONE) + LAST)

    async def body() -> None:
        async with kept(3, default=slow) as k:
            app, rng, go, over = k.f.app, random.Random(SEED), asyncio.Event(), asyncio.Event()
            everyone = list(k.backends)
            k.f.play.scripts = [held(go) for _ in range(6)]
            long = [await begun(k, f"long{number}") for number in range(6)]

            async def load(name: int) -> int:
                count = 0
                while not over.is_set():
                    nonce = f"c{name}-{count}"
                    verdict = await k.oracle.speak(
                        ask(nonce) + ask(f"{nonce}+", fields="Connection: close\r\n"), [nonce, f"{nonce}+"], count=2
                    )
                    assert verdict.statuses == (200, 200)
                    count += 1
                return count

            clients = [asyncio.create_task(load(number)) for number in range(CLIENTS)]
            for number in range(RELOADS):
                k.document["all"] = everyone
                new = changes(k, rng, number + 2)
                del k.document["all"]
                told = await k.reload(**new)
                assert (told["version"], told["needs_restart"]) == (number + 2, [])
                await asyncio.sleep(0)
            over.set()
            counts = await asyncio.gather(*clients)
            assert min(counts) > 0
            go.set()
            for number, client in enumerate(long):
                await finished(k, client, f"long{number}")
            versions = app.reloader.versions
            assert (versions.number, versions.reloads) == (RELOADS + 1, {"applied": RELOADS, "refused": 0})
            await k.reload(backends=everyone, keepalive={"connections": 100}, routes=[])
            await until(lambda: not app.service.retired and len(app.service.listeners) == 1, "nothing of them is left")
            assert {*app.balancer.backends} == {*app.watches} == {*app.service.pools} == {*app.pool_settings}
            assert len(app.service.rotations.all) == 0
            lines = {line["id"]: line["config_version"] for line in await k.f.logged(sum(counts) * 2 + len(long))}
            as_sent = {seen.field("x-request-id"): int(seen.field("x-version") or 1) for seen in k.f.seen}
            assert as_sent == lines  # one version from its headers to its end
            assert len({*lines.values()}) > RELOADS // 2

    run(body)


def test_reloads_that_are_asked_for_at_once_come_one_after_the_other() -> None:
    async def body() -> None:
        async with kept() as k:
            k.write(timeouts={"connect": "3s"})
            told = await asyncio.gather(*[k.f.app.reloader.reload() for _ in range(5)])
            assert [each["version"] for each in told] == [2, 3, 4, 5, 6]

    run(body)
