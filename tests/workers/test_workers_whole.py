"""Several workers that look like one: limits, changes, health and figures are those of the whole."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections import Counter
from typing import Any

import pytest
from crew import PATIENCE, Crew, crew, eventually
from peers import Answer, Gone, Peer, dial, run, until
from reloading import held
from running import ask, configure, raw

from fairlead.config.build import StartError
from fairlead.workers.supervisor import Supervisor

BROKEN = b"HTTP/1.1 502 Bad Gateway\r\nX-Nonce: %NONCE\r\nContent-Length: 0\r\n\r\n"


def worker_of(answer: Answer) -> str:
    return str(answer.field("x-request-id")).split("-")[0]


async def by_every_worker(c: Crew, request: bytes | None = None) -> Counter[str]:
    """Requests until each worker has served some; how many each."""
    found: Counter[str] = Counter()
    while len(found) < c.supervisor.workers or min(found.values()) < 2:
        answer = await c.get(request)
        assert answer.status == 200
        found[worker_of(answer)] += 1
    return found


# --- limits and shares ---------------------------------------------------------------------------------------


def test_a_connection_limit_of_a_backend_holds_for_all_workers_together() -> None:
    async def body() -> None:
        go = asyncio.Event()
        async with crew(4, default=held(go), backend={"max_connections": 3}) as c:
            clients = [await c.dial() for _ in range(40)]
            for number, client in enumerate(clients):
                await client.send(ask(f"n{number}"))
            await until(
                lambda: sum(b"at_capacity" in client.received for client in clients) == 37, "the rest is told", PATIENCE
            )
            await until(lambda: len(c.engines[0].busy) == 3, "all places are taken", PATIENCE)
            assert len(c.engines[0].seen) == 3
            go.set()
            await until(
                lambda: sum(b"[DONE]" in client.received for client in clients) == 3, "three end well", PATIENCE
            )
            for _ in range(10):
                assert (await c.get(ask("later"))).status == 200

    run(body)


def test_places_of_a_worker_that_was_killed_are_free_again() -> None:
    async def body() -> None:
        go = asyncio.Event()
        async with crew(2, default=held(go), backend={"max_connections": 2}) as c:
            streams = [await c.begun(f"n{number}") for number in range(2)]
            assert (await c.get()).status == 503
            for member in list(c.supervisor.members.values()):
                os.kill(member.process.pid, signal.SIGKILL)
            await c.all_serve(restarts=2)
            await until(lambda: all(client.over for client, _ in streams), "both are broken off", PATIENCE)
            go.set()
            for _ in range(4):
                assert (await c.get()).status == 200

    run(body)


def test_connections_are_spread_and_the_totals_are_whole() -> None:
    async def body() -> None:
        async with crew(4) as c:
            count = 400
            found = Counter([worker_of(await c.get()) for _ in range(count)])
            # By a hash of the addresses: a quarter each, give or take 9; this is eight times as far.
            assert len(found) == 4 and min(found.values()) > 25, found
            assert await c.metric("fairlead_requests_total", 'code="200"') == count
            assert await c.metric("fairlead_request_seconds_count") == count
            rows = await c.backends()
            assert (sum(row["requests"] for row in rows), sum(row["answered"] for row in rows)) == (count, count)
            decisions = (await c.call("GET", "/api/decisions?limit=400"))[1]["decisions"]
            times = [row["time"] for row in decisions]
            assert (len({row["id"] for row in decisions}), times) == (count, sorted(times, reverse=True))
            assert {row["id"].split("-")[0] for row in decisions} == set(found)

    run(body)


def test_limits_of_clients_are_split_between_the_workers() -> None:
    async def body() -> None:
        async with crew(2, limits={"connections": 11, "body_memory": "4MiB"}) as c:
            assert await c.metric("fairlead_connections_limit") == 12, "six each"
            assert await c.metric("fairlead_body_bytes_limit") == 4 * 1024 * 1024

    run(body)


def test_every_worker_knows_the_load_of_all() -> None:
    async def body() -> None:
        go = asyncio.Event()
        async with crew(4, 2, default=held(go), policy="least_connections") as c:
            streams = []
            for number in range(40):
                streams.append(await c.begun(f"n{number}"))
                await eventually(lambda: _told(c, len(streams)), "all workers know of it")
            assert sorted(len(engine.busy) for engine in c.engines) == [20, 20]
            go.set()
            for client, _ in streams:
                assert (await client.answer(seconds=PATIENCE)).whole

    run(body)


async def _told(c: Crew, count: int) -> bool:
    return all(seen == count for seen in (await c.supervisor.ask_all("in_sight")).values())


def test_an_ejection_reaches_all_workers() -> None:
    async def body() -> None:
        health = {"interval": "60s", "fall": 100, "max_fails": 1, "fail_timeout": "600s", "max_ejected": "100%"}
        async with crew(4, 2, health=health, retries={"attempts": 1}) as c:
            c.engines[0].script = raw(BROKEN)
            while not c.engines[0].seen:
                assert (await c.get()).status == 200

            async def everywhere() -> bool:
                rows = {row["id"]: row for row in await c.backends()}
                return rows["engine0"]["state"] == "ejected" and "workers say so" not in rows["engine0"]["reason"]

            await eventually(everywhere, "all four have taken it out")
            before = len(c.engines[0].seen)
            await by_every_worker(c)
            assert len(c.engines[0].seen) == before
            assert await c.metric("fairlead_ejections_total", "engine0") == 1, "one ejection, seen by four"

    run(body)


# --- changes -------------------------------------------------------------------------------------------------


def test_a_reload_is_in_force_in_every_worker_or_in_none() -> None:
    async def body() -> None:
        async with crew(4) as c:
            taken = c.engines[0].url.removeprefix("http://")  # somebody listens there
            c.write(headers={"set": ["X-Version: two"]})
            status, told = await c.call("POST", "/api/reload", {})
            assert (status, told["version"], told["options"]) == (200, 2, ["headers"])
            begun = len(c.engines[0].seen)
            await by_every_worker(c)
            assert {seen.field("x-version") for seen in c.engines[0].seen[begun:]} == {"two"}
            c.write(headers={"set": ["X-Version: three"]}, listen=[*c.document["listen"], taken])
            status, told = await c.call("POST", "/api/reload", {})
            assert (status, told["error"]["problems"][0]["path"]) == (400, "listen[1].address")
            begun = len(c.engines[0].seen)
            await by_every_worker(c)
            assert {seen.field("x-version") for seen in c.engines[0].seen[begun:]} == {"two"}
            loaded = (await c.call("GET", "/api/config"))[1]["loaded"]
            assert (loaded["version"], loaded["last_error"] is None) == (2, False)
            assert await c.metric("fairlead_config_version") == 2
            assert await c.metric("fairlead_config_reloads_total", "refused") == 1

    run(body)


def test_what_one_worker_cannot_do_is_done_in_none() -> None:
    async def body() -> None:
        async with crew(2) as c:
            log = c.supervisor.config.access_log
            c.write(
                headers={"set": ["X-Version: two"]}, access_log={"path": "/no/such/folder/log", "format": log.format}
            )
            status, told = await c.call("POST", "/api/reload", {})
            assert (status, told["error"]["problems"][0]["path"]) == (400, "access_log.path")
            await by_every_worker(c)
            assert {seen.field("x-version") for seen in c.engines[0].seen} == {None}
            c.write(access_log={"path": log.path, "format": log.format})
            assert (await c.call("POST", "/api/reload", {}))[0] == 200, "and the next attempt is as good as any"
            await by_every_worker(c)
            assert c.engines[0].seen[-1].field("x-version") == "two"

    run(body)


def test_many_reloads_under_load_lose_nothing_and_all_workers_end_on_the_last_version() -> None:
    async def body() -> None:
        async with crew(3) as c:
            over = False
            statuses: Counter[int] = Counter()

            async def load() -> None:
                while not over:
                    statuses[(await c.get()).status] += 1

            tasks = [asyncio.create_task(load()) for _ in range(4)]
            for version in range(2, 22):
                c.write(headers={"set": [f"X-Version: {version}"]})
                assert (await c.call("POST", "/api/reload", {}))[0] == 200
            over = True
            await asyncio.gather(*tasks)
            assert set(statuses) == {200}
            begun = len(c.engines[0].seen)
            await by_every_worker(c)
            assert {seen.field("x-version") for seen in c.engines[0].seen[begun:]} == {"21"}

    run(body)


def test_addresses_come_and_go_with_a_reload() -> None:
    async def body() -> None:
        async with crew(2) as c:
            path = str(c.path.with_name("front.sock"))
            c.write(listen=[*c.document["listen"], f"unix:{path}"])
            assert (await c.call("POST", "/api/reload", {}))[0] == 200
            found: set[bytes] = set()
            while len(found) < 2:  # one socket, and both take from it
                reader, writer = await asyncio.open_unix_connection(path)
                writer.write(ask())
                head = await reader.readuntil(b"\r\n\r\n")
                assert b" 200 " in head.splitlines()[0]
                found.add(next(line for line in head.lower().splitlines() if b"x-request-id" in line).split(b"-")[2])
                writer.transport.abort()
            c.write(listen=c.document["listen"][:1])
            assert (await c.call("POST", "/api/reload", {}))[0] == 200
            with pytest.raises(OSError):
                await asyncio.open_unix_connection(path)
            await by_every_worker(c)

    run(body)


def test_backends_join_change_and_leave_in_all_workers() -> None:
    async def body() -> None:
        async with crew(2, 2) as c:
            assert (await c.call("DELETE", "/api/backends/engine1"))[0] == 200
            begun = len(c.engines[1].seen)
            await by_every_worker(c)
            assert len(c.engines[1].seen) == begun
            status, told = await c.call(
                "POST", "/api/backends", {"url": c.engines[1].url, "name": "new", "engine": "generic", "models": ["m"]}
            )
            assert (status, told["id"]) == (201, "new")
            assert (await c.call("PATCH", "/api/backends/engine0", {"enable": False}))[0] == 200
            begun = len(c.engines[0].seen)
            await by_every_worker(c)
            assert len(c.engines[0].seen) == begun
            assert (await c.call("PATCH", "/api/backends/unheard", {"enable": False}))[0] == 404
            assert (await c.call("POST", "/api/policy", {"policy": "no such"}))[0] == 400

    run(body)


def test_a_backend_that_leaves_by_force_takes_its_streams_with_it_whoever_has_them() -> None:
    async def body() -> None:
        go = asyncio.Event()
        async with crew(2, 2, default=held(go)) as c:
            assert (await c.call("PATCH", "/api/backends/engine1", {"enable": False}))[0] == 200
            streams: list[tuple[Peer, str]] = []
            while len({worker for _, worker in streams}) < 2:
                streams.append(await c.begun(f"n{len(streams)}"))
            status, told = await c.call("DELETE", "/api/backends/engine0?force=1", {})
            assert (status, told["broken"]) == (200, len(streams))
            await until(
                lambda: all(b'"error"' in client.received or client.over for client, _ in streams),
                "all broke",
                PATIENCE,
            )

    run(body)


# --- starts and ends -----------------------------------------------------------------------------------------


def test_two_fairleads_do_not_share_a_port_without_knowing_it() -> None:
    async def body() -> None:
        async with crew(2) as c:
            document: dict[str, Any] = {**c.document, "listen": f"127.0.0.1:{c.address[1]}"}
            c.write(**document)
            found = c.supervisor.reloader.read
            assert found is not None
            config, _ = found()
            assert config is not None
            second = Supervisor(config)
            with pytest.raises(StartError, match="this port is in use"):
                await second.start()
            await second.stop(0.0)
            await by_every_worker(c)

    run(body)


def test_a_start_that_a_worker_refuses_is_told_and_leaves_nothing() -> None:
    async def body() -> None:
        with pytest.raises(StartError, match="no_such_folder"):
            async with crew(2, access_log={"path": "/no_such_folder/log"}):
                pass

    run(body)


def test_an_admin_token_that_cannot_be_used_is_told_before_anybody_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAIRLEAD_ADMIN_TOKEN", "short")

    async def body() -> None:
        supervisor = Supervisor(configure(["http://127.0.0.1:1"], "-", workers=2))
        with pytest.raises(StartError, match="at least 16 characters"):
            await supervisor.start()
        assert (supervisor.sockets, supervisor._born) == ({}, set())
        await supervisor.stop(0.0)

    run(body)


def test_at_the_end_running_streams_finish_and_new_connections_are_refused() -> None:
    async def body() -> None:
        go = asyncio.Event()
        async with crew(2, default=held(go)) as c:
            streams: list[tuple[Peer, str]] = []
            while len({worker for _, worker in streams}) < 2:
                streams.append(await c.begun(f"n{len(streams)}"))
            assert await c.supervisor.running() == len(streams)
            c.stopped = True
            stopping = asyncio.ensure_future(c.supervisor.stop())

            async def closed() -> bool:
                try:
                    client = await dial(c.address)
                except OSError:
                    return True
                client.transport.abort()
                return False

            await eventually(closed, "nobody is let in any more")
            go.set()
            for client, _ in streams:
                assert (await client.answer(seconds=PATIENCE)).whole
                client.close()
            assert await asyncio.wait_for(stopping, PATIENCE) == 0

    run(body)


def test_sockets_that_are_there_already_are_served_by_fewer_or_more_workers() -> None:
    async def body() -> None:
        async with crew(1 + 2) as c:
            for sockets, workers in ((5, 2), (1, 3)):
                first = socket.socket()
                first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                first.bind(("127.0.0.1", 0))
                first.listen()
                given = [first]
                for _ in range(sockets - 1):
                    another = socket.socket()
                    another.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                    another.bind(first.getsockname())
                    another.listen()
                    given.append(another)
                c.write(workers=workers, listen="127.0.0.1:0")
                assert c.supervisor.reloader.read is not None
                config, _ = c.supervisor.reloader.read()
                assert config is not None
                supervisor = Supervisor(config)
                address = first.getsockname()
                clients = [await dial(address) for _ in range(30)]  # they wait in all of the queues
                await supervisor.start({"127.0.0.1:0": given})
                for client in clients:
                    await client.send(ask())
                    assert (await client.answer(seconds=PATIENCE)).status == 200
                    client.transport.abort()
                await supervisor.stop(0.0)
                with pytest.raises((OSError, Gone)):
                    await dial(address)

    run(body)
