"""A supervisor with real worker processes, over scripted engines that live in the test's own process.

Which worker served a request shows in its x-request-id: the part before the dash is the process's own.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

from peers import Answer, Peer, Script, dial
from running import _address, ask, configure, event, reply
from scripted_engine import Engine, Play

from fairlead.config.build import Bound
from fairlead.config.load import read_file
from fairlead.config.walk import to_plain
from fairlead.workers.supervisor import Supervisor

PATIENCE = 30.0  # seconds; for processes to start on a machine that has other things to do


async def eventually(state: Callable[[], Awaitable[object]], what: str) -> None:
    """Wait until something that has to be asked for is so."""
    deadline = time.monotonic() + PATIENCE
    while not await state():
        assert time.monotonic() < deadline, what
        await asyncio.sleep(0.02)


class Crew:
    """Running workers and their clients."""

    def __init__(self, supervisor: Supervisor, bound: Bound, engines: list[Engine], play: Play, path: Path) -> None:
        self.supervisor, self.engines, self.play, self.path = supervisor, engines, play, path
        self.address, self.admin = _address(bound.data[0]), _address(bound.admin)
        self.clients: list[Peer] = []
        self.stopped = False  # by the test itself
        self.document: dict[str, Any] = to_plain(supervisor.config)

    async def dial(self) -> Peer:
        client = await dial(self.address)
        self.clients.append(client)
        return client

    async def get(self, request: bytes | None = None) -> Answer:
        """One request on a connection of its own."""
        client = await self.dial()
        await client.send(ask() if request is None else request)
        answer = await client.answer(seconds=PATIENCE)
        client.transport.abort()
        return answer

    async def begun(self, nonce: str) -> tuple[Peer, str]:
        """A client whose stream has begun, and which worker has it."""
        client = await self.dial()
        await client.send(ask(nonce))
        await client.expect(event(1), PATIENCE)
        found = re.search(rb"(?i)x-request-id: ([0-9a-f]+)-", bytes(client.received))
        assert found is not None
        client.read = 0  # the whole answer is read again at its end
        return client, found[1].decode()

    async def call(self, method: str, target: str, body: object = None) -> tuple[int, Any]:
        """One request to the admin listener, with its answer as data."""
        status, text = await self.raw(method, target, body)
        return status, json.loads(text)

    async def raw(self, method: str, target: str, body: object = None) -> tuple[int, bytes]:
        client = await dial(self.admin)
        payload = b"" if body is None else json.dumps(body).encode()
        fields = f"Content-Type: application/json\r\nContent-Length: {len(payload)}\r\nConnection: close\r\n"
        await client.send(f"{method} {target} HTTP/1.1\r\nHost: 127.0.0.1\r\n{fields}\r\n".encode() + payload)
        answer = await client.answer(method, PATIENCE)
        client.transport.abort()
        return answer.status, answer.body

    async def metric(self, name: str, *labels: str) -> float:
        """The sum of the samples of a name whose labels hold all these texts."""
        text = (await self.raw("GET", "/metrics"))[1].decode()
        lines = [line for line in text.splitlines() if re.match(rf"{name}[{{ ]", line)]
        return sum(float(line.split()[-1]) for line in lines if all(label in line for label in labels))

    async def backends(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = (await self.call("GET", "/api/backends"))[1]["backends"]
        return rows

    async def all_serve(self, restarts: int) -> None:
        """Wait until so many workers were replaced, and all serve."""

        async def state() -> bool:
            there = await self.metric("fairlead_workers"), await self.metric("fairlead_worker_restarts_total")
            return there == (self.supervisor.workers, restarts)

        await eventually(state, "all workers serve again")

    def write(self, **options: Any) -> None:
        """Say something else in the file."""
        self.document.update(options)
        self.path.write_text(json.dumps(self.document), encoding="utf-8")  # JSON is YAML

    @property
    def pids(self) -> list[int]:
        return [member.process.pid for member in self.supervisor.members.values()]


def is_there(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False


@contextlib.asynccontextmanager
async def crew(
    workers: int = 2, engines: int = 1, *, default: Script | None = None, **options: Any
) -> AsyncIterator[Crew]:
    """Engines and workers over them; in the end every process is gone, and every load is zero."""
    play = Play(default or reply())
    there = [Engine(play, f"engine{number}") for number in range(engines)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "fairlead.yaml"
        c: Crew | None = None
        supervisor: Supervisor | None = None
        try:
            for engine in there:
                await engine.open()
            urls = [engine.url for engine in there]
            config = configure(urls, f"{folder}/access.log", named=True, workers=workers, **options)
            supervisor = Supervisor(config, reread=lambda: read_file(path), source=str(path))
            c = Crew(supervisor, await supervisor.start(), there, play, path)
            yield c
            if not c.stopped:
                await eventually(lambda: _is_quiet(c), "nothing is in flight any more")
        finally:
            for client in c.clients if c is not None else []:
                client.transport.abort()
            if supervisor is not None:
                born = [member.process.pid for member in supervisor._born]
                if c is None or not c.stopped:
                    await supervisor.stop(0.0)
                assert not [pid for pid in born if is_there(pid)], "a worker is left over"
            for engine in there:
                await engine.close()


async def _is_quiet(c: Crew) -> bool:
    rows = await c.backends()
    loads = ("inflight", "pending_tokens", "pending_prompt_tokens", "pending_output_tokens")
    return all(row[load] == 0 for row in rows for load in loads)
