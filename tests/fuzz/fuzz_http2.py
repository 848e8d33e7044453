"""Fuzz targets for HTTP/2: frames before the library reads them, and fields on their way down to HTTP/1.1.

A target takes any bytes and says in a word what came of them; AssertionError, or any exception that is not
documented, means that a law is broken.
"""

from __future__ import annotations

from typing import Final

from fuzz_cuts import cuttings
from fuzz_judges import requests_by_h11, requests_by_llhttp

from fairlead.wire.fields import BadHttp
from fairlead.wire.frames import (
    CONTINUATION,
    END_HEADERS,
    FRAME_HEAD,
    GOAWAY,
    HEADERS,
    MAX_FRAME,
    PREFACE,
    BadFrames,
    FrameGuard,
)
from fairlead.wire.http2 import Malformed, request_head

HEAD_LIMIT: Final = 2_048
FIELD, VALUE = b"\x1e", b"\x1f"  # what stands between fields, and between a name and its value


def frames(data: bytes) -> str:
    """A connection's bytes: every frame is passed on but GOAWAY, however they are cut; floods are refused alike."""
    whole = _guard([data])
    for pieces in cuttings(data):
        other = _guard(pieces)
        assert other == whole, f"cut into {len(pieces)}: {other}, whole: {whole}"
    if isinstance(whole, str):
        return whole
    passed, leaving = whole
    assert passed == _without_goaway(data), f"passed on: {passed!r}"
    return "leaving" if leaving else "passed" if passed else "nothing"


def _guard(pieces: list[bytes]) -> tuple[bytes, bool] | str:
    guard = FrameGuard(HEAD_LIMIT)
    passed = []
    for piece in pieces:
        try:
            passed += guard.feed(piece, 0.0)
        except BadFrames as refused:
            return refused.reason
        assert len(guard._head) < FRAME_HEAD
    return b"".join(passed), guard.leaving


def _without_goaway(data: bytes) -> bytes:
    """The same, in the plainest way: frame by frame, as far as heads are whole."""
    passed, at, in_block = data[: len(PREFACE)], len(PREFACE), False
    while at + FRAME_HEAD <= len(data):
        size, kind, flags = int.from_bytes(data[at : at + 3]), data[at + 3], data[at + 4]
        assert size <= MAX_FRAME
        end = at + FRAME_HEAD + size
        if kind != GOAWAY or in_block or any(data[at + 5 : at + FRAME_HEAD]):
            passed += data[at:end]
        if kind in (HEADERS, CONTINUATION):
            in_block = not flags & END_HEADERS
        at = end
    return passed


def fields(data: bytes) -> str:
    """A request's fields: refused, or one HTTP/1.1 request with exactly these fields to every parser."""
    given = [(name, value) for name, _, value in (part.partition(VALUE) for part in data.split(FIELD))]
    try:
        head = request_head(given, 100, HEAD_LIMIT)
    except Malformed as refused:
        return f"malformed: {str(refused)[:20]}"
    except BadHttp as refused:
        return f"{refused.status} {refused.reason}"
    assert not head.chunked
    size = head.content_length or 0
    body = b"x" * size if size <= HEAD_LIMIT else b""
    length = b"\r\nContent-Length: %d" % size if head.content_length is not None else b""
    raw = b"%b %b HTTP/1.1\r\nHost: %b%b%b\r\n\r\n" % (head.method, head.target, head.host, head.forward, length) + body
    for judge in (requests_by_h11, requests_by_llhttp):
        read = judge(raw)
        assert len(read) == 1, f"{judge.__name__} reads {len(read)} requests: {raw!r}"
        assert (read[0].method, read[0].target) == (head.method, head.target)
        assert len(read[0].fields) == len(head.lines) + 1 + bool(length), f"{judge.__name__}: {read[0].fields}"
        assert read[0].whole == (len(body) == size) and read[0].body == body
    names = {name for name, _ in given}
    assert all(line.partition(b":")[0] in names for line in head.lines), "a field that nobody gave"
    return "request"
