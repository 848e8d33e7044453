"""The configurations that docs/tls.md shows are ones that Fairlead takes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from fairlead.config.load import parse

PAGE = Path(__file__).parents[2] / "docs" / "tls.md"
SHOWN = re.findall(r"```yaml\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)


def test_there_are_examples() -> None:
    assert len(SHOWN) >= 6


@pytest.mark.parametrize("text", SHOWN, ids=range(len(SHOWN)))
def test_an_example_is_taken_without_a_complaint(text: str) -> None:
    config, problems = parse(yaml.safe_load(text), "docs/tls.md")
    assert config is not None, problems
    assert [str(problem) for problem in problems] == []
