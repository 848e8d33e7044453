"""Header lines of HTTP/1.1: is this one, what is it to us, may it be passed on?

Rule 1: no I/O. Rule 2: what is not exactly `name: value` as RFC 9110 section 5 has it is refused, never repaired.
Rule 3: lines are known by their bytes: each is classified once and remembered, as heads repeat.
"""

from __future__ import annotations

import re
from typing import Final

MAX_FIELD_MEMO = 4_096  # lines remembered; then the memo starts anew
MAX_LINE_MEMO = 256  # longer lines are not remembered

# Field content: visible, space, tab, obs-text. Not CR, LF, NUL or other controls (RFC 9110 section 5.5).
_VALUE_BYTES: Final = bytes(c for c in range(256) if (c >= 0x20 and c != 0x7F) or c == 0x09)
TOKEN: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")


# What a line is to us. Everything but FORWARD is taken out of the forwarded lines.
FORWARD, DROP, HOST, LENGTH, CODING, CONNECTION, EXPECT, REQUEST_ID, VIA, CONTENT_TYPE = range(10)
FORWARDED, ENCODING = range(10, 12)

_HOP_BY_HOP: Final = (
    "keep-alive", "proxy-connection", "proxy-authenticate", "proxy-authorization", "te", "trailer", "upgrade",
    "http2-settings",
)  # fmt: skip
REQUEST_FIELDS: Final = {
    **{name.encode(): DROP for name in _HOP_BY_HOP},
    b"host": HOST, b"content-length": LENGTH, b"transfer-encoding": CODING, b"connection": CONNECTION,
    b"expect": EXPECT, b"x-request-id": REQUEST_ID, b"via": VIA, b"content-type": CONTENT_TYPE,
    b"content-encoding": ENCODING,
    # what a proxy says of its client: believed only from those that are trusted, see proxy/forwarded.py
    **dict.fromkeys((
        b"forwarded", b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"x-forwarded-port",
        b"x-forwarded-server", b"x-forwarded-prefix", b"x-forwarded-ssl", b"x-real-ip", b"x-client-ip",
    ), FORWARDED),
}  # fmt: skip
RESPONSE_FIELDS: Final = {
    **{name.encode(): DROP for name in _HOP_BY_HOP},
    b"content-length": LENGTH, b"transfer-encoding": CODING, b"connection": CONNECTION, b"x-request-id": DROP,
    b"content-type": CONTENT_TYPE,
}  # fmt: skip

# A client that names one of these in `Connection` wants us to take away what others decide by.
NOT_HOP_BY_HOP: Final = frozenset((
    b"host", b"content-length", b"transfer-encoding", b"content-type", b"content-encoding", b"authorization",
    b"x-api-key", b"api-key", b"cookie", b"x-request-id", b"via", b"expect", b"x-tenant", b"x-session-id",
    *(name for name, kind in REQUEST_FIELDS.items() if kind == FORWARDED),
))  # fmt: skip
# Frameworks of the CGI kind read _ in a name as -. A twin of one of these could be taken for the real one.
_KNOWN: Final = NOT_HOP_BY_HOP | REQUEST_FIELDS.keys()


# What balancers tell each other: nobody outside may say it. Engines' frameworks read _ as -, so both count.
_RESERVED: Final = (b"x-fairlead-", b"x-gateway-destination-endpoint")


def is_reserved(name: bytes) -> bool:
    """Is this field (name in lower case) ours to set, and nobody else's?"""
    return name.startswith(b"x") and name.replace(b"_", b"-").startswith(_RESERVED)


class BadHttp(Exception):
    """Bytes that we refuse. `reason` is a short fixed word for logs and metrics."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status, self.reason, self.message = status, reason, message


def bad_framing(message: str) -> BadHttp:
    """The refusal of bytes that two parsers could read differently."""
    return BadHttp(400, "bad_framing", message)


def _classify(line: bytes, fields: dict[bytes, int]) -> tuple[int, bytes]:
    """(what the line is, its value); BadHttp when it is no field line."""
    name, colon, value = line.partition(b":")
    if not colon:
        raise bad_framing("a header line has no colon")
    if TOKEN.fullmatch(name) is None:
        if line[:1] in (b" ", b"\t"):
            raise bad_framing("a header line begins with a space: folded lines are not accepted")
        raise bad_framing("a header name holds a character that is not allowed")
    if value.translate(None, _VALUE_BYTES):
        raise bad_framing("a header value holds a control character")
    key = name.lower()
    kind = fields.get(key, FORWARD)
    if kind == FORWARD and is_reserved(key):
        kind = DROP
    elif kind == FORWARD and b"_" in key and fields is REQUEST_FIELDS and (twin := key.replace(b"_", b"-")) in _KNOWN:
        if REQUEST_FIELDS.get(twin) != FORWARDED:
            raise bad_framing("a header name differs from a known one by an underscore only")
        kind = DROP  # it was not said by a trusted proxy
    return kind, value.strip(b" \t")


# Lines seen before and what they are. Heads repeat from request to request, so most lines hit.
request_lines: dict[bytes, tuple[int, bytes]] = {}
response_lines: dict[bytes, tuple[int, bytes]] = {}


def learn(line: bytes, known: dict[bytes, tuple[int, bytes]], fields: dict[bytes, int]) -> tuple[int, bytes]:
    """Classify a line that was not seen before, and remember it if it may come again."""
    found = _classify(line, fields)
    if len(line) <= MAX_LINE_MEMO and found[0] not in (REQUEST_ID, LENGTH):
        if len(known) >= MAX_FIELD_MEMO:
            known.clear()
        known[line] = found
    return found
