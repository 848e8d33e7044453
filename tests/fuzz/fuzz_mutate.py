"""Inputs made of inputs: a byte mutator that knows the words of the format it works on.

Rule: deterministic. The same source of chance and the same corpus give the same inputs.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

LONGEST = 4_096
ODD = (b"\x00", b"\n", b"\r", b"\r\n", b"\r\n\r\n", b" ", b"\t", b"\x0b", b"\x7f", b"\x80", b"\xa0", b"\xff", b":",
       b",", b";", b"-1", b"+1", b"0x1", b"1_0", b"00", b"65536", b"18446744073709551616", b"99999999999999999999",
       b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\xc0\xaf", b'"', b"{", b"}", b"[", b"]")  # fmt: skip

Mutation = Callable[[bytes, random.Random, Sequence[bytes], Sequence[bytes]], bytes]


def _span(data: bytes, rng: random.Random) -> tuple[int, int]:
    start = rng.randrange(len(data) + 1)
    return start, min(start + rng.choice((1, 1, 2, 4, 16, 64)), len(data))


def _insert(data: bytes, rng: random.Random, words: Sequence[bytes], others: Sequence[bytes]) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + rng.choice(words if rng.random() < 0.6 else ODD) + data[at:]


def _replace(data: bytes, rng: random.Random, words: Sequence[bytes], others: Sequence[bytes]) -> bytes:
    start, end = _span(data, rng)
    return data[:start] + rng.choice(words if rng.random() < 0.5 else ODD) + data[end:]


def _word(data: bytes, rng: random.Random, words: Sequence[bytes], others: Sequence[bytes]) -> bytes:
    """One of the format's words becomes another."""
    known = [word for word in words if word and word in data]
    if not known:
        return _insert(data, rng, words, others)
    return data.replace(rng.choice(known), rng.choice(words), 1)


def _delete(data: bytes, rng: random.Random, words: Sequence[bytes], others: Sequence[bytes]) -> bytes:
    start, end = _span(data, rng)
    return data[:start] + data[end:]


def _repeat(data: bytes, rng: random.Random, words: Sequence[bytes], others: Sequence[bytes]) -> bytes:
    start, end = _span(data, rng)
    return data[:end] + data[start:end] * rng.choice((1, 1, 2, 8, 40)) + data[end:]


def _flip(data: bytes, rng: random.Random, words: Sequence[bytes], others: Sequence[bytes]) -> bytes:
    if not data:
        return data
    at = rng.randrange(len(data))
    return data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :]


def _number(data: bytes, rng: random.Random, words: Sequence[bytes], others: Sequence[bytes]) -> bytes:
    """A digit becomes another."""
    places = [i for i, byte in enumerate(data) if 48 <= byte <= 57]
    if not places:
        return _flip(data, rng, words, others)
    at = rng.choice(places)
    return data[:at] + b"%d" % rng.choice((0, 1, 2, 5, 9, 10, 255)) + data[at + 1 :]


def _lines(data: bytes, rng: random.Random, words: Sequence[bytes], others: Sequence[bytes]) -> bytes:
    """Lines change places, or one comes twice."""
    end = b"\r\n" if b"\r\n" in data else b"\n"
    lines = data.split(end)
    a, b = rng.randrange(len(lines)), rng.randrange(len(lines))
    if rng.random() < 0.5:
        lines[a], lines[b] = lines[b], lines[a]
    else:
        lines.insert(a, lines[b])
    return end.join(lines)


def _splice(data: bytes, rng: random.Random, words: Sequence[bytes], others: Sequence[bytes]) -> bytes:
    """The beginning of one and the end of another."""
    other = rng.choice(others)
    return data[: rng.randrange(len(data) + 1)] + other[rng.randrange(len(other) + 1) :]


def _append(data: bytes, rng: random.Random, words: Sequence[bytes], others: Sequence[bytes]) -> bytes:
    return data + rng.choice(others)


MUTATIONS: tuple[Mutation, ...] = (
    _insert, _insert, _replace, _word, _word, _delete, _repeat, _flip, _number, _lines, _splice, _append,
)  # fmt: skip


def mutate(data: bytes, rng: random.Random, words: Sequence[bytes], others: Sequence[bytes]) -> bytes:
    """An input near `data`; `others` are inputs to splice with."""
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        data = rng.choice(MUTATIONS)(data, rng, words, others)
    return data[:LONGEST]
