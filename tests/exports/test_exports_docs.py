"""docs/exports.md: every kind has its section, and its examples are what the command writes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from exports_tools import config

from fairlead.control.exports.registry import KINDS

DOCS = (Path(__file__).parents[2] / "docs" / "exports.md").read_text("utf-8")
SECTIONS = re.findall(r"^## (\S+)$", DOCS, re.MULTILINE)
ROWS = dict(re.findall(r"^\| `([a-z-]+)` \| (`.*?`) \|", DOCS, re.MULTILINE))


def shown(mark: str) -> str:
    """The code block after a mark."""
    found = re.search(rf"<!-- {re.escape(mark)} -->\n```\w+\n(.*?)```", DOCS, re.DOTALL)
    assert found is not None, mark
    return found[1]


def test_every_kind_has_its_section_and_its_row() -> None:
    assert list(KINDS) == SECTIONS
    for kind, names in ROWS.items():
        assert sorted(re.findall("`(.*?)`", names)) == sorted(KINDS[kind].files(None))
    assert list(ROWS) == list(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_its_example_is_part_of_what_the_command_writes(kind: str) -> None:
    example = shown(f"example: {kind}")
    assert example in KINDS[kind].render(config(yaml.safe_load(shown("config"))))


def test_the_secrets_of_the_example_are_in_none_of_the_others() -> None:
    assert "sk-1" in shown("config")
    for kind in KINDS:
        assert "sk-1" not in shown(f"example: {kind}")
