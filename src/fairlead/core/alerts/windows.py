"""What was added to counters over the last so many seconds? Sliding windows over the facts, in a few readings each.

Rule 1: a window is never shorter than it says: it begins at the last reading at or before its start.
Rule 2: a backend that left still counts until the window has passed, or the rest would seem to have had all of it; one
        that comes back under its name begins anew.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Final

from fairlead.core.alerts.facts import PLACED, Counts, FleetFacts

SAMPLES: Final = 12  # readings per window
COURSE_SAMPLES: Final = 40

Key = tuple[str, int]
"""A backend's id, and the how-manieth of that name it is."""


class Tally:
    """Counters by backend and generation, those of backends that left included."""

    def __init__(self) -> None:
        self.counts: dict[Key, Counts] = {}
        self.present: dict[str, Key] = {}
        self._born = 0

    def take(self, facts: FleetFacts) -> None:
        present: dict[str, Key] = {}
        for backend in facts.backends:
            key = self.present.get(backend.id)
            if key is None or backend.counts[PLACED] < self.counts[key][PLACED]:
                self._born += 1
                key = backend.id, self._born
            present[backend.id] = key
            self.counts[key] = backend.counts
        self.present = present

    def forget(self, key: Key) -> None:
        del self.counts[key]


class Window:
    """What was added over `seconds`."""

    def __init__(self, seconds: float, counts: Mapping[Key, Counts], now: float) -> None:
        """`counts` is where it begins."""
        self.seconds = seconds
        self._readings: deque[tuple[float, Mapping[Key, Counts]]] = deque([(now, dict(counts))])

    def take(self, counts: Mapping[Key, Counts], now: float) -> None:
        readings = self._readings
        if now - readings[-1][0] >= self.seconds / SAMPLES:
            readings.append((now, dict(counts)))
            while len(readings) > 2 and readings[1][0] <= now - self.seconds:
                readings.popleft()

    def added(self, counts: Mapping[Key, Counts], place: int) -> dict[Key, int]:
        """To the counter at this place, by backend."""
        before = self._readings[0][1]
        return {key: now[place] - (before[key][place] if key in before else 0) for key, now in counts.items()}

    def still(self, counts: Mapping[Key, Counts], key: Key) -> bool:
        """Was nothing added to any counter of this backend?"""
        return self._readings[0][1].get(key) == counts[key]


class Windows:
    """All windows that rules ask for, by their length."""

    def __init__(self) -> None:
        self._tally = Tally()
        self._windows: dict[float, Window] = {}

    def take(self, facts: FleetFacts, lengths: frozenset[float], now: float) -> None:
        """The facts of now. Windows of other lengths than these are let go of."""
        tally = self._tally
        tally.take(facts)
        old, self._windows = self._windows, {}
        for seconds in lengths:  # what was counted before the first look has happened just now
            begin = tally.counts if old else {}
            self._windows[seconds] = old.get(seconds) or Window(seconds, begin, now)
        for window in self._windows.values():
            window.take(tally.counts, now)
        present = set(tally.present.values())
        for key in [key for key in tally.counts if key not in present]:
            if all(window.still(tally.counts, key) for window in self._windows.values()):
                tally.forget(key)

    def added(self, seconds: float, place: int) -> tuple[dict[str, int], int]:
        """(by backend that is there, in all: those that left included)."""
        each = self._windows[seconds].added(self._tally.counts, place)
        return {id: each[key] for id, key in self._tally.present.items()}, sum(each.values())

    def buckets(self, seconds: float, first: int, count: int) -> list[int]:
        """What was added to `count` counters from the place `first` on, of all backends."""
        return [self.added(seconds, first + place)[1] for place in range(count)]


class Course:
    """Readings of one gauge over the last `seconds`, evenly apart."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._readings: deque[tuple[float, float]] = deque()

    def take(self, value: float, now: float) -> None:
        readings = self._readings
        if not readings or now - readings[-1][0] >= self.seconds / COURSE_SAMPLES:
            readings.append((now, value))
            while len(readings) > 2 and readings[1][0] <= now - self.seconds:
                readings.popleft()

    @property
    def full(self) -> bool:
        return self._readings[-1][0] - self._readings[0][0] >= self.seconds * (1 - 2 / COURSE_SAMPLES)

    def rise(self) -> float:
        """By how much is the least of the newer half above the mean of the older half? A burst that is short is in no
        rise: the newer half has seen the calm before it as well."""
        middle = self._readings[-1][0] - self.seconds / 2
        older = [value for at, value in self._readings if at < middle]
        return min(value for at, value in self._readings if at >= middle) - sum(older) / len(older)
