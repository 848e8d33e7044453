"""Active checks: is a backend up, judging by its answers to probes?

A backend that was never up joins at its first good answer (there is no reason to make a newcomer wait);
one that went down needs `rise` good answers in a row, and one that is up needs `fall` bad ones to go down.
The same meaning as `rise` and `fall` of HAProxy's server checks.
"""

from __future__ import annotations


class ProbeCounter:
    """Counts probe results of one backend. Starts as down and never seen."""

    __slots__ = ("bad", "fall", "good", "reason", "rise", "seen", "timed_out", "up")

    def __init__(self, rise: int = 2, fall: int = 3) -> None:
        self.rise, self.fall = rise, fall
        self.up = False
        self.seen = False  # was it ever up?
        self.good = 0  # good answers in a row
        self.bad = 0  # bad answers in a row
        self.reason = "not checked yet"  # why it is down, for people
        self.timed_out = False  # did the last probe get no answer at all? Then nobody knows how it is

    def observe(self, ok: bool, reason: str = "", timed_out: bool = False) -> bool:
        """Take one probe's result; True when the backend went up or down by it."""
        self.timed_out = timed_out and not ok
        if ok:
            self.good, self.bad = self.good + 1, 0
            if self.up or (self.seen and self.good < self.rise):
                return False
            self.up = self.seen = True
            self.reason = ""
            return True
        self.good, self.bad = 0, self.bad + 1
        if not self.up:
            self.reason = reason
            return False
        if self.bad < self.fall:
            return False
        self.up = False
        self.reason = reason
        return True
