"""Rounded times: does a trace only know the tick in which its requests came, and when within it did they come?

A simulation of times as they stand would see ten requests at once every three seconds, and judge policies by how they
take bursts that never were.
Rule 1: the tick is found in the data. Times that are not rounded stay what they are.
Rule 2: requests keep their order, and each stays in its tick.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from random import Random
from typing import Final

_GRAIN: Final = 0.01  # seconds: ticks are whole numbers of these
_SLACK: Final = 0.0025  # seconds that a time may stand beside its tick: published ones are off by a millisecond
SHORTEST: Final = 1.0  # seconds; what is finer needs no spreading
LONGEST: Final = 60.0


def find_tick(times: Sequence[float]) -> float | None:
    """The common divisor of the gaps between times in order, if they are rounded to one and it matters."""
    grains = [round(time / _GRAIN) for time in times]
    if any(abs(time - grain * _GRAIN) > _SLACK for time, grain in zip(times, grains, strict=True)):
        return None
    distinct = sorted(set(grains))
    if len(distinct) < 3 or len(distinct) == len(grains):  # too few to tell, or nobody shares a tick
        return None
    tick = round(math.gcd(*(b - a for a, b in itertools.pairwise(distinct))) * _GRAIN, 6)
    return tick if SHORTEST <= tick <= LONGEST else None


def _at_random(count: int, rng: Random) -> list[float]:
    return sorted(rng.random() for _ in range(count))


def _evenly(count: int, rng: Random) -> list[float]:
    return [place / count for place in range(count)]


SPREADS: Final[dict[str, Callable[[int, Random], list[float]] | None]] = {
    "random": _at_random,
    "even": _evenly,
    "none": None,
}
SAID: Final = {"random": "at random over it (seed {seed})", "even": "evenly over it", "none": ""}


def spread(
    times: Sequence[float], tick: float, place: Callable[[int, Random], list[float]], rng: Random
) -> list[float]:
    """Times in order, those of one tick placed within it."""
    placed: list[float] = []
    for start, group in itertools.groupby(round(time / _GRAIN) * _GRAIN for time in times):
        placed += [round(start + tick * share, 6) for share in place(len(list(group)), rng)]
    return placed
