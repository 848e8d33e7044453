"""Case 45: any mix of faults, retries and clients that leave; afterwards everything is exactly zero.

A seeded crowd of clients, each with a plan drawn at random, over engines that play random scripts. Whatever
happened, each client saw one outcome: its own whole answer, one error, or a connection that visibly broke.
"""

from __future__ import annotations

import asyncio
import random

import pytest
from peers import Gone, Peer, Script, Seen, run, until
from running import DONE, LAST, Fleet, ask, chunk, event, fleet, raw, reply, reset, sse_head, stream
from test_faults_midstream import breaking

REQUESTS = 240
AT_ONCE = 12


async def slow(peer: Peer, seen: Seen) -> None:
    """A stream of some events with turns of the loop between them."""
    await peer.send(sse_head(seen))
    for number in range(20):
        if peer.over:
            return
        await peer.send(chunk(event(number)))
        await asyncio.sleep(0.001)
    await peer.send(chunk(DONE) + LAST)


async def silent(peer: Peer, seen: Seen) -> None:
    await peer.end(60.0)


async def late_head(peer: Peer, seen: Seen) -> None:
    await peer.send(sse_head(seen))
    await asyncio.sleep(0.01)
    await peer.drip(chunk(event(1)) + chunk(DONE) + LAST, 5)


SCRIPTS: list[tuple[int, Script]] = [
    (6, reply()),
    (4, stream()),
    (4, slow),
    (2, late_head),
    (2, reset),
    (1, raw(b"", close=True)),
    (1, raw(b"HTTP/1.1 200 OK\r\nContent-Le", close=True)),
    (2, reply(b"{}", "503 Busy")),
    (1, reply(b"{}", "502 Bad")),
    (1, reply(b"{}", "400 Bad Request")),
    (1, reply(b"{}", "500 Oops")),
    (1, raw(b"junk\r\n\r\n")),
    (1, silent),
    (2, breaking(chunk(event(1)))),
    (1, breaking(chunk(event(1)), "reset")),
    (1, breaking(chunk(event(1)) + b"40\r\nhalf")),
    (1, breaking(b"half", length=50)),
    (1, raw(b"HTTP/1.1 200 OK\r\nX-Nonce: %NONCE\r\n\r\nuntil close", close=True)),
    (1, raw(b"HTTP/1.1 200 OK\r\nX-Nonce: %NONCE\r\nContent-Length: 2\r\n\r\n{}and more")),
]
WAYS = ["close", "reset", "half_close"]


async def request(f: Fleet, rng: random.Random, nonce: str) -> str:
    """One client with a plan; the outcome it saw."""
    client = await f.dial()
    version = rng.choice(["1.1", "1.1", "1.1", "1.0"])
    fields = rng.choice(["", "", "Connection: close\r\n"])
    data = ask(
        nonce, rng.choice(["/v1/chat/completions", "/v1/messages", "/v1/completions"]), version=version, fields=fields
    )
    leaves = rng.random() < 0.25
    if leaves and rng.random() < 0.2:
        data = data[: rng.randrange(1, len(data))]
    await client.send(data)
    if leaves:
        for _ in range(rng.choice([0, 0, 1, 5, 20, 60])):
            await asyncio.sleep(0.0005)
        getattr(client, rng.choice(WAYS))()
        if not client.lost:
            await until(lambda: client.over, "the balancer lets go of it")
            client.close()
        return "left"
    try:
        answer = await client.answer(seconds=5.0)
    except Gone:
        return "broken"
    finally:
        client.close()
    if answer.status == 200:
        # A try that was relayed is ours alone; and a whole answer is never a short one.
        said = answer.field("x-nonce")
        assert said in (nonce, None)
        if not answer.whole or b'"error"' in answer.body:
            return "broken"
        assert b"half" not in answer.body
        if answer.field("content-type") == "text/event-stream":
            assert DONE in answer.body
        return "whole"
    assert answer.whole
    assert answer.status in (400, 500, 502, 503, 504)
    return "error"


@pytest.mark.parametrize("seed", range(3))
def test_after_any_mix_everything_is_zero(seed: int) -> None:
    async def body() -> None:
        rng = random.Random(seed)
        plays = [script for weight, script in SCRIPTS for _ in range(weight)]
        timeouts = {"first_byte": "250ms", "idle": "250ms"}
        # All bodies are alike here, and so many engines break: they would soon be suspected of breaking them.
        async with fleet(3, timeouts=timeouts, keepalive={"requests": 7}, retries={"breaks": 0}) as f:

            async def any_of_them(peer: Peer, seen: Seen) -> None:
                await rng.choice(plays)(peer, seen)

            f.play.default = any_of_them
            outcomes: dict[str, int] = {}
            left = iter(range(REQUESTS))

            async def worker() -> None:
                for number in left:
                    outcome = await request(f, rng, f"s{seed}n{number}")
                    outcomes[outcome] = outcomes.get(outcome, 0) + 1

            await asyncio.gather(*(worker() for _ in range(AT_ONCE)))
            assert sum(outcomes.values()) == REQUESTS
            assert set(outcomes) == {"whole", "error", "broken", "left"}
            await f.assert_quiet()
            await until(lambda: not f.app.service.clients, "no client is left", 1.0)
            await f.stop()
            # a client may leave between two steps: tries that no engine came to see
            lines = await f.logged(1)
            tries = sum(line["tries"] for line in lines)
            assert tries >= len(f.seen) - len(lines) // 10, "resends after a closed connection are rare"
            f.unseen_tries, f.resent = max(tries - len(f.seen), 0), max(len(f.seen) - tries, 0)
            assert f.unseen_tries <= outcomes["left"]
            kinds = {line["outcome"] for line in lines}
            assert kinds == {"ok", "error", "failed", "client_gone", "refused"}

    run(body)


def test_hundreds_of_requests_keep_their_own_answers() -> None:
    async def body() -> None:
        async with fleet(3) as f:
            rng = random.Random(7)

            async def worker(name: int) -> None:
                client = await f.dial()
                for number in range(25):
                    nonces = [f"w{name}n{number}p{part}" for part in range(rng.choice([1, 1, 3]))]
                    await client.send(b"".join(ask(nonce) for nonce in nonces))
                    for nonce in nonces:
                        answer = await client.answer()
                        assert (answer.field("x-nonce"), answer.whole) == (nonce, True)

            f.play.default = any_good(rng)
            await asyncio.gather(*(worker(name) for name in range(12)))
            assert len({seen.nonce for seen in f.seen}) == len(f.seen)

    run(body)


def any_good(rng: random.Random) -> Script:
    scripts: list[Script] = [reply(), stream(), slow, late_head]

    async def play(peer: Peer, seen: Seen) -> None:
        await rng.choice(scripts)(peer, seen)

    return play
