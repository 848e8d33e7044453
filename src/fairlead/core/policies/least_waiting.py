"""`least_waiting`: fewest requests waiting in the engine's own queue.

The engines' numbers are as old as the last poll and the same for everybody: choosing by them alone sends every
request between two polls to one backend. So own requests that the poll cannot have counted are added. Equal
queues (mostly all zero) are told apart by requests in flight over weight. An engine that reports no queue, or
whose last word is old, is judged by its requests in flight.
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
        waiting: list[float] = []
        for b in backends:
            known = b.waiting(now, STALE_SECONDS)
            waiting.append(b.inflight if known is None else known)
        inflight = [b.inflight for b in backends]
        scores = [(w + TIE_BREAK * (n + 1)) / b.weight for w, n, b in zip(waiting, inflight, backends, strict=True)]
        ages = [now - b.polled_at for b in backends]
        return Choice(lowest(scores, view), "shortest queue in the engine", scores, (waiting, inflight, ages))
