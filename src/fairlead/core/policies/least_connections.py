"""`least_connections`: fewest requests in flight over weight (nginx `least_conn`)."""

from __future__ import annotations

from fairlead.core.model import Facts
from fairlead.core.view import Choice, View, lowest


class LeastConnections:
    name = "least_connections"
    term_names = ("in flight", "weight")
    needs_prefixes = False

    def choose(self, facts: Facts, view: View) -> Choice:
        backends = view.backends
        terms = [(b.inflight, b.weight) for b in backends]
        scores = [n / w for n, w in terms]
        return Choice(lowest(scores, view), "fewest requests in flight", scores, terms)
