"""Do the docs speak of options, metrics and pages that there are, and are their configurations taken?"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docs_pages as docs
import pytest

from fairlead.config.document import read_document
from fairlead.config.load import parse
from fairlead.config.problems import Problems
from fairlead.config.schema import Config, options_of
from fairlead.control.admin import PAGES as ADMIN_PAGES
from fairlead.sim.fleet_file import read_fleet_file

# Marks of yaml that is no configuration of Fairlead's: what `export` writes (tests/exports), a file of the simulator.
FLEET = "a fleet for the simulator"
YAML = [block for page in docs.PAGES for block in docs.blocks(page) if block.kind in ("yaml", "yml")]
CONFIGS = [block for block in YAML if block.mark != FLEET and not block.mark.startswith("example: ")]
# Pages that people read in haste: there every name that looks like one of the program's has to be in its source.
IN_HASTE = [
    docs.ROOT / "docs" / f"{name}.md" for name in ("start", "choosing-a-policy", "troubleshooting", "operating")
]
OTHERS = frozenset({"s_client"})  # openssl's
OLLAMAS = frozenset({"version"})  # of the pages under /api/


def option_paths(table: type[Any] = Config, before: str = "") -> Iterator[str]:
    for name, (option, _) in options_of(table).items():
        yield before + name
        if option.table is not None:
            yield from option_paths(option.table, f"{before}{name}.")


def test_there_are_configurations() -> None:
    assert len(CONFIGS) >= 25


@pytest.mark.parametrize("block", CONFIGS, ids=lambda block: f"{block.page.name}: {block.text.splitlines()[0][:30]}")
def test_every_configuration_is_taken_without_a_complaint(block: docs.Block) -> None:
    document, _ = read_document(block.text, Problems(docs.name_of(block.page)))
    assert isinstance(document, dict)
    config, problems = parse({"backends": "a:1", **document}, docs.name_of(block.page))
    assert config is not None, problems
    assert [str(problem) for problem in problems] == []


def test_every_fleet_of_the_simulator_can_be_read(tmp_path: Path) -> None:
    fleets = [block for block in YAML if block.mark == FLEET]
    assert fleets
    for block in fleets:
        file = tmp_path / "fleet.yaml"
        file.write_text(block.text)
        read_fleet_file(str(file))  # FleetError tells all that is wrong with it


@pytest.mark.parametrize("page", docs.PAGES, ids=docs.name_of)
def test_every_option_that_is_named_with_its_table_is_there(page: Path) -> None:
    paths = set(option_paths())
    tables = {path for path in paths if any(other.startswith(f"{path}.") for other in paths)}
    dotted = (re.match(r"([a-z_]+(?:\.[a-z_]+)+)(?::|$)", code) for code in docs.inline_code(page))
    named = {found[1] for found in dotted if found}
    assert {name for name in named if name.partition(".")[0] in tables} <= paths


@pytest.mark.parametrize("page", docs.PAGES, ids=docs.name_of)
def test_every_metric_that_is_named_is_in_the_reference(page: Path) -> None:
    """And the reference is compared with the real page by tests/control/test_control_metrics.py."""
    reference = "".join((docs.ROOT / "docs" / name).read_text("utf-8") for name in ("monitoring.md", "workers.md"))
    known = set(re.findall(r"`(fairlead_\w+)", reference))
    named = {
        re.sub(r"_(bucket|sum|count)$", "", name)
        for code in [*docs.inline_code(page), *(block.text for block in docs.blocks(page) if block.kind != "json")]
        for name in re.findall(r"(?<!\")\bfairlead_[a-z_]*[a-z](?![\w{]*\*)", code)
    }
    assert named <= known


@pytest.mark.parametrize("page", docs.PAGES, ids=docs.name_of)
def test_every_page_of_the_admin_api_that_is_named_is_there(page: Path) -> None:
    known = {path.split("/")[2] for path in ADMIN_PAGES if path.startswith("/api/")}
    named = set(re.findall(r"(?<![\w/])/api/([a-z_]+)(?![\w/]*\d)", page.read_text("utf-8")))
    assert named - OLLAMAS <= known


@pytest.mark.parametrize("page", IN_HASTE, ids=docs.name_of)
def test_names_of_the_program_are_in_its_source(page: Path) -> None:
    source = "\n".join(file.read_text("utf-8") for file in (docs.ROOT / "src").rglob("*.py"))
    named = {name for code in docs.inline_code(page) for name in re.findall(r"\b[a-z]+(?:_[a-z0-9]+)+\b", code)}
    named = {name for name in named - OTHERS if not name.startswith("fairlead_")}  # metrics: above
    assert named - set(re.findall(r"[A-Za-z]\w+", source)) == set()


def test_messages_that_troubleshooting_quotes_are_in_the_source() -> None:
    """In the tables of what is said at the start and of backends, up to the first number or dots."""
    text = (docs.ROOT / "docs" / "troubleshooting.md").read_text("utf-8")
    tables = text.partition("## It will not start")[2].partition("## 503")[0]
    rows = re.findall(r"^\| (`.*?) \|", tables, re.MULTILINE)
    quoted = [re.split(r"\d|\.\.\.", message)[0] for row in rows for message in re.findall(r"`([^`]+)`", row)]
    source = "\n".join(file.read_text("utf-8") for file in (docs.ROOT / "src").rglob("*.py"))
    assert len(quoted) >= 9
    assert [message for message in quoted if message not in source and message != "reason"] == []
