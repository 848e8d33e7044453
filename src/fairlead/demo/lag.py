"""Did this process keep up? How late do the timers of an event loop fire?

A demo on a machine that is too busy measures the machine, not the policies; this is how it notices.
Rule: one timer, worth a few microseconds a second.
"""

from __future__ import annotations

import asyncio
from typing import Final

EVERY: Final = 0.02  # seconds between two looks


class LagMeter:
    """`take` tells the worst lateness since the last `take`, in seconds."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._worst = 0.0
        self._due = self._loop.time() + EVERY
        self._timer = self._loop.call_at(self._due, self._look)

    def _look(self) -> None:
        now = self._loop.time()
        self._worst = max(self._worst, now - self._due)
        self._due = now + EVERY
        self._timer = self._loop.call_at(self._due, self._look)

    def take(self) -> float:
        worst = max(self._worst, self._loop.time() - self._due)
        self._worst = 0.0
        return worst

    def stop(self) -> None:
        self._timer.cancel()
