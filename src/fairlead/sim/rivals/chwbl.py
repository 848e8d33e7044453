"""`chwbl`: how would KubeAI's prefix hashing (consistent hashing with bounded loads) place the request?

A reference rule, reimplemented from its public description for comparison in the simulator alone. Each backend has 256
points on a ring. From the place of the prompt's beginning the ring is walked, and the first backend with

    in flight <= factor * (all in flight + 1) / backends

is taken. Defaults: factor 1.25; the beginning is the first 100 characters. Here it is the prompt's first block
(`chwbl`), or its first two, as hashes are chained (`chwbl_second`): where all prompts of a trace share their first
block, the one sends all of them to one place and spills, and the other is the fairer comparison. No draws: the ring
decides. A backend within the bound always exists, since the least loaded is.

Simplified: the original hashes text of the first user message and the adapter's name. A prompt shorter than the blocks
asked for is hashed as far as it goes, one without blocks like the empty text: all of these to one place, as there.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable

from xxhash import xxh3_64_intdigest

from fairlead.core.cluster.backend import Backend
from fairlead.core.model import Facts
from fairlead.core.view import Choice, View
from fairlead.sim.rivals.ties import first

POINTS = 256  # per backend


class Ring:
    """Points of all backends seen; those that are no candidates are passed over, as if their points were not there."""

    __slots__ = ("_ids", "_owners", "_points")

    def __init__(self) -> None:
        self._ids: frozenset[str] = frozenset()
        self._points: list[int] = []
        self._owners: list[str] = []

    def walk(self, key: str, backends: list[Backend]) -> list[int]:
        """How many other candidates are met before each one, going up from the key's place."""
        places = {b.id: i for i, b in enumerate(backends)}
        if not places.keys() <= self._ids:
            kept = self._ids if len(self._ids) <= 4 * len(backends) + 64 else frozenset()  # backends that left
            self._build(kept | places.keys())
        owners = self._owners
        start = bisect_left(self._points, xxh3_64_intdigest(key.encode()))
        steps, met = [0] * len(backends), 0
        for at in range(start, start + len(owners)):
            place = places.pop(owners[at % len(owners)], None)
            if place is not None:
                steps[place] = met
                met += 1
                if not places:
                    break
        return steps

    def _build(self, ids: Iterable[str]) -> None:
        self._ids = frozenset(ids)
        ring = sorted((xxh3_64_intdigest(f"{id}#{i}".encode()), id) for id in self._ids for i in range(POINTS))
        self._points = [point for point, _ in ring]
        self._owners = [id for _, id in ring]


class Chwbl:
    term_names = ("in flight", "bound", "steps along the ring")
    needs_prefixes = True

    def __init__(self, name: str = "chwbl", *, blocks: int = 1, factor: float = 1.25) -> None:
        self.name = name
        self._blocks, self._factor = blocks, factor
        self._ring = Ring()

    def choose(self, facts: Facts, view: View) -> Choice:
        backends, hashed = view.backends, facts.blocks[: self._blocks]
        count = len(backends)
        steps = self._ring.walk(str(hashed[-1]) if hashed else "", backends)
        bound = self._factor * (sum([b.inflight for b in backends]) + 1) / count
        terms = [(b.inflight, bound, step) for b, step in zip(backends, steps, strict=True)]
        scores = [float(step if n <= bound else step + count) for n, _, step in terms]
        chosen = first(scores)
        reason = (
            "the prefix's own backend" if steps[chosen] == 0 else "the prefix's own backend is over the bound: next"
        )
        return Choice(chosen, reason, scores, terms)
