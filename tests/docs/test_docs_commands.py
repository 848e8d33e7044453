"""Can what the docs say be typed? Every command and option of `fairlead` that they name is one that there is."""

from __future__ import annotations

from pathlib import Path

import click
import docs_pages as docs
import pytest

from fairlead.cli.main import COMMANDS, main
from fairlead.control.exports.registry import KINDS

PLAIN = frozenset({"--version", "--help", "-h"})  # options of `fairlead` itself
IMPORTED_FROM = frozenset({"nginx"})


def complaint(words: list[str]) -> str:
    """What is wrong with a command line; an empty word when nothing is."""
    name, *rest = words
    if name in PLAIN:
        return ""
    command = main.get_command(click.Context(main), name) if name in COMMANDS else None
    if command is None:
        return f"no command {name!r}"
    if isinstance(command, click.Group):
        if not rest or rest[0].startswith("-"):
            return ""
        deeper = command.get_command(click.Context(command), rest[0])
        if deeper is None:
            return f"{name} has no {rest[0]!r}"
        command, rest = deeper, rest[1:]
    if name == "export" and rest and not rest[0].startswith("-") and rest[0] not in (*KINDS, "KIND"):
        return f"nothing is exported as {rest[0]!r}"
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    for word in rest:
        option = word.partition("=")[0]
        if option.startswith("--") and option not in known | PLAIN:
            return f"{name} has no option {option}"
    return ""


@pytest.mark.parametrize("page", docs.PAGES, ids=docs.name_of)
def test_every_command_of_a_page_can_be_typed(page: Path) -> None:
    wrong = [f"fairlead {' '.join(words)}: {why}" for words in docs.commands(page) if (why := complaint(words))]
    assert wrong == []


def test_the_pages_together_name_every_command() -> None:
    named = {words[0] for page in docs.PAGES for words in docs.commands(page)}
    assert set(COMMANDS) <= named


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("serve http://a:1 --policy random | tee log --nonsense", ""),
        ("serv http://a:1", "no command 'serv'"),
        ("serve --polcy=random", "serve has no option --polcy"),
        ("export grafnaa", "nothing is exported as 'grafnaa'"),
        ("import apache FILE", "import has no 'apache'"),
    ],
)
def test_a_command_that_cannot_be_typed_is_found(tmp_path: Path, line: str, why: str) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"Run\n\n```sh\n$ fairlead {line}   # so it goes\n```\n")
    (words,) = docs.commands(page)
    assert complaint(words) == why
