"""What does a request that ended well tell? Lengths, speeds, and whether its prompt was cached as we thought."""

from __future__ import annotations

from fairlead.core.cluster.cache import CacheView
from fairlead.core.cluster.ledger import Lease
from fairlead.core.cluster.speeds import Speeds
from fairlead.core.cluster.tokens import TokenEstimator
from fairlead.core.model import Usage


def learn(
    lease: Lease,
    now: float,
    usage: Usage | None,
    tokens: TokenEstimator,
    speeds: Speeds,
    cache: CacheView,
    *,
    reported: bool,
) -> None:
    """Take it over; `reported`: what it says of cached tokens is wanted."""
    facts = lease.facts
    if lease.first_token_at is None:
        cache.started(lease)  # an answer in one piece: it was looked up all the same
    if usage is None:
        # A stream without usage still tells its length: about one event per token.
        produced = lease.produced
        tokens.learn(facts, None, produced)
        speeds.close(lease, produced or lease.output_expected, None, now)
        return
    tokens.learn(facts, usage.prompt_tokens, usage.completion_tokens)
    speeds.close(lease, usage.completion_tokens, usage.cached_tokens, now)
    if reported and usage.cached_tokens is not None:
        cache.reported(lease, usage)
