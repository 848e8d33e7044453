"""The command as a whole: version, help, unknown words."""

from __future__ import annotations

import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from fairlead import __version__
from fairlead.cli.main import COMMANDS, main


def command(name: str) -> click.Command:
    found = main.get_command(click.Context(main), name)
    assert found is not None
    return found


def test_the_version_is_printed() -> None:
    done = CliRunner().invoke(main, ["--version"])
    assert (done.exit_code, done.output) == (0, f"fairlead, version {__version__}\n")


def test_help_names_every_command() -> None:
    for option in ("--help", "-h"):
        done = CliRunner().invoke(main, [option])
        assert done.exit_code == 0
        for name, (_, text) in COMMANDS.items():
            assert any(line.split()[:1] == [name] for line in done.output.splitlines()), name
            assert text.split(".")[0] in " ".join(done.output.split())


def test_help_does_not_import_what_it_does_not_need() -> None:
    program = "import sys; from fairlead.cli.main import main; main(['--help'], standalone_mode=False); " + (
        "print([m for m in ('aiohttp', 'uvloop', 'rich') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_every_command_is_complete(name: str) -> None:
    found = command(name)
    done = CliRunner().invoke(main, [name, "--help"])
    assert done.exit_code == 0
    text = " ".join(done.output.split())
    assert (found.help or "").split(".")[0].split("\n")[0] in text
    for parameter in found.params:
        if isinstance(parameter, click.Option):
            assert len(parameter.help or "") > 10, f"{name} {parameter.opts[0]} has no help"
            assert all(option in text for option in parameter.opts)
        else:
            assert parameter.make_metavar(click.Context(found)) in text
    assert max(map(len, done.output.splitlines())) <= 100


@pytest.mark.parametrize("name", COMMANDS)
def test_an_unknown_option_is_status_2_without_traceback(name: str) -> None:
    command(name)
    done = CliRunner().invoke(main, [name, "--no-such-option"])
    assert (done.exit_code, "No such option" in done.output) == (2, True)


def test_an_unknown_command_is_status_2() -> None:
    done = CliRunner().invoke(main, ["sevre"])
    assert (done.exit_code, "no such command 'sevre'" in done.output) == (2, True)


def test_an_unknown_command_gets_the_nearest_name() -> None:
    assert "did you mean 'serve'?" in CliRunner().invoke(main, ["sevre"]).output.lower()
