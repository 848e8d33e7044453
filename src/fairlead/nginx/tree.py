"""What stands in an nginx configuration, its includes filled in?

crossplane reads each file; the includes are followed here, so that cycles, missing files and sizes are ours to judge.
Rule 1: a file that cannot be read as nginx's syntax is an error with its file and line; so is one that was named by
        the user and is not there. A missing include is only a note: mime.types is often not on this machine.
Rule 2: bounded. Size, number and depth of files are limited, so that `include /*;` ends with a message.
Rule 3: contexts are not checked, so a file of sites-enabled can be read by itself.
"""

from __future__ import annotations

import dataclasses
import glob
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import crossplane  # type: ignore[import-untyped]

LARGEST_FILE: Final = 4 * 1024 * 1024
MOST_FILES: Final = 500
MOST_DIRECTIVES: Final = 100_000
DEEPEST: Final = 20  # of files in files
DEEPEST_BLOCK: Final = 50
_LONGEST: Final = 100
_SECRET: Final = frozenset({"proxy_set_header", "add_header", "set"})  # their values may be keys


class NginxError(Exception):
    """This cannot be read as an nginx configuration; `line` is None when it is about the whole file."""

    def __init__(self, file: str, line: int | None, message: str) -> None:
        super().__init__(f"{file}: {message}" if line is None else f"{file}:{line}: {message}")
        self.file, self.line, self.message = file, line, message


@dataclass(frozen=True, slots=True)
class Directive:
    """One statement; `block` is None where it ends with a semicolon."""

    name: str
    args: tuple[str, ...]
    file: str
    line: int
    block: tuple[Directive, ...] | None = None

    def __str__(self) -> str:
        is_code = "_by_lua" in self.name
        shown = () if is_code else self.args[:1] if self.name in _SECRET else self.args
        hidden = " ..." if len(shown) < len(self.args) else ""
        words = " ".join((self.name, *(word if word and " " not in word else f'"{word}"' for word in shown)))
        text = "".join(letter if letter.isprintable() else " " for letter in words + hidden)
        return (text if len(text) <= _LONGEST else f"{text[:_LONGEST]}...") + (" {}" if self.block is not None else ";")

    def inside(self, *names: str) -> Iterator[Directive]:
        """The directives of these names in its block."""
        return (each for each in self.block or () if each.name in names)


def read_nginx(path: str) -> tuple[tuple[Directive, ...], list[Directive]]:
    """(its directives, the includes of it that could not be opened); raises `NginxError`."""
    reader = _Reader(os.path.dirname(os.path.abspath(path)))
    return reader.file(path, ()), reader.missing


class _Reader:
    def __init__(self, folder: str) -> None:
        self.folder = folder  # nginx looks for includes from the main file's folder, wherever they stand
        self.missing: list[Directive] = []
        self.files = self.directives = self.depth = 0

    def file(self, path: str, above: tuple[str, ...]) -> tuple[Directive, ...]:
        _check_readable(path)
        real = os.path.realpath(path)
        self.files += 1
        if self.files > MOST_FILES or len(above) >= DEEPEST:
            raise NginxError(path, None, f"more than {MOST_FILES} files, or includes more than {DEEPEST} deep")
        try:
            payload = crossplane.parse(path, single=True, check_ctx=False)
        except (RecursionError, ValueError) as error:
            raise NginxError(path, None, f"is not nginx syntax: {error}") from None
        for fault in payload["errors"]:
            # crossplane ends its sentence with the place, which stands in front here
            message = fault["error"].rpartition(" in ")[0] or fault["error"] or "it ends in the middle of a directive"
            raise NginxError(path, fault["line"], f"is not nginx syntax: {message}")
        return tuple(self.statements(payload["config"][0]["parsed"], path, (*above, real)))

    def statements(self, parsed: list[dict[str, Any]], path: str, above: tuple[str, ...]) -> Iterator[Directive]:
        for item in parsed:
            self.directives += 1
            if self.directives > MOST_DIRECTIVES:
                raise NginxError(path, item["line"], f"more than {MOST_DIRECTIVES:,} directives")
            args = tuple(word.replace("\\\\", "\\") for word in item["args"])
            made = Directive(item["directive"], args, path, item["line"])
            if made.name == "include" and args:
                yield from self.included(made, above)
            elif "block" in item:
                if self.depth >= DEEPEST_BLOCK:
                    raise NginxError(path, made.line, f"blocks nested more than {DEEPEST_BLOCK} deep")
                self.depth += 1
                yield dataclasses.replace(made, block=tuple(self.statements(item["block"], path, above)))
                self.depth -= 1
            else:
                yield made

    def included(self, include: Directive, above: tuple[str, ...]) -> Iterator[Directive]:
        pattern = os.path.join(self.folder, include.args[0])
        found = sorted(glob.glob(pattern)) if glob.has_magic(pattern) else [pattern]
        for path in found:
            if not os.access(path, os.R_OK) or os.path.isdir(path):
                self.missing.append(include)
            elif os.path.realpath(path) in above:
                raise NginxError(include.file, include.line, f"{include} leads back to a file that it stands in")
            else:
                yield from self.file(path, above)


def _check_readable(path: str) -> None:
    if os.path.isdir(path):
        raise NginxError(path, None, "is a directory, not a file")
    try:
        if not os.path.exists(path):
            raise NginxError(path, None, "is not there")
        if not os.path.isfile(path):
            raise NginxError(path, None, "is not a regular file")
        if os.path.getsize(path) > LARGEST_FILE:
            raise NginxError(path, None, "is larger than 4 MiB, which no nginx configuration is")
        with open(path, "rb") as file:
            if b"\0" in file.read(LARGEST_FILE):
                raise NginxError(path, None, "is not text")
    except OSError as error:
        raise NginxError(path, None, f"could not be read: {(error.strerror or 'unknown reason').lower()}") from None
