"""What do the places of nginx.conf say about one option that Fairlead has only once?

nginx sets timeouts and the like for each location; here they hold for all. Every place makes a claim, and the claims
are settled: where they differ, the largest counts (a limit that is too wide breaks nobody), and each other place gets
a note.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from fairlead.config.units import UnitError
from fairlead.nginx import values
from fairlead.nginx.notes import Notes
from fairlead.nginx.tree import Directive

_TIMES: Final = (
    ("proxy_connect_timeout", ("timeouts.connect",)),
    ("proxy_read_timeout", ("timeouts.first_byte", "timeouts.idle")),
    ("proxy_send_timeout", ("timeouts.send",)),
    ("client_header_timeout", ("timeouts.client_header",)),
    ("client_body_timeout", ("timeouts.client_body",)),
    ("send_timeout", ("timeouts.client_write",)),
    ("keepalive_timeout", ("timeouts.client_idle",)),
    ("worker_shutdown_timeout", ("drain",)),
)
PLAIN: Final = {name: (paths, values.seconds) for name, paths in _TIMES} | {
    "client_max_body_size": (("limits.body",), values.size),
    "http2_max_concurrent_streams": (("limits.streams",), values.whole),
}
"""Directives with one value that is one option, or several."""
_ZERO: Final = {
    "client_max_body_size": "0 lifts the limit in nginx, and here there always is one",
    "keepalive_timeout": "0 closes each client connection after its answer, and here they are kept open",
}
_UPSTREAM: Final = {
    "keepalive": ("keepalive.connections", values.whole),
    "keepalive_requests": ("keepalive.requests", values.whole),
    "keepalive_timeout": ("keepalive.timeout", values.seconds),
}


@dataclass(slots=True)
class Claims:
    """Values in base units, by the path of their option."""

    notes: Notes
    _made: dict[str, list[tuple[float, Directive]]] = field(default_factory=dict)

    def say(self, path: str, value: float, directive: Directive) -> None:
        claims = self._made.setdefault(path, [])
        if (value, directive) not in claims:
            claims.append((value, directive))

    def plain(self, directive: Directive) -> None:
        """A directive of `PLAIN`."""
        paths, read = PLAIN[directive.name]
        value = self._read(directive, read)
        if value is None:
            return
        if value == 0 and directive.name in _ZERO:
            self.notes.left_out(directive, _ZERO[directive.name])
            return
        if len(directive.args) > 1:
            self.notes.changed(directive, "its second value, a header for clients, is left out")
        for path in paths:
            self.say(path, value, directive)

    def upstream(self, directive: Directive) -> None:
        """One of keepalive, keepalive_requests and keepalive_timeout of an upstream block."""
        path, read = _UPSTREAM[directive.name]
        value = self._read(directive, read)
        if value is not None:
            self.say(path, value, directive)

    def head(self, directive: Directive) -> None:
        """large_client_header_buffers NUMBER SIZE: their sum is what a head may have."""
        try:
            number, size = directive.args
            self.say("limits.head", values.whole(number) * values.size(size), directive)
        except (UnitError, ValueError):
            self.notes.left_out(directive, "could not be read")

    def _read(self, directive: Directive, read: Any) -> float | None:
        try:
            return float(read(directive.args[0]))
        except (UnitError, IndexError) as error:
            self.notes.left_out(directive, f"could not be read: expected {error}")
            return None

    def settled(self) -> dict[str, Any]:
        """Path of each option -> its value as the file writes it."""
        made: dict[str, Any] = {}
        for path, claims in self._made.items():
            best = max(value for value, _ in claims)
            kept, is_same = values.limited(path, best)
            made[path] = values.plain(path, kept)
            for value, directive in claims:
                if value != best:
                    self.notes.changed(directive, f"is {made[path]} here ({path}): one value holds for all")
                elif not is_same:
                    self.notes.changed(directive, f"is {made[path]} here, the nearest that {path} may be")
        return made
