"""Fields of a trace line: is the value one that a request can have, and if not, what was found?

Rule 1: a reader raises `BadLine` and nothing else; its text names the field, what was found and what belongs there.
Rule 2: every number has bounds. What is infinite, no number or absurdly large stops at the line it stands on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

MAX_TOKENS: Final = 10_000_000  # of one prompt or answer
MAX_BYTES: Final = 1 << 32  # of one prompt
MAX_SECONDS: Final = 1e11  # far beyond any date as unix time, and exact to 20 microseconds
_SHOWN: Final = 40  # characters of a wrong value
_LONGEST_NAME: Final = 1_000  # characters


class BadLine(ValueError):
    """Why a line is no request; `torn`: it does not even have the shape, as when its end is missing."""

    def __init__(self, reason: str, torn: bool = False) -> None:
        super().__init__(reason)
        self.reason, self.torn = reason, torn


def shown(value: object) -> str:
    """A wrong value as it may stand in a message."""
    text = value if isinstance(value, str) else repr(value)
    text = text[:_SHOWN] + "..." if len(text) > _SHOWN else text
    return repr(text) if isinstance(value, str) else text


def json_object(line: bytes) -> dict[str, Any]:
    try:
        row = msgspec.json.decode(line)
    except (ValueError, RecursionError) as error:  # msgspec.DecodeError is a ValueError
        raise BadLine(f"not valid JSON: {error}", torn=True) from None
    if not isinstance(row, dict):
        raise BadLine(f"expected a JSON object, got {shown(row)}")
    return row


def whole(row: Mapping[str, Any], key: str, low: int, high: int = MAX_TOKENS) -> int:
    """A whole number within bounds."""
    value = _present(row, key)
    if type(value) is float and value.is_integer():
        value = int(value)
    if type(value) is not int or not low <= value <= high:
        raise BadLine(f"{key}: expected a whole number from {low} to {high:,}, got {shown(value)}")
    return value


def number(row: Mapping[str, Any], key: str, low: float = 0.0, high: float = MAX_SECONDS) -> float:
    """A number within bounds. NaN is within none."""
    value = _present(row, key)
    if type(value) not in (int, float) or not low <= value <= high:
        raise BadLine(f"{key}: expected a number from {low:g} to {high:g}, got {shown(value)}")
    return float(value)


def text(row: Mapping[str, Any], key: str) -> str:
    """A short text; null and a missing field are the empty one."""
    value = row.get(key)
    if value is None:
        return ""
    if not isinstance(value, str) or len(value) > _LONGEST_NAME:
        raise BadLine(f"{key}: expected a text of at most {_LONGEST_NAME} characters, got {shown(value)}")
    return value


def items(row: Mapping[str, Any], key: str) -> list[Any]:
    value = _present(row, key)
    if not isinstance(value, list):
        raise BadLine(f"{key}: expected a list, got {shown(value)}")
    return value


def has(row: Mapping[str, Any], key: str) -> bool:
    """Is there a value, and not null?"""
    return row.get(key) is not None


def _present(row: Mapping[str, Any], key: str) -> Any:
    try:
        return row[key]
    except KeyError:
        raise BadLine(f"field {key!r} is missing") from None
