"""`fairlead export KIND [CONFIG]`: configuration for other tools, on standard output or as files.

Rule 1: standard output holds the exported text alone, so that it can go straight into a file.
Rule 2: exit status 0 when it was written, 1 when a file cannot be, 2 for an unknown kind or a config file that cannot
        be used.
Rule 3: with --output all of a kind's files are written or none is, and none that is there is overwritten unasked.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import click

from fairlead.config.load import read_file
from fairlead.config.problems import did_you_mean
from fairlead.config.schema import Config
from fairlead.control.exports.registry import KINDS


class _Export(click.Command):
    """Shows the table of kinds in its help."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Kinds"):
            formatter.write_dl([(name, kind.help) for name, kind in KINDS.items()])


@click.command("export", cls=_Export, short_help="Write configuration for other tools.")
@click.argument("kind", required=False, metavar="KIND")
@click.argument("config", required=False, metavar="[CONFIG]")
@click.option("--output", metavar="DIR", help="Write files into this folder and print their names.")
@click.option("--force", is_flag=True, help="With --output: overwrite files that are there.")
def export(kind: str | None, config: str | None, output: str | None, force: bool) -> None:
    """Write configuration for another tool to standard output, as the config file CONFIG asks for.

    Without CONFIG it is written for Fairlead's defaults. Keys and tokens of the config file are never written: names
    of environment variables or words to replace stand in their places.

    \b
    fairlead export prometheus-rules fairlead.yaml > fairlead-rules.yml
    fairlead export systemd fairlead.yaml --output /etc/systemd/system
    """
    if kind is None:
        raise click.UsageError(f"name what to export: {', '.join(KINDS)}")
    known = KINDS.get(kind)
    if known is None:
        hint = did_you_mean(kind, KINDS) or f"there are: {', '.join(KINDS)}"
        raise click.UsageError(f"unknown kind {kind[:80]!r}; {hint}")
    if force and output is None:
        raise click.UsageError("--force is about files: name their folder with --output")
    read = _read(config)
    if output is None:
        click.echo(known.render(read), nl=False)
    else:
        _write(Path(output), known.files(read), force)


def _read(path: str | None) -> Config | None:
    if path is None:
        return None
    loaded, problems = read_file(path)
    for problem in problems:
        click.echo(str(problem), err=True)
    if loaded is None:
        click.echo("nothing was exported", err=True)
        raise click.exceptions.Exit(2)
    return loaded


def _write(folder: Path, files: Mapping[str, str], force: bool) -> None:
    there = [name for name in files if (folder / name).exists()]
    if there and not force:
        click.echo(f"{folder}: {', '.join(there)} is there already; --force overwrites", err=True)
        raise click.exceptions.Exit(1)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (folder / name).write_text(text, encoding="utf-8")
            click.echo(folder / name)
    except OSError as problem:
        click.echo(f"{problem.filename}: {problem.strerror}", err=True)
        raise click.exceptions.Exit(1) from None
