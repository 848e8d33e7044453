"""`random`: a random candidate, the likelier the higher its weight."""

from __future__ import annotations

from fairlead.core.model import Facts
from fairlead.core.view import Choice, View


class RandomChoice:
    name = "random"
    term_names = ("weight",)
    needs_prefixes = False

    def choose(self, facts: Facts, view: View) -> Choice:
        weights = [b.weight for b in view.backends]
        point = view.rng.random() * sum(weights)
        chosen = len(weights) - 1
        for i, weight in enumerate(weights):
            point -= weight
            if point < 0:
                chosen = i
                break
        return Choice(chosen, "drawn at random", [1.0 / w for w in weights], [(w,) for w in weights])
