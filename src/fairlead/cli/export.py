"""`fairlead export KIND [CONFIG]`: configuration for other tools, on standard output.

Rule 1: standard output holds the exported text alone, so that it can go straight into a file.
Rule 2: exit status 0 when it was written, 2 for an unknown kind or a config file that cannot be used.
"""

from __future__ import annotations

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
def export(kind: str | None, config: str | None) -> None:
    """Write configuration for another tool to standard output, as the config file CONFIG asks for.

    Without CONFIG it is written for Fairlead's defaults.

    \b
    fairlead export prometheus-rules fairlead.yaml > fairlead-rules.yml
    """
    if kind is None:
        raise click.UsageError(f"name what to export: {', '.join(KINDS)}")
    known = KINDS.get(kind)
    if known is None:
        hint = did_you_mean(kind, KINDS) or f"there are: {', '.join(KINDS)}"
        raise click.UsageError(f"unknown kind {kind[:80]!r}; {hint}")
    click.echo(known.render(_read(config)), nl=False)


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
