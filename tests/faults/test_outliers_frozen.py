"""Case 48: an engine that hangs while its health page says 200 is found by the tokens that do not come.

The silence that counts is set to its least: the twenty steps of a machine of usual speed are what is waited for.
"""

from __future__ import annotations

import asyncio
import json

from oracle import judged
from peers import Peer, Seen, dial, run, until
from running import DONE, LAST, Fleet, ask, chunk, event, sse_head

HEALTH = {"no_progress": "1s", "max_fails": 3, "fail_timeout": "1h"}
STREAMED = b'{"model":"m","stream":true,"messages":[{"role":"user","content":"hello"}]}'


async def endless(peer: Peer, seen: Seen) -> None:
    """A stream that gives a token now and then until its reader goes away."""
    await peer.send(sse_head(seen))
    number = 0
    while not peer.over and not peer.lost:
        await peer.send(chunk(event(number)))
        number += 1
        await asyncio.sleep(0.05)


async def one_token_then_nothing(peer: Peer, seen: Seen) -> None:
    await peer.send(sse_head(seen) + chunk(event(0)))
    await peer.end(60.0)


async def backends(f: Fleet) -> dict[str, dict[str, object]]:
    client = await dial(f.admin)
    await client.send(b"GET /api/backends HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
    answer = await client.answer("GET")
    client.transport.abort()
    return {row["id"]: row for row in json.loads(answer.body)["backends"]}


def test_case_48_a_frozen_engine_is_ejected_though_its_health_page_is_well() -> None:
    async def body() -> None:
        async with judged(3, health=HEALTH, named=True) as (f, oracle):
            ids = list(f.app.balancer.backends)
            f.engines[0].script = one_token_then_nothing
            f.play.default = endless
            clients = [await f.dial() for _ in range(6)]
            for number, client in enumerate(clients):
                await client.send(ask(f"n{number}", body=STREAMED))
                await client.expect(event(0))
            frozen = f.app.balancer.backends[ids[0]]
            await until(lambda: frozen.passive.resting, "the silent one is ejected", 30.0)
            assert frozen.up and frozen.passive.cause == "no_progress"
            assert frozen.inflight == 2, "what runs there is not killed"
            rows = await backends(f)
            assert rows[ids[0]]["state"] == "ejected"
            assert "as it hung" in str(rows[ids[0]]["reason"])
            assert rows[ids[0]]["ejections"] == {"failures": 0, "no_progress": 1, "slow": 0}
            before = len(f.engines[0].seen)
            f.play.default = short
            for number in range(6):
                assert (await f.get(ask(f"m{number}"))).status == 200
            assert len(f.engines[0].seen) == before
            assert not any(f.app.balancer.backends[id].passive.resting for id in ids[1:])
            for client in clients:
                client.transport.abort()
            oracle.outcomes[200] += 12  # six whole answers, and six that had begun

    run(body)


async def short(peer: Peer, seen: Seen) -> None:
    await peer.send(sse_head(seen) + chunk(event(0)) + chunk(DONE) + LAST)
