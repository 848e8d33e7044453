"""What would another policy have done? Scores each request a second time, without acting.

A shadow is asked after the real policy has chosen, with the same facts and the same view of the fleet.
Rule 1: nothing that it does reaches the real decisions: it has a view and a random source of its own, opens no leases,
        and what goes wrong in it costs an opinion, never a request. After `MAX_ERRORS` it is not asked any more.
Rule 2: both choices are judged by one measure, the seconds to the first token that `expected_completion` predicts for
        the two backends at that moment. It is an estimate for one request at a time: the load that the judge sees is
        the one that the real policy made, and the shadow's own choices would have made another.
Rule 3: requests that leave no choice (one candidate) or cost no GPU time are not compared.
Rule 4: bounded: sums, and two counts per backend of the fleet.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from fairlead.core.model import Facts
from fairlead.core.policies.expected_completion import ExpectedCompletion
from fairlead.core.view import Policy, Rng, View

MAX_ERRORS: Final = 10  # so many exceptions turn a shadow off
FIRST_TOKEN: Final = ExpectedCompletion.term_names.index("first token after, s")


class Opinion(NamedTuple):
    """What the shadow would have done with one request."""

    policy: Policy
    wanted: int  # index of the backend that it would have taken, among the lease's candidates
    chosen_seconds: float  # predicted time to the first token on the backend that was chosen
    shadow_seconds: float  # and on the one that the shadow would have taken


class Shadow:
    """A second policy and its record since the last `begin`."""

    def __init__(self, policy: Policy, rng: Rng) -> None:
        """`rng` is the shadow's own: draws from the balancer's would change what the real policy does."""
        self.policy = policy
        self._view = View(rng)
        self._pair = View(rng)
        self._judge = ExpectedCompletion(throughput=0.0)
        self.begin()

    def __repr__(self) -> str:
        return f"<Shadow {self.policy.name}, {self.agreements} of {self.requests} agreed, {self.errors} errors>"

    def begin(self) -> None:
        """Forget all counts: another policy is in charge."""
        self.since: float | None = None  # time of the first comparison
        self.requests = 0  # compared
        self.agreements = 0  # of these, the shadow would have taken the same backend
        self.chosen_seconds = 0.0  # sums of predictions, see `Opinion`
        self.shadow_seconds = 0.0
        self.errors = 0
        self.problem = ""  # the last exception: its kind and its place
        # Where they differ, by backend: [sent here and the shadow would not have, the other way round].
        self.differences: dict[str, list[int]] = {}

    @property
    def active(self) -> bool:
        """Is it still asked?"""
        return self.errors < MAX_ERRORS

    def observe(self, facts: Facts, view: View, chosen: int) -> Opinion | None:
        """Compare with the choice of `chosen` out of `view`; None where the shadow failed. Never raises."""
        try:
            opinion = self._opinion(facts, view, chosen)
        except Exception as problem:
            self.errors += 1
            self.problem = _place_of(problem)
            return None
        if self.since is None:
            self.since = view.now
        self.requests += 1
        self.chosen_seconds += opinion.chosen_seconds
        self.shadow_seconds += opinion.shadow_seconds
        if opinion.wanted == chosen:
            self.agreements += 1
        else:
            self._count(view.backends[chosen].id)[0] += 1
            self._count(view.backends[opinion.wanted].id)[1] += 1
        return opinion

    def forget(self, id: str) -> None:
        """The backend left the fleet."""
        self.differences.pop(id, None)

    def _opinion(self, facts: Facts, view: View, chosen: int) -> Opinion:
        own = self._view
        own.backends, own.cached = list(view.backends), list(view.cached)
        own.now, own.prompt, own.output = view.now, view.prompt, view.output
        wanted = self.policy.choose(facts, own).index
        pair = self._pair
        both = (chosen, wanted) if wanted != chosen else (chosen,)
        pair.backends = [view.backends[i] for i in both]
        pair.cached = [view.cached[i] for i in both]
        pair.now, pair.prompt, pair.output = view.now, view.prompt, view.output
        terms = self._judge.choose(facts, pair).terms
        return Opinion(self.policy, wanted, terms[0][FIRST_TOKEN], terms[-1][FIRST_TOKEN])

    def _count(self, id: str) -> list[int]:
        found = self.differences.get(id)
        if found is None:
            found = self.differences[id] = [0, 0]
        return found


def _place_of(problem: Exception) -> str:
    """The kind of an exception and where it came from. Not its message: that may hold what a client sent."""
    trace = problem.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    kind = type(problem).__name__
    if trace is None:
        return kind
    file = trace.tb_frame.f_code.co_filename.rpartition("/")[2]
    return f"{kind} in {file}, line {trace.tb_lineno}"
