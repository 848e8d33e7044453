"""One worker as the supervisor sees it: a process, a channel to it, and a way to hand it descriptors."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any

from fairlead.workers.channel import Channel, Gone, send_sockets

ANSWER_SECONDS = 2.0  # for what a living worker answers at once


class Member:
    """A worker that was started. `lost` is called when it is gone."""

    def __init__(self, index: int, process: asyncio.subprocess.Process, descriptors: socket.socket) -> None:
        self.index, self.process = index, process
        self.began = monotonic()
        self.is_lost = False  # is its channel broken?
        self.silent = 0  # questions in a row that it did not answer
        self._descriptors = descriptors
        self._channel: Channel | None = None

    def __repr__(self) -> str:
        return f"<Member {self.index}, process {self.process.pid}>"

    @classmethod
    async def spawn(cls, index: int, lost: Callable[[Member], None]) -> Member:
        """A process that waits for its orders. OSError."""
        ours, theirs = socket.socketpair()
        hands, takes = socket.socketpair()
        hands.setblocking(False)
        try:
            numbers = theirs.fileno(), takes.fileno()
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "fairlead.workers.child", *map(str, numbers), pass_fds=numbers,
                stdin=asyncio.subprocess.DEVNULL,
            )  # fmt: skip
        except BaseException:
            ours.close()
            hands.close()
            raise
        finally:
            theirs.close()
            takes.close()
        made = cls(index, process, hands)
        made._channel = await Channel.over(ours, made._answer, lambda: lost(made))
        return made

    async def _answer(self, what: str, arguments: tuple[Any, ...]) -> Any:
        raise Gone(f"a worker asks nothing, but asked {what}")

    async def ask(
        self,
        what: str,
        *arguments: Any,
        sockets: Sequence[socket.socket | int] = (),
        seconds: float | None = None,
    ) -> Any:
        """Ask it, and hand it what it needs for that; by itself it has ANSWER_SECONDS. Gone, Refused, TimeoutError."""
        assert self._channel is not None
        try:
            send_sockets(self._descriptors, sockets)
        except OSError as problem:
            raise Gone(str(problem)) from None
        return await self._channel.ask(what, *arguments, seconds=ANSWER_SECONDS if seconds is None else seconds)

    def kill(self) -> None:
        """It does not do what it should."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()

    async def gone(self) -> int:
        """Wait for its end; its exit status."""
        status = await self.process.wait()
        self._descriptors.close()
        if self._channel is not None:
            self._channel.close()
        return status
