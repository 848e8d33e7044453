"""Which worker listens on which socket?

A TCP address has one socket per worker, all bound with SO_REUSEPORT: the kernel gives each connection to one of them.
The supervisor keeps them open, so that what waits at the socket of a worker that died is served by the one that takes
its place. A Unix socket, and a TCP socket that was bound without that flag, is shared by all.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Mapping, Sequence
from typing import Any

from fairlead.config.schema import Address, Listen
from fairlead.proxy.listener import BACKLOG, open_tcp, open_unix, remove_stale

Sockets = dict[str, list[socket.socket]]
"""By the address that they are for, as the configuration has it."""


def bound_again(sock: socket.socket) -> socket.socket:
    """One more socket on the same address; `sock` must be bound with SO_REUSEPORT. OSError."""
    return _bound(sock.family, sock.type, sock.proto, sock.getsockname())


def _bound(family: int, kind: int, protocol: int, name: Any) -> socket.socket:
    made = socket.socket(family, kind, protocol)
    try:
        made.setblocking(False)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.bind(name)
        made.listen(BACKLOG)
    except OSError:
        made.close()
        raise
    return made


def is_shared(sock: socket.socket) -> bool:
    """Must all use this very one?"""
    return sock.family == socket.AF_UNIX or not sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT)


async def open_address(address: Address, workers: int) -> list[socket.socket]:
    """All sockets of an address. OSError when it cannot be had, or when another process listens there."""
    if address.path:
        return [open_unix(address.path)]
    # First without the flag: with it two Fairleads of one user would share a port, and neither would know.
    probes = await open_tcp(asyncio.get_running_loop(), address.host, address.port)
    found = [(probe.family, probe.type, probe.proto, probe.getsockname()) for probe in probes]
    for probe in probes:
        probe.close()
    made: list[socket.socket] = []
    try:
        for each in found:
            made += [_bound(*each) for _ in range(workers)]
    except OSError:
        for sock in made:
            sock.close()
        raise
    return made


def complete(sockets: Sequence[socket.socket], workers: int) -> list[socket.socket]:
    """Those that were taken over, and as many more as the workers need; any surplus stays, as clients wait there."""
    found = list(sockets)
    for names in _by_name(sockets).values():
        if not is_shared(names[0]):
            found += [bound_again(names[0]) for _ in range(workers - len(names))]
    return found


def share(sockets: Mapping[str, Sequence[socket.socket]], worker: int, workers: int) -> Sockets:
    """What one of the workers listens on."""
    found: Sockets = {}
    for address, all_of_it in sockets.items():
        mine = found[address] = []
        for same in _by_name(all_of_it).values():
            mine += same if is_shared(same[0]) else same[worker::workers]
    return found


def _by_name(sockets: Sequence[socket.socket]) -> dict[object, list[socket.socket]]:
    """Localhost is two addresses, and each of them has sockets."""
    found: dict[object, list[socket.socket]] = {}
    for sock in sockets:
        found.setdefault((sock.family, sock.getsockname()), []).append(sock)
    return found


def close(sockets: Mapping[str, Sequence[socket.socket]], listens: Sequence[Listen] = ()) -> None:
    """Close them, and remove the files of those addresses that are Unix sockets."""
    for address, each in sockets.items():
        for sock in each:
            sock.close()
        path = next((listen.address.path for listen in listens if str(listen.address) == address), "")
        if path:
            with contextlib.suppress(OSError):  # there is none, or it is another process's by now
                remove_stale(path)
