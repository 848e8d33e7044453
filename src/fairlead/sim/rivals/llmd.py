"""`llmd_211`: how would llm-d's endpoint picker place the request?

A reference rule, reimplemented from its public description for comparison in the simulator alone. Each scorer gives
0..1, the weighted sum's highest wins; shown here is what is missing to the full sum, so that lower is better.

    prefix = cached share of the prompt          weight 2
    kv     = 1 - KV usage, as reported           weight 1
    queue  = (max - waiting) / (max - min), as reported; 1 for all where all are equal    weight 1

The weights are the defaults of its profile with a precise prefix index. Ties: at random. No correction between reports,
as in the original: all requests between two reports see the same queue.

Simplified: the prefix share is in tokens of Fairlead's bounded index (the original counts blocks; its approximate index
ends after 256 of them). Reports come when the simulator polls (every 50 ms in the original). An engine that has not
reported counts as empty.
"""

from __future__ import annotations

from fairlead.core.model import Facts
from fairlead.core.view import Choice, View
from fairlead.sim.rivals.ties import at_random


class LlmD:
    term_names = ("prefix score", "KV score", "queue score")
    needs_prefixes = True

    def __init__(self, name: str = "llmd_211", *, prefix: float = 2.0, kv: float = 1.0, queue: float = 1.0) -> None:
        self.name = name
        self._weights = (prefix, kv, queue)

    def choose(self, facts: Facts, view: View) -> Choice:
        prompt = view.prompt
        waiting = [b.stats.waiting or 0.0 for b in view.backends]
        low, high = min(waiting), max(waiting)
        terms = [
            (
                cached / prompt if prompt else 0.0,
                1.0 - (b.stats.kv_usage or 0.0),
                (high - queued) / (high - low) if high > low else 1.0,
            )
            for b, cached, queued in zip(view.backends, view.cached, waiting, strict=True)
        ]
        prefix, kv, queue = self._weights
        full = prefix + kv + queue
        scores = [full - (prefix * p + kv * k + queue * q) for p, k, q in terms]
        return Choice(at_random(scores, view), "highest weighted sum of scores", scores, terms)
