"""What the brain noticed, told in the log: it never logs itself, so somebody has to look at it once in a while.

Backends that rest and come back, views of prefix caches that turned out to be wrong, a shadow that failed.
Rule: one line per change, none per request.
"""

from __future__ import annotations

import logging

from fairlead.core.balancer import Balancer
from fairlead.core.cluster.standing import why_rested
from fairlead.core.shadow import Shadow

log = logging.getLogger("fairlead")


class Notices:
    """Looks at the balancer and logs what has changed since the last look."""

    def __init__(self, balancer: Balancer) -> None:
        self._balancer = balancer
        self._resting: set[str] = set()  # backends that were ejected
        self._panics: set[str] = set()  # models that had too few usable backends
        self._views: dict[str, tuple[bool, int]] = {}  # by backend: was its view distrusted, how often was it emptied
        self._gone: Shadow | None = None  # the shadow whose end was told

    def look(self, now: float) -> None:
        """Call it about once a second."""
        self._ejections(now)
        if self._balancer.uses_prefixes:
            self._prefix_views()
        self._shadow()

    def _ejections(self, now: float) -> None:
        resting = {b.id: b for b in self._balancer.backends.values() if b.passive.ejected(now)}
        for id in resting.keys() - self._resting:
            log.warning("backend %s rests for %.0f s %s", id, resting[id].passive.rest_seconds, why_rested(resting[id]))
        for id in self._resting - resting.keys():
            log.info("backend %s gets requests again", id)
        self._resting = set(resting)
        for model, panics in self._balancer.panics(now).items():
            if panics and model not in self._panics:
                log.warning("too few backends of the model %s are usable: all that may be alive are tried", model)
            elif not panics and model in self._panics:
                log.info("enough backends of the model %s are usable again", model)
        self._panics = {model for model, panics in self._balancer.panics(now).items() if panics}

    def _prefix_views(self) -> None:
        views: dict[str, tuple[bool, int]] = {}
        for b in self._balancer.backends.values():
            trust = b.trust
            distrusted, drops = views[b.id] = trust.distrusted, trust.drops
            was_distrusted, before = self._views.get(b.id, (False, 0))
            if drops > before and distrusted:
                log.warning(
                    "backend %s did not have cached what it should have: its prefix view is emptied and distrusted; "
                    "its cache was reset, or it is smaller than its metrics say",
                    b.id,
                )
            elif drops > before:
                log.warning("backend %s was restarted or went down: its prefix view is emptied", b.id)
            elif was_distrusted and not distrusted:
                log.info("the prefix view of backend %s is trusted again", b.id)
        self._views = views

    def _shadow(self) -> None:
        shadow = self._balancer.shadow
        if shadow is None or shadow.active:
            self._gone = None
        elif shadow is not self._gone:
            self._gone = shadow
            log.warning(
                "the shadow %s is not asked any more after %d errors, the last: %s",
                shadow.policy.name, shadow.errors, shadow.problem,
            )  # fmt: skip
