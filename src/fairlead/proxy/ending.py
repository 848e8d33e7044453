"""How does the balancer stop, so that nobody who was promised an answer goes without one?

It says that it will; it stops accepting; what runs may finish; what has not finished then is broken off visibly.
Rule 1: whoever sends requests by health checks can learn of the end before connections are refused: `delay`.
Rule 2: from the first moment on each answer closes its connection, so that clients go elsewhere by themselves.
Rule 3: when there is no more patience (`break_off`), nothing is waited for but the last bytes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fairlead.proxy.service import Service

STEP = 0.02  # seconds between two looks whether all is done
LAST_BYTES_SECONDS = 1.0  # after the drain's end: time for the last bytes to leave


class Ending:
    """The end of one service."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._hurried = False
        self._broken_off = 0  # requests that the hurry cost

    async def drain(self, seconds: float, delay: float = 0.0) -> int:
        """Stop accepting after `delay` seconds, wait `seconds` for what runs; how many had to be broken off."""
        service = self._service
        service.draining = True
        await self._wait(delay, lambda: not self._hurried)
        for listener in service.listeners:
            listener.stop()
        for client in list(service.clients):
            client.finish()
        await self._wait(seconds, lambda: self._busy() and not self._hurried)
        left = self._broken_off + len(service.exchanges)
        self._shut_down()
        await self._wait(LAST_BYTES_SECONDS, self._busy)
        self._shut_down()  # requests that became whole in these last moments
        for client in list(service.clients):
            client.cut(reset=False)
        return left

    def break_off(self) -> None:
        """No more patience with requests that still run, or are on their way in."""
        self._hurried = True
        self._broken_off += len(self._service.exchanges)
        self._shut_down()

    def _shut_down(self) -> None:
        for exchange in list(self._service.exchanges):
            exchange.shutdown()

    def _busy(self) -> bool:
        return any(client.busy for client in self._service.clients)

    async def _wait(self, seconds: float, waits: Callable[[], bool]) -> None:
        clock = self._service.clock
        until = clock() + seconds
        while waits() and clock() < until:
            await asyncio.sleep(STEP)
