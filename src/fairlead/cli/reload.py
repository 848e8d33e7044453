"""`fairlead reload`: have a running Fairlead read its config file again.

Exit status: 0 when the new configuration is in force, 1 when it was refused (all problems are printed, the old one
stays in force) or when no Fairlead answers.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import sys
from typing import Any, TextIO
from urllib.parse import urlsplit

import click

from fairlead.control.gate import VARIABLE

ADMIN = "http://127.0.0.1:9900"
PATIENCE_SECONDS = 60.0  # new backends are probed before they take over


@click.command("reload", short_help="Have a running Fairlead read its config file again.")
@click.option("--admin", "url", metavar="URL", default=ADMIN, help="Its admin API.", show_default=True)
@click.option(
    "--token-file",
    type=click.File(),
    metavar="FILE",
    help="Whose first line is its admin token.  [default: the environment's FAIRLEAD_ADMIN_TOKEN]",
)
def reload(url: str, token_file: TextIO | None) -> None:
    """Have a running Fairlead read its config file again, as SIGHUP does, and tell what came of it.

    The file is applied whole or not at all. Exits with 1, and prints every problem, when it was refused.
    """
    token = os.environ.get(VARIABLE, "") if token_file is None else token_file.readline().strip()
    status, answer = _ask(url if "://" in url else f"http://{url}", token)
    if status == 401:
        click.echo("not reloaded: it wants its admin token; name its file with --token-file", err=True)
        sys.exit(1)
    if status != 200:
        error = answer.get("error", {})
        for row in error.get("problems", ()):
            place = f"line {row['line']}: " if row["line"] else ""
            hint = f" ({row['hint']})" if row["hint"] else ""
            click.echo(f"{place}{row['path'] + ': ' if row['path'] else ''}{row['message']}{hint}", err=True)
        click.echo(f"not reloaded: {error.get('message', f'it answered {status}')}", err=True)
        sys.exit(1)
    click.echo(f"version {answer['version']} is in force")
    for name in ("added", "removed", "changed", "options"):
        if answer[name]:
            click.echo(f"  {name}: {', '.join(answer[name])}")
    if answer["needs_restart"]:
        click.echo(f"  waits for a restart: {', '.join(answer['needs_restart'])}")
    for row in answer["warnings"]:
        click.echo(f"  warning: {row['path']}: {row['message']}")


def _ask(url: str, token: str) -> tuple[int, dict[str, Any]]:
    """(status, answer) of the admin API; ends the program where there is none."""
    try:
        parts = urlsplit(url)
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port or 80, timeout=PATIENCE_SECONDS)
        with contextlib.closing(connection):
            headers = {"Content-Type": "application/json"}
            if token:
                headers["Authorization"] = f"Bearer {token}"
            connection.request("POST", "/api/reload", b"{}", headers)
            response = connection.getresponse()
            answer = json.loads(response.read())
    except (OSError, ValueError, http.client.HTTPException) as problem:
        click.echo(f"no Fairlead answers at {url}: {problem}; name its admin API with --admin", err=True)
        sys.exit(1)
    return response.status, answer if isinstance(answer, dict) else {}
