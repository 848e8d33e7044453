"""Is what we think of a backend's prefix cache true? Predicted against reported cached tokens.

Every answer that tells `cached_tokens` is held against what the index predicted; of engines that do not tell it per
request, the growth of their prefix-cache counters is taken instead. The verdicts:

    drop     several predictions in a row were far off (or the counters began anew): the engine was restarted or its
             cache was reset, the shelf is emptied
    shrink   predictions are too high on the whole: the cache is smaller than we think, the shelf is made smaller;
             it grows back while predictions hold

`factor` is the share of predicted tokens that is really found, shrunk to 1: predictions are multiplied with it.
"""

from __future__ import annotations

from typing import Final

EXACT: Final = "exact"  # reports agree with us
APPROXIMATE: Final = "approximate"  # our own record, with few reports or small differences
DISTRUSTED: Final = "distrusted"  # reports disagree: predictions count for little until they hold again

MEMORY: Final = 0.9  # weight left to earlier reports, per report: about the last ten count
PRIOR_TOKENS: Final = 512.0  # predicted tokens that the benefit of the doubt is worth
LEAST: Final = 256  # predictions below this many tokens are too small to judge by
FAR_OFF: Final = 0.25  # a report below this share of its prediction is far off
DROP_AFTER: Final = 3  # so many far-off reports in a row empty the shelf
GOOD: Final = 0.5  # a report of at least this share confirms
WINDOW: Final = 16  # reports between two looks at the shelf's size
SHRINK_BELOW, GROW_ABOVE = 0.8, 0.95  # shares of predicted tokens found over such a window
SMALLEST: Final = 0.05  # of the engine's own capacity
TRUSTED_AFTER: Final = 8  # reports that make a view exact, and good ones that end distrust


class Trust:
    """The self-check of one backend's shelf."""

    __slots__ = (
        "_far",
        "_good",
        "_window",
        "_window_agreed",
        "_window_predicted",
        "agreed",
        "distrusted",
        "drops",
        "factor",
        "predicted",
        "reports",
        "size",
    )

    def __init__(self) -> None:
        self.predicted = 0.0  # decayed sums of tokens
        self.agreed = 0.0  # of these, tokens that the engine really had
        self.factor = 1.0  # share of predicted tokens to count on, 0..1
        self.reports = 0  # predictions that could be judged
        self.drops = 0  # times the shelf was emptied
        self.distrusted = False
        self.size = 1.0  # the shelf's size, as a share of the engine's capacity
        self._far = 0  # far-off reports in a row
        self._good = 0  # good reports since distrust began
        self._window = 0
        self._window_predicted = self._window_agreed = 0.0

    @property
    def state(self) -> str:
        """exact, approximate or distrusted."""
        if self.distrusted:
            return DISTRUSTED
        known = self.reports >= TRUSTED_AFTER and self.agreed >= GROW_ABOVE * self.predicted
        return EXACT if known else APPROXIMATE

    def observe(self, predicted: int, reported: int, slack: int) -> bool:
        """Take one report; True when the shelf should be emptied. `slack` is the engine's block in tokens.

        Call it for predictions of `LEAST` tokens or more; a prediction of less says nothing either way.
        """
        agreed = min(predicted, reported + slack)
        self.reports += 1
        self.predicted = self.predicted * MEMORY + predicted
        self.agreed = self.agreed * MEMORY + agreed
        self.factor = (self.agreed + PRIOR_TOKENS) / (self.predicted + PRIOR_TOKENS)
        self._window += 1
        self._window_predicted += predicted
        self._window_agreed += agreed
        if agreed < FAR_OFF * predicted:
            self._far += 1
            self._good = 0
            if self._far >= DROP_AFTER:
                self.dropped()
                return True
        else:
            self._far = 0
            if agreed >= GOOD * predicted and self.distrusted:
                self._good += 1
                self.distrusted = self._good < TRUSTED_AFTER
        if self._window >= WINDOW:
            share = self._window_agreed / self._window_predicted
            if share < SHRINK_BELOW:
                self.size = max(self.size * SHRINK_BELOW, SMALLEST)
            elif share > GROW_ABOVE:
                self.size = min(self.size / GROW_ABOVE, 1.0)
            self._window, self._window_predicted, self._window_agreed = 0, 0.0, 0.0
        return False

    def dropped(self, *, known: bool = False) -> None:
        """The shelf is emptied; `known` when we know why (a restart): an empty view is then a true one."""
        self.drops += 1
        self.distrusted = not known
        self._far = self._good = self._window = 0
        self._window_predicted = self._window_agreed = 0.0
        if known:
            self.predicted = self.agreed = 0.0
            self.factor = 1.0
            self.reports = 0
