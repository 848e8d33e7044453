"""What do `POST /api/backends`, `PATCH` and `DELETE /api/backends/{id}` ask for? A body -> the configuration to apply.

    {"url": "http://10.0.1.12:8000", "weight": 2}        a backend as in the file; a bare URL will do
    {"weight": 2}    {"drain": true}    {"enable": false, "max_connections": null}

Rule 1: names, units and messages are those of the configuration file, and so are the checks of the whole.
Rule 2: what the body does not name stays as it is; when anything is wrong, nothing is changed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from fairlead.config.checks import check_backends, check_config
from fairlead.config.load import check_files, parse_table
from fairlead.config.problems import ERROR, Problem, Problems, nearest, shown
from fairlead.config.schema import Backend, Config, Option
from fairlead.config.walk import BAD, Walker, to_plain

KEYS: Final = ("weight", "drain", "enable", "max_connections", "backup")
_FLAG: Final = Option(kind="bool", help="yes or no")


class FleetError(ValueError):
    """It cannot be done; `status` is what HTTP calls it."""

    def __init__(self, status: int, problems: list[Problem]) -> None:
        super().__init__("; ".join(map(str, problems)))
        self.status, self.problems = status, problems


@dataclass(frozen=True, slots=True)
class Change:
    """A backend's new options. `drain` None: as it was."""

    config: Config
    drain: bool | None
    told: str  # the change in words


def added(body: object, config: Config) -> tuple[Config, Backend]:
    """The configuration with one more backend. FleetError."""
    made, found = parse_table(Backend, body, "", "")
    errors = [problem for problem in found if problem.severity == ERROR]
    if errors or not isinstance(made, Backend):
        raise FleetError(400, errors)
    more = dataclasses.replace(config, backends=(*config.backends, made))
    where = {id(backend): f"backend {backend.name}" for backend in config.backends}
    problems = Problems("")
    check_backends(more.backends, {**where, id(made): "backend"}, problems)
    if any(problem.path in ("backend.url", "backend.name") and problem.severity == ERROR for problem in problems.found):
        raise FleetError(409, [problem for problem in problems.found if problem.severity == ERROR])
    _check(more)
    return more, made


def changed(id: str, body: object, config: Config) -> Change:
    """The configuration with other options for a backend that is in it. FleetError."""
    if not isinstance(body, Mapping):
        raise _bad("", f"expected an object with some of {', '.join(KEYS)}, got {shown(body)}")
    if not body:
        raise _bad("", f"nothing to change: name some of {', '.join(KEYS)}")
    for key in body:
        if key not in KEYS:
            best = nearest(str(key), KEYS)
            hint = f"did you mean '{best}'?" if best else f"may be changed here: {', '.join(KEYS)}"
            raise _bad(str(key)[:80], f"unknown key {shown(key)}", hint)
    problems = Problems("")
    flags = {name: Walker(problems).value(_FLAG, body[name], name) for name in ("drain", "enable") if name in body}
    before = next(backend for backend in config.backends if backend.name == id)
    options = {name: value for name, value in body.items() if name not in flags}
    after, found = parse_table(Backend, {**to_plain(before), **options}, "", "")
    errors = [problem for problem in (*problems.found, *found) if problem.severity == ERROR]
    if errors or not isinstance(after, Backend) or BAD in flags.values():
        raise FleetError(400, errors)
    if "enable" in flags:
        after = dataclasses.replace(after, down=not flags["enable"])
    backends = tuple(after if backend is before else backend for backend in config.backends)
    told = ", ".join(f"{name} {shown(value)}" for name, value in body.items())
    config = dataclasses.replace(config, backends=backends)
    _check(config)
    return Change(config, flags.get("drain"), f"backend {id}: {told}")


def without(id: str, config: Config) -> Config:
    """The configuration without a backend that is in it. FleetError."""
    backends = tuple(backend for backend in config.backends if backend.name != id)
    if not backends:
        raise _bad("", f"backend {id} is the last one, and a fleet needs one", "add another first")
    config = dataclasses.replace(config, backends=backends)
    _check(config)
    return config


def _check(config: Config) -> None:
    problems = Problems("")
    where: dict[int, str] = {id(backend): f"backend {backend.name}" for backend in config.backends}
    check_config(config, where, problems)
    check_files(config, problems)
    errors = [problem for problem in problems.found if problem.severity == ERROR]
    if errors:
        raise FleetError(400, errors)


def _bad(path: str, message: str, hint: str | None = None) -> FleetError:
    return FleetError(400, [Problem(source="", path=path, message=message, hint=hint)])


def as_rows(problems: list[Problem]) -> list[dict[str, Any]]:
    """Problems as the API tells them."""
    return [
        {"path": problem.path, "line": problem.line, "message": problem.message, "hint": problem.hint}
        for problem in problems
    ]
