"""How much work of other balancers is on this engine? What it reports beyond what we sent there.

An engine's counts are compared with our own at the moment of the reading. Requests that came or went while it was
being read must not look like somebody else's, so the most that can have been there at any moment of it is taken away:
what was there when it began, and all that came since.
"""

from __future__ import annotations

from fairlead.core.cluster.backend import Backend

FRESH_SECONDS = 5.0  # a reading counts less the older it is, and nothing at this age


def begin(backend: Backend) -> None:
    """A reading of the engine's counts begins."""
    backend.poll_inflight = backend.inflight - backend.placed - backend.mirrored
    backend.poll_decoding = backend.decoding


def take(backend: Backend) -> None:
    """The reading is there, in `backend.stats`."""
    backend.price = None
    stats = backend.stats
    if stats.waiting is None and stats.running is None:
        backend.foreign_waiting = backend.foreign_running = 0.0
        return
    waiting, running = stats.waiting or 0.0, stats.running or 0.0
    own = backend.poll_inflight + backend.placed + backend.mirrored
    own_decoding = min(backend.decoding, backend.poll_decoding)
    total = max(waiting + running - own, 0.0)
    backend.foreign_waiting = min(max(waiting - (own - own_decoding), 0.0), total)
    backend.foreign_running = total - backend.foreign_waiting


def freshness(backend: Backend, now: float) -> float:
    """What the last reading is still worth, 0..1."""
    return max(1.0 - (now - backend.polled_at) / FRESH_SECONDS, 0.0)
