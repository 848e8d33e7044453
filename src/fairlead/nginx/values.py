"""nginx's values and Fairlead's: how is a time, a size or a constant of nginx written, and does the result fit?

Rule 1: readers raise `UnitError`, like those of the configuration, with what was expected.
Rule 2: whether a value fits an option is asked of the schema's own readers, so what is written always loads.
"""

from __future__ import annotations

import functools
import re
from typing import Any, Final

from fairlead.config.scalars import KINDS
from fairlead.config.schema import Config, Option, options_of
from fairlead.config.units import UnitError

_TIMES: Final = {"ms": 0.001, "": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0, "M": 2592000.0,
                 "y": 31536000.0}  # fmt: skip
_TIME: Final = re.compile(r"(?:[0-9]{1,12}(?:ms|[smhdwMy])\s*)*(?:[0-9]{1,12})?")
_TIME_PIECE: Final = re.compile(r"([0-9]{1,12})(ms|[smhdwMy]|)")
_SIZE: Final = re.compile(r"([0-9]{1,12})([kKmMgG]?)")
_SIZES: Final = {"": 1, "k": 1024, "m": 1024**2, "g": 1024**3}


def seconds(text: str) -> float:
    """'60', '60s', '1m', '1h 30m', '500ms' -> seconds."""
    if not text or not _TIME.fullmatch(text):
        raise UnitError("a time such as 60s")
    return round(sum(int(number) * _TIMES[unit] for number, unit in _TIME_PIECE.findall(text)), 6)


def size(text: str) -> int:
    """'1m', '8k', '1024' -> bytes."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise UnitError("a size such as 10m")
    return int(match[1]) * _SIZES[match[2].lower()]


def whole(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,12}", text):
        raise UnitError("a whole number")
    return int(text)


def is_constant(text: str) -> bool:
    """Does it hold no variable? nginx has no way to write a plain $."""
    return "$" not in text


def is_file(text: str) -> bool:
    """Is it the plain name of a file, for nginx and for the configuration? nginx also takes `data:` and `engine:`."""
    return is_constant(text) and ":" not in text and text.isprintable() and text != "" and text == text.strip()


@functools.cache
def option_at(path: str) -> Option:
    """The schema's option at `timeouts.connect` and the like."""
    table: type[Any] = Config
    for name in path.split("."):
        option, _ = options_of(table)[name]
        if option.table is not None:
            table = option.table
    return option


def limited(path: str, value: float) -> tuple[float, bool]:
    """The value, or the nearest one that the option at `path` may have, and whether it is the same."""
    option = option_at(path)
    low = option.low if option.low is not None else value
    high = option.high if option.high is not None else value
    if value == 0 and option.zero:
        return value, True
    kept = min(max(value, low), high)
    return kept, kept == value


def plain(path: str, value: Any) -> Any:
    """A value in base units as the file writes it."""
    return KINDS[option_at(path).kind].write(value)


def fitting(path: str, raw: object) -> Any:
    """The value as the parser reads it; `UnitError` when it does not take it."""
    option = option_at(path)
    return KINDS[option.kind].read(raw, option)
