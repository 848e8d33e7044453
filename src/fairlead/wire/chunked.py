"""Chunked bodies: where do they end, and what do they carry?

One scanner for both directions. It follows the framing without touching the bytes, so that a relay can pass
on what it read as the same object; with a `sink` it also collects the payload. Strict (RFC 9112 section 7.1):
sizes are 1 to 16 hex digits, lines end with CRLF, extensions are bounded and free of controls, trailers
are bounded.
"""

from __future__ import annotations

import re

from fairlead.wire.fields import BadHttp

MAX_EXTENSIONS = 4_096  # bytes of chunk extensions in one body
MAX_LINE = 4_096
MAX_TRAILERS = 16_384
MAX_SIZES = 65_536

_SIZE_LINE = re.compile(rb"([0-9A-Fa-f]{1,16})(;[\t\x20-\x7e\x80-\xff]*)?")
_TRAILER = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t\x20-\x7e\x80-\xff]*")
_TRAILER_PART = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")

SIZE, DATA, CRLF, TRAILERS, DONE = range(5)

_sizes: dict[bytes, int] = {}  # size lines seen before: engines send few different ones


def _bad(message: str) -> BadHttp:
    return BadHttp(400, "bad_framing", message)


class ChunkScanner:
    """Feed it the body's bytes as they come.

    After `feed`: `done` says that the body has ended; `end` is the index behind its last byte in the data just fed.
    """

    __slots__ = ("_extensions", "_left", "_partial", "_state", "_tail", "_trailers", "done", "end", "payload", "sink")

    def __init__(self, sink: list[bytes] | None = None) -> None:
        self.sink = sink
        self.payload = 0  # payload bytes so far
        self.done = False
        self.end = 0
        self._state = SIZE
        self._left = 0  # payload bytes of this chunk still to come
        self._partial = b""  # the beginning of a line that is cut by the read's end
        self._extensions = 0
        self._tail = 0  # where the trailers begin in the data just fed
        self._trailers = 0

    @property
    def between(self) -> bool:
        """Is the body at a chunk's beginning (so that a chunk of our own could be put in here)?"""
        return self._state == SIZE and not self._partial

    def whole(self, data: bytes) -> bool:
        """Is `data` exactly one whole chunk, as engines send each event? Then it is taken, and all is said.

        The short way for the common case; False means nothing: use `feed`.
        """
        if self._state or self._partial:
            return False
        i = data.find(b"\r\n", 0, 10)
        size = _sizes.get(data[:i])
        if not size or len(data) != i + size + 4 or data[-2:] != b"\r\n" or self.sink is not None:
            return False
        self.payload += size
        return True

    def feed(self, data: bytes) -> None:
        """Follow the framing through `data`; BadHttp when it is broken."""
        i, n = 0, len(data)
        self._tail = 0
        if self._partial:
            # A line was cut by the last read's end: finish it first.
            i = self._finish_line(data)
        while i < n and not self.done:
            state = self._state
            if state == SIZE:
                j = data.find(b"\r\n", i)
                if j < 0:
                    self._hold(data, i)
                    return
                size = _sizes.get(line := data[i:j])
                if size is None:
                    size = self._size(line)
                self._tail = i = j + 2
                if self._chunk(size):
                    # The common case: the whole chunk lies in this read.
                    end = i + size
                    if end + 2 <= n:
                        if data[end : end + 2] != b"\r\n":
                            raise _bad("a chunk does not end with CRLF")
                        if self.sink is not None:
                            self.sink.append(data[i:end])
                        self._state = SIZE
                        i = end + 2
            elif state == DATA:
                taken = min(self._left, n - i)
                if self.sink is not None:
                    self.sink.append(data[i : i + taken])
                self._left -= taken
                i += taken
                if not self._left:
                    self._state = CRLF
            elif state == CRLF:
                if n - i < 2:
                    if data[i] != 13:
                        raise _bad("a chunk does not end with CRLF")
                    self._partial = b"\r"
                    self.end = n
                    return
                if data[i : i + 2] != b"\r\n":
                    raise _bad("a chunk does not end with CRLF")
                i += 2
                self._state = SIZE
            else:
                j = data.find(b"\r\n", i)
                if j < 0:
                    self._hold(data, i)
                    return
                self._trailer(data[i:j])
                i = j + 2
        self.end = i

    def kept(self, data: bytes) -> bytes:
        """What may be passed on of the data just fed: all up to the body's end, but for trailers.

        RFC 9110 section 6.5.1: what would be merged into the head elsewhere must not come in by the back door.
        """
        if self._state < TRAILERS:
            return data
        return data[: self._tail] + (b"\r\n" if self.done else b"")

    def _size(self, line: bytes) -> int:
        if len(line) > MAX_LINE:
            raise self._too_long()
        match = _SIZE_LINE.fullmatch(line)
        if match is None:
            raise self._broken()
        size = int(match[1], 16)
        if match[2] is not None:
            self._extensions += len(match[2])
            if self._extensions > MAX_EXTENSIONS:
                raise _bad("too many chunk extensions")
        elif len(line) <= 8:
            if len(_sizes) >= MAX_SIZES:
                _sizes.clear()
            _sizes[line] = size
        return size

    def _chunk(self, size: int) -> bool:
        """Begin a chunk; False for the last one."""
        if size == 0:
            self._state = TRAILERS
            return False
        self.payload += size
        self._left = size
        self._state = DATA
        return True

    def _trailer(self, line: bytes) -> None:
        if not line:
            self._state = DONE
            self.done = True
            return
        self._trailers += len(line) + 2
        if len(line) > MAX_LINE or self._trailers > MAX_TRAILERS:
            raise self._too_long()
        if _TRAILER.fullmatch(line) is None:
            raise self._broken()

    def _hold(self, data: bytes, i: int) -> None:
        """Keep the beginning of a line until the rest comes; refuse it now if no rest can mend it."""
        line = data[i:]
        text = line.removesuffix(b"\r")
        if len(text) > MAX_LINE:
            raise self._too_long()
        part = _SIZE_LINE if self._state == SIZE else _TRAILER_PART
        if part.fullmatch(text) is None:
            raise self._broken()
        self._partial = line
        self.end = len(data)

    def _broken(self) -> BadHttp:
        return _bad(
            "a chunk size is not a plain hexadecimal number" if self._state == SIZE else "a trailer is no field"
        )

    def _too_long(self) -> BadHttp:
        return _bad("a chunk line is too long" if self._state == SIZE else "the trailers are too long")

    def _finish_line(self, data: bytes) -> int:
        """Complete the line held back; the index in `data` behind it."""
        held, self._partial = self._partial, b""
        if self._state == CRLF:
            if data[:1] != b"\n":
                raise _bad("a chunk does not end with CRLF")
            self._state = SIZE
            return 1
        if held.endswith(b"\r"):
            if data[:1] != b"\n":
                raise self._broken()
            line, end = held[:-1], 1
        else:
            j = data.find(b"\r\n")
            if j < 0:
                self._hold(held + data, 0)
                self.end = len(data)
                return len(data)
            line, end = held + data[:j], j + 2
        if self._state == SIZE:
            size = self._size(line)
            self._chunk(size)
            self._tail = end
        else:
            self._trailer(line)
        return end
