"""How do the supervisor and a worker talk? Questions and answers over a pair of connected sockets, in both directions.

A message is its length and its number, and a pickle: both ends are the same program, started by the same user, and
nobody else can reach the pair. Descriptors (listening sockets, connections between workers) go over a second pair. The
reader takes them at the moment that a message on the first one speaks of them: they were sent before it.

Rule 1: whoever is asked answers, with what was wrong if he must; when the other end is gone, every open question fails.
Rule 2: questions are begun in the order in which they were asked.
Rule 3: what cannot be read (the program was replaced on the disk while it runs) fails alone, and breaks no channel.
"""

from __future__ import annotations

import asyncio
import logging
import pickle
import socket
import struct
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, cast

from fairlead.control.fleet import Refused

log = logging.getLogger("fairlead")

_HEAD: Final = struct.Struct(">Iq")  # bytes of the pickle, number of the question; of an answer: below 0
_AT_ONCE: Final = 200  # descriptors in one message; the system takes 253
_ANSWERED, _REFUSED, _FAILED = "answered", "refused", "failed"

Handler = Callable[[str, tuple[Any, ...]], Awaitable[Any]]


class Gone(Exception):
    """The other end is not there any more, or could not answer."""


class Channel(asyncio.Protocol):
    """One end."""

    def __init__(self, handler: Handler, lost: Callable[[], None]) -> None:
        """`handler` answers the other end's questions; `lost` is called once, when it is gone."""
        self._handler, self._lost = handler, lost
        self._transport: asyncio.Transport | None = None
        self._bytes = bytearray()
        self._asked = 0
        self._open: dict[int, asyncio.Future[Any]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @classmethod
    async def over(cls, sock: socket.socket, handler: Handler, lost: Callable[[], None]) -> Channel:
        """On a connected socket, which is the channel's from now on."""
        sock.setblocking(False)
        _, made = await asyncio.get_running_loop().create_unix_connection(lambda: cls(handler, lost), sock=sock)
        return made

    async def ask(self, what: str, *arguments: Any, seconds: float | None = None) -> Any:
        """Its answer. Gone, Refused; TimeoutError after so many seconds."""
        if self._transport is None:
            raise Gone("it is not there any more")
        self._asked += 1
        number = self._asked
        answer = self._open[number] = asyncio.get_running_loop().create_future()
        self._send(number, what, arguments)
        try:
            async with asyncio.timeout(seconds):
                return await answer
        finally:
            self._open.pop(number, None)

    async def answered(self, seconds: float) -> None:
        """Wait until what was asked is answered, for so long at most."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=seconds)

    def close(self) -> None:
        """Let go of it."""
        if self._transport is not None:
            self._transport.close()

    def _send(self, number: int, *rest: Any) -> None:
        if self._transport is not None:
            data = pickle.dumps(rest, pickle.HIGHEST_PROTOCOL)
            self._transport.write(_HEAD.pack(len(data), number) + data)

    # --- asyncio.Protocol ------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are not of that class

    def data_received(self, data: bytes) -> None:
        self._bytes += data
        while len(self._bytes) >= _HEAD.size:
            length, number = _HEAD.unpack_from(self._bytes)
            end = _HEAD.size + length
            if len(self._bytes) < end:
                return
            data = bytes(self._bytes[_HEAD.size : end])
            del self._bytes[:end]
            try:
                what, rest = pickle.loads(data)  # noqa: S301 -- see above
            except Exception as problem:
                why = f"it cannot be read ({type(problem).__name__}: {problem}): was the program replaced?"
                if number > 0:
                    self._send(-number, _FAILED, why)
                    continue
                what, rest = _FAILED, why
            self._take(number, what, rest)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        for answer in self._open.values():
            if not answer.done():
                answer.set_exception(Gone("the process at the other end died"))
        self._lost()

    # --- messages --------------------------------------------------------------------------------------------

    def _take(self, number: int, what: str, rest: Any) -> None:
        if number > 0:
            task = asyncio.get_running_loop().create_task(self._answer(number, what, rest))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            return
        answer = self._open.get(-number)
        if answer is None or answer.done():  # nobody waits for it any more
            return
        if what == _ANSWERED:
            answer.set_result(rest)
        elif what == _REFUSED:
            answer.set_exception(Refused(*rest))
        else:
            answer.set_exception(Gone(rest))

    async def _answer(self, number: int, what: str, arguments: tuple[Any, ...]) -> None:
        try:
            told = _ANSWERED, await self._handler(what, arguments)
        except Refused as refused:
            told = _REFUSED, (refused.status, str(refused), refused.problems)
        except Exception as problem:
            log.exception("a worker's question could not be answered: %s", what)
            told = _FAILED, f"{type(problem).__name__}: {problem}"
        self._send(-number, *told)


# --- descriptors ---------------------------------------------------------------------------------------------


def send_sockets(over: socket.socket, sockets: Sequence[socket.socket | int]) -> None:
    """OSError when the other end is gone."""
    numbers = [each if isinstance(each, int) else each.fileno() for each in sockets]
    for first in range(0, len(numbers), _AT_ONCE):
        socket.send_fds(over, [b"+"], numbers[first : first + _AT_ONCE])


def take_descriptors(over: socket.socket, count: int) -> list[int]:
    """All that were sent with one question, which says how many; they are ours to close. OSError."""
    found: list[int] = []
    while len(found) < count:
        data, numbers, _, _ = socket.recv_fds(over, 1, _AT_ONCE)
        if not data:
            raise ConnectionResetError("the other end is gone")
        found += numbers
    return found


def as_sockets(numbers: Sequence[int], counts: Sequence[tuple[str, int]]) -> dict[str, list[socket.socket]]:
    """Groups of so many each, by their names."""
    rest = iter(numbers)
    return {name: [socket.socket(fileno=next(rest)) for _ in range(count)] for name, count in counts}
