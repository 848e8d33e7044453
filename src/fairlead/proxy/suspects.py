"""Which requests are better not sent again: those under which one backend after the other broke?

A request that crashes the engine that works on it would be moved to the next one, and take the whole fleet down in
turn. So a request whose connections broke `limit` times before an answer began is refused, and for a while every
request with the same body is.
Rule 1: only breaks count where the backend had the request; a refused connection, a timeout or a 503 harms no engine.
Rule 2: the request alone is judged: others that stood beside it on a dying engine have one break, and go on.
Rule 3: bounded; no body is kept, only a digest, and no digest is made while there is no suspect.
"""

from __future__ import annotations

from collections import OrderedDict

from xxhash import xxh3_128_digest

SECONDS = 60.0  # for so long the same body is refused
MAX_SUSPECTS = 1_024


class Suspects:
    """Digests of bodies that seem to break engines, and until when they are refused."""

    __slots__ = ("_until",)

    def __init__(self) -> None:
        self._until: OrderedDict[bytes, float] = OrderedDict()  # the first to be forgotten comes first

    def __len__(self) -> int:
        return len(self._until)

    def add(self, body: bytes, now: float) -> None:
        """Refuse this body from now on."""
        if not body:  # nothing that tells it from others
            return
        digest = xxh3_128_digest(body)
        self._until[digest] = now + SECONDS
        self._until.move_to_end(digest)
        while len(self._until) > MAX_SUSPECTS:
            self._until.popitem(last=False)

    def __contains__(self, body: bytes) -> bool:
        return bool(self._until) and xxh3_128_digest(body) in self._until

    def forget(self, now: float) -> None:
        """Let go of those whose time is over; called now and then."""
        while self._until and next(iter(self._until.values())) <= now:
            self._until.popitem(last=False)
