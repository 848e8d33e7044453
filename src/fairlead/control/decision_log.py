"""The log of decisions: one JSON line per request, with what the policy saw and what came of it, written by a thread.

For questions that come when the last thousand requests in memory are long over; docs/explain.md says what a line holds.
Rule 1: the loop only appends the record to a queue. A thread works out terms and encodes, in short pieces with pauses,
        since while it runs Python the loop does not. What finds the queue full is dropped and counted.
Rule 2: never a prompt, a key, a body or the name of a session.
Rule 3: bounded disk: `keep` files of at most `max_bytes`. An error of the disk ends the log, never the proxy.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Final

import msgspec

from fairlead.control import explaining
from fairlead.control.background import PERIOD_SECONDS
from fairlead.control.file_queue import FileQueue
from fairlead.control.recording_files import Files, why
from fairlead.proxy.record import Record

MAX_WAITING: Final = 4_096  # requests that may wait for the thread
MOST_CANDIDATES: Final = 8  # told of each; the best ones of a larger fleet
PIECE_SECONDS: Final = 0.0005  # in one go, and then the loop's turn; a line takes a tenth of a millisecond or two


class DecisionLogError(Exception):
    """It cannot be begun; the message is a sentence for people."""


class DecisionLog(FileQueue):
    """Takes records of finished requests on the loop; a thread writes them."""

    def __init__(
        self, path: str, *, clock: Callable[[], float], max_bytes: int = 64 * 1024 * 1024, keep: int = 4
    ) -> None:
        """`clock` is that of the records' times. DecisionLogError when the file cannot be written."""
        self._clock = clock
        try:
            files = Files(path, b"", max_bytes, keep)
        except OSError as problem:
            raise DecisionLogError(f"{path}: cannot be written: {why(problem)}") from None
        self._taken: deque[Record] = deque()
        super().__init__("log of decisions", files, period=PERIOD_SECONDS, again="log")
        self._thread.start()

    def take(self, record: Record) -> None:
        """A request is over. Called on the loop."""
        if len(self._taken) >= MAX_WAITING or self._is_over:
            self._refused += 1
        else:
            self._taken.append(record)

    # --- the thread's part -----------------------------------------------------------------------------------

    def _write_taken(self) -> None:
        queue, offset = self._taken, time.time() - self._clock()
        began = time.monotonic()
        while queue:
            self._files.add(line_of(queue[0], queue[0].arrived + offset))
            queue.popleft()  # only now: what fails before is counted with what waits
            if time.monotonic() - began >= PIECE_SECONDS:
                self._files.flush()
                self._thread.pause()
                began = time.monotonic()
        self._files.flush()

    def _forget(self) -> int:
        waiting = len(self._taken)
        self._taken.clear()
        return waiting


def line_of(record: Record, wall: float) -> bytes:
    """One request: what /api/explain tells of it, without sentences and without what is true only now."""
    lease = record.lease
    told = {
        "request": explaining.asked(record, wall),
        "decision": None if lease is None else explaining.decision_of(record, lease, MOST_CANDIDATES, words=False),
        "after": None if lease is None else explaining.after(record, lease, words=False),
    }
    return msgspec.json.encode(told) + b"\n"
