"""The schema as JSON Schema: what an editor needs to complete and check a file while it is written.

Derived from `schema.py` and `scalars.py`; nothing is said here that they do not say.
Rule: it may accept a little more than the parser (a range of durations, two options that do not fit
together), never less. `fairlead check` has the last word.
"""

from __future__ import annotations

from dataclasses import MISSING
from typing import Any

from fairlead.config.scalars import KINDS
from fairlead.config.schema import SHORTHAND, Config, Option, options_of
from fairlead.config.walk import to_plain

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def json_schema() -> dict[str, Any]:
    """A JSON Schema (2020-12) of the configuration file."""
    tables: dict[str, Any] = {}
    root = _table(Config, tables)
    return {"$schema": DIALECT, "title": "Fairlead configuration", **root, "$defs": tables}


def _table(table: type[Any], tables: dict[str, Any]) -> dict[str, Any]:
    properties: dict[str, Any] = {}
    required: list[str] = []
    for name, (option, default) in options_of(table).items():
        properties[name] = _option(option, default, tables)
        too_few = option.many and isinstance(default, tuple) and len(default) < option.fewest
        if default is MISSING or too_few:
            required.append(name)
    made: dict[str, Any] = {
        "type": "object",
        "description": (table.__doc__ or "").strip(),
        "additionalProperties": False,
        "properties": properties,
    }
    return made | ({"required": required} if required else {})


def _option(option: Option, default: Any, tables: dict[str, Any]) -> dict[str, Any]:
    item = _reference(option.table, tables) if option.table else KINDS[option.kind].schema(option)
    branches = [item]
    if option.many:
        branches.append({"type": "array", "items": item, "minItems": option.fewest})
    if option.null or (option.table is not None and not option.many):
        branches.append({"type": "null"})
    made: dict[str, Any] = {"description": _description(option)}
    written = None if option.default_text else written_default(option, default)
    if written is not None:
        made["default"] = written
    return made | (item if len(branches) == 1 else {"anyOf": branches})


def _reference(table: type[Any], tables: dict[str, Any]) -> dict[str, Any]:
    name = table.__name__
    if name not in tables:
        tables[name] = {}  # holds the place, so that order is that of the file
        tables[name] = _table(table, tables)
    reference = {"$ref": f"#/$defs/{name}"}
    short = SHORTHAND.get(name)
    if short is None:
        return reference
    option, _ = options_of(table)[short]
    return {"anyOf": [KINDS[option.kind].schema(option), reference]}


def _description(option: Option) -> str:
    return f"{option.help} (only for {option.only_for})" if option.only_for else option.help


def written_default(option: Option, default: Any) -> Any:
    """A default as it would stand in the file; None where there is none to show."""
    if default is MISSING or default is None:
        return None
    if option.table is not None:
        return [to_plain(each) for each in default] if option.many else None
    write = KINDS[option.kind].write
    return [write(each) for each in default] if option.many else write(default)
