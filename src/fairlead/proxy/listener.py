"""Listening: sockets are opened here, and each connection is handed to the protocol that it speaks.

Plain connections go straight to `Client`, by the loop's own server. Where something stands before the first request (a
PROXY protocol header, a TLS handshake) we accept ourselves and run one task per connection until that is over.
Rule 1: whatever comes before the first request has one deadline in all (`timeouts.handshake`), not one per byte, and it
        counts as a connection: with `limits.connections` of both, new ones are closed.
Rule 2: a PROXY header is believed only from the addresses that we trust; anybody else's connection is closed.
Rule 3: no byte behind the header is read with it: the header is looked at (MSG_PEEK) before it is taken.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import socket
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from fairlead.proxy.client import Client
from fairlead.proxy.http2 import Http2Connection
from fairlead.wire.proxy_protocol import MAX_V2, BadProxyHeader, parse

if TYPE_CHECKING:
    from fairlead.proxy.service import Service
    from fairlead.proxy.tls import Rotation

log = logging.getLogger("fairlead")

BACKLOG: Final = 4096
ACCEPTS: Final = 64  # connections taken at one wake-up of the loop
REST_SECONDS: Final = 0.1  # without accepting, when the system has no file descriptors left
SHUTDOWN_SECONDS: Final = 5.0  # for a client to say that it saw the end of TLS
SOCKET_MODE: Final = 0o660  # of Unix socket files
UNIX: Final = "unix"  # the peer of a Unix socket


@dataclass(frozen=True, slots=True)
class ListenSettings:
    """One address to serve; see config/schema.py."""

    host: str = ""
    port: int = 0
    path: str = ""  # of a Unix socket, in place of host and port
    http2: bool = True
    proxy_protocol: bool = False
    half_close: bool = False  # may a client end its side and wait for its answer?


class Listener:
    """Serves one configured address, which may be several sockets (localhost has two)."""

    def __init__(
        self,
        service: Service,
        settings: ListenSettings,
        tls: Rotation | None = None,
    ) -> None:
        self._service = service
        self._settings = settings
        self.tls = tls
        self._bound: list[socket.socket] = []  # what we listen on, not yet or no longer served
        self._listening: list[socket.socket] = []  # all of them
        self._sockets: list[socket.socket] = []  # those that we accept from ourselves
        self._servers: list[asyncio.AbstractServer] = []
        self._heir_of: Listener | None = None
        self._file: tuple[int, int] | None = None  # device and inode of our socket file
        self._starved = False  # had the system no descriptor for us, the last time that we asked?
        self.greeting: set[asyncio.Task[None]] = set()  # connections before their first request

    async def open(self) -> str:
        """Start to serve; the URL that clients use. OSError when the address cannot be had."""
        await self.bind()
        return await self.serve()

    async def bind(self) -> None:
        """Take the address; who connects now is served later. OSError when it cannot be had."""
        settings = self._settings
        if settings.path:
            self._bound = [open_unix(settings.path)]
            found = os.stat(settings.path)
            self._file = found.st_dev, found.st_ino
        else:
            self._bound = await open_tcp(self._service.loop, settings.host, settings.port)

    def adopt(self, sockets: list[socket.socket]) -> None:
        """Listen on sockets that somebody else has opened: they are ours now, the file of a Unix socket is not."""
        for sock in sockets:
            sock.setblocking(False)
        self._bound = sockets

    def own_file(self) -> None:
        """The file of an adopted socket is ours to remove from now on."""
        with contextlib.suppress(OSError):  # somebody has removed it already
            found = os.stat(self._settings.path)
            self._file = found.st_dev, found.st_ino

    def offered(self) -> tuple[list[socket.socket], bool]:
        """What it listens on, and whether the socket's file is its own."""
        return list(self._listening), self._file is not None

    def hand_on(self) -> None:
        """Accept no more: another process has the sockets and their file."""
        self._file = None
        self.stop()

    def inherit(self, other: Listener) -> None:
        """Listen on the very sockets of another one, which is to stop when we serve: nobody is refused in between."""
        self._bound = [sock.dup() for sock in other._listening]
        self._heir_of = other

    async def serve(self) -> str:
        """Serve on what was taken; the URL that clients use."""
        settings, loop = self._settings, self._service.loop
        self._listening, self._bound = self._bound, []
        if self._heir_of is not None:  # the socket's file is ours to remove now
            self._file, self._heir_of._file, self._heir_of = self._heir_of._file, None, None
        if settings.path:
            url = f"unix:{settings.path}"
        else:
            url = f"{'http' if self.tls is None else 'https'}://{shown(self._listening[0])}"
        for sock in self._listening:
            if self.tls is not None or settings.proxy_protocol:
                self._sockets.append(sock)
                loop.add_reader(sock, self._accept, sock)
            elif settings.path:
                self._servers.append(await loop.create_unix_server(self._client, sock=sock, backlog=BACKLOG))
            else:
                self._servers.append(await loop.create_server(self._client, sock=sock, backlog=BACKLOG))
        return url

    def stop(self) -> None:
        """Accept no more."""
        for server in self._servers:
            server.close()
        for sock in self._sockets:
            self._service.loop.remove_reader(sock)
            sock.close()
        for sock in self._bound:
            sock.close()
        self._servers, self._sockets, self._bound, self._listening = [], [], [], []
        if self._file is not None:
            with contextlib.suppress(OSError):  # somebody else's file by now, or none: then it is not ours to remove
                found = os.stat(self._settings.path)
                if (found.st_dev, found.st_ino) == self._file:
                    os.unlink(self._settings.path)
            self._file = None

    @property
    def is_over(self) -> bool:
        """Does it neither accept nor wait for anybody?"""
        return not self._listening and not self._bound and not self.greeting

    def close(self) -> None:
        """Let go of everything."""
        self.stop()
        for task in list(self.greeting):
            task.cancel()

    # --- accepting -------------------------------------------------------------------------------------------

    def _accept(self, listening: socket.socket) -> None:
        service = self._service
        for _ in range(ACCEPTS):
            try:
                sock, address = listening.accept()
            except OSError as problem:
                if problem.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    return  # nobody waits any more, or the network took this one back (accept(2), error handling)
                # It would wake us at once again: leave the others in the backlog for a moment.
                service.recorder.refused("descriptors")
                if not self._starved:
                    self._starved = True
                    log.warning("no new connections can be taken: %s", problem.strerror)
                service.loop.remove_reader(listening)
                service.loop.call_later(REST_SECONDS, self._resume, listening)
                return
            self._starved = False
            open_now = len(service.clients) + sum(len(each.greeting) for each in service.listeners)
            if open_now >= service.limits.connections:
                service.recorder.refused("too_many_connections")
                sock.close()
                continue
            sock.setblocking(False)
            peer = address[0] if isinstance(address, tuple) else UNIX
            task = service.loop.create_task(self._greet(sock, peer))
            self.greeting.add(task)
            task.add_done_callback(self.greeting.discard)

    def _resume(self, listening: socket.socket) -> None:
        if listening in self._sockets:
            self._service.loop.add_reader(listening, self._accept, listening)

    async def _greet(self, sock: socket.socket, peer: str) -> None:
        """What comes before the first request; then the connection is the protocol's."""
        service, tls, seconds = self._service, self.tls, self._service.timeouts.handshake
        until = service.clock() + seconds
        taken = False  # by a transport, which closes it
        try:
            if self._settings.proxy_protocol:
                if not service.forwarding.trusts(peer):
                    raise _Refused("untrusted_proxy_protocol")
                async with asyncio.timeout(seconds):
                    peer = await _client_behind(service.loop, sock) or peer
            taken = True
            if tls is None:
                await service.loop.connect_accepted_socket(lambda: self._client(peer), sock)
                return
            await service.loop.connect_accepted_socket(
                lambda: Dispatch(self._client(peer)),
                sock,
                ssl=tls.context,
                ssl_handshake_timeout=max(until - service.clock(), 0.001),
                ssl_shutdown_timeout=SHUTDOWN_SECONDS,
            )
        except _Refused as refused:
            if refused.reason:
                service.recorder.refused(refused.reason)
        except (TimeoutError, ConnectionAbortedError):  # the latter is what a handshake that is late raises
            service.recorder.refused("handshake_timeout")
        except OSError:  # ssl.SSLError too
            if tls is not None:
                service.recorder.refused("tls_handshake")
        finally:
            if not taken:
                sock.close()

    def _client(self, peer: str = "") -> Client:
        settings = self._settings
        return Client(self._service, peer, http2=settings.http2, half_close=settings.half_close)


class Dispatch(asyncio.Protocol):
    """Waits for the end of a handshake, and gives the connection to the protocol that ALPN chose."""

    def __init__(self, client: Client) -> None:
        self._client = client  # speaks HTTP/1, and takes the connection unless h2 was chosen

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        protocol: Client | Http2Connection = self._client
        if transport.get_extra_info("ssl_object").selected_alpn_protocol() == "h2":
            protocol = Http2Connection(self._client.service)
            protocol.peer = self._client.peer
        transport.set_protocol(protocol)
        protocol.connection_made(transport)


class _Refused(Exception):
    """The connection is closed; `reason` is counted, "" is not."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


async def _client_behind(loop: asyncio.AbstractEventLoop, sock: socket.socket) -> str | None:
    """Take the PROXY header from a socket; the client that it names, None for the socket's own peer. _Refused."""
    taken = b""
    while True:
        await _readable(loop, sock)
        try:
            seen = sock.recv(MAX_V2 - len(taken), socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            continue
        if not seen:  # a check whether the port is open sends nothing at all, and is no fault
            raise _Refused("bad_proxy_protocol" if taken else "")
        try:
            header = parse(taken + seen)
        except BadProxyHeader as problem:
            log.debug("a connection was closed: %s", problem)
            raise _Refused("bad_proxy_protocol") from None
        # While it is unfinished all of it is header: taken away, it does not wake us again.
        rest = len(seen) if header is None else header.size - len(taken)
        taken += sock.recv(rest)
        if header is not None:
            return header.client


async def _readable(loop: asyncio.AbstractEventLoop, sock: socket.socket) -> None:
    ready = asyncio.Event()
    loop.add_reader(sock, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(sock)


# --- sockets -------------------------------------------------------------------------------------------------


async def open_tcp(loop: asyncio.AbstractEventLoop, host: str, port: int) -> list[socket.socket]:
    """Sockets that listen on all addresses of a host, IPv6 ones for IPv6 alone as nginx has it. OSError."""
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    made: list[socket.socket] = []
    missing: OSError | None = None
    try:
        for family, kind, protocol, _, address in dict.fromkeys(found):
            sock = socket.socket(family, kind, protocol)
            made.append(sock)
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            if not port and len(made) > 1:  # "any port" is the same one for all of its addresses
                address = (address[0], made[0].getsockname()[1], *address[2:])
            try:
                sock.bind(address)
                sock.listen(BACKLOG)
            except OSError as problem:
                if problem.errno != errno.EADDRNOTAVAIL or len(found) == 1:
                    raise
                missing = problem  # localhost on a machine without IPv6: the other one will do
                made.remove(sock)
                sock.close()
    except OSError:
        for sock in made:
            sock.close()
        raise
    if not made:
        raise missing or OSError(errno.EADDRNOTAVAIL, "no address")
    return made


def open_unix(path: str) -> socket.socket:
    """A socket that listens on a file, for owner and group. What a dead process left there is replaced. OSError."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        with contextlib.suppress(OSError):  # on Linux the file is born with no more than this
            os.fchmod(sock.fileno(), SOCKET_MODE)
        if os.path.lexists(path):
            remove_stale(path)
        sock.bind(path)
        os.chmod(path, SOCKET_MODE)
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock


def remove_stale(path: str) -> None:
    """Remove a socket file that nobody listens on. OSError when somebody does, or when it is something else."""
    if not stat.S_ISSOCK(os.lstat(path).st_mode):
        raise FileExistsError(errno.EEXIST, "there is a file of this name that is no socket", path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except BlockingIOError:  # somebody listens, and his backlog is full
            pass
    raise OSError(errno.EADDRINUSE, "another process listens there", path)


def shown(sock: socket.socket) -> str:
    """HOST:PORT of a socket, an IPv6 host in brackets."""
    host, port = sock.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def why_not(problem: OSError, path: str, option: str) -> str:
    """Why an address cannot be had, and what to do; `path` is that of a Unix socket, `option` what to change."""
    if problem.errno == errno.EADDRINUSE:
        what = "another process listens on this file" if path else "this port is in use"
        return f"{what}: stop what listens there, or choose another with --{option}"
    if problem.errno == errno.EACCES and path:
        return "no permission: its folder must be writable for the user that runs this"
    if problem.errno == errno.EACCES:
        return f"no permission: ports below 1024 need root, choose a higher one with --{option}"
    if problem.errno == errno.EADDRNOTAVAIL:
        return "this machine has no such address"
    if problem.errno == errno.ENOENT and path:
        return "its folder does not exist: make it first"
    return problem.strerror or str(problem)
