"""The pacer: when, on the wall clock, does each step of an engine end?

Rule 1: engine time runs `speed` times as fast as the event loop's clock.
Rule 2: the next step begins where the last one ended, not when the timer fired: lateness of timers never adds up.
Rule 3: a process that cannot keep up falls behind by at most `MAX_LAG`; beyond that engine time is stretched.
Rule 4: an idle engine has no timer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from fairlead.emulator.engine import Engine
from fairlead.emulator.work import EmulatedRequest, RequestId, StepResult

MAX_LAG: Final = 0.5  # wall seconds


class Pacer:
    """Drives one engine in real time; `deliver` gets each step's result at the moment the step ends."""

    def __init__(self, engine: Engine, speed: float, deliver: Callable[[StepResult], None]) -> None:
        self.engine = engine
        self._speed = speed
        self._deliver = deliver
        self._loop = asyncio.get_running_loop()
        self._origin = self._loop.time()  # wall time of engine time 0
        self._timer: asyncio.Handle | None = None
        self._paused_at: float | None = None
        self._stopped = False
        self._due = 0.0  # wall time at which the step in flight ends

    @property
    def now(self) -> float:
        """Engine time in seconds; it stands still while paused."""
        wall = self._loop.time() if self._paused_at is None else self._paused_at
        return (wall - self._origin) * self._speed

    def submit(self, request: EmulatedRequest) -> None:
        self.engine.submit(request, self.now)
        if self._timer is None and not self._stopped and self._paused_at is None:
            self._timer = self._loop.call_soon(self._begin)  # soon: requests that arrive together share a step

    def abort(self, request_id: RequestId) -> bool:
        return self.engine.abort(request_id)

    def pause(self) -> None:
        """Stop engine time, in the middle of a step if need be."""
        if self._paused_at is None:
            self._paused_at = self._loop.time()
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    def resume(self) -> None:
        """Let engine time go on where it stopped."""
        if self._paused_at is None or self._stopped:
            return
        pause = self._loop.time() - self._paused_at
        self._origin += pause
        self._due += pause
        self._paused_at = None
        if self.engine.in_flight:
            self._timer = self._loop.call_at(self._due, self._end)
        else:
            self._timer = self._loop.call_soon(self._begin)

    def stop(self) -> None:
        """For good; the engine keeps its state."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _begin(self) -> None:
        self._timer = None
        duration = self.engine.begin_step()
        if duration is None:
            return
        self._due = self._origin + (self.engine.clock + duration) / self._speed
        self._timer = self._loop.call_at(self._due, self._end)

    def _end(self) -> None:
        self._timer = None
        lag = self._loop.time() - self._due
        if lag > MAX_LAG:
            self._origin += lag
        self._deliver(self.engine.end_step())
        # delivering may have stopped or paused this pacer (a crash)
        if not self._stopped and self._paused_at is None and self._timer is None:
            self._begin()
