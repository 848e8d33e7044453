"""What may be asked of a running Fairlead, and what configuration would follow upon it?

A reload, or a change of one backend by the admin API, becomes a `Step`: the whole configuration that shall be in force.
Who applies it is somebody else: config/reload.py in one process, workers/changes.py in several.

Rule 1: one change at a time, in the order in which they were asked for.
Rule 2: what is refused has changed nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from fairlead.config import fleet
from fairlead.config.parts import Read
from fairlead.config.problems import ERROR
from fairlead.config.schema import Config, options_of
from fairlead.control.fleet import Refused, Versions

log = logging.getLogger("fairlead")

FIXED = ("admin", "admin_token_file", "decisions", "recording", "tracing", "workers")  # options that only a start reads


@dataclass(frozen=True, slots=True)
class Step:
    """One change: the configuration that shall be in force, and what else shall be done then."""

    config: Config
    version: int  # its number, if it comes into force
    from_file: bool = False
    drain: tuple[str, bool] | None = None  # a backend, and shall it drain?
    leaves: str = ""  # a backend that is taken out
    force: bool = False  # and its requests with it, as its death would


class Changes(ABC):
    """Who takes orders to change. The admin API's way in, and the signal's."""

    def __init__(self, read: Read | None, source: str | None) -> None:
        """`read` reads the configuration once more; None: it came from the command line."""
        self.read = read
        self.versions = Versions(source)
        self._turn = asyncio.Lock()

    @property
    @abstractmethod
    def config(self) -> Config:
        """The one in force."""

    @abstractmethod
    async def _apply(self, step: Step) -> int:
        """Make it the one in force; how many requests run on the backend that leaves. Refused: nothing was changed."""

    # --- what may be asked for -------------------------------------------------------------------------------

    async def reload(self) -> dict[str, Any]:
        """Read the file again and apply it. Refused."""
        try:
            async with self._turn:
                told = await self._reload()
        except Refused as refusal:
            self.versions.refused(refusal)
            log.error("reload refused, version %d stays in force: %s", self.versions.number, refusal)
            for row in refusal.problems:
                log.error("reload: %s", _line(row))
            raise
        log.info("reload: version %d is in force", self.versions.number)
        return told

    async def _reload(self) -> dict[str, Any]:
        if self.read is None:
            raise Refused(409, "there is no file to read again: the engines were given on the command line")
        config, problems = await asyncio.to_thread(self.read)  # it may be long, and lie on a network
        errors = [problem for problem in problems if problem.severity == ERROR]
        if config is None:
            count = f"{len(errors)} problem{'s' if len(errors) != 1 else ''}"
            raise Refused(400, f"the file has {count}: nothing was changed", fleet.as_rows(errors))
        old = self.config
        later = [name for name in FIXED if getattr(config, name) != getattr(old, name)]
        config = dataclasses.replace(config, **{name: getattr(old, name) for name in FIXED})
        differences = _differences(old, config)
        await self._apply(Step(config, self._next, from_file=True))
        self.versions.applied(needs_restart=later)
        for name in later:
            log.warning("reload: a new value for %s waits for a restart", name)
        return {
            "version": self.versions.number,
            **differences,
            "needs_restart": later,
            "warnings": fleet.as_rows([problem for problem in problems if problem.severity != ERROR]),
        }

    async def add(self, body: object) -> dict[str, Any]:
        """A backend joins. Refused."""
        async with self._turn:
            with _as_refused():
                config, backend = await asyncio.to_thread(fleet.added, body, self.config)
            await self._apply(Step(config, self._next))
            return self._changed(backend.name, f"backend {backend.name}: added")

    async def change(self, id: str, body: object) -> dict[str, Any]:
        """Other options for a backend. Refused."""
        async with self._turn:
            self._known(id)
            with _as_refused():
                change = await asyncio.to_thread(fleet.changed, id, body, self.config)
            drain = None if change.drain is None else (id, change.drain)
            await self._apply(Step(change.config, self._next, drain=drain))
            return self._changed(id, change.told)

    async def remove(self, id: str, *, force: bool) -> dict[str, Any]:
        """A backend leaves; `force` breaks its requests as the engine's death would. Refused."""
        async with self._turn:
            self._known(id)
            with _as_refused():
                config = await asyncio.to_thread(fleet.without, id, self.config)
            running = await self._apply(Step(config, self._next, leaves=id, force=force))
            told = self._changed(id, f"backend {id}: removed")
            return {**told, ("broken" if force else "running"): running}

    @property
    def _next(self) -> int:
        """The number of the configuration that a change leads to, as one is made at a time."""
        return self.versions.number + 1

    def _known(self, id: str) -> None:
        if not any(backend.name == id for backend in self.config.backends):
            raise Refused(404, f"no such backend: {id!r:.100}; GET /api/backends lists their ids")

    def _changed(self, id: str, change: str) -> dict[str, Any]:
        self.versions.applied(change)
        log.info("%s, by the admin API; version %d is in force until the next reload", change, self.versions.number)
        lasts = "until the next reload, which reads the file again" if self.read else "until the next start"
        return {"id": id, "version": self.versions.number, "lasts": lasts}


@contextlib.contextmanager
def _as_refused() -> Iterator[None]:
    try:
        yield
    except fleet.FleetError as problem:
        raise Refused(problem.status, str(problem), fleet.as_rows(problem.problems)) from None


def _differences(old: Config, new: Config) -> dict[str, Any]:
    """What a reload changes: names of backends and of options."""
    before, after = ({b.name: b for b in config.backends} for config in (old, new))
    same = [id for id in before if id in after and before[id].url == after[id].url]
    options = [name for name in options_of(Config) if name != "backends" and getattr(old, name) != getattr(new, name)]
    return {
        "added": [id for id in after if id not in same],
        "removed": [id for id in before if id not in same],
        "changed": [id for id in same if before[id] != after[id]],
        "options": options,
    }


def _line(row: dict[str, Any]) -> str:
    hint = f" ({row['hint']})" if row["hint"] else ""
    place = f"line {row['line']}: " if row["line"] else ""
    return f"{place}{row['path'] + ': ' if row['path'] else ''}{row['message']}{hint}"
