"""Faults of an emulated engine, and what a fleet does when it cannot start."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest
from emulator_harness import one_engine, run, until

from fairlead.emulator.faults import BadFault, FaultValues
from fairlead.emulator.fleet import EmulatedFleet, PortInUse


def test_faults_can_be_set_shown_and_taken_back() -> None:
    async def body() -> None:
        async with one_engine(faults=FaultValues(slow=3)) as (server, session):
            async with session.get("/emulator/faults") as response:
                assert (await response.json())["slow"] == 3
            for wrong in ({"slw": 1}, {"slow": 0}, {"freeze": 1}, {"status": 200}, {"slow": True}):
                async with session.post("/emulator/faults", json=wrong) as response:
                    assert response.status == 400
                with pytest.raises(BadFault):
                    server.faults.set(**wrong)
            async with session.post("/emulator/faults", json={"status": 503}) as response:
                assert await response.json() == {**server.faults.as_dict(), "slow": 3.0, "status": 503}
            async with session.post("/v1/completions", json={"prompt": "x"}) as response:
                assert response.status == 503
                assert (await response.json())["error"]["type"] == "Service Unavailable"
            async with session.get("/health") as response:
                assert response.status == 200
            server.faults.clear()
            async with session.post("/v1/completions", json={"prompt": "x", "max_tokens": 1}) as response:
                assert response.status == 200

    run(body)


def test_slow_stretches_every_step() -> None:
    async def body() -> None:
        async with one_engine() as (server, session):
            ask = {"prompt": "x" * 40, "max_tokens": 5}
            times = []
            for factor in (1, 4):
                server.faults.set(slow=factor)
                before = server.engine.counters.busy_seconds
                async with session.post("/v1/completions", json=ask) as response:
                    assert response.status == 200
                times.append(server.engine.counters.busy_seconds - before)
            assert times[1] == pytest.approx(4 * times[0])

    run(body)


def test_a_frozen_engine_accepts_and_is_healthy_but_progresses_only_when_thawed() -> None:
    async def body() -> None:
        async with one_engine() as (server, session):
            server.faults.set(freeze=True)
            asking = asyncio.create_task(
                session.post("/v1/completions", json={"prompt": "x", "max_tokens": 3}).__aenter__()
            )
            await until(lambda: server.engine.waiting == 1)
            async with session.get("/health") as response:
                assert response.status == 200
            assert server.engine.counters.steps == 0 and not asking.done()
            server.faults.set(freeze=False)
            assert (await asking).status == 200

    run(body)


def test_a_silent_engine_answers_nothing_until_it_is_audible_again() -> None:
    async def body() -> None:
        async with one_engine() as (server, session):
            async with session.post("/emulator/faults", json={"silent": True}) as response:
                assert response.status == 200
            asking = asyncio.create_task(session.get("/health").__aenter__())
            assert await asyncio.wait({asking}, timeout=0.05) == (set(), {asking})
            async with session.post("/emulator/faults", json={"silent": False}) as response:
                assert response.status == 200
            assert (await asking).status == 200
            assert not server.faults.values.silent

    run(body)


@pytest.mark.parametrize("tokens", [0, 3])
def test_a_crash_cuts_streams_refuses_connections_and_comes_back_empty(tokens: int) -> None:
    async def body() -> None:
        async with one_engine() as (server, session):
            port, engine = server.port, server.engine
            server.faults.set(crash_after_tokens=tokens, down_for=0.05)
            got = b""
            with pytest.raises(aiohttp.ClientError):
                ask = {"prompt": "x", "max_tokens": 50, "stream": True}
                async with session.post("/v1/completions", json=ask) as response:
                    async for data in response.content.iter_any():
                        got += data
            assert got.count(b"data: ") == tokens
            with pytest.raises(aiohttp.ClientConnectorError):
                await session.get("/health")
            assert server.is_down
            await until(lambda: not server.is_down)
            assert server.port == port and server.engine is not engine
            async with session.post("/v1/completions", json={"prompt": "x", "max_tokens": 5}) as response:
                assert response.status == 200

    run(body)


def test_a_port_in_use_stops_the_whole_fleet_with_its_address() -> None:
    async def body() -> None:
        async with one_engine() as (server, _):
            with pytest.raises(PortInUse, match=f"127.0.0.1:{server.port} is already in use"):
                async with EmulatedFleet(["h100-8b"], port=server.port):
                    pass

    run(body)


def test_an_idle_engine_has_no_timer_and_closes_idle_connections_like_vllm() -> None:
    async def body() -> None:
        async with one_engine() as (server, session):
            async with session.post("/v1/completions", json={"prompt": "x", "max_tokens": 2}) as response:
                assert response.status == 200
            assert server._pacer._timer is None and server.engine.is_idle
            assert server._runner is not None and server._runner.server is not None
            assert server._runner.server.connections[0].keepalive_timeout == 5.0

    run(body)
