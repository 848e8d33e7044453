"""HTTP/1.1 heads: bytes -> checked fields, and which lines may be passed on.

Rule 1: no I/O. Rule 2: strict. What two parsers could read differently is refused, never repaired: engines
behind us use many parsers, and only bytes that all of them read alike are safe to forward (RFC 9112 sections
2.2, 5, 6 and 11.2). Rule 3: lines are forwarded as the same bytes or not at all.

Why own code and not llhttp: llhttp lets things through that must be refused here (bare LF, two Hosts), so every
field is checked by us in any case; and heads repeat, which makes looking them up half as dear as llhttp. A new
head costs more than twice as much (docs/decisions.md). llhttp serves as the judge: tests feed it and h11
all that we accept.
"""

from __future__ import annotations

import re
from typing import Final

from fairlead.wire.fields import (
    CODING,
    CONNECTION,
    CONTENT_TYPE,
    ENCODING,
    EXPECT,
    FORWARD,
    FORWARDED,
    HOST,
    LENGTH,
    NOT_HOP_BY_HOP,
    REQUEST_FIELDS,
    REQUEST_ID,
    RESPONSE_FIELDS,
    TOKEN,
    VIA,
    BadHttp,
    bad_framing,
    is_reserved,
    learn,
    request_lines,
    response_lines,
)
from fairlead.wire.targets import check_target

MAX_HEADS = 1_024  # whole heads remembered; then that memo starts anew
MAX_HEAD_MEMO = 2_048  # longer heads are not remembered

EMPTY_LINES: Final = re.compile(rb"\A(?:\r\n)+")
_REQUEST_LINE: Final = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+) ([!-~]+) HTTP/([0-9])\.([0-9])")
_STATUS_LINE: Final = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9][0-9])(?: [\t\x20-\x7e\x80-\xff]*)?")
_HOST: Final = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~!$&'()*+,;=%-]+)?(?::[0-9]{1,5})?")
_REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9._-]{1,128}")
_ABSOLUTE: Final = re.compile(rb"https?://([^/?#@]+)(/[^#]*|\?[^#]*)?", re.IGNORECASE)
METHODS: Final = frozenset((b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS"))
_OFF: Final = frozenset((b"CONNECT", b"TRACE"))


class RequestHead:
    """A checked request head. `lines` are what may be forwarded, without Host, framing and x-request-id."""

    __slots__ = (
        "chunked", "content_length", "content_type", "encoded", "expect_continue", "fields", "forward", "forwarded",
        "host", "keep_alive", "lines", "method", "minor", "request_id", "target", "via",
    )  # fmt: skip

    def __init__(self) -> None:
        self.method = b""
        self.target = b""  # origin form
        self.minor = 1  # HTTP/1.x
        self.host = b""
        self.content_length: int | None = None
        self.chunked = False
        self.keep_alive = True
        self.expect_continue = False
        self.request_id: bytes | None = None
        self.content_type = b""
        self.encoded = False  # is the body compressed or the like?
        self.via: list[bytes] = []
        self.lines: list[bytes] = []
        self.forward = b""  # the lines, each after a CRLF
        self.forwarded: list[bytes] = []  # lines in which a proxy before us tells of its client
        self.fields = 0  # lines in the head, before any was taken out

    def field(self, name: bytes) -> bytes | None:
        """First value of a forwarded field (name in lower case); a walk over the lines, for rare needs."""
        for line in self.lines:
            key, _, value = line.partition(b":")
            if key.lower() == name:
                return value.strip(b" \t")
        return None


class ResponseHead:
    """A checked response head of a backend."""

    __slots__ = (
        "chunked", "content_length", "event_stream", "forward", "keep_alive", "lines", "minor", "reason", "status",
    )  # fmt: skip

    def __init__(self) -> None:
        self.status = 0
        self.minor = 1
        self.reason = b""  # the status line after the version: b"200 OK"
        self.content_length: int | None = None
        self.chunked = False
        self.keep_alive = True
        self.event_stream = False
        self.lines: list[bytes] = []
        self.forward = b""  # status line and lines, each with its CRLF


def check_partial(data: bytes | bytearray) -> None:
    """Refuse a head that has not ended yet as soon as it holds a bare LF; BadHttp."""
    if data.count(b"\n") != data.count(b"\r\n"):
        raise bad_framing("a line ends with a bare LF")


def parse_length(value: bytes) -> int:
    """A Content-Length: decimal digits only, at most 18 of them."""
    if not value.isdigit() or len(value) > 18:
        raise bad_framing("Content-Length is not a plain decimal number")
    return int(value)


_heads: dict[bytes, RequestHead] = {}  # heads seen before, without their Content-Length line


def parse_request(head: bytes, max_fields: int = 100, max_target: int = 16_384) -> RequestHead:
    """Check a request head (without the empty line that ends it). Raises BadHttp with the status to answer.

    A client sends the same head again and again, but for Content-Length: that line is cut out, and the rest looked
    up among the heads that were checked before. The result is shared then: treat it as read-only.
    """
    start = head.find(b"\r\nContent-Length: ")
    if start < 0:
        start = head.find(b"\r\ncontent-length: ")
    if start < 0:
        return _parse_request(head, max_fields, max_target)
    end = head.find(b"\r\n", start + 18)
    if end < 0:
        end = len(head)
    rest = head[:start] + head[end:]
    template = _heads.get(rest)
    if template is None or template.fields > max_fields or len(template.target) > max_target:
        request = _parse_request(head, max_fields, max_target)
        if request.request_id is None and len(rest) <= MAX_HEAD_MEMO:
            if len(_heads) >= MAX_HEADS:
                _heads.clear()
            _heads[rest] = request
        return request
    request = RequestHead.__new__(RequestHead)
    request.method = template.method
    request.target = template.target
    request.minor = template.minor
    request.host = template.host
    request.content_length = parse_length(head[start + 18 : end].strip(b" \t"))
    request.chunked = False
    request.keep_alive = template.keep_alive
    request.expect_continue = template.expect_continue
    request.request_id = None
    request.content_type = template.content_type
    request.encoded = template.encoded
    request.via = template.via
    request.lines = template.lines
    request.forward = template.forward
    request.forwarded = template.forwarded
    request.fields = template.fields
    return request


def _parse_request(head: bytes, max_fields: int, max_target: int) -> RequestHead:
    check_partial(head)  # first, as a head that comes bit by bit is refused for this first
    lines = head.split(b"\r\n")
    request = RequestHead()
    _request_line(lines[0], request, max_target)
    if len(lines) > max_fields + 1:
        raise BadHttp(431, "too_many_fields", f"more than {max_fields} header lines")
    request.fields = len(lines) - 1
    hosts = codings = 0
    length: bytes | None = None
    named: list[bytes] = []
    forward = request.lines
    seen = request_lines
    del lines[0]
    for line in lines:
        kind, value = seen.get(line) or learn(line, seen, REQUEST_FIELDS)
        if kind == FORWARD:
            forward.append(line)
        elif kind == HOST:
            hosts += 1
            request.host = request.host or value
            if _HOST.fullmatch(value) is None:
                raise bad_framing("Host is not a host name with an optional port")
        elif kind == LENGTH:
            if length is not None:
                raise bad_framing("Content-Length is given twice")
            length = value
        elif kind == CONTENT_TYPE:
            request.content_type = value
            forward.append(line)
        elif kind == CONNECTION:
            named += [token.strip(b" \t").lower() for token in value.split(b",")]
        elif kind == CODING:
            codings += 1
            if value.lower() != b"chunked":
                known = all(TOKEN.fullmatch(part.strip(b" \t")) for part in value.split(b","))
                if known and b"chunked" not in value.lower():
                    raise BadHttp(501, "unknown_coding", "this Transfer-Encoding is not supported: send chunked")
                raise bad_framing("Transfer-Encoding is not exactly 'chunked'")
        elif kind == EXPECT:
            if value.lower() != b"100-continue":
                raise BadHttp(417, "bad_expect", "only 'Expect: 100-continue' is understood")
            request.expect_continue = True
        elif kind == REQUEST_ID:
            if _REQUEST_ID.fullmatch(value):
                request.request_id = value
        elif kind == VIA:
            request.via.append(value)
            forward.append(line)
        elif kind == FORWARDED:
            request.forwarded.append(line)
        elif kind == ENCODING:
            request.encoded = request.encoded or value.lower() not in (b"", b"identity")
            forward.append(line)
    if hosts > 1 or (hosts == 0 and request.minor == 1):
        raise bad_framing("exactly one Host header is needed")
    if codings:
        if codings > 1 or length is not None:
            raise bad_framing("the body's length is given in two ways")
        if request.minor == 0:
            raise bad_framing("Transfer-Encoding is not part of HTTP/1.0")
        request.chunked = True
    elif length is not None:
        request.content_length = parse_length(length)
    if request.minor == 0:
        request.keep_alive = False
        request.expect_continue = False
    if named:
        _apply_connection(named, request)
    request.forward = b"".join([b"\r\n" + line for line in request.lines])
    return request


def _request_line(line: bytes, request: RequestHead, max_target: int) -> None:
    match = _REQUEST_LINE.fullmatch(line)
    if match is None:
        if len(line) > max_target:
            raise BadHttp(414, "target_too_long", f"the request target is longer than {max_target} bytes")
        raise bad_framing("the request line is not 'METHOD target HTTP/1.1'")
    method, target, major, minor = match.groups()
    if major != b"1" or minor not in (b"0", b"1"):
        raise BadHttp(505, "bad_version", "only HTTP/1.0 and HTTP/1.1 are spoken here")
    if method not in METHODS:
        if method in _OFF:
            raise BadHttp(405, "bad_method", "CONNECT and TRACE are not allowed here")
        raise BadHttp(501, "bad_method", "this method is not supported")
    if len(target) > max_target:
        raise BadHttp(414, "target_too_long", f"the request target is longer than {max_target} bytes")
    if target[:1] != b"/":
        absolute = _ABSOLUTE.fullmatch(target)
        if absolute is None or _HOST.fullmatch(absolute[1]) is None:
            raise bad_framing("the request target is not a path")
        # RFC 9112 section 3.2.2: the target's authority counts, whatever Host says.
        request.host, path = absolute[1], absolute[2] or b"/"
        target = path if path[:1] == b"/" else b"/" + path
    check_target(target)
    request.method, request.target, request.minor = method, target, int(minor)


def _apply_connection(named: list[bytes], request: RequestHead) -> None:
    drop = set()
    for name in named:
        if name == b"close":
            request.keep_alive = False
        elif name == b"keep-alive":
            if request.minor == 0:
                request.keep_alive = b"close" not in named
        elif name in NOT_HOP_BY_HOP or is_reserved(name):
            raise bad_framing("Connection names a field that must not be dropped on the way")
        elif name:
            drop.add(name)
    if drop:
        request.lines = [line for line in request.lines if line.partition(b":")[0].lower() not in drop]


_response_heads: dict[bytes, ResponseHead] = {}  # answers' heads seen before, without their Content-Length line


def parse_response(head: bytes, max_fields: int = 200) -> ResponseHead:
    """Check a backend's response head (without the empty line). BadHttp (502) when it cannot be trusted.

    Repeats are looked up as in `parse_request`: until the Date changes, an engine's heads differ by length only.
    """
    start = head.find(b"\r\ncontent-length: ")
    if start < 0:
        start = head.find(b"\r\nContent-Length: ")
    end = -1 if start < 0 else head.find(b"\r\n", start + 18)
    if start < 0:
        rest = head
    else:
        if end < 0:
            end = len(head)
        rest = head[:start] + head[end:]
    template = _response_heads.get(rest)
    if template is None or (template.content_length is None) != (start < 0):
        response = _parse_response(head, max_fields)
        # A length in another spelling stands in what is kept: with a second one beside it, it would be missed.
        if len(rest) <= MAX_HEAD_MEMO and (start >= 0 or response.content_length is None):
            if len(_response_heads) >= MAX_HEADS:
                _response_heads.clear()
            _response_heads[rest] = response
        return response
    if start < 0:
        return template
    digits = head[start + 18 : end].strip(b" \t")
    if not digits.isdigit() or len(digits) > 18:
        raise BadHttp(502, "bad_response", "the backend's answer: Content-Length is not a plain decimal number")
    response = ResponseHead.__new__(ResponseHead)
    response.status = template.status
    response.minor = template.minor
    response.reason = template.reason
    response.content_length = int(digits)
    response.chunked = False
    response.keep_alive = template.keep_alive
    response.event_stream = template.event_stream
    response.lines = template.lines
    response.forward = template.forward
    return response


def _parse_response(head: bytes, max_fields: int) -> ResponseHead:
    lines = head.split(b"\r\n")
    response = ResponseHead()
    match = _STATUS_LINE.fullmatch(lines[0])
    if match is None:
        raise BadHttp(502, "bad_response", "the backend's status line is not HTTP/1.1")
    response.minor, response.status = int(match[1]), int(match[2])
    response.reason = lines[0][9:]
    if len(lines) - 1 > max_fields:
        raise BadHttp(502, "bad_response", "the backend's answer has too many header lines")
    codings = 0
    length: bytes | None = None
    named: list[bytes] = []
    forward = response.lines
    known = response_lines
    del lines[0]
    try:
        for line in lines:
            kind, value = known.get(line) or learn(line, known, RESPONSE_FIELDS)
            if kind == FORWARD:
                forward.append(line)
            elif kind == CONTENT_TYPE:
                response.event_stream = value[:17].lower() == b"text/event-stream"
                forward.append(line)
            elif kind == LENGTH:
                if length is not None:
                    raise bad_framing("Content-Length is given twice")
                length = value
                response.content_length = parse_length(value)
            elif kind == CODING:
                codings += 1
                if value.lower() != b"chunked":
                    raise bad_framing("Transfer-Encoding is not exactly 'chunked'")
            elif kind == CONNECTION:
                named += [token.strip(b" \t").lower() for token in value.split(b",")]
    except BadHttp as problem:
        raise BadHttp(502, "bad_response", f"the backend's answer: {problem.message}") from None
    if codings:
        if codings > 1 or length is not None or response.minor == 0:
            raise BadHttp(502, "bad_response", "the backend's answer gives its length in two ways")
        response.chunked = True
    response.keep_alive = response.minor == 1
    for name in named:
        if name == b"close":
            response.keep_alive = False
        elif name == b"keep-alive":
            response.keep_alive = b"close" not in named
        elif name:
            response.lines = [line for line in response.lines if line.partition(b":")[0].lower() != name]
    response.forward = b"HTTP/1.1 %b\r\n%b" % (response.reason, b"".join([line + b"\r\n" for line in response.lines]))
    return response
