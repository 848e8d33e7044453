"""Which of the candidates may get one more request, while some of them are coming back from a rest?

Half-open: one request at a time, and the first that can be had is sent there, whatever the policy would say (it may
have learned to keep away, and would never find out that this is over). If it fails before its answer began, it is
moved. Where the host asks for a token of its own, requests wait for that, see passive.py.
Slow start: the backend collects credit, its ramped part of its fair share (by capacity) per request that it could have
had, and needs a whole one to be a candidate. So every policy ramps alike, and none can flood an empty backend.

Entered only while some backend comes back; otherwise a request pays one look at a flag.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from fairlead.core.cluster.backend import Backend
from fairlead.core.cluster.ledger import Lease
from fairlead.core.health.passive import NO_PROGRESS
from fairlead.core.model import Kind

MOST_CREDIT: Final = 2.0  # requests that a backend may be behind with, which then come in one go


def admitted(candidates: Sequence[Backend], now: float, *, first: bool, real: bool) -> list[Backend]:
    """Those that may be chosen; at least one. `first`: it was not tried before; `real`: the engine has to work for it.

    With nobody sound among them nothing is held back: refusing would help nobody.
    """
    if all(b.passive.resting for b in candidates) or all(b.passive.ramping for b in candidates):
        return list(candidates)
    capacity = sum(b.capacity for b in candidates)
    found: list[Backend] = []
    for b in candidates:
        passive = b.passive
        if passive.on_trial(now):
            # A frozen engine's front may go on to answer what needs no engine.
            if passive.awaits_canary(now):
                continue
            if passive.trial is None and first and (real or passive.cause != NO_PROGRESS):
                return [b]
            continue
        if passive.ramping:
            share = passive.share(now)
            if share:
                passive.credit = min(passive.credit + share * b.capacity / capacity, MOST_CREDIT)
                if passive.credit < 1.0:
                    continue
        found.append(b)
    return found or list(candidates)


def passed(lease: Lease, now: float) -> None:
    """This request was placed: it may be the trial of its backend, and it costs credit."""
    passive = lease.backend.passive
    if passive.on_trial(now) and passive.trial is None:
        passive.trial = lease
    elif passive.ramping:
        passive.credit = max(passive.credit - 1.0, 0.0)


def succeeded(lease: Lease, now: float, *, worked: bool) -> bool:
    """This request ended well; True when that proves that its backend is back."""
    passive = lease.backend.passive
    proof = passive.cause != NO_PROGRESS or (worked and lease.facts.kind != Kind.CHEAP)
    return proof and passive.succeed(lease.opened_at, now)
