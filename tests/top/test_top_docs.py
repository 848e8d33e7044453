"""docs/top.md and docs/explain.md: their screens are what is printed, their commands and their configs are read."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest
import yaml
from top_answers import answer
from top_samples import FLEET

from fairlead.cli.main import main
from fairlead.config.load import parse
from fairlead.top.columns import COLUMNS
from fairlead.top.screen import State, screen, text_of
from fairlead.top.story import story

DOCS = Path(__file__).resolve().parents[2] / "docs"
TOP, EXPLAIN = ((DOCS / name).read_text("utf-8") for name in ("top.md", "explain.md"))


def blocks(text: str, kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def test_the_screen_is_what_top_draws() -> None:
    (shown,) = blocks(TOP, "text")
    state = State(fleet=FLEET, admin="http://127.0.0.1:9900", selected="gpu2-with-a-long-name", sort="FLIGHT")
    assert shown.splitlines() == [text_of(line).rstrip() for line in screen(state, 100, 13)]


def test_every_column_is_in_the_table_with_its_key() -> None:
    rows = re.findall(r"^\| `([A-Z0-9/]+)` \| (?:`(.)`)? ?\| (.+) \|$", TOP, re.MULTILINE)
    assert rows == [(column.name, column.key, column.hint) for column in COLUMNS]


def test_the_explanation_is_what_explain_prints() -> None:
    (shown,) = blocks(EXPLAIN, "text")
    assert shown.splitlines() == [text_of(line).rstrip() for line in story(answer(), 100)]


COMMANDS = [
    line
    for text in (TOP, EXPLAIN)
    for block in blocks(text, "bash")
    for line in block.splitlines()
    if "fairlead" in line
]


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_is_one_that_there_is(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("admin.token").write_text("a-token-that-is-long")
    words = shlex.split(line, comments=True)
    name, *arguments = words[words.index("fairlead") + 1 :]
    with click.Context(main) as context:
        command = main.get_command(context, name)
        assert command is not None
        command.make_context(name, arguments, parent=context).close()


def test_there_are_commands() -> None:
    assert len(COMMANDS) >= 9


@pytest.mark.parametrize("example", blocks(EXPLAIN, "yaml"))
def test_every_config_loads(example: str) -> None:
    config, problems = parse({"backends": "a:1", **yaml.safe_load(example)}, "explain.md")
    assert config is not None, problems
    assert config.decisions is not None
    assert config.decisions.path == "/var/log/fairlead/decisions.jsonl"
