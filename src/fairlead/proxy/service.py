"""The proxy as a whole: listeners, pools, clients, shutdown.

Holds what connections and exchanges share; all its parts come in ready-made (config/build.py wires them).
"""

from __future__ import annotations

import asyncio
import errno
import os
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Protocol

from fairlead.core.balancer import Balancer
from fairlead.core.model import Facts
from fairlead.proxy.ending import Ending
from fairlead.proxy.exchange import IDEMPOTENT, Exchange
from fairlead.proxy.forwarded import Forwarding
from fairlead.proxy.kinds import make_exchange
from fairlead.proxy.memory import BodyMemory
from fairlead.proxy.pool import Pool
from fairlead.proxy.suspects import Suspects
from fairlead.proxy.timers import Wheel
from fairlead.proxy.tls import Rotations
from fairlead.proxy.tries import DESCRIPTORS, TLS, refuse_suspect
from fairlead.proxy.upstream import Upstream
from fairlead.wire.errors import error_body
from fairlead.wire.fields import BadHttp
from fairlead.wire.http1 import RequestHead
from fairlead.wire.openai import BadBody, body_field, read_facts, route_of

if TYPE_CHECKING:
    from fairlead.core.hedge import Hedges
    from fairlead.proxy.downstream import Asker, Connection, Downstream
    from fairlead.proxy.hedge import Hedge
    from fairlead.proxy.listener import Listener
    from fairlead.proxy.trace import Tracer

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
    send: float = 60.0
    handshake: float = 10.0


@dataclass(frozen=True, slots=True)
class LimitSettings:
    """Bytes and counts; see config/schema.py."""

    body: int
    head: int
    headers: int
    connections: int
    streams: int = 100
    body_memory: int = 1 << 30


@dataclass(frozen=True, slots=True)
class Route:
    """Requests for paths that begin with `prefix` go to these backends only."""

    prefix: bytes
    backends: frozenset[str]
    strip: bool = False  # is the beginning taken away?


@dataclass(frozen=True, slots=True)
class SessionSource:
    """Where the name of a session stands, for the policy that wants it."""

    header: bytes | None = None
    cookie: bytes | None = None
    body_field: str | None = None


class Recorder(Protocol):
    """Where finished requests are noted (control/recorder.py)."""

    version: int  # of the configuration in force

    def finished(self, exchange: Exchange, outcome: str, now: float) -> None: ...

    def early(
        self, client: Asker, status: int, reason: str, head: RequestHead | None = None, request_id: bytes = b""
    ) -> None: ...

    def refused(self, reason: str) -> None: ...

    def retried(self, reason: str) -> None: ...

    def failed(self, backend: str, kind: str) -> None: ...

    def hedged(self, word: str) -> None: ...

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
        routes: Sequence[Route] = (),
        forwarding: Forwarding | None = None,
    ) -> None:
        """`hash_prompts`: somebody besides the balancer wants the prompts' block hashes."""
        self.loop = loop
        self.clock = monotonic
        self.balancer = balancer
        self.recorder = recorder
        self.timeouts = timeouts
        self.limits = limits
        self.memory = BodyMemory(limits.body_memory)
        self.suspects = Suspects()
        self.descriptors = 0  # how many this process may have; 0: not known
        self.session = session  # changes when policies are switched
        self.hash_prompts = hash_prompts
        self.models_body = models_body
        self.set_routes(routes)
        self.forwarding = forwarding or Forwarding()
        self.hedges: Hedges | None = None  # who decides on hedges, where there are any
        self.tracer: Tracer | None = None  # who begins traces, where any are wanted
        self.resume = False  # may streams go on at another engine when theirs dies?
        self.engine_of: Callable[[str], str] = lambda _: ""  # a backend's kind, see wire/resume.py
        self.pools: dict[str, Pool] = {}
        self.retired: list[Pool] = []  # of backends that left or were changed, while requests run on them
        self.wheel = Wheel(loop)
        self.clients: set[Connection] = set()
        self.paused: set[Connection] = set()  # clients that are not read, and so cannot tell us that they leave
        self.exchanges: set[Exchange] = set()
        self.draining = False
        self.ending = Ending(self)
        self._prefix = os.urandom(6).hex().encode()
        self.pseudonym = b"fairlead-" + self._prefix
        self.via = b"1.1 " + self.pseudonym
        self._ids = 0
        self.placed = 0  # choices made
        self.listeners: list[Listener] = []
        self.rotations = Rotations()
        self._connecting: set[asyncio.Task[None]] = set()
        self._ticks = 0

    # --- life ------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the clockwork; call before listeners are opened."""
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
            self.listeners = [listener for listener in self.listeners if not listener.is_over]
            if self.suspects:
                self.suspects.forget(now)

    def set_routes(self, routes: Sequence[Route]) -> None:
        """Where paths lead, from the next request on."""
        self.routes = sorted(routes, key=lambda route: len(route.prefix), reverse=True)

    def pool_of(self, backend: str) -> Pool:
        """Where connections to it come from; one that has left has its own until its last request is over."""
        pool = self.pools.get(backend)
        return pool or next(pool for pool in reversed(self.retired) if pool.id == backend)

    def retire(self, backend: str) -> None:
        """Take its pool out of use; requests that run on it finish."""
        pool = self.pools.pop(backend)
        pool.retire()
        self.retired.append(pool)

    def running_on(self, backend: str) -> list[Exchange | Hedge]:
        """Requests, or hedges of such, that are placed there at the moment."""
        return [found for e in self.exchanges if (found := e.on(backend)) is not None]

    def sweep_retired(self) -> list[str]:
        """Let go of pools that nothing runs on any more; the backends that have left for good by that."""
        over = [p for p in self.retired if not p.open and (p.id in self.pools or not self.running_on(p.id))]
        if over:
            self.retired = [pool for pool in self.retired if pool not in over]
        still = {*self.pools, *(pool.id for pool in self.retired)}
        return [pool.id for pool in over if pool.id not in still]

    async def close(self) -> None:
        """Let go of everything."""
        self.wheel.stop()
        self.rotations.stop()
        for pool in self.pools.values():
            pool.close()
        for task in list(self._connecting):
            task.cancel()
        for client in list(self.clients):
            client.abort()
        for listener in self.listeners:
            listener.close()
        await asyncio.sleep(0)

    # --- clients ---------------------------------------------------------------------------------------------

    def client_connected(self, client: Connection) -> bool:
        """A connection was accepted; False when there are too many."""
        self.clients.add(client)
        return len(self.clients) <= self.limits.connections

    def client_lost(self, client: Connection) -> None:
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

        if head.encoded and head.method == b"POST" and route_of(head.target.partition(b"?")[0]) is not None:
            # What it asks for would be read by the engine only.
            raise BadHttp(415, "ambiguous_body", "the body is encoded: send it without Content-Encoding")

    def request(self, client: Downstream, head: RequestHead, body: bytes) -> None:
        """A complete request: answer it here or send it on its way."""
        target = head.target
        path = target if b"?" not in target else target.partition(b"?")[0]
        request_id = head.request_id or self.new_request_id()
        if path in LOCAL and LOCAL[path](self, client, head, request_id):
            return
        group: frozenset[str] | None = None
        if self.routes:
            route = next((route for route in self.routes if path.startswith(route.prefix)), None)
            if route is None:
                self.recorder.refused("no_route")
                message = error_body(404, "no_route", "no route of this balancer leads there: check the path")
                self.recorder.early(client, 404, "no_route", head, request_id)
                client.respond(head, 404, message, request_id)
                return
            group = route.backends
            if route.strip:
                target = b"/" + target[len(route.prefix) :].removeprefix(b"/")
                path = target.partition(b"?")[0]
        method = head.method
        facts: Facts | None = None
        replay_safe = method in IDEMPOTENT
        if method == b"POST":
            try:
                facts = read_facts(path, body, self.hash_prompts or self.balancer.uses_prefixes)
            except BadBody as problem:
                reason = problem.reason
                self.recorder.refused(reason)
                message = error_body(400, reason, str(problem), anthropic=path == b"/v1/messages")
                self.recorder.early(client, 400, reason, head, request_id)
                client.respond(head, 400, message, request_id)
                return
            # Generation, embedding and the like change nothing: asking twice is safe, just expensive.
            replay_safe = facts is not None
        if facts is None:
            facts = Facts()
        facts.group = group
        if self.session is not None:
            facts.session = self._session(self.session, head, body)
        kind = make_exchange if self.resume or self.hedges is not None else Exchange
        exchange = kind(self, client, head, target, path, body, facts, request_id, client.arrived, replay_safe)
        if self.tracer is not None:
            exchange.trace = self.tracer.begin(head)
        client.exchange = exchange
        self.exchanges.add(exchange)
        if self.suspects and self.suspects.are_with(body):
            refuse_suspect(exchange)
            return
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

    def connect(self, exchange: Exchange | Hedge, upstream: Upstream) -> None:
        """Open a connection for an exchange; it hears of it by `connected` or `connect_failed`."""
        task = self.loop.create_task(self._connect(exchange, upstream))
        upstream.connecting = task
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    async def _connect(self, exchange: Exchange | Hedge, upstream: Upstream) -> None:
        try:
            await upstream.pool.connect(self.loop, upstream)
            upstream.connecting = None
        except (OSError, ssl.SSLError) as problem:
            if exchange.upstream is not upstream:
                pass
            elif isinstance(problem, ssl.SSLError):
                exchange.connect_failed("TLS with the backend failed", TLS)
            elif problem.errno in (errno.EMFILE, errno.ENFILE):
                for pool in self.pools.values():
                    pool.close()  # idle connections are the only descriptors that we can do without
                exchange.connect_failed("the balancer has no file descriptor left", DESCRIPTORS)
            else:
                exchange.connect_failed("the backend accepts no connection")
            return
        if exchange.upstream is not upstream:
            upstream.close()  # the exchange has gone on without us
        elif upstream.closed:  # it spoke, or hung up, before it was asked
            exchange.connect_failed("the backend closed the connection at once")
        else:
            exchange.connected(upstream)

    def failed(self, backend: str, kind: str) -> None:
        """A backend failed a request."""
        self.recorder.failed(backend, kind)

    def ended(self, exchange: Exchange) -> None:
        """An exchange is over."""
        self.exchanges.discard(exchange)


def _health(service: Service, client: Downstream, head: RequestHead, request_id: bytes) -> bool:
    if head.method not in (b"GET", b"HEAD"):
        return False
    if service.draining:
        client.respond(head, 503, b'{"status":"draining"}', request_id)
    elif service.balancer.can_serve(service.clock()):
        client.respond(head, 200, b'{"status":"ok"}', request_id)
    else:
        client.respond(head, 503, b'{"status":"no backend is up"}', request_id, b"retry-after: 1\r\n")
    return True


def _models(service: Service, client: Downstream, head: RequestHead, request_id: bytes) -> bool:
    if head.method not in (b"GET", b"HEAD"):
        return False
    client.respond(head, 200, service.models_body(), request_id)
    return True


LOCAL: dict[bytes, Callable[[Service, Downstream, RequestHead, bytes], bool]] = {
    b"/health": _health,
    b"/v1/models": _models,
}
