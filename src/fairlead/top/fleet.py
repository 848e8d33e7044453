"""What is true of the fleet now? Answers of the admin API, as one value that a screen can be made of.

Rule 1: rows stay what the API gave: whoever wants JSON gets the same names and numbers.
Rule 2: text in them came from engines and from a config file: nothing unprintable gets to a terminal.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

Row = dict[str, Any]


class Asks(Protocol):
    """An admin API."""

    def get(self, path: str) -> Any: ...


@dataclass(frozen=True, slots=True)
class Fleet:
    """One moment."""

    rows: Sequence[Row]
    policy: str = ""
    shadow: str = ""
    status: str = "ready"
    version: str = ""
    config_version: int | None = None
    problem: str = ""  # why the last reload was refused
    alerts: Sequence[Row] = field(default=())
    time: float = 0.0  # unix time

    @property
    def loaded(self) -> bool:
        return bool(self.time)

    def total(self, name: str) -> float:
        """Of all backends that tell it."""
        return sum(row.get(name) or 0 for row in self.rows)

    def rate(self, name: str) -> float | None:
        """The same of a figure of the last minute; None: nobody tells it yet."""
        known = [value for row in self.rows if (value := minute(row, name)) is not None]
        return sum(known) if known else None

    def states(self) -> dict[str, int]:
        """How many backends are in each state, in the order in which they are seen."""
        found: dict[str, int] = {}
        for row in self.rows:
            found[row["state"]] = found.get(row["state"], 0) + 1
        return found

    def as_json(self) -> Row:
        return {
            "time": round(self.time, 3),
            "version": self.version,
            "status": self.status,
            "policy": self.policy,
            "shadow": self.shadow or None,
            "config_version": self.config_version,
            "config_problem": self.problem or None,
            "backends": list(self.rows),
            "alerts": list(self.alerts),
        }


NOTHING = Fleet(())


def minute(row: Row, name: str) -> Any:
    """A figure of the last minute."""
    return (row.get("last_minute") or {}).get(name)


def look(asker: Asks) -> Fleet:
    """Ask for everything. What `asker` raises comes out."""
    rows = asker.get("/api/backends")
    policies, alerts = asker.get("/api/policy"), asker.get("/api/alerts")
    loaded = asker.get("/api/config").get("loaded") or {}
    ready, healthy = asker.get("/readyz"), asker.get("/healthz")
    return Fleet(
        rows=rows["backends"],
        policy=policies["policy"]["name"],
        shadow=(policies.get("shadow") or {}).get("name", ""),
        status=ready.get("status", ""),
        version=healthy.get("version", ""),
        config_version=loaded.get("version"),
        problem=(loaded.get("last_error") or {}).get("message", ""),
        alerts=alerts["alerts"],
        time=time.time(),
    )


def printable(text: str) -> str:
    """On one line, without anything that a terminal would act on."""
    return text if text.isprintable() else "".join(char if char.isprintable() else "?" for char in text)
