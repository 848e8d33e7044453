"""A fleet for tests: backends that are up, requests in one line, and a policy that watches the policy under test.

Rule 1: only the balancer's door is used, never its inside, so that the inside may change.
Rule 2: every random number comes from a seed that is written down here or in the test.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Collection, Iterable
from random import Random
from typing import Any

from fairlead.core.balancer import OK, Balancer
from fairlead.core.cluster.backend import Backend
from fairlead.core.cluster.ledger import Lease
from fairlead.core.health.passive import PassiveFailures
from fairlead.core.health.probes import ProbeCounter
from fairlead.core.model import EngineStats, Facts, Kind, Refusal, Usage
from fairlead.core.policies.prefix_hash import STEPS
from fairlead.core.policies.registry import make
from fairlead.core.view import Choice, Policy, View

MODEL = "m"
LOADS = ("inflight", "prompt_pending", "output_pending", "decoding", "kv_tokens")


def state_of(thing: Any) -> dict[str, Any]:
    """Every plain attribute of a slotted object, and those of the slotted objects that it holds."""
    found: dict[str, Any] = {}
    for name in (name for kind in type(thing).__mro__ for name in getattr(kind, "__slots__", ())):
        value = getattr(thing, name, None)
        if name == "price":  # worked out of the other facts when it is wanted, and kept until one of them changes
            continue
        if isinstance(value, (PassiveFailures, ProbeCounter)):
            found |= {f"{name}.{inner}": kept for inner, kept in state_of(value).items()}
        else:
            found[name] = value
    return found


class Watched:
    """Wraps a policy: the choice is in range and complete, and nothing that it was shown was changed."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self.name = policy.name
        self.term_names = policy.term_names
        self.needs_prefixes = policy.needs_prefixes

    def choose(self, facts: Facts, view: View) -> Choice:
        shown = list(view.backends)
        before = [state_of(b) for b in shown]
        asked, moment = copy.deepcopy(facts), (view.now, view.prompt, view.output)
        choice = self._policy.choose(facts, view)
        assert [id(b) for b in view.backends] == [id(b) for b in shown], "the view's list was changed"
        assert [state_of(b) for b in shown] == before, "a backend changed"
        assert facts == asked, "the request's facts were changed"
        assert (view.now, view.prompt, view.output) == moment, "the view's moment was changed"
        assert 0 <= choice.index < len(shown)
        assert choice.reason
        assert len(choice.scores) == len(shown)
        assert len(choice.terms) == len(shown)
        assert all(len(row) == len(self.term_names) for row in choice.terms)
        return choice


def fleet(
    policy: str | Policy,
    *ids: str,
    seed: int = 1,
    weights: dict[str, float] | None = None,
    limits: dict[str, int] | None = None,
    models: frozenset[str] = frozenset({MODEL}),
    **rules: Any,
) -> Balancer:
    """A balancer whose backends all serve `models` and are up."""
    balancer = Balancer(make(policy) if isinstance(policy, str) else policy, Random(seed), **rules)
    for id in ids:
        join(balancer, id, models, weight=(weights or {}).get(id), max_connections=(limits or {}).get(id))
    return balancer


def join(
    balancer: Balancer,
    id: str,
    models: frozenset[str] = frozenset({MODEL}),
    *,
    weight: float | None = None,
    max_connections: int | None = None,
) -> Backend:
    """One more backend, up."""
    backend = balancer.add(id, weight=weight, max_connections=max_connections, models=models)
    balancer.probe(id, True)
    return backend


def chat(prompt: int = 400, *, prefixes: tuple[int, ...] = (), session: str | None = None, **more: Any) -> Facts:
    """A streamed chat whose prompt is `prompt` bytes long."""
    usual: dict[str, Any] = {"kind": Kind.CHAT, "model": MODEL, "needs_model": True, "stream": True}
    span = prompt if prefixes else 0
    return Facts(prompt_bytes=prompt, blocks=prefixes, block_ends=STEPS, span=span, session=session, **(usual | more))


def place(balancer: Balancer, facts: Facts | None = None, now: float = 0.0, tried: Collection[str] = ()) -> Lease:
    """Assign a request that has to find a place."""
    lease = balancer.assign(facts or chat(), now, tried)
    assert isinstance(lease, Lease), lease
    return lease


def refuse(balancer: Balancer, facts: Facts | None = None, now: float = 0.0) -> Refusal:
    """Assign a request that must not find a place."""
    refusal = balancer.assign(facts or chat(), now)
    assert isinstance(refusal, Refusal), refusal
    return refusal


def serve(
    balancer: Balancer, facts: Facts | None = None, now: float = 0.0, seconds: float = 1.0, output: int = 100
) -> Lease:
    """One request from its arrival to its good end, alone."""
    lease = place(balancer, facts, now)
    balancer.first_token(lease, now + seconds / 10)
    lease.produced += output
    balancer.finish(lease, OK, now + seconds, Usage(lease.prompt_tokens, output))
    return lease


def report(balancer: Balancer, id: str, now: float, **stats: Any) -> None:
    """A poll of the engine's metrics that begins and answers at once."""
    balancer.poll_result(id, balancer.poll_started(id), EngineStats(**stats), now)


def spread(leases: Iterable[Lease]) -> Counter[str]:
    """How many of the leases went where."""
    return Counter(lease.backend.id for lease in leases)


def loads(balancer: Balancer) -> dict[str, tuple[int, ...]]:
    """The ledger's sums of every backend."""
    return {id: tuple(getattr(b, name) for name in LOADS) for id, b in balancer.backends.items()}
