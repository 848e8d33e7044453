"""A judged fleet whose configuration lies in a file: change the file, reload, and see who notices."""

from __future__ import annotations

import asyncio
import contextlib
import json
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from oracle import Oracle, judged
from peers import Peer, Script, Seen, dial, until
from running import CHAT, DONE, LAST, Fleet, ask, chunk, event, sse_head

from fairlead.config.load import read_file
from fairlead.config.walk import to_plain


class Kept:
    """The file, and the requests that change what it says."""

    def __init__(self, f: Fleet, oracle: Oracle, path: Path) -> None:
        self.f, self.oracle, self.path = f, oracle, path
        self.document: dict[str, Any] = to_plain(f.app.config)

    @property
    def backends(self) -> list[dict[str, Any]]:
        """As they stand in the file."""
        found: list[dict[str, Any]] = self.document["backends"]
        return found

    def write(self, **options: Any) -> None:
        """Say something else in the file; other options stay as they are."""
        self.document.update(options)
        new = self.path.with_suffix(".new")
        new.write_text(json.dumps(self.document), encoding="utf-8")  # JSON is YAML
        new.rename(self.path)

    async def reload(self, **options: Any) -> dict[str, Any]:
        """Write and reload; what it told. Refused."""
        self.write(**options)
        return await self.f.app.reloader.reload()

    async def call(self, method: str, target: str, body: object = None) -> tuple[int, Any]:
        """One request to the admin listener, with its answer as data."""
        client = await dial(self.f.admin)
        payload = b"" if body is None else json.dumps(body).encode()
        fields = f"Content-Type: application/json\r\nContent-Length: {len(payload)}\r\nConnection: close\r\n"
        await client.send(f"{method} {target} HTTP/1.1\r\nHost: 127.0.0.1\r\n{fields}\r\n".encode() + payload)
        answer = await client.answer(method)
        client.transport.abort()
        return answer.status, json.loads(answer.body)

    async def engines(self, count: int = 8, target: str = CHAT) -> set[str]:
        """Send so many requests; the engines that they came to."""
        return {(await self.ask(target)).engine for _ in range(count)}

    async def ask(self, target: str = CHAT) -> Seen:
        """One request that succeeds; as its engine saw it."""
        nonce = self.oracle.nonce()
        verdict = await self.oracle.speak(ask(nonce, target, fields="Connection: close\r\n"), [nonce])
        assert verdict.statuses == (200,)
        return next(seen for seen in self.f.seen if seen.nonce == nonce)


@contextlib.asynccontextmanager
async def kept(count: int = 2, **options: Any) -> AsyncIterator[Kept]:
    """The names of the backends are engine0, engine1, ..."""
    with tempfile.TemporaryDirectory() as folder:
        async with judged(count, named=True, **options) as (f, oracle):
            path = Path(folder) / "fairlead.yaml"
            own = Kept(f, oracle, path)
            f.app.reloader.read = lambda: read_file(path)
            yield own
            await until(lambda: not f.app.service.retired, "no pool is left of what was changed")


def text_of(path: Path) -> str:
    """What a file holds; nothing where there is none."""
    return path.read_text("utf-8") if path.exists() else ""


def is_there(path: Path | str) -> bool:
    return Path(path).exists()


def held(go: asyncio.Event) -> Script:
    """A stream that stops after its first event until it is told to go on."""

    async def play(peer: Peer, seen: Seen) -> None:
        await peer.send(sse_head(seen) + chunk(event(1)))
        await go.wait()
        await peer.send(chunk(event(2)) + chunk(DONE) + LAST)

    return play


async def begun(k: Kept, nonce: str) -> Peer:
    """A client whose stream has begun."""
    client = await k.f.dial()
    await client.send(ask(nonce))
    await client.expect(event(1))
    client.read = 0
    return client


async def finished(k: Kept, client: Peer, nonce: str) -> None:
    """Its stream ends as it should."""
    answer = await client.answer()
    assert (answer.status, answer.whole, answer.field("x-nonce")) == (200, True, nonce)
    assert answer.body.endswith(DONE)
    k.oracle.outcomes[200] += 1
    client.close()
