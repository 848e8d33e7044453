"""Work that must not hold up the loop: how does a thread of our own do it, and how does it end?

The loop leaves things in a queue of the owner's; the thread looks into it now and then.
Rule 1: while the thread runs Python the loop does not, so it works in short pieces and calls `pause` between them.
Rule 2: who closes waits for what was taken, but not for ever: a disk or a collector may not answer.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

PERIOD_SECONDS: Final = 0.25  # between two looks into the queue
PAUSE_SECONDS: Final = 0.0005  # the loop's turn
CLOSE_SECONDS: Final = 5.0  # for what does not answer


class Background:
    """A thread that calls `work` every `period` seconds and once more when it is closed, and then `end`.

    `work` answers whether to go on; where it does not, the thread is over, without `end`.
    """

    def __init__(
        self, name: str, work: Callable[[], bool], end: Callable[[], None], *, period: float = PERIOD_SECONDS
    ) -> None:
        self._work, self._end, self._period = work, end, period
        self.closed = False
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin; once the owner is whole."""
        self._thread.start()

    def pause(self) -> None:
        """Let the loop have its turn; no pause any more when closing."""
        self._closing.wait(PAUSE_SECONDS)

    def close(self, seconds: float = CLOSE_SECONDS) -> bool:
        """Do what is left, for so long at most; False when the thread is still at it."""
        self.closed = True
        self._closing.set()
        return self.join(seconds)

    def join(self, seconds: float) -> bool:
        """Wait some more for the end of a closed one."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        closing = False
        while not closing:
            closing = self._closing.wait(self._period)
            if not self._work():
                return
        self._end()
