"""HTTP/2 frames as they come in: how many of which kind, before anybody takes the trouble to read them?

An attacker's frames cost a few bytes to send and far more to handle, so floods are refused here, by frame headers
alone, at a fraction of what handling one frame costs. What counts as a flood stands in `Bounds`.
Rule 1: no I/O and no clock; the time comes in. Rule 2: it refuses only what no honest client sends; whether frames
are right is the library's business. Rule 3: a client's GOAWAY is taken out: it only says that no more streams will
come, but the library would stop answering those that run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, END_HEADERS = 1, 4
FRAME_HEAD: Final = 9  # bytes before a frame's payload
FRAME_SIZE_ERROR: Final = 6
ENHANCE_YOUR_CALM: Final = 11
MAX_FRAME: Final = 16_384  # payload bytes of one frame, as we never allow more
SMALL_DATA: Final = 64  # DATA frames with less that do not end a stream are suspect


@dataclass(frozen=True, slots=True)
class Bounds:
    """What is taken from one connection within a `window` of seconds."""

    window: float = 10.0
    resets: int = 200  # streams reset
    total_resets: int = 1_000  # and in all, unless at least half as many requests were answered
    noise: int = 1_000  # frames that bring nothing: SETTINGS, PING, PRIORITY, tiny DATA...
    noise_per_answer: int = 3  # ...beyond so many for each frame that we sent: windows must be opened again
    continuations: int = 16  # frames of one header block


class BadFrames(Exception):
    """What no honest client sends; `reason` is a short fixed word, `code` what the GOAWAY says."""

    def __init__(self, reason: str, message: str, code: int = ENHANCE_YOUR_CALM) -> None:
        super().__init__(message)
        self.reason, self.message, self.code = reason, message, code


class FrameGuard:
    """Follows one connection's incoming bytes, however they are cut."""

    __slots__ = (
        "_block", "_bounds", "_continuations", "_head", "_left", "_max_head", "_noise", "_preface", "_resets", "_since",
        "_skip", "answered", "in_block", "leaving", "sent", "total_resets",
    )  # fmt: skip

    def __init__(self, max_head: int, bounds: Bounds | None = None) -> None:
        self._bounds = bounds or Bounds()
        self._max_head = max_head
        self._preface = len(PREFACE)  # bytes of it still to come
        self._head = b""  # the beginning of a frame's head, when a read ended in it
        self._left = 0  # payload bytes to come of the frame at hand
        self._skip = False  # is that frame one that nobody is to read?
        self._block = 0  # bytes of the header block at hand
        self._continuations = 0
        self._noise = self._resets = 0  # in this window of time
        self._since = float("-inf")
        self.in_block = False  # has a header block begun and not ended?
        self.leaving = False  # did the client say that it opens no more streams?
        self.sent = 0  # frames that we sent since the window began
        self.answered = 0  # requests answered in full
        self.total_resets = 0

    def feed(self, data: bytes, now: float) -> list[bytes]:
        """The pieces of `data` that are to be read; raises BadFrames."""
        if now - self._since > self._bounds.window:
            self._since = now
            self._noise = self._resets = self.sent = 0
        pieces: list[bytes] = []
        start = at = 0  # what is before `start` was dealt with, what is before `at` was looked at
        end = len(data)
        if self._preface:
            at = min(self._preface, end)
            self._preface -= at
        while at < end:
            if self._left:
                step = min(self._left, end - at)
                at += step
                self._left -= step
            else:
                need = FRAME_HEAD - len(self._head)
                head = self._head + data[at : at + need]
                if len(head) < FRAME_HEAD:
                    self._head = head
                    # Held back with the rest: whether it is to be read is not known yet.
                    if at > start:
                        pieces.append(data[start:at])
                    return pieces
                held, self._head = self._head, b""
                self._skip = self._frame(head)
                self._left = int.from_bytes(head[:3])
                if held and not self._skip:
                    pieces.append(held)
                if self._skip and at > start:
                    pieces.append(data[start:at])
                at += need
                if self._skip:
                    start = at
            if self._skip and not self._left:
                self._skip = False
                start = at
        if self._skip:
            return pieces
        if at > start:
            pieces.append(data if start == 0 else data[start:at])
        return pieces

    def reset(self) -> None:
        """A stream was reset, by the client or because of what it did."""
        self._resets += 1
        self.total_resets += 1
        bounds = self._bounds
        if self._resets > bounds.resets or (
            self.total_resets > bounds.total_resets and self.total_resets > 2 * self.answered
        ):
            raise BadFrames("rapid_reset", "streams are opened and reset too fast")

    def _frame(self, head: bytes) -> bool:
        """Count a frame by its head; True when nobody is to read it."""
        kind, flags = head[3], head[4]
        size = int.from_bytes(head[:3])
        if size > MAX_FRAME:  # the library would collect all of it before it looks
            raise BadFrames("bad_framing", "a frame is longer than we allow", FRAME_SIZE_ERROR)
        if kind == DATA:
            if size < SMALL_DATA and not flags & END_STREAM:
                self._noisy()
        elif kind in (HEADERS, CONTINUATION):
            if kind == HEADERS:
                self._block = self._continuations = 0
            else:
                self._continuations += 1
            self._block += size
            if self._block > self._max_head or self._continuations > self._bounds.continuations:
                raise BadFrames("head_too_long", "a header block is too long")
            self.in_block = not flags & END_HEADERS
        elif kind == RST_STREAM:
            self.reset()
        elif kind == GOAWAY and not self.in_block and head[5:] == b"\0\0\0\0":
            self.leaving = True
            self._noisy()
            return True
        else:
            self._noisy()
        return False

    def _noisy(self) -> None:
        self._noise += 1
        if self._noise > self._bounds.noise + self._bounds.noise_per_answer * self.sent:
            raise BadFrames("frame_flood", "too many frames that bring nothing")
