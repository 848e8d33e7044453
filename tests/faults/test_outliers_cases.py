"""Cases 51 to 54: all unwell at once, the way back, failures during a rest, and whose fault it was."""

from __future__ import annotations

import asyncio

import pytest
from oracle import Oracle, judged
from peers import Answer, Peer, Seen, dial, run, until
from running import DONE, LAST, Fleet, ask, chunk, event, reply, reset, sse_head, stream

HOURS = {"fail_timeout": "1h", "slow_start": "1h"}  # nothing comes back while a test runs
BUSY = reply(b"{}", "503 Service Unavailable")


async def metric(f: Fleet, name: str) -> str:
    client = await dial(f.admin)
    await client.send(b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
    answer = await client.answer("GET")
    client.transport.abort()
    return next(line.split()[-1] for line in answer.body.decode().splitlines() if line.startswith(name))


def seen(f: Fleet) -> list[int]:
    return [len(engine.seen) for engine in f.engines]


async def get(f: Fleet, oracle: Oracle, request: bytes | None = None) -> Answer:
    """One request, and its outcome for the judge."""
    answer = await f.get(request)
    oracle.outcomes[answer.status] += 1
    return answer


# --- 51: panic ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 3])
def test_case_51_when_all_are_ejected_all_are_tried_and_the_first_good_answers_get_through(count: int) -> None:
    async def body() -> None:
        async with judged(count, health={"max_fails": 1, **HOURS}) as (f, oracle):
            f.play.default = BUSY
            for number in range(2 * count):
                await get(f, oracle, ask(f"bad{number}"))
            assert all(b.passive.resting for b in f.app.balancer.backends.values())
            assert await metric(f, 'fairlead_panic{model="m"}') == "1.0"
            f.play.default = reply()
            for number in range(4 * count):
                answer = await get(f, oracle, ask(f"good{number}"))
                assert (answer.status, answer.field("x-nonce")) == (200, f"good{number}")
            assert await metric(f, 'fairlead_panic{model="m"}') == "0.0"

    run(body)


def test_case_51_beyond_the_floor_the_least_bad_stay_in() -> None:
    async def body() -> None:
        async with judged(4, health={"max_fails": 1, **HOURS}) as (f, oracle):
            for engine in f.engines[:3]:
                engine.script = BUSY
            statuses = [(await get(f, oracle, ask(f"n{number}"))).status for number in range(40)]
            assert set(statuses[1:]) == {200}, "only the first may have met all three"
            assert [b.passive.resting for b in f.app.balancer.backends.values()] == [True, True, True, False]
            assert await metric(f, 'fairlead_panic{model="m"}') == "0.0"
            bad = sum(seen(f)[:3])
            assert 3 < bad <= 3 + 37, "one of the three is still asked, never more"

    run(body)


# --- 52: recovery ---------------------------------------------------------------------------------------------


def test_case_52_one_trial_at_a_time_and_then_a_slow_start() -> None:
    async def body() -> None:
        go = asyncio.Event()

        async def trial(peer: Peer, seen: Seen) -> None:
            await peer.send(sse_head(seen) + chunk(event(0)))
            await go.wait()
            await peer.send(chunk(DONE) + LAST)

        health = {"max_fails": 1, "fail_timeout": "100ms", "slow_start": "1h"}
        async with judged(2, health=health) as (f, oracle):
            f.play.default = stream()
            f.engines[0].script = reset
            while not seen(f)[0]:
                assert (await get(f, oracle)).status == 200
            passive = next(iter(f.app.balancer.backends.values())).passive
            f.engines[0].script = trial
            await until(lambda: passive.on_trial(f.app.service.clock()), "its rest is over")
            client = await f.dial()
            await client.send(ask("trial"))
            await client.expect(event(0))
            client.read = 0
            for number in range(10):
                assert (await get(f, oracle, ask(f"n{number}"))).status == 200
            assert seen(f)[0] == 2, "the failed one and the trial"
            f.engines[0].script = None
            go.set()
            assert (await client.answer()).whole
            oracle.outcomes[200] += 1
            assert passive.ramping
            before = seen(f)
            for number in range(60):
                assert (await get(f, oracle, ask(f"m{number}"))).status == 200
            got = seen(f)[0] - before[0]
            assert 2 <= got <= 4, "a tenth of the half of sixty"

    run(body)


# --- 53: failures during a rest, and its end without probes ---------------------------------------------------


def test_case_53_a_failure_during_the_rest_extends_it() -> None:
    async def body() -> None:
        async with judged(1, default=BUSY, health={"max_fails": 1, **HOURS}) as (f, oracle):
            assert (await get(f, oracle, ask("a"))).status == 503
            passive = next(iter(f.app.balancer.backends.values())).passive
            before = passive.ejected_until
            assert (await get(f, oracle, ask("b"))).status == 503
            assert passive.ejected_until > before
            assert passive.streak == 1, "one ejection, only longer"

    run(body)


def test_case_53_a_rest_ends_by_itself_with_no_probe() -> None:
    async def body() -> None:
        async with judged(2, health={"max_fails": 1, "fail_timeout": "100ms", "slow_start": "0"}) as (f, oracle):
            f.engines[0].script = reset
            while not seen(f)[0]:
                assert (await get(f, oracle)).status == 200
            f.engines[0].script = None
            probes = f.engines[0].probes
            passive = next(iter(f.app.balancer.backends.values())).passive
            await until(lambda: passive.on_trial(f.app.service.clock()), "its rest is over")
            for number in range(4):
                assert (await get(f, oracle, ask(f"n{number}"))).status == 200
            assert not passive.resting
            assert seen(f)[0] >= 2
            assert f.engines[0].probes <= probes + 1, "at most the look that the failure asked for"

    run(body)


# --- 54: whose fault ------------------------------------------------------------------------------------------


async def dies_at_five(peer: Peer, seen: Seen) -> None:
    await peer.send(sse_head(seen))
    for number in range(5):
        await peer.send(chunk(event(number)))
    peer.reset()


def test_case_54_an_engine_that_always_dies_at_the_fifth_token_opens_the_breaker_and_keeps_its_streams() -> None:
    async def body() -> None:
        go = asyncio.Event()

        async def long(peer: Peer, seen: Seen) -> None:
            await peer.send(sse_head(seen) + chunk(event(0)))
            await go.wait()
            await peer.send(chunk(DONE) + LAST)

        async with judged(2, health={"max_fails": 3, **HOURS}) as (f, oracle):
            f.engines[0].script = long
            f.play.default = stream()
            client = await f.dial()
            await client.send(ask("long"))
            await client.expect(event(0))
            client.read = 0
            assert seen(f) == [1, 0]
            f.engines[0].script = dies_at_five
            whole = [(await get(f, oracle, ask(f"n{number}"))).whole for number in range(16)]
            assert whole.count(False) == 3
            assert all(whole[6:]), "three, and then none"
            assert f.app.balancer.backends[next(iter(f.app.balancer.backends))].inflight == 1
            go.set()
            assert (await client.answer()).whole, "an ejection kills no running stream"
            oracle.outcomes[200] += 1

    run(body)


def test_case_54_clients_that_leave_and_4xx_never_eject() -> None:
    async def body() -> None:
        async def endless(peer: Peer, seen: Seen) -> None:
            await peer.send(sse_head(seen) + chunk(event(0)))
            await peer.end(60.0)

        async with judged(2, health={"max_fails": 1, **HOURS}) as (f, oracle):
            f.play.default = endless
            for number in range(20):
                client = await f.dial()
                await client.send(ask(f"n{number}"))
                await client.expect(event(0))
                client.transport.abort()
                oracle.outcomes[200] += 1  # its answer had begun
            f.play.default = reply(b"{}", "422 Unprocessable")
            for number in range(20):
                assert (await get(f, oracle, ask(f"m{number}"))).status == 422
            assert not any(b.passive.resting or b.passive.fails for b in f.app.balancer.backends.values())

    run(body)
