"""What commands that ask a running Fairlead have in common: its admin API's address, its token, and how they fail."""

from __future__ import annotations

import os
import sys
from typing import Any, NoReturn, TextIO, TypeVar

import click

from fairlead.control.gate import VARIABLE
from fairlead.top.ask import PATIENCE_SECONDS, Asker, NoAnswer, Refused, WrongUrl
from fairlead.top.run import WANTS_TOKEN

ADMIN = "http://127.0.0.1:9900"
Command = TypeVar("Command", bound=Any)


def token_options(command: Command) -> Command:
    """Gives a command --token and --token-file, for `asker_of`."""
    file = click.option(
        "--token-file",
        type=click.File(),
        metavar="FILE",
        help=f"Whose first line is its admin token.  [default: the environment's {VARIABLE}]",
    )
    token = click.option("--token", metavar="TOKEN", help="Its admin token; others on this machine can see it.")
    given: Command = token(file(command))
    return given


def asker_of(admin: str, token: str | None, token_file: TextIO | None, patience: float = PATIENCE_SECONDS) -> Asker:
    """Who asks this admin API; ends the program where its URL or token cannot be."""
    if token is not None and token_file is not None:
        raise click.UsageError("give either --token or --token-file")
    if token is None:
        token = os.environ.get(VARIABLE, "") if token_file is None else token_file.readline().strip()
    try:
        return Asker(admin, token, patience)
    except WrongUrl as problem:
        raise click.UsageError(str(problem)) from None


def fail(asker: Asker, problem: NoAnswer | Refused) -> NoReturn:
    """Say why there is nothing to show, and end."""
    if isinstance(problem, Refused):
        click.echo(WANTS_TOKEN if problem.status == 401 else f"it says: {problem}", err=True)
    else:
        click.echo(f"no Fairlead answers at {asker.url}: {problem}; name its admin API", err=True)
    sys.exit(1)
