"""Does a JSON body say one thing to us and another to the engine? Names that are given twice, or spelled in two ways.

JSON leaves open what `{"model": "a", "model": "b"}` means (RFC 8259 section 4): parsers take the first, the last, or
refuse; some take `Model` for `model`. What we would route by one reading and an engine serve by another is refused.

How it stays cheap: the long values (the prompt) are cut out of the text, with NUL in their place, which JSON cannot
hold. What is left, `{"model":"m","messages":NUL}`, is nearly always a text that was checked before. Only a new one
is gone through name by name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

import msgspec

MAX_SHAPES: Final = 4_096  # texts remembered; then the memo starts anew
MAX_SHAPE: Final = 1_024  # longer ones are not
MAX_COLONS: Final = 50_000  # in what is left of a body: a bound on the work, and far above what anybody sends
_ATTEMPTS: Final = 4  # places at which a value is looked for

_DELIMITED: Final = b'[{"'  # how values begin that end where they say; 1 could be the beginning of 12
_COLON: Final = re.compile(rb"[ \t\r\n]*+:[ \t\r\n]*+")
_NAME: Final = re.compile(rb'[ \t\r\n,{]*+("(?:[^"\\]|\\.)*+")[ \t\r\n]*+:[ \t\r\n]*+', re.DOTALL)

_decode: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_name: Final = msgspec.json.Decoder(str).decode

_shapes: set[bytes] = set()  # texts in which every name is given once


def unclear_name(body: bytes, known: frozenset[str], values: Iterable[tuple[bytes, msgspec.Raw]]) -> str | None:
    """What is unclear about the names of this JSON object, in words; None when nothing is.

    `known` are the names that we go by; `values` are long ones, each with its name in quotes.
    """
    text = body
    for name, value in values:
        text = _without(text, name, value)
    if text in _shapes:
        return None
    problem = _read(text.replace(b"\0", b"0"), known)
    if problem is None and len(text) <= MAX_SHAPE:
        if len(_shapes) >= MAX_SHAPES:
            _shapes.clear()
        _shapes.add(text)
    return problem


def is_known(body: bytes, messages: msgspec.Raw) -> bool:
    """Was this body, but for its messages, checked before? The short way for the common case."""
    start = body.find(b'"messages":') + 11
    if body[start] == 32:
        start += 1
    return body[:start] + b"\0" + body[start + len(messages) :] in _shapes and body.startswith(messages, start)


def _without(text: bytes, name: bytes, value: msgspec.Raw) -> bytes:
    """The text without this value. Where it is not found for certain, the text as it is."""
    if memoryview(value)[0] not in _DELIMITED:
        return text
    at = -1
    for _ in range(_ATTEMPTS):
        at = text.find(name, at + 1)
        if at < 0:
            break
        # In valid JSON the second quote can only end a string, and the colon makes that a name: a value follows.
        colon = _COLON.match(text, at + len(name))
        if colon is not None and text.startswith(value, colon.end()):
            return text[: colon.end()] + b"\0" + text[colon.end() + len(value) :]
    return text


def _read(text: bytes, known: frozenset[str]) -> str | None:
    """Go through the names of an object that is known to be valid JSON."""
    if text.count(b":") > MAX_COLONS:
        return "the body has too many fields"
    try:
        values = _decode(text)
    except UnicodeDecodeError:  # what nobody asked for was not looked at before
        return "the body has a name that is not UTF-8"
    seen = set()
    at = 0
    while (match := _NAME.match(text, at)) is not None:
        written = match[1]
        name = _decode_name(written)
        if name in seen or not text.startswith(values[name], match.end()):  # then this value is not the one that counts
            return "the body gives a name twice"
        seen.add(name)
        if name.lower() in known and (b"\\" in written or name not in known):
            return f"the body does not spell `{name.lower()}` as it is spelled"
        at = match.end() + len(values[name])
    # Else a number was taken for the beginning of another one.
    return None if text[at:].strip(b" \t\r\n{") == b"}" else "the body gives a name twice"
