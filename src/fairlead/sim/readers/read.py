"""Reading a trace: which format is it, and what is common to all of them?

Rule 1: content decides, not the file's name: the first line that is not empty names the format.
Rule 2: the result is in order of arrival and starts at 0; everything that was done to it stands in its notes.
Rule 3: a broken line stops the reading, unless the caller says otherwise; a last line that was never finished does not.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import PurePath
from random import Random
from typing import Final

from fairlead.sim.readers.fields import BadLine, json_object, shown
from fairlead.sim.readers.formats import Azure, Format, Mooncake, Row
from fairlead.sim.readers.lines import Line, Lines, TraceError
from fairlead.sim.readers.ours import HEADER, AccessLog, Recording
from fairlead.sim.readers.spread import LONGEST, SAID, SPREADS, find_tick, spread
from fairlead.sim.trace import Trace

MAX_REQUESTS: Final = 10_000_000
MAX_BLOCKS: Final = 100_000_000  # of all requests; a few gigabytes
MAX_SPEEDUP: Final = 1e6
_LOOK_AT: Final = 2_000  # requests read at least, to see whether times are rounded
_LOST: Final = 100  # broken lines before the first good one, after which nobody knows what the file is
_SUFFIXES: Final = (".gz", ".jsonl", ".json", ".csv", ".log", ".txt")

FORMATS: Final = {
    "Mooncake": 'JSON lines with "timestamp", "input_length", "output_length" and "hash_ids"',
    "Azure": "CSV with the columns TIMESTAMP,ContextTokens,GeneratedTokens",
    "Fairlead recording": "the file of fairlead serve --record",
    "Fairlead access log": "the access log of fairlead serve --log-format json",
}


@dataclass(frozen=True, slots=True)
class Reading:
    """A trace, and what of its file is not in it."""

    trace: Trace
    skipped: int  # broken lines
    first_skipped: str  # "line 7: why"; "" where there is none
    cut: bool  # the file stopped within its last line


def read_trace(
    source: str,
    *,
    skip_bad: bool = False,
    seed: int = 1,
    limit: int | None = None,
    spread: str = "random",
    speedup: float = 1.0,
) -> Trace:
    """The trace in the file `source`. `limit`: its first N requests; `speedup`: times divided by it.

    `spread` says what becomes of times that are rounded to whole seconds: see `SPREADS`. TraceError.
    """
    return read_file(source, skip_bad=skip_bad, seed=seed, limit=limit, spread=spread, speedup=speedup).trace


def read_file(
    source: str,
    *,
    skip_bad: bool = False,
    seed: int = 1,
    limit: int | None = None,
    spread: str = "random",
    speedup: float = 1.0,
) -> Reading:
    """As `read_trace`, with what was left out."""
    if spread not in SPREADS:
        near = difflib.get_close_matches(spread, SPREADS, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(SPREADS)}"
        raise ValueError(f"unknown spread {spread!r}; {hint}")
    if limit is not None and limit < 1:
        raise ValueError(f"limit: expected at least 1 request, got {limit}")
    if not 0 < speedup <= MAX_SPEEDUP:  # refuses NaN too
        raise ValueError(f"speedup: expected a number above 0 and up to {MAX_SPEEDUP:,.0f}, got {speedup}")
    file = _File(source, skip_bad)
    rows = file.rows(limit)
    notes = file.notes()
    if file.format.rounded:
        rows = _spread(rows, spread, seed, notes)
    if limit is not None and len(rows) > limit:
        rows = rows[:limit]
        notes.append(f"Only its first {limit:,} requests.")
    if speedup != 1:
        rows = [(replace(request, at=request.at / speedup), measured) for request, measured in rows]
        notes.append(f"Times are divided by {speedup:g}: its requests come at {speedup:g} times their rate.")
    measured = [measured for _, measured in rows if measured is not None]
    trace = Trace(_name(source), [r for r, _ in rows], file.format.block_tokens, tuple(notes), measured)
    return Reading(trace, file.skipped, file.first_skipped, file.cut)


class _File:
    """One pass over a file."""

    format: Format

    def __init__(self, source: str, skip_bad: bool) -> None:
        self._source, self._skip_bad = source, skip_bad
        self.skipped, self.first_skipped = 0, ""
        self.cut = False

    def rows(self, limit: int | None) -> list[Row]:
        """All requests in order of arrival, the first at 0; of a file in that order, not many more than `limit`."""
        lines, rows, blocks = Lines(self._source), [], 0
        read: Callable[[bytes], Row | None] | None = None
        with closing(iter(lines)) as numbered:
            for line in numbered:
                try:
                    if read is None:
                        self.format, has_row = _recognise(line.text)
                        read = self.format.row
                        if not has_row:
                            continue
                    row = read(line.text)
                except BadLine as error:
                    self._bad(line, error, known=read is not None)
                    continue
                if row is None:
                    continue
                rows.append(row)
                blocks += len(row[0].blocks)
                if len(rows) > MAX_REQUESTS or blocks > MAX_BLOCKS:
                    much = (
                        f"{MAX_REQUESTS:,} requests"
                        if len(rows) > MAX_REQUESTS
                        else f"{MAX_BLOCKS:,} blocks of prompts"
                    )
                    raise TraceError(self._source, line.number, f"more than {much}; cut the file or set a limit")
                if limit is not None and self.format.in_order and _enough(rows, limit):
                    break
        self.cut = self.cut or lines.cut
        if read is None:
            reason = "has no whole line" if self.skipped or lines.cut else "is empty"
            raise TraceError(self._source, 0, f"{reason}; {_known()}")
        if not rows:
            raise TraceError(self._source, 0, " ".join(["holds no request that can be replayed.", *self.notes()]))
        rows.sort(key=lambda row: row[0].at)
        start = rows[0][0].at
        return [(replace(request, at=round(request.at - start, 6)), measured) for request, measured in rows]

    def notes(self) -> list[str]:
        notes = list(self.format.notes())
        if self.cut:
            notes.append("The file stops in the middle of a line: read up to there.")
        if self.skipped:
            lines = "one broken line" if self.skipped == 1 else f"{self.skipped:,} broken lines"
            notes.append(f"Skipped {lines}; the first is {self.first_skipped}.")
        return notes

    def _bad(self, line: Line, error: BadLine, known: bool) -> None:
        """Raise, or count what is wrong with this line."""
        if error.torn and not line.ended and known:
            self.cut = True
            return
        if not self._skip_bad or (not known and self.skipped >= _LOST):
            raise TraceError(self._source, line.number, error.reason) from None
        self.skipped += 1
        self.first_skipped = self.first_skipped or f"line {line.number}: {error.reason}"


def _enough(rows: list[Row], limit: int) -> bool:
    """Are the first `limit` requests read, and all that share a tick with the last of them? Ticks are spread whole."""
    return len(rows) >= max(limit, _LOOK_AT) and rows[-1][0].at > rows[limit - 1][0].at + LONGEST


def _recognise(line: bytes) -> tuple[Format, bool]:
    """The format of a file whose first line this is, and whether that line is a request; BadLine."""
    columns = {name.strip().strip('"') for name in line.decode("utf-8", "replace").split(",")}
    if columns >= set(Azure.COLUMNS):
        return Azure(line), False
    if not line.startswith(b"{"):
        text = line[:100].decode("utf-8", "replace")
        if b" outcome=" in line and b" backend=" in line:
            raise BadLine("this is an access log for people; write one with --log-format json to replay it")
        raise BadLine(f"unknown format: the file begins with {shown(text)}; {_known()}")
    row = json_object(line)
    if HEADER in row:
        recording = Recording()
        recording.row(line)
        return recording, False
    if "input_length" in row or "hash_ids" in row:
        return Mooncake(), True
    if "outcome" in row and "duration" in row:
        if "ends" in row:
            raise BadLine("a recording without its header; its first line has to be the one that serve wrote first")
        return AccessLog(), True
    fields = ", ".join(list(row)[:8])
    raise BadLine(f"unknown format: a JSON object with the fields {shown(fields)}; {_known()}")


def _known() -> str:
    return "known: " + "; ".join(f"{name} ({what})" for name, what in FORMATS.items())


def _spread(rows: list[Row], how: str, seed: int, notes: list[str]) -> list[Row]:
    """Requests of one tick spread over it, if times are rounded to ticks."""
    times = [request.at for request, _ in rows]
    tick = find_tick(times)
    if tick is None:
        return rows
    place = SPREADS[how]
    if place is None:
        notes.append(f"Its times are rounded to {tick:g} s, and left so: requests of one tick come at once.")
        return rows
    notes.append(f"Its times are rounded to {tick:g} s: requests of one tick are spread {SAID[how].format(seed=seed)}.")
    rng = Random(seed)  # noqa: S311 -- no secret
    placed = spread(times, tick, place, rng)
    return [(replace(request, at=at), measured) for (request, measured), at in zip(rows, placed, strict=True)]


def _name(source: str) -> str:
    """The file's name without its suffixes."""
    name = PurePath(source).name
    while (shorter := name.rpartition("."))[0] and "." + shorter[2] in _SUFFIXES:
        name = shorter[0]
    return name
