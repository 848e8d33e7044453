"""`prefix_hash`: the same beginning of a prompt goes to the same backend, as far as load allows.

Consistent hashing by rendezvous (highest random weight): every backend gets a number drawn from (key, backend),
the highest wins. A backend that joins takes 1/N of the keys from all others, one that leaves gives back
only its own. Load is bounded (bounded.py): a backend over its share is skipped and the next in the key's own order
is taken, so a spilled key spills to the same neighbour each time.

Which beginning is the key? One that everybody shares (a system prompt) says nothing and would send all
traffic to one place; so the policy counts how popular each beginning is and takes the shortest one that is
asked for no more than one backend's share of the traffic. If even the longest is too popular, it is given as
many backends as its popularity needs, and the least loaded of them is taken (any of them, if all are idle).
"""

from __future__ import annotations

from bisect import bisect_left
from heapq import nlargest
from math import ceil, log

from fairlead.core.model import Facts
from fairlead.core.policies.bounded import room
from fairlead.core.view import Choice, View, lowest

STEPS = (256, 1_024, 4_096, 16_384, 65_536)  # bytes of prompt that a key may stand for
MASK = (1 << 64) - 1
MAX_COUNTED = 16_384  # beginnings remembered
HALVE_AFTER = 4_096  # requests after which all counts are halved: the last few thousand matter
NEAR = 1.1  # see least_pending_tokens.py
UNKNOWN = 32.0  # requests that must be seen before a share means anything


def beginnings(facts: Facts) -> tuple[int, ...]:
    """Hashes of ever longer beginnings of the prompt, the last of them at most 64 KiB."""
    blocks, ends = facts.blocks, facts.block_ends
    last = len(blocks) - 1
    if last < 0:
        return ()
    found = []
    for step in STEPS:
        i = bisect_left(ends, step, 0, last)
        found.append(blocks[i])
        if i == last:
            break
    return tuple(found)


def place(key: int, seed: int) -> int:
    """The number a backend draws for a key, 0..2^64-1 (the finalizer of splitmix64 over both)."""
    x = (key ^ seed) & MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


class Popularity:
    """How large a share of recent requests begins with each hash?"""

    __slots__ = ("_counts", "_since", "_total")

    def __init__(self) -> None:
        self._counts: dict[int, float] = {}
        self._total = 0.0
        self._since = 0

    def note(self, prefixes: tuple[int, ...]) -> None:
        counts = self._counts
        for prefix in prefixes:
            counts[prefix] = counts.get(prefix, 0.0) + 1.0
        self._total += 1.0
        self._since += 1
        if self._since >= HALVE_AFTER or len(counts) > MAX_COUNTED:
            # Beginnings seen once are forgotten; they come back when they come again.
            self._counts = {k: c / 2 for k, c in counts.items() if c > 1.0}
            self._total /= 2
            self._since = 0

    def share(self, prefix: int) -> float:
        return self._counts.get(prefix, 0.0) / (self._total + UNKNOWN)


class PrefixHash:
    name = "prefix_hash"
    term_names = ("in flight", "has room", "draw: the highest wins")
    needs_prefixes = True

    def __init__(self, load_factor: float = 1.25) -> None:
        self._factor = load_factor
        self._popularity = Popularity()

    def choose(self, facts: Facts, view: View) -> Choice:
        backends = view.backends
        prefixes = beginnings(facts)
        inflight = [b.inflight for b in backends]
        fits = room(backends, self._factor)
        if not prefixes:
            scores = [(n + 1) / b.capacity for n, b in zip(inflight, backends, strict=True)]
            terms: list[tuple[float, ...]] = [(n, fit, 0.0) for n, fit in zip(inflight, fits, strict=True)]
            return Choice(lowest(scores, view, NEAR), "no prompt to hash: least loaded", scores, terms)
        key, copies = self._key(prefixes, len(backends))
        drawn: list[float] = [place(key, b.seed) for b in backends]
        if any(b.weight != backends[0].weight for b in backends):
            # Weighted rendezvous hashing (Schindelhauer, Schomaker 2005): keys in proportion to the weights.
            drawn = [
                -b.weight / log((min(x, MASK - 2048) + 0.5) / (MASK + 1)) for x, b in zip(drawn, backends, strict=True)
            ]
        terms = [(n, fit, x) for n, fit, x in zip(inflight, fits, drawn, strict=True)]
        scores = [-x for x in drawn]
        if copies > 1:
            group = [i for i in nlargest(copies, range(len(backends)), key=drawn.__getitem__) if fits[i]]
            if group:
                loads = [inflight[i] / backends[i].capacity for i in group]
                fewest = min(loads)
                group = [i for i, load in zip(group, loads, strict=True) if load == fewest]
                chosen = group[int(view.rng.random() * len(group))]
                return Choice(chosen, f"a popular beginning, spread over {copies} backends", scores, terms)
        best = max(drawn)
        home = drawn.index(best)
        if fits[home]:
            return Choice(home, "the prefix's own backend", scores, terms)
        best = max([x for x, fit in zip(drawn, fits, strict=True) if fit])
        return Choice(drawn.index(best), "the prefix's own backend is over its share: next", scores, terms)

    def _key(self, prefixes: tuple[int, ...], backends: int) -> tuple[int, int]:
        """(hash to place, number of backends it may use)."""
        popularity = self._popularity
        popularity.note(prefixes)
        limit = self._factor / backends
        share = 0.0
        for prefix in prefixes:
            share = popularity.share(prefix)
            if share <= limit:
                return prefix, 1
        return prefixes[-1], min(ceil(share * backends), backends)
