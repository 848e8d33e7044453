"""What does systemd give us, and what does it want to hear?

Sockets that it opened come as descriptors from 3 on, told by LISTEN_* (sd_listen_fds(3)); news go as datagrams to
NOTIFY_SOCKET (sd_notify(3)). Both protocols are stable and a few lines, so there is no library for them.
Rule 1: what was given and fits no address is an error: it would fill up with clients that nobody serves.
Rule 2: news never wait and never fail: systemd that does not listen is no reason to stop.
Rule 3: the watchdog is fed by the loop itself, so a loop that is stuck feeds it no more.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from time import monotonic_ns
from typing import Final

from fairlead.config.schema import Address

FIRST: Final = 3  # descriptor (SD_LISTEN_FDS_START)
ADMIN: Final = "admin"
STATUS_SECONDS: Final = 1.0  # between two looks at the state


class ActivationError(Exception):
    """What systemd gave is not what is configured; the message is a sentence for people."""


async def activated(
    listens: Sequence[Address], admin: Address, environ: MutableMapping[str, str] = os.environ, first: int = FIRST
) -> dict[str, list[socket.socket]]:
    """The sockets that we were started with, by address. What told of them is taken out of `environ`."""
    pid, count, names = (environ.pop(f"LISTEN_{word}", "") for word in ("PID", "FDS", "FDNAMES"))
    if pid != str(os.getpid()) or not count.isdecimal():
        return {}
    named = names.split(":") if names else []
    found: dict[str, list[socket.socket]] = {}
    sockets = [socket.socket(fileno=first + number) for number in range(int(count))]
    try:
        for number, sock in enumerate(sockets):
            name = named[number] if number < len(named) else ""
            key = await _key(sock, name, listens, admin)
            found.setdefault(key, []).append(sock)
            sock.set_inheritable(False)
            sock.setblocking(False)
    except ActivationError:
        for sock in sockets:
            sock.close()
        raise
    return found


async def _key(sock: socket.socket, name: str, listens: Sequence[Address], admin: Address) -> str:
    """Which address a socket is for. ActivationError."""
    at = _shown(sock)
    try:
        accepts = sock.type == socket.SOCK_STREAM and sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError:
        accepts = False
    if not accepts:
        raise ActivationError(f"systemd gave {at}, which does not listen: use ListenStream= and Accept=no")
    if name == ADMIN:
        return ADMIN
    for address in listens:
        if name == str(address) or await _is_at(sock, address):
            return str(address)
    if await _is_at(sock, admin):
        return ADMIN
    known = ", ".join(map(str, listens))
    raise ActivationError(
        f"systemd gave a socket on {at}, and nothing is configured there (listen: {known}; admin: {admin}): "
        f"write the same address into both, or FileDescriptorName={ADMIN} for the admin listener"
    )


async def _is_at(sock: socket.socket, address: Address) -> bool:
    name = sock.getsockname()
    if sock.family == socket.AF_UNIX:
        return os.fsdecode(name) == address.path
    if address.path or name[1] != address.port:
        return False
    if name[0] == "::" and address.host == "0.0.0.0":  # ListenStream=8080 takes both families
        return not sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
    try:
        loop = asyncio.get_running_loop()
        hosts = await loop.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError:
        return False
    return any(found[0] == name[0] for *_, found in hosts)


def _shown(sock: socket.socket) -> str:
    name = sock.getsockname()
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return os.fsdecode(name) or "a socket without a name"
    return str(Address(*name[:2]))


class Notifier:
    """Tells systemd how we are. Without NOTIFY_SOCKET all of it does nothing."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        path = environ.get("NOTIFY_SOCKET", "")
        self._path = "\0" + path[1:] if path.startswith("@") else path
        self._socket: socket.socket | None = None
        if path:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._socket.setblocking(False)
        usec = environ.get("WATCHDOG_USEC", "")
        ours = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self.watchdog = int(usec) / 2e6 if usec.isdecimal() and ours else 0.0  # seconds between two signs of life
        self._status: Callable[[], str] | None = None
        self._told = ""
        self._timers: list[asyncio.TimerHandle] = []

    @property
    def is_heard(self) -> bool:
        return self._socket is not None

    def tell(self, *lines: str) -> None:
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.sendto("\n".join(lines).encode(), self._path)

    def ready(self, status: Callable[[], str]) -> None:
        """It serves; `status` is asked from now on for a line about how it does."""
        if self._socket is None:
            return
        self._status, self._told = status, status()
        self.tell("READY=1", f"STATUS={self._told}")
        self._every(STATUS_SECONDS, self._look)
        if self.watchdog:
            self._every(self.watchdog, lambda: self.tell("WATCHDOG=1"))

    def reloading(self) -> None:
        """Follow it with `reloaded`."""
        self.tell("RELOADING=1", f"MONOTONIC_USEC={monotonic_ns() // 1000}")

    def reloaded(self) -> None:
        self.tell("READY=1")

    def handed_on(self, pid: int) -> None:
        """Another process is the service now."""
        self.tell(f"MAINPID={pid}")
        self.close()  # what we say from now on would be taken for the other's

    def stopping(self) -> None:
        self.tell("STOPPING=1", "STATUS=draining")
        self._status = None

    def close(self) -> None:
        for timer in self._timers:
            timer.cancel()
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _look(self) -> None:
        if self._status is not None and (now := self._status()) != self._told:
            self._told = now
            self.tell(f"STATUS={now}")

    def _every(self, seconds: float, work: Callable[[], None]) -> None:
        loop, place = asyncio.get_running_loop(), len(self._timers)

        def again() -> None:
            work()
            self._timers[place] = loop.call_later(seconds, again)

        self._timers.append(loop.call_later(seconds, again))
