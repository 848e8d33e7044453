"""`lmetric`, `lpwl`, `least_resident_tokens`: how do the rules of recent papers and studies place the request?

Reference rules, reimplemented from their public descriptions for comparison in the simulator alone. None has a
parameter. With prefill = uncached prompt tokens of requests without a first token + those of the request at hand:

    lmetric                 prefill * (requests in flight + 1)
                            LMETRIC (OSDI 2026), the published `+ 1` included, without which an idle engine would
                            win whatever is cached. Ties: fewest in flight, then first in order.
    lpwl                    prefill
                            "Least pending prefill" (study of agentic workloads). Ties: fewest in flight, then in turn.
    least_resident_tokens   prompt tokens of requests without a first token + prompt and output tokens of the others:
                            what the engine holds or is about to hold, a common guess at load. It is blind to what
                            is cached. Ties: fewest in flight, then at random.

Simplified: LMETRIC's detector, which bars the engines that hold a hot prefix while one kind of request dominates the
traffic, is left out.
"""

from __future__ import annotations

from fairlead.core.model import Facts
from fairlead.core.view import Choice, View
from fairlead.sim.rivals.ties import fewest_in_flight


def prefills(view: View) -> list[int]:
    """Uncached prompt tokens that each candidate would have before it, the request's own among them."""
    return [b.prompt_pending + max(0, view.prompt - c) for b, c in zip(view.backends, view.cached, strict=True)]


class LMetric:
    name = "lmetric"
    term_names = ("uncached prompt tokens", "in flight")
    needs_prefixes = True

    def choose(self, facts: Facts, view: View) -> Choice:
        terms = [(p, b.inflight) for p, b in zip(prefills(view), view.backends, strict=True)]
        scores = [float(p * (n + 1)) for p, n in terms]
        chosen = fewest_in_flight(scores, view)[0]  # (equal products and counts: the prefill is equal as well)
        return Choice(chosen, "least uncached prefill times requests", scores, terms)


class Lpwl:
    name = "lpwl"
    term_names = ("uncached prompt tokens", "in flight")
    needs_prefixes = True

    def __init__(self) -> None:
        self._turn = 0

    def choose(self, facts: Facts, view: View) -> Choice:
        terms = [(p, b.inflight) for p, b in zip(prefills(view), view.backends, strict=True)]
        scores = [float(p) for p, _ in terms]
        ties = fewest_in_flight(scores, view)
        chosen = ties[self._turn % len(ties)]
        if len(ties) > 1:
            self._turn += 1
        return Choice(chosen, "least uncached prefill", scores, terms)


class LeastResidentTokens:
    name = "least_resident_tokens"
    term_names = ("prompt tokens in prefill", "KV tokens")
    needs_prefixes = False

    def choose(self, facts: Facts, view: View) -> Choice:
        terms = [(b.prompt_pending, b.kv_tokens) for b in view.backends]
        scores = [float(pending + held) for pending, held in terms]
        ties = fewest_in_flight(scores, view)
        chosen = ties[0] if len(ties) == 1 else ties[view.rng.randrange(len(ties))]
        return Choice(chosen, "fewest tokens held", scores, terms)
