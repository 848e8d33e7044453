"""Which backend does its work not at all, or far too slowly, although nothing fails?

Frozen: it has work at hand and gave no token for `no_progress` seconds, and for FROZEN times as long as that may take
there by what was learned of its speed, while another backend gave some. What it says on its health page does not
matter: an engine's front answers that while the engine hangs. A backend that crawls and still gives tokens is not
frozen: learned speeds (cluster/speeds.py) take its requests away within seconds, as many as it is too slow for.

Slow: SLOW_SECONDS long `outlier_factor` times slower than the middle one of those that serve the same. Off unless
asked for: a fleet of unlike machines has honest outliers, and a slow machine that gets few requests is still of use.

Rule 1: requests whose clients do not take what comes (`lease.paused`) prove nothing.
Rule 2: nor do times in which this process itself stood still: then silence is counted from its return.
Rule 3: silence outlasts the requests that wait in it: clients that give up before `no_progress` do not set it back, as
long as others wait at each look.
Rule 4: a frozen backend that gives a token may be tried at once; one that still holds the requests that it hangs on
is not tried by another request: these are the trial. They end by their own deadlines.
"""

from __future__ import annotations

from collections.abc import Collection
from statistics import median_low
from typing import Final

from fairlead.core.cluster.backend import Backend
from fairlead.core.cluster.costs import FULL_CHUNK
from fairlead.core.cluster.ledger import Lease
from fairlead.core.cluster.speeds import longest_answer, prefill_of
from fairlead.core.health.passive import NEVER, NO_PROGRESS, SLOW, OutlierRules
from fairlead.core.model import Kind
from fairlead.core.view import Rng

FROZEN: Final = 20.0  # times as long as usual: a backend ten times slower that is not known to be has twice the room
FROZEN_ANSWER: Final = 4.0  # the same for answers in one piece, which are expected to be long ones
AHEAD: Final = 1.0  # seconds by which the rest of one that still hangs is moved on
SLOW_SECONDS: Final = 5.0


class Outliers:
    """Looks at all backends twice a second or so, and ejects."""

    __slots__ = ("_awake_since", "_looked_at", "_rules")

    def __init__(self, rules: OutlierRules) -> None:
        self._rules = rules
        self._looked_at = self._awake_since = NEVER

    def look(self, backends: Collection[Backend], leases: Collection[Lease], now: float, rng: Rng) -> bool:
        """Judge; True when this changes who may get requests."""
        rules = self._rules
        if now - self._looked_at > max(rules.no_progress / 2, AHEAD):
            self._awake_since = now
        self._looked_at = now
        changed = False
        for b in backends:
            passive = b.passive
            waits = next((lease.opened_at for lease in b.unstarted if lease.facts.kind != Kind.CHEAP), None)
            if waits is None or passive.waits_since is None or passive.resting:
                passive.waits_since = waits
            if passive.ramping and not passive.share(now):
                passive.ramp_since = NEVER
                changed = True
            if passive.ejected(now):
                changed |= passive.cause == NO_PROGRESS and _hangs(b, leases, now)
            elif not rules.max_ejected:
                continue
            elif rules.no_progress and b.inflight and self._frozen(b, backends, leases, now):
                passive.eject(NO_PROGRESS, f"no token for {now - self._silent_since(b):.0f} s", now, rng)
                changed = True
            elif rules.outlier_factor and not passive.resting and self._slow(b, backends, now):
                passive.eject(SLOW, f"{b.slowdown:.1f} times slower than the mean", now, rng)
                changed = True
        return changed

    def _silent_since(self, b: Backend) -> float:
        began = NEVER if b.passive.waits_since is None else b.passive.waits_since
        return max(b.delivered_at, began, self._awake_since)

    def _frozen(self, b: Backend, backends: Collection[Backend], leases: Collection[Lease], now: float) -> bool:
        since = self._silent_since(b)
        silent = now - since
        if silent < self._rules.no_progress:
            return False
        if not any(o is not b and o.delivered_at > max(since, now - self._rules.no_progress) for o in backends):
            return False
        allowed = _patience(b, [lease for lease in leases if lease.backend is b])
        return allowed is not None and silent > allowed

    def _slow(self, b: Backend, backends: Collection[Backend], now: float) -> bool:
        peers = [o for o in backends if o is not b and o.up and o.models == b.models]
        others = [o.slowdown for o in peers if not o.passive.resting]
        passive = b.passive
        if not others or b.slowdown < self._rules.outlier_factor * median_low(others):
            passive.slow_since = None
            return False
        if passive.slow_since is None:
            passive.slow_since = now
        return now - passive.slow_since >= SLOW_SECONDS


def _patience(b: Backend, leases: Collection[Lease]) -> float | None:
    """How long may nothing come of these? None: they do not tell."""
    telling = [lease for lease in leases if not lease.paused and lease.facts.kind != Kind.CHEAP]
    if not telling:
        return None
    started = any(lease.first_token_at is not None for lease in telling)
    waiting = [lease for lease in telling if lease.first_token_at is None]
    # Not every engine goes on with its streams while it reads a prompt.
    prefill = max((prefill_of(lease) if lease.prompt_tokens else FULL_CHUNK for lease in waiting), default=FULL_CHUNK)
    allowed = FROZEN * b.prefill_slowdown * prefill
    if not started and not any(lease.facts.stream for lease in waiting):
        head = min(waiting, key=lambda lease: lease.opened_at)
        allowed += FROZEN_ANSWER * b.decode_slowdown * longest_answer(head) * head.predicted_step
    return allowed


def _hangs(b: Backend, leases: Collection[Lease], now: float) -> bool:
    """A frozen one's rest: is it over early, or must it go on? True when it changed."""
    passive = b.passive
    if b.delivered_at > passive.rest_since:
        passive.reopen(now)
        return True
    if passive.ejected_until - now > AHEAD:
        return False
    if any(lease.backend is b and lease.opened_at <= passive.rest_since and not lease.paused for lease in leases):
        passive.ejected_until = now + 2 * AHEAD
        return True
    return False
