"""`fairlead check CONFIG`: can this file be used, and if not, what has to change?

Rule 1: prints every problem, as FILE:LINE: path: message (what to do), so that editors can jump there.
Rule 2: exit status 0 when the file can be used (warnings allowed), 2 when it cannot.
Rule 3: contacts no backend; `fairlead doctor` does that.
"""

from __future__ import annotations

import json
from typing import Any

import click

from fairlead.config.json_schema import json_schema
from fairlead.config.load import ERROR, Problem, read_file
from fairlead.config.schema import Config, Listen

MOST_NAMES = 8
"""Backends named in the summary; the rest is counted."""


@click.command("check", short_help="Report every problem in a config file.")
@click.argument("config", required=False, metavar="CONFIG")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.option("--schema", "wants_schema", is_flag=True, help="Print the JSON Schema for editors, and exit.")
def check(config: str | None, as_json: bool, wants_schema: bool) -> None:
    """Report every problem in the config file CONFIG, with its line and what to write instead.

    Exits with 0 when the file can be used (warnings allowed), with 2 when it cannot.
    """
    if wants_schema:
        click.echo(json.dumps(json_schema(), indent=2))
        return
    if config is None:
        raise click.UsageError("name the config file to check, for example: fairlead check fairlead.yaml")
    loaded, problems = read_file(config)
    errors = sum(problem.severity == ERROR for problem in problems)
    if as_json:
        click.echo(json.dumps(_as_json(loaded, problems, errors), indent=2))
    else:
        _print(config, loaded, problems, errors)
    if loaded is None:
        raise click.exceptions.Exit(2)


def _print(source: str, config: Config | None, problems: list[Problem], errors: int) -> None:
    for problem in problems:
        click.echo(str(problem))
    counts = [_count(errors, "error")] if errors else []
    if len(problems) > errors:
        counts.append(_count(len(problems) - errors, "warning"))
    if config is None:
        click.echo(f"{source} cannot be used: {', '.join(counts)}")
        return
    click.echo(f"{source} can be used: {', '.join(counts) or 'no problems'}")
    for name, text in _summary(config).items():
        click.echo(f"  {name:<9} {text if isinstance(text, str) else _listed(text)}")


def _as_json(config: Config | None, problems: list[Problem], errors: int) -> dict[str, Any]:
    return {
        "usable": config is not None,
        "errors": errors,
        "warnings": len(problems) - errors,
        "problems": [problem.as_dict() for problem in problems],
        "summary": None if config is None else _summary(config),
    }


def _summary(config: Config) -> dict[str, str | list[str]]:
    return {
        "listen": [_where(item) for item in config.listen],
        "admin": f"http://{config.admin}",
        "policy": config.policy.name,
        "backends": [backend.url for backend in config.backends],
    }


def _where(listen: Listen) -> str:
    if listen.address.path:  # as `fairlead serve` says it; http:// would make a host of "unix"
        return str(listen.address)
    return f"{'https' if listen.tls else 'http'}://{listen.address}"


def _listed(items: list[str]) -> str:
    shown = ", ".join(items[:MOST_NAMES])
    more = len(items) - MOST_NAMES
    return f"{shown} and {more} more" if more > 0 else shown


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
