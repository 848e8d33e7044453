"""`fairlead reload`: have a running Fairlead read its config file again.

Exit status: 0 when the new configuration is in force; 1 when it was refused (all problems are printed, the old one
stays in force) or when no Fairlead answers; 2 for wrong options.
"""

from __future__ import annotations

import contextlib
import sys
from typing import TextIO

import click

from fairlead.cli.asking import ADMIN, asker_of, fail, token_options
from fairlead.top.ask import NoAnswer, Refused

PATIENCE_SECONDS = 60.0  # new backends are probed before they take over


@click.command("reload", short_help="Have a running Fairlead read its config file again.")
@click.option("--admin", "url", metavar="URL", default=ADMIN, help="Its admin API.", show_default=True)
@token_options
def reload(url: str, token: str | None, token_file: TextIO | None) -> None:
    """Have a running Fairlead read its config file again, as SIGHUP does, and tell what came of it.

    The file is applied whole or not at all. Exits with 1, and prints every problem, when it was refused.
    """
    asker = asker_of(url, token, token_file, PATIENCE_SECONDS)
    try:
        with contextlib.closing(asker):
            answer = asker.post("/api/reload", {})
    except NoAnswer as problem:
        fail(asker, problem)
    except Refused as refusal:
        for row in refusal.problems:
            place = f"line {row['line']}: " if row["line"] else ""
            hint = f" ({row['hint']})" if row["hint"] else ""
            click.echo(f"{place}{row['path'] + ': ' if row['path'] else ''}{row['message']}{hint}", err=True)
        if refusal.status == 401:
            fail(asker, refusal)
        click.echo(f"not reloaded: {refusal}", err=True)
        sys.exit(1)
    click.echo(f"version {answer['version']} is in force")
    for name in ("added", "removed", "changed", "options"):
        if answer[name]:
            click.echo(f"  {name}: {', '.join(answer[name])}")
    if answer["needs_restart"]:
        click.echo(f"  waits for a restart: {', '.join(answer['needs_restart'])}")
    for row in answer["warnings"]:
        click.echo(f"  warning: {row['path']}: {row['message']}")
