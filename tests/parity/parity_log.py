"""The decision log: every call into the balancer's door, with what was said and what it answered.

One row per call, in order. Two hosts that did the same have equal logs: same calls, same times, same arguments, same
choices with the same scores and terms. What is left out, as it changes nothing: calls of `finish` for a lease that is
closed already, and what is said of the work and the tokens of a request that did not end well.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from fairlead.core import balancer as brain
from fairlead.core.balancer import Balancer
from fairlead.core.cluster.ledger import Lease
from fairlead.core.model import EngineStats, Facts, Refusal, Usage

NOBODY = -1
CLOSE = 1e-9  # relative; scores of both hosts come from the same arithmetic on the same numbers


@dataclass(frozen=True)
class Row:
    """One call: `said` must be equal, of `answer` the numbers may differ by rounding."""

    call: str
    at: float | None  # None for calls that have no time
    request: int  # index in the script, or NOBODY
    said: tuple[Any, ...] = ()
    answer: tuple[Any, ...] = ()

    def agrees(self, other: Row) -> bool:
        mine, theirs = (self.call, self.at, self.request, self.said), (other.call, other.at, other.request, other.said)
        return mine == theirs and _alike(self.answer, other.answer)


def _alike(one: Any, two: Any) -> bool:
    if isinstance(one, float) or isinstance(two, float):
        return math.isclose(one, two, rel_tol=CLOSE)
    if isinstance(one, tuple | list):
        return len(one) == len(two) and all(_alike(a, b) for a, b in zip(one, two, strict=True))
    return bool(one == two)


class DoorLog:
    """Listens at one balancer's door from now on. `arriving`: the request whose first `assign` comes next."""

    def __init__(self, balancer: Balancer) -> None:
        self.rows: list[Row] = []
        self.arriving = NOBODY
        self.before_tick: Callable[[], None] = lambda: None
        self._balancer = balancer
        self._known: dict[int, int] = {}  # id of facts -> request; a request keeps its facts when it moves
        self._kept: list[Facts] = []  # so that no id is used twice
        for name in ("assign", "first_token", "finish", "may_retry", "tick", "probe", "poll_started", "poll_result",
                     "add", "remove", "set_draining"):  # fmt: skip
            listener = getattr(self, f"_{name}")
            setattr(balancer, name, _bound(listener, getattr(balancer, name)))

    def note(self, what: str, at: float, *said: Any) -> None:
        """Something that the balancer does not see itself: a machine went down."""
        self.rows.append(Row(what, at, NOBODY, said))

    def request_of(self, lease: Lease) -> int:
        return self._known[id(lease.facts)]

    def _assign(self, original: Any, facts: Facts, now: float, tried: Collection[str] = ()) -> Lease | Refusal:
        if id(facts) not in self._known:
            self._known[id(facts)] = self.arriving
            self._kept.append(facts)
        told = dataclasses.replace(facts, blocks=tuple(facts.blocks))
        answer: Lease | Refusal = original(facts, now, tried)
        if isinstance(answer, Lease):
            choice = answer.choice
            found: tuple[Any, ...] = (
                answer.backend.id, [b.id for b in answer.candidates], choice.reason, list(choice.scores),
                [tuple(row) for row in choice.terms], answer.prompt_tokens, answer.output_expected, answer.cached,
                answer.work, answer.predicted_step,
            )  # fmt: skip
        else:
            found = (answer.status, answer.code)
        self.rows.append(Row("assign", now, self._known[id(facts)], (told, tuple(tried)), found))
        return answer

    def _first_token(self, original: Any, lease: Lease, now: float) -> None:
        original(lease, now)
        self.rows.append(Row("first_token", now, self.request_of(lease)))

    def _finish(
        self,
        original: Any,
        lease: Lease,
        outcome: str,
        now: float,
        usage: Usage | None = None,
        reason: str = "",
        *,
        worked: bool = True,
    ) -> bool:
        counted = original(lease, outcome, now, usage, reason, worked=worked)
        if counted:
            well = (worked, lease.produced) if outcome == brain.OK else (None, None)
            self.rows.append(Row("finish", now, self.request_of(lease), (outcome, usage, reason, *well)))
        return bool(counted)

    def _may_retry(
        self, original: Any, lease: Lease, reason: str, tries: int, arrived: float, now: float,
        tried: Collection[str] = (),
    ) -> bool:  # fmt: skip
        again = bool(original(lease, reason, tries, arrived, now, tried))
        said = (reason, tries, arrived, tuple(tried))
        self.rows.append(Row("may_retry", now, self.request_of(lease), said, (again,)))
        return again

    def _tick(self, original: Any, now: float) -> None:
        self.before_tick()
        started = [lease for lease in self._balancer.ledger.leases if lease.first_token_at is not None]
        said = tuple(sorted((self.request_of(lease), lease.produced) for lease in started))
        original(now)
        learned = [(b.prefill_slowdown, b.decode_slowdown, b.overdue) for b in self._balancer.backends.values()]
        self.rows.append(Row("tick", now, NOBODY, said, (learned,)))

    def _probe(self, original: Any, id: str, ok: bool, reason: str = "") -> bool:
        changed = bool(original(id, ok, reason))
        self.rows.append(Row("probe", None, NOBODY, (id, ok, reason), (changed,)))
        return changed

    def _poll_started(self, original: Any, id: str) -> int:
        mark = int(original(id))
        self.rows.append(Row("poll_started", None, NOBODY, (id,), (mark,)))
        return mark

    def _poll_result(self, original: Any, id: str, mark: int, stats: EngineStats, now: float) -> None:
        original(id, mark, stats, now)
        self.rows.append(Row("poll_result", now, NOBODY, (id, mark, stats)))

    def _add(self, original: Any, id: str, **options: Any) -> Any:
        backend = original(id, **options)
        self.rows.append(Row("add", None, NOBODY, (id, options)))
        return backend

    def _remove(self, original: Any, id: str) -> None:
        original(id)
        self.rows.append(Row("remove", None, NOBODY, (id,)))

    def _set_draining(self, original: Any, id: str, draining: bool) -> None:
        original(id, draining)
        self.rows.append(Row("set_draining", None, NOBODY, (id, draining)))


def _bound(listener: Callable[..., Any], original: Callable[..., Any]) -> Callable[..., Any]:
    def heard(*arguments: Any, **named: Any) -> Any:
        return listener(original, *arguments, **named)

    return heard


def first_difference(one: list[Row], two: list[Row]) -> str:
    """Where two logs part, for people; "" where they agree."""
    for place, (mine, theirs) in enumerate(zip(one, two, strict=False)):
        if not mine.agrees(theirs):
            return f"row {place}:\n  {_short(mine)}\n  {_short(theirs)}"
    if len(one) != len(two):
        rest = (one if len(one) > len(two) else two)[min(len(one), len(two))]
        return f"one log has {len(one)} rows, the other {len(two)}; the first of the rest is {_short(rest)}"
    return ""


def _short(row: Row) -> str:
    text = repr(row)
    return text if len(text) < 2_000 else f"{text[:1_000]} ... {text[-1_000:]}"
