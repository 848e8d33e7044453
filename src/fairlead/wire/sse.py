"""An event stream in pieces as they come: where does each event end, and what data does it carry?

Pure: bytes in, whole blocks out. A block is what stands before an empty line, that line with it: an event, or nothing
but comments. Blocks come out byte for byte as they came in, so that whoever has nothing to change passes them on.
Rule 1: lines end with LF or CRLF, mixed at will; a lone CR (which the standard allows, and no engine sends) is no end.
Rule 2: what is held back is the beginning of one block, and `held` says how much that is.
"""

from __future__ import annotations

import re
from typing import Final

DONE: Final = b"[DONE]"

_END: Final = re.compile(rb"\n\r?\n")


class EventReader:
    """Feed it the payload; it gives the blocks that are whole."""

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = b""

    @property
    def held(self) -> int:
        """Bytes of a block whose end has not come."""
        return len(self._rest)

    def feed(self, data: bytes) -> list[bytes]:
        """The blocks that end in this piece."""
        rest = self._rest
        at = 0
        if rest:
            at = max(len(rest) - 2, 0)  # an end may lie across the two
            data = rest + data
        blocks = []
        start = 0
        for end in _END.finditer(data, at):
            blocks.append(data[start : end.end()])
            start = end.end()
        self._rest = data[start:] if start else data
        return blocks

    def take_rest(self) -> bytes:
        """What was held back, and nothing is held any more."""
        rest, self._rest = self._rest, b""
        return rest


def data_of(block: bytes) -> bytes | None:
    """The data of a block, its lines joined; None where it has none (comments, an empty event)."""
    if block.startswith(b"data: ") and block.count(b"\n") == 2:  # the common case
        return block[6:].rstrip(b"\r\n")
    lines = [line.rstrip(b"\r") for line in block.split(b"\n")]
    found = [line[5:].removeprefix(b" ") for line in lines if line.startswith(b"data:")]
    return b"\n".join(found) if found else None


def event(data: bytes) -> bytes:
    """An event of our own."""
    return b"data: %b\n\n" % data
