"""Cases 45, 47 and 67: clients that leave at any moment of any fault, uploads cut short, a stop under many streams."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import uvloop
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from peers import Gone, Peer, Script, Seen, run, until
from running import DONE, LAST, Fleet, ask, chunk, event, fleet, hang, raw, reply, reset, sse_head, stream
from test_faults_midstream import breaking

WAYS = ["close", "reset", "half_close"]

FAULTS: dict[str, Script] = {
    "one piece": reply(),
    "stream": stream(3),
    "hang": hang,
    "reset": reset,
    "closed": raw(b"", close=True),
    "503": reply(b"{}", "503 Busy"),
    "500": reply(b"{}", "500 Oops"),
    "junk": raw(b"junk\r\n\r\n"),
    "breaks": breaking(chunk(event(1)), "reset"),
    "half a chunk": breaking(chunk(event(1)) + b"40\r\nhalf"),
    "cut short": breaking(b"half", length=50),
    "no last word": raw(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n" + event(1), close=True),
}


class Crowd(RuleBasedStateMachine):
    """Clients come, leave and wait in any order, over engines that do anything; the App's books are always even."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
        self.complaints: list[str] = []
        self.runner.get_loop().set_exception_handler(lambda _, context: self.complaints.append(repr(context)))
        self.context = fleet(3, health={"max_fails": 0}, timeouts={"first_byte": "60s"}, keepalive={"requests": 5})
        self.f: Fleet = self.runner.run(self.context.__aenter__())
        self.waiting: list[Peer] = []
        self.sent = 0
        self.cut = 0

    def do(self, step: Any) -> None:
        self.runner.run(step)

    @rule(fault=st.sampled_from(sorted(FAULTS)), part=st.sampled_from([1.0, 1.0, 1.0, 0.5, 0.95]))
    def ask(self, fault: str, part: float) -> None:
        async def step() -> None:
            self.f.play.default = FAULTS[fault]
            client = await self.f.dial()
            data = ask(f"n{self.sent}")
            await client.send(data[: int(len(data) * part)])
            self.sent += 1
            self.waiting.append(client)

        self.do(step())

    @precondition(lambda self: self.waiting)
    @rule(turns=st.sampled_from([0, 1, 2, 5, 20]), way=st.sampled_from(WAYS), which=st.integers(0, 100))
    def leave(self, turns: int, way: str, which: int) -> None:
        client = self.waiting.pop(which % len(self.waiting))

        async def step() -> None:
            for _ in range(turns):
                await asyncio.sleep(0)
            if not client.lost:
                getattr(client, way)()

        self.do(step())

    @rule(turns=st.integers(0, 30))
    def time_passes(self, turns: int) -> None:
        async def step() -> None:
            for _ in range(turns):
                await asyncio.sleep(0)

        self.do(step())

    @rule(number=st.integers(0, 2))
    def an_engine_drops_its_connections(self, number: int) -> None:
        async def step() -> None:
            for peer in self.f.engines[number].busy:
                peer.reset()

        self.do(step())

    @invariant()
    def the_books_are_even(self) -> None:
        app = self.f.app
        ledger = app.balancer.ledger
        inflight = sum(backend.inflight for backend in app.balancer.backends.values())
        assert ledger.opened - ledger.closed == inflight == len(app.service.exchanges)

    def teardown(self) -> None:
        async def end() -> None:
            f = self.f
            for client in self.waiting:
                client.reset()
            await until(lambda: not f.app.service.clients, "no client is left")
            await f.assert_quiet()
            await f.stop()
            lines = await f.logged(0)
            tries = sum(line["tries"] for line in lines)
            # Who left between two steps had a try that no engine came to see; a resend is a try that two saw.
            f.unseen_tries, f.resent = max(tries - len(f.seen), 0), max(len(f.seen) - tries, 0)
            await self.context.__aexit__(None, None, None)

        try:
            self.do(end())
        finally:
            self.runner.close()
        assert not self.complaints, self.complaints


def test_case_45_whatever_clients_and_engines_do_everything_is_given_back() -> None:
    run_state_machine_as_test(
        Crowd,
        settings=settings(
            max_examples=25, stateful_step_count=40, deadline=None, derandomize=True, database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )  # fmt: skip


@pytest.mark.parametrize("way", ["close", "reset", "half_close"])
@pytest.mark.parametrize("framing", ["length", "chunks"])
def test_case_47_an_upload_that_is_cut_reaches_no_engine(framing: str, way: str) -> None:
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\n"
    data = head + (
        b"Content-Length: 5000\r\n\r\n" + b'{"model":"m"' if framing == "length" else
        b"Transfer-Encoding: chunked\r\n\r\n" + chunk(b'{"model":"m"')
    )  # fmt: skip

    async def body() -> None:
        async with fleet(1) as f:
            client = await f.dial()
            await client.send(data)
            await until(lambda: any(c.busy for c in f.app.service.clients))
            assert f.app.service.memory.used
            getattr(client, way)()
            await until(lambda: not f.app.service.clients, "the balancer let go of it")
            assert f.app.service.memory.used == 0
            assert f.seen == []

    run(body)


def test_case_67_a_stop_under_many_streams_ends_each_whole_or_visibly_broken() -> None:
    async def body() -> None:
        go = asyncio.Event()

        async def play(peer: Peer, seen: Seen) -> None:
            await peer.send(sse_head(seen) + chunk(event(1)))
            if int(seen.nonce) % 2:
                await peer.end(60.0)  # this one does not end within the drain
                return
            await go.wait()
            await peer.send(chunk(event(2)) + chunk(DONE) + LAST)

        async with fleet(3, default=play) as f:
            clients = [await f.dial() for _ in range(200)]
            for number, client in enumerate(clients):
                await client.send(ask(str(number)))
            for client in clients:
                await client.expect(event(1))
                client.read = 0
            idle = await f.dial()
            await until(lambda: len(f.app.service.clients) == 201)
            stop = asyncio.create_task(f.stop(drain=1.5))
            await until(lambda: f.app.service.draining)
            assert await idle.end() == b""
            with pytest.raises((OSError, Gone)):
                late = await f.dial()
                await late.send(ask("late"))
                await late.answer()
            go.set()
            for number, client in enumerate(clients):
                answer = await client.answer()
                assert answer.field("x-nonce") == str(number)
                if number % 2:
                    assert (answer.whole, LAST in answer.body, DONE in answer.body) == (False, False, False)
                    assert b"shutting down" in answer.body
                else:
                    assert (answer.whole, answer.body.endswith(DONE)) == (True, True)
                assert await client.end() == b""
            assert await stop == 100, "how many were broken off is told"
            lines = await f.logged(200)
            assert sorted({line["error"] or "" for line in lines}) == ["", "shutdown"]
            assert [backend.errors for backend in f.app.balancer.backends.values()] == [0, 0, 0], "no engine is blamed"

    run(body)
