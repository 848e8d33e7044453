"""Active checks: is a backend up, judging by its answers to probes?

A backend that was never up joins at its first good answer (there is no reason to make a newcomer wait);
one that went down needs `rise` good answers in a row, and one that is up needs `fall` bad ones to go down.
The same meaning as `rise` and `fall` of HAProxy's server checks.

Flaps: one that goes down again within FLAP_SECONDS of having come back must then stay down for HOLD_SECONDS, so that it
changes no more than once in 30 s on the whole. Going down is never put off: who does not answer gets nothing. One that
is held back and answers well is still tried when too few others are left (candidates.py).
"""

from __future__ import annotations

from typing import Final

FLAP_SECONDS: Final = 30.0
HOLD_SECONDS: Final = 60.0
HELD: Final = "it is well, but went up and down: it has to stay down for a while"
NEVER: Final = float("-inf")


class ProbeCounter:
    """Counts probe results of one backend. Starts as down and never seen."""

    __slots__ = (
        "bad", "checked_at", "fall", "fell", "good", "held_until", "reason", "rise", "seen", "timed_out", "up",
        "up_since",
    )  # fmt: skip

    def __init__(self, rise: int = 2, fall: int = 3) -> None:
        self.rise, self.fall = rise, fall
        self.up = False
        self.seen = False  # was it ever up?
        self.good = 0  # good answers in a row
        self.bad = 0  # bad answers in a row
        self.reason = "not checked yet"  # why it is down, for people
        self.timed_out = False  # did the last probe get no answer at all? Then nobody knows how it is
        self.fell = False  # did it ever go down? A first time is no flap
        self.up_since = self.held_until = NEVER
        self.checked_at = NEVER  # when the last result came

    @property
    def doubtful(self) -> bool:
        """Is it down, and may do its work all the same?"""
        return not self.up and (self.timed_out or self.good > 0)

    def observe(
        self, ok: bool, reason: str = "", timed_out: bool = False, now: float = NEVER, *, planned: bool = False
    ) -> bool:
        """Take one probe's result; True when the backend went up or down by it.

        `planned`: somebody drains it, so that going down is a restart and no flap.
        """
        self.checked_at = now
        self.timed_out = timed_out and not ok
        if ok:
            self.good, self.bad = self.good + 1, 0
            if self.up or (self.seen and self.good < self.rise):
                return False
            if now < self.held_until:
                self.reason = HELD
                return False
            self.up = self.seen = True
            self.reason = ""
            self.up_since = now
            return True
        self.good, self.bad = 0, self.bad + 1
        if not self.up:
            self.reason = reason
            return False
        if self.bad < self.fall:
            return False
        if not planned:
            if self.fell and now - self.up_since < FLAP_SECONDS:
                self.held_until = now + HOLD_SECONDS
            self.fell = True
        self.up = False
        self.reason = reason
        return True
