"""Scripted engines: listeners whose connections are peers.

An `Engine` answers the balancer's probes by itself, notes every proxied request byte by byte, and gives it to the next
script of its fleet's `Play`.
"""

from __future__ import annotations

import asyncio
import contextlib

from peers import Gone, Peer, Script, Seen, until


class Play:
    """The scripts of a fleet: the next request, on whichever engine it arrives, gets the next script."""

    def __init__(self, default: Script) -> None:
        self.default = default
        self.scripts: list[Script] = []

    def next(self) -> Script:
        return self.scripts.pop(0) if self.scripts else self.default


class Engine:
    """A listener that answers probes, notes every proxied request and plays scripts to them."""

    def __init__(self, play: Play, name: str = "engine") -> None:
        self.play = play
        self.name = name
        self.script: Script | None = None  # for all requests of this engine, before the common play
        self.early: Script | None = None  # the same, but played when only the head was read
        self.seen: list[Seen] = []
        self.peers: list[Peer] = []  # every connection, those of probes too
        self.probes = 0
        self.healthy = True
        self.address = ("127.0.0.1", 0)
        self._server: asyncio.AbstractServer | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"http://{self.address[0]}:{self.address[1]}"

    async def open(self) -> None:
        """Listen; again on the same port after `refuse`."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Peer(self._connected), *self.address)
        self.address = self._server.sockets[0].getsockname()[:2]

    async def refuse(self) -> None:
        """Stop listening: connections are refused from now on."""
        assert self._server is not None
        self._server.close()
        self._server = None
        await asyncio.sleep(0)

    async def kill(self) -> None:
        """Stop listening and break every connection, as a process that is killed does."""
        await self.refuse()
        for peer in self.peers:
            if not peer.lost:
                peer.reset()

    def _connected(self, peer: Peer) -> None:
        peer.number = len(self.peers)
        self.peers.append(peer)
        task = asyncio.get_running_loop().create_task(self._serve(peer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, peer: Peer) -> None:
        with contextlib.suppress(Gone):
            while True:
                seen = await peer.request_head()
                if seen.field("user-agent") == "fairlead" and seen.field("via") is None:
                    self.probes += 1
                    body = b'{"object":"list","data":[{"id":"m","object":"model"}]}'
                    status = b"200 OK" if self.healthy else b"503 Service Unavailable"
                    await peer.send(b"HTTP/1.1 %b\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body))
                    continue
                seen.engine = self.name
                self.seen.append(seen)
                if self.early is not None:
                    await self.early(peer, seen)
                    continue
                await peer.request_body(seen)
                await (self.script or self.play.next())(peer, seen)
        if not peer.lost:
            peer.close()

    @property
    def busy(self) -> list[Peer]:
        """Connections on which a proxied request came and that are still open."""
        used = {seen.connection for seen in self.seen}
        return [peer for peer in self.peers if peer.number in used and not peer.over]

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for peer in self.peers:
            if not peer.lost:
                peer.transport.abort()
        await until(lambda: all(peer.lost for peer in self.peers), "the engine's connections are gone")
