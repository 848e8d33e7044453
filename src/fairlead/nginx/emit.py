"""Options and their comments -> a YAML file that people like to read.

Rule 1: reading what is written gives the same data again; the tests hold this against the parser.
Rule 2: what fits a line stands on one, lists of tables have an item a line, comments stand above what they are about.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any, Final

import yaml

WIDTH: Final = 110


def yaml_text(data: Mapping[str, Any], comments: Mapping[str, str], head: list[str]) -> str:
    """`comments` by the path of what they stand above, such as `policy` or `backends[0]`."""
    lines = [*(f"# {line}".rstrip() for line in head), ""]
    for key, value in data.items():
        if lines[-1] != "" and (key in comments or isinstance(value, list)):
            lines.append("")
        lines += _comment(comments.get(key), "")
        lines += _entry(key, value, comments)
    return "\n".join(lines) + "\n"


def _entry(key: str, value: Any, comments: Mapping[str, str]) -> list[str]:
    is_tables = isinstance(value, list) and any(isinstance(each, dict) for each in value)
    short = f"{key}: {flow(value)}" if isinstance(value, dict | list) else f"{key}: {_scalar(value)}"
    if not isinstance(value, dict | list) or (len(short) <= WIDTH and not is_tables):
        return [short]
    return [f"{key}:", *(f"  {line}" for line in _lines(value, key, comments))]


def _lines(value: dict[str, Any] | list[Any], path: str, comments: Mapping[str, str]) -> list[str]:
    """A table or list in block style, without indentation."""
    if isinstance(value, dict):
        return [line for name, each in value.items() for line in _entry(name, each, {})]
    lines = []
    for index, each in enumerate(value):
        lines += _comment(comments.get(f"{path}[{index}]"), "")
        if isinstance(each, dict) and len(flow(each)) > WIDTH:
            first, *rest = _lines(each, "", {})
            lines += [f"- {first}", *(f"  {line}" for line in rest)]
        else:
            lines.append(f"- {flow(each) if isinstance(each, dict | list) else _scalar(each)}")
    return lines


def flow(value: Any) -> str:
    """One value on one line, as it may stand in brackets."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {flow(each)}" for name, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(flow(each) for each in value) + "]"
    text = _scalar(value)
    # Brackets and commas have to be quoted there; PyYAML would quote each colon, also between other letters.
    is_plain = not any(sign in text for sign in ",[]{}") and not text.startswith(":") and not text.endswith(":")
    return text if is_plain else _dump([value])[1:-1]


def _scalar(value: Any) -> str:
    return _dump(value).removesuffix("...").strip()


def _dump(value: Any) -> str:
    text: str = yaml.safe_dump(value, default_flow_style=True, width=1 << 30, allow_unicode=True)
    return text.strip()


def _comment(text: str | None, indent: str) -> list[str]:
    return [f"{indent}# {line}" for line in textwrap.wrap(text, WIDTH - len(indent) - 2)] if text else []
