"""Which policies are there? One row each; the conformance suite in tests/core runs over all of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fairlead.core.policies.expected_completion import ExpectedCompletion
from fairlead.core.policies.latency import Latency
from fairlead.core.policies.least_connections import LeastConnections
from fairlead.core.policies.least_pending_tokens import LeastPendingTokens
from fairlead.core.policies.least_waiting import LeastWaiting
from fairlead.core.policies.power_of_two import PowerOfTwo
from fairlead.core.policies.prefix_cache import PrefixCache
from fairlead.core.policies.prefix_hash import PrefixHash
from fairlead.core.policies.random_choice import RandomChoice
from fairlead.core.policies.round_robin import RoundRobin
from fairlead.core.policies.session import Session
from fairlead.core.view import Policy

POLICIES: dict[str, Callable[..., Policy]] = {
    "expected_completion": ExpectedCompletion,
    "prefix_cache": PrefixCache,
    "latency": Latency,
    "least_pending_tokens": LeastPendingTokens,
    "least_waiting": LeastWaiting,
    "least_connections": LeastConnections,
    "power_of_two": PowerOfTwo,
    "prefix_hash": PrefixHash,
    "session": Session,
    "round_robin": RoundRobin,
    "random": RandomChoice,
}

DEFAULT = "expected_completion"


def make(name: str, **options: Any) -> Policy:
    """A fresh policy with its own memory. KeyError for a name that is not in the table."""
    return POLICIES[name](**options)
