"""What is wrong with a configuration, where, and what should be written instead?

Rule 1: a message names the thing, the value and the next step, in lower case, without blame.
Rule 2: values are shown short, on one line, and without anything that may be a password or a key.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

ERROR: Final = "error"
WARNING: Final = "warning"
_LONGEST: Final = 80
# What may be a secret in a URL: everything between the scheme and an @, and everything after a ?.
_USERINFO: Final = re.compile(r"(//|^)[^/@\s]*(?:@[^/@\s]*)*@")
_QUERY: Final = re.compile(r"[?#].*", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing to mend. `path` is '' when it is about the file as a whole."""

    source: str
    path: str
    message: str
    value: str | None = None
    hint: str | None = None
    severity: str = ERROR
    line: int | None = None

    def __str__(self) -> str:
        where = self.source if self.line is None else f"{self.source}:{self.line}"
        parts = [part for part in (where, "warning" if self.severity == WARNING else "", self.path) if part]
        hint = f" ({self.hint})" if self.hint else ""
        return f"{': '.join([*parts, self.message])}{hint}"

    def as_dict(self) -> dict[str, str | int | None]:
        return {name: getattr(self, name) for name in self.__slots__}


class ConfigError(Exception):
    """A configuration that cannot be used: every problem with it, warnings included."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))


class Problems:
    """Collects problems and finds the line of each."""

    def __init__(self, source: str, lines: Mapping[str, int] | None = None) -> None:
        self.source, self.lines = source, lines or {}
        self.found: list[Problem] = []
        self.bare: set[str] = set()  # paths of lists that were written as their one item

    def add(
        self, path: str, message: str, *, value: object = None, hint: str | None = None,
        severity: str = ERROR, line: int | None = None,
    ) -> None:  # fmt: skip
        text = None if value is None else shown(value)
        line = self.line_of(path) if line is None else line
        self.found.append(
            Problem(source=self.source, path=path, message=message, value=text, hint=hint,
                    severity=severity, line=line)
        )  # fmt: skip

    def line_of(self, path: str) -> int | None:
        """The line of `path`, or of the nearest thing around it that has one."""
        while path:
            if path in self.lines:
                return self.lines[path]
            path = path[: max(path.rfind("."), path.rfind("["), 0)]
        return self.lines.get("")

    def about(self, path: str) -> bool:
        """Whether something was said about `path` or what lies in it; what stands there may not be what was meant."""
        return any(item.path == path or item.path.startswith((f"{path}.", f"{path}[")) for item in self.found)

    def item(self, path: str, index: int) -> str:
        """Where an item of a list stands: a single one may be written without the list."""
        return path if path in self.bare else f"{path}[{index}]"

    @property
    def has_errors(self) -> bool:
        return any(problem.severity == ERROR for problem in self.found)

    def in_order(self) -> list[Problem]:
        """As they stand in the file; what has no line comes last."""
        return sorted(self.found, key=lambda problem: problem.line or 1 << 30)


def shown(value: object) -> str:
    """A value as a person would write it, cut short."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return _cut(_number(value))
    if isinstance(value, str):
        return repr(_cut(_QUERY.sub("?...", _USERINFO.sub(r"\1...@", value)) if _is_url_like(value) else value))
    if isinstance(value, list | tuple):
        return "a list"
    return "a table" if isinstance(value, Mapping) else f"a {type(value).__name__}"


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that was probably meant."""
    words = {name.lower().replace("-", "_"): name for name in known}
    close = difflib.get_close_matches(_cut(word).lower().replace("-", "_"), words, n=1, cutoff=0.6)
    return words[close[0]] if close else None


def did_you_mean(word: str, known: Iterable[str]) -> str | None:
    best = nearest(word, known)
    return f"did you mean '{best}'?" if best else None


def _number(value: float) -> str:
    try:
        return repr(value)
    except ValueError:  # Python refuses to print integers of thousands of digits
        return "a very large number"


def _is_url_like(text: str) -> bool:
    return "://" in text or "@" in text or "?" in text


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "..."
