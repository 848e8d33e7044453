"""The pages that people read, taken apart: headings, links, code and the commands in it.

Reads Markdown as GitHub shows it, as far as these pages use it. Knows nothing of Fairlead but the name of its command.
"""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FRONT = ROOT / "docs" / "README.md"
PAGES = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "tests" / "faults" / "README.md",
]

FENCE = re.compile(r"^(?:<!-- (?P<mark>.*?) -->\n)?```(?P<kind>\w*)\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE)
SHELLS = ("", "sh", "bash", "console")
# Called by name, or by a path that ends in it; what follows is a word of a command line, not the number of a version.
CALLED = re.compile(r"(?:^|(?<=[\s`$(/]))fairlead[ \t]+(?=[a-z-])")
ENDS_COMMAND = frozenset({"|", "||", "&", "&&", ";", ">", ">>", "2>", "<", "#", "...", ")"})


@dataclass(frozen=True)
class Block:
    """A fenced block; `mark` is the comment right above it."""

    page: Path
    kind: str
    text: str
    mark: str


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path) -> list[Block]:
    text = page.read_text("utf-8")
    return [Block(page, found["kind"], found["text"], found["mark"] or "") for found in FENCE.finditer(text)]


def prose(page: Path) -> str:
    """All but the fenced blocks."""
    return FENCE.sub("", page.read_text("utf-8"))


def inline_code(page: Path) -> list[str]:
    return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", prose(page))]


def links(page: Path) -> list[tuple[Path, str]]:
    """Files that a page links to, each with its anchor or an empty word; not those on the web."""
    found = []
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`]*`", "`code`", prose(page))):
        if not re.match(r"[a-z]+:", target):
            path, _, anchor = target.partition("#")
            found.append(((page.parent / path).resolve() if path else page, anchor))
    return found


def anchors(page: Path) -> set[str]:
    """What GitHub makes of the headings: small letters, dashes for spaces, other signs left out, repeats numbered."""
    seen: Counter[str] = Counter()
    found = set()
    for heading in re.findall(r"^#{1,6} (.+?)\s*$", prose(page), re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        found.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
        seen[slug] += 1
    return found


def commands(page: Path) -> Iterator[list[str]]:
    """The words behind each `fairlead`, in shell blocks, units and code letters."""
    for block in blocks(page):
        if block.kind in SHELLS or block.kind == "ini":
            for line in block.text.replace("\\\n", " ").splitlines():
                yield from _called(line)
    for code in inline_code(page):
        yield from _called(code)


def _called(line: str) -> Iterator[list[str]]:
    for found in CALLED.finditer(line):
        rest = line[found.end() :]
        quoted = found.start() > 0 and line[found.start() - 1] == "`"
        words = shlex.split(rest.partition("`")[0] if quoted else rest, comments=True) if _whole(rest) else rest.split()
        kept = []
        for word in words:
            if word in ENDS_COMMAND or word.startswith((">", "2>")):
                break
            kept.append(word.rstrip(",;)"))
        yield kept


def _whole(text: str) -> bool:
    """Do its quotes come in pairs, so that a shell could read it?"""
    return text.count("'") % 2 == 0 and text.count('"') % 2 == 0
