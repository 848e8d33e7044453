"""Durations, sizes and shares: what do people write, and what number is meant?

Rule 1: a number without its unit is refused with the two things it could have meant, since `timeout: 30`
        is how a proxy ends up waiting 30 milliseconds. Only 0 needs no unit.
Rule 2: every reader has a formatter, and reading what the formatter wrote gives the same value again.
Rule 3: readers raise `UnitError` and nothing else; ranges are the business of the schema.
"""

from __future__ import annotations

import itertools
import re
from typing import Final

MICROS: Final[dict[str, int]] = {
    "d": 86_400_000_000,
    "h": 3_600_000_000,
    "m": 60_000_000,
    "s": 1_000_000,
    "ms": 1_000,
}
SIZES: Final[dict[str, int]] = {  # the order is the formatter's preference
    "GiB": 1024**3,
    "MiB": 1024**2,
    "KiB": 1024,
    "GB": 1000**3,
    "MB": 1000**2,
    "KB": 1000,
    "B": 1,
}
# Bounded digits: nobody means more, and int() of a megabyte of digits is slow.
_NUMBER: Final = r"[0-9]{1,15}(?:\.[0-9]{1,9})?"
DURATION_PATTERN: Final = r"^(?:[0-9]{1,15}(?:\.[0-9]{1,9})?(?:ms|[dhms]))+$"
SIZE_PATTERN: Final = r"^[0-9]{1,15}(?:\.[0-9]{1,9})?(?:[KMG]i?)?B$"
PERCENT_PATTERN: Final = r"^[0-9]{1,15}(?:\.[0-9]{1,9})?%$"
_PIECE: Final = re.compile(rf"({_NUMBER})(ms|[dhms])")
_DURATION: Final = re.compile(DURATION_PATTERN)
_SIZE: Final = re.compile(rf"({_NUMBER})((?:[KMG]i?)?B)")
_LOOSE_SIZE: Final = re.compile(rf"({_NUMBER})\s*([kmg]?)(i?)(?:b|bytes?)?", re.IGNORECASE)
_LOOSE_DURATION: Final = re.compile(
    rf"({_NUMBER})\s*(ms|milli|s|m|h|d)[a-z]*|({_NUMBER})", re.IGNORECASE
)  # "5 sec", "10min", "5": clear enough to say what should have been written
_PERCENT: Final = re.compile(rf"({_NUMBER})\s?%")
_SHARE: Final = re.compile(_NUMBER)


class UnitError(ValueError):
    """A value in the wrong unit or none: `expected` is what belongs there, `hint` what to write."""

    def __init__(self, expected: str, hint: str | None = None) -> None:
        super().__init__(expected)
        self.expected, self.hint = expected, hint


def parse_duration(raw: object) -> float:
    """'5s', '500ms', '1h30m' -> seconds; rounded to microseconds."""
    if _is_number(raw):
        if raw == 0:
            return 0.0
        raise UnitError("a duration with its unit", f"write {_example(raw)}s or {_example(raw)}ms")
    if not isinstance(raw, str):
        raise UnitError("a duration such as 5s or 500ms")
    if raw == "0":
        return 0.0
    if not _DURATION.fullmatch(raw):
        raise UnitError("a duration such as 5s or 500ms", _duration_hint(raw))
    pieces = _PIECE.findall(raw)
    scales = [MICROS[unit] for _, unit in pieces]
    if any(later >= earlier for earlier, later in itertools.pairwise(scales)):
        raise UnitError("a duration with its largest unit first", "write for example 1h30m or 1m30s")
    return round(sum(_scaled(text, scale) for (text, _), scale in zip(pieces, scales, strict=True))) / 1e6


def format_duration(seconds: float) -> str:
    """Seconds -> the largest single unit that says it exactly."""
    micros = round(seconds * 1e6)
    if micros == 0:
        return "0s"
    for unit, scale in MICROS.items():
        if micros % scale == 0:
            return f"{micros // scale}{unit}"
    return f"{micros // 1000}.{micros % 1000:03d}".rstrip("0") + "ms"


def parse_size(raw: object) -> int:
    """'32MiB', '10MB' -> bytes."""
    if _is_number(raw):
        if raw == 0:
            return 0
        raise UnitError("a size with its unit", f"write {_example(raw)}MiB or {_example(raw)}KiB")
    if not isinstance(raw, str):
        raise UnitError("a size such as 32MiB or 64KiB")
    if raw == "0":
        return 0
    match = _SIZE.fullmatch(raw)
    if match is None:
        raise UnitError("a size such as 32MiB or 64KiB", _size_hint(raw))
    return round(_scaled(match[1], SIZES[match[2]]))


def format_size(size: int) -> str:
    """Bytes -> the largest unit that says it exactly, powers of 1024 first."""
    if size == 0:
        return "0B"
    unit, scale = next((unit, scale) for unit, scale in SIZES.items() if size % scale == 0)
    return f"{size // scale}{unit}"


def parse_percent(raw: object) -> float:
    """'20%' or 0.2 -> 0.2; rounded to a millionth."""
    if isinstance(raw, int | float) and not isinstance(raw, bool):
        if raw == 0 or (isinstance(raw, float) and 0 < raw <= 1):
            return round(float(raw), 6)
        raise UnitError("a share such as 20% or 0.2", f"write {_example(raw)}%" if 0 < raw <= 100 else None)
    if not isinstance(raw, str):
        raise UnitError("a share such as 20% or 0.2")
    if match := _PERCENT.fullmatch(raw):
        return round(float(match[1]) / 100, 6)
    hint = f"write {raw}%" if _SHARE.fullmatch(raw) and 1 <= float(raw) <= 100 else None
    raise UnitError("a share such as 20% or 0.2", hint)


def format_percent(share: float) -> str:
    """0.2 -> '20%'."""
    text = f"{share * 100:.4f}".rstrip("0").rstrip(".")
    return f"{text}%"


def _example(raw: object) -> str:
    """The number itself where it makes a good example, else a harmless one."""
    if isinstance(raw, int | float) and 0 < raw < 1e9:
        return f"{raw:.10g}"
    return "5"


def _is_number(raw: object) -> bool:
    return isinstance(raw, int | float) and not isinstance(raw, bool)


def _scaled(text: str, scale: int) -> float:
    """Whole numbers stay exact whatever their size; fractions are as good as a float is."""
    return int(text) * scale if text.isdigit() else float(text) * scale


def _duration_hint(raw: str) -> str:
    match = _LOOSE_DURATION.fullmatch(raw.strip())
    if match is None:
        return "units are ms, s, m, h and d"
    if match[3]:
        return f"write {match[3]}s or {match[3]}ms"
    unit = match[2].lower()
    return f"write {match[1]}{'ms' if unit == 'milli' else unit}"


def _size_hint(raw: str) -> str:
    match = _LOOSE_SIZE.fullmatch(raw.strip())
    if match is None:
        return "units are B, KiB, MiB, GiB, KB, MB and GB"
    number, letter = match[1], match[2].upper()
    return f"write {number}{letter}iB" if letter else f"write {number}MiB, {number}KiB or {number}B"
