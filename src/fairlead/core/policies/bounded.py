"""Bounded load: how many requests may a backend hold before affinity has to yield?

The bound of consistent hashing with bounded loads (Mirrokni, Thorup, Zadimoghaddam 2016): `factor` times the
fair share of all requests in flight, this one included; shares follow capacity, so a slow machine
is full sooner.
"""

from __future__ import annotations

from collections.abc import Sequence

from fairlead.core.cluster.backend import Backend


def room(backends: Sequence[Backend], factor: float) -> list[bool]:
    """May each backend take one more request? At least one may, as `factor` is 1 or more."""
    total = sum([b.inflight for b in backends]) + 1
    share = factor * total / sum([b.capacity for b in backends])
    # n + 1 <= ceil(x) is n < x for whole n.
    return [b.inflight < share * b.capacity for b in backends]
