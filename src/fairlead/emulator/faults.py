"""Faults: how does an emulated engine misbehave?

Rule 1: every fault can be set at the start and at run time, and is undone by setting it back.
Rule 2: a change touches only the fields that it names.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any


class BadFault(ValueError):
    """A fault that does not exist or a value that makes no sense."""


@dataclass(frozen=True, slots=True)
class FaultValues:
    """What is wrong with an engine now."""

    slow: float = 1.0  # steps take this many times as long
    freeze: bool = False  # requests are accepted and /health is 200, but nothing progresses
    crash_after_tokens: int | None = (
        None  # cut all connections once an answer has this many tokens; 0 = at the next one
    )
    down_for: float | None = 5.0  # seconds without a listener after a crash; None = for good
    status: int | None = None  # answer inference requests with this status
    silent: bool = False  # like a stopped process: connections open, but no path answers and streams stand still

    def __post_init__(self) -> None:
        if not 0 < self.slow < 1e6:
            raise BadFault(f"slow: expected a factor above 0, got {self.slow!r}")
        if self.crash_after_tokens is not None and self.crash_after_tokens < 0:
            raise BadFault(f"crash_after_tokens: expected 0 or more, got {self.crash_after_tokens!r}")
        if self.down_for is not None and not 0 <= self.down_for < 1e9:
            raise BadFault(f"down_for: expected seconds or null, got {self.down_for!r}")
        if self.status is not None and not 400 <= self.status <= 599:
            raise BadFault(f"status: expected 400 to 599 or null, got {self.status!r}")


_NUMBER = (int, float)
_TYPES: dict[str, tuple[tuple[type, ...], str]] = {
    "slow": (_NUMBER, "a number"),
    "freeze": ((bool,), "true or false"),
    "crash_after_tokens": ((int, type(None)), "a whole number or null"),
    "down_for": ((*_NUMBER, type(None)), "a number or null"),
    "status": ((int, type(None)), "a whole number or null"),
    "silent": ((bool,), "true or false"),
}


class Faults:
    """The faults of one engine; `on_change` is called after each change with the old values."""

    def __init__(self, values: FaultValues, on_change: Callable[[FaultValues], None]) -> None:
        self._values = values
        self._on_change = on_change

    def __repr__(self) -> str:
        return repr(self._values)

    @property
    def values(self) -> FaultValues:
        return self._values

    def as_dict(self) -> dict[str, Any]:
        return asdict(self._values)

    def set(self, **changes: Any) -> None:
        """Change the named fields; BadFault, and nothing changed, if a name or a value is wrong."""
        self.update(changes)

    def update(self, changes: Mapping[str, Any]) -> None:
        for name, value in changes.items():
            known = _TYPES.get(name)
            if known is None:
                near = difflib.get_close_matches(name, _TYPES, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(_TYPES)}"
                raise BadFault(f"unknown fault {name!r}; {hint}")
            if not isinstance(value, known[0]) or (isinstance(value, bool) and bool not in known[0]):
                raise BadFault(f"{name}: expected {known[1]}, got {value!r}")
        old, self._values = self._values, replace(self._values, **changes)
        if old != self._values:
            self._on_change(old)

    def clear(self) -> None:
        """Back to a healthy engine."""
        healthy = FaultValues()
        self.update({field.name: getattr(healthy, field.name) for field in fields(healthy)})
