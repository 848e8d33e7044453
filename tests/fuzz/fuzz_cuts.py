"""One input, cut into pieces in several ways: what a network may do to it on its way.

Rule: the cuts follow from the input alone, so an input that breaks a law breaks it again.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterator

BYTEWISE = 1_500  # longer inputs are not fed byte by byte


def rng_of(data: bytes) -> random.Random:
    """A source of chance that belongs to this input."""
    return random.Random(zlib.crc32(data))


def cuttings(data: bytes) -> Iterator[list[bytes]]:
    """Ways to cut `data`: byte by byte, in two at an offset, at line ends, and anywhere."""
    if len(data) < 2:
        return
    if len(data) <= BYTEWISE:
        yield [data[i : i + 1] for i in range(len(data))]
    rng = rng_of(data)
    half = rng.randrange(1, len(data))
    yield [data[:half], data[half:]]
    ends = [i + 1 for i, byte in enumerate(data[:-1]) if byte == 13]  # between CR and LF
    if ends:
        yield cut(data, sorted(rng.sample(ends, min(len(ends), 12))))
    yield cut(data, sorted(rng.sample(range(1, len(data)), min(len(data) - 1, rng.choice((2, 3, 7))))))


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """The pieces between these places."""
    return [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)]
