"""The proxy's side: its real objects over transports in memory, with a clock that the test sets.

`Replay` goes through the simulator's log row by row. What the proxy has done by itself meanwhile (a retry, an end) is
there already; else the row says what must happen outside of it, and that is done to it: bytes come from a client or an
engine, a connection breaks or is refused, the timer fires. Then the proxy must have made that call.
Rule 1: no socket, no thread, no sleep: `Loop` runs what is ready until nothing is.
Rule 2: requests and answers go in as bytes; the balancer is called by the proxy alone, but for probes, readings and
changes of the fleet, which are not the data plane's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from random import Random
from typing import cast

from parity_engines import LAST, Line, Network
from parity_log import DoorLog, Row
from parity_memory import Loop, Seat
from parity_script import Asked

from fairlead.config.load import parse
from fairlead.config.parts import make_balancer
from fairlead.control.recorder import Recorder
from fairlead.control.switching import session_source
from fairlead.core import balancer as brain
from fairlead.core.model import Usage
from fairlead.proxy.client import Client
from fairlead.proxy.pool import Pool
from fairlead.proxy.service import LimitSettings, Service, TimeoutSettings
from fairlead.sim.host import MODEL

SESSION = b"x-session-id"


class Replay:
    """The proxy with the default configuration; `run` drives it through a log and leaves its own in `log`."""

    def __init__(self, asked: Sequence[Asked], policy: str, backends: Sequence[str], clock: list[float], seed: int = 1):
        self.asked = asked
        self.clock = clock
        self.loop = Loop()
        self.network = Network(self.loop, asked)
        self._urls = {name: f"http://{name}.test:8000" for name in backends}
        self.answers: dict[int, tuple[int, bool]] = {}  # by request: status, did it end as it should?
        self._seats: dict[int, Seat] = {}
        self._free: list[Seat] = []  # kept alive, newest last
        config, problems = parse(
            {"policy": policy, "backends": [{"url": u, "name": n, "models": [MODEL]} for n, u in self._urls.items()]},
            "parity",
        )
        assert config is not None, problems
        self.config = config
        self.balancer = make_balancer(config, Random(seed))
        times, limits = config.timeouts, config.limits
        self.service = Service(
            loop=cast(asyncio.AbstractEventLoop, self.loop),
            balancer=self.balancer,
            recorder=Recorder(self.balancer),
            timeouts=TimeoutSettings(
                times.connect, times.first_byte, times.idle, times.client_header, times.client_body,
                times.client_idle, times.client_write,
            ),
            limits=LimitSettings(limits.body, limits.head, limits.headers, limits.connections),
            models_body=lambda: b"{}",
            session=session_source(config.policy, None),
        )  # fmt: skip
        self.service.clock = lambda: clock[0]
        for name in backends:
            self._pool(name)
            self.balancer.probe(name, True)
        self.service.start()
        self.log = DoorLog(self.balancer)

    def _pool(self, name: str) -> None:
        kept = self.config.keepalive
        url = self._urls.setdefault(name, f"http://{name}.test:8000")
        pool = Pool(name, url, connections=kept.connections, requests=kept.requests, timeout=kept.timeout,
                    via=self.service.via)  # fmt: skip
        self.service.pools[name] = pool
        self.network.names[pool.host, pool.port] = name

    def run(self, rows: Sequence[Row]) -> None:
        log = self.log.rows
        for place, row in enumerate(rows):
            if row.at is not None:
                self.clock[0] = row.at
            if len(log) <= place:
                self._cause(row)
                self.loop.run()
            if len(log) <= place:
                raise AssertionError(f"row {place}: the simulator made this call, the proxy did not: {row!r:.1500}")
            if not row.agrees(log[place]):
                return  # the comparison of the logs will say it better

    def _cause(self, row: Row) -> None:
        """Do to the proxy what must have happened for this call to be made."""
        network, call, request, said = self.network, row.call, row.request, row.said
        if call == "assign":
            self._arrive(request)
        elif call == "first_token":
            network.first(request)
        elif call == "may_retry":
            network.lose(request)
        elif call == "finish":
            self._end(request, *said)
        elif call == "tick":
            for started, events in said:
                network.up_to(started, events)
            self.loop.fire()
        elif call == "down":
            self._down(said[0])
        elif call == "up":
            network.down.discard(said[0])
            self.log.note("up", self.clock[0], said[0])
        else:
            self._feed(row)

    def _arrive(self, request: int) -> None:
        asked = self.asked[request]
        self.take_answers()
        seat = self._free.pop() if self._free else self._connect()
        if seat.closed:  # idle for too long
            seat = self._connect()
        self._seats[request] = seat
        seat.got = b""
        self.log.arriving = request
        head = (
            b"POST %b HTTP/1.1\r\nHost: llm.test\r\nContent-Type: application/json\r\nX-Request-Id: r%d\r\n%b: %b\r\n"
        )
        head %= (asked.path, request, SESSION, asked.session.encode())
        data = head + b"Content-Length: %d\r\n\r\n" % len(asked.body) + asked.body
        if request % 3:
            seat.protocol.data_received(data)
        else:  # as a large body comes: in pieces
            for start in range(0, len(data), 4_000):
                seat.protocol.data_received(data[start : start + 4_000])

    def _connect(self) -> Seat:
        client = Client(self.service)
        seat = Seat(self.loop, client)
        client.connection_made(seat)
        return seat

    def _end(
        self, request: int, outcome: str, usage: Usage | None, reason: str, worked: bool | None, produced: int | None
    ) -> None:
        if outcome == brain.CLIENT_GONE:
            self._seats.pop(request).lose(None)
        elif outcome == brain.FAILED:
            self.network.lose(request)
        elif worked:
            assert usage is not None
            self.network.end(request, usage)
        else:
            self.network.refuse(request)

    def _down(self, name: str) -> None:
        """Nobody listens there any more; connections that were kept are closed, those in use break by and by."""
        self.network.down.add(name)
        for upstream in list(self.service.pools[name].idle):
            cast(Line, upstream.transport).lose(None)
        self.log.note("down", self.clock[0], name)

    def _feed(self, row: Row) -> None:
        """What comes from feeds/ and control/, not through the data plane."""
        balancer, said = self.balancer, row.said
        if row.call == "probe":
            balancer.probe(*said)
        elif row.call == "poll_started":
            balancer.poll_started(*said)
        elif row.call == "poll_result":
            id, mark, stats = said
            balancer.poll_result(id, mark, stats, self.clock[0])
        elif row.call == "add":
            balancer.add(said[0], **said[1])
            self._pool(said[0])
        elif row.call == "remove":
            balancer.remove(said[0])
        else:
            assert row.call == "set_draining"
            balancer.set_draining(*said)

    def take_answers(self) -> None:
        """Look which requests have been answered; their connections are free again."""
        for request, seat in list(self._seats.items()):
            if cast(Client, seat.protocol).exchange is None:
                del self._seats[request]
                whole = seat.got.endswith(LAST) or b"content-length" in seat.got
                self.answers[request] = (int(seat.got[9:12]), whole)
                if not seat.closed:
                    self._free.append(seat)
