"""`vllm_dp`: how would vLLM's own data-parallel balancer place the request?

A reference rule, reimplemented from its public description for comparison in the simulator alone.

    score = 4 * waiting + running, lowest wins

Counts are what the engine reported last. After each pick the chosen one's `waiting` is raised by the number of
front ends that share the fleet, so that one report does not draw everything to one engine; the next report replaces
that. Ties: the first in order, beginning at this front end's own place (0 for the only one). Defaults: one front end.

Simplified: reports come when the simulator polls (vLLM's coordinator sends them every 100 ms); a request sent between a
poll's start and its answer is forgotten by that answer, as it can be in vLLM. An engine that has not reported counts
as empty. The rule knows neither sizes nor prefixes.
"""

from __future__ import annotations

from fairlead.core.model import Facts
from fairlead.core.view import Choice, View
from fairlead.sim.rivals.ties import first


class VllmDp:
    name = "vllm_dp"
    term_names = ("waiting, reported", "running, reported", "waiting, added since")
    needs_prefixes = False

    def __init__(self, front_end: int = 0, front_ends: int = 1) -> None:
        self._front_end, self._front_ends = front_end, front_ends
        self._added: dict[str, tuple[float, int]] = {}  # backend -> (time of the report it corrects, waiting added)

    def choose(self, facts: Facts, view: View) -> Choice:
        backends, added = view.backends, self._added
        terms = []
        for b in backends:
            report, extra = added.get(b.id, (b.polled_at, 0))
            terms.append((b.stats.waiting or 0.0, b.stats.running or 0.0, float(extra if report == b.polled_at else 0)))
        scores = [4 * (waiting + extra) + running for waiting, running, extra in terms]
        start = len(backends) * self._front_end // self._front_ends
        chosen = (start + first(scores[start:] + scores[:start])) % len(backends)
        taken = backends[chosen]
        added[taken.id] = (taken.polled_at, int(terms[chosen][2]) + self._front_ends)
        if len(added) > 4 * len(backends) + 64:  # backends that left
            self._added = {b.id: added[b.id] for b in backends if b.id in added}
        return Choice(chosen, "fewest waiting, times four, and running", scores, terms)
