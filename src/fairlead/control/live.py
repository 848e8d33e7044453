"""How do many viewers see the fleet live, and what does that cost? Server-sent events, made once for all of them.

A viewer first gets everything with the history, then what is true now, once a second.
Rule 1: nothing is computed while nobody looks.
Rule 2: one snapshot and one encoding per second, however many look.
Rule 3: a viewer that takes nothing is dropped, not waited for; it may come again. There are at most MAX_VIEWERS.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec
from aiohttp import web

log = logging.getLogger("fairlead")

MAX_VIEWERS: Final = 32
MAX_UNSENT: Final = 8  # events that wait for one viewer; then it is dropped
SECONDS: Final = 1.0  # between two events

Snapshot = Callable[[bool], Awaitable[dict[str, Any]]]
"""What there is to see now; True: with the history."""


def event(name: str, data: dict[str, Any]) -> bytes:
    """One server-sent event; JSON has no line breaks, so it is one line."""
    return b"event: " + name.encode() + b"\ndata: " + msgspec.json.encode(data) + b"\n\n"


class Viewer:
    """What waits to be sent to one."""

    def __init__(self) -> None:
        self._unsent: asyncio.Queue[bytes | None] = asyncio.Queue(MAX_UNSENT)
        self.dropped = False

    def give(self, data: bytes) -> bool:
        """False: it has taken nothing for too long."""
        try:
            self._unsent.put_nowait(data)
        except asyncio.QueueFull:
            return False
        return True

    def end(self) -> None:
        """No more events: those that wait are not sent either."""
        while not self._unsent.empty():
            self._unsent.get_nowait()
        self._unsent.put_nowait(None)

    async def next(self) -> bytes | None:
        return await self._unsent.get()


class Live:
    """Who looks, and the one who tells them."""

    def __init__(self, snapshot: Snapshot, seconds: float = SECONDS) -> None:
        self._snapshot, self._seconds = snapshot, seconds
        self._viewers: dict[Viewer, asyncio.Transport | None] = {}
        self._telling: asyncio.Task[None] | None = None
        self._closed = False
        self.dropped = 0

    @property
    def viewers(self) -> int:
        return len(self._viewers)

    async def serve(self, request: web.Request) -> web.StreamResponse | None:
        """Tell this one until it leaves. None: there are too many, or it is the end."""
        if self._closed or len(self._viewers) >= MAX_VIEWERS:
            return None
        viewer = Viewer()
        self._viewers[viewer] = request.transport
        try:
            response = web.StreamResponse(
                headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
            )
            first = event("full", await self._snapshot(True))
            await response.prepare(request)
            await response.write(first)
            if self._telling is None:
                self._telling = asyncio.create_task(self._tell())
            while (data := await viewer.next()) is not None:
                await response.write(data)
        except ConnectionError:
            pass  # it left
        finally:
            self._viewers.pop(viewer, None)
        return response

    async def _tell(self) -> None:
        """Once a second, as long as somebody looks."""
        try:
            while True:
                await asyncio.sleep(self._seconds)
                if not self._viewers:
                    return
                try:
                    data = event("now", await self._snapshot(False))
                except Exception:
                    log.exception("the dashboard's view could not be made; this is a fault in Fairlead")
                    continue
                for viewer, transport in list(self._viewers.items()):
                    if not viewer.give(data):
                        self._drop(viewer, transport)
        finally:
            self._telling = None

    def _drop(self, viewer: Viewer, transport: asyncio.Transport | None) -> None:
        self.dropped += 1
        self._viewers.pop(viewer, None)
        viewer.end()
        if transport is not None:
            transport.abort()  # what waits in its buffer would keep it open

    async def close(self) -> None:
        """The end: viewers are told nothing more."""
        self._closed = True
        for viewer in self._viewers:
            viewer.end()
        if self._telling is not None:
            self._telling.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._telling
