"""Which alerts stand? Raised after they were found for long enough, ended after they were not, each told once.

Rule 1: what a rule finds is held for its `hold` before it is raised, and is missed for its `rest` before it ends.
Rule 2: an alert goes with its backend, and with being turned off, at once.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from typing import Final

from fairlead.core.alerts.facts import PLACED, FleetFacts
from fairlead.core.alerts.rules import MINUTE, AlertRules, Found, Scene
from fairlead.core.alerts.table import RULES, Rule
from fairlead.core.alerts.windows import Course, Key, Window

KEPT: Final = 100  # alerts that ended and are still told

_FLEET: Final[Key] = ("", 0)


@dataclass(frozen=True, slots=True)
class Alert:
    """An alert that stands, or that did."""

    name: str
    backend: str  # "": the fleet
    severity: str
    since: float  # host clock
    value: float
    message: str
    until: float | None = None  # None: it stands


class Alerts:
    """Watches. `observe` is called about once a second."""

    def __init__(self, rules: AlertRules | None = None) -> None:
        self.rules = rules or AlertRules()
        self.shares: dict[str, float] = {}  # of all requests in the window of the share alert, by backend
        self.active: dict[tuple[str, str], Alert] = {}  # by name and backend
        self.ended: deque[Alert] = deque(maxlen=KEPT)  # oldest first
        self._scene = Scene(self.rules)
        self._found_since: dict[tuple[str, str], float] = {}  # of those not raised yet
        self._missed_since: dict[tuple[str, str], float] = {}  # of those that stand
        self._overflows = Window(MINUTE, {_FLEET: (0,)}, 0.0)

    def observe(self, facts: FleetFacts, now: float) -> tuple[list[Alert], list[Alert]]:
        """Take the facts of now; alerts that are new and those that ended."""
        self._look(facts, now)
        raised: list[Alert] = []
        ended: list[Alert] = []
        ids = {b.id for b in facts.backends} | {""}
        for rule in RULES:
            standing = [backend for name, backend in self.active if name == rule.name]
            found: dict[str, Found] = {}
            off = rule.name in self.rules.off
            if not off:
                found = {each.backend: each for each in rule.judge(self._scene, standing)}
            raised += self._raise(rule, found, now)
            ended += [self._end(rule.name, id, now) for id in standing if off or self._over(rule, id, found, ids, now)]
        return raised, ended

    def _look(self, facts: FleetFacts, now: float) -> None:
        scene, rules = self._scene, self.rules
        scene.rules, scene.facts = rules, facts
        scene.windows.take(facts, rules.lengths(), now)
        placed, _ = scene.windows.added(rules.share.window, PLACED)
        total = sum(placed.values())
        self.shares = {id: count / total if total else 0.0 for id, count in placed.items()}
        overflows = {_FLEET: (facts.overflows,)}
        self._overflows.take(overflows, now)
        scene.overflows = self._overflows.added(overflows, 0)[_FLEET]
        queues: dict[str, Course] = {}
        for b in facts.backends:
            if b.waiting is not None:
                course = scene.queues.get(b.id)
                if course is None or course.seconds != rules.queue.window:
                    course = Course(rules.queue.window)
                course.take(b.waiting, now)
                queues[b.id] = course
        scene.queues = queues

    def _raise(self, rule: Rule, found: dict[str, Found], now: float) -> list[Alert]:
        raised = []
        waiting = {key: at for key, at in self._found_since.items() if key[0] != rule.name}
        for id, what in found.items():
            key = rule.name, id
            self._missed_since.pop(key, None)
            old = self.active.get(key)
            if old is not None:
                self.active[key] = replace(old, value=what.value, message=what.message)
                continue
            since = self._found_since.get(key, now)
            if now - since < rule.hold:
                waiting[key] = since
                continue
            alert = self.active[key] = Alert(rule.name, id, rule.severity, now, what.value, what.message)
            raised.append(alert)
        self._found_since = waiting
        return raised

    def _over(self, rule: Rule, id: str, found: dict[str, Found], ids: set[str], now: float) -> bool:
        if id not in ids:
            return True
        if id in found:
            return False
        return now - self._missed_since.setdefault((rule.name, id), now) >= rule.rest

    def _end(self, name: str, id: str, now: float) -> Alert:
        self._missed_since.pop((name, id), None)
        over = replace(self.active.pop((name, id)), until=now)
        self.ended.append(over)
        return over
