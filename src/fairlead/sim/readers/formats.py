"""Formats of others: how do Mooncake's and Azure's published traces become requests?

Each format is a class with the same few members (`Format`); read.py does what is common to all.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final, Protocol

from xxhash import xxh3_64_intdigest

from fairlead.sim.readers.fields import MAX_SECONDS, BadLine, items, json_object, number, shown, whole
from fairlead.sim.trace import Measured, Request

Row = tuple[Request, Measured | None]


class Format(Protocol):
    """Reads one file's lines. `Request.at` may count from anywhere: read.py lets the first request arrive at 0."""

    block_tokens: int
    in_order: bool  # lines stand in the order of arrival, so the first N requests are the first N lines
    rounded: bool  # times may be rounded to seconds: see spread.py

    def row(self, line: bytes) -> Row | None:
        """The request of a line; None where it has none that can be replayed. BadLine."""
        ...

    def notes(self) -> Sequence[str]:
        """What was done to the file, in sentences, when all of it is read."""
        ...


class Mooncake:
    """JSON lines of the Mooncake release: one hash id for each block of 512 tokens, equal after equal blocks."""

    block_tokens = 512
    in_order = True
    rounded = True

    def __init__(self) -> None:
        self._hashes: dict[int, int] = {}

    def row(self, line: bytes) -> Row:
        row = json_object(line)
        at = number(row, "timestamp", high=MAX_SECONDS) / 1000
        prompt = whole(row, "input_length", 1)
        output = whole(row, "output_length", 0)
        ids = items(row, "hash_ids")[: prompt // self.block_tokens]
        known = self._hashes
        try:
            blocks = tuple([known[id] for id in ids])
        except (KeyError, TypeError):
            known.update(_hashes_of(ids))
            blocks = tuple([known[id] for id in ids])
        return Request(at, prompt, output, blocks), None

    def notes(self) -> Sequence[str]:
        return ("Mooncake trace: shared prefixes are known in full blocks of 512 tokens.",)


def _hashes_of(ids: Sequence[Any]) -> dict[int, int]:
    """Ids count up from 0; hash keys have to be spread over 64 bits."""
    try:
        return {id: xxh3_64_intdigest(struct.pack("<Q", id)) for id in ids}
    except (struct.error, TypeError):
        wrong = next(id for id in ids if type(id) is not int or not 0 <= id < 1 << 64)
        raise BadLine(f"hash_ids: expected whole numbers of at most 64 bits, got {shown(wrong)}") from None


class Azure:
    """CSV of the Azure LLM inference traces: a time and two lengths; no word on prefixes."""

    block_tokens = 16
    in_order = True
    rounded = True
    COLUMNS: Final = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")

    def __init__(self, header: bytes) -> None:
        names = [name.strip().strip('"') for name in header.decode("utf-8", "replace").split(",")]
        self._columns = len(names)
        self._places = [names.index(name) for name in self.COLUMNS]

    def row(self, line: bytes) -> Row:
        fields = line.decode("utf-8", "replace").split(",")
        if len(fields) != self._columns or not fields[-1]:
            filled = sum(map(bool, fields))
            raise BadLine(f"expected {self._columns} columns, got {filled}", torn=True)
        time, prompt, output = (fields[place].strip().strip('"') for place in self._places)
        row = dict(zip(self.COLUMNS, (_seconds(time), _digits(prompt), _digits(output)), strict=True))
        at = number(row, "TIMESTAMP")
        return Request(at, whole(row, "ContextTokens", 1), whole(row, "GeneratedTokens", 0)), None

    def notes(self) -> Sequence[str]:
        return ("Azure trace: it says nothing about prefixes, so no request shares one.",)


def _seconds(time: str) -> object:
    """A date as unix time; without a zone it is UTC. What is no date is given back, and refused as a number."""
    try:
        when = datetime.fromisoformat(time)
    except ValueError:
        return time
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()


def _digits(field: str) -> object:
    return int(field) if field.isascii() and field.removeprefix("-").isdigit() and len(field) < 20 else field
