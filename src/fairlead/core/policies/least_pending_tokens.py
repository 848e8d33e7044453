"""`least_pending_tokens`: fewest tokens still to be worked on, over capacity.

Pending = prompt tokens not yet prefilled + expected output tokens not yet produced, the request's own included,
so that on an idle fleet the faster machine comes first. Capacity is learned (see cluster/speeds.py) or the
weight where one is set.
"""

from __future__ import annotations

from fairlead.core.model import Facts
from fairlead.core.view import Choice, View, lowest


class LeastPendingTokens:
    name = "least_pending_tokens"
    term_names = ("prompt tokens pending", "output tokens pending", "capacity")
    needs_prefixes = False

    def choose(self, facts: Facts, view: View) -> Choice:
        backends = view.backends
        own = view.prompt + view.output
        terms = [(b.prompt_pending, b.output_pending, b.capacity) for b in backends]
        scores = [(p + o + own) / c for p, o, c in terms]
        return Choice(lowest(scores, view), "fewest pending tokens over capacity", scores, terms)
