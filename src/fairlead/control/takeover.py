"""How does a new process take the listening sockets over from one that runs, so that no client is refused?

The old one waits at a control socket in a folder of its user alone. The new one connects, gets all listening sockets,
starts wholly, and says that it is ready; only then does the old one stop accepting and drain.
Rule 1: both hold the same sockets meanwhile, so what waits in their queues is always somebody's to accept.
Rule 2: a new one that ends before it is ready costs nothing: the old one serves on, and logs it.
Rule 3: only the same user (or root) is answered, as the kernel names him; the folder is nobody else's to enter.
Rule 4: one at a time, and nobody is waited for without a limit.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import os
import socket
import stat
import struct
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

log = logging.getLogger("fairlead")

MAX_PATH: Final = 107  # bytes of a Unix socket's path: sun_path has 108, with its end (unix(7))
MAX_SOCKETS: Final = 250  # in one message; the kernel's limit is 253 (SCM_MAX_FD)
MAX_MESSAGE: Final = 64 * 1024
START_SECONDS: Final = 180.0  # for the new one to become ready
ANSWER_SECONDS: Final = 10.0  # for the old one to say something
CREDENTIALS: Final = struct.Struct("3i")  # pid, uid, gid (unix(7), SO_PEERCRED)

Sockets = dict[str, list[socket.socket]]


class TakeoverError(Exception):
    """It cannot be taken over; the message is a sentence for people."""


@dataclass(slots=True)
class Offered:
    """What the old process has to give."""

    sockets: Mapping[str, Sequence[socket.socket]]  # by address; the admin listener's under "admin"
    files: Collection[str] = ()  # the addresses whose socket files are removed by who serves them


def control_path(admin: str, environ: Mapping[str, str] = os.environ) -> str:
    """Where a Fairlead with this admin address is found. Its folder is made, for us alone. TakeoverError."""
    runtime = environ.get("XDG_RUNTIME_DIR")
    if runtime:
        folder = Path(runtime) / "fairlead"
    elif os.getuid() == 0:
        folder = Path("/run/fairlead")
    else:
        folder = Path(environ.get("TMPDIR") or "/tmp") / f"fairlead-{os.getuid()}"  # noqa: S108 -- checked below
    path = str(folder / f"{hashlib.sha256(admin.encode()).hexdigest()[:16]}.sock")
    if len(os.fsencode(path)) > MAX_PATH:
        raise TakeoverError(f"{path}: more than {MAX_PATH} bytes; set XDG_RUNTIME_DIR to a shorter folder")
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = os.lstat(folder)
    except OSError as problem:
        raise TakeoverError(f"{folder}: {problem.strerror}") from None
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise TakeoverError(f"{folder}: must be a folder that you alone may enter (chmod 700), and yours")
    return path


def peer_of(sock: socket.socket) -> tuple[int, int]:
    """(process, user) at the other end, as the kernel has it."""
    pid, uid, _ = CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size))
    return pid, uid


def is_trusted(uid: int) -> bool:
    """May this user have our sockets?"""
    return uid in (os.getuid(), 0)


def _send(sock: socket.socket, message: dict[str, Any], sockets: Sequence[socket.socket] = ()) -> None:
    socket.send_fds(sock, [json.dumps(message).encode()], [each.fileno() for each in sockets])


async def _readable(sock: socket.socket, seconds: float) -> None:
    """Wait until something came, or the other side ended. TimeoutError."""
    loop, ready = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(sock, ready.set)
    try:
        async with asyncio.timeout(seconds):
            await ready.wait()
    finally:
        loop.remove_reader(sock)


async def _receive(sock: socket.socket, seconds: float) -> tuple[dict[str, Any], list[socket.socket]]:
    """One message; {} when the other side has ended. TimeoutError, OSError, ValueError."""
    await _readable(sock, seconds)
    data, descriptors, _, _ = socket.recv_fds(sock, MAX_MESSAGE, MAX_SOCKETS)
    sockets = [socket.socket(fileno=each) for each in descriptors]
    for each in sockets:
        each.set_inheritable(False)  # what comes this way is: our workers would keep it open, and accept nothing there
    message = json.loads(data) if data else {}
    if not isinstance(message, dict):
        raise ValueError("no message of ours")
    return message, sockets


# --- the old process -----------------------------------------------------------------------------------------


class Offer:
    """Waits for a successor. `release` stops accepting, and is called when one is ready."""

    def __init__(self, path: str, offered: Callable[[], Offered], release: Callable[[int], Awaitable[None]]) -> None:
        """`release` gets the successor's process id."""
        self._path, self._offered, self._release = path, offered, release
        self._socket: socket.socket | None = None
        self._file = (0, 0)
        self._task: asyncio.Task[None] | None = None  # with the successor at hand

    def open(self) -> None:
        """Be found from now on, in place of any other. OSError."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        made = os.path.join(os.path.dirname(self._path), f"{os.getpid()}.new")
        try:
            sock.setblocking(False)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(made)
            sock.bind(made)
            os.chmod(made, 0o600)
            sock.listen(8)
            os.rename(made, self._path)  # who is asked next is us; there is no moment without anybody
            found = os.stat(self._path)
        except OSError:
            sock.close()
            raise
        self._file = found.st_dev, found.st_ino
        self._socket = sock
        asyncio.get_running_loop().add_reader(sock, self._accept)

    def close(self) -> None:
        """Be found no more. What is under way goes on."""
        if self._socket is None:
            return
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()
        self._socket = None
        with contextlib.suppress(OSError):  # a successor's by now: then it is not ours to remove
            found = os.stat(self._path)
            if (found.st_dev, found.st_ino) == self._file:
                os.unlink(self._path)

    def _accept(self) -> None:
        assert self._socket is not None
        try:
            sock, _ = self._socket.accept()
        except OSError:
            return  # it left again
        pid, uid = peer_of(sock)
        sock.setblocking(False)
        refusal = ""
        if not is_trusted(uid):
            refusal = f"user {uid} may not have the sockets of user {os.getuid()}"
            log.warning("a takeover was refused: %s", refusal)
        elif self._task is not None and not self._task.done():
            refusal = "another process takes over at the moment"
        if refusal:
            with contextlib.suppress(OSError):
                _send(sock, {"error": refusal})
            sock.close()
            return
        self._task = asyncio.get_running_loop().create_task(self._hand_over(sock, pid))

    async def _hand_over(self, sock: socket.socket, pid: int) -> None:
        with sock:
            try:
                if not (await _receive(sock, ANSWER_SECONDS))[0].get("take"):
                    return  # somebody only looked whether we are here
                offered = self._offered()
                each = [(address, one) for address, all_of_it in offered.sockets.items() for one in all_of_it]
                for start in range(0, len(each), MAX_SOCKETS):
                    part = each[start : start + MAX_SOCKETS]
                    _send(sock, {"sockets": [address for address, _ in part]}, [one for _, one in part])
                _send(sock, {"files": sorted(offered.files), "pid": os.getpid()})
                log.info("process %d takes over: its start is waited for", pid)
                message, _ = await _receive(sock, START_SECONDS)
            except (OSError, ValueError, TimeoutError) as problem:
                log.error("the takeover by process %d came to nothing (%s): this one serves on", pid, problem)
                return
            if not message.get("ready"):
                log.error("process %d ended before it was ready to take over: this one serves on", pid)
                return
            log.info("process %d has taken over", pid)
            await self._release(pid)
            with contextlib.suppress(OSError):
                _send(sock, {"released": True})


# --- the new process -----------------------------------------------------------------------------------------


@dataclass(slots=True)
class Inheritance:
    """What a running process gave us. Follow it with `ready`, or `close` where the start failed."""

    sockets: Sockets
    files: frozenset[str]
    pid: int  # of the old one
    _line: socket.socket = field(repr=False)

    async def ready(self) -> None:
        """All is started: the old one may go. Returns when it accepts no more, or has ended."""
        with self._line, contextlib.suppress(OSError, ValueError, TimeoutError):
            _send(self._line, {"ready": True})
            await _receive(self._line, ANSWER_SECONDS)

    def close(self) -> None:
        """The old one need not wait for us."""
        self._line.close()

    def drop(self, unused: Collection[str]) -> None:
        """Close sockets that nobody here listens on."""
        for address in unused:
            for sock in self.sockets.pop(address, ()):
                sock.close()


async def take_over(path: str) -> Inheritance | None:
    """The sockets of the process that is found there; None when there is none. TakeoverError."""
    line = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sockets: Sockets = {}
    try:
        line.setblocking(False)
        try:
            line.connect(path)
        except (FileNotFoundError, ConnectionRefusedError):
            line.close()
            return None
        if not is_trusted(peer_of(line)[1]):
            raise TakeoverError(f"{path}: somebody else's process listens there")
        _send(line, {"take": True})
        while True:
            message, got = await _receive(line, ANSWER_SECONDS)
            for address, sock in zip(message.get("sockets", ()), got, strict=True):
                sockets.setdefault(address, []).append(sock)
            if "error" in message:
                raise TakeoverError(message["error"])
            if not message:
                raise TakeoverError("the running process ended meanwhile")
            if "pid" in message:
                return Inheritance(sockets, frozenset(message["files"]), message["pid"], line)
    except (OSError, ValueError, TimeoutError) as problem:
        _close(line, sockets)
        raise TakeoverError(f"the running process does not answer: {problem or 'it took too long'}") from None
    except TakeoverError:
        _close(line, sockets)
        raise


def is_running(path: str) -> bool:
    """Does somebody wait there for a successor?"""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as line:
        line.setblocking(False)
        try:
            line.connect(path)
        except OSError:
            return False
        return True


def _close(line: socket.socket, sockets: Sockets) -> None:
    line.close()
    for each in sockets.values():
        for sock in each:
            sock.close()
