"""`power_of_two`: two at random (the likelier the higher their weight), the less loaded of them.

Looks at two candidates only, so many balancers that share a fleet do not all run to the same one.
"""

from __future__ import annotations

from fairlead.core.model import Facts
from fairlead.core.view import Choice, View, weighted

NOT_DRAWN = float("inf")


class PowerOfTwo:
    name = "power_of_two"
    term_names = ("in flight",)
    needs_prefixes = False

    def choose(self, facts: Facts, view: View) -> Choice:
        backends = view.backends
        count = len(backends)
        if count == 1:
            return Choice(0, "the only candidate", [float(backends[0].inflight)], [(backends[0].inflight,)])
        indices = list(range(count))
        first = weighted(indices, view)
        del indices[first]
        second = weighted(indices, view)
        one, two = backends[first], backends[second]
        load_one, load_two = one.inflight / one.weight, two.inflight / two.weight
        scores = [NOT_DRAWN] * count
        scores[first], scores[second] = load_one, load_two
        chosen = first if load_one <= load_two else second
        return Choice(chosen, "the less loaded of two drawn", scores, [(b.inflight,) for b in backends])
