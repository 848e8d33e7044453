"""Fleets and scripts for hedged requests: engines that are late for as long as a test wants, and what the books say."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from peers import Answer, Peer, Script, Seen, dial, until
from running import DONE, LAST, Fleet, chunk, event, reply, sse_head

EAGER: dict[str, Any] = {"hedging": {"delay": "20ms", "budget": "100%"}}
"""Every request that has no answer at once is hedged."""

PLAIN = b'{"model":"m","messages":[{"role":"user","content":"hello"}],"max_tokens":1}'
"""For an answer in one piece; a longer one would be expected to take longer than a test waits."""

STREAM = b'{"model":"m","messages":[{"role":"user","content":"hello"}],"stream":true}'


class Late:
    """An engine's script that says nothing until it is let go, and notes when the balancer goes away."""

    def __init__(self, then: Script | None = None) -> None:
        self.go = asyncio.Event()
        self.asked = asyncio.Event()
        self.left = asyncio.Event()
        self._then = then or reply()

    async def __call__(self, peer: Peer, seen: Seen) -> None:
        self.asked.set()
        going = asyncio.create_task(self.go.wait())
        leaving = asyncio.create_task(peer.end(60.0))
        try:
            await asyncio.wait({going, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if leaving.done():
                self.left.set()
            else:
                await self._then(peer, seen)
        finally:
            for task in (going, leaving):
                task.cancel()
            await asyncio.gather(going, leaving, return_exceptions=True)

    async def closed(self) -> None:
        """The engine has seen that nobody waits any more."""
        async with asyncio.timeout(5.0):
            await self.left.wait()


def streaming(told: bytes = b"") -> Script:
    """A whole stream of three events; `told` comes first, as its own piece."""

    async def play(peer: Peer, seen: Seen) -> None:
        await peer.send(sse_head(seen))
        if told:
            await peer.send(told)
            await asyncio.sleep(0.01)
        for number in range(3):
            await peer.send(chunk(event(number)))
        await peer.send(chunk(DONE) + LAST)

    return play


async def line_of(f: Fleet, count: int = 1) -> dict[str, Any]:
    """The last request as the access log tells it."""
    return (await f.logged(count))[-1]


async def assert_hedged(f: Fleet, outcome: str, *, winner: int, blamed: tuple[int, ...] = (), tries: int = 2) -> None:
    """One request was hedged from engine 0 to engine 1; everybody's books tell the same of it."""
    line = await line_of(f)
    names = [*f.app.balancer.backends]
    assert line["hedged"] is True
    assert line["hedge"] == {"first": names[0], "second": names[1], "outcome": outcome}
    assert (line["backend"], line["tries"]) == (names[winner], tries)
    assert line["failed_on"] == [names[number] for number in blamed]
    assert [backend.errors for backend in f.app.balancer.backends.values()][: len(names)] == [
        int(number in blamed) for number in range(len(names))
    ]
    told = {word: count for word, count in f.app.recorder.hedges.items() if count}
    assert told == {outcome: 1}


async def page(f: Fleet, path: str) -> Any:
    """A page of the admin API."""
    client = await dial(f.admin)
    await client.send(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
    answer: Answer = await client.answer("GET")
    client.transport.abort()
    assert answer.status == 200, answer.raw
    return json.loads(answer.body) if path.startswith("/api") else answer.body.decode()


async def both_asked(*late: Late) -> None:
    for each in late:
        await until(each.asked.is_set, "this engine was asked")
