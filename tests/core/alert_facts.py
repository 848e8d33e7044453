"""Facts for tests of alerts, written down by hand, and a clock that goes a second at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from fairlead.core.alerts.engine import Alert, Alerts
from fairlead.core.alerts.facts import BackendFacts, FleetFacts
from fairlead.core.alerts.rules import AlertRules

BOUNDS = (0.5, 1.0, 2.0, 4.0)

Change = Callable[["Fleet"], None]


@dataclass
class Traffic:
    """What one backend does in a second."""

    placed: float = 1.0  # contested, all of them
    failed: float = 0.0  # share of them
    tokens: int = 500  # of each
    ttft: float = 0.7


@dataclass
class Fleet:
    """Backends whose counters grow by their traffic."""

    rows: dict[str, BackendFacts]
    traffic: dict[str, Traffic]
    rest: FleetFacts = field(default_factory=lambda: FleetFacts(bounds=BOUNDS))
    ended: dict[str, list[float]] = field(default_factory=dict)

    @classmethod
    def of(cls, *ids: str) -> Fleet:
        return cls(
            {id: BackendFacts(id, waiting=0.0, pace=1.0, metrics_age=1.0) for id in ids}, {id: Traffic() for id in ids}
        )

    def set(self, id: str, **changed: object) -> None:
        self.rows[id] = replace(self.rows[id], **changed)  # type: ignore[arg-type]

    def second(self) -> FleetFacts:
        """The facts after one more second."""
        for id, traffic in self.traffic.items():
            counts = self.ended.setdefault(id, [0.0] * (5 + len(BOUNDS) + 1))
            failed = traffic.placed * traffic.failed
            added = [traffic.placed, traffic.placed, traffic.placed - failed, failed, traffic.placed * traffic.tokens]
            for place, more in enumerate(added):
                counts[place] += more
            bucket = next((place for place, bound in enumerate(BOUNDS) if traffic.ttft <= bound), len(BOUNDS))
            counts[5 + bucket] += traffic.placed - failed
            self.set(id, counts=tuple(int(count) for count in counts))
        return replace(self.rest, backends=tuple(self.rows.values()))


class Watch:
    """A fleet that is looked at once a second."""

    def __init__(self, *ids: str, rules: AlertRules | None = None) -> None:
        self.fleet = Fleet.of(*ids)
        self.alerts = Alerts(rules)
        self.now = 0.0
        self.raised: list[Alert] = []
        self.ended: list[Alert] = []

    def run(self, seconds: int, each: Change | None = None) -> None:
        for _ in range(seconds):
            self.now += 1.0
            if each is not None:
                each(self.fleet)
            raised, ended = self.alerts.observe(self.fleet.second(), self.now)
            self.raised += raised
            self.ended += ended

    @property
    def standing(self) -> set[tuple[str, str]]:
        return set(self.alerts.active)
