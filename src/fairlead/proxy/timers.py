"""One coarse timer for everything: deadlines with 100 ms grain, no timer per request.

An owner (a client connection) has one `deadline`; it may move as often as it likes at the cost of an attribute.
The wheel looks at an owner only when the earliest time it was entered for has come, and enters it anew if the
deadline has moved on. Times are those of `time.monotonic`: uvloop's own clock counts whole milliseconds.
Deadlines count only time in which this process could have done something: after it was frozen (SIGSTOP, a paused
machine), what came meanwhile is read first, and nobody is blamed for the silence.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from time import monotonic
from typing import Protocol

log = logging.getLogger("fairlead")

TICK = 0.1  # seconds
SLOTS = 1024  # one turn of the wheel: 102 s; later deadlines go round again
FROZEN = 2.0  # seconds without a tick that are no load but a stop of the process
NEVER = float("inf")


class Owner(Protocol):
    """Something with a deadline. Set `deadline` and, if it is before `wake`, call `Wheel.enter`."""

    deadline: float
    wake: float

    def on_deadline(self, now: float) -> None: ...


class Wheel:
    """Calls owners when their deadlines pass, and every `on_tick` hook once a tick. `now` is the tick's time.

    Hooks get the real time; `now` and deadlines are behind it by all the time in which the process was frozen.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._slots: list[list[tuple[float, Owner]]] = [[] for _ in range(SLOTS)]
        self._tick = 0
        self._start = self.now = monotonic()
        self._handle: asyncio.TimerHandle | None = None
        self.on_tick: list[Callable[[float], None]] = []
        self._frozen = 0.0  # seconds in all
        self.lag = 0.0  # seconds by which the last tick came late: how long the loop was held up

    def start(self) -> None:
        self._start = self.now = monotonic()
        self._tick = 0
        self._frozen = 0.0
        self._handle = self._loop.call_later(TICK, self._fire)

    def stop(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def enter(self, owner: Owner) -> None:
        """Look at `owner` when its deadline of now has come."""
        owner.wake = owner.deadline
        if owner.deadline == NEVER:
            return
        ticks = int((owner.deadline - self._start) / TICK) + 1
        ticks = min(max(ticks, self._tick + 1), self._tick + SLOTS - 1)
        self._slots[ticks % SLOTS].append((owner.deadline, owner))

    def _fire(self) -> None:
        real = monotonic()
        self.lag = max(real - self._frozen - (self._start + (self._tick + 1) * TICK), 0.0)
        if self.lag > FROZEN:
            log.warning("the process stood still for %.1f s; deadlines are put off by as much", self.lag)
            self._frozen += self.lag
        self.now = now = real - self._frozen
        due = max(int((now - self._start) / TICK), self._tick + 1)
        first = self._tick + 1
        self._tick = due
        try:
            for tick in range(first, due + 1):
                slot = tick % SLOTS
                entries = self._slots[slot]
                if entries:
                    self._slots[slot] = []
                    for stamp, owner in entries:
                        if owner.wake == stamp:  # else it was entered again for an earlier time: that entry counts
                            self._look(owner, now)
            for hook in self.on_tick:
                try:
                    hook(real)
                except Exception:
                    log.exception("a periodic task failed; this is a fault in Fairlead")
        finally:
            after = self._start + (due + 1) * TICK + self._frozen - monotonic()
            self._handle = self._loop.call_later(max(after, 0.0), self._fire)

    def _look(self, owner: Owner, now: float) -> None:
        owner.wake = NEVER
        if owner.deadline <= now:
            try:
                owner.on_deadline(now)
            except Exception:
                log.exception("a deadline could not be handled; this is a fault in Fairlead")
        elif owner.deadline != NEVER:
            self.enter(owner)
