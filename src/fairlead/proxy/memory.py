"""How many bytes of request bodies are held in all, and may one more come in?

Rule 1: a byte is counted once from when it came until its request needs it no more (answered, refused, client gone),
whoever holds it. Rule 2: what was declared but has not come yet is not counted, so that nobody reserves memory by a
Content-Length. Rule 3: beyond the limit new bytes are refused (503, body_memory); what is held is never taken away.
"""

from __future__ import annotations

from fairlead.wire.chunked import ChunkScanner
from fairlead.wire.fields import BadHttp

MAX_PIECES = 1_024  # pieces of a body kept apart
FLOOR_RATE = 1_024.0  # bytes a second: what a client must bring on the whole


class BodyMemory:
    """The sum over all requests. `used` goes back to zero when nothing is held."""

    __slots__ = ("limit", "used")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0

    def check(self, size: int) -> None:
        """BadHttp when so many bytes more would be too much."""
        if self.used + size > self.limit:
            raise BadHttp(503, "body_memory", "too many request bodies are held at once: try again soon")


class Body:
    """One body on its way in, where it did not come together with its head.

    `length` None means chunks. Counts what it holds in `memory`; `take` or `drop` gives that back.
    """

    __slots__ = ("_begun", "_left", "_limit", "_memory", "_parts", "_pieces", "_scanner", "held", "rest")

    def __init__(self, memory: BodyMemory, limit: int, length: int | None, now: float) -> None:
        self.held = 0  # bytes that came
        self.rest = b""  # what came behind the body's end
        self._memory = memory
        self._limit = limit
        self._begun = now
        self._left = length or 0
        self._parts: list[bytes] = []
        self._pieces: list[bytes] = []  # what the scanner found since `_parts` was last added to
        self._scanner = ChunkScanner(self._pieces) if length is None else None

    def feed(self, data: bytes) -> bool:
        """Take what came; True when the body is whole. BadHttp when it is broken or too much."""
        scanner = self._scanner
        if scanner is None:
            if len(data) > self._left:
                data, self.rest = data[: self._left], data[self._left :]
            self._count(len(data))
            self._left -= len(data)
            self._keep(data)
            return not self._left
        seen = len(self._pieces)
        scanner.feed(data)
        if scanner.payload > self._limit:
            raise too_large(self._limit)
        self._count(sum(map(len, self._pieces[seen:])))
        self._join()
        if not scanner.done:
            return False
        self.rest = data[scanner.end :]
        return True

    def deadline(self, now: float, patience: float) -> float:
        """Until when must more have come? No rest longer than `patience`, and the floor rate over the whole."""
        return min(now, self._begun + self.held / FLOOR_RATE) + patience

    def take(self) -> bytes:
        """The whole body; counted no more: whoever keeps it counts it."""
        self.drop()
        return b"".join((*self._parts, *self._pieces))

    def drop(self) -> None:
        """Count it no more."""
        self._memory.used -= self.held
        self.held = 0

    def _keep(self, data: bytes) -> None:
        self._pieces.append(data)
        self._join()

    def _join(self) -> None:
        """A body in tiny pieces must not become millions of objects."""
        if len(self._pieces) > MAX_PIECES:
            self._parts.append(b"".join(self._pieces))
            self._pieces.clear()

    def _count(self, size: int) -> None:
        self._memory.check(size)
        self._memory.used += size
        self.held += size


def too_large(limit: int) -> BadHttp:
    """The refusal of a body beyond `limits.body`."""
    return BadHttp(413, "body_too_large", f"the request body is larger than {limit} bytes (limits.body)")
