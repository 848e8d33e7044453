"""What does the live table show? Facts from the balancer's admin API and the engines' own counters, by backend.

Rule 1: everything but the engines' token counts comes from the public admin API, as anybody could read it.
Rule 2: no I/O and no clock here; `reset` begins a new policy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from fairlead.demo.figures import percentile
from fairlead.demo.fleet import FLEET

REMEMBERED: Final = 2_000  # requests per backend in the p50; more than a comparison has
SMOOTH: Final = 0.4  # weight of the newest half second in tokens/s


@dataclass(frozen=True, slots=True)
class Row:
    """One backend, now."""

    name: str
    engine: str
    state: str = "starting"
    share: float = 0.0
    inflight: int = 0
    pending: int = 0
    queue: float | None = None
    tokens_per_second: float = 0.0
    ttft_p50: float | None = None


class Gauges:
    """Collects; `rows` is what to show."""

    def __init__(self) -> None:
        self.engines_idle = False  # as of the last word from the engines
        self.engine_words = 0  # how often they reported
        self.placed: dict[str, int] = {}
        self._speeds = [0.0] * len(FLEET)
        self._before: tuple[float, list[int]] | None = None
        self._backends: dict[str, dict[str, Any]] = {}
        self._ttfts: dict[str, dict[str, float]] = {}  # backend -> request id -> seconds

    def reset(self) -> None:
        """A new balancer begins."""
        self.placed = {}
        self._backends = {}
        self._ttfts = {}

    def engines_told(self, status: dict[str, Any]) -> None:
        """A line of the engines' process."""
        now, rows = status["at"], status["engines"]
        counts = [row["generated"] for row in rows]
        if self._before is not None and now > self._before[0]:
            span = now - self._before[0]
            for place, (count, before) in enumerate(zip(counts, self._before[1], strict=True)):
                speed = (count - before) / span
                self._speeds[place] += SMOOTH * (speed - self._speeds[place])
        self._before = (now, counts)
        self.engines_idle = all(row["running"] + row["waiting"] == 0 for row in rows)
        self.engine_words += 1

    def backends_told(self, rows: Sequence[dict[str, Any]]) -> None:
        """`/api/backends`."""
        self._backends = {row["id"]: row for row in rows}
        self.placed = {machine.name: self._backends.get(machine.name, {}).get("requests", 0) for machine in FLEET}

    def decisions_told(self, rows: Sequence[dict[str, Any]]) -> None:
        """`/api/decisions`; rows seen before may come again."""
        for row in rows:
            if row["ttft"] is not None and row["backend"] is not None:
                known = self._ttfts.setdefault(row["backend"], {})
                known[row["id"]] = row["ttft"]
                if len(known) > REMEMBERED:
                    del known[next(iter(known))]

    def rows(self) -> list[Row]:
        """One per backend, in the fleet's order."""
        total = sum(self.placed.values())
        found = []
        for machine, speed in zip(FLEET, self._speeds, strict=True):
            told = self._backends.get(machine.name)
            if told is None:
                found.append(Row(machine.name, machine.shown))
                continue
            found.append(
                Row(
                    machine.name,
                    machine.shown,
                    state=told["state"],
                    share=told["requests"] / total if total else 0.0,
                    inflight=told["inflight"],
                    pending=told["pending_tokens"],
                    queue=told["engine_waiting"],
                    tokens_per_second=speed,
                    ttft_p50=percentile(list(self._ttfts.get(machine.name, {}).values()), 0.5),
                )
            )
        return found
