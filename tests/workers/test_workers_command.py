"""`fairlead serve --workers N` as users start it: signals, the exit status, what is printed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from pathlib import Path

from crew import PATIENCE, is_there
from peers import dial, run, until
from reloading import held
from running import DONE, ask, event, reply
from scripted_engine import Engine, Play


class Served:
    """A started command, its addresses, and the processes that it started."""

    def __init__(self, process: Process, printed: list[str]) -> None:
        self.process, self.printed = process, printed
        found = {line.split(" on http://")[0]: line.rpartition("://")[2] for line in printed if " on http://" in line}
        self.address, self.admin = (_address(found[name]) for name in ("listening", "admin"))

    @property
    def workers(self) -> list[int]:
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(pid) for pid in children.read_text().split()]

    async def version(self) -> int:
        """Of the configuration in force."""
        client = await dial(self.admin)
        await client.send(b"GET /api/config HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
        answer = await client.answer("GET", PATIENCE)
        client.transport.abort()
        number: int = json.loads(answer.body)["loaded"]["version"]
        return number


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host, int(port)


@contextlib.asynccontextmanager
async def serving(*arguments: str) -> AsyncIterator[Served]:
    command = [sys.executable, "-m", "fairlead", "serve", *arguments, "--workers", "2"]
    process = await asyncio.create_subprocess_exec(*command, stdout=PIPE, stderr=PIPE)
    assert process.stdout is not None
    printed: list[str] = []
    workers: list[int] = []
    try:
        while not printed or not printed[-1].startswith("admin on "):
            line = await asyncio.wait_for(process.stdout.readline(), PATIENCE)
            assert line, (await process.communicate())[1].decode()
            printed.append(line.decode().rstrip())
        served = Served(process, printed)
        workers = served.workers
        yield served
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()
        await until(lambda: not any(is_there(pid) for pid in workers), "no worker is left over", PATIENCE)


@contextlib.asynccontextmanager
async def engine(play: Play) -> AsyncIterator[Engine]:
    made = Engine(play)
    await made.open()
    try:
        yield made
    finally:
        await made.close()


def write(path: Path, url: str, more: str = "") -> None:
    path.write_text(
        f"listen: 127.0.0.1:0\nadmin: 127.0.0.1:0\nbackends: [{{url: '{url}', engine: generic, models: [m]}}]\n{more}",
        encoding="utf-8",
    )


def test_signals_reload_and_drain_and_the_first_lines_tell_what_is_there(tmp_path: Path) -> None:
    async def body() -> None:
        go = asyncio.Event()
        play = Play(held(go))
        async with engine(play) as made:
            path = tmp_path / "fairlead.yaml"
            write(path, made.url)
            async with serving(str(path)) as served:
                assert served.printed[0].endswith(", policy expected_completion, 2 workers")
                assert " up    generic: m" in served.printed[1]
                assert len(served.workers) == 2
                write(path, made.url, "headers: {set: ['X-Version: two']}\nworkers: 3\n")
                served.process.send_signal(signal.SIGHUP)
                while await served.version() != 2:
                    await asyncio.sleep(0.02)
                client = await dial(served.address)
                await client.send(ask())
                await client.expect(event(1), PATIENCE)
                client.read = 0
                assert made.seen[0].field("x-version") == "two"
                served.process.send_signal(signal.SIGTERM)
                assert served.process.stderr is not None
                while b"draining 1 requests" not in (line := await served.process.stderr.readline()):
                    assert line
                go.set()
                assert (await client.answer(seconds=PATIENCE)).body.endswith(DONE)
                client.close()
                assert await asyncio.wait_for(served.process.wait(), PATIENCE) == 0

    run(body)


def test_a_second_signal_ends_running_requests_at_once() -> None:
    async def body() -> None:
        async with engine(Play(held(asyncio.Event()))) as made, serving(made.url, *PORTS) as served:
            client = await dial(served.address)
            await client.send(ask())
            await client.expect(event(1), PATIENCE)
            served.process.send_signal(signal.SIGTERM)
            assert served.process.stderr is not None
            while b"draining" not in await served.process.stderr.readline():
                pass
            served.process.send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(served.process.wait(), PATIENCE) == 0
            assert b"1 requests were broken off" in await served.process.stderr.read()
            await until(lambda: client.over, "the stream was ended", PATIENCE)
            client.close()

    run(body)


def test_workers_of_a_supervisor_that_was_killed_end_by_themselves() -> None:
    async def body() -> None:
        async with engine(Play(reply())) as made, serving(made.url, *PORTS) as served:
            workers = served.workers
            assert len(workers) == 2 and all(is_there(pid) for pid in workers)
            served.process.kill()
            await served.process.wait()
            await until(lambda: not any(is_there(pid) for pid in workers), "both have ended", PATIENCE)

    run(body)


def test_an_admin_port_in_use_is_found_before_any_worker_begins() -> None:
    async def body() -> None:
        async with engine(Play(reply(b"{}"))) as one:
            with socket.create_server(("127.0.0.1", 0)) as taken:
                busy = f"127.0.0.1:{taken.getsockname()[1]}"
                command = ("--listen", "127.0.0.1:0", "--admin", busy, "--workers", "2")
                process = await asyncio.create_subprocess_exec(
                    sys.executable, "-m", "fairlead", "serve", one.url, *command, stderr=PIPE
                )
                _, told = await process.communicate()
            assert process.returncode == 1
            assert f"cannot start: admin {busy}: this port is in use" in told.decode()
            assert one.probes == 0, "nobody was served who would be cut off now"

    run(body)


PORTS = ("--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0")
