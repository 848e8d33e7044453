"""May a failed request be tried on another backend?

Before the commit point (no byte of a final answer written to the client) only. Limits: extra tries per
request, time since the request arrived, and a budget for the fleet, so that retries cannot multiply the load
of a fleet that is failing anyway (a share of the requests of the last ten seconds plus a small floor, as
Finagle and Linkerd do).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

CONNECT: Final = "connect"  # no connection, or one that broke before an answer began
TIMEOUT: Final = "timeout"  # no answer began within its time
REASONS: Final = (CONNECT, TIMEOUT, "500", "502", "503", "504", "429")

BUDGET_SECONDS = 10.0
BUDGET_FLOOR = 10.0  # retries per second that are allowed whatever the share says, unless the budget is 0


@dataclass(frozen=True, slots=True)
class RetryRules:
    """What the configuration allows."""

    attempts: int = 2  # tries beyond the first
    on: frozenset[str] = frozenset((CONNECT, TIMEOUT, "502", "503"))
    window: float = 10.0  # seconds since the request arrived in which a new try may begin
    budget: float = 0.2  # retries per request, over the whole fleet
    breaks: int = 2  # backends that may break under one request before it is refused; 0: any number
    floor: float = BUDGET_FLOOR


class RetryBudget:
    """Counts requests and retries in two half windows; cheap and good enough for a cap."""

    __slots__ = ("_now", "_old", "_rules", "_since", "overflows")

    def __init__(self, rules: RetryRules) -> None:
        self._rules = rules
        self._since = 0.0
        self._old = [0, 0]  # requests, retries of the half window before
        self._now = [0, 0]
        self.overflows = 0  # retries that were wanted and not given

    def request(self, now: float) -> None:
        """A new request came in."""
        if now - self._since >= BUDGET_SECONDS / 2:
            self._turn(now)
        self._now[0] += 1

    def take(self, now: float) -> bool:
        """One retry, please; False when the budget is spent."""
        if now - self._since >= BUDGET_SECONDS / 2:
            self._turn(now)
        requests = self._old[0] + self._now[0]
        retries = self._old[1] + self._now[1]
        floor = self._rules.floor * BUDGET_SECONDS if self._rules.budget else 0.0
        if retries >= requests * self._rules.budget + floor:
            self.overflows += 1
            return False
        self._now[1] += 1
        return True

    def _turn(self, now: float) -> None:
        late = now - self._since >= BUDGET_SECONDS
        self._old = [0, 0] if late else self._now
        self._now = [0, 0]
        self._since = now


def may_retry(rules: RetryRules, reason: str, tries: int, elapsed: float) -> bool:
    """Do the rules allow another try after `tries` tries and `elapsed` seconds? (The budget comes last.)"""
    return reason in rules.on and tries <= rules.attempts and elapsed < rules.window
