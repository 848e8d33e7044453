"""How does a backend stand: may it get requests, and if not, why? In words for people.

Asked when somebody looks, and once for all requests between two changes of the fleet: then it is kept who was out, so
that a decision can be explained later by what was true at its moment.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from fairlead.core.cluster.backend import Backend
from fairlead.core.health.passive import NO_PROGRESS, SLOW


class Out(NamedTuple):
    """A backend that could not be had, whatever the request."""

    backend: str
    state: str
    reason: str


def state_of(backend: Backend, now: float) -> tuple[str, str]:
    """(state, reason): up, down, ejected, draining, disabled."""
    if not backend.enabled:
        return "disabled", "marked as down: it gets no requests"
    if not backend.up:
        return "down", backend.probes.reason
    if backend.draining:
        return "draining", "takes no new requests"
    passive = backend.passive
    if passive.ejected(now):
        return "ejected", f"rests {passive.ejected_until - now:.0f} s more {why_rested(backend)}"
    if passive.resting:
        return "ejected", f"its rest is over: one request at a time until one ends well {why_rested(backend)}"
    if backend.models is None:
        return "down", "its models are not known yet"
    if passive.ramping and (share := passive.share(now)):
        return "up", f"slow start: it gets up to {share:.0%} of its fair share"
    return "up", ""


def why_rested(backend: Backend) -> str:
    """Why was it ejected? As the end of a sentence."""
    passive = backend.passive
    what = {NO_PROGRESS: "as it hung", SLOW: "as it was too slow"}.get(passive.cause, "after failed requests")
    again = f", {passive.streak} times in a row" if passive.streak > 1 else ""
    return f"{what}{again} (last: {passive.reason})"


def who_is_out(backends: Iterable[Backend], now: float) -> tuple[Out, ...]:
    """Those that could not be had, in words that stay true."""
    out = []
    for backend in backends:
        state, reason = state_of(backend, now)
        if state == "ejected":
            rests = backend.passive.ejected(now)
            reason = f"{'rested' if rests else 'on trial: one request at a time, when its rest was over'} "
            reason += why_rested(backend)
        if state != "up":
            out.append(Out(backend.id, state, reason))
    return tuple(out)
