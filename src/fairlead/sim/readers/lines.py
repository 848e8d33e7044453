"""Lines of a trace file: plain or gzipped, each with its number, none without a bound.

Rule 1: a file is read once, from beginning to end, so a pipe will do; gzip is told by its first two bytes.
Rule 2: whatever cannot be opened or read is a `TraceError` that says what to do.
Rule 3: a file whose writer was stopped in mid-line, or in mid-gzip, is a shorter file: see `Lines.cut`.
"""

from __future__ import annotations

import difflib
import gzip
import os
import zlib
from collections.abc import Generator
from typing import IO, Final, NamedTuple

MAX_LINE: Final = 16 * 1024 * 1024  # bytes
_GZIP: Final = b"\x1f\x8b"
_BOM: Final = b"\xef\xbb\xbf"
_WHAT: Final = "name a trace file, or a workload such as 'chat'"


class TraceError(ValueError):
    """A trace that cannot be read: which file, which line (0: all of it), and why."""

    def __init__(self, file: str, line: int, reason: str) -> None:
        super().__init__(f"{file}:{line}: {reason}" if line else f"{file}: {reason}")
        self.file, self.line, self.reason = file, line, reason


class Line(NamedTuple):
    number: int  # from 1
    text: bytes  # without the line's end
    ended: bool  # False: the file stops here without an end of line


class Lines:
    """The non-empty lines of `source`, once."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.cut = False  # the file stops within its compressed data

    def __iter__(self) -> Generator[Line, None, None]:
        number = 0
        with _open(self.source) as raw, _unpacked(raw, self.source) as file:
            while True:
                try:
                    text = file.readline(MAX_LINE + 1)
                except EOFError:
                    self.cut = True
                    return
                except (OSError, zlib.error) as error:
                    reason = f"cannot be read on: {error}; a broken gzip file has to be made or copied again"
                    raise TraceError(self.source, number + 1, reason) from None
                if not text:
                    return
                number += 1
                if len(text) > MAX_LINE:
                    reason = "longer than 16 MiB; a trace has one request per line"
                    raise TraceError(self.source, number, reason)
                stripped = text.strip()
                if number == 1:
                    stripped = stripped.removeprefix(_BOM)
                if stripped:
                    yield Line(number, stripped, text.endswith(b"\n"))


def _unpacked(raw: IO[bytes], source: str) -> IO[bytes]:
    """What `raw` holds once it is unpacked, if it is packed."""
    try:
        packed = raw.peek(2)[:2] == _GZIP  # type: ignore[attr-defined]  # what open() returns can peek
    except OSError as error:
        raise TraceError(source, 0, f"cannot be read: {error.strerror or error}") from None
    return gzip.GzipFile(fileobj=raw) if packed else raw  # type: ignore[return-value]


def _open(source: str) -> IO[bytes]:
    try:
        return open(source, "rb")
    except FileNotFoundError:
        reason = f"no such file{_near(source)}; {_WHAT}"
    except IsADirectoryError:
        reason = f"is a directory; {_WHAT}"
    except PermissionError:
        reason = "may not be read by this user; ask its owner for the right to read it"
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        reason = f"cannot be opened: {getattr(error, 'strerror', None) or error}"
    raise TraceError(source, 0, reason)


def _near(source: str) -> str:
    """The file beside it that may have been meant."""
    folder, name = os.path.split(source)
    try:
        near = difflib.get_close_matches(name, os.listdir(folder or "."), n=1, cutoff=0.7)
    except OSError:
        return f" (nor is there a directory {folder!r})"
    return f"; did you mean {os.path.join(folder, near[0])!r}?" if near else ""
