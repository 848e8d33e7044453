"""A client connection of the real proxy without a network: bytes in, requests and answers out.

The proxy's `Client` reads, refuses and orders as it does in service; only the transport and what becomes of a whole
request are ours. So what is fuzzed is the code that stands in front of the internet, not a copy of it.
"""

from __future__ import annotations

import asyncio
import functools
import re
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

from fairlead.config.build import App
from fairlead.config.load import parse
from fairlead.proxy.client import Client
from fairlead.wire.http1 import RequestHead

HEAD_LIMIT = 1_024  # small, so that inputs reach it
BODY_LIMIT = 4_096
FIELDS_LIMIT = 24
CODE = re.compile(rb'"code":"(\w+)"')


@dataclass(frozen=True)
class Got:
    """A request as the service receives it."""

    method: bytes
    target: bytes
    minor: int
    host: bytes
    lines: tuple[bytes, ...]
    keep_alive: bool
    chunked: bool
    body: bytes


@dataclass(frozen=True)
class Outcome:
    """What a connection's bytes led to."""

    requests: tuple[Got, ...]
    answers: int  # final ones
    refusal: tuple[int, str] | None  # status and word of the refusal that ended it
    over: bool  # does the proxy read no more requests from it?


class Transport:
    """Takes what is written; nobody reads it."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.closed = False

    def write(self, data: bytes) -> None:
        if not self.closed:
            self.written.append(bytes(data))

    def writelines(self, parts: list[bytes]) -> None:
        self.write(b"".join(parts))

    def close(self) -> None:
        self.closed = True

    abort = write_eof = close

    def can_write_eof(self) -> bool:
        return True

    def is_closing(self) -> bool:
        return self.closed

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("192.0.2.1", 5) if name == "peername" else default

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None:
        pass

    resume_reading = pause_reading

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass


class Loop:
    """Remembers what is to be called soon."""

    def __init__(self) -> None:
        self.soon: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()

    def call_soon(self, call: Callable[..., object], *args: Any) -> None:
        self.soon.append((call, args))

    def run(self) -> None:
        while self.soon:
            call, args = self.soon.popleft()
            call(*args)


class Door:
    """A service that answers every whole request with 200 and notes it."""

    def __init__(self) -> None:
        config, problems = parse(
            {
                "backends": ["http://127.0.0.1:1"],
                "access_log": False,
                "limits": {
                    "head": f"{HEAD_LIMIT}B",
                    "body": f"{BODY_LIMIT}B",
                    "headers": FIELDS_LIMIT,
                    "connections": 100,
                },
            },
            "fuzz",
        )
        assert config is not None, problems
        runner = asyncio.new_event_loop()
        try:
            self.service = runner.run_until_complete(self._make(config)).service
        finally:
            runner.close()
        self.loop = Loop()
        self.got: list[Got] = []
        service = cast(Any, self.service)
        service.loop = self.loop
        service.wheel.enter = lambda owner: None  # no time passes here
        service.clock = lambda: 0.0
        service.request = self._request

    @staticmethod
    async def _make(config: Any) -> App:
        return App(config, seed=1)

    def _request(self, client: Client, head: RequestHead, body: bytes) -> None:
        self.got.append(
            Got(
                head.method, head.target, head.minor, head.host, tuple(head.lines), head.keep_alive, head.chunked,
                bytes(body),
            )
        )  # fmt: skip
        client.respond(head, 200, b"", head.request_id or b"r-%d" % len(self.got))

    def read(self, pieces: list[bytes]) -> Outcome:
        """A connection that sends these pieces."""
        self.got = []
        self.service._ids = 0  # the ids of refusals count from here, so that outcomes can be compared
        transport = Transport()
        client = Client(self.service)
        client.connection_made(cast(asyncio.Transport, transport))
        for piece in pieces:
            if transport.closed:
                break
            client.data_received(piece)
            self.loop.run()
        closed = transport.closed
        client.connection_lost(None)
        # 100 Continue depends on when the body comes. Of several faults in one line, which is named does, too.
        said = [written for written in transport.written if not written.startswith(b"HTTP/1.1 100 ")]
        code = CODE.search(said[-1]) if said else None
        refusal = (int(said[-1][9:12]), code[1].decode()) if code is not None else None
        return Outcome(tuple(self.got), len(said), refusal, closed)


@functools.cache
def door() -> Door:
    """The one for all inputs: its memory of heads goes on from input to input, as in service."""
    return Door()
