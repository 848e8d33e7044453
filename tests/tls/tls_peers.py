"""Certificates, engines and clients for tests of listeners: TLS, Unix sockets, IPv6, PROXY headers.

`async with front(engines, play, ...) as fleet` starts engines of any of these kinds and a real App over them; the
oracle of tests/faults checks at the end that nothing was lost. `Authority` makes certificates in files.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import socket
import ssl
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import trustme
from peers import Peer
from running import Fleet, ask, configure, reply
from scripted_engine import Engine, Play

from fairlead.config.build import App

Names = dict[str, str]  # {"cert": PATH, "key": PATH}


class Authority:
    """A CA of its own, whose certificates are files in one folder."""

    def __init__(self, folder: Path, name: str = "ca") -> None:
        self.folder = folder
        self.authority = trustme.CA()
        self.file = str(folder / f"{name}.pem")
        self.authority.cert_pem.write_to_path(self.file)

    def issue(self, *names: str, expires: datetime.datetime | None = None) -> trustme.LeafCert:
        return self.authority.issue_cert(*names, not_after=expires)

    def pair(self, name: str, *names: str, expires: datetime.datetime | None = None) -> Names:
        """A certificate for these host names (or addresses) in files that begin with `name`."""
        return self.write(name, self.issue(*names, expires=expires))

    def write(self, name: str, leaf: trustme.LeafCert) -> Names:
        """Into the files that begin with `name`, in place of what stood there."""
        cert, key = self.folder / f"{name}.crt", self.folder / f"{name}.key"
        cert.write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
        key.write_bytes(leaf.private_key_pem.bytes())
        return {"cert": str(cert), "key": str(key)}

    def client(self, *, shows: Names | None = None) -> ssl.SSLContext:
        """A client's context that trusts this CA."""
        context = ssl.create_default_context(cafile=self.file)
        if shows is not None:
            context.load_cert_chain(shows["cert"], shows["key"])
        return context

    def server(self, *names: str, clients: Authority | None = None) -> ssl.SSLContext:
        """An engine's context; with `clients` it asks for a certificate of that CA."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.issue(*names).configure_cert(context)
        if clients is not None:
            context.load_verify_locations(clients.file)
            context.verify_mode = ssl.CERT_REQUIRED
        return context


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


class TlsPeer(Peer):
    """One end of a TLS connection, which cannot be half open."""

    def eof_received(self) -> bool:
        self.ended = True
        self._changed.set()
        return False

    @property
    def subject(self) -> str:
        """The first host name of the certificate that the other side showed."""
        shown = self.transport.get_extra_info("peercert")
        return str(shown["subjectAltName"][0][1])

    @property
    def object(self) -> ssl.SSLObject:
        found = self.transport.get_extra_info("ssl_object")
        assert isinstance(found, ssl.SSLObject)
        return found


class TlsEngine(Engine):
    """An engine behind HTTPS. `context` may change between two connections; None: it never speaks."""

    def __init__(self, play: Play, name: str, context: ssl.SSLContext | None) -> None:
        super().__init__(play, name)
        self.context = context
        self.greeting = b""  # said to everybody at once

    @property
    def url(self) -> str:
        return f"https://{self.address[0]}:{self.address[1]}"

    async def open(self) -> None:
        loop = asyncio.get_running_loop()
        kind = Peer if self.context is None else TlsPeer
        self._server = await loop.create_server(lambda: kind(self._connected), *self.address, ssl=self.context)
        self.address = self._server.sockets[0].getsockname()[:2]

    def _connected(self, peer: Peer) -> None:
        super()._connected(peer)
        if self.greeting:
            peer.transport.write(self.greeting)


class SocketEngine(Engine):
    """An engine on a Unix socket."""

    def __init__(self, play: Play, name: str, path: Path) -> None:
        super().__init__(play, name)
        self.path = str(path)

    @property
    def url(self) -> str:
        return f"unix:{self.path}"

    async def open(self) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(lambda: Peer(self._connected), self.path)


class Ipv6Engine(Engine):
    """An engine on ::1."""

    @property
    def url(self) -> str:
        return f"http://[{self.address[0]}]:{self.address[1]}"

    async def open(self) -> None:
        self.address = ("::1", self.address[1])
        await super().open()


@contextlib.asynccontextmanager
async def front(engines: list[Engine], play: Play, **options: Any) -> AsyncIterator[Fleet]:
    """These engines and an App over them, checked and let go of as `running.fleet` does."""
    with folder() as logs:
        log = logs / "access.log"
        for engine in engines:
            await engine.open()
        options.setdefault("named", True)
        app = App(configure([engine.url for engine in engines], str(log), **options), seed=1)
        fleet = Fleet(app, await app.start(), engines, play, log)
        try:
            try:
                yield fleet
                if not fleet.stopped:
                    await fleet.assert_quiet()
            finally:
                if not fleet.stopped:
                    await fleet.stop()
            await fleet.assert_gone()
        finally:
            for client in fleet.clients:
                if not client.lost:
                    client.transport.abort()
            for engine in engines:
                await engine.close()


@contextlib.asynccontextmanager
async def plain_fleet(**options: Any) -> AsyncIterator[Fleet]:
    """One plain engine behind a front that is the matter."""
    play = Play(reply())
    async with front([Engine(play, "engine0")], play, **options) as fleet:
        yield fleet


async def tls_dial(fleet: Fleet, context: ssl.SSLContext, name: str = "one.test", **how: Any) -> TlsPeer:
    """Connect with TLS and ask for `name`."""
    loop = asyncio.get_running_loop()
    where = () if "sock" in how else fleet.address
    _, peer = await loop.create_connection(TlsPeer, *where, ssl=context, server_hostname=name, **how)
    fleet.clients.append(peer)
    return peer


async def status_over(peer: Peer) -> int:
    """The status of one request on a connection."""
    await peer.send(ask())
    return (await peer.answer()).status


async def refused_over(fleet: Fleet, context: ssl.SSLContext, name: str = "one.test") -> None:
    """A handshake that the server ends, or the first request after it: with TLS 1.3 the client cannot tell before."""
    try:
        peer = await tls_dial(fleet, context, name)
    except (ssl.SSLError, ConnectionError):
        return
    await peer.send(ask())
    if rest := await peer.end():
        raise AssertionError(f"it was not refused: {rest!r}")


def refusals(fleet: Fleet) -> dict[str, int]:
    """What was refused so far, by reason."""
    return {reason: count for reason, count in fleet.app.recorder.refusals.items() if count}


def raw_socket(address: tuple[str, int]) -> socket.socket:
    """A connected socket, for bytes that stand before everything else."""
    sock = socket.create_connection(address)
    sock.setblocking(False)
    return sock
