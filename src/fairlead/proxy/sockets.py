"""What transports do not tell: the state of the socket below them.

Asked rarely (at a deadline, before a close), never on the way of a byte.
"""

from __future__ import annotations

import asyncio
import os
import resource
import select
import socket
import struct

RESERVED = 64  # descriptors for what is no connection: listeners, logs, the admin API, the loop's own
PER_BACKEND = 10  # probes and readings of one backend


def _polled(transport: asyncio.BaseTransport, events: int) -> int:
    sock = transport.get_extra_info("socket")
    if sock is None or sock.fileno() < 0:
        return 0
    poll = select.poll()
    poll.register(sock.fileno(), events)
    return sum(found for _, found in poll.poll(0))


def has_left(transport: asyncio.BaseTransport) -> bool:
    """Has the other side closed? For when its bytes are not read: what stands before its end would hide that."""
    return bool(_polled(transport, select.POLLRDHUP))


def is_broken(transport: asyncio.BaseTransport) -> bool:
    """Is the connection gone both ways, by a reset or because we ended our side too?"""
    return bool(_polled(transport, 0) & (select.POLLHUP | select.POLLERR))


def has_come(transport: asyncio.BaseTransport) -> bool:
    """Are there bytes (or an end) that the loop has not read yet?"""
    return bool(_polled(transport, select.POLLIN))


def reset_transport(transport: asyncio.Transport) -> None:
    """Close with a reset: the kernel drops what was not taken, and nobody takes a cut answer for a whole one."""
    sock = transport.get_extra_info("socket")
    if sock is not None:  # without lingering a close is a reset, not an orderly end
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


def raise_descriptor_limit() -> int:
    """Take as many file descriptors as this process may have; how many that are."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def fitting_connections(wanted: int, descriptors: int, backends: int) -> int:
    """How many client connections may be allowed: each can need another one to a backend."""
    return max(min(wanted, (descriptors - RESERVED - PER_BACKEND * backends) // 2), 1)


def open_descriptors() -> int | None:
    """How many are in use; None where the system does not tell."""
    try:
        return len(os.listdir("/proc/self/fd"))
    except OSError:
        return None
