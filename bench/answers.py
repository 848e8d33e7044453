"""Is this answer whole, and is it the answer to this request?

Rule 1: the status is 200 and the body is compared byte by byte with what the stub must have sent.
Rule 2: a proxy may change the framing (chunked or not) and the head; it may not change the body.
"""

from __future__ import annotations

from bench.stub import BODY_AFTER, BODY_BEFORE


class Wrong(Exception):
    """The answer is not what the stub sent for this request; the text says how."""


def split(data: bytes) -> tuple[bytes, bytes] | None:
    """(head in lower case, rest), or None while the head is incomplete; a status other than 200 is wrong."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return None
    if not data.startswith(b"HTTP/1.1 200 "):
        line = data.split(b"\r\n", 1)[0]
        raise Wrong(f"answered {line.decode('latin-1')!r}")
    return data[: end + 2].lower(), data[end + 4 :]


def dechunked(data: bytes) -> bytes | None:
    """The body inside a chunked message, or None while its end is missing."""
    pieces: list[bytes] = []
    at = 0
    while True:
        line = data.find(b"\r\n", at)
        if line < 0:
            return None
        try:
            size = int(data[at:line].split(b";")[0], 16)
        except ValueError:
            raise Wrong(f"chunk size {data[at:line][:20]!r}") from None
        start, at = line + 2, line + 4 + size
        if len(data) < at:
            return None
        if data[at - 2 : at] != b"\r\n":
            raise Wrong("chunk longer than its size says")
        if size == 0:
            if len(data) > at:
                raise Wrong(f"{len(data) - at} bytes after the last chunk")
            return b"".join(pieces)
        pieces.append(data[start : at - 2])


def body_of(data: bytes) -> tuple[bytes, bytes] | None:
    """(head in lower case, decoded body) of one whole answer, or None while something is missing."""
    parts = split(data)
    if parts is None:
        return None
    head, rest = parts
    if b"\r\ntransfer-encoding: chunked\r\n" in head:
        body = dechunked(rest)
        return None if body is None else (head, body)
    _, found, length = head.partition(b"\r\ncontent-length: ")
    if not found:
        raise Wrong("answer without framing")
    size = int(length.split(b"\r\n", 1)[0])
    if len(rest) > size:
        raise Wrong(f"{len(rest) - size} bytes after the body")
    return (head, rest) if len(rest) == size else None


def check_plain(body: bytes, mark: bytes) -> None:
    """Raise Wrong unless `body` is the stub's JSON answer for the request with `mark`."""
    if body != BODY_BEFORE + mark + BODY_AFTER:
        raise Wrong(f"body of {len(body)} bytes is not the answer to this request")
