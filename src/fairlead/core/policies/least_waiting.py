"""`least_waiting`: fewest requests waiting in the engine's own queue.

The engines' numbers are as old as the last poll and the same for everybody: choosing by them alone sends every
request between two polls to one backend. So own requests that the poll cannot have counted are added. Equal
queues (mostly all zero) are told apart by requests in flight over weight. Of an engine that
reports no queue, or whose last word is old, our own requests without a first token are taken for the queue.
"""

from __future__ import annotations

from fairlead.core.model import Facts
from fairlead.core.view import Choice, View, lowest

STALE_SECONDS = 10.0
TIE_BREAK = 1e-3  # a queue one shorter outweighs up to a thousand requests in flight


class LeastWaiting:
    name = "least_waiting"
    term_names = ("waiting", "in flight", "age of the report, s")
    needs_prefixes = False

    def choose(self, facts: Facts, view: View) -> Choice:
        now, backends = view.now, view.backends
        fresh = now - STALE_SECONDS
        terms = []
        scores = []
        for b in backends:
            inflight, polled_at, waiting = b.inflight, b.polled_at, b.stats.waiting
            if waiting is None or polled_at < fresh:
                known: float = inflight - b.decoding
            else:
                known = waiting + b.unseen_old + b.unseen_new
            terms.append((known, inflight, now - polled_at))
            scores.append((known + TIE_BREAK * inflight) / b.weight)
        return Choice(lowest(scores, view), "shortest queue in the engine", scores, terms)
