"""A YAML text -> plain data, the line of each key, and what YAML itself has to complain about.

PyYAML scans and composes; the values are made here, from its nodes, because YAML 1.1 has habits which a
configuration file should not have: `on:` as a key is not `true`, `1:30` is not 90, `010` is ten.
Rule 1: bounded. Depth, aliases and the number of values are limited, so a small file cannot become a
        large object.
Rule 2: a key given twice, NaN and foreign tags are reported and left out; the rest is still read.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

import yaml

from fairlead.config.problems import Problems, shown
from fairlead.config.walk import BAD

DEEPEST: Final = 20
MOST_ALIASES: Final = 100
MOST_VALUES: Final = 100_000
_LONGEST_NUMBER: Final = 40  # digits; int() of more is slow, and nobody means it
_TAG: Final = "tag:yaml.org,2002:"


class _Loader(yaml.SafeLoader):
    """SafeLoader with bounds and with the plain scalars of YAML 1.2, plus yes/no/on/off."""

    yaml_implicit_resolvers: dict[str, list[Any]] = {}  # noqa: RUF012 (PyYAML's own shape)
    depth = 0
    aliases = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            self.aliases += 1
        if self.depth >= DEEPEST or self.aliases > MOST_ALIASES:
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            what = f"nested more than {DEEPEST} deep" if self.depth >= DEEPEST else "too many aliases"
            raise yaml.composer.ComposerError(None, None, what, mark)
        self.depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1


_RESOLVERS: Final = (
    ("bool", r"true|True|TRUE|false|False|FALSE|yes|Yes|YES|no|No|NO|on|On|ON|off|Off|OFF", "tTfFyYnNoO"),
    ("int", r"[-+]?[0-9]+", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
     "-+0123456789."),
    ("null", r"~|null|Null|NULL|", "~nN"),
)  # fmt: skip
for _name, _pattern, _first in _RESOLVERS:
    _Loader.add_implicit_resolver(
        _TAG + _name, re.compile(rf"^(?:{_pattern})$"), [*_first, ""] if _name == "null" else list(_first)
    )


def read_document(text: str, problems: Problems) -> tuple[object, dict[str, int]]:
    """The document and the line of each path in it; BAD when YAML could not be read at all."""
    loader: Any = None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problems.add("", _sentence(error), hint=_syntax_hint(error), line=mark.line + 1 if mark else None)
        return BAD, {}
    except yaml.YAMLError as error:  # a ReaderError: characters that YAML forbids
        place = getattr(error, "position", None)
        line = text.count("\n", 0, place) + 1 if isinstance(place, int) else None
        problems.add("", "holds a character that YAML does not allow", hint="remove it", line=line)
        return BAD, {}
    finally:
        if loader is not None:
            loader.dispose()
    maker = _Maker(problems)
    return (None, {}) if node is None else (maker.make(node, "", 0), maker.lines)


class _Maker:
    """Makes plain data of nodes and notes where each path stands."""

    def __init__(self, problems: Problems) -> None:
        self.problems = problems
        self.lines: dict[str, int] = {}
        self.left = MOST_VALUES

    def make(self, node: yaml.Node, path: str, depth: int) -> object:
        line = node.start_mark.line + 1
        self.lines.setdefault(path, line)
        self.left -= 1
        if depth > DEEPEST or self.left < 0:  # aliases, which the composer's bounds count only once
            if self.left >= 0 or self.left == -1:
                self.problems.add(
                    path, f"holds more than {MOST_VALUES:,} values or a loop, aliases filled in", line=line
                )
            return BAD
        if isinstance(node, yaml.MappingNode) and node.tag == f"{_TAG}map":
            return self._mapping(node, path, depth)
        if isinstance(node, yaml.SequenceNode) and node.tag == f"{_TAG}seq":
            items = enumerate(node.value)
            return [self.make(item, f"{path}[{index}]", depth + 1) for index, item in items]
        if isinstance(node, yaml.ScalarNode) and node.tag in _SCALARS:
            value = _SCALARS[node.tag](node.value)
            if value is BAD:
                hint = "write a plain number"
                self.problems.add(path, f"expected a number, got {shown(node.value)}", hint=hint, line=line)
            return value
        self.problems.add(path, f"the tag {shown(node.tag)} is not supported", hint="remove it", line=line)
        return BAD

    def _mapping(self, node: yaml.MappingNode, path: str, depth: int) -> object:
        made: dict[str, object] = {}
        first: dict[str, int] = {}
        merged: list[tuple[yaml.Node, int]] = []
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                self.problems.add(path, "expected a plain key, got a list or table", line=line)
                continue
            key = key_node.value  # its text, whatever it looks like: `on` and `502` are names here
            if key == "<<" and key_node.style is None:
                merged.append((value_node, line))
                continue
            place = f"{path}.{key}" if path else key
            if key in first:
                self.problems.add(
                    place, f"{shown(key)} is given twice; the first is on line {first[key]}",
                    hint="keep one of them", line=line,
                )  # fmt: skip
                continue
            first[key] = self.lines[place] = line
            made[key] = self.make(value_node, place, depth + 1)
        for value_node, line in merged:
            base = self.make(value_node, path, depth + 1)
            for each in base if isinstance(base, list) else [base]:
                if isinstance(each, dict):
                    made = each | made
                elif each is not BAD:
                    self.problems.add(path, "expected a table after <<", line=line)
        return made


def _number(text: str) -> object:
    if len(text) > _LONGEST_NUMBER:
        return BAD
    try:
        return int(text)
    except ValueError:
        pass
    try:
        value = float(text)
    except ValueError:  # .inf and .nan
        return BAD
    return value if abs(value) < float("inf") else BAD


_SCALARS: Final[dict[str, Callable[[str], object]]] = {
    f"{_TAG}str": str,
    f"{_TAG}int": _number,
    f"{_TAG}float": _number,
    f"{_TAG}bool": lambda text: text.lower() in ("true", "yes", "on"),
    f"{_TAG}null": lambda text: None,
}


def _sentence(error: yaml.MarkedYAMLError) -> str:
    parts = [part for part in (error.context, error.problem) if part]
    return f"is not valid YAML: {', '.join(parts)}"


def _syntax_hint(error: yaml.MarkedYAMLError) -> str | None:
    problem = error.problem or ""
    if "'\\t'" in problem:
        return "indent with blanks, not tabs"
    if "another document" in problem:
        return "keep one document; remove the line ---"
    if "mapping values are not allowed" in problem:
        return "check the indentation, and put text with ': ' in it in quotes"
    return None
