"""A real App over scripted engines, and the oracle that nothing was lost.

`async with fleet(2) as f:` starts engines and an App in the running loop; on leaving, every invariant is checked
while the App still runs, then it is stopped and checked again: leases closed once, loads exactly zero, no
exchange, connection or task left over, one log line for each outcome, as many tries as the engines saw requests,
and no answer with another request's nonce.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from peers import Answer, Peer, Script, Seen, dial, until
from scripted_engine import Engine, Play

from fairlead.config.build import App, Bound
from fairlead.config.load import parse
from fairlead.config.schema import Config

CHAT = "/v1/chat/completions"

# Health is decided by tests, not by chance: a backend that was seen up stays up, and is never ejected.
STEADY: dict[str, Any] = {
    "policy": "round_robin",
    "health": {"interval": "60s", "fall": 100, "max_fails": 0},
    "metrics": {"interval": "60s"},
    "timeouts": {"connect": "2s"},
}


def configure(urls: list[str], log: str, **options: Any) -> Config:
    """A configuration for tests: STEADY with tables merged over it; `named` backends are engine0, engine1, ..."""
    backend, named = options.pop("backend", {}), options.pop("named", False)
    document: dict[str, Any] = {
        "listen": "127.0.0.1:0",
        "admin": "127.0.0.1:0",
        "access_log": {"path": log, "format": "json"},
        "backends": [
            {"url": url, "engine": "generic", "models": ["m"], **({"name": f"engine{i}"} if named else {}), **backend}
            for i, url in enumerate(urls)
        ],
    }
    for name, value in (*STEADY.items(), *options.items()):
        old = document.get(name)
        document[name] = {**old, **value} if isinstance(old, dict) and isinstance(value, dict) else value
    config, problems = parse(document, "test")
    assert config is not None, problems
    return config


def reply(
    body: bytes | None = None, status: str = "200 OK", fields: bytes = b"Content-Type: application/json\r\n"
) -> Script:
    """Answer with a Content-Length; the body names the request's nonce where none is given."""

    async def play(peer: Peer, seen: Seen) -> None:
        said = b'{"nonce":"%b"}' % seen.nonce.encode() if body is None else body
        head = b"HTTP/1.1 %b\r\nX-Nonce: %b\r\n%bContent-Length: %d\r\n\r\n"
        await peer.send(head % (status.encode(), seen.nonce.encode(), fields, len(said)) + said)

    return play


def sse_head(seen: Seen) -> bytes:
    return (
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nX-Nonce: %b\r\nTransfer-Encoding: chunked\r\n\r\n"
        % seen.nonce.encode()
    )


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def event(number: int) -> bytes:
    return b'data: {"choices":[{"index":0,"delta":{"content":"t%d"}}]}\n\n' % number


DONE = b"data: [DONE]\n\n"
LAST = b"0\r\n\r\n"


def stream(events: int = 3) -> Script:
    """A whole event stream, a chunk per event."""

    async def play(peer: Peer, seen: Seen) -> None:
        await peer.send(sse_head(seen))
        for number in range(events):
            await peer.send(chunk(event(number)))
            await asyncio.sleep(0)
        await peer.send(chunk(DONE) + LAST)

    return play


def raw(data: bytes, *, close: bool = False) -> Script:
    """Say exactly these bytes (%NONCE is replaced)."""

    async def play(peer: Peer, seen: Seen) -> None:
        await peer.send(data.replace(b"%NONCE", seen.nonce.encode()))
        if close:
            peer.close()

    return play


async def reset(peer: Peer, seen: Seen) -> None:
    """Break the connection without a word."""
    peer.reset()


async def hang(peer: Peer, seen: Seen) -> None:
    """Say nothing until the balancer goes away."""
    await peer.end(60.0)


def ask(
    nonce: str = "n0",
    target: str = CHAT,
    body: bytes = b'{"model":"m","messages":[{"role":"user","content":"hello"}]}',
    method: str = "POST",
    fields: str = "",
    version: str = "1.1",
) -> bytes:
    """A well-formed request with a nonce."""
    framing = f"Content-Length: {len(body)}\r\n" if body or method == "POST" else ""
    head = f"{method} {target} HTTP/{version}\r\nHost: test\r\nX-Nonce: {nonce}\r\n{fields}{framing}\r\n"
    return head.encode() + body


class Fleet:
    """A running App, its engines, its clients, and what it must have forgotten in the end."""

    def __init__(self, app: App, bound: Bound, engines: list[Engine], play: Play, log: Path) -> None:
        self.app = app
        self.engines = engines
        self.play = play
        self.address = _address(bound.data[0])
        self.admin = _address(bound.admin)
        self.unseen_tries = 0  # tries that no engine could see: refused connections and the like
        self.resent = 0  # requests that engines saw twice in one try: the keep-alive race
        self.clients: list[Peer] = []
        self.stopped = False
        self._log = log

    async def dial(self, receive_buffer: int | None = None) -> Peer:
        client = await dial(self.address, receive_buffer)
        self.clients.append(client)
        return client

    async def get(self, request: bytes | None = None, method: str = "POST") -> Answer:
        """One request on a connection of its own."""
        client = await self.dial()
        await client.send(ask() if request is None else request)
        answer = await client.answer(method)
        client.close()
        return answer

    @property
    def seen(self) -> list[Seen]:
        return [seen for engine in self.engines for seen in engine.seen]

    @property
    def busy(self) -> list[Peer]:
        return [peer for engine in self.engines for peer in engine.busy]

    def lines(self) -> list[dict[str, Any]]:
        """The access log so far, as far as it was written."""
        return [json.loads(line) for line in self._log.read_text().splitlines(keepends=True) if line.endswith("\n")]

    async def logged(self, count: int) -> list[dict[str, Any]]:
        """The access log once it has so many lines."""
        assert self.app.access_log is not None
        if not self.stopped:
            self.app.access_log.flush()
        await until(lambda: len(self.lines()) >= count, f"{count} log lines")
        return self.lines()

    async def assert_quiet(self) -> None:
        """G1 to G4 while the App runs: everything is given back within a second of the last byte."""
        app = self.app
        await until(lambda: not app.service.exchanges, "no exchange is left", 1.0)
        ledger = app.balancer.ledger
        if ledger.opened != ledger.closed or ledger.leases:
            raise AssertionError(f"{ledger.opened} leases opened, {ledger.closed} closed")
        for backend in app.balancer.backends.values():
            loads = (
                backend.inflight, backend.prompt_pending, backend.output_pending, backend.decoding,
                backend.kv_tokens, backend.unseen_old, backend.unseen_new,
            )  # fmt: skip
            if loads != (0,) * 7:
                raise AssertionError(f"loads are left on {backend}: {loads}")
        await until(
            lambda: all(pool.open == len(pool.idle) for pool in app.service.pools.values()),
            "no connection to an engine is in use", 1.0,
        )  # fmt: skip

    async def stop(self, drain: float = 0.0) -> int:
        self.stopped = True
        try:
            return await self.app.stop(drain=drain)
        except BaseException:
            self.stopped = False  # a test that gave up waiting for it
            raise

    async def assert_gone(self) -> None:
        """After the stop: no connection, and the books agree with what the engines saw."""
        app = self.app
        await until(lambda: not app.service.clients, "no client connection is left", 2.5)
        await until(lambda: all(pool.open == 0 for pool in app.service.pools.values()), "no engine connection is left")
        if app.service.memory.used:
            raise AssertionError(f"{app.service.memory.used} bytes of bodies are still counted")
        lines = await self.logged(0)
        counted, tries = sum(app.recorder.requests.values()), sum(line["tries"] for line in lines)
        if counted != len(lines):
            raise AssertionError(f"{counted} requests were counted, {len(lines)} logged")
        if tries + self.resent != len(self.seen) + self.unseen_tries:
            raise AssertionError(f"{tries} tries, {len(self.seen)} requests at engines; {self.unseen_tries} unseen")
        for line in lines:
            if line["outcome"] not in ("ok", "error", "failed", "client_gone", "refused", "abandoned"):
                raise AssertionError(f"a request has no outcome: {line}")
            if abs(time.time() - line["time"]) > 60.0 or not 0.0 <= line["duration"] < 60.0:
                raise AssertionError(f"the log does not tell the time of the request: {line}")


def _address(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    return parts.hostname, parts.port


@contextlib.asynccontextmanager
async def fleet(count: int = 1, *, default: Script | None = None, **options: Any) -> AsyncIterator[Fleet]:
    """Engines and an App over them; everything is checked and let go of at the end."""
    play = Play(default or reply())
    engines = [Engine(play, f"engine{number}") for number in range(count)]
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "access.log"
        clients: list[Peer] = []
        try:
            for engine in engines:
                await engine.open()
            app = App(configure([engine.url for engine in engines], str(log), **options), seed=1)
            running = Fleet(app, await app.start(), engines, play, log)
            clients = running.clients
            try:
                yield running
                if not running.stopped:
                    await running.assert_quiet()
            finally:
                if not running.stopped:
                    await running.stop()
            await running.assert_gone()
        finally:  # a configuration that is refused, too, leaves no engine open
            for client in clients:
                if not client.lost:
                    client.transport.abort()
            for engine in engines:
                await engine.close()
