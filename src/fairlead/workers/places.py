"""How many requests of all workers are in flight on one backend? A small table in shared memory.

One column per worker, one row per backend: each worker writes its own column only, and a sum over a row is what all of
them have there. The rows' numbers are the supervisor's to give (`Rows`), and a row is never given to another name.

Rule 1: who wants a place under a limit holds the lock from the look to the choice (fcntl's, on the table's own file:
the system takes it back from a process that dies). Without a limit nobody takes it.
Rule 2: the column of a worker that died is emptied by the supervisor once the process is gone.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from collections.abc import Iterable, Mapping
from typing import Final

ROWS: Final = 65_536  # names of backends that may ever have been there; untouched memory costs nothing
_CELL: Final = 4


class Table:
    """The memory itself, mapped into this process."""

    def __init__(self, descriptor: int, workers: int) -> None:
        """`descriptor` is the table's from now on."""
        self.descriptor, self.workers = descriptor, workers
        self._memory = mmap.mmap(descriptor, ROWS * workers * _CELL)
        self.cells = memoryview(self._memory).cast("i")

    @classmethod
    def make(cls, workers: int) -> Table:
        """A new one, all zeros."""
        descriptor = os.memfd_create("fairlead-places")
        os.ftruncate(descriptor, ROWS * workers * _CELL)
        return cls(descriptor, workers)

    def empty(self, worker: int, rows: int) -> None:
        """A worker died: it has nothing any more, in the first so many rows."""
        for row in range(rows):
            self.cells[row * self.workers + worker] = 0

    def close(self) -> None:
        self.cells.release()
        self._memory.close()
        os.close(self.descriptor)


class Rows:
    """Which backend has which row? Kept by the supervisor, told to all."""

    def __init__(self) -> None:
        self.rows: dict[str, int] = {}

    def number(self, ids: Iterable[str]) -> None:
        """Give rows to those that have none."""
        for id in ids:
            if id not in self.rows and len(self.rows) < ROWS:
                self.rows[id] = len(self.rows)


class Registry:
    """A worker's way in; as a context it keeps the others from taking places under limits."""

    def __init__(self, table: Table, worker: int, rows: Mapping[str, int]) -> None:
        self._table, self._worker = table, worker
        self.rows = rows

    def of(self, id: str) -> BackendPlaces | None:
        row = self.rows.get(id)
        return None if row is None else BackendPlaces(self._table, row, self._worker)

    def __enter__(self) -> None:
        fcntl.lockf(self._table.descriptor, fcntl.LOCK_EX)

    def __exit__(self, *exc: object) -> None:
        fcntl.lockf(self._table.descriptor, fcntl.LOCK_UN)


class BackendPlaces:
    """One row, seen by one worker."""

    __slots__ = ("_cells", "_end", "_first", "_own")

    def __init__(self, table: Table, row: int, worker: int) -> None:
        self._cells = table.cells
        self._first = row * table.workers
        self._end = self._first + table.workers
        self._own = self._first + worker

    def taken(self) -> int:
        """By all."""
        return sum(self._cells[self._first : self._end])

    def take(self) -> None:
        self._cells[self._own] += 1

    def give(self) -> None:
        self._cells[self._own] -= 1
