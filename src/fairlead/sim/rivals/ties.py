"""Ties between equal scores: which of the best is taken?

Part of the reference rules, which are reimplemented from public descriptions for comparison in the simulator. The real
systems differ in how they break ties, and on a fleet that is often idle that matters, so each rule says which it does.
"""

from __future__ import annotations

from collections.abc import Sequence

from fairlead.core.view import View


def first(scores: Sequence[float]) -> int:
    """The lowest score; of equals, the one that stands first."""
    return scores.index(min(scores))


def at_random(scores: Sequence[float], view: View) -> int:
    """The lowest score; of equals, any. Draws only when there is a tie."""
    best = min(scores)
    ties = [i for i, score in enumerate(scores) if score == best]
    return ties[0] if len(ties) == 1 else ties[view.rng.randrange(len(ties))]


def fewest_in_flight(scores: Sequence[float], view: View) -> list[int]:
    """The lowest score; of equals, those with the fewest requests in flight: one or more places in the view."""
    best = min(scores)
    ties = [i for i, score in enumerate(scores) if score == best]
    fewest = min([view.backends[i].inflight for i in ties])
    return [i for i in ties if view.backends[i].inflight == fewest]
