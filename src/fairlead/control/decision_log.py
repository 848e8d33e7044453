"""The log of decisions: one JSON line per request, with what the policy saw and what came of it, written by a thread.

For questions that come when the last thousand requests in memory are long over; docs/explain.md says what a line holds.
Rule 1: the loop only appends the record to a queue. A thread works out terms and encodes, in short pieces with pauses,
        since while it runs Python the loop does not. What finds the queue full is dropped and counted.
Rule 2: never a prompt, a key, a body or the name of a session.
Rule 3: bounded disk: `keep` files of at most `max_bytes`. An error of the disk ends the log, never the proxy.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final

import msgspec

from fairlead.control import explaining
from fairlead.control.recording_files import Files, why
from fairlead.proxy.record import Record

log = logging.getLogger("fairlead")

MAX_WAITING: Final = 4_096  # requests that may wait for the thread
MOST_CANDIDATES: Final = 8  # told of each; the best ones of a larger fleet
PERIOD_SECONDS: Final = 0.25  # between two looks of the thread into the queue
PIECE_SECONDS: Final = 0.0005  # in one go; a line takes a tenth of a millisecond or two,
PAUSE_SECONDS: Final = 0.0005  # and then the loop's turn
CLOSE_SECONDS: Final = 5.0  # for a disk that does not answer


class DecisionLogError(Exception):
    """It cannot be begun; the message is a sentence for people."""


class DecisionLog:
    """Takes records of finished requests on the loop; a thread writes them."""

    def __init__(
        self, path: str, *, clock: Callable[[], float], max_bytes: int = 64 * 1024 * 1024, keep: int = 4
    ) -> None:
        """`clock` is that of the records' times. DecisionLogError when the file cannot be written."""
        self._clock = clock
        try:
            self._files = Files(path, b"", max_bytes, keep)
        except OSError as problem:
            raise DecisionLogError(f"{path}: cannot be written: {why(problem)}") from None
        self.problem = ""  # why it stopped
        self._taken: deque[Record] = deque()
        self._refused = 0  # by the loop: no room, or over
        self._lost = 0  # by the thread: the disk did not take them
        self._closed = False
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="decisions", daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        state = self.problem or ("closed" if self._closed else "running")
        return f"<DecisionLog {state}, {self.written} written, {self.dropped} dropped>"

    @property
    def written(self) -> int:
        """Requests that are in it."""
        return self._files.lines

    @property
    def dropped(self) -> int:
        """Requests that should be in it and are not."""
        return self._refused + self._lost

    def take(self, record: Record) -> None:
        """A request is over. Called on the loop."""
        if len(self._taken) >= MAX_WAITING or self.problem or self._closed:
            self._refused += 1
        else:
            self._taken.append(record)

    def reopen(self) -> None:
        """Its file may have been moved away: what comes from now on goes to a new one of its name."""
        self._files.ask()

    def close(self) -> None:
        """Write what was taken; waits at most `CLOSE_SECONDS` for a disk that stalls."""
        if self._closed:
            return
        self._closed = True
        self._closing.set()
        self._thread.join(CLOSE_SECONDS)
        if self._thread.is_alive():
            log.warning("the disk of the log of decisions does not answer: its last lines may be missing")

    # --- the thread's part -----------------------------------------------------------------------------------

    def _run(self) -> None:
        closing = False
        try:
            while not closing:
                closing = self._closing.wait(PERIOD_SECONDS)
                self._write_taken()
        except (OSError, ValueError) as problem:
            self.problem = why(problem) if isinstance(problem, OSError) else "a decision cannot be encoded"
            log.warning("log of decisions stopped: %s; requests go on, restart to log again", self.problem)
            self._lost += self._files.buffered + len(self._taken)
            self._taken.clear()
        with contextlib.suppress(OSError):
            self._files.close()

    def _write_taken(self) -> None:
        queue, offset = self._taken, time.time() - self._clock()
        began = time.monotonic()
        while queue:
            self._files.add(line_of(queue[0], queue[0].arrived + offset))
            queue.popleft()  # only now: what fails before is counted with what waits
            if time.monotonic() - began >= PIECE_SECONDS:
                self._files.flush()
                self._closing.wait(PAUSE_SECONDS)  # no pause any more when closing
                began = time.monotonic()
        self._files.flush()


def line_of(record: Record, wall: float) -> bytes:
    """One request: what /api/explain tells of it, without sentences and without what is true only now."""
    lease = record.lease
    told = {
        "request": explaining.asked(record, wall),
        "decision": None if lease is None else explaining.decision_of(record, lease, MOST_CANDIDATES, words=False),
        "after": None if lease is None else explaining.after(record, lease, words=False),
    }
    return msgspec.json.encode(told) + b"\n"
