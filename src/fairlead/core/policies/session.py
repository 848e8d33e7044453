"""`session`: requests of one session stay on one backend, as long as it is healthy and not overloaded.

The session's name comes with the request (header, cookie or body field: the host reads it); requests without
one go to the backend with the fewest pending tokens. A session is forgotten `ttl` seconds after its
last request. A home that is away or over twice its fair share loses the session to the least loaded one.
"""

from __future__ import annotations

from collections import OrderedDict

from fairlead.core.model import Facts
from fairlead.core.policies.bounded import room
from fairlead.core.policies.least_pending_tokens import LeastPendingTokens
from fairlead.core.view import Choice, View

MAX_SESSIONS = 100_000
OVERLOAD = 2.0  # times the fair share of requests in flight
SLACK = 2  # requests that a home may always hold, however idle the fleet is


class Session:
    name = "session"
    term_names = LeastPendingTokens.term_names
    needs_prefixes = False

    def __init__(self, ttl: float = 1800.0) -> None:
        self._ttl = ttl
        self._homes: OrderedDict[str, tuple[str, float]] = OrderedDict()  # oldest use first
        self._fallback = LeastPendingTokens()

    def choose(self, facts: Facts, view: View) -> Choice:
        choice = self._fallback.choose(facts, view)
        session = facts.session
        if session is None:
            choice.reason = "no session: " + choice.reason
            return choice
        homes, now = self._homes, view.now
        while homes and next(iter(homes.values()))[1] <= now:
            homes.popitem(last=False)
        known = homes.pop(session, None)
        if known is None:
            choice.reason = "a new session: " + choice.reason
        else:
            choice.reason = self._stay(known[0], view, choice)
        homes[session] = (view.backends[choice.index].id, now + self._ttl)
        if len(homes) > MAX_SESSIONS:
            homes.popitem(last=False)
        return choice

    @staticmethod
    def _stay(home: str, view: View, choice: Choice) -> str:
        """Point the choice at the session's home if that may take it; the reason either way."""
        for i, backend in enumerate(view.backends):
            if backend.id == home:
                if backend.inflight < SLACK or room(view.backends, OVERLOAD)[i]:
                    choice.index = i
                    return "the session's backend"
                return "the session's backend is overloaded: " + choice.reason
        return "the session's backend is away: " + choice.reason
