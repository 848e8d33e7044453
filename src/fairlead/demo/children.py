"""The demo's side of its children: start one, hear from it, end it.

Rule 1: whoever starts a child stops it, on every path; a child whose parent vanished ends by itself (see child.py).
Rule 2: Ctrl-C is the demo's to handle: children live in a session of their own and do not see it.
"""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from collections.abc import Callable
from typing import Any, Final

import msgspec

START_SECONDS: Final = 20.0  # a busy machine takes a while to load Python
STOP_SECONDS: Final = 5.0


class ChildFailed(Exception):
    """It did not start, or ended on its own; the message is a sentence for people."""


class Child:
    """`child = await Child.start("engines", options)`; then `child.ready` holds what it said."""

    def __init__(self, role: str, process: asyncio.subprocess.Process, told: Callable[[dict[str, Any]], None]) -> None:
        self.role = role
        self.ready: dict[str, Any] = {}
        self._process = process
        self._told = told
        self._said: deque[str] = deque(maxlen=12)  # the end of its standard error
        self._first: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._stopping = False
        self._tasks = [asyncio.create_task(self._hear()), asyncio.create_task(self._keep_errors())]

    @classmethod
    async def start(
        cls, role: str, options: dict[str, Any], told: Callable[[dict[str, Any]], None] = lambda _: None
    ) -> Child:
        """Returns when it serves; `told` gets each of its half-second lines. ChildFailed."""
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "fairlead.demo.child", role, msgspec.json.encode(options).decode(),
            stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True,
        )  # fmt: skip
        child = cls(role, process, told)
        try:
            async with asyncio.timeout(START_SECONDS):
                first = await asyncio.shield(child._first)
            if "problem" in first:
                raise ChildFailed(first["problem"])
            child.ready = first["ready"]
        except TimeoutError:
            await child.stop()
            raise ChildFailed(f"the {role} process did not start within {START_SECONDS:g} s") from None
        except BaseException:
            await child.stop()
            raise
        return child

    @property
    def pid(self) -> int:
        return self._process.pid

    def check(self) -> None:
        """ChildFailed when it is no longer there."""
        if self._process.returncode is not None and not self._stopping:
            raise ChildFailed(self._epitaph())

    async def stop(self) -> None:
        """End it, and wait for that."""
        self._stopping = True
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
        await asyncio.gather(*self._tasks)
        if self._first.done() and not self._first.cancelled():
            self._first.exception()  # seen, whoever asked

    async def _hear(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            said = msgspec.json.decode(line)
            if not self._first.done():
                self._first.set_result(said)
            else:
                self._told(said)
        await self._process.wait()
        if not self._first.done():
            self._first.set_exception(ChildFailed(self._epitaph()))

    async def _keep_errors(self) -> None:
        assert self._process.stderr is not None
        async for line in self._process.stderr:
            self._said.append(line.decode(errors="replace").rstrip())

    def _epitaph(self) -> str:
        last = f": {self._said[-1]}" if self._said else ""
        return f"the {self.role} process ended with status {self._process.returncode}{last}"
