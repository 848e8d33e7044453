"""The `fairlead` command: a table of subcommands, each in a file of its own, loaded when it is called."""

from __future__ import annotations

from difflib import get_close_matches
from importlib import import_module
from keyword import iskeyword

import click

from fairlead import __version__

COMMANDS = {
    "serve": ("fairlead.cli.serve", "Balance requests over engines."),
    "demo": ("fairlead.cli.demo", "See it work: emulated engines, load, a comparison. No GPU needed."),
    "emulate": ("fairlead.cli.emulate", "Start emulated engines to try things on."),
    "simulate": ("fairlead.cli.simulate", "What would a policy or a fleet do with your traffic?"),
    "top": ("fairlead.cli.top", "The fleet in the terminal, live."),
    "explain": ("fairlead.cli.explain", "Why did a request go where it went?"),
    "reload": ("fairlead.cli.reload", "Have a running Fairlead read its config file again."),
    "init": ("fairlead.cli.init", "Find engines and write a config file for them."),
    "check": ("fairlead.cli.check", "Report every problem in a config file."),
    "doctor": ("fairlead.cli.doctor", "Look at engines: what hurts balancing, and how to mend it."),
    "import": ("fairlead.cli.import_", "Read configuration of other tools."),
    "export": ("fairlead.cli.export", "Write configuration for other tools."),
}


class LazyGroup(click.Group):
    """Imports a command's file only when that command is wanted, so that `--help` stays quick."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        known = COMMANDS.get(cmd_name)
        if known is None:
            return None
        command = getattr(import_module(known[0]), f"{cmd_name}_" if iskeyword(cmd_name) else cmd_name)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0] if args else ""
        near = get_close_matches(name, COMMANDS, n=1)
        if name not in COMMANDS and near:
            raise click.UsageError(f"no such command {name!r}; did you mean {near[0]!r}?")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, help) for name, (_, help) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="fairlead")
def main() -> None:
    """A load balancer for LLM inference engines.

    Shortest real use:  fairlead serve http://gpu1:8000 http://gpu2:8000
    """
