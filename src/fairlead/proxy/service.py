"""The proxy as a whole: listeners, pools, clients, shutdown.

Holds what connections and exchanges share; all its parts come in ready-made (config/build.py wires them).
"""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import Protocol

from fairlead.core.balancer import Balancer
from fairlead.core.model import Facts
from fairlead.proxy.client import Client
from fairlead.proxy.exchange import IDEMPOTENT, Exchange
from fairlead.proxy.pool import Pool
from fairlead.proxy.timers import Wheel
from fairlead.proxy.upstream import Upstream
from fairlead.wire.errors import error_body
from fairlead.wire.fields import BadHttp
from fairlead.wire.http1 import RequestHead
from fairlead.wire.openai import BadBody, body_field, read_facts

DRAIN_STEP = 0.02  # seconds between two looks whether all is done
LAST_BYTES_SECONDS = 1.0  # after the drain's end: time for the last bytes to leave
SWEEP_TICKS = 5  # idle backend connections are looked at every so many ticks


@dataclass(frozen=True, slots=True)
class TimeoutSettings:
    """Seconds; see config/schema.py for what they mean."""

    connect: float
    first_byte: float
    idle: float
    client_header: float
    client_body: float
    client_idle: float
    client_write: float


@dataclass(frozen=True, slots=True)
class LimitSettings:
    """Bytes and counts; see config/schema.py."""

    body: int
    head: int
    headers: int
    connections: int


@dataclass(frozen=True, slots=True)
class SessionSource:
    """Where the name of a session stands, for the policy that wants it."""

    header: bytes | None = None
    cookie: bytes | None = None
    body_field: str | None = None


class Recorder(Protocol):
    """Where finished requests are noted (control/recorder.py)."""

    def finished(self, exchange: Exchange, outcome: str, now: float) -> None: ...

    def early(
        self, client: Client, status: int, reason: str, head: RequestHead | None = None, request_id: bytes = b""
    ) -> None: ...

    def refused(self, reason: str) -> None: ...

    def retried(self, reason: str) -> None: ...

    def failed(self, backend: str, kind: str) -> None: ...

    def decided(self, seconds: float) -> None: ...


class Service:
    """State that all connections share. One event loop drives it."""

    def __init__(
        self,
        *,
        loop: asyncio.AbstractEventLoop,
        balancer: Balancer,
        recorder: Recorder,
        timeouts: TimeoutSettings,
        limits: LimitSettings,
        models_body: Callable[[], bytes],
        session: SessionSource | None = None,
        hash_prompts: bool = False,
    ) -> None:
        """`hash_prompts`: somebody besides the balancer wants the prompts' block hashes."""
        self.loop = loop
        self.clock = monotonic
        self.balancer = balancer
        self.recorder = recorder
        self.timeouts = timeouts
        self.limits = limits
        self.session = session  # changes when policies are switched
        self.hash_prompts = hash_prompts
        self.models_body = models_body
        self.pools: dict[str, Pool] = {}
        self.wheel = Wheel(loop)
        self.clients: set[Client] = set()
        self.paused: set[Client] = set()  # clients that are not read, and so cannot tell us that they leave
        self.exchanges: set[Exchange] = set()
        self.draining = False
        self._prefix = os.urandom(6).hex().encode()
        self.pseudonym = b"fairlead-" + self._prefix
        self.via = b"1.1 " + self.pseudonym
        self._ids = 0
        self.placed = 0  # choices made
        self._servers: list[asyncio.AbstractServer] = []
        self._connecting: set[asyncio.Task[None]] = set()
        self._ticks = 0

    # --- life ------------------------------------------------------------------------------------------------

    async def listen(self, host: str, port: int, tls: ssl.SSLContext | None = None) -> tuple[str, int]:
        """Serve on an address; the address really bound. OSError when it cannot be had."""
        server = await self.loop.create_server(
            lambda: Client(self), host, port, ssl=tls, backlog=4096, ssl_handshake_timeout=10.0 if tls else None
        )
        self._servers.append(server)
        bound = server.sockets[0].getsockname()
        return bound[0], bound[1]

    def start(self) -> None:
        """Start the clockwork; call before `listen`."""
        self.wheel.on_tick.append(self._tick)
        self.wheel.start()

    def _tick(self, now: float) -> None:
        self.balancer.tick(now)
        self._ticks += 1
        if self._ticks % SWEEP_TICKS == 0:
            for client in [c for c in self.paused if c.has_left()]:
                client.abort()
            for pool in self.pools.values():
                pool.sweep(now)

    async def drain(self, seconds: float) -> int:
        """Stop accepting, let running requests finish, break off the rest; how many were broken off."""
        self.draining = True
        for server in self._servers:
            server.close()
        for client in list(self.clients):
            client.finish()
        until = self.clock() + seconds
        while any(client.busy for client in self.clients) and self.clock() < until:
            await asyncio.sleep(DRAIN_STEP)
        left = len(self.exchanges)
        for exchange in list(self.exchanges):
            exchange.shutdown()
        until = self.clock() + LAST_BYTES_SECONDS
        while any(client.busy for client in self.clients) and self.clock() < until:
            await asyncio.sleep(DRAIN_STEP)
        for exchange in list(self.exchanges):  # requests that became whole in these last moments
            exchange.shutdown()
        for client in list(self.clients):
            client.cut(reset=False)
        return left

    async def close(self) -> None:
        """Let go of everything."""
        self.wheel.stop()
        for pool in self.pools.values():
            pool.close()
        for task in list(self._connecting):
            task.cancel()
        for client in list(self.clients):
            client.abort()
        for server in self._servers:
            server.close()
        await asyncio.sleep(0)

    # --- clients ---------------------------------------------------------------------------------------------

    def client_connected(self, client: Client) -> bool:
        """A connection was accepted; False when there are too many."""
        self.clients.add(client)
        return len(self.clients) <= self.limits.connections

    def client_lost(self, client: Client) -> None:
        self.clients.discard(client)
        self.paused.discard(client)

    def new_request_id(self) -> bytes:
        self._ids += 1
        return b"%b-%x" % (self._prefix, self._ids)

    def check(self, head: RequestHead) -> None:
        """What can be refused by the head alone; BadHttp."""
        for via in head.via:
            if self.pseudonym in via:
                raise BadHttp(
                    508, "loop", "this request came through this balancer before: a backend points back to it"
                )

    def request(self, client: Client, head: RequestHead, body: bytes) -> None:
        """A complete request: answer it here or send it on its way."""
        target = head.target
        path = target if b"?" not in target else target.partition(b"?")[0]
        request_id = head.request_id or self.new_request_id()
        if path in LOCAL and LOCAL[path](self, client, head, request_id):
            return
        method = head.method
        facts: Facts | None = None
        replay_safe = method in IDEMPOTENT
        if method == b"POST":
            try:
                facts = read_facts(path, body, self.hash_prompts or self.balancer.uses_prefixes)
            except BadBody as problem:
                self.recorder.refused("bad_body")
                message = error_body(400, "bad_body", str(problem), anthropic=path == b"/v1/messages")
                self.recorder.early(client, 400, "bad_body", head, request_id)
                client.respond(head, 400, message, request_id)
                return
            # Generation, embedding and the like change nothing: asking twice is safe, just expensive.
            replay_safe = facts is not None
        if facts is None:
            facts = Facts()
        if self.session is not None:
            facts.session = self._session(self.session, head, body)
        exchange = Exchange(self, client, head, path, body, facts, request_id, client.arrived, replay_safe)
        client.exchange = exchange
        self.exchanges.add(exchange)
        exchange.start()

    def _session(self, source: SessionSource, head: RequestHead, body: bytes) -> str | None:
        if source.header:
            value = head.field(source.header)
            if value:
                return value[:256].decode("latin-1")
        if source.cookie:
            for part in (head.field(b"cookie") or b"").split(b";"):
                name, _, value = part.strip().partition(b"=")
                if name == source.cookie and value:
                    return value[:256].decode("latin-1")
        if source.body_field and body:
            found = body_field(body, source.body_field)
            return found[:256] if found else None
        return None

    # --- exchanges -------------------------------------------------------------------------------------------

    def connect(self, exchange: Exchange, upstream: Upstream) -> None:
        """Open a connection for an exchange; it hears of it by `connected` or `connect_failed`."""
        task = self.loop.create_task(self._connect(exchange, upstream))
        upstream.connecting = task
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    async def _connect(self, exchange: Exchange, upstream: Upstream) -> None:
        try:
            await upstream.pool.connect(self.loop, upstream)
            upstream.connecting = None
        except (OSError, ssl.SSLError) as problem:
            if exchange.upstream is upstream:
                what = "TLS with the backend failed" if isinstance(problem, ssl.SSLError) else "no connection"
                exchange.connect_failed(what if what != "no connection" else "the backend accepts no connection")
            return
        if exchange.upstream is upstream and not upstream.closed:
            exchange.connected(upstream)
        else:
            upstream.close()  # the exchange has gone on without us

    def failed(self, backend: str, kind: str) -> None:
        """A backend failed a request."""
        self.recorder.failed(backend, kind)

    def ended(self, exchange: Exchange) -> None:
        """An exchange is over."""
        self.exchanges.discard(exchange)


def _health(service: Service, client: Client, head: RequestHead, request_id: bytes) -> bool:
    if head.method not in (b"GET", b"HEAD"):
        return False
    if service.draining:
        client.respond(head, 503, b'{"status":"draining"}', request_id)
    elif service.balancer.can_serve(service.clock()):
        client.respond(head, 200, b'{"status":"ok"}', request_id)
    else:
        client.respond(head, 503, b'{"status":"no backend is up"}', request_id, b"retry-after: 1\r\n")
    return True


def _models(service: Service, client: Client, head: RequestHead, request_id: bytes) -> bool:
    if head.method not in (b"GET", b"HEAD"):
        return False
    client.respond(head, 200, service.models_body(), request_id)
    return True


LOCAL: dict[bytes, Callable[[Service, Client, RequestHead, bytes], bool]] = {
    b"/health": _health,
    b"/v1/models": _models,
}
