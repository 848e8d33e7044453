"""Case 40 against chance: whatever two tries, their engines and their client do, each lease is closed exactly once."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any, ClassVar

import pytest
import uvloop
from hedge_cases import PLAIN, STREAM, streaming
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from peers import Peer, Script, Seen, run, until
from running import Fleet, ask, fleet, hang, reply, sse_head
from test_clients_aborts import FAULTS, WAYS
from token_engine import speaking

from fairlead.core.hedge import OUTCOMES


class Gate:
    """Engines of a crowd: each request waits until a rule lets it go, and then meets the fault of that moment."""

    def __init__(self) -> None:
        self.waiting: list[asyncio.Future[Script]] = []

    async def __call__(self, peer: Peer, seen: Seen) -> None:
        mine: asyncio.Future[Script] = asyncio.get_running_loop().create_future()
        self.waiting.append(mine)
        leaving = asyncio.create_task(peer.end(600.0))
        try:
            both: set[asyncio.Future[Any]] = {mine, leaving}
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            if mine.done():
                leaving.cancel()
                await asyncio.gather(leaving, return_exceptions=True)
                await mine.result()(peer, seen)
        finally:
            leaving.cancel()
            if mine in self.waiting:
                self.waiting.remove(mine)


MORE: dict[str, Script] = FAULTS | {
    "comments first": streaming(b"8\r\n: hello\n\r\n"),
    "head, then nothing": lambda peer, seen: _head_only(peer, seen),
}


LIKELY = [*sorted(MORE), *["one piece", "stream", "comments first"] * 3]


async def _head_only(peer: Peer, seen: Seen) -> None:
    await peer.send(sse_head(seen))
    await hang(peer, seen)


class Pairs(RuleBasedStateMachine):
    """Requests that are hedged at once; rules let engines answer or fail, clients leave, connections break."""

    resume = False
    outcomes: ClassVar[Counter[str]] = Counter()

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
        self.complaints: list[str] = []
        self.runner.get_loop().set_exception_handler(lambda _, context: self.complaints.append(repr(context)))
        self.gate = Gate()
        self.context = fleet(
            4, default=self.gate, hedging={"delay": "8ms", "budget": "100%"}, resume=self.resume,
            backend={"engine": "vllm"}, timeouts={"first_byte": "60s"}, keepalive={"requests": 5},
            retries={"window": "600s"},
        )  # fmt: skip
        self.f: Fleet = self.runner.run(self.context.__aenter__())
        self.clients: list[Peer] = []
        self.sent = 0

    def do(self, step: Any) -> None:
        self.runner.run(step)

    async def turns(self, count: int) -> None:
        for _ in range(count):
            await asyncio.sleep(0)

    @rule(data=st.sampled_from([PLAIN, STREAM]), seconds=st.sampled_from([0.0, 0.012]))
    def ask(self, data: bytes, seconds: float) -> None:
        async def step() -> None:
            client = await self.f.dial()
            await client.send(ask(f"n{self.sent}", body=data))
            self.sent += 1
            self.clients.append(client)
            await asyncio.sleep(seconds)  # is its hedge due by then?
            await self.turns(5)

        self.do(step())

    @rule(which=st.integers(0, 100), fault=st.sampled_from(LIKELY), turns=st.sampled_from([0, 1, 3, 20]))
    def an_engine_answers(self, which: int, fault: str, turns: int) -> None:
        async def step() -> None:
            waiting = self.gate.waiting
            if waiting:  # no precondition: when requests arrive there is the network's affair, not the machine's
                waiting.pop(which % len(waiting)).set_result(MORE[fault])
            await self.turns(turns)

        self.do(step())

    @rule(faults=st.lists(st.sampled_from(LIKELY), min_size=2, max_size=2), turns=st.sampled_from([0, 2, 20]))
    def two_engines_answer_at_once(self, faults: list[str], turns: int) -> None:
        async def step() -> None:
            for fault in faults[: len(self.gate.waiting)]:
                self.gate.waiting.pop().set_result(MORE[fault])
            await self.turns(turns)

        self.do(step())

    @precondition(lambda self: self.clients)
    @rule(which=st.integers(0, 100), way=st.sampled_from(WAYS), turns=st.sampled_from([0, 1, 5]))
    def a_client_leaves(self, which: int, way: str, turns: int) -> None:
        client = self.clients.pop(which % len(self.clients))

        async def step() -> None:
            if not client.lost:
                getattr(client, way)()
            await self.turns(turns)

        self.do(step())

    @rule(number=st.integers(0, 3))
    def an_engine_drops_its_connections(self, number: int) -> None:
        async def step() -> None:
            for peer in self.f.engines[number].busy:
                peer.reset()
            await self.turns(3)

        self.do(step())

    @rule()
    def the_hedges_are_due(self) -> None:
        self.do(asyncio.sleep(0.012))

    @invariant()
    def the_books_are_even(self) -> None:
        app = self.f.app
        ledger = app.balancer.ledger
        inflight = sum(backend.inflight for backend in app.balancer.backends.values())
        sides = sum(e.race is not None and e.race.side is not None for e in app.service.exchanges)
        assert ledger.opened - ledger.closed == inflight == len(app.service.exchanges) + sides
        for exchange in app.service.exchanges:
            race = exchange.race
            assert race is not None
            if race.side is not None:
                assert not exchange.relaying, "two tries run only before the commit"
                assert race.side.lease.open
                assert race.side.lease.backend is not exchange.lease.backend

    def teardown(self) -> None:
        async def end() -> None:
            f = self.f
            for client in self.clients:
                client.reset()
            await until(lambda: not f.app.service.clients, "no client is left")
            await f.assert_quiet()
            await f.stop()
            lines = await f.logged(0)
            hedged = [line["hedge"]["outcome"] for line in lines if line["hedged"]]
            assert {word: n for word, n in f.app.recorder.hedges.items() if n} == {
                word: hedged.count(word) for word in set(hedged)
            }
            self.outcomes.update(hedged)
            tries = sum(line["tries"] for line in lines)
            f.unseen_tries, f.resent = max(tries - len(f.seen), 0), max(len(f.seen) - tries, 0)
            await self.context.__aexit__(None, None, None)

        try:
            self.do(end())
        finally:
            self.runner.close()
        assert not self.complaints, self.complaints


class ResumingPairs(Pairs):
    resume = True


@pytest.mark.parametrize("machine", [Pairs, ResumingPairs])
def test_case_40_whatever_the_two_do_everything_is_given_back(machine: type[RuleBasedStateMachine]) -> None:
    Pairs.outcomes.clear()
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=25, stateful_step_count=40, deadline=None, derandomize=True, database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )  # fmt: skip
    assert set(Pairs.outcomes) == set(OUTCOMES), "every way in which a hedge ends was met"


def test_many_requests_over_engines_that_are_late_by_chance_lose_none() -> None:
    async def body() -> None:
        async def now_and_then(peer: Peer, seen: Seen) -> None:
            if len(seen.engine) and int(seen.nonce[1:]) % 7 == 0 and seen.engine == "engine0":
                await hang(peer, seen)
                return
            await (speaking() if int(seen.nonce[1:]) % 2 else reply())(peer, seen)

        options: dict[str, Any] = {"hedging": {"delay": "5ms", "budget": "100%"}, "timeouts": {"first_byte": "1s"}}
        async with fleet(3, default=now_and_then, **options) as f:
            clients = [await f.dial() for _ in range(30)]
            for round in range(3):
                for number, client in enumerate(clients):
                    await client.send(ask(f"n{round * 30 + number}", body=PLAIN))
                for number, client in enumerate(clients):
                    answer = await client.answer(seconds=20.0)
                    assert (answer.status, answer.field("x-nonce")) == (200, f"n{round * 30 + number}")
            # A busy machine may hold up the look that hedges: then the timeout moves what hangs.
            assert f.app.recorder.hedges["won"] + f.app.recorder.retries.get("timeout", 0) > 0

    run(body)
