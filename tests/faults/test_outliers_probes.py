"""Cases 50, 53 and 55 before a running App: who is probed, whom probes take down, and who is not let in yet."""

from __future__ import annotations

import asyncio

from oracle import judged
from peers import Peer, Seen, run, until
from reloading import kept
from running import DONE, LAST, ask, chunk, event, sse_head

from fairlead.core.model import ANY_MODEL

QUICK = {"interval": "100ms", "max_fails": 3}


# --- 53: after many reloads -----------------------------------------------------------------------------------


def test_case_53_after_100_reloads_probes_go_to_the_current_backends_and_each_is_probed_once() -> None:
    async def body() -> None:
        async with kept(4, health=QUICK) as k:
            engines, every = k.f.engines, k.backends
            for number in range(100):  # one of them is out at a time
                told = await k.reload(backends=[each for at, each in enumerate(every) if at != number % 4])
                assert told["version"] == number + 2
            assert set(k.f.app.watches) == {"engine0", "engine1", "engine2"}
            before = [engine.probes for engine in engines]
            await until(lambda: engines[0].probes >= before[0] + 20, "the first is probed")
            grown = [engine.probes - old for engine, old in zip(engines, before, strict=True)]
            assert grown[3] == 0
            assert all(14 <= each <= 28 for each in grown[:3]), "a second watch would ask twice as often"
            assert await k.engines(6) == {"engine0", "engine1", "engine2"}

    run(body)


# --- 50: probes that time out ---------------------------------------------------------------------------------


def test_case_50_a_busy_engine_whose_health_page_gives_no_answer_keeps_its_requests() -> None:
    async def body() -> None:
        async def tokens(peer: Peer, seen: Seen) -> None:
            await peer.send(sse_head(seen))
            while not go.is_set():
                await peer.send(chunk(event(0)))
                await asyncio.sleep(0.02)
            await peer.send(chunk(DONE) + LAST)

        go, asked = asyncio.Event(), 0
        async with judged(1, default=tokens, health={"interval": "100ms", "timeout": "100ms", "fall": 2}) as (
            f,
            oracle,
        ):
            client = await f.dial()
            await client.send(ask("long"))
            await client.expect(event(0))
            client.read = 0
            watch = next(iter(f.app.watches.values()))

            async def no_answer() -> str:
                nonlocal asked
                asked += 1
                watch._timed_out = True
                return "GET /health gave no answer within 0.1 s"

            watch._probe = no_answer  # type: ignore[method-assign]
            await until(lambda: asked >= 6, "it was asked three times as often as takes it down")
            assert f.app.balancer.backends[watch.id].up
            second = await f.dial()
            await second.send(ask("second"))
            await second.expect(event(0))
            second.read = 0
            go.set()
            for each in (client, second):
                assert (await each.answer()).whole
                oracle.outcomes[200] += 1

    run(body)


# --- 55: not ready yet ----------------------------------------------------------------------------------------


def test_case_55_a_newcomer_without_its_model_or_a_good_probe_gets_nothing() -> None:
    async def body() -> None:
        async with kept(3, health=QUICK) as k:
            every, late = k.backends, k.f.engines[2]
            await k.reload(backends=every[:2])
            late.healthy = False
            seen = late.probes
            await k.reload(backends=[*every[:2], {**every[2], "models": ["other"]}])
            await until(lambda: late.probes > seen + 3, "it is probed")
            assert await k.engines(12) == {"engine0", "engine1"}, "its port is open, its model loads"
            late.healthy = True
            await until(lambda: k.f.app.balancer.backends["engine2"].up, "it is up")
            assert await k.engines(12) == {"engine0", "engine1"}, "it serves another model"
            await k.reload(backends=every)
            assert k.f.app.balancer.backends["engine2"].models not in (None, ANY_MODEL)
            assert await k.engines(12) == {"engine0", "engine1", "engine2"}

    run(body)
