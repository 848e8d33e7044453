"""Where do a log's lines go, and how do they begin again when their file was moved away?

Used by one thread, which may wait; nobody else does. `ask` is the only thing that others call.
Rule 1: what is written in one go stands together, also where several processes write to one file.
Rule 2: half a line, left by a disk that was full, is ended before the next one begins.
Rule 3: a file that cannot be opened again leaves the old one in use.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import stat
import sys
from typing import Final

log = logging.getLogger("fairlead")

LOOK_SECONDS: Final = 0.25  # a pipe that is full is looked at again, and at what was asked for meanwhile


class LogFile:
    """A file, a named pipe, or standard output."""

    def __init__(self, path: str) -> None:
        """`path` "-" is standard output. OSError when the file cannot be opened."""
        self._path = path
        self._file, self._is_pipe = (-1, False) if path == "-" else _open(path)
        self._asked = False
        self._torn = False  # does it end with half a line?

    def ask(self) -> None:
        """Open it again by its name, before the next line. From any thread."""
        self._asked = self._path != "-"

    def look(self) -> None:
        """Do what was asked for."""
        if not self._asked:
            return
        self._asked = False
        try:
            file, is_pipe = _open(self._path)
        except OSError as problem:
            log.warning("access log: %s cannot be opened again, the old file goes on: %s", self._path, problem.strerror)
            return
        os.close(self._file)
        self._file, self._is_pipe, self._torn = file, is_pipe, False

    def write(self, text: str) -> None:
        """OSError when not all of it was taken, ValueError when it cannot be written."""
        if self._path == "-":
            sys.stdout.write(text)
            sys.stdout.flush()
            return
        data = text.encode()
        left = memoryview(b"\n" + data if self._torn else data)
        while left:
            try:
                count = os.write(self._file, left)
            except BlockingIOError:
                self._wait()
                continue
            self._torn = left[count - 1] != ord("\n")
            left = left[count:]

    def close(self) -> None:
        file, self._file = self._file, -1
        if file >= 0:
            with contextlib.suppress(OSError):  # its reader may be gone
                os.close(file)

    def _wait(self) -> None:
        """For the pipe's reader; OSError when it is no longer wanted."""
        poll = select.poll()
        poll.register(self._file, select.POLLOUT)
        poll.poll(LOOK_SECONDS * 1e3)
        if self._asked:
            raise OSError(0, "it is to be opened again")


def _open(path: str) -> tuple[int, bool]:
    """(descriptor to append to, is it a pipe?). A pipe without a reader is an error, instead of a wait for one."""
    is_pipe = os.path.exists(path) and stat.S_ISFIFO(os.stat(path).st_mode)
    flags = os.O_WRONLY | os.O_CLOEXEC | (os.O_NONBLOCK if is_pipe else os.O_APPEND | os.O_CREAT)
    return os.open(path, flags, 0o640), is_pipe
