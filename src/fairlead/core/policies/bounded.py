"""Bounded load: how many requests may a backend hold before affinity has to yield?

The bound of consistent hashing with bounded loads (Mirrokni, Thorup, Zadimoghaddam 2016): `factor` times the
fair share of all requests in flight, this one included; shares follow capacity, so a slow machine
is full sooner.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

from fairlead.core.cluster.backend import Backend


def room(backends: Sequence[Backend], factor: float) -> list[bool]:
    """May each backend take one more request? At least one may, as `factor` is 1 or more."""
    total = sum(b.inflight for b in backends) + 1
    capacity = sum(b.capacity for b in backends)
    return [b.inflight + 1 <= ceil(factor * total * b.capacity / capacity) for b in backends]
