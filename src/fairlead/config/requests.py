"""What becomes of a request: do routes, headers and the line in the access log fit what they speak of?

Part of `checks.py`, and works as it does on a configuration that may still have holes (None).
Rule 1: a route is judged only where all backends could be read: one that was refused may be the one it names.
Rule 2: no header's value is shown, as it may be a key.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from fairlead.config.problems import WARNING, Problems, did_you_mean, shown
from fairlead.config.schema import TEMPLATE_NAMES, AccessLog, Backend, Config, Route

_MOST_NAMES: Final = 8
_VARIABLE: Final = re.compile(r"\$([A-Za-z0-9_]*)")


def check_routes(
    routes: tuple[Route, ...], backends: tuple[Backend, ...], where: Mapping[int, str], problems: Problems
) -> None:
    """Each leads from its own path to backends that are there, and each backend is led to."""
    paths: dict[str, str] = {}
    known = {backend.name for backend in backends if backend is not None}
    is_whole = None not in backends and not any(
        problems.about(f"{where.get(id(backend))}.name") for backend in backends
    )
    for index, route in enumerate(routes):
        if route is None:  # a hole left by the walker, which the type of Config does not admit
            continue  # type: ignore[unreachable]
        place = where.get(id(route), f"routes[{index}]")
        if "?" in route.path:
            problems.add(
                f"{place}.path", "a route is found by the path alone, which ends before the ?", value=route.path,
                hint="leave everything from the ? on away",
            )  # fmt: skip
        if route.path in paths:
            problems.add(
                f"{place}.path", f"{shown(route.path)} is already the path of {paths[route.path]}", value=route.path,
                hint="name all backends in one of them",
            )  # fmt: skip
        paths.setdefault(route.path, place)
        for position, name in enumerate(route.backends):
            if is_whole and name is not None and name not in known:
                _unknown_backend(name, known, problems.item(f"{place}.backends", position), problems)
    if not routes or not is_whole or problems.about("routes"):
        return
    led_to = {name for route in routes for name in route.backends}
    for index, backend in enumerate(backends):
        if backend.name not in led_to:
            problems.add(
                where.get(id(backend), f"backends[{index}]"), f"no route leads to {shown(backend.name)}",
                value=backend.name, hint="name it in a route, or it gets no requests", severity=WARNING,
            )  # fmt: skip


def _unknown_backend(name: str, known: set[str], path: str, problems: Problems) -> None:
    names = sorted(known)
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    problems.add(
        path, f"no backend has the name {shown(name)}", value=name,
        hint=did_you_mean(name, names) or f"known here: {', '.join(names[:_MOST_NAMES])}{more}",
    )  # fmt: skip


def check_headers(config: Config, where: Mapping[int, str], problems: Problems) -> None:
    """No header is set twice, or set and taken away."""
    own = set(_names(config.headers.set, "headers.set", problems))
    for index, name in enumerate(config.headers.remove):
        if name in own:
            problems.add(
                problems.item("headers.remove", index), f"'{name}' is replaced by what headers.set says",
                value=name, hint="leave it away", severity=WARNING,
            )  # fmt: skip
    for index, backend in enumerate(config.backends):
        if backend is not None:
            _names(backend.headers, f"{where.get(id(backend), f'backends[{index}]')}.headers", problems)


def _names(headers: tuple[str, ...], path: str, problems: Problems) -> list[str]:
    names: list[str] = []
    for index, header in enumerate(headers):
        name = header.partition(":")[0] if header is not None else ""
        if name and name.lower() in names and header not in headers[:index]:  # a whole repeat has been reported
            problems.add(problems.item(path, index), f"'{name}' is set twice", value=name, hint="keep one of them")
        names.append(name.lower())
    return names


def check_template(log: AccessLog, problems: Problems) -> None:
    """The template is there when it is asked for, and speaks of things that are known."""
    if problems.about("access_log.format") or problems.about("access_log.template"):
        return
    if log.template is None:
        if log.format == "template":
            problems.add(
                "access_log.format", "'template' needs the line to write", value=log.format,
                hint="set access_log.template, such as '$remote_addr $request_path $status'",
            )  # fmt: skip
        return
    if log.format != "template":
        problems.add(
            "access_log.template", f"means nothing with format: {log.format}", value=log.template,
            hint="set format: template, or leave it away", severity=WARNING,
        )  # fmt: skip
    for name in dict.fromkeys(_VARIABLE.findall(log.template)):
        if not name:
            problems.add(
                "access_log.template", "a $ begins a name, and here none follows", value=log.template,
                hint="write a name such as $status, or leave the $ away",
            )  # fmt: skip
        elif name not in TEMPLATE_NAMES:
            best = did_you_mean(name, TEMPLATE_NAMES)
            known = ", ".join(f"${each}" for each in TEMPLATE_NAMES)
            problems.add(
                "access_log.template", f"{shown(f'${name}')} is not known", value=log.template,
                hint=best.replace("'", "'$", 1) if best else f"known here: {known}",
            )  # fmt: skip
