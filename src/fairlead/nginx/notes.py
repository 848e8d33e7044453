"""What has to be said about each directive that did not simply become an option?

Three kinds: what was left out (Fairlead cannot do it), what was changed (it means something a little different now) and
what needs no option (Fairlead does it anyway). A note that is about who may come in, or where keys go, is important.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from fairlead.nginx.tree import Directive

LEFT_OUT: Final = "left out"
CHANGED: Final = "changed"
BUILT_IN: Final = "needs no option"
KINDS: Final = (LEFT_OUT, CHANGED, BUILT_IN)


@dataclass(frozen=True, slots=True)
class Note:
    """One thing to know about one directive."""

    kind: str
    file: str
    line: int
    directive: str
    reason: str
    important: bool = False

    def __str__(self) -> str:
        mark = "IMPORTANT: " if self.important else ""
        return f"{self.file}:{self.line}: {mark}{self.directive} {self.reason}"

    def as_dict(self) -> dict[str, str | int | bool]:
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(slots=True)
class Notes:
    """Collects them; the same thing about the same place is kept once."""

    _found: dict[Note, None] = field(default_factory=dict)

    def left_out(self, directive: Directive, reason: str, *, important: bool = False) -> None:
        self._add(LEFT_OUT, directive, reason, important)

    def changed(self, directive: Directive, reason: str, *, important: bool = False) -> None:
        self._add(CHANGED, directive, reason, important)

    def built_in(self, directive: Directive, reason: str) -> None:
        self._add(BUILT_IN, directive, reason, False)

    def add(self, note: Note) -> None:
        self._found[note] = None

    def _add(self, kind: str, directive: Directive, reason: str, important: bool) -> None:
        self.add(Note(kind, directive.file, directive.line, str(directive), reason, important))

    def in_order(self) -> list[Note]:
        """By kind, the important first, then as they stand in the files."""
        files = list(dict.fromkeys(note.file for note in self._found))
        return sorted(
            self._found,
            key=lambda note: (KINDS.index(note.kind), not note.important, files.index(note.file), note.line),
        )
