"""Who can take this request? And when nobody can: whose fault is it, and what should the client do?

A candidate is up, enabled, not draining, not resting after failures, serves the model and is one that the request's
route leads to. Backups are candidates only while nobody else is, as nginx has it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from fairlead.core.cluster.backend import Backend
from fairlead.core.model import Facts, Refusal

RETRY_AFTER: Final = 1  # seconds a client is asked to wait when no backend is there
NAMES_SHOWN: Final = 20  # model names in an error message

Key = str | None | tuple[str | None, frozenset[str]]
"""What decides who is a candidate: the model, and the route's backends where there are routes."""


class Candidates:
    """Keeps the answers until something changes that decides them."""

    __slots__ = ("_backends", "_usable", "_usable_until", "capped", "models")

    def __init__(self, backends: Mapping[str, Backend]) -> None:
        self._backends = backends
        self._usable: dict[Key, list[Backend]] = {}
        self._usable_until = float("inf")  # when an ejection ends by itself
        self.models: frozenset[str] = frozenset()  # every model that some backend serves, up or not
        self.capped = False  # has any backend a connection limit?

    def changed(self) -> None:
        """The fleet, or what is known of it, is no longer what it was."""
        self._usable.clear()
        self._usable_until = float("inf")
        self.models = _models(self._backends.values())
        self.capped = any(b.max_connections is not None for b in self._backends.values())

    def of(self, model: str | None, group: frozenset[str] | None, now: float) -> list[Backend]:
        """Backends that can take a request for `model` now; the list is shared and never changed."""
        if now >= self._usable_until:
            self.changed()
        key: Key = model if group is None else (model, group)
        found = self._usable.get(key)
        if found is None:
            found = self._find(model, group, now)
            if model is None or model in self.models:  # what clients make up must not fill the memory
                self._usable[key] = found
        return found

    def spares(self, facts: Facts, now: float) -> list[Backend]:
        """Backups that could take the request when no other can."""
        return [b for b in self._up(facts.model, facts.group) if b.backup and not b.passive.ejected(now)]

    def resolve(self, facts: Facts, now: float) -> Refusal | None:
        """Settle which model is meant, or say why the request cannot be placed."""
        group, models = facts.group, self.models
        backends: Iterable[Backend] = self._backends.values()
        if group is not None:
            backends = [b for b in backends if b.id in group]
            models = _models(backends)
        if facts.model is None and facts.needs_model and models:
            wildcard = any("*" in (b.models or ()) for b in backends)
            if len(models) > 1 and not wildcard:
                message = f"this fleet serves several models: set `model` to one of {_names(models)}"
                return Refusal(400, "model_required", message, param="model")
            if len(models) == 1:
                facts.model = next(iter(models))
        if self.of(facts.model, group, now):
            return None
        if any(b.models is None for b in backends) or any(b.serves(facts.model) for b in backends):
            message = "no backend that can serve this request is up at the moment: try again soon"
            unseen = sum(b.models is None for b in backends)
            if facts.model is not None and unseen and models:
                message = (
                    f"no backend that is up serves the model {facts.model!r:.100} (served are: {_names(models)}), "
                    f"but {unseen} of the backends did not answer yet: try again soon"
                )
            return Refusal(503, "no_backend", message, RETRY_AFTER)
        if not self._backends:
            return Refusal(503, "no_backend", "no backend is configured", RETRY_AFTER)
        message = f"no backend serves the model {facts.model!r:.100}; served are: {_names(models)}"
        return Refusal(404, "model_not_found", message, param="model")

    def _find(self, model: str | None, group: frozenset[str] | None, now: float) -> list[Backend]:
        up = self._up(model, group)
        fit = [b for b in up if not b.passive.ejected(now)]
        for b in up:
            if b.passive.ejected(now):
                self._usable_until = min(self._usable_until, b.passive.ejected_until)
        # When every one that answers its checks is ejected, trying one beats refusing all (nginx does the same).
        return [b for b in fit if not b.backup] or fit or up

    def _up(self, model: str | None, group: frozenset[str] | None) -> list[Backend]:
        return [
            b
            for b in self._backends.values()
            if b.up and b.enabled and not b.draining and b.serves(model) and (group is None or b.id in group)
        ]


def has_room(backend: Backend) -> bool:
    """Is it below its connection limit?"""
    return backend.max_connections is None or backend.inflight < backend.max_connections


def _models(backends: Iterable[Backend]) -> frozenset[str]:
    return frozenset(name for b in backends for name in b.models or () if name != "*")


def _names(models: Iterable[str]) -> str:
    names = sorted(models)
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return ", ".join(repr(n) for n in names[:NAMES_SHOWN]) + more
