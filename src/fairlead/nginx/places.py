"""A location that proxies: which paths, to whom, and which directives hold there?

Rule 1: nginx's inheritance. A directive holds in a location when it stands there, else when it stands around it; and
        of those that make a list (proxy_set_header, access_log) the innermost place that has any counts alone.
Rule 2: routes of Fairlead are beginnings of paths. A location that is one becomes a route; an exact one becomes a
        beginning; of regular expressions only those that say nothing more than a beginning are taken.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from fairlead.config.units import UnitError
from fairlead.nginx import values
from fairlead.nginx.notes import Notes
from fairlead.nginx.reasons import remark
from fairlead.nginx.tree import Directive

_SIMPLE_REGEX: Final = re.compile(r"\^(/[A-Za-z0-9/_-]*)(?:\.\*\$?|\(\.\*\)\$?)?")
_PASS: Final = re.compile(r"(https?)://([^/]+)(/.*)?", re.IGNORECASE | re.DOTALL)
_PASS_UNIX: Final = re.compile(r"(https?)://(unix:[^:]+)(?::(/.*)?)?", re.IGNORECASE | re.DOTALL)
_WHOLE_URI: Final = re.compile(r"(?:\$request_uri|\$uri\$is_args\$args|\$uri)$")
_VARIABLE: Final = re.compile(r"\$(?:([A-Za-z_]\w*)|\{([A-Za-z_]\w*)\})")


@dataclass(frozen=True, slots=True)
class Scope:
    """The blocks around a place, the outermost first."""

    blocks: tuple[tuple[Directive, ...], ...]

    def within(self, block: tuple[Directive, ...]) -> Scope:
        return Scope((*self.blocks, block))

    def all(self, name: str) -> list[Directive]:
        """Those of the innermost block that has any."""
        for block in reversed(self.blocks):
            found = [directive for directive in block if directive.name == name]
            if found:
                return found
        return []

    def one(self, name: str) -> Directive | None:
        found = self.all(name)
        return found[-1] if found else None

    def word(self, name: str) -> str:
        """Its first argument, '' when it is not there."""
        found = self.one(name)
        return found.args[0] if found is not None and found.args else ""

    def constants(self) -> dict[str, str]:
        """Variables that `set` gives a constant."""
        return {
            each.args[0].removeprefix("$"): each.args[1]
            for block in self.blocks
            for each in block
            if each.name == "set" and len(each.args) == 2 and values.is_constant(each.args[1])
        }


@dataclass(frozen=True, slots=True)
class Place:
    """A location with its proxy_pass."""

    path: str
    strip: bool
    scheme: str
    host: str  # of the proxy_pass: an upstream's name, HOST[:PORT] or unix:/PATH
    base: str  # path that backends' URLs get
    location: Directive
    proxy_pass: Directive
    scope: Scope


def places(block: tuple[Directive, ...], scope: Scope, notes: Notes) -> Iterator[Place]:
    """All that proxy in the locations of a server, those in other locations included."""
    for location in block:
        if location.name != "location" or location.block is None:
            continue
        inner = scope.within(location.block)
        passes = list(location.inside("proxy_pass"))
        nested = any(each.name == "location" for each in location.block)
        if not passes and not nested:
            _not_proxying(location, notes)
            continue
        if passes:
            place = _place(location, passes[-1], inner, notes)
            if place is not None:
                yield place
        yield from places(location.block, inner, notes)


def _not_proxying(location: Directive, notes: Notes) -> None:
    names = [each.name for each in location.block or ()]
    for name in names:
        if name.endswith("_pass") or "_by_lua" in name:
            for each in location.inside(name):
                remark(each, notes)
            return
    if location.args[-1:] == ("/health",):
        notes.built_in(location, "Fairlead answers /health itself")
    elif location.args == ("/",) and any(each.args == ("404",) for each in location.inside("return")):
        notes.built_in(location, "paths that no route covers get 404")
    elif "stub_status" in names:
        notes.built_in(location, "metrics are on the admin address, at /metrics")
    elif any(_refuses(each) for each in location.block or ()):
        notes.left_out(
            location, "keeps clients away, and here a route whose path covers it lets them through", important=True
        )
    else:
        notes.left_out(location, "leads to no backend, and Fairlead gives no answers of its own")


def _refuses(directive: Directive) -> bool:
    if directive.name == "return":
        return directive.args[:1] < ("5",) and directive.args[:1] >= ("4",)
    return directive.name in ("deny", "internal")


def _place(location: Directive, proxy_pass: Directive, scope: Scope, notes: Notes) -> Place | None:
    path = _path(location, notes)
    if path is None:
        return None
    found = _pass(proxy_pass, scope, notes)
    if found is None:
        return None
    scheme, host, uri = found
    path, strip, base = _mapped(path, uri, proxy_pass, notes)
    return Place(path, strip, scheme, host, base, location, proxy_pass, scope)


def _path(location: Directive, notes: Notes) -> str | None:
    *modifier, path = location.args or ("",)
    kind = modifier[0] if modifier else ""
    if not modifier and path[:1] in "=~" and len(path) > 1:  # `location =/x` may be written without a blank
        kind, path = (path[0], path[1:])
    if kind in ("~", "~*"):
        simple = _SIMPLE_REGEX.fullmatch(path)
        if simple is None:
            notes.left_out(
                location, "is a regular expression, and routes are beginnings of paths: write routes by hand"
            )
            return None
        notes.changed(location, f"is the route {simple[1]} here: the same beginning, letter case counts")
        path = simple[1]
    elif kind == "=":
        notes.changed(location, "is a beginning here: paths that go on after it are passed on too")
    elif path.startswith("@"):
        notes.left_out(location, "has a name, and only error pages and the like lead there")
        return None
    try:
        if "?" in path:
            raise UnitError("a path that ends before the ?")
        return str(values.fitting("routes.path", path))
    except UnitError as error:
        notes.left_out(location, f"has no path that a route may have: expected {error}")
        return None


def _pass(proxy_pass: Directive, scope: Scope, notes: Notes) -> tuple[str, str, str | None] | None:
    """(scheme, host, the URI part or None)"""
    constants: Mapping[str, str] = scope.constants()
    target = proxy_pass.args[0] if proxy_pass.args else ""
    target = _VARIABLE.sub(lambda match: constants.get(match[1] or match[2], match[0]), target)
    target = _WHOLE_URI.sub("", target)
    if not values.is_constant(target):
        notes.left_out(proxy_pass, "chooses its target by a variable: name the backends, and let routes choose")
        return None
    match = _PASS_UNIX.fullmatch(target) or _PASS.fullmatch(target)
    if match is None:
        notes.left_out(proxy_pass, "leads to no http:// or https:// address")
        return None
    return match[1].lower(), match[2], match[3]


def _mapped(path: str, uri: str | None, proxy_pass: Directive, notes: Notes) -> tuple[str, bool, str]:
    """nginx puts the URI of a proxy_pass in place of the location's path: (route, is it taken away, base path)."""
    if uri is None or uri == path:
        return path, False, ""
    base = uri.rstrip("/")
    if path.endswith("/") != uri.endswith("/"):
        notes.changed(
            proxy_pass, f"joins {uri} to what follows {path} as it is; here a / stands between them, and never two"
        )
    if path == "/":
        return path, False, base
    if base and path.endswith(uri) and uri.startswith("/"):
        shorter = path[: -len(uri)] + "/"
        notes.changed(
            proxy_pass, f"passes {path} on as {uri}; here the route is {shorter}, which lets more paths through",
            important=True,
        )  # fmt: skip
        return shorter, True, ""
    return path, True, base
