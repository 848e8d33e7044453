"""The files of a recording: lines go in, whole files of a bounded size come out.

Rule 1: a line is in a file whole or not at all, and every file begins with a header.
Rule 2: nothing but regular files is written to, and only their owner can read them.
Rule 3: a file that was moved away is left as it is, and another is begun under its name, when somebody asks for it.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import stat
from typing import Final

log = logging.getLogger("fairlead")

NEW_FILE: Final = os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: a named pipe in this place is refused instead of waited for; regular files do not care.
APPEND: Final = NEW_FILE | os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK


class Files:
    """FILE, FILE.1, ...: lines go in, whole files of a bounded size come out. Used by one thread only.

    A file that is there already is moved on when the first line comes, not before: a start that fails, or that is
    followed by no request, costs nothing of what was recorded earlier.
    """

    def __init__(self, path: str, header: bytes, max_bytes: int, keep: int) -> None:
        """OSError when the file cannot be opened or is not a regular one."""
        self._names = [path, *(f"{path}.{number}" for number in range(1, keep))]  # newest first
        self._header, self._max_bytes = header, max_bytes
        self.lines = 0  # written, headers not counted
        self.bytes = 0
        self.buffered = 0  # lines that are not written yet
        self._buffer = bytearray()
        self._file, self._size = open_file(path)
        self._ours = False  # does it begin with our header?
        self._asked = False  # to begin again
        self._renewed = False  # must another header come before the next line?

    def add(self, line: bytes) -> None:
        """One line for the next `flush`. OSError: room for it could not be made, and it is not in."""
        header = self._header if self._renewed else b""
        if not self._ours:
            if self._size:
                self._rotate()
            self._ours = True
            header = self._header
        elif self._size + len(self._buffer) + len(header) + len(line) > self._max_bytes:
            self.flush()
            self._rotate()
            header = self._header
        self._renewed = False
        self._buffer += header + line
        self.buffered += 1

    def begin(self, header: bytes) -> None:
        """Another header before the next line, and in the files after this one."""
        self._header = header
        self._renewed = True

    def ask(self) -> None:
        """Begin again under our name, at the next `flush`, if the file is no longer there. From any thread."""
        self._asked = True

    def flush(self) -> None:
        """Write what has come together, all of it or nothing, and do what was asked for."""
        self._write()
        if self._asked:
            self._asked = False
            self._reopen()

    def _reopen(self) -> None:
        ours = os.fstat(self._file)
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(ours, os.lstat(self._names[0])):
                return
        try:
            file, size = open_file(self._names[0])
        except OSError as problem:
            log.warning("%s cannot be opened again, the old file goes on: %s", self._names[0], why(problem))
            return
        os.close(self._file)
        self._file, self._size, self._ours = file, size, False

    def _write(self) -> None:
        if not self._buffer:
            return
        if os.fstat(self._file).st_nlink == 0:  # somebody deleted it: begin a new one
            if self._size:
                self._buffer[:0] = self._header
            self._rotate()
        left = memoryview(bytes(self._buffer))
        try:
            while left:
                left = left[os.write(self._file, left) :]
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, self._size)  # no half line at its end
            raise
        self._size += len(self._buffer)
        self.bytes += len(self._buffer)
        self.lines += self.buffered
        self._buffer.clear()
        self.buffered = 0

    def close(self) -> None:
        file, self._file = self._file, -1
        if file >= 0:
            os.close(file)

    def _rotate(self) -> None:
        """Every file moves on by one, the oldest is deleted, an empty one is there."""
        self.close()
        names = self._names
        if os.path.lexists(names[0]):  # else it was deleted, and the others stay where they are
            for place in range(len(names) - 1, 0, -1):
                with contextlib.suppress(FileNotFoundError):
                    os.replace(names[place - 1], names[place])
            if len(names) == 1:
                os.unlink(names[0])
        self._file, self._size = open_file(names[0])


def open_file(path: str) -> tuple[int, int]:
    """(descriptor, size) of a file to append to, readable by its owner only."""
    file = os.open(path, APPEND, 0o600)
    try:
        about = os.fstat(file)
        if not stat.S_ISREG(about.st_mode):
            raise OSError(0, "not a regular file")
        if about.st_mode & 0o077:
            os.fchmod(file, 0o600)
    except OSError:
        os.close(file)
        raise
    return file, about.st_size


def why(problem: OSError) -> str:
    """A sentence's end for people."""
    if problem.errno == errno.ELOOP:
        return "it is a symbolic link, and these are not followed"
    return problem.strerror or "unknown error"
