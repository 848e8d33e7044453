"""The access log: one line per request, written in batches by a thread, so that the loop never waits for a disk.

The queue is bounded: when the disk or the reader of a pipe stalls, lines are dropped and counted, requests go on.
Never in it: prompts, keys, bodies. What came from clients is escaped.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable

from fairlead.control.log_file import LogFile
from fairlead.control.log_formats import Render
from fairlead.proxy.record import Record

MAX_BATCHES = 256  # batches that may wait for the thread
MAX_BATCH = 4_096  # records in one; written at each tick of the wheel or when full


class AccessLog:
    """Takes records on the loop, writes lines in a thread. `clock` is the host clock of the records' times."""

    def __init__(self, path: str, render: Render, clock: Callable[[], float]) -> None:
        """`path` "-" is standard output. OSError when the file cannot be opened."""
        self._clock = clock
        self._render = render
        self._file = LogFile(path)
        self._batch: list[Record] = []
        self._queue: queue.Queue[tuple[float, list[Record]] | None] = queue.Queue(MAX_BATCHES)
        self.dropped = 0
        self._thread = threading.Thread(target=self._run, name="access-log", daemon=True)
        self._thread.start()

    def __call__(self, record: Record) -> None:
        self._batch.append(record)
        if len(self._batch) >= MAX_BATCH:
            self.flush()

    def flush(self, now: float = 0.0) -> None:
        """Hand what has come together to the thread."""
        if not self._batch:
            return
        batch, self._batch = self._batch, []
        try:
            self._queue.put_nowait((time.time() - self._clock(), batch))
        except queue.Full:
            self.dropped += len(batch)

    def reopen(self) -> None:
        """Its file may have been moved away: what comes from now on goes to the one of its name."""
        self.flush()
        self._file.ask()
        with contextlib.suppress(queue.Full):  # then the thread has enough that wakes it
            self._queue.put_nowait((0.0, []))

    def close(self) -> None:
        """Write what is left; waits at most two seconds for a stalled reader."""
        self.flush()
        try:
            self._queue.put(None, timeout=1.0)
        except queue.Full:
            return
        self._thread.join(timeout=2.0)

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            offset, batch = item
            render = self._render
            self._file.look()
            try:
                self._file.write("".join([render(record, record.arrived + offset) for record in batch]))
            except (OSError, ValueError):
                self.dropped += len(batch)
        self._file.close()
