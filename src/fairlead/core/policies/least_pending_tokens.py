"""`least_pending_tokens`: fewest tokens still to be worked on, for what the machine can do.

    score = (prompt tokens not yet prefilled + expected output tokens not yet produced) / weight + own / speed

`own` are the tokens of the request at hand; speed is learned (see cluster/speeds.py), or 1 where weights are set: then
an idle fleet is shared by weight. Why does learned speed not divide what is pending as well? Tokens that are pending
go away faster on a faster machine, so equal pending tokens already mean work in proportion to speed (Little's law:
rate = pending / time in system). Dividing again would send work in proportion to the square of the speed, as long as
engines batch without being full. Measured in virtual time for speeds 1, 2, 4: tests/core/test_core_capacity.py.

Scores within a tenth of the best count as equal (estimates are no better than that); then the fewest requests in
flight decide, then chance: so that an idle fleet of equals is not one favourite and its spares.
"""

from __future__ import annotations

from fairlead.core.model import Facts
from fairlead.core.view import Choice, View, lowest

NEAR = 1.1  # scores up to this many times the best are as good


class LeastPendingTokens:
    name = "least_pending_tokens"
    term_names = ("prompt tokens pending", "output tokens pending", "weight", "speed")
    needs_prefixes = False

    def choose(self, facts: Facts, view: View) -> Choice:
        own = view.prompt + view.output
        terms = [(b.prompt_pending, b.output_pending, b.weight, b.speed) for b in view.backends]
        scores = [(p + o) / w + own / c for p, o, w, c in terms]
        return Choice(lowest(scores, view, NEAR), "fewest pending tokens for its speed", scores, terms)
