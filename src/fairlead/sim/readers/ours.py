"""Fairlead's own files: how do its access log and its recordings become requests?

Recordings name blocks of the prompt by bytes, unequal ones, since the proxy has no tokenizer. The simulator's engines
work with blocks of 16 tokens. How many tokens lie before the end of a recorded block?
Rule 1: that number belongs to the recorded block, so that requests with equal blocks agree on it. It is set by the
        first request that has the block: behind the blocks that are known already, the rest of its tokens lie evenly
        over the rest of its bytes.
Rule 2: token block k is named after (the first recorded block that ends at or beyond its end, k). So two prompts that
        share recorded blocks up to byte E, and no more, share the token blocks that end at or below E, and no more.
Rule 3: what lies behind the last recorded block is shared with nobody, and models share nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from xxhash import xxh3_64_intdigest

from fairlead.sim.readers.fields import MAX_BYTES, BadLine, has, items, json_object, number, shown, text, whole
from fairlead.sim.readers.formats import Row
from fairlead.sim.trace import FAILED, OK, REFUSED, UNFINISHED, Measured, Request

HEADER: Final = "fairlead_recording"
VERSION: Final = 1
LONGEST: Final = 10_000_000.0  # seconds that a request can take
_STATUS: Final = {"ok": OK, "refused": REFUSED, "client_gone": UNFINISHED}  # every other outcome is a failure
_BUSY: Final = (429, 503)
_HASH_DIGITS: Final = 16


def _measured(row: Mapping[str, Any]) -> Measured:
    """What the file says about how it went."""
    outcome, status = text(row, "outcome"), whole(row, "status", 0, 999)
    return Measured(
        backend=text(row, "backend"),
        ttft=number(row, "ttft", high=LONGEST) if has(row, "ttft") else None,
        duration=number(row, "duration", high=LONGEST),
        cached=whole(row, "cached_tokens", 0) if has(row, "cached_tokens") else None,
        status=REFUSED if status in _BUSY else _STATUS.get(outcome, FAILED),
    )


class AccessLog:
    """The access log as JSON lines: lengths, times and what was measured; no word on prefixes."""

    block_tokens = 16
    in_order = False  # written when requests end
    rounded = False

    def __init__(self) -> None:
        self._without = 0

    def row(self, line: bytes) -> Row | None:
        row = json_object(line)
        measured = _measured(row)
        # An answer without generated tokens is an embedding; a failure without them was stopped who knows where.
        if not has(row, "prompt_tokens") or not (has(row, "output_tokens") or measured.status == OK):
            self._without += 1
            return None
        output = whole(row, "output_tokens", 0) if has(row, "output_tokens") else 0
        return Request(number(row, "time"), whole(row, "prompt_tokens", 1), output, model=text(row, "model")), measured

    def notes(self) -> Sequence[str]:
        said = ["Access log: it says nothing about prefixes, so no request shares one; a recording does."]
        if self._without:
            said.append(f"Left out {_lines(self._without)} without token counts.")
        return said


class Recording:
    """What `serve --record` writes: a header, then one request per line."""

    block_tokens = 16
    in_order = False
    rounded = False

    def __init__(self) -> None:
        self._started = 0.0
        self._without = 0
        self._blocks: dict[int, tuple[int, tuple[int, ...]]] = {}  # recorded block: tokens up to its end, token blocks
        self._models: dict[str, int] = {}

    def row(self, line: bytes) -> Row | None:
        row = json_object(line)
        if HEADER in row:  # the next file of a rotated recording, put behind the first
            self._read_header(row)
            return None
        if not has(row, "prompt_tokens") or row["prompt_tokens"] == 0:
            self._without += 1
            return None
        prompt, model = whole(row, "prompt_tokens", 1), text(row, "model")
        request = Request(
            at=self._started + number(row, "at"),
            prompt=prompt,
            output=whole(row, "output_tokens", 0) if has(row, "output_tokens") else 0,
            blocks=self._token_blocks(model, *_recorded_blocks(row), whole(row, "prompt_bytes", 0, MAX_BYTES), prompt),
            tenant=text(row, "tenant"),
            session=text(row, "session"),
            model=model,
            max_tokens=whole(row, "max_tokens", 0, 1 << 62) if has(row, "max_tokens") else None,
        )
        return request, _measured(row)

    def notes(self) -> Sequence[str]:
        said = ["Fairlead recording: prefixes were recorded by bytes and are cut into blocks of 16 tokens."]
        if self._without:
            said.append(f"Left out {_lines(self._without)} without a prompt's token count.")
        return said

    def _read_header(self, row: Mapping[str, Any]) -> None:
        version = row[HEADER]
        if version != VERSION:
            raise BadLine(f"{HEADER}: this Fairlead reads version {VERSION}, got {shown(version)}")
        self._started = number(row, "started")

    def _token_blocks(
        self, model: str, hashes: Sequence[int], ends: Sequence[int], size: int, prompt: int
    ) -> tuple[int, ...]:
        """Rules 1 to 3. `ends` are bytes, `size` the whole prompt's; the last block may end beyond it."""
        known, step = self._blocks, self.block_tokens
        root = self._models.setdefault(model, xxh3_64_intdigest(model.encode(errors="replace")))
        found: list[int] = []
        bytes_before = tokens_before = 0
        for recorded, nominal in zip(hashes, ends, strict=True):
            key, end = xxh3_64_intdigest(recorded.to_bytes(8, "little"), seed=root), min(nominal, size)
            entry = known.get(key)
            if entry is None:
                rest = max(prompt - tokens_before, 0)
                share = rest * (end - bytes_before) // (size - bytes_before) if size > bytes_before else 0
                tokens = tokens_before + share
                numbers = range(tokens_before // step, tokens // step)
                entry = known[key] = tokens, tuple(xxh3_64_intdigest(k.to_bytes(8, "little"), key) for k in numbers)
            found += entry[1]
            bytes_before, tokens_before = end, entry[0]
        return tuple(found[: prompt // step])


def _recorded_blocks(row: Mapping[str, Any]) -> tuple[list[int], list[Any]]:
    names, ends = items(row, "blocks"), items(row, "ends")
    if len(names) != len(ends):
        raise BadLine(f"blocks and ends: expected as many of both, got {len(names)} and {len(ends)}")
    try:
        hashes = [int(name, 16) for name in names if len(name) == _HASH_DIGITS and name.isalnum()]
    except (TypeError, ValueError, AttributeError):
        hashes = []
    if len(hashes) != len(names):
        raise BadLine(f"blocks: expected hashes of {_HASH_DIGITS} hexadecimal digits, got {shown(names)}")
    before = 0
    for end in ends:
        if type(end) is not int or not before < end <= MAX_BYTES:
            raise BadLine(f"ends: expected rising numbers of bytes, got {shown(end)} after {before}")
        before = end
    return hashes, ends


def _lines(count: int) -> str:
    return "one line" if count == 1 else f"{count:,} lines"
