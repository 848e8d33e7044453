"""proxy_set_header -> headers.set, headers.remove, or why there is no need.

Rule 1: what holds only on the way to some backends is put at these backends, or left out: a key must never go to
        backends that did not get it before.
Rule 2: no note shows a header's value.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from fairlead.config.units import UnitError
from fairlead.nginx import values
from fairlead.nginx.notes import Notes
from fairlead.nginx.tree import Directive

_FORWARDED: Final = ("x-forwarded-for", "x-forwarded-proto", "x-forwarded-host")


@dataclass(slots=True)
class HeaderRules:
    """What one place does to headers."""

    set: dict[str, Directive] = field(default_factory=dict)  # "Name: value" -> where it stands
    remove: dict[str, Directive] = field(default_factory=dict)


def read_headers(lines: Iterable[Directive], notes: Notes) -> HeaderRules:
    """The proxy_set_header lines that hold in one place."""
    made = HeaderRules()
    for line in lines:
        if len(line.args) != 2:
            notes.left_out(line, "could not be read")
            continue
        name, value = line.args
        key = name.lower()
        if key == "host":
            _host(line, value, notes)
        elif key in ("connection", "upgrade"):
            if "upgrade" in value.lower():
                notes.left_out(line, "WebSockets are not passed on, and engines need none")
            else:
                notes.built_in(line, "connections to backends are kept open")
        elif key in _FORWARDED:
            if values.is_constant(value):
                notes.left_out(line, "is written by Fairlead itself; from trusted_proxies it is passed on")
            else:
                notes.built_in(line, "is written by Fairlead itself (forwarded: true)")
        elif key == "x-request-id" and not values.is_constant(value):
            notes.built_in(line, "each request gets an x-request-id")
        elif value == f"$http_{key.replace('-', '_')}":
            notes.built_in(line, "is passed on as it is")
        elif not values.is_constant(value):
            notes.left_out(line, "has a variable in it; the client stands in X-Forwarded-For, -Proto and -Host")
        else:
            _constant(line, name, value, made, notes)
    return made


def _host(line: Directive, value: str, notes: Notes) -> None:
    if value == "$proxy_host":
        notes.built_in(line, "backends get their own host")
    else:
        notes.changed(line, "backends get their own host; the client's stands in X-Forwarded-Host")


def _constant(line: Directive, name: str, value: str, made: HeaderRules, notes: Notes) -> None:
    try:
        if value == "":
            made.remove[values.fitting("headers.remove", name)] = line
        else:
            made.set[values.fitting("headers.set", f"{name}: {value}")] = line
    except UnitError as error:
        notes.left_out(line, f"expected {error}")


@dataclass(slots=True)
class SettledHeaders:
    """For all backends, and for single ones by their URL."""

    set: list[str] = field(default_factory=list)
    remove: list[str] = field(default_factory=list)
    of: dict[str, list[str]] = field(default_factory=dict)


def settle(found: list[tuple[HeaderRules, frozenset[str]]], notes: Notes) -> SettledHeaders:
    """`found`: what each place does, and the URLs of the backends that it leads to."""
    made = SettledHeaders()
    for header, line in {header: line for rules, _ in found for header, line in rules.set.items()}.items():
        having = [urls for rules, urls in found if header in rules.set]
        others = [urls for rules, urls in found if header not in rules.set]
        mine = frozenset().union(*having)
        if not others:
            made.set.append(header)
        elif mine.isdisjoint(frozenset().union(*others)):
            for url in sorted(mine):
                made.of.setdefault(url, []).append(header)
        else:
            notes.left_out(line, "holds for some locations to the same backends; headers hold for all requests")
    _once(made, {header: line for rules, _ in found for header, line in rules.set.items()}, notes)
    for name, line in {name: line for rules, _ in found for name, line in rules.remove.items()}.items():
        if all(name in rules.remove for rules, _ in found):
            made.remove.append(name)
        else:
            made.remove.append(name)
            notes.changed(line, "is taken away for all locations here")
    return made


def _once(made: SettledHeaders, lines: dict[str, Directive], notes: Notes) -> None:
    """nginx sends a name twice when it is set twice; here each name has one value."""
    for headers in (made.set, *made.of.values()):
        names: set[str] = set()
        for header in tuple(headers):
            name = header.partition(":")[0].lower()
            if name in names:
                headers.remove(header)
                notes.left_out(lines[header], "sets a header a second time; the first value is sent")
            names.add(name)
