"""What a policy may see, and what it answers.

A policy is pure: it reads the view and the request's facts and returns a `Choice`. It never judges health
(the balancer gives it only usable candidates) and never opens leases.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from fairlead.core.cluster.backend import Backend
    from fairlead.core.model import Facts


class Rng(Protocol):
    """The part of `random.Random` that policies use; comes in from the host, so runs can be repeated."""

    def random(self) -> float: ...

    def randrange(self, stop: int, /) -> int: ...


class View:
    """Candidates and the moment. One object per balancer, refilled for each choice."""

    __slots__ = ("backends", "cached", "now", "output", "prompt", "rng")

    def __init__(self, rng: Rng) -> None:
        self.backends: list[Backend] = []  # usable ones, in a fixed order; at least one
        self.now = 0.0
        self.rng = rng
        self.prompt = 0  # estimated prompt tokens of the request
        self.output = 0  # its expected output tokens
        # Prompt tokens that each candidate is expected to have in its prefix cache, in line with `backends`;
        # all zero for a policy that does not need prefixes.
        self.cached: Sequence[int] = ()


Terms = Sequence[tuple[float, ...]]


class Choice:
    """The place of the chosen backend in the view, why, and every candidate's score with its terms.

    Scores and terms line up with the view's backends; each row of `terms` lines up with the policy's `term_names`.
    Lower scores are better. Terms may be given as a function that works them out of numbers which it holds: most are
    never looked at.
    """

    __slots__ = ("_terms", "index", "reason", "scores")

    def __init__(
        self, index: int, reason: str, scores: Sequence[float] = (), terms: Terms | Callable[[], Terms] = ()
    ) -> None:
        self.index = index
        self.reason = reason  # a sentence for people without numbers of single candidates
        self.scores = scores
        self._terms = terms

    @property
    def terms(self) -> Terms:
        """One row per candidate."""
        terms = self._terms
        if callable(terms):
            terms = self._terms = terms()
        return terms

    @terms.setter
    def terms(self, terms: Terms) -> None:
        self._terms = terms


class Policy(Protocol):
    """A way to choose. An object belongs to one balancer and may keep memory (a cursor, sessions)."""

    @property
    def name(self) -> str: ...

    @property
    def term_names(self) -> tuple[str, ...]:
        """What the values in a row of `Choice.terms` are, with units."""
        ...

    @property
    def needs_prefixes(self) -> bool:
        """Are hashes of the prompt's blocks wanted in the facts, and `view.cached`?"""
        ...

    def choose(self, facts: Facts, view: View) -> Choice: ...


def weighted(indices: Sequence[int], view: View) -> int:
    """One of these candidates at random, the likelier the higher its weight."""
    weights = [view.backends[i].weight for i in indices]
    point = view.rng.random() * sum(weights)
    for i, weight in zip(indices, weights, strict=True):
        point -= weight
        if point < 0:
            return i
    return indices[-1]


def lowest(scores: Sequence[float], view: View, near: float = 1.0) -> int:
    """Index of the lowest score; of those up to `near` times it the fewest in flight over weight, then by chance."""
    backends = view.backends
    if len(scores) == 2:  # the smallest fleet worth balancing, without the walk
        one, two = scores
        if one * near < two:
            return 0
        if two * near < one:
            return 1
        first, second = backends
        load_one, load_two = first.inflight / first.weight, second.inflight / second.weight
        if load_one != load_two:
            return 0 if load_one < load_two else 1
        return 0 if view.rng.random() * (first.weight + second.weight) < first.weight else 1
    limit = min(scores) * near
    ties = [i for i, score in enumerate(scores) if score <= limit]
    if len(ties) == 1:
        return ties[0]
    loads = [backends[i].inflight / backends[i].weight for i in ties]
    fewest = min(loads)
    ties = [i for i, load in zip(ties, loads, strict=True) if load == fewest]
    return ties[0] if len(ties) == 1 else weighted(ties, view)
