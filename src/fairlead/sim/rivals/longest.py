"""`aibrix_prefix`, `production_stack_prefix`: how do routers that put the longest prefix first place the request?

Reference rules, reimplemented from their public descriptions for comparison in the simulator alone.

    aibrix_prefix             AIBrix `prefix-cache`: if max - min in flight > 16: fewest in flight. Else by whole per
                              cent of the prompt cached, then fewest in flight: the first whose in flight is at most
                              mean + 2 deviations. Nothing cached, or all holders over that: fewest in flight.
                              Ties: at random.
    production_stack_prefix   vLLM production-stack `prefixaware`: any one of those with the longest prefix, whatever
                              their load; any one at all where nothing is cached.

Defaults: 16 and 2 (AIBrix; 8 and 1 in older versions); the other has none.

Simplified: prefixes are tokens of Fairlead's bounded index; the originals hash blocks of 128 characters, and
production-stack never forgets one. In flight is this balancer's own count, as in AIBrix.
"""

from __future__ import annotations

from math import sqrt

from fairlead.core.model import Facts
from fairlead.core.view import Choice, View
from fairlead.sim.rivals.ties import at_random, fewest_in_flight


class AibrixPrefix:
    name = "aibrix_prefix"
    term_names = ("in flight", "per cent of the prompt cached")
    needs_prefixes = True

    def __init__(self, *, imbalance: int = 16, deviations: float = 2.0) -> None:
        self._imbalance, self._deviations = imbalance, deviations

    def choose(self, facts: Facts, view: View) -> Choice:
        prompt = view.prompt
        loads: list[float] = [b.inflight for b in view.backends]
        matches = [100 * cached // prompt if prompt else 0 for cached in view.cached]
        terms = [(n, float(match)) for n, match in zip(loads, matches, strict=True)]
        if max(loads) - min(loads) > self._imbalance:
            return Choice(at_random(loads, view), "loads are out of balance: fewest in flight", loads, terms)
        mean = sum(loads) / len(loads)
        bound = mean + self._deviations * sqrt(sum([(n - mean) ** 2 for n in loads]) / len(loads))
        scores = [float(-match) if n <= bound else 0.0 for n, match in zip(loads, matches, strict=True)]
        if min(scores) == 0.0:
            return Choice(at_random(loads, view), "no holder of a prefix to take: fewest in flight", loads, terms)
        ties = fewest_in_flight(scores, view)
        chosen = ties[0] if len(ties) == 1 else ties[view.rng.randrange(len(ties))]
        return Choice(chosen, "the longest cached prefix within the bound", scores, terms)


class ProductionStackPrefix:
    name = "production_stack_prefix"
    term_names = ("prompt tokens cached",)
    needs_prefixes = True

    def choose(self, facts: Facts, view: View) -> Choice:
        scores = [float(-cached) for cached in view.cached]
        return Choice(at_random(scores, view), "the longest cached prefix", scores, [(c,) for c in view.cached])
