"""`sglang_cache_aware`: how would SGLang's router place the request?

A reference rule, reimplemented from its public description for comparison in the simulator alone.

    if max - min > balance_abs and max > balance_rel * min (requests in flight): fewest requests in flight
    else if the longest match covers more than `cache_threshold` of the prompt:  the one with the longest match
    else:                                                                       fewest requests in flight

Defaults are the command line's: 0.3, 64, 1.5. `sglang_cache_aware_32` has the library's: 0.5, 32, 1.1. Ties in load:
the first in order. Equal longest matches: at random (the original's tree names any one of its holders).

Simplified: the match is in tokens of Fairlead's bounded index; the original keeps one tree of text per model and evicts
from it every two minutes. Older versions send a miss to the smallest tree instead of the least loaded.
"""

from __future__ import annotations

from fairlead.core.model import Facts
from fairlead.core.view import Choice, View
from fairlead.sim.rivals.ties import at_random, first


class SglangCacheAware:
    term_names = ("in flight", "share of the prompt cached")
    needs_prefixes = True

    def __init__(
        self,
        name: str = "sglang_cache_aware",
        *,
        cache_threshold: float = 0.3,
        balance_abs: int = 64,
        balance_rel: float = 1.5,
    ) -> None:
        self.name = name
        self._cache_threshold = cache_threshold
        self._balance_abs, self._balance_rel = balance_abs, balance_rel

    def choose(self, facts: Facts, view: View) -> Choice:
        prompt = view.prompt
        loads: list[float] = [b.inflight for b in view.backends]
        rates = [cached / prompt if prompt else 0.0 for cached in view.cached]
        terms = list(zip(loads, rates, strict=True))
        low, high = min(loads), max(loads)
        if high - low > self._balance_abs and high > self._balance_rel * low:
            return Choice(first(loads), "loads are out of balance: fewest requests in flight", loads, terms)
        if max(rates) > self._cache_threshold:
            scores = [-rate for rate in rates]
            return Choice(at_random(scores, view), "the longest cached prefix", scores, terms)
        return Choice(first(loads), "no long cached prefix: fewest requests in flight", loads, terms)
