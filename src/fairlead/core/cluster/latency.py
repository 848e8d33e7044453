"""How long did the backend's answers take to begin lately? A peak-sensitive moving average, in seconds.

Peak EWMA (as Finagle and Linkerd use it): a value above the average replaces it at once, values below pull it down with
the age of the last one, so trouble shows immediately and is forgiven slowly. Without new values it fades, so that a
backend which got nothing for a while is tried again.
"""

from __future__ import annotations

from math import exp

DECAY_SECONDS = 10.0  # time constant of the average
FADE_SECONDS = 30.0  # time constant at which an old average is forgotten


class PeakEwma:
    """One backend's average. Times are seconds on the host's clock."""

    __slots__ = ("_at", "_value")

    def __init__(self) -> None:
        self._value = 0.0
        self._at = float("-inf")

    def observe(self, seconds: float, now: float) -> None:
        """One answer began after `seconds`."""
        if seconds >= self._value:
            self._value = seconds
        else:
            keep = exp(-max(now - self._at, 0.0) / DECAY_SECONDS)
            self._value = self._value * keep + seconds * (1.0 - keep)
        self._at = now

    def value(self, now: float) -> float:
        """The average as it counts at `now`; 0 where nothing is known."""
        value = self._value
        return value * exp(-max(now - self._at, 0.0) / FADE_SECONDS) if value else 0.0
