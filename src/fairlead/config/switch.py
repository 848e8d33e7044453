"""What does the body of `POST /api/policy` ask for? Plain data -> the policies that shall be in force.

    {"policy": "expected_completion", "options": {"throughput": 0.2}}     another policy
    {"shadow": "round_robin"}    {"shadow": null}                         another shadow, or none
    {"policy": {"name": "session", "ttl": "1h"}, "shadow": "latency"}     as in the file; both in one go

Rule 1: names, options, units and messages are those of the configuration file.
Rule 2: a policy that the file names keeps the file's options where the body gives none.
Rule 3: what the body does not name stays as it is; when anything is wrong, nothing is changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, TypeVar

from fairlead.config.checks import check_policies
from fairlead.config.load import parse_table
from fairlead.config.problems import ERROR, Problem, Problems, nearest, shown
from fairlead.config.schema import Policy, Shadow
from fairlead.config.walk import to_plain

P = TypeVar("P", bound=Policy)

KEYS: Final = ("policy", "options", "shadow")


class SwitchError(ValueError):
    """It cannot be done; the message is a sentence for people."""


def read_switch(
    body: object, policy: Policy, shadow: Shadow | None, configured: tuple[Policy, Shadow | None]
) -> tuple[Policy, Shadow | None]:
    """The policy and shadow that follow upon these; `configured` are those of the file. SwitchError."""
    if not isinstance(body, Mapping):
        raise SwitchError(f"expected an object with some of {', '.join(KEYS)}, got {shown(body)}")
    for key in body:
        if key not in KEYS:
            best = nearest(str(key), KEYS)
            hint = f"did you mean '{best}'?" if best else f"known here: {', '.join(KEYS)}"
            raise SwitchError(f"unknown key {shown(key)} ({hint})")
    if "policy" not in body and "shadow" not in body:
        raise SwitchError("name a policy or a shadow")
    problems = Problems("")
    owner = "policy" if "policy" in body else "shadow"
    if "policy" in body:
        policy = _one(Policy, "policy", body, owner, configured, problems) or policy
    if "shadow" in body:
        if body["shadow"] is None and owner == "shadow" and body.get("options"):
            raise SwitchError("options: no shadow, no options")
        shadow = None if body["shadow"] is None else _one(Shadow, "shadow", body, owner, configured, problems)
    if not problems.has_errors:
        check_policies(policy, shadow, "policy", "shadow", problems)
    if problems.has_errors:
        raise SwitchError("; ".join(map(str, problems.found)))
    return policy, shadow


def _one(
    table: type[P],
    key: str,
    body: Mapping[Any, Any],
    owner: str,
    configured: tuple[Policy, Shadow | None],
    problems: Problems,
) -> P | None:
    """The policy under `key`, with the body's `options` where they are its own; None when a problem was reported."""
    raw = body[key]
    table_given = isinstance(raw, Mapping)
    given: dict[Any, Any] = dict(raw) if table_given else {"name": raw}
    if key == owner and "options" in body:
        options = body["options"]
        if table_given:
            problems.add("options", f"the options of {key} stand in its own table already")
        elif not isinstance(options, Mapping):
            problems.add("options", f"expected a table of options, got {shown(options)}")
        elif "name" in options:
            problems.add("options", "a name stands outside of the options")
        else:
            given |= options
    name = given.get("name")
    for known in configured:
        if known is not None and known.name == name:
            given = {**to_plain(known), **given}
            break
    made, found = parse_table(table, given, "", key)
    problems.found += [_as_written(problem, key, table_given) for problem in found if problem.severity == ERROR]
    return made if isinstance(made, table) else None


def _as_written(problem: Problem, key: str, table_given: bool) -> Problem:
    """`policy.name` was written as plain `policy` unless a table was given."""
    if table_given or problem.path != f"{key}.name":
        return problem
    return Problem(source="", path=key, message=problem.message, hint=problem.hint)
