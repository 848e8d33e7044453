"""Workers that die: what breaks, what stays, and what comes back?"""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress

import pytest
from crew import PATIENCE, crew, eventually, is_there
from peers import Gone, Peer, run, until
from reloading import held
from running import DONE, ask

from fairlead.config.build import StartError
from fairlead.workers import member, whole
from fairlead.workers.member import Member
from fairlead.workers.supervisor import Supervisor


def test_a_worker_that_is_killed_takes_only_its_own_streams_with_it_and_is_replaced() -> None:
    async def body() -> None:
        go = asyncio.Event()
        async with crew(4, default=held(go)) as c:
            streams: list[tuple[Peer, str]] = []
            while len({worker for _, worker in streams}) < 4 or len(streams) < 16:
                streams.append(await c.begun(f"n{len(streams)}"))
            assert [row["inflight"] for row in await c.backends()] == [len(streams)]
            victim = c.supervisor.members[2]
            os.kill(victim.process.pid, signal.SIGKILL)
            await c.all_serve(restarts=1)
            await eventually(lambda: _some_ended(streams), "the streams of the worker that was killed are over")
            lost = {worker for client, worker in streams if client.over}
            assert len(lost) == 1
            left = [(client, worker) for client, worker in streams if worker not in lost]
            assert not any(client.over for client, _ in left)

            async def reclaimed() -> bool:
                return [row["inflight"] for row in await c.backends()] == [len(left)]

            await eventually(reclaimed, "the leases of the worker that was killed are given back")
            await until(
                lambda: len(c.engines[0].busy) == len(left), "the engine need not work for the lost ones", PATIENCE
            )
            workers: set[str] = set()
            c.play.default = held(set_event())
            while len(workers) < 4:  # connections come to the new one as to the others
                answer = await c.get(ask("after"))
                workers.add(str(answer.field("x-request-id")).split("-")[0])
            assert not workers & lost
            go.set()
            for client, _ in left:
                answer = await client.answer(seconds=PATIENCE)
                assert (answer.status, answer.whole, answer.body.endswith(DONE)) == (200, True, True)

    run(body)


async def _some_ended(streams: list[tuple[Peer, str]]) -> bool:
    lost = {worker for client, worker in streams if client.over}
    return bool(lost) and all(client.over for client, worker in streams if worker in lost)


def set_event() -> asyncio.Event:
    event = asyncio.Event()
    event.set()
    return event


def test_counters_do_not_go_backwards_when_workers_die_and_totals_are_those_of_all() -> None:
    async def body() -> None:
        async with crew(2) as c:
            asked, last = 0, 0.0
            for round in range(3):
                by = Counter[str]()
                while len(by) < 2 or min(by.values()) < 3:
                    answer = await c.get()
                    assert answer.status == 200
                    by[str(answer.field("x-request-id")).split("-")[0]] += 1
                    asked += 1
                assert await c.metric("fairlead_requests_total") == asked
                assert await c.metric("fairlead_request_seconds_count") == asked
                assert sum(row["requests"] for row in await c.backends()) == asked
                os.kill(c.supervisor.members[round % 2].process.pid, signal.SIGKILL)
                for _ in range(20):
                    now = await c.metric("fairlead_requests_total")
                    assert now >= last
                    last = now
                    assert sum(row["requests"] for row in await c.backends()) == asked
                await c.all_serve(restarts=round + 1)
            assert await c.metric("fairlead_requests_total") == asked

    run(body)


def test_nobody_is_refused_while_a_worker_is_replaced() -> None:
    async def body() -> None:
        async with crew(2) as c:
            os.kill(c.supervisor.members[0].process.pid, signal.SIGSTOP)  # clients come to it, and it takes none
            clients = [await c.dial() for _ in range(30)]
            for number, client in enumerate(clients):
                await client.send(ask(f"n{number}"))
            await until(lambda: len(c.engines[0].seen) > 0, "the other worker serves", PATIENCE)
            os.kill(c.supervisor.members[0].process.pid, signal.SIGKILL)
            statuses = []
            for client in clients:
                with suppress(Gone):
                    statuses.append((await client.answer(seconds=PATIENCE)).status)
            assert statuses == [200] * 30, "who waited in its queue is served by the next one"

    run(body)


def test_a_worker_that_dies_before_all_have_begun_ends_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is replaced before that: who connects to its sockets would wait for ever."""
    connect = Supervisor._connect

    async def connect_the_rest(supervisor: Supervisor, newcomers: Sequence[Member]) -> None:
        newcomers[0].kill()
        await until(lambda: newcomers[0].is_lost, "the worker is gone", PATIENCE)
        await connect(supervisor, newcomers)

    monkeypatch.setattr(Supervisor, "_connect", connect_the_rest)

    async def body() -> None:
        with pytest.raises(StartError, match="died as it began"):
            async with crew(2):
                pass

    run(body)


def test_a_worker_that_hangs_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(member, "ANSWER_SECONDS", 0.2)
    monkeypatch.setattr(whole, "WATCH_SECONDS", 0.1)
    monkeypatch.setattr(whole, "MAX_SILENT", 3)

    async def body() -> None:
        async with crew(2) as c:
            os.kill(c.supervisor.members[1].process.pid, signal.SIGSTOP)
            await c.all_serve(restarts=1)
            for _ in range(10):
                assert (await c.get()).status == 200

    run(body)


def test_a_new_worker_knows_the_configuration_in_force_and_which_backends_drain() -> None:
    async def body() -> None:
        async with crew(2, 2) as c:
            assert (await c.call("PATCH", "/api/backends/engine0", {"drain": True}))[0] == 200
            assert (await c.call("PATCH", "/api/backends/engine1", {"max_connections": 7}))[0] == 200
            assert (await c.call("POST", "/api/policy", {"policy": "random"}))[0] == 200
            for count, index in enumerate((0, 1), start=1):
                os.kill(c.supervisor.members[index].process.pid, signal.SIGKILL)
                await c.all_serve(restarts=count)
            rows = {row["id"]: row for row in await c.backends()}
            assert (rows["engine0"]["state"], rows["engine0"]["reason"]) == ("draining", "takes no new requests")
            assert rows["engine1"]["max_connections"] == 7
            for _ in range(20):
                assert (await c.get()).status == 200
            assert {len(engine.seen) for engine in c.engines} == {0, 20}
            answer = await c.get()
            told = (await c.call("GET", f"/api/explain/{answer.field('x-request-id')}"))[1]
            assert told["decision"]["policy"] == "random"

    run(body)


def test_a_new_worker_need_not_wait_for_an_engine_that_a_sibling_knows() -> None:
    async def body() -> None:
        async with crew(2) as c:
            for engine in c.engines:
                engine.healthy = False  # who asked now would find it down
            os.kill(c.supervisor.members[0].process.pid, signal.SIGKILL)
            await c.all_serve(restarts=1)
            for _ in range(10):
                assert (await c.get()).status == 200

    run(body)


def test_a_worker_without_its_supervisor_drains_and_ends() -> None:
    async def body() -> None:
        go = asyncio.Event()
        async with crew(2, default=held(go)) as c:
            client, _ = await c.begun("n1")
            pids = c.pids
            c.supervisor.stopping = True  # as far as its own books go
            for member in list(c.supervisor.members.values()):
                assert member._channel is not None
                member._channel.close()
            go.set()
            assert (await client.answer(seconds=PATIENCE)).body.endswith(DONE)
            client.close()
            await until(lambda: not any(is_there(pid) for pid in pids), "both have ended", PATIENCE)
            c.supervisor.members.clear()

    run(body)


def test_what_the_dead_counted_of_a_backend_goes_when_the_backend_does() -> None:
    async def body() -> None:
        async with crew(2) as c:
            for _ in range(8):
                assert (await c.get()).status == 200
            [name] = [backend.name for backend in c.supervisor.config.backends]
            await c.metric("fairlead_tokens_total")
            await c.backends()
            for restarts, member in enumerate(list(c.supervisor.members.values()), 1):
                os.kill(member.process.pid, signal.SIGKILL)
                await c.all_serve(restarts)
            assert await c.metric("fairlead_request_seconds_count", f'"{name}"') == 8
            assert [row["requests"] for row in await c.backends()] == [8]
            other = {"url": "http://127.0.0.1:9", "name": "other"}
            assert (await c.call("POST", "/api/backends", other))[0] == 201
            assert (await c.call("DELETE", f"/api/backends/{name}", {}))[0] == 200
            again = {"url": c.engines[0].url, "name": name}
            assert (await c.call("POST", "/api/backends", again))[0] == 201
            assert await c.metric("fairlead_request_seconds_count", f'"{name}"') == 0
            assert {row["id"]: row["requests"] for row in await c.backends()} == {"other": 0, name: 0}

    run(body)


def test_a_worker_that_dies_while_the_others_answer_is_not_counted_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body() -> None:
        async with crew(2) as c:
            for _ in range(8):
                assert (await c.get()).status == 200
            supervisor, look = c.supervisor, c.supervisor.whole
            [name] = [backend.name for backend in supervisor.config.backends]
            await look._look()
            assert look._together._sums[name][0] == 8
            ask, lost = supervisor.ask_all, list[Member]()

            async def lose_those_who_answered(what: str, *arguments: object) -> dict[int, object]:
                told: dict[int, object] = await ask(what, *arguments)
                if what == "facts" and not lost:
                    lost.extend(supervisor.members.values())
                    for each in lost:
                        supervisor._lost(each)
                return told

            monkeypatch.setattr(supervisor, "ask_all", lose_those_who_answered)
            await look._look()
            assert len(lost) == 2
            assert look._together._sums[name][0] == 8
            await c.all_serve(restarts=2)

    run(body)
