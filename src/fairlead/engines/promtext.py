"""Prometheus text: what do the few lines that matter say?

Not a full parser: one pass of one compiled pattern finds the wanted names, and only those lines are looked into.
Rule 1: never raises. A line that cannot be read is skipped, as if the engine had not told.
Rule 2: linear time in the body's size, whatever the body holds; very long bodies are cut.
Rule 3: NaN, infinite and negative values are no readings (engines use them for "unknown").
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Final, NamedTuple

MAX_BODY: Final = 16 * 1024 * 1024  # bytes; a real page is 5 kB to a few MiB
MAX_SERIES: Final = 4096  # per name; data-parallel ranks are tens
MAX_NUMBER: Final = 64  # characters of one value

# Label values are consumed run by run and possessively, so that a missing quote costs one pass and no backtracking.
_LABEL: Final = re.compile(rb'[\s,]*+([a-zA-Z_][a-zA-Z0-9_]*+)\s*+=\s*+"([^"\\]*+(?:\\.[^"\\]*+)*+)"', re.DOTALL)
_LABELS_END: Final = re.compile(rb"[\s,]*+\}")
_VALUE: Final = re.compile(rb"[ \t]*+([^\s#]{1,%d}+)(?!\S)" % MAX_NUMBER)
_ESCAPE: Final = re.compile(rb"\\(.)", re.DOTALL)


class Series(NamedTuple):
    """One line: its labels, and its value (finite, not negative)."""

    labels: dict[str, str]
    value: float


Found = dict[str, list[Series]]
"""Readable series by metric name; names without any are absent."""


class Scanner:
    """Finds the lines of a fixed set of metric names. Stateless after construction: share it."""

    def __init__(self, names: Iterable[str]) -> None:
        self.names = tuple(dict.fromkeys(names))
        # The leading line feed makes the engine's own prefix ("\nvllm:") a literal that the pattern
        # matcher can search for quickly; "^" with MULTILINE takes several times as long.
        alternatives = b"|".join(re.escape(name.encode()) for name in self.names)
        self._line = re.compile(rb"\n(" + alternatives + rb")(?=[ \t{])([^\n]*)")

    def scan(self, body: bytes) -> Found:
        """All readable series of the wanted names, in the page's order."""
        found: Found = {}
        if not self.names:
            return found
        for match in self._line.finditer(b"\n" + _cut(body)):
            name = match[1].decode()
            seen = found.get(name)
            if seen is not None and len(seen) >= MAX_SERIES:
                continue
            series = _read_line(match[2])
            if series is not None:
                found.setdefault(name, []).append(series)
        return found


def number(text: bytes | str | None) -> float | None:
    """A finite number that is not negative, or None."""
    if text is None or len(text) > MAX_NUMBER:
        return None
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0 else None


def _cut(body: bytes) -> bytes:
    if len(body) <= MAX_BODY:
        return body
    return body[: body.rfind(b"\n", 0, MAX_BODY) + 1]  # whole lines only: half a number is a wrong number


def _read_line(rest: bytes) -> Series | None:
    """What follows the name: `{labels} value [timestamp] [# exemplar]`; the last two do not matter here."""
    position = len(rest) - len(rest.lstrip(b" \t"))
    labels: dict[str, str] = {}
    if rest[position : position + 1] == b"{":
        position += 1
        while (label := _LABEL.match(rest, position)) is not None:
            labels[label[1].decode()] = _unescape(label[2])
            position = label.end()
        end = _LABELS_END.match(rest, position)
        if end is None:
            return None
        position = end.end()
    text = _VALUE.match(rest, position)
    value = number(text[1]) if text is not None else None
    return Series(labels, value) if value is not None else None


def _unescape(raw: bytes) -> str:
    if b"\\" in raw:
        raw = _ESCAPE.sub(lambda match: b"\n" if match[1] == b"n" else match[1], raw)
    return raw.decode("utf-8", "replace")
