"""Connections to one backend: idle ones kept for reuse, new ones made when none is idle.

The newest idle connection is used first, so that the others can grow old and be closed. Idle ones are closed
before the engine would do it (uvicorn: 5 s), as a request that meets such a close is lost or must be sent again.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
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
        tls: ssl.SSLContext | None = None,
    ) -> None:
        parts = urlsplit(url)
        self.id = id
        self.host = parts.hostname or ""
        self.port = parts.port or (443 if parts.scheme == "https" else 80)
        self.tls = tls if parts.scheme == "https" else None
        self.base_path = parts.path.rstrip("/").encode("ascii")
        self.host_line = b" HTTP/1.1\r\nHost: %b" % parts.netloc.encode("idna")
        self.via_line = b"\r\nVia: %b\r\n" % via  # behind those that came with the request
        self.max_idle = connections
        self.max_requests = requests
        self.timeout = timeout
        self.idle: deque[Upstream] = deque()  # oldest first
        self.open = 0  # connections made and not yet lost, idle ones included

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

    def close(self) -> None:
        """Close all idle connections."""
        while self.idle:
            self.idle.pop().close()

    async def connect(self, loop: asyncio.AbstractEventLoop, upstream: Upstream) -> None:
        """Open a connection; OSError or ssl.SSLError when that fails."""
        await loop.create_connection(
            lambda: upstream,
            self.host,
            self.port,
            ssl=self.tls,
            server_hostname=self.host if self.tls is not None else None,
        )
