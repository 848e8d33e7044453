"""Connections to one backend: idle ones kept for reuse, new ones made when none is idle.

The newest idle connection is used first, so that the others can grow old and be closed. Idle ones are closed
before the engine would do it (uvicorn: 5 s), as a request that meets such a close is lost or must be sent again.

A kept connection is only ever used for the backend that it was made for: each backend has a pool of its own, with its
one address, server name, certificate and kind of verification. So a request can never travel on a connection that was
verified as somebody else, or not at all, without a key that holds all of these.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from fairlead.wire.http1 import MAX_HEAD_MEMO, MAX_HEADS

if TYPE_CHECKING:
    from fairlead.proxy.tls import Rotation
    from fairlead.proxy.upstream import Upstream


class Pool:
    """Idle connections of one backend and what is needed to make more."""

    def __init__(
        self,
        id: str,
        url: str,
        *,
        connections: int,
        requests: int,
        timeout: float,
        via: bytes,
        headers: Sequence[str] = (),
        drop: Iterable[str] = (),
        tls: Rotation | None = None,
        server_name: str | None = None,
    ) -> None:
        """`url` may be unix:/PATH; `tls` and `server_name` (the host where it is None) count for https."""
        self.socket_path = url.removeprefix("unix:") if url.startswith("unix:") else ""
        parts = urlsplit("http://localhost" if self.socket_path else url)
        self.id = id
        self.host = parts.hostname or ""
        self.port = parts.port or (443 if parts.scheme == "https" else 80)
        self.tls = tls if parts.scheme == "https" else None
        self.server_name = (server_name or self.host) if self.tls is not None else None
        self.base_path = parts.path.rstrip("/").encode("ascii")
        self.host_line = b" HTTP/1.1\r\nHost: %b" % parts.netloc.encode("idna")
        ours = "".join(f"{line}\r\n" for line in headers).encode("ascii")
        self.via_line = b"\r\nVia: %b\r\n%b" % (via, ours)  # behind those that came with the request
        names = [line.partition(":")[0] for line in headers]
        self.drop = frozenset(name.lower().encode("ascii") for name in (*names, *drop))
        self._kept: dict[bytes, bytes] = {}  # header lines as they came -> as they are passed on
        self.max_idle = connections
        self.max_requests = requests
        self.timeout = timeout
        self.idle: deque[Upstream] = deque()  # oldest first
        self.open = 0  # connections made and not yet lost, idle ones included

    def without_dropped(self, forward: bytes) -> bytes:
        """A request's header lines, each after a CRLF, without those that this backend is not to get."""
        kept = self._kept.get(forward)
        if kept is None:
            lines = [line for line in forward.split(b"\r\n")[1:] if line.partition(b":")[0].lower() not in self.drop]
            kept = b"".join([b"\r\n" + line for line in lines])
            if len(forward) <= MAX_HEAD_MEMO:
                if len(self._kept) >= MAX_HEADS:
                    self._kept.clear()
                self._kept[forward] = kept
        return kept

    def take(self) -> Upstream | None:
        """An idle connection that is still open, the newest first."""
        idle = self.idle
        while idle:
            upstream = idle.pop()
            if not upstream.closed:
                return upstream
        return None

    def give(self, upstream: Upstream, now: float) -> None:
        """Keep a connection whose answer was read to its end; close it if there are enough or it is worn."""
        if len(self.idle) >= self.max_idle or upstream.requests >= self.max_requests:
            upstream.close()
            return
        upstream.idle_since = now
        self.idle.append(upstream)

    def sweep(self, now: float) -> None:
        """Close connections that have been idle for too long."""
        idle = self.idle
        limit = now - self.timeout
        while idle and (idle[0].closed or idle[0].idle_since <= limit):
            idle.popleft().close()

    def retire(self) -> None:
        """It is used no more: idle connections are closed now, each of the others when its request is over."""
        self.max_idle = 0
        self.close()

    def close(self) -> None:
        """Close all idle connections."""
        while self.idle:
            self.idle.pop().close()

    async def connect(self, loop: asyncio.AbstractEventLoop, upstream: Upstream) -> None:
        """Open a connection; OSError or ssl.SSLError when that fails."""
        if self.socket_path:
            await loop.create_unix_connection(lambda: upstream, self.socket_path)
            return
        await loop.create_connection(
            lambda: upstream,
            self.host,
            self.port,
            ssl=self.tls.context if self.tls is not None else None,
            server_hostname=self.server_name,
        )
