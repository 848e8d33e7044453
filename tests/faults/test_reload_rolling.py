"""Case 68: every engine is restarted in its turn, marked as draining before, while clients go on: nobody notices."""

from __future__ import annotations

import asyncio

from peers import Peer, Seen, run, until
from reloading import Kept, kept
from running import DONE, LAST, ask, chunk, event, reply, sse_head

CLIENTS = 6
ENGINES = 3


async def reaches(k: Kept, id: str, field: str, value: object) -> None:
    """Wait until the admin API tells so of a backend, as whoever restarts engines would."""
    async with asyncio.timeout(20.0):
        while (await k.call("GET", f"/api/backends/{id}"))[1][field] != value:
            pass


async def mark(k: Kept, id: str, *, drain: bool) -> None:
    status, _ = await k.call("PATCH", f"/api/backends/{id}", {"drain": drain})
    assert status == 200


def test_case_68_a_rolling_restart_that_marks_each_engine_first_fails_no_request() -> None:
    async def slow(peer: Peer, seen: Seen) -> None:
        if int(seen.nonce.rpartition("-")[2]) % 2:
            await reply()(peer, seen)
            return
        await peer.send(sse_head(seen))
        for number in range(4):
            await peer.send(chunk(event(number)))
            await asyncio.sleep(0.002)  # the engine's pace, so that streams run when their engine is marked
        await peer.send(chunk(DONE) + LAST)

    async def body() -> None:
        health = {"interval": "100ms", "fall": 2, "rise": 1}
        async with kept(ENGINES, default=slow, health=health) as k:
            over = asyncio.Event()

            async def load(name: int) -> int:
                count = 0
                while not over.is_set():
                    nonces = [f"c{name}-{count}", f"c{name}-{count + 1}"]
                    closing = ask(nonces[1], fields="Connection: close\r\n")
                    verdict = await k.oracle.speak(ask(nonces[0]) + closing, nonces, count=2)
                    assert verdict.statuses == (200, 200)
                    count += 2
                return count

            clients = [asyncio.create_task(load(number)) for number in range(CLIENTS)]
            for number in range(ENGINES):  # once each: what goes down again soon after is held back for a while
                engine, id = k.f.engines[number], f"engine{number}"
                before = len(engine.seen)
                await until(lambda: len(engine.seen) > before + 20, "it is used")  # noqa: B023
                await mark(k, id, drain=True)
                marked = len(engine.seen)
                await reaches(k, id, "inflight", 0)
                engine.healthy = False
                await engine.kill()
                await reaches(k, id, "state", "down")
                assert len(engine.seen) == marked, "from the mark on it gets nothing"
                engine.healthy = True
                await engine.open()
                await mark(k, id, drain=False)
                await reaches(k, id, "state", "up")
            over.set()
            counts = await asyncio.gather(*clients)
            assert k.oracle.outcomes == {200: sum(counts)}
            lines = await k.f.logged(sum(counts))
            assert {(line["outcome"], line["tries"]) for line in lines} == {("ok", 1)}, "nothing was sent twice"
            assert [backend.errors for backend in k.f.app.balancer.backends.values()] == [0] * ENGINES

    run(body)
