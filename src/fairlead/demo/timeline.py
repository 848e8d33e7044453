"""How far is the demo, and how long will it take? Counts in seconds of the caller's clock.

Rule: the fraction never falls, and reaches 1 only when the last policy has ended.
"""

from __future__ import annotations

from typing import Final

START_SECONDS: Final = 2.0  # to start a balancer and empty the caches
TAIL_SECONDS: Final = 5.0  # for the last answers


class Timeline:
    """`begin`, then `policy_ended` for each; `left` and `fraction` in between."""

    def __init__(self, policies: int, seconds: float) -> None:
        self._each = START_SECONDS + seconds + TAIL_SECONDS
        self._to_come = policies
        self._began = 0.0
        self._policy_began = 0.0
        self._fraction = 0.0

    def begin(self, now: float) -> None:
        self._began = self._policy_began = now

    def policy_ended(self, now: float) -> None:
        self._to_come -= 1
        self._policy_began = now

    def left(self, now: float) -> float:
        """Seconds, as far as one can tell."""
        if not self._to_come:
            return 0.0
        return max(self._each - (now - self._policy_began), 1.0) + (self._to_come - 1) * self._each

    def fraction(self, now: float) -> float:
        """Of the whole demo, 0..1."""
        spent = now - self._began
        left = self.left(now)
        self._fraction = max(self._fraction, spent / (spent + left) if spent + left > 0 else 0.0)
        return self._fraction
