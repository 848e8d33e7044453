"""Does every link of the docs lead somewhere, and does every page have a link that leads to it?"""

from __future__ import annotations

from pathlib import Path

import docs_pages as docs
import pytest


@pytest.mark.parametrize("page", docs.PAGES, ids=docs.name_of)
def test_every_link_and_anchor_leads_somewhere(page: Path) -> None:
    for target, anchor in docs.links(page):
        assert target.exists(), f"no file {target}"
        assert target.is_relative_to(docs.ROOT)
        assert not anchor or anchor in docs.anchors(target), f"{docs.name_of(target)} has no heading for #{anchor}"


def test_every_page_has_its_line_in_the_index() -> None:
    linked = {target for target, _ in docs.links(docs.FRONT)}
    missing = {docs.name_of(page) for page in docs.PAGES} - {docs.name_of(target) for target in linked}
    assert missing == {"README.md", "docs/README.md"}


def test_the_first_page_of_all_leads_to_the_index_and_the_start() -> None:
    linked = {docs.name_of(target) for target, _ in docs.links(docs.ROOT / "README.md")}
    assert {"docs/README.md", "docs/start.md", "docs/troubleshooting.md", "CHANGELOG.md"} <= linked


def test_anchors_are_those_of_the_headings_as_github_makes_them(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# One, two: `a_b`\n\n```sh\n# no heading\n```\n## [Linked](x.md) twice\n## Linked twice\n")
    assert docs.anchors(page) == {"one-two-a_b", "linked-twice", "linked-twice-1"}
