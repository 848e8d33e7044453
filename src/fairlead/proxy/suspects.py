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


class Suspects(OrderedDict[bytes, float]):
    """Digests of bodies that seem to break engines, and until when they are refused; the first to go comes first.

    A dict, so that to ask each request whether there are any costs no call.
    """

    def add(self, body: bytes, now: float) -> None:
        """Refuse this body from now on."""
        if not body:  # nothing that tells it from others
            return
        digest = xxh3_128_digest(body)
        self[digest] = now + SECONDS
        self.move_to_end(digest)
        while len(self) > MAX_SUSPECTS:
            self.popitem(last=False)

    def are_with(self, body: bytes) -> bool:
        """Is this body one of them?"""
        return xxh3_128_digest(body) in self

    def forget(self, now: float) -> None:
        """Let go of those whose time is over; called now and then."""
        while self and next(iter(self.values())) <= now:
            self.popitem(last=False)
