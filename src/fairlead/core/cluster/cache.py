"""The fleet's prefix caches as the balancer sees them: predictions for a request, and what reports say about them.

Joins the index (prefix.py: what was sent where) with the self-check (trust.py: is it true?).

Rule 1: an answer that tells its cached tokens is judged by itself; what is left over is judged by the engine's
counters, in sums. Both are needed: vLLM tells the answers' only with --enable-prompt-tokens-details, some
engines never.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from fairlead.core.cluster.backend import Backend
from fairlead.core.cluster.ledger import Lease
from fairlead.core.cluster.prefix import DEFAULT_TOKENS, PrefixIndex
from fairlead.core.cluster.tokens import TokenEstimator
from fairlead.core.cluster.trust import LEAST
from fairlead.core.model import EngineStats, Facts, Usage

SHORT_BYTES = 1_024  # a prompt of less is computed in no time: looking for it is not worth it
DEFAULT_BLOCK = 16  # tokens of an engine's KV block where it does not tell
CAPACITY_SHARE = 1.0  # size of a shelf over that of the engine's KV cache
COUNTER_TOKENS = 2_000  # predicted tokens between two readings before the engine's counters are judged by


class CacheView:
    """What is where, and how sure are we? One per balancer."""

    __slots__ = ("_found", "_scale", "_tokens", "index")

    def __init__(self, tokens: TokenEstimator) -> None:
        self.index = PrefixIndex()
        self._tokens = tokens
        self._found: dict[int, int] = {}  # of the last look-up: bytes by the shelf's bit
        self._scale = 0.0  # tokens per byte of that prompt

    def match(self, facts: Facts, prompt: int, candidates: Sequence[Backend]) -> list[int]:
        """Tokens of the prompt (of `prompt`) that each candidate is expected to find in its cache."""
        span = facts.span
        found = self.index.match(facts.blocks, facts.block_ends, span) if span >= SHORT_BYTES and prompt else {}
        self._found = found
        if not found:
            return [0] * len(candidates)
        scale = self._scale = prompt / span
        return [int(found[b.shelf.bit] * scale * b.trust.factor) if b.shelf.bit in found else 0 for b in candidates]

    def raw(self, backend: Backend) -> int:
        """The same of the last look-up for one backend, without the discount for doubt: reports are held against it."""
        return int(self._found.get(backend.shelf.bit, 0) * self._scale)

    def sent(self, backend: Backend, facts: Facts, prompt: int, output: int) -> None:
        """The request goes there, and is expected to be answered with `output` tokens."""
        span = facts.span
        if span >= SHORT_BYTES and prompt:  # the answer's tokens take as many bytes each as the prompt's
            self.index.insert(backend.shelf, facts.blocks, facts.block_ends, span, output * span // prompt)

    def started(self, lease: Lease) -> None:
        """Its first token came: the engine has counted its look-up."""
        lease.backend.cache_predicted += lease.cached_raw

    def reported(self, lease: Lease, usage: Usage) -> None:
        """The answer told how many tokens were cached."""
        backend, cached = lease.backend, usage.cached_tokens or 0
        backend.cache_found -= cached
        backend.cache_predicted -= lease.cached_raw
        predicted = min(lease.cached_raw, usage.prompt_tokens - 1)
        if predicted >= LEAST:
            self._judge(backend, predicted, cached)

    def counters(self, backend: Backend, stats: EngineStats) -> None:
        """A new reading of the engine's metrics; `backend.stats` still holds the one before."""
        queries, hits = stats.prefix_queries, stats.prefix_hits
        before = backend.stats
        if queries is None or hits is None or before.prefix_queries is None or before.prefix_hits is None:
            return
        if queries < before.prefix_queries:  # counters began anew, and so did the engine
            self.lost(backend)
            return
        backend.cache_found += hits - before.prefix_hits
        predicted = int(backend.cache_predicted)
        if predicted >= COUNTER_TOKENS:
            found = max(int(backend.cache_found), 0)
            # The engine counts when it begins a prompt, we when it is done: some may be ahead of us.
            ahead = min(max(found - predicted, 0), sum([lease.cached_raw for lease in backend.unstarted]))
            backend.cache_predicted, backend.cache_found = 0.0, float(ahead)
            self._judge(backend, predicted, found)

    def lost(self, backend: Backend) -> None:
        """The engine was restarted: it has nothing any more."""
        self.index.clear(backend.shelf)
        backend.trust.dropped(known=True)
        backend.cache_predicted = backend.cache_found = 0.0

    def refresh(self, backends: Iterable[Backend]) -> None:
        """Fit the shelves to the engines' KV capacity; once in a while."""
        for b in backends:
            stats, models = b.stats, b.models
            tokens = stats.kv_blocks * stats.block_tokens if stats.kv_blocks and stats.block_tokens else DEFAULT_TOKENS
            name = next(iter(models)) if models and len(models) == 1 else None
            limit = int(tokens * CAPACITY_SHARE * b.trust.size * self._tokens.of(name).bytes_per_token)
            if limit != b.shelf.limit:
                b.shelf.limit = limit
                if b.shelf.used > limit:
                    self.index.trim(b.shelf)

    def _judge(self, backend: Backend, predicted: int, reported: int) -> None:
        if backend.trust.observe(predicted, reported, backend.stats.block_tokens or DEFAULT_BLOCK):
            self.index.clear(backend.shelf)
