"""HTTP/2 heads: header fields as the peer packed them <-> the heads that the rest of Fairlead knows.

Rule 1: no I/O. Rule 2: a request's fields are first held to HTTP/2's own rules (RFC 9113 sections 8.2 and 8.3), then
written as an HTTP/1.1 head and given to the same parser as every other: what is refused there is refused here, and
backends get the same bytes either way. No byte that would end a line or a name comes so far, so that a field cannot
become two on its way down. Rule 3: what HTTP/2 calls malformed is `Malformed`; the rest is `BadHttp`, with a status.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from hpack import HeaderTuple, NeverIndexedHeaderTuple

from fairlead.wire.fields import BadHttp
from fairlead.wire.http1 import RequestHead, ResponseHead, parse_request

ENTRY_OVERHEAD: Final = 32  # bytes that each field counts for beside its own, RFC 9113 section 6.5.2
MAX_LINE_MEMO: Final = 4_096  # an answer's lines remembered as fields; then the memo starts anew
MAX_LINE: Final = 256  # longer lines are not remembered

Fields = Sequence[tuple[bytes, bytes]]

_NAME: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")  # a token without capitals
_BAD_VALUE: Final = re.compile(rb"^[ \t]|[\r\n\0]|[ \t]\Z")
_PSEUDO: Final = frozenset((b":method", b":scheme", b":path", b":authority"))
_NEEDED: Final = (b":method", b":scheme", b":path")
_CONNECTION: Final = frozenset(
    (b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade", b"http2-settings")
)


class Malformed(Exception):
    """A request that breaks HTTP/2's rules: its stream is reset, no answer is owed."""


def request_head(fields: Fields, max_fields: int = 100, max_head: int = 65_536) -> RequestHead:
    """Check a request's fields. Raises Malformed, or BadHttp with the status to answer."""
    size = sum([len(name) + len(value) + ENTRY_OVERHEAD for name, value in fields])
    if size > max_head:
        raise BadHttp(431, "head_too_long", f"the request head is longer than {max_head} bytes")
    pseudo: dict[bytes, bytes] = {}
    lines: list[bytes] = []
    cookies: list[bytes] = []
    host: bytes | None = None
    for name, value in fields:
        if _BAD_VALUE.search(value) is not None:
            raise Malformed("a value begins or ends with a space, or holds a line's end")
        if name[:1] == b":":
            if lines or cookies or host is not None or name in pseudo or name not in _PSEUDO:
                raise Malformed("a pseudo-header is unknown, given twice, or not before the other fields")
            pseudo[name] = value
        elif _NAME.fullmatch(name) is None:
            raise Malformed("a field's name holds a character that is not allowed")
        elif name in _CONNECTION or (name == b"te" and value.lower() != b"trailers"):
            raise Malformed("a field belongs to a connection of HTTP/1")
        elif name == b"cookie":
            cookies.append(value)
        elif name == b"host":
            if host is not None:
                raise Malformed("Host is given twice")
            host = value
        else:
            lines.append(b"%b: %b" % (name, value))
    method = pseudo.get(b":method", b"")
    if method == b"CONNECT":
        raise BadHttp(501, "bad_method", "this method is not supported")
    if any(not pseudo.get(name) for name in _NEEDED):
        raise Malformed("a pseudo-header is missing or empty")
    if pseudo[b":scheme"] not in (b"http", b"https"):
        raise BadHttp(400, "bad_framing", "the scheme is neither http nor https")
    if pseudo[b":path"][:1] != b"/":
        raise BadHttp(400, "bad_framing", "the request target is not a path")
    authority = pseudo.get(b":authority", host)
    if not authority or (host is not None and host != authority):
        raise Malformed("no authority is given, or Host names another one")
    if cookies:  # RFC 9113 section 8.2.3: crumbs of one field, and to be joined before HTTP/1
        lines.append(b"cookie: " + b"; ".join(cookies))
    start = b"%b %b HTTP/1.1" % (method, pseudo[b":path"])
    return parse_request(b"\r\n".join((start, b"host: " + authority, *lines)), max_fields)


_answer_lines: dict[bytes, tuple[bytes, bytes]] = {}


def _answer_field(line: bytes) -> tuple[bytes, bytes]:
    known = _answer_lines.get(line)
    if known is None:
        name, _, value = line.partition(b":")
        known = HeaderTuple(name.lower(), value.strip(b" \t"))
        if len(line) <= MAX_LINE:
            if len(_answer_lines) >= MAX_LINE_MEMO:
                _answer_lines.clear()
            _answer_lines[line] = known
    return known


def answer_fields(response: ResponseHead, request_id: bytes) -> list[tuple[bytes, bytes]]:
    """A backend's checked head as HTTP/2 fields, with our request id; connection fields were taken out before."""
    fields: list[tuple[bytes, bytes]] = [HeaderTuple(b":status", b"%d" % response.status)]
    fields += [_answer_field(line) for line in response.lines]
    if response.content_length is not None and response.status != 204:
        fields.append(NeverIndexedHeaderTuple(b"content-length", b"%d" % response.content_length))
    # What differs each time would only push the rest out of the peer's table.
    fields.append(NeverIndexedHeaderTuple(b"x-request-id", request_id))
    return fields


def own_fields(status: int, length: int, request_id: bytes, extra: bytes = b"") -> list[tuple[bytes, bytes]]:
    """The fields of an answer of our own; `extra` are header lines, each with its CRLF."""
    return [
        HeaderTuple(b":status", b"%d" % status),
        HeaderTuple(b"server", b"fairlead"),
        HeaderTuple(b"content-type", b"application/json"),
        NeverIndexedHeaderTuple(b"content-length", b"%d" % length),
        *[_answer_field(line) for line in extra.split(b"\r\n") if line],
        NeverIndexedHeaderTuple(b"x-request-id", request_id),
    ]


def interim_fields(response: ResponseHead) -> list[tuple[bytes, bytes]]:
    """A 1xx answer."""
    return [HeaderTuple(b":status", b"%d" % response.status), *[_answer_field(line) for line in response.lines]]
