"""How did a streamed answer end: with its dialect's last word, with an error of the engine's, or in the middle?

Framing alone cannot tell: an engine whose worker died may end a chunked body properly after any token. So the end of a
stream is looked at, once, for what its dialect says last.
Rule 1: only routes whose last words are known are judged, and any dialect's will do: some engines mix them.
Rule 2: an error that the engine itself put into the stream is an end too: the client is told already.
Rule 3: no text is kept; only the last few kilobytes are looked at.
"""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

_FRAMING = re.compile(rb"\r\n(?:[0-9A-Fa-f]{1,16}\r\n)?")  # what chunks put between the bytes of a stream
# A quote before a name that is no part of a string's text: there it would stand behind a backslash.
_LAST_WORD = re.compile(
    rb'data: ?\[DONE\]|"finish_reason": ?"'  # chat and completions
    rb'|"response\.(?:completed|incomplete|failed)"'  # responses
    rb'|event: ?message_stop\b|"type": ?"message_stop"'  # messages
    rb'|event: ?error\b|data: ?\{"(?:error|object": ?"error)"|"type": ?"error"'
)
ERROR_WORD: Final = b'"error"'  # without it an answer tells of no error
JUDGED: Final = frozenset((b"/v1/chat/completions", b"/v1/completions", b"/v1/responses", b"/v1/messages"))

_SERVER_TYPES: Final = frozenset(
    ("server_error", "internal_error", "internalservererror", "internal_server_error", "api_error", "overloaded_error")
)


def ends_well(path: bytes, tail: bytes) -> bool:
    """Does this end of a stream, framing included or not, hold the last word of any dialect?"""
    return path not in JUDGED or _LAST_WORD.search(_FRAMING.sub(b"", tail)) is not None


def tells_server_error(tail: bytes, *, stream: bool) -> bool:
    """Does an answer with status 200 end with an error object that is the engine's fault, not the request's?"""
    if ERROR_WORD not in tail:
        return False
    if not stream:
        return _is_server_error(tail)
    events = (line.partition(b":")[2] for line in tail.splitlines() if line.startswith(b"data:"))
    return any(_is_server_error(event) for event in events if ERROR_WORD in event)


def _is_server_error(data: bytes) -> bool:
    try:
        said: Any = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    error = said.get("error") if isinstance(said, dict) else None
    if not isinstance(error, dict):
        return False
    code, kind = error.get("code"), error.get("type")
    if isinstance(code, int):
        return code >= 500
    return isinstance(kind, str) and kind.lower() in _SERVER_TYPES
