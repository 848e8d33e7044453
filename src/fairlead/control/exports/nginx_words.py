"""Values as nginx writes them: times, sizes, weights, quoted words and the lines of a log.

Rule 1: what is written means the same number to nginx; it knows milliseconds and bytes, but no fractions.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from fractions import Fraction
from typing import Final

from fairlead.config.schema import AccessLog

_UNITS: Final = (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000))
_LARGEST_WEIGHT: Final = 10_000
_TEXT: Final = (
    "$time_iso8601 $remote_addr $request_method $uri $status backend=$upstream_addr "
    "ttft=${upstream_header_time}s time=${request_time}s id=$request_id"
)
_JSON: Final = (
    '{"time": "$time_iso8601", "id": "$request_id", "client": "$remote_addr", "method": "$request_method", '
    '"path": "$uri", "status": $status, "backend": "$upstream_addr", "bytes_out": $body_bytes_sent, '
    '"ttft": "$upstream_header_time", "duration": $request_time}'
)
_SAME: Final = {"request_path": "uri", "ttft": "upstream_header_time"}
_PLAIN: Final = frozenset({
    "time_local", "time_iso8601", "remote_addr", "request_method", "status", "body_bytes_sent", "request_time",
    "upstream_addr", "request_id",
})  # fmt: skip
"""Names of Fairlead's templates that nginx has too."""
_NAME: Final = re.compile(r"\$([A-Za-z0-9_]+)")


def duration(seconds: float) -> str:
    millis = max(1, round(seconds * 1000))
    for unit, scale in _UNITS:
        if millis % scale == 0:
            return f"{millis // scale}{unit}"
    return f"{millis}ms"


def size(count: int) -> str:
    for unit, scale in (("m", 1024**2), ("k", 1024)):
        if count % scale == 0:
            return f"{count // scale}{unit}"
    return str(count)


def weights(given: list[float | None]) -> list[int | None]:
    """Whole numbers in the same proportion; None for each when nobody has one."""
    if all(weight is None for weight in given):
        return [None] * len(given)
    exact = [Fraction(1 if weight is None else weight).limit_denominator(1000) for weight in given]
    if all(each.denominator == 1 for each in exact):
        return [int(each) for each in exact]
    scale = math.lcm(*(each.denominator for each in exact))
    whole = [int(each * scale) for each in exact]
    common = math.gcd(*whole)
    whole = [each // common for each in whole]
    largest = max(whole)
    if largest <= _LARGEST_WEIGHT:
        return list(whole)
    return [max(1, round(each * _LARGEST_WEIGHT / largest)) for each in whole]


def quoted(text: str) -> str:
    """One word of nginx; a $ in it would be a variable."""
    if re.fullmatch(r"[A-Za-z0-9_./:@%+,=-]+", text):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def log_format(log: AccessLog) -> Iterator[str]:
    """The lines log_format and access_log."""
    path = "/dev/stdout" if log.path == "-" else log.path
    if log.format == "combined":
        yield f"access_log {quoted(path)} combined;"
        return
    if log.format == "json":
        yield f"log_format fairlead escape=json '{_JSON}';"
    elif log.format == "template":
        text, unknown = _translated(log.template or "")
        if unknown:
            yield f"# a dash in place of {', '.join(unknown)}, which nginx does not know"
        yield f"log_format fairlead {quoted(text)};"
    else:
        yield "# models, tokens and outcomes are not known to nginx"
        yield f"log_format fairlead '{_TEXT}';"
    yield f"access_log {quoted(path)} fairlead;"


def _translated(template: str) -> tuple[str, list[str]]:
    unknown: list[str] = []

    def name(match: re.Match[str]) -> str:
        word = match[1]
        if word in _PLAIN:
            return match[0]
        if word in _SAME:
            return f"${_SAME[word]}"
        unknown.append(f"${word}")
        return "-"

    return _NAME.sub(name, template), list(dict.fromkeys(unknown))
