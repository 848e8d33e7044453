"""`round_robin`: everybody in turn, by weight.

Smooth weighted round robin as nginx does it: each choice adds its weight to every candidate's credit, the
highest credit wins and pays the sum of the weights. 5:1:1 gives a a b a c a a, not a a a a a b c.
"""

from __future__ import annotations

from fairlead.core.model import Facts
from fairlead.core.view import Choice, View


class RoundRobin:
    name = "round_robin"
    term_names = ("credit", "weight")
    needs_prefixes = False

    def __init__(self) -> None:
        self._credit: dict[str, float] = {}

    def choose(self, facts: Facts, view: View) -> Choice:
        credit, backends = self._credit, view.backends
        best, best_credit, total = 0, float("-inf"), 0.0
        for i, b in enumerate(backends):
            total += b.weight
            mine = credit[b.id] = credit.get(b.id, 0.0) + b.weight
            if mine > best_credit:
                best, best_credit = i, mine
        terms = [(credit[b.id], b.weight) for b in backends]
        credit[backends[best].id] -= total
        if len(credit) > 4 * len(backends) + 64:  # backends that left
            self._credit = {b.id: credit[b.id] for b in backends}
        return Choice(best, "next in turn", [-c for c, _ in terms], terms)
