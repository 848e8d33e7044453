"""`fairlead import KIND FILE`: configuration of other tools, said again in Fairlead's options.

Rule 1: standard output holds the new configuration alone, so that it can go straight into a file; what was left out
        stands in it as comments and goes to standard error.
Rule 2: what is written has been through Fairlead's own parser.
Rule 3: exit status 0 when it was written, 2 when the file could not be read or leads to no backend.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Final

import click

from fairlead.config.document import read_document
from fairlead.config.load import check_files, parse
from fairlead.config.problems import ERROR, Problem, Problems
from fairlead.nginx.convert import Imported, import_nginx
from fairlead.nginx.emit import yaml_text
from fairlead.nginx.notes import BUILT_IN, CHANGED, KINDS, LEFT_OUT, Note
from fairlead.nginx.tree import NginxError

_TITLES: Final = {
    LEFT_OUT: "Left out:",
    CHANGED: "Means something a little different now:",
    BUILT_IN: "Needs no option:",
}


@click.group("import", short_help="Read configuration of other tools.")
def import_() -> None:
    """Read another tool's configuration and write the same for Fairlead."""


@import_.command("nginx", short_help="Read an nginx.conf.")
@click.argument("file", metavar="FILE")
@click.option("--keep-policy", is_flag=True, help="Balance as nginx did (round_robin, least_connections).")
@click.option("--server", metavar="NAME", help="Read only the server blocks with this server_name.")
@click.option("--json", "as_json", is_flag=True, help="Print config, notes and problems as JSON.")
def nginx(file: str, keep_policy: bool, server: str | None, as_json: bool) -> None:
    """Write the Fairlead configuration that does what the nginx configuration FILE does, includes read too.

    Every directive that has no place in it is listed on standard error with the reason.

    \b
    fairlead import nginx /etc/nginx/nginx.conf > fairlead.yaml
    """
    try:
        imported = import_nginx(file, keep_policy=keep_policy, server=server)
    except NginxError as error:
        click.echo(str(error), err=True)
        click.echo("nothing was imported", err=True)
        raise click.exceptions.Exit(2) from None
    text = yaml_text(imported.data, imported.comments, _head(file, imported.notes))
    problems = check(text)
    if as_json:
        click.echo(json.dumps(_as_json(imported, text, problems), indent=2))
    else:
        for line in _listing(imported.notes):
            click.echo(line, err=True)
        for problem in problems:
            click.echo(str(problem), err=True)
    if any(problem.severity == ERROR for problem in problems):
        click.echo("nothing was imported: what would be written cannot be used", err=True)
        raise click.exceptions.Exit(2)
    if not as_json:
        click.echo(text, nl=False)


def check(text: str) -> list[Problem]:
    """What Fairlead's parser says of the text; files that are not on this machine are warnings."""
    problems = Problems("fairlead.yaml")
    obj, problems.lines = read_document(text, problems)
    if problems.has_errors:
        return problems.found
    config, found = parse(obj, problems.source, problems.lines)
    if config is not None:
        check_files(config, problems)
        missing = [
            Problem(source=each.source, path=each.path, message=each.message, hint=each.hint, severity="warning")
            for each in problems.found
        ]
        return [*found, *missing]
    return found


def _head(file: str, notes: Iterable[Note]) -> list[str]:
    return [f"Fairlead configuration, written by `fairlead import nginx {file}`.", "", *_listing(notes)]


def _listing(notes: Iterable[Note]) -> list[str]:
    """All notes, by kind."""
    known = list(notes)
    lines: list[str] = []
    for kind in KINDS:
        mine = [note for note in known if note.kind == kind]
        if mine:
            lines += [_TITLES[kind], *(f"  {note}" for note in mine)]
    return lines


def _as_json(imported: Imported, text: str, problems: Iterable[Problem]) -> dict[str, object]:
    return {
        "config": imported.data,
        "yaml": text,
        "notes": [note.as_dict() for note in imported.notes],
        "problems": [problem.as_dict() for problem in problems],
    }
