"""Who can take this request? And when nobody can: whose fault is it, and what should the client do?

A candidate is up, enabled, not draining, not resting after failures, serves the model and is one that the request's
route leads to. Backups are candidates only while nobody else is, as nginx has it.

The floor: `max_ejected` of a model's backends may rest at one time; the least bad of those that do stay candidates.
Panic: when even so too few are left, since others are down, every one is tried that is not known to be dead; and when
nobody is left, every one whose checks answer. To try a bad one beats refusing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import ceil
from typing import Final

from fairlead.core.cluster.backend import Backend
from fairlead.core.cluster.standing import Out, who_is_out
from fairlead.core.model import Facts, Refusal

RETRY_AFTER: Final = 1  # seconds a client is asked to wait when no backend is there
NAMES_SHOWN: Final = 20  # model names in an error message

Key = str | None | tuple[str | None, frozenset[str]]
"""What decides who is a candidate: the model, and the route's backends where there are routes."""


class Candidates:
    """Keeps the answers until something changes that decides them."""

    __slots__ = (
        "_backends", "_panic", "_stale", "_usable", "_usable_until", "capped", "gated", "max_ejected", "models", "out",
    )  # fmt: skip

    def __init__(self, backends: Mapping[str, Backend], max_ejected: float = 0.5) -> None:
        self._backends = backends
        self.max_ejected = max_ejected
        self._usable: dict[Key, list[Backend]] = {}
        self._usable_until = float("inf")  # when an ejection ends by itself
        self.models: frozenset[str] = frozenset()  # every model that some backend serves, up or not
        self.capped = False  # has any backend a connection limit?
        self.gated = False  # does any backend rest, or come back from a rest?
        self._panic: set[Key] = set()  # for whom bad ones are tried
        self.out: tuple[Out, ...] = ()  # who could not be had when `of` last found out; kept with decisions
        self._stale = True  # must `of` find that out anew?

    def changed(self) -> None:
        """The fleet, or what is known of it, is no longer what it was."""
        self._usable.clear()
        self._stale = True
        self._usable_until = float("inf")
        self.models = _models(self._backends.values())
        self.capped = any(b.max_connections is not None for b in self._backends.values())
        self.gated = any(b.passive.resting or b.passive.ramping for b in self._backends.values())
        self._panic.clear()

    def of(self, model: str | None, group: frozenset[str] | None, now: float) -> list[Backend]:
        """Backends that can take a request for `model` now; the list is shared and never changed."""
        if now >= self._usable_until:
            self.changed()
        key: Key = model if group is None else (model, group)
        found = self._usable.get(key)
        if found is None:
            found = self._find(model, group, now)
            if self._stale:
                self._stale, self.out = False, who_is_out(self._backends.values(), now)
            if model is None or model in self.models:  # what clients make up must not fill the memory
                self._usable[key] = found
        return found

    def spares(self, facts: Facts, now: float) -> list[Backend]:
        """Backups that could take the request when no other can."""
        return [b for b in self._up(facts.model, facts.group) if b.backup and not b.passive.ejected(now)]

    def reserves(self, facts: Facts, now: float) -> list[Backend]:
        """Who could take a request that all candidates have failed: backups, and those that rest after errors.

        One that refused connections may be back before a probe has seen it, and costs a moment at most; one that hangs
        would cost the request its time.
        """
        up = self._up(facts.model, facts.group)
        resting = [b for b in up if b.passive.ejected(now) and not b.passive.hopeless]
        return self.spares(facts, now) + resting

    def panics(self, model: str | None, now: float) -> bool:
        """Are too few of its backends left, so that bad ones are tried?"""
        self.of(model, None, now)
        return model in self._panic

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
        for b in up:
            if b.passive.ejected(now):
                self._usable_until = min(self._usable_until, b.passive.ejected_until)
        mains = [b for b in up if not b.backup]
        sound = [b for b in mains if not b.passive.resting] or [b for b in up if not b.passive.resting]
        trials = [b for b in mains if b.passive.on_trial(now)]
        if not (sound and sound[0].backup):
            known = self._known(model, group)
            wanted = ceil((1.0 - self.max_ejected) * len(known))
            if not sound or len(sound) < wanted:
                alive = sorted((b for b in mains if b.passive.ejected(now) and not b.passive.dead), key=_badness)
                if sound:
                    sound += alive[: wanted - len(sound)]
                if not sound or len(sound) < wanted:
                    # Of those that are down some may do their work: no answer at all is given by who is busy, and a
                    # good one by who has to give another, or is held back as it went up and down.
                    sound += [b for b in alive if b not in sound]
                    sound += [b for b in known if b.probes.doubtful and not b.passive.dead]
                    self._panic.add(model if group is None else (model, group))
        chosen = {*sound, *trials}
        return [b for b in self._backends.values() if b in chosen] or up

    def _known(self, model: str | None, group: frozenset[str] | None) -> list[Backend]:
        """What the floor counts: those that should serve it, up or not; not those that nobody ever saw up."""
        return [b for b in self._serving(model, group) if b.probes.seen and not b.backup]

    def _up(self, model: str | None, group: frozenset[str] | None) -> list[Backend]:
        return [b for b in self._serving(model, group) if b.up]

    def _serving(self, model: str | None, group: frozenset[str] | None) -> list[Backend]:
        return [
            b
            for b in self._backends.values()
            if b.enabled and not b.draining and b.serves(model) and (group is None or b.id in group)
        ]


def _badness(backend: Backend) -> tuple[bool, bool, int, float]:
    return backend.passive.badness


def has_room(backend: Backend) -> bool:
    """Is it below its connection limit?"""
    if backend.max_connections is None:
        return True
    taken = backend.inflight if backend.places is None else backend.places.taken()
    return taken < backend.max_connections


def _models(backends: Iterable[Backend]) -> frozenset[str]:
    return frozenset(name for b in backends for name in b.models or () if name != "*")


def _names(models: Iterable[str]) -> str:
    names = sorted(models)
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return ", ".join(repr(n) for n in names[:NAMES_SHOWN]) + more
