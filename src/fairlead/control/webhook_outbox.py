"""What is a webhook told next, and when? One outbox per webhook, driven by a clock that it is given.

Rule 1: what comes within GROUP seconds is one message, and there are never more messages in a minute than allowed.
Rule 2: only the last word on an alert waits. What was raised and ended before anybody was told is counted, and the
        next message says how many such changes it stands for; so a storm ends up as one message.
Rule 3: what could not be delivered waits for the next try, later each time; the newest word on it is what is sent.
Rule 4: an Alertmanager forgets what it is not told again: what stands is repeated every REPEAT seconds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from fairlead.core.alerts.engine import Alert

GROUP: Final = 3.0  # seconds from the first news to the message
REPEAT: Final = 120.0
MINUTE: Final = 60.0
FIRST_PAUSE, LONGEST_PAUSE = 2.0, 300.0  # seconds before a message that failed is tried again
MOST: Final = 1000  # alerts that wait; of more the oldest are only counted

Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Batch:
    """One message."""

    raised: tuple[Alert, ...]
    ended: tuple[Alert, ...]
    skipped: int = 0  # changes that are not told one by one


class Outbox:
    """Call `tell` with news, and `take` when `due` says so; then `sent` or `failed`."""

    def __init__(self, *, per_minute: int, send_resolved: bool, repeats: bool) -> None:
        """`repeats`: what stands is told again and again, and nobody reads how many changes were skipped."""
        self.per_minute = per_minute
        self.send_resolved = send_resolved
        self.repeats = repeats
        self.failures = 0  # in a row
        self._waiting: dict[Key, Alert] = {}
        self._told: dict[Key, Alert] = {}  # those that stand, as far as the other side knows
        self._flying: set[Key] = set()  # those that stand, of the message under way
        self._skipped = 0
        self._news_at: float | None = None  # when the first of what waits came
        self._not_before = float("-inf")
        self._repeat_at = float("inf")
        self._tries: deque[float] = deque()

    def tell(self, alerts: Iterable[Alert], now: float) -> None:
        """These were raised, or have ended."""
        for alert in alerts:
            key = alert.name, alert.backend
            waits = self._waiting.pop(key, None)
            if waits is not None:
                self._skipped += 1
            if alert.until is not None:
                if key not in self._told and key not in self._flying:
                    self._skipped += 1 if waits is not None else 0
                    continue
                if not self.send_resolved:
                    self._forget(key)
                    continue
            self._waiting[key] = alert
        while len(self._waiting) > MOST:
            key = next(iter(self._waiting))
            del self._waiting[key]
            self._forget(key)
            self._skipped += 1
        if self._news_at is None and self._has_news:
            self._news_at = now

    def _forget(self, key: Key) -> None:
        self._told.pop(key, None)
        self._flying.discard(key)

    @property
    def _has_news(self) -> bool:
        return bool(self._waiting) or (self._skipped > 0 and not self.repeats)

    def due(self, now: float) -> float | None:
        """Seconds until the next message; None: there is nothing to tell."""
        at = self._repeat_at if self.repeats and self._told else float("inf")
        if self._news_at is not None:
            at = min(at, self._news_at + GROUP)
        if at == float("inf"):
            return None
        while self._tries and self._tries[0] <= now - MINUTE:
            self._tries.popleft()
        if len(self._tries) >= self.per_minute:
            at = max(at, self._tries[0] + MINUTE)
        return max(at, self._not_before, now) - now

    def take(self, now: float) -> Batch:
        """The message that is due."""
        self._tries.append(now)
        waiting, self._waiting = self._waiting, {}
        skipped, self._skipped = self._skipped, 0
        self._news_at, self._repeat_at = None, now + REPEAT
        raised = {key: alert for key, alert in waiting.items() if alert.until is None}
        ended = tuple(alert for alert in waiting.values() if alert.until is not None)
        again = {key: alert for key, alert in self._told.items() if key not in waiting} if self.repeats else {}
        self._flying = {*raised, *again}
        return Batch((*raised.values(), *again.values()), ended, skipped)

    def sent(self, batch: Batch) -> None:
        """It was taken."""
        self.failures = 0
        for alert in batch.raised:
            key = alert.name, alert.backend
            if key in self._flying:
                self._told[key] = alert
        for alert in batch.ended:
            self._told.pop((alert.name, alert.backend), None)
        self._flying = set()

    def failed(self, batch: Batch, now: float, wait: float = 0.0) -> float:
        """It was not; the seconds until it is tried again, at least `wait`."""
        pause = min(FIRST_PAUSE * 2.0**self.failures, LONGEST_PAUSE)
        pause = min(max(pause, wait), LONGEST_PAUSE)
        self.failures = min(self.failures + 1, 20)
        newer, self._waiting, self._flying = self._waiting, {}, set()
        for alert in (*batch.raised, *batch.ended):
            self._waiting[alert.name, alert.backend] = alert
        self._skipped += batch.skipped
        self._news_at = now
        self._not_before = now + pause
        self.tell(newer.values(), now)
        return pause
