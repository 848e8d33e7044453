"""A connection to a backend without a network: its bytes in, what the client would get out.

The proxy's `Upstream` reads the answer, follows its framing and looks for its usage as in service; the exchange
and the pool around it are small stand-ins that note what they are told.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, cast

from fuzz_client import Transport

from fairlead.core.model import Usage
from fairlead.proxy.upstream import Upstream
from fairlead.wire.http1 import ResponseHead
from fairlead.wire.openai import USAGE_TAIL, read_usage

MAX_REQUESTS = 1_000


@dataclass(frozen=True)
class Answered:
    """What an answer's bytes led to."""

    verdict: str  # answered, open, bad (no head that can be trusted), broken (in its middle)
    status: int
    head: bytes  # as it is passed on
    framing: bytes  # the header lines that tell the client where the body ends
    body: bytes  # as it is passed on
    payload: bytes  # the same without chunks
    interim: int
    reusable: bool  # may the connection carry the next request?
    usage: Usage | None
    events: int


class Lease:
    def __init__(self) -> None:
        self.produced = 0


class Pool:
    def __init__(self) -> None:
        self.open = 0
        self.max_requests = MAX_REQUESTS
        self.id = "b"


class Exchange:
    """Notes what the upstream reports."""

    def __init__(self, *, method: bytes, minor: int) -> None:
        self.lease = Lease()
        self.method, self.minor = method, minor
        self.upstream: Upstream | None = None
        self.response: ResponseHead | None = None
        self.relayed: list[bytes] = []
        self.interim = 0
        self.path = b"/generate_stream"  # not judged by its last word: framing is what counts here
        self.verdict = "open"
        self.usage: Usage | None = None

    def informational(self, response: ResponseHead) -> None:
        self.interim += 1

    def head_received(self, response: ResponseHead) -> bool:
        self.response = response
        assert self.upstream is not None
        bodyless = self.method == b"HEAD" or response.status in (204, 304)
        self.upstream.begin(response, bodyless=bodyless, plain=self.minor == 0)
        return True

    def relay(self, data: bytes) -> None:
        self.relayed.append(bytes(data))

    relay_comments = relay  # to the client they are bytes like others

    def upstream_blocked(self) -> None:
        """What is sent here is never too much."""

    upstream_took_all = upstream_blocked

    def answered(self, upstream: Upstream) -> None:
        self.verdict = "answered"
        self.usage = read_usage(upstream.tail[-USAGE_TAIL:])
        assert self.response is not None
        if not self.response.keep_alive:
            upstream.close()

    def upstream_bad(self, message: str) -> None:
        self._fail("bad")

    def upstream_broken(self, message: str, error: str = "") -> None:
        self._fail("broken")

    def upstream_lost(self, *, answered: bool) -> None:
        self._fail("lost")

    def _fail(self, verdict: str) -> None:
        self.verdict = verdict
        assert self.upstream is not None
        self.upstream.close()


def answer(pieces: list[bytes], *, method: bytes = b"POST", minor: int = 1, end: bool = False) -> Answered:
    """A backend that answers with these pieces, and then (`end`) closes its side in order."""
    exchange = Exchange(method=method, minor=minor)
    upstream = Upstream(cast(Any, Pool()))
    exchange.upstream = upstream
    transport = Transport()
    upstream.connection_made(cast(asyncio.Transport, transport))
    upstream.send(cast(Any, exchange), b"HEAD", b"")
    for piece in pieces:
        if upstream.closed:
            break
        upstream.data_received(piece)
    reusable = exchange.verdict == "answered" and not upstream.closed and upstream.requests < MAX_REQUESTS
    if end and not upstream.closed:
        upstream.connection_lost(None)
    response = exchange.response
    framing = _framing(response, upstream) if response is not None else b""
    body = b"".join(exchange.relayed)
    return Answered(
        exchange.verdict,
        response.status if response is not None else 0,
        response.forward if response is not None else b"",
        framing,
        body,
        _payload(body) if b"chunked" in framing and method != b"HEAD" else body,
        exchange.interim,
        reusable,
        exchange.usage,
        exchange.lease.produced,
    )


def _framing(response: ResponseHead, upstream: Upstream) -> bytes:
    """What the exchange tells the client of the body's end."""
    if response.status == 204:
        return b""
    if upstream.recode == 2 or (response.chunked and not upstream.recode):
        return b"transfer-encoding: chunked\r\n"
    return b"content-length: %d\r\n" % response.content_length if response.content_length is not None else b""


def _payload(body: bytes) -> bytes:
    """What chunks carry, read in the plainest way; as far as it goes."""
    parts = []
    while b"\r\n" in body:
        line, _, body = body.partition(b"\r\n")
        size = int(line.partition(b";")[0], 16)
        parts.append(body[:size])
        body = body[size + 2 :]
        if not size:
            break
    return b"".join(parts)
