"""An `upstream` block: which servers, how are they chosen among, what else does it say?

Reads the block alone; what its servers become depends on the proxy_pass that leads there (scheme and base path).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

from fairlead.config.units import UnitError
from fairlead.nginx import values
from fairlead.nginx.claims import Claims
from fairlead.nginx.notes import Notes
from fairlead.nginx.reasons import remark
from fairlead.nginx.tree import Directive

BALANCERS: Final = ("least_conn", "ip_hash", "hash", "random", "least_time", "sticky")
_PORTLESS: Final = re.compile(r"\[[^\]]*\]|[^:\[\]]+")


@dataclass(slots=True)
class Server:
    """One `server` line of an upstream; `place` is HOST:PORT or unix:/PATH."""

    place: str
    directive: Directive
    weight: int | None = None
    max_connections: int | None = None
    backup: bool = False
    down: bool = False


@dataclass(slots=True)
class Upstream:
    """One upstream block, or the single host that a proxy_pass names."""

    name: str
    directive: Directive
    servers: list[Server] = field(default_factory=list)
    balancer: Directive | None = None  # None: round robin


def read_upstream(block: Directive, claims: Claims, notes: Notes) -> Upstream:
    """The block; its claims are made only when `claims` is that of a used upstream."""
    made = Upstream(block.args[0] if block.args else "", block)
    for directive in block.block or ():
        if directive.name == "server" and directive.args:
            server = _read_server(directive, claims, notes)
            if server is not None:
                made.servers.append(server)
        elif directive.name in BALANCERS:
            made.balancer = directive
        elif directive.name in ("keepalive", "keepalive_requests", "keepalive_timeout"):
            claims.upstream(directive)
        else:
            remark(directive, notes)
    return made


def single(host: str, directive: Directive, scheme: str) -> Upstream:
    """What a proxy_pass straight to a host stands for."""
    place = host if host.startswith("unix:") else _with_port(host, 443 if scheme == "https" else 80)
    return Upstream(host, directive, [Server(place, directive)])


def _read_server(directive: Directive, claims: Claims, notes: Notes) -> Server | None:
    address, *parameters = directive.args
    if not values.is_constant(address):
        notes.left_out(directive, "has a variable for its address")
        return None
    server = Server(address if address.startswith("unix:") else _with_port(address, 80), directive)
    for parameter in parameters:
        name, _, text = parameter.partition("=")
        try:
            if name == "weight":
                server.weight = _limited("backends.weight", values.whole(text), directive, notes)
            elif name == "max_conns" and values.whole(text):  # 0: no limit
                server.max_connections = _limited("backends.max_connections", values.whole(text), directive, notes)
            elif name == "max_conns":
                continue
            elif name == "max_fails":
                claims.say("health.max_fails", values.whole(text), directive)
            elif name == "fail_timeout":
                claims.say("health.fail_timeout", values.seconds(text), directive)
            elif parameter == "backup":
                server.backup = True
            elif parameter == "down":
                server.down = True
            elif name == "resolve":
                notes.built_in(directive, "(resolve): names are looked up whenever a connection is made")
            elif name == "slow_start":
                notes.left_out(directive, "(slow_start): a backend's speed is learned, and it gets work by that")
            else:
                notes.left_out(directive, f"({name}): Fairlead has nothing like it")
        except UnitError as error:
            notes.left_out(directive, f"({parameter}): expected {error}")
    return server


def _limited(path: str, value: int, directive: Directive, notes: Notes) -> int:
    kept, is_same = values.limited(path, value)
    if not is_same:
        notes.changed(directive, f"has {path.partition('.')[2]} {kept:g} here, the nearest that it may be")
    return int(kept) or 1


def _with_port(host: str, port: int) -> str:
    """nginx takes port 80 for a server that names none, whatever the scheme."""
    if host.count(":") > 1 and not host.startswith("["):
        return host  # not an address of nginx; the parser of URLs says so
    return f"{host}:{port}" if _PORTLESS.fullmatch(host) else host
