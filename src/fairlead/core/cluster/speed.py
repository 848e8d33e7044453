"""How long did one kind of work take on one backend, against what was predicted? Two memories of it.

The long memory is a ratio of sums that fades with time. The short one holds the last few requests: when the two
differ by a factor, the machine has changed (throttled, healed, got a neighbour) and the long memory begins anew
from the short one, instead of being diluted by minutes of a past that is over.

Rule 1: prompts that an engine computed in one step end together: the first takes all of its time, the others none.
They are one piece of evidence, or the short memory would hold nothing but the zeros.
Rule 2: the memories are compared between requests (by `judge`), never in the middle of such a step.
Rule 3: a prediction that turns out wrong is mended where it still is, and by as much of it as is left there.
"""

from __future__ import annotations

from collections import deque

FAST = 0.6  # weight left to earlier requests in the short memory: about the last two and a half count
CHANGED = 2.5  # short and long memory differ by this factor: the machine has changed
SLOWER = 1.25  # so many times the fleet's mean is slower than it
CHANGED_AFTER = 4  # requests in the short memory before it is believed
TOGETHER = 0.1  # what took less than this share of its usual time ended in one step with the one before it
REMEMBERED = 12  # starts of requests that are kept; FAST to this power is nothing


class Speed:
    """Observed and predicted seconds of one kind of work on one backend."""

    __slots__ = ("_changed_at", "_recent", "at", "count", "fast_observed", "fast_predicted", "observed", "predicted")

    def __init__(self) -> None:
        self.observed = self.predicted = 0.0
        self.fast_observed = self.fast_predicted = 0.0
        self.count = 0  # requests (those ending together: once) since the long memory was last replaced
        self._recent: deque[float] = deque(maxlen=REMEMBERED)  # when the last of these were added
        self._changed_at = self.at = float("-inf")  # `at`: when the last request was added

    def add(self, observed: float, predicted: float, now: float) -> None:
        """One request's work ended."""
        if not self.predicted or observed * self.predicted >= TOGETHER * self.observed * predicted:
            self.fast_observed *= FAST
            self.fast_predicted *= FAST
            self.count += 1
            self._recent.append(now)
        self.at = now
        self.observed += observed
        self.predicted += predicted
        self.fast_observed += observed
        self.fast_predicted += predicted

    def mend(self, predicted: float, at: float, kept: float) -> None:
        """A prediction that was added at `at` was this much too low (or high, below 0); the long memory has kept the
        share `kept` of what it was told then."""
        recent = self._recent
        forgotten = len(recent) == REMEMBERED and recent[0] > at
        share = 0.0 if forgotten else FAST ** sum(start > at for start in recent)
        self.fast_predicted = max(self.fast_predicted + share * predicted, 0.0)
        if at <= self._changed_at:  # the long memory was the short one since
            kept *= 0.0 if forgotten else FAST ** sum(at < start <= self._changed_at for start in recent)
        self.predicted = max(self.predicted + kept * predicted, 0.0)

    def judge(self, mean: float, now: float) -> None:
        """Has the machine changed? `mean` is the fleet's ratio.

        Slower is believed of any machine, faster only of one that was slower than the mean: machines heal, they do not
        surpass themselves. What looks like it is a prompt that was cached and not known to be.
        """
        if self.count < CHANGED_AFTER or not self.fast_predicted:
            return
        long, short = self.observed * self.fast_predicted, self.fast_observed * self.predicted
        if short > CHANGED * long or (long > CHANGED * short and self.observed > SLOWER * mean * self.predicted):
            self.observed, self.predicted = self.fast_observed, self.fast_predicted
            self.count = 0
            self._changed_at = now

    def fade(self, share: float) -> None:
        self.observed *= share
        self.predicted *= share
