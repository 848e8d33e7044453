"""Several processes balance over one fleet: how does each decide as if all of the load were its own?

Each has a `SharedBalancer`. It tells what happens to its own leases as facts (plain tuples, carried by the host), and
takes the facts of its siblings: their leases stand in its ledger as its own do, their prompts on its shelves, their
failures count. So every policy sees the whole load, a few milliseconds late.

    (OPENED, number, backend, model, kind, stream, n, max_tokens, prompt, output, cached, step, at, span, blocks)
    (STARTED, number, at)                                     its first token came
    (PRODUCED, (number, tokens, is paused?), ...)             of those that have changed since the last tick
    (CLOSED, number, outcome, reason, worked, at)
    (ANEW,)                                                   forget mine: I tell again what is open

Rule 1: what is counted for people (placed, answered, errors) and what is learned comes of own requests only.
Rule 2: verdicts come of all of them: a failure or a success that a sibling saw moves a backend's health as an own one.
Rule 3: facts may be lost, never guessed: who lost some is told anew, and facts of unknown leases mean nothing.
Rule 4: times are those of one clock, which all processes of a machine share.
Rule 5: a backend's connection limit holds for all together, exactly: places are counted outside (`Places`), and nobody
else takes one between the look and the choice.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Final, Protocol

from fairlead.core.balancer import ABANDONED, FAILED, OK, Balancer
from fairlead.core.cluster.backend import Backend, Places
from fairlead.core.cluster.ledger import Lease
from fairlead.core.health.gate import passed, succeeded
from fairlead.core.model import Facts, Kind, Refusal, Usage
from fairlead.core.view import Choice

OPENED: Final = "o"
STARTED: Final = "s"
PRODUCED: Final = "p"
CLOSED: Final = "c"
ANEW: Final = "a"

Fact = Sequence[Any]
"""One of the rows above."""

_ELSEWHERE: Final = Choice(0, "chosen by another process")


class Registry(Protocol):
    """Where places of all processes are counted; held as a context, nobody else can take one."""

    def of(self, id: str) -> Places | None:
        """The places of a backend; None: it cannot be counted there, so only mirrored leases count."""

    def __enter__(self) -> object: ...

    def __exit__(self, *exc: object) -> None: ...


class SharedBalancer(Balancer):
    """One of several. Give it `tell`, which takes facts, and `registry` before the first request."""

    tell: Callable[[Fact], None]

    def share(self, tell: Callable[[Fact], None], registry: Registry, block_ends: Sequence[int]) -> None:
        """Begin; `block_ends` are those of all facts (wire/openai.py), which are not told each time."""
        self.tell, self._registry, self._block_ends = tell, registry, block_ends
        self._number = 0
        self._own: dict[Lease, int] = {}
        self._paused: set[int] = set()  # of these, the ones that were told to be paused
        self._mirrored: dict[int, dict[int, Lease]] = {}  # by sibling
        for backend in self.backends.values():
            backend.places = registry.of(backend.id)

    # --- own requests: as ever, and told ---------------------------------------------------------------------

    def adopt(self, backend: Backend) -> None:
        super().adopt(backend)
        backend.places = self._registry.of(backend.id)

    def assign(
        self, facts: Facts, now: float, tried: Collection[str] = (), among: list[Backend] | None = None
    ) -> Lease | Refusal:
        with self._registry if self._candidates.capped else contextlib.nullcontext():
            lease = super().assign(facts, now, tried, among)
            if isinstance(lease, Refusal):
                return lease
            if lease.backend.places is not None:
                lease.backend.places.take()
        self._number += 1
        self._own[lease] = self._number
        self.tell(self._opened(lease))
        return lease

    def first_token(self, lease: Lease, now: float) -> None:
        news = lease.first_token_at is None
        super().first_token(lease, now)
        if news and lease in self._own:
            self.tell((STARTED, self._own[lease], now))

    def finish(
        self,
        lease: Lease,
        outcome: str,
        now: float,
        usage: Usage | None = None,
        reason: str = "",
        *,
        worked: bool = True,
    ) -> bool:
        if not super().finish(lease, outcome, now, usage, reason, worked=worked):
            return False
        number = self._own.pop(lease)
        self._paused.discard(number)
        if lease.backend.places is not None:
            lease.backend.places.give()
        self.tell((CLOSED, number, outcome, reason, worked, now))
        return True

    def tick(self, now: float) -> None:
        rows = []
        for lease, number in self._own.items():
            if lease.produced != lease.settled or lease.paused != (number in self._paused):
                rows.append(self._produced(lease, number))
        if rows:
            self.tell((PRODUCED, *rows))
        super().tick(now)

    def open_leases(self) -> list[Fact]:
        """All that a sibling has to know of this balancer: it joined, or has lost facts."""
        facts: list[Fact] = [(ANEW,)]
        rows = []
        for lease, number in self._own.items():
            facts.append(self._opened(lease))
            if lease.first_token_at is not None:
                facts.append((STARTED, number, lease.first_token_at))
            rows.append(self._produced(lease, number))
        return [*facts, (PRODUCED, *rows)]

    def own_loads(self) -> dict[str, tuple[int, int, int]]:
        """(requests, prompt tokens, output tokens) in flight by backend, without those of siblings."""
        loads = dict.fromkeys(self.backends, (0, 0, 0))
        for lease in self._own:
            id = lease.backend.id
            requests, prompt, output = loads.get(id, (0, 0, 0))
            loads[id] = requests + 1, prompt + lease.prompt_left, output + lease.output_left
        return loads

    def _opened(self, lease: Lease) -> Fact:
        facts = lease.facts
        span, blocks = (facts.span, facts.blocks) if self.uses_prefixes else (0, ())
        return (
            OPENED, self._own[lease], lease.backend.id, facts.model, facts.kind, facts.stream, facts.n,
            facts.max_tokens, lease.prompt_tokens, lease.output_expected, lease.cached, lease.predicted_step,
            lease.opened_at, span, blocks,
        )  # fmt: skip

    def _produced(self, lease: Lease, number: int) -> tuple[int, int, bool]:
        (self._paused.add if lease.paused else self._paused.discard)(number)
        return number, lease.produced, lease.paused

    # --- requests of siblings --------------------------------------------------------------------------------

    def hear(self, sibling: int, facts: Iterable[Fact]) -> None:
        """Take what a sibling tells, in its order."""
        leases = self._mirrored.setdefault(sibling, {})
        for fact in facts:
            what = fact[0]
            if what == OPENED:
                self._mirror(leases, *fact[1:])
            elif what == STARTED:
                lease = leases.get(fact[1])
                if lease is not None:
                    self.ledger.first_token(lease, fact[2])
            elif what == PRODUCED:
                for number, produced, paused in fact[1:]:
                    lease = leases.get(number)
                    if lease is not None:
                        lease.produced, lease.paused = produced, paused
            elif what == CLOSED:
                lease = leases.pop(fact[1], None)
                if lease is not None:
                    self._close(lease, *fact[2:])
            else:
                self.gone(sibling)
                leases = self._mirrored.setdefault(sibling, {})

    def gone(self, sibling: int) -> None:
        """A sibling died, or tells anew: its requests are over as far as anybody knows."""
        for lease in self._mirrored.pop(sibling, {}).values():
            self._close(lease, ABANDONED, "", False, self._ticked_at)

    def mirrored(self) -> Mapping[int, int]:
        """How many leases of each sibling are open here."""
        return {sibling: len(leases) for sibling, leases in self._mirrored.items()}

    def _mirror(
        self, leases: dict[int, Lease], number: int, id: str, model: str | None, kind: str, stream: bool, n: int,
        max_tokens: int | None, prompt: int, output: int, cached: int, step: float, at: float, span: int,
        blocks: Sequence[int],
    ) -> None:  # fmt: skip
        backend = self.backends.get(id)
        if backend is None:  # it has left here, or will only join
            return
        facts = Facts(
            kind=kind, model=model, stream=stream, n=n, max_tokens=max_tokens, span=span, blocks=blocks,
            block_ends=self._block_ends,
        )  # fmt: skip
        lease = leases[number] = Lease(backend, facts, [backend], _ELSEWHERE, prompt, output, cached, step, at)
        self.ledger.open(lease)
        backend.mirrored += 1
        if self._candidates.gated:
            passed(lease, at)
        if self.uses_prefixes and blocks:
            self.cache.sent(backend, facts, prompt, output)

    def _close(self, lease: Lease, outcome: str, reason: str, worked: bool, now: float) -> None:
        self.ledger.close(lease)
        backend = lease.backend
        passive = backend.passive
        if passive.trial is lease:
            passive.trial = None
        changed = False
        if outcome == OK:
            if worked and lease.facts.kind != Kind.CHEAP:
                backend.answered_at = max(backend.answered_at, now)
            changed = succeeded(lease, now, worked=worked)
        elif outcome == FAILED:
            changed = passive.fail(reason, lease.opened_at, now, self._rng)
        if changed:
            self._candidates.changed()
