"""What does a new worker have to know of the backends, so that it need not wait for its first probes?

A worker that takes the place of a dead one is told by a sibling what probes have found and what was learned of speeds,
in plain numbers and words.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fairlead.engines.registry import DIALECTS

if TYPE_CHECKING:
    from fairlead.config.build import App


@dataclass(frozen=True, slots=True)
class Known:
    """Of one backend."""

    url: str
    models: frozenset[str]
    dialect: str
    version: str
    metrics_url: str
    entries: tuple[dict[str, Any], ...]  # its part of /v1/models
    prefill: tuple[float, float]  # seconds observed and predicted
    decode: tuple[float, float]
    slowdowns: tuple[float, float, float]  # prefill, decode, of an average request


def known(app: App) -> dict[str, Known]:
    """Of those that are up; any other is found out anew."""
    found: dict[str, Known] = {}
    for id, watch in app.watches.items():
        b, about = app.balancer.backends[id], watch.about
        if b.up and b.models is not None and watch.dialect is not None:
            found[id] = Known(
                url=watch.url,
                models=b.models,
                dialect=watch.dialect.name,
                version=about.version,
                metrics_url=about.metrics_url,
                entries=about.entries,
                prefill=(b.prefill.observed, b.prefill.predicted),
                decode=(b.decode.observed, b.decode.predicted),
                slowdowns=(b.prefill_slowdown, b.decode_slowdown, b.slowdown),
            )
    return found


def recall(app: App, told: Mapping[str, Known]) -> Collection[str]:
    """Take it over; the backends of which something is known."""
    taken = []
    for id, what in told.items():
        watch = app.watches.get(id)
        if watch is None or watch.url != what.url:
            continue
        b = app.balancer.backends[id]
        about = watch.about
        about.engine, about.version, about.metrics_url = what.dialect, what.version, what.metrics_url
        about.entries, about.problem = what.entries, ""
        watch.dialect = watch.dialect or DIALECTS.get(what.dialect)
        app.balancer.set_models(id, what.models)
        app.balancer.probe(id, True)
        b.prefill.observed, b.prefill.predicted = what.prefill
        b.decode.observed, b.decode.predicted = what.decode
        b.prefill_slowdown, b.decode_slowdown, b.slowdown = what.slowdowns
        taken.append(id)
    return taken
