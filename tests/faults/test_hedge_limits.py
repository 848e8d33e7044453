"""Case 40: what is not hedged: beyond the budget, when all are busy, what must not be done twice or is not all sent."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hedge_cases import EAGER, PLAIN, STREAM, Late, line_of
from peers import Peer, run, until
from running import CHAT, Fleet, ask, fleet, hang, reply

from fairlead.core.model import EngineStats


def request(nonce: str = "a") -> bytes:
    return ask(nonce, body=PLAIN)


async def begun(f: Fleet, data: bytes, slow: Late) -> Peer:
    """A client whose request is with its first engine."""
    f.play.scripts = [slow]
    client = await f.dial()
    await client.send(data)
    await until(slow.asked.is_set)
    return client


async def not_hedged(f: Fleet, reason: str | None, data: bytes = b"", **options: Any) -> None:
    """This request is late, and no second engine is asked; `reason` is what is counted."""
    slow = Late()
    client = await begun(f, data or request(), slow)
    refused = f.app.recorder.hedges_refused
    if reason is None:
        await asyncio.sleep(0.15)
        assert sum(refused.values()) == 0
    else:
        await until(lambda: refused[reason] == 1, f"it was not hedged: {reason}")
    slow.go.set()
    assert (await client.answer()).status == 200
    assert sum(f.app.recorder.hedges.values()) == 0


def test_the_budget_is_a_share_of_all_requests() -> None:
    async def body() -> None:
        async with fleet(2, hedging={"delay": "20ms", "budget": "20%"}) as f:
            for number in range(8):
                slow = Late()
                client = await begun(f, request(), slow)
                slow_now = f.app.recorder.hedges
                if number == 4:
                    assert (await client.answer()).status == 200, "the fifth has paid for one"
                    assert slow_now["won"] == 1
                    continue
                if number == 0:
                    await until(lambda: f.app.recorder.hedges_refused["budget"] == 1)
                slow.go.set()
                assert (await client.answer()).status == 200
            assert f.app.recorder.hedges["won"] == 1
            assert len(f.seen) == 9

    run(body)


@pytest.mark.parametrize(
    "data",
    [
        ask("a", "/files", b"{}"),
        ask("a", "/tokenize", b'{"model":"m","prompt":"x"}'),
        ask("a", "/v1/files", b"", method="GET"),
    ],
)
def test_what_must_not_be_done_twice_or_costs_nothing_is_not_hedged(data: bytes) -> None:
    async def body() -> None:
        async with fleet(2, **EAGER) as f:
            await not_hedged(f, None, data)
            assert (await line_of(f))["hedged"] is False

    run(body)


@pytest.mark.parametrize("target", ["/v1/embeddings", "/v1/completions", CHAT, "/v1/messages"])
def test_generation_and_embeddings_are_hedged(target: str) -> None:
    async def body() -> None:
        async with fleet(2, **EAGER) as f:
            f.play.scripts = [Late(), reply()]
            fields = b'"input":"x"' if "embed" in target else b'"prompt":"x","messages":[],"max_tokens":1'
            assert (await f.get(ask("a", target, b'{"model":"m",%b}' % fields))).status == 200
            assert f.app.recorder.hedges["won"] == 1

    run(body)


def test_while_every_other_engine_has_a_queue_nobody_is_asked_twice() -> None:
    async def body() -> None:
        async with fleet(3, **EAGER) as f:
            for id in [*f.app.balancer.backends][1:]:
                f.app.balancer.poll_result(id, 0, EngineStats(waiting=3.0, running=8.0), f.app.clock())
            await not_hedged(f, "saturated")

    run(body)


def test_when_the_queue_is_gone_the_hedge_is_sent_after_all() -> None:
    async def body() -> None:
        async with fleet(2, **EAGER) as f:
            other = [*f.app.balancer.backends][1]
            f.app.balancer.poll_result(other, 0, EngineStats(waiting=3.0), f.app.clock())
            client = await begun(f, request(), Late())
            await until(lambda: f.app.recorder.hedges_refused["saturated"] == 1)
            f.app.balancer.poll_result(other, 0, EngineStats(waiting=0.0), f.app.clock())
            assert (await client.answer()).status == 200
            assert f.app.recorder.hedges["won"] == 1
            assert sum(f.app.recorder.hedges_refused.values()) == 1, "a request is counted once"

    run(body)


@pytest.mark.parametrize("how", ["alone", "draining", "down", "full"])
def test_without_another_backend_that_is_well_there_is_no_hedge(how: str) -> None:
    async def body() -> None:
        count = 1 if how == "alone" else 2
        async with fleet(count, backend={"max_connections": 1} if how == "full" else {}, **EAGER) as f:
            other = [*f.app.balancer.backends.values()][-1]
            if how == "draining":
                f.app.balancer.set_draining(other.id, True)
            if how == "down":
                other.probes.up = False
                f.app.balancer._candidates.changed()
            if how != "full":
                await not_hedged(f, "no_backend")
                return
            busy = Late()
            f.engines[1].script = busy
            slow = Late()
            f.engines[0].script = slow
            clients = [await f.dial() for _ in range(2)]
            for client in clients:
                await client.send(request())
            await until(lambda: f.app.recorder.hedges_refused["no_backend"] == 2)
            busy.go.set()
            slow.go.set()
            assert [(await client.answer()).status for client in clients] == [200, 200]

    run(body)


def test_a_hedge_is_a_try_and_there_may_be_none_left() -> None:
    async def body() -> None:
        async with fleet(2, retries={"attempts": 0}, **EAGER) as f:
            await not_hedged(f, "tries")

    run(body)


def test_there_is_one_hedge_per_request() -> None:
    async def body() -> None:
        async with fleet(4, **EAGER) as f:
            first, second = Late(), Late()
            f.play.scripts = [first, second, hang]
            client = await f.dial()
            await client.send(request())
            await until(second.asked.is_set)
            await asyncio.sleep(0.15)
            assert len(f.seen) == 2
            first.go.set()
            assert (await client.answer()).status == 200

    run(body)


def test_a_request_that_the_first_has_not_taken_yet_is_not_sent_to_another() -> None:
    data = PLAIN[:-1] + b',"user":"%b"}' % (b"x" * 12_000_000)

    async def body() -> None:
        async with fleet(2, **EAGER) as f:
            reading = asyncio.Event()
            blocked = asyncio.Event()

            async def slow_reader(peer: Peer, seen: Any) -> None:
                peer.stop_reading()
                blocked.set()
                await reading.wait()
                peer.go_on_reading()
                await peer.request_body(seen)
                await asyncio.sleep(0.3)
                await reply()(peer, seen)

            f.engines[0].early = slow_reader
            client = await f.dial()
            await client.send(ask("a", body=data))
            await blocked.wait()
            exchange = next(iter(f.app.service.exchanges))
            await until(lambda: bool(exchange.unsent), "the backend does not take all")
            await asyncio.sleep(0.2)
            assert exchange.race is not None
            assert exchange.race.lease is None
            reading.set()
            assert (await client.answer()).status == 200

    run(body)


def test_a_client_that_reads_nothing_is_not_hedged() -> None:
    async def body() -> None:
        slow = Late()
        async with fleet(2, **EAGER) as f:
            client = await begun(f, ask("a", body=STREAM), slow)
            next(iter(f.app.service.clients)).stalled = True  # type: ignore[attr-defined]
            await asyncio.sleep(0.1)
            assert sum(f.app.recorder.hedges.values()) == 0
            next(iter(f.app.service.clients)).stalled = False  # type: ignore[attr-defined]
            slow.go.set()
            assert (await client.answer()).status == 200

    run(body)


def test_what_finds_no_place_is_refused_as_ever() -> None:
    async def body() -> None:
        async with fleet(1, **EAGER) as f:
            client = await f.dial()
            await client.send(ask("a", body=PLAIN.replace(b'"m"', b'"other"')))
            assert (await client.answer()).status == 404
            await client.send(request())
            assert (await client.answer()).status == 200, "and the connection goes on"
            line = (await f.logged(2))[0]
            assert (line["hedged"], line["tries"]) == (False, 0)

    run(body)
