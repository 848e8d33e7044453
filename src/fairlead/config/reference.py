"""The option tables of docs/configuration.md: which options are there?

`python -m fairlead.config.reference` prints them; `--write FILE` puts them between the two markers of
FILE. A test compares, so the page cannot fall behind the schema.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import MISSING
from pathlib import Path
from typing import Any, Final

from fairlead.config.json_schema import written_default
from fairlead.config.scalars import KINDS
from fairlead.config.schema import SHORTHAND, Config, Option, options_of

BEGIN: Final = "<!-- options: begin (generated; python -m fairlead.config.reference --write FILE) -->"
END: Final = "<!-- options: end -->"


def reference_markdown() -> str:
    """Every option as Markdown tables, one per table of the file."""
    return "\n".join(_tables(Config, "")).rstrip() + "\n"


def with_reference(page: str) -> str:
    """The page with what stands between its markers renewed."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"expected the lines {BEGIN!r} and {END!r} in the page")
    return f"{before}{BEGIN}\n\n{reference_markdown()}\n{END}{after}"


def _tables(table: type[Any], path: str) -> Iterator[str]:
    options = options_of(table)
    if not _is_wrapper(table):
        yield f"### {f'`{path}`' if path else 'At the top'}"
        yield ""
        yield _introduction(table, path)
        yield ""
        yield "| option | value | default | meaning |"
        yield "|---|---|---|---|"
        for name, (option, default) in options.items():
            yield f"| `{name}` | {_value(option, path, name)} | {_default(option, default)} | {_meaning(option)} |"
        yield ""
    for name, (option, _) in options.items():
        if option.table is not None:
            yield from _tables(option.table, f"{path}.{name}" if path else name)


def _is_wrapper(table: type[Any]) -> bool:
    """A table that only holds tables needs no table of its own."""
    return table is not Config and all(option.table for option, _ in options_of(table).values())


def _introduction(table: type[Any], path: str) -> str:
    text = (table.__doc__ or "").strip()
    short = SHORTHAND.get(table.__name__)
    if short is None:
        return text
    return f"{text} Written as one bare value, it is the `{short}`: `{path}: {_example(table, short)}`."


def _example(table: type[Any], short: str) -> str:
    option = options_of(table)[short][0]
    kind = option.kind
    examples = {
        "address": "0.0.0.0:8080", "url": "http://gpu1:8000", "bool": "off", "file": "trace.jsonl",
        "link": "http://collector:4318", "duration": "auto" if option.choices else "2s",
    }  # fmt: skip
    return examples.get(kind, "round_robin")


def _value(option: Option, path: str, name: str) -> str:
    if option.table is not None:
        inner = f"{path}.{name}" if path else name
        text = f"table, see `{inner}`"
        if _is_wrapper(option.table):
            text = "table, see " + ", ".join(f"`{inner}.{each}`" for each in options_of(option.table))
        return f"{text}; or a list" if option.many else text
    kind = KINDS[option.kind]
    text = kind.doc
    if option.choices and option.kind == "choice":
        text = " ".join(f"`{word}`" for word in option.choices)
    elif option.choices:
        text = f"{text} or " + " ".join(f"`{word}`" for word in option.choices)
    if option.low is not None and option.high is not None:
        text = f"{text}, {kind.write(option.low)} to {kind.write(option.high)}"
    if option.zero:
        text = f"{text}, or 0"
    return f"list of: {text}" if option.many else text


def _default(option: Option, default: Any) -> str:
    if option.default_text:
        return option.default_text
    if default is MISSING:
        return "required"
    if default is None:
        return "none"
    written = written_default(option, default)
    if option.table is not None:
        if not option.many:
            return "as below"
        short = SHORTHAND[option.table.__name__]
        return ", ".join(f"`{each[short]}`" for each in written)
    words = written if isinstance(written, list) else [written]
    return ", ".join(f"`{str(word).lower() if isinstance(word, bool) else word}`" for word in words)


def _meaning(option: Option) -> str:
    return f"`{option.only_for}` only: {option.help}" if option.only_for else option.help


def main(arguments: Sequence[str]) -> int:
    if not arguments:
        sys.stdout.write(reference_markdown())
        return 0
    if len(arguments) != 2 or arguments[0] != "--write":
        sys.stderr.write("usage: python -m fairlead.config.reference [--write FILE]\n")
        return 2
    page = Path(arguments[1])
    page.write_text(with_reference(page.read_text(encoding="utf-8")), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
