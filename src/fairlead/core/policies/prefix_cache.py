"""`prefix_cache`: the backend that has the longest part of the prompt in its cache, unless it is overloaded.

Simple and strong affinity, for fleets whose prompts share much and whose machines are alike. A backend over `overload`
times its fair share of the pending tokens is passed over, as is one where the hit is too small to matter; then the
one with the fewest pending tokens is taken, which so becomes the second home of that prefix.
`expected_completion` weighs the same facts in seconds instead of by a threshold.
"""

from __future__ import annotations

from fairlead.core.model import Facts
from fairlead.core.policies.least_pending_tokens import LeastPendingTokens
from fairlead.core.view import Choice, View

MIN_SHARE = 0.1  # of the prompt that has to be cached for affinity to count
SLACK_TOKENS = 4_096  # pending tokens beyond its share that a home may always hold


class PrefixCache:
    name = "prefix_cache"
    term_names = ("prompt tokens cached", "has room", *LeastPendingTokens.term_names)
    needs_prefixes = True

    def __init__(self, overload: float = 2.0) -> None:
        """`overload`, 1 or more: times its fair share of pending tokens at which affinity yields."""
        self._overload = overload
        self._fallback = LeastPendingTokens()

    def choose(self, facts: Facts, view: View) -> Choice:
        backends, cached = view.backends, view.cached
        choice = self._fallback.choose(facts, view)
        pending = [b.prompt_pending + b.output_pending for b in backends]
        share = self._overload * sum(pending) / sum([b.capacity for b in backends])
        room = [p <= share * b.capacity + SLACK_TOKENS * b.weight for p, b in zip(pending, backends, strict=True)]
        choice.terms = [(c, r, *row) for c, r, row in zip(cached, room, choice.terms, strict=True)]
        longest = max(cached)
        if longest < MIN_SHARE * view.prompt or not longest:
            choice.reason = "little of it is cached anywhere: " + choice.reason
            return choice
        best = max([c for c, r in zip(cached, room, strict=True) if r], default=0)
        if best < MIN_SHARE * view.prompt or not best:
            choice.reason = "those that have it cached are overloaded: " + choice.reason
            return choice
        scores = choice.scores
        homes = [i for i, c in enumerate(cached) if c == best and room[i]]
        choice.index = min(homes, key=scores.__getitem__)
        choice.reason = "longest cached prefix" if best == longest else "longest cached prefix that is not overloaded"
        return choice
