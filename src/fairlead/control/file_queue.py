"""Lines about requests that a thread writes into bounded files: what do the recording and the log of decisions share?

Rule 1: the loop only appends to a queue, which the subclass works off in the thread, in `_write_taken`.
Rule 2: what finds no room is dropped and counted, and so is what the disk did not take.
Rule 3: an error of the disk ends the writing, never the proxy: it is told once, and shown as `problem`.
"""

from __future__ import annotations

import contextlib
import logging
from abc import ABC, abstractmethod

from fairlead.control.background import CLOSE_SECONDS, Background
from fairlead.control.recording_files import Files, why

log = logging.getLogger("fairlead")


class FileQueue(ABC):
    """The files, the thread and the books. The subclass has the queue, and calls `_thread.start` when it is whole."""

    def __init__(self, name: str, files: Files, *, period: float, again: str) -> None:
        """`name` is what people call it, `again` what a restart does, as the end of a sentence."""
        self._name, self._again, self._files = name, again, files
        self.problem = ""  # why it stopped
        self._refused = 0  # by the loop: no room, or over
        self._lost = 0  # by the thread: the disk did not take them
        self._thread = Background(name, self._work, self._end, period=period)

    def __repr__(self) -> str:
        state = self.problem or ("closed" if self._thread.closed else "running")
        return f"<{type(self).__name__} {state}, {self.written} written, {self.dropped} dropped>"

    @property
    def written(self) -> int:
        """Requests that are in it."""
        return self._files.lines

    @property
    def dropped(self) -> int:
        """Requests that should be in it and are not."""
        return self._refused + self._lost

    @property
    def _is_over(self) -> bool:
        return bool(self.problem) or self._thread.closed

    def reopen(self) -> None:
        """Its file may have been moved away: what comes from now on goes to a new one of its name."""
        self._files.ask()

    def close(self) -> bool:
        """Write what was taken; False where the disk did not answer in `CLOSE_SECONDS`. Again, it only asks."""
        if self._thread.closed:
            return self._thread.join(0.0)
        if self._thread.close(CLOSE_SECONDS):
            return True
        log.warning("the disk of the %s does not answer: its last lines may be missing", self._name)
        return False

    # --- the thread's part -----------------------------------------------------------------------------------

    @abstractmethod
    def _write_taken(self) -> None:
        """Empty the queue into the files; what fails stays in the queue. OSError, ValueError."""

    @abstractmethod
    def _forget(self) -> int:
        """Empty the queue; how many requests were in it."""

    def _work(self) -> bool:
        try:
            self._write_taken()
        except (OSError, ValueError) as problem:
            self._stop(problem)
            return False
        return True

    def _end(self) -> None:
        try:
            self._files.close()
        except OSError as problem:
            self._stop(problem)

    def _stop(self, problem: OSError | ValueError) -> None:
        self.problem = why(problem) if isinstance(problem, OSError) else "a request cannot be encoded"
        self._lost += self._files.buffered + self._forget()
        log.warning("%s stopped: %s; requests go on, restart to %s again", self._name, self.problem, self._again)
        with contextlib.suppress(OSError):
            self._files.close()
