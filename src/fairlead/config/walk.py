"""Plain data (dicts, lists, scalars) -> schema objects, with every problem found on the way.

Generic over the tables of the schema: it knows no option by name.
Rule 1: never stops at the first problem. What is wrong is reported, replaced by its default, and the
        walk goes on, so that the checks behind it still see everything else.
Rule 2: never raises, whatever it is fed.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import MISSING
from typing import Any, Final

from fairlead.config.problems import Problems, nearest, shown
from fairlead.config.scalars import KINDS, check_range
from fairlead.config.schema import SHORTHAND, Config, Option, options_of
from fairlead.config.units import UnitError

BAD: Final = object()
"""Stands for a value whose problem has been reported already; the reader of the file uses it too."""


class Walker:
    """One walk over one file. `where` remembers the path of each table made, by its `id`."""

    def __init__(self, problems: Problems) -> None:
        self.problems = problems
        self.where: dict[int, str] = {}

    def table(self, table: type[Any], raw: object, path: str) -> Any:
        """One table of options, or BAD when it lacks something without a default."""
        short = SHORTHAND.get(table.__name__)
        is_short = short is not None and not isinstance(raw, Mapping | list | tuple)
        if short is not None and is_short:
            raw = {short: raw}
        if not isinstance(raw, Mapping):
            known = ", ".join(options_of(table))
            self.problems.add(
                path, f"expected a table of options, got {shown(raw)}", value=raw, hint=f"known here: {known}"
            )
            return BAD
        options = options_of(table)
        for key in raw:
            if key not in options:
                self._unknown_key(key, path, table)
        values: dict[str, Any] = {}
        refused: set[str] = set()
        for name, (option, default) in options.items():
            place = path if is_short and name == short else _join(path, name)
            value = self.value(option, raw[name], place) if name in raw else self._absent(option, default, place)
            values[name] = default if value is BAD else value
            if value is BAD:
                refused.add(name)
        for name, (option, _) in options.items():
            if option.only_for is None or name not in raw or "name" in refused:
                continue
            if option.only_for != values["name"]:
                self.problems.add(
                    _join(path, name),
                    f"'{name}' belongs to '{option.only_for}', and the name here is '{values['name']}'",
                    value=raw[name],
                    hint=f"leave it away, or set name: {option.only_for}",
                )
        if MISSING in values.values():
            return BAD
        made = table(**values)
        self.where[id(made)] = path
        return made

    def value(self, option: Option, raw: object, path: str) -> Any:
        """One value, or a tuple of them where the option is a list."""
        if raw is BAD:
            return BAD
        if raw is None and option.null:
            return None
        if raw is None and option.table is not None and not option.many:
            raw = {}  # `timeouts:` with nothing but comments under it
        if not option.many:
            return self._one(option, raw, path)
        if isinstance(raw, list | tuple):
            items = [(item, f"{path}[{index}]") for index, item in enumerate(raw)]
        else:
            items = [] if raw is None else [(raw, path)]
            self.problems.bare.add(path)
        if len(items) < option.fewest:
            self.problems.add(path, f"expected at least one, got {_nothing(raw)}", hint=option.help)
            return BAD
        # A bad item leaves a hole, not a shift: later checks speak of positions.
        values = [self._one(option, item, place) for item, place in items]
        if option.table is None:
            self._refuse_repeats(option, values, items)
        return tuple(None if value is BAD else value for value in values)

    def _one(self, option: Option, raw: object, path: str) -> Any:
        if raw is BAD:
            return BAD
        if option.table is not None:
            return self.table(option.table, raw, path)
        kind = KINDS[option.kind]
        try:
            value = kind.read(raw, option)
            if kind.ranged:
                check_range(value, option.kind, option)
        except UnitError as error:
            hint = error.hint
            if raw is None and not path.endswith("]"):  # an item of a list has no key
                hint = "leave the key out to get the default"
            value = raw if kind.show is shown else None  # `as_dict` shows values too
            self.problems.add(path, f"expected {error.expected}, got {kind.show(raw)}", value=value, hint=hint)
            return BAD
        return value

    def _absent(self, option: Option, default: Any, path: str) -> Any:
        if default is MISSING:
            self.problems.add(path, "required, but not there", hint=option.help)
        elif option.many and default is not None and len(default) < option.fewest:
            self.problems.add(path, "expected at least one, got nothing", hint=option.help)
        return default

    def _refuse_repeats(self, option: Option, values: list[Any], items: list[tuple[object, str]]) -> None:
        show = KINDS[option.kind].show
        seen: set[Any] = set()
        for value, (_, place) in zip(values, items, strict=True):
            if value is not BAD and value in seen:
                known = value if show is shown else None
                self.problems.add(place, f"{show(value)} is listed twice", value=known, hint="keep one of them")
            seen.add(value)

    def _unknown_key(self, key: object, path: str, table: type[Any]) -> None:
        known = options_of(table)
        word = key if isinstance(key, str) else shown(key)
        best = nearest(word, known)
        homes = sorted(_homes().get(word, ()))
        if best:
            hint = f"did you mean '{best}'?"
        elif homes:
            hint = f"'{word}' belongs under '{homes[0]}'" if homes[0] else f"'{word}' belongs at the top"
        else:
            hint = f"known here: {', '.join(known)}"
        self.problems.add(_join(path, word), f"unknown key {shown(word)}", hint=hint)


@functools.cache
def _homes() -> Mapping[str, frozenset[str]]:
    """Option name -> the tables that have it, for options written in the wrong place."""
    found: dict[str, set[str]] = {}

    def visit(table: type[Any], path: str) -> None:
        for name, (option, _) in options_of(table).items():
            found.setdefault(name, set()).add(path)
            if option.table is not None:
                visit(option.table, _join(path, name))

    visit(Config, "")
    return {name: frozenset(paths) for name, paths in found.items()}


def to_plain(value: Any) -> Any:
    """A schema object as the data that, written to a file and read again, gives the same object."""
    plain: dict[str, Any] = {}
    for name, (option, _) in options_of(type(value)).items():
        item = getattr(value, name)
        if option.only_for not in (None, getattr(value, "name", None)):
            continue
        write = to_plain if option.table is not None else KINDS[option.kind].write
        if item is None:
            plain[name] = None
        else:
            plain[name] = [write(each) for each in item] if option.many else write(item)
    return plain


def _join(path: str, name: str) -> str:
    safe = name if name.isidentifier() and len(name) <= 80 else shown(name)
    return f"{path}.{safe}" if path else safe


def _nothing(raw: object) -> str:
    return "nothing" if raw is None else "an empty list"
