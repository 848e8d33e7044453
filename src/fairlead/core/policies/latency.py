"""`latency`: the backend that has begun its answers soonest lately, as long as it is not holding unusually much.

Prequal's rule (NSDI 2024): a backend is hot when it has more requests in flight than most others (above the
`HOT` quantile of the fleet, over weight); of the cold ones the one with the lowest latency is taken, and if all are
hot the one with the fewest in flight. The latency is our own observation of first tokens (cluster/latency.py), so
no probes are sent. Backends whose latencies are alike are told apart by requests in flight.

It knows nothing of prompts and their lengths: for engines behind a network or another balancer, whose inside
the default policy's model does not fit.
"""

from __future__ import annotations

from fairlead.core.model import Facts
from fairlead.core.view import Choice, View, lowest

HOT = 0.84  # quantile of requests in flight above which a backend is hot
NEAR = 1.1  # latencies up to this many times the best are as good
HOT_SCORE = 1e6  # added to a hot one's score
LEAST_SECONDS = 1e-3  # latencies are no better known than this


class Latency:
    name = "latency"
    term_names = ("first token lately, s", "in flight", "hot")
    needs_prefixes = False

    def choose(self, facts: Facts, view: View) -> Choice:
        now, backends = view.now, view.backends
        loads = [b.inflight / b.weight for b in backends]
        limit = sorted(loads)[int(HOT * (len(loads) - 1))]
        seconds = [b.latency.value(now) for b in backends]
        hot = [load > limit for load in loads]
        scores = [
            HOT_SCORE + load if is_hot else (latency + LEAST_SECONDS) * (1.0 + load)
            for latency, load, is_hot in zip(seconds, loads, hot, strict=True)
        ]
        terms = [(s, b.inflight, h) for s, b, h in zip(seconds, backends, hot, strict=True)]
        return Choice(lowest(scores, view, NEAR), "soonest first token lately, not overloaded", scores, terms)
