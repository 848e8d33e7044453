"""Passive checks: is a backend failing the requests that it gets?

nginx's meaning: `max_fails` failures within `fail_timeout` take the backend out for `fail_timeout`; after that
it gets requests again, and one more failure takes it out again, one success forgets all.
`max_fails` 0 turns the check off. What counts as a failure is the host's business: connection failures,
timeouts, 5xx answers that are retried; never 4xx, never a client that left.
"""

from __future__ import annotations


class PassiveFailures:
    """Counts failures of one backend's requests. Times are seconds on the host's clock."""

    __slots__ = ("ejected_until", "fail_timeout", "fails", "max_fails", "reason", "since")

    def __init__(self, max_fails: int = 3, fail_timeout: float = 30.0) -> None:
        self.max_fails, self.fail_timeout = max_fails, fail_timeout
        self.fails = 0
        self.since = 0.0  # when the first failure of the running count happened
        self.ejected_until = float("-inf")
        self.reason = ""  # the last failure, for people

    def succeed(self) -> None:
        """A request ended well: forget the failures (an ejection under way still runs its time)."""
        self.fails = 0

    def fail(self, reason: str, now: float) -> bool:
        """A request failed; True when this takes the backend out."""
        self.reason = reason
        if self.max_fails == 0 or now < self.ejected_until:
            return False
        if self.fails and now - self.since > self.fail_timeout:
            self.fails = 0
        if self.fails == 0:
            self.since = now
        self.fails += 1
        if self.fails < self.max_fails:
            return False
        self.ejected_until = now + self.fail_timeout
        # On trial when it comes back: the next failure ejects at once, a success clears.
        self.fails = self.max_fails - 1
        self.since = self.ejected_until
        return True

    def ejected(self, now: float) -> bool:
        """Is it out at `now`?"""
        return now < self.ejected_until
