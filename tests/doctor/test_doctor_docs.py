"""docs/doctor.md says what the commands do: every finding, every port, and examples that can be typed."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest
from doctor_peers import facts, tried

from fairlead.cli.main import main
from fairlead.doctor.checks import Pool
from fairlead.doctor.checks_fleet import check
from fairlead.doctor.facts import Model
from fairlead.doctor.findings import KINDS
from fairlead.doctor.places import USUAL_PORTS, places
from fairlead.doctor.report import lines

TEXT = (Path(__file__).parents[2] / "docs" / "doctor.md").read_text("utf-8")
COMMANDS = re.findall(r"^fairlead (doctor|init|check|serve)(.*)$", TEXT, re.MULTILINE)


def test_the_table_is_the_table_of_the_code() -> None:
    rows = re.findall(r"^\| `([\w-]+)` \| (\w+) \|", TEXT, re.MULTILINE)
    assert rows == [(code, kind.severity) for code, kind in KINDS.items()]


@pytest.mark.parametrize(("name", "rest"), COMMANDS)
def test_every_example_can_be_typed(name: str, rest: str) -> None:
    arguments = shlex.split(rest.partition("|")[0].partition(">")[0], comments=True)
    command = main.get_command(click.Context(main), name)
    assert command is not None
    context = command.make_context(name, arguments)
    if name == "init":
        assert places(context.params["hosts"])


def test_the_usual_ports_are_named() -> None:
    assert len(COMMANDS) >= 10
    section = TEXT.partition("listen by default:")[2].partition("\n\n")[0]
    named = {int(number) for number in re.findall(r"\b\d{4,5}\b", section)} | set(range(8000, 8011))
    assert named == set(USUAL_PORTS)


def test_the_sample_is_what_is_printed() -> None:
    first = facts(name="127.0.0.1:8201", models=(Model("m", longest=4096),))
    second = facts(name="127.0.0.1:8202", models=(Model("m", longest=2048),), generation=tried(has_details=False))
    fleet = [first, second]
    printed = [line for line, _ in lines(fleet, check(fleet, Pool()))]
    sample = TEXT.partition("$ fairlead doctor http://127.0.0.1:8201")[2].partition("\n...\n")[0].splitlines()[1:]
    assert len(sample) > 10
    assert printed[: len(sample)] == sample
