"""Which configuration is in force, since when, and what became of attempts to change it?

What changes the configuration of a running Fairlead (config/reload.py) keeps the books here; the admin API, the metrics
page and people read them.
Rule 1: an attempt is applied whole, or it is refused and nothing has changed; both are counted.
Rule 2: the last refusal is told until a reload succeeds, so that nobody believes that his file is in force.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from fairlead.config.schema import Config

APPLIED: Final = "applied"
REFUSED: Final = "refused"
MAX_CHANGES: Final = 100  # changes by the admin API that are told one by one


class Refused(Exception):
    """Nothing was changed; the message is a sentence for people."""

    def __init__(self, status: int, message: str, problems: Sequence[dict[str, Any]] = ()) -> None:
        """`status` is HTTP's; each of `problems` has a path, a message, and a line and a hint where there are any."""
        super().__init__(message)
        self.status = status
        self.problems = list(problems)


@dataclass(slots=True)
class Versions:
    """The books. Times are unix time."""

    source: str | None  # the file; None: the configuration came from the command line
    number: int = 1  # of the configuration in force: the first is the one of the start
    applied_at: float = field(default_factory=time.time)
    reloads: dict[str, int] = field(default_factory=lambda: {APPLIED: 0, REFUSED: 0})
    changes: list[str] = field(default_factory=list)  # by the admin API since the file was read
    needs_restart: list[str] = field(default_factory=list)  # options whose new values wait for one
    problem: dict[str, Any] | None = None  # of the last reload, if it was refused

    def applied(self, change: str = "", needs_restart: Sequence[str] = ()) -> None:
        """Another configuration is in force: by a reload, or by a `change` of the admin API."""
        self.number += 1
        self.applied_at = time.time()
        if change:
            self.changes = [*self.changes, change][-MAX_CHANGES:]
            return
        self.reloads[APPLIED] += 1
        self.changes, self.needs_restart, self.problem = [], list(needs_restart), None

    def refused(self, refusal: Refused) -> None:
        """A reload was refused."""
        self.reloads[REFUSED] += 1
        self.problem = {"at": round(time.time(), 3), "message": str(refusal), "problems": refusal.problems}

    def shown(self) -> dict[str, Any]:
        return {
            "version": self.number,
            "applied_at": round(self.applied_at, 3),
            "file": self.source,
            "changes": self.changes,
            "needs_restart": self.needs_restart,
            "last_error": self.problem,
        }


class Fleet(Protocol):
    """What the admin API may do to a running Fairlead. Each method tells what was done, or raises `Refused`."""

    versions: Versions

    @property
    def config(self) -> Config:
        """The one in force."""

    async def reload(self) -> dict[str, Any]:
        """Read the file again and apply it."""

    async def add(self, body: object) -> dict[str, Any]:
        """A backend joins; `body` is what the file would say of it."""

    async def change(self, id: str, body: object) -> dict[str, Any]:
        """Weight, drain, enable, max_connections, backup of one backend."""

    async def remove(self, id: str, *, force: bool) -> dict[str, Any]:
        """A backend leaves; its requests finish, or break where that is forced."""
