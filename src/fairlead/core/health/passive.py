"""Passive checks: does a backend do what the requests sent to it ask? And when it did not: how does it come back?

nginx's meaning is the base: `max_fails` failures within `fail_timeout` take a backend out, `max_fails` 0 turns that
off. What counts as a failure is the host's business: connection failures, timeouts, 5xx answers that are retried,
streams that break; never 4xx, never a client that left. A frozen or slow backend is taken out by the same door
(outliers.py).

    sound --eject--> resting --time--> half-open --a success--> slow start --time--> sound
                        ^                  |                        |
                        +----- a failure --+---- max_fails again ---+

Rule 1: a rest lasts `fail_timeout` times the number of ejections in a row, up to a limit, and up to a tenth more by
chance, so that several balancers do not send their trials at one moment. A quiet time as long as the last rest
forgives.
Rule 2: verdicts are spoken on what was sent after the last one: what was sent before an ejection neither lengthens the
rest nor ends it when it ends badly or well.
Rule 3: time alone ends a rest, no probe is needed; but then one request is tried at a time, until one ends well.
Rule 4: where the host asks a hanging backend for a token of its own (`by_canary`), that is the trial, and no request
is; it is due when a trial is. Errors are cheap to try, hanging costs a request its time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from fairlead.core.cluster.ledger import Lease
    from fairlead.core.view import Rng

FAILURES: Final = "failures"
NO_PROGRESS: Final = "no_progress"
SLOW: Final = "slow"
CAUSES: Final = (FAILURES, NO_PROGRESS, SLOW)

DEAD: Final = frozenset({"connect", "connect_refused"})  # failures that leave no doubt: nobody is there
JITTER: Final = 0.1  # most of a rest that is added to it by chance
FIRST_SHARE: Final = 0.1  # of its fair share, at the begin of a slow start
FULL_SHARE: Final = 1.1  # at its end, and as long again: its queue is empty, and must not be filled in one go
NEVER: Final = float("-inf")


@dataclass(frozen=True, slots=True)
class OutlierRules:
    """What the configuration says beyond nginx's two numbers. Seconds."""

    longest: float = 300.0  # a rest, however many ejections came before it
    slow_start: float = 30.0  # until a backend that came back has its fair share of the requests; 0: at once
    max_ejected: float = 0.5  # most of a model's backends that may be out at one time
    no_progress: float = 10.0  # without a token, with work at hand, is the least that counts as frozen; 0: never
    outlier_factor: float = 0.0  # so many times slower than the others is too slow; 0: none is


class PassiveFailures:
    """Failures, rests and the way back of one backend. Times are seconds on the host's clock."""

    __slots__ = (
        "by_canary", "cause", "credit", "ejected_until", "ejections", "fail_timeout", "fails", "max_fails",
        "ramp_since", "reason", "rest_seconds", "rest_since", "resting", "returned_at", "rules", "since", "slow_since",
        "streak", "trial", "waits_since",
    )  # fmt: skip

    def __init__(self, max_fails: int = 3, fail_timeout: float = 30.0, rules: OutlierRules | None = None) -> None:
        self.max_fails, self.fail_timeout = max_fails, fail_timeout
        self.rules = rules or OutlierRules()
        self.fails = 0
        self.since = 0.0  # when the first failure of the running count happened
        self.reason = ""  # the last failure, for people
        self.resting = False  # ejected, and not proven since: its time runs, or it is half-open
        self.cause = ""  # why it was ejected last: one of CAUSES
        self.rest_since = NEVER
        self.rest_seconds = 0.0
        self.ejected_until = NEVER
        self.streak = 0  # ejections in a row
        self.returned_at = NEVER
        self.by_canary = False  # does the host find out itself whether it hangs no more?
        self.trial: Lease | None = None  # the one request under way that decides whether it is back
        self.ramp_since = NEVER  # when its slow start began
        self.credit = 0.0  # requests that its slow start lets it have by now, see gate.py
        self.slow_since: float | None = None  # since when it is too slow, see outliers.py
        self.waits_since: float | None = None  # since when there is always somebody without a first token there
        self.ejections = dict.fromkeys(CAUSES, 0)

    def fail(self, reason: str, sent_at: float, now: float, rng: Rng) -> bool:
        """A request failed that was sent at `sent_at`; True when this changes who may get requests."""
        if sent_at <= self.rest_since:
            return False
        if self.resting:
            self.reason = reason
            if now < self.ejected_until:
                # It was tried all the same, as the others were no better, and failed again.
                self.ejected_until = max(self.ejected_until, now + self.rest_seconds)
            else:
                self.eject(self.cause, reason, now, rng)
            return True
        self.reason = reason
        if self.max_fails == 0 or self.rules.max_ejected == 0.0:
            return False
        if self.fails and now - self.since > self.fail_timeout:
            self.fails = 0
        if self.fails == 0:
            self.since = now
        self.fails += 1
        if self.fails < self.max_fails:
            return False
        self.eject(FAILURES, reason, now, rng)
        return True

    def succeed(self, sent_at: float, now: float) -> bool:
        """A request ended well; True when this ends a rest: the slow start begins."""
        if not self.resting:
            self.fails = 0
            return False
        if sent_at <= self.rest_since:
            return False
        self.resting, self.fails, self.trial, self.slow_since = False, 0, None, None
        self.ejected_until = min(self.ejected_until, now)
        self.returned_at = now
        self.ramp_since = now if self.rules.slow_start else NEVER
        self.credit = 0.0
        return True

    def eject(self, cause: str, reason: str, now: float, rng: Rng) -> None:
        """Out, from now on."""
        if not self.resting and now - self.returned_at > self.rest_seconds:
            self.streak = 0
        self.streak += 1
        usual = min(self.fail_timeout * self.streak, max(self.rules.longest, self.fail_timeout))
        self.rest_seconds = usual * (1.0 + JITTER * rng.random())
        self.rest_since, self.ejected_until = now, now + self.rest_seconds
        self.resting, self.cause, self.reason = True, cause, reason
        self.fails, self.trial, self.ramp_since, self.slow_since = 0, None, NEVER, None
        self.ejections[cause] += 1

    def reopen(self, now: float) -> None:
        """There is news of it: a trial need not wait for the end of the rest."""
        self.ejected_until = min(self.ejected_until, now)

    def ejected(self, now: float) -> bool:
        """Is it out at `now`?"""
        return now < self.ejected_until

    def on_trial(self, now: float) -> bool:
        """Is it half-open at `now`: its rest is over, and nothing has ended well since?"""
        return self.resting and now >= self.ejected_until

    def awaits_canary(self, now: float) -> bool:
        """Is the next trial the host's own affair?"""
        return self.by_canary and self.cause == NO_PROGRESS and self.on_trial(now)

    @property
    def ramping(self) -> bool:
        """Is it in its slow start (which a tick ends)?"""
        return self.ramp_since > NEVER

    def share(self, now: float) -> float:
        """How much of its fair share its slow start lets it have; 0 where that is over."""
        part = (now - self.ramp_since) / self.rules.slow_start
        return 0.0 if part >= 2.0 else min(FIRST_SHARE + (FULL_SHARE - FIRST_SHARE) * part, FULL_SHARE)

    @property
    def dead(self) -> bool:
        """Did its last failure leave no doubt?"""
        return self.resting and self.reason in DEAD

    @property
    def hopeless(self) -> bool:
        """Would a request that was sent there now hang, as far as anybody can tell?"""
        return self.cause == NO_PROGRESS

    @property
    def badness(self) -> tuple[bool, bool, int, float]:
        """To sort those that rest by, the least bad first: who refuses is worst, who hangs costs more than an error."""
        return self.dead, self.cause == NO_PROGRESS, self.streak, self.ejected_until
