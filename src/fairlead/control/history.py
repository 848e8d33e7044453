"""What was it like a minute ago, and fifteen? Samples of the admin API's rows, kept in plain arrays.

The counters of the last minute make its figures: rates, shares and quantiles. A sample every five seconds makes the
courses that the dashboard draws; they live here and not in the page, so that a reload of the page loses nothing.
Rule 1: bounded. A backend takes about 17 KB, whatever happens; one that left takes none.
Rule 2: whoever gives the rows (one process, or several whose rows were merged) is asked for nothing else.
Rule 3: a counter that went backwards belongs to a backend that began anew: it counts from zero.
"""

from __future__ import annotations

import base64
import math
import sys
from array import array
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from fairlead.control.recorder import SECONDS

STEP: Final = 5.0  # seconds from one sample to the next
SPAN: Final = 900.0  # seconds that are kept
SLOTS: Final = int(SPAN / STEP) + 1
MINUTE: Final = 60.0
LEAST: Final = 1.0  # seconds; a rate of less is no rate
BRIEF: Final = 15.0  # seconds that a rate in a course is taken over: one step of a quiet fleet says little

SERIES: Final = (
    "requests_per_second", "tokens_per_second", "error_rate", "ttft_p50", "ttft_p99", "inflight", "pending_tokens",
    "engine_waiting", "kv_usage", "prefix_hit_ratio", "capacity", "state",
)  # fmt: skip
STATES: Final = ("up", "draining", "disabled", "ejected", "down")  # a state in a course is a place in here

Row = dict[str, Any]


class Counts(NamedTuple):
    """Counters of one backend, or of all."""

    requests: int
    answered: int
    errors: int
    prompt: int  # tokens
    output: int
    ttft: Sequence[int]  # answers in each bucket of SECONDS, the last for what is above them all

    def since(self, old: Counts | None) -> Counts:
        """What was added; everything, when it began anew."""
        if old is None or self.requests < old.requests or sum(self.ttft) < sum(old.ttft):
            return self
        return Counts(
            self.requests - old.requests,
            self.answered - old.answered,
            self.errors - old.errors,
            self.prompt - old.prompt,
            self.output - old.output,
            [a - b for a, b in zip(self.ttft, old.ttft, strict=True)],
        )


NOTHING: Final = Counts(0, 0, 0, 0, 0, (0,) * (len(SECONDS) + 1))


def counts_of(row: Mapping[str, Any]) -> Counts:
    return Counts(
        row["requests"], row["answered"], row["errors"], row["prompt_tokens"], row["output_tokens"],
        array("Q", row["ttft_counts"]),
    )  # fmt: skip


def total(each: Sequence[Counts]) -> Counts:
    return Counts(
        sum(counts.requests for counts in each),
        sum(counts.answered for counts in each),
        sum(counts.errors for counts in each),
        sum(counts.prompt for counts in each),
        sum(counts.output for counts in each),
        [sum(bucket) for bucket in zip(NOTHING.ttft, *(counts.ttft for counts in each), strict=True)],
    )


def quantile(counts: Sequence[int], share: float, bounds: Sequence[float] = SECONDS) -> float | None:
    """As Prometheus' histogram_quantile: evenly spread inside a bucket, the last bound for what is above it."""
    rank = share * sum(counts)
    if not rank:
        return None
    seen = 0
    for place, bound in enumerate(bounds):
        if seen + counts[place] >= rank:
            low = bounds[place - 1] if place else 0.0
            return low + (bound - low) * (rank - seen) / counts[place]
        seen += counts[place]
    return bounds[-1]


def figures(counts: Counts, seconds: float, tokens: int) -> Row:
    """What the counters of `seconds` say; `tokens` are those of the whole fleet."""
    ended, mine = counts.answered + counts.errors, counts.prompt + counts.output
    return {
        "requests_per_second": round(counts.requests / seconds, 4) if seconds >= LEAST else None,
        "tokens_per_second": round(counts.output / seconds, 3) if seconds >= LEAST else None,
        "token_share": round(mine / tokens, 4) if tokens else 0.0,
        "error_rate": round(counts.errors / ended, 4) if ended else None,
        "ttft_p50": _rounded(quantile(counts.ttft, 0.5)),
        "ttft_p99": _rounded(quantile(counts.ttft, 0.99)),
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)


class Course:
    """The samples of one backend, or of all: a ring for each series."""

    __slots__ = ("rings",)

    def __init__(self) -> None:
        unknown = array("f", [math.nan]) * SLOTS
        self.rings = {name: unknown[:] for name in SERIES}  # noqa: C420 -- one each, not one for all

    def put(self, slot: int, values: Mapping[str, Any]) -> None:
        for name, ring in self.rings.items():
            value = values.get(name)
            ring[slot] = math.nan if value is None else value


class History:
    """Fed with rows of the admin API. `now` is the host's clock, `wall` is unix time."""

    def __init__(self) -> None:
        self.samples = 0
        self._at = array("d", [0.0]) * SLOTS  # unix time of each sample
        self._courses: dict[str, Course] = {}
        self._whole = Course()
        self._recent: deque[tuple[float, dict[str, Counts]]] = deque()
        self._latest: Row | None = None  # the last sample as it is shown

    def measure(self, rows: Sequence[Row], now: float) -> tuple[list[Row], Row]:
        """The rows with the figures of the last minute, without the counters that make them; and those of all."""
        counts = {row["id"]: counts_of(row) for row in rows}
        shown = [{key: value for key, value in row.items() if key != "ttft_counts"} for row in rows]
        each, whole = self._figures(counts, now, MINUTE)
        for row in shown:
            row["last_minute"] = each[row["id"]]
        whole.pop("token_share")
        return shown, whole

    def _figures(self, counts: Mapping[str, Counts], now: float, span: float) -> tuple[dict[str, Row], Row]:
        then, before = self._before(now, span)
        added = {id: each.since(before.get(id)) for id, each in counts.items()} if before is not None else {}
        seconds = now - then
        everything = total(list(added.values()))
        tokens = everything.prompt + everything.output
        each = {id: figures(added.get(id, NOTHING), seconds, tokens) for id in counts}
        return each, figures(everything, seconds, tokens)

    def _before(self, now: float, span: float) -> tuple[float, dict[str, Counts] | None]:
        """The counters of the last sample that is so old, or of the first there is."""
        found = None
        for sample in self._recent:
            if found is not None and sample[0] > now - span:
                break
            found = sample
        return found or (now, None)

    def sample(self, rows: Sequence[Row], now: float, wall: float) -> None:
        """Call it every STEP seconds."""
        counts = {row["id"]: counts_of(row) for row in rows}
        brief, brief_whole = self._figures(counts, now, BRIEF)
        minute, minute_whole = self._figures(counts, now, MINUTE)
        self._recent.append((now, counts))
        while len(self._recent) > 1 and self._recent[1][0] <= now - MINUTE:
            self._recent.popleft()
        slot = self.samples % SLOTS
        self._at[slot] = wall
        self._courses = {id: self._courses.get(id) or Course() for id in counts}
        values = {}
        for row in rows:
            id = row["id"]
            state = STATES.index(row["state"])
            values[id] = {**row, **_mixed(brief[id], minute[id]), "state": state}
            self._courses[id].put(slot, values[id])
        sums = {name: sum(row[name] or 0 for row in rows) for name in ("inflight", "pending_tokens", "engine_waiting")}
        whole = {**_mixed(brief_whole, minute_whole), **sums}
        self._whole.put(slot, whole)
        self.samples += 1
        self._latest = {
            "number": self.samples,
            "at": round(wall, 3),
            "backends": {id: {name: each.get(name) for name in SERIES} for id, each in values.items()},
            "whole": {name: whole.get(name) for name in SERIES},
        }

    @property
    def latest(self) -> Row | None:
        """The last sample: the same object until there is another one."""
        return self._latest

    def shown(self) -> Row:
        """All of it, oldest first; numbers are little-endian floats in base64, as text would take too long to write."""
        return {
            "number": self.samples,
            "states": STATES,
            "at": self._packed(self._at),
            "backends": {id: self._course(course) for id, course in self._courses.items()},
            "whole": self._course(self._whole),
        }

    def _course(self, course: Course) -> dict[str, str]:
        return {name: self._packed(ring) for name, ring in course.rings.items()}

    def _packed(self, ring: array[float]) -> str:
        slot = self.samples % SLOTS
        ordered = ring[:slot] if self.samples < SLOTS else ring[slot:] + ring[:slot]
        if sys.byteorder == "big":
            ordered.byteswap()
        return base64.b64encode(ordered.tobytes()).decode()


def _mixed(brief: Row, minute: Row) -> Row:
    """Rates that follow soon, quantiles and shares of errors of enough requests to say something."""
    return {
        **minute,
        "requests_per_second": brief["requests_per_second"],
        "tokens_per_second": brief["tokens_per_second"],
    }
