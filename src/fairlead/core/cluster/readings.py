"""What does an engine's own word count for? A reading of its metrics, taken over or left out.

A page may go on to answer while what it says stands still: a broken exporter, a cache in between, a metrics thread that
died. Such a reading is left out as one that failed would be. Its age grows, and all who use readings fall back to
what we know ourselves (our own requests in flight, measured latency), as they do for engines that say nothing: an
engine of which nothing is known looks neither idle nor full.

Frozen: for FROZEN_SECONDS every number was the same, while so many of our requests came and went there that one would
have changed, and while the counts were several times not what we had there. A reading with any
other number is taken, and so is one of an engine that tells only one of the two counts.
"""

from __future__ import annotations

from typing import Final

from fairlead.core.cluster import foreign
from fairlead.core.cluster.backend import Backend
from fairlead.core.cluster.cache import CacheView
from fairlead.core.model import EngineStats

FROZEN_SECONDS: Final = 10.0
TURNOVER: Final = 10  # of our requests came or went since the numbers changed
CONTRADICTIONS: Final = 5  # readings that said something else than what we had there


def begin(backend: Backend) -> int:
    """A reading begins; its mark."""
    backend.epoch += 1
    backend.unseen_old += backend.unseen_new
    backend.unseen_new = 0
    foreign.begin(backend)
    return backend.epoch


def take(backend: Backend, mark: int, stats: EngineStats, cache: CacheView, now: float) -> None:
    """The reading begun with `mark` is there. One that a later reading has overtaken says nothing of our requests."""
    if mark != backend.epoch or _frozen(backend, stats, now):
        return
    cache.counters(backend, stats)
    backend.stats = stats
    backend.polled_at = now
    backend.heard()
    foreign.take(backend)
    backend.seen_epoch = mark
    backend.unseen_old = 0


def _frozen(backend: Backend, stats: EngineStats, now: float) -> bool:
    work = backend.placed + backend.answered + backend.errors
    waiting, running = stats.waiting, stats.running
    if stats != backend.stats or waiting is None or running is None:
        backend.news_at, backend.news_work, backend.contradictions = now, work, 0
        return False
    most = backend.poll_inflight + backend.placed + backend.mirrored  # see foreign.py
    backend.contradictions += not backend.inflight <= waiting + running <= most
    frozen = (
        now - backend.news_at >= FROZEN_SECONDS
        and work - backend.news_work >= TURNOVER
        and backend.contradictions >= CONTRADICTIONS
    )
    if frozen:
        backend.price = None
        backend.foreign_waiting = backend.foreign_running = 0.0
    return frozen
