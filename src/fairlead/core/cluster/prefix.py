"""Which backend has which beginning of a prompt in its KV cache, as far as we can know without asking?

Our own record of what was sent where, over the chained block hashes of prompts (`Facts.blocks`). Per backend it is a
shelf of blocks, least recently used first, bounded by that backend's KV capacity, so that it forgets about when the
engine does. One table over all shelves maps a block to a bit mask of the backends that have it: the longest prefix on
every backend is found in one search over the prompt's blocks, however many backends there are.

Rule 1: a prompt is put on the shelf when it is sent: an engine works in order, so the next one finds it cached.
Rule 2: a prompt's end is forgotten before its beginning, as engines do; so what a shelf has of a prompt is always a
beginning of it, and where it ends is found by halving.
Rule 3: what an answer needs beside the prompt's blocks (its output) takes room on the shelf, too.
Rule 4: the order of use is kept by batches of prompts, not by single blocks: to use a block again is then one entry
in a table, written for a whole prompt at once. A batch is a small part of the shelf, and goes last prompt first.
Rule 5: memory is bounded: a shelf holds at most MAX_BLOCKS entries, whatever the engine's cache holds.

How far a shelf can be trusted is judged by trust.py.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from typing import Final

MAX_BLOCKS: Final = 65_536  # entries per backend
ENTRY_BYTES: Final = 200  # memory of one entry, measured: its parts of the tables, of its prompt's list, two integers
BATCHES: Final = 32  # a batch is this part of a shelf's limit
LISTED_SPARE: Final = 1_024  # blocks listed in older batches, too, that are not worth a clean-up
DEFAULT_TOKENS: Final = 262_144  # KV capacity taken for an engine that does not tell its own

Entry = tuple[Sequence[int], int, Sequence[int], int]
"""Blocks of a prompt that were not used in the batch before, where the first of them stands in the prompt, the ends of
blocks, and the bytes of the prompt up to the end of the last."""


class Batch:
    """Prompts used at about the same time."""

    __slots__ = ("bytes", "entries", "number", "output")

    def __init__(self, number: int) -> None:
        self.number = number
        self.entries: list[Entry] = []
        self.output = 0  # bytes that their answers take
        self.bytes = 0  # of all its entries, and of the output

    def __repr__(self) -> str:
        return f"<Batch {self.number}, {len(self.entries)} prompts>"


class Shelf:
    """The blocks that one backend is thought to have. Sizes are bytes of prompt."""

    __slots__ = ("batches", "bit", "blocks", "limit", "listed", "used")

    def __init__(self, slot: int) -> None:
        self.bit = 1 << slot
        self.limit = DEFAULT_TOKENS * 4
        self.empty()

    def empty(self) -> None:
        self.blocks: dict[int, int] = {}  # block -> number of the batch in which it was used last
        self.batches = deque([Batch(0)])  # oldest first
        self.listed = 0  # blocks in all entries; some are listed in older batches still
        self.used = 0

    def __repr__(self) -> str:
        return f"<Shelf {len(self.blocks)} blocks, {self.used} of {self.limit} bytes>"


class PrefixIndex:
    """All shelves. Not thread-safe; one balancer owns it."""

    __slots__ = ("_free", "_holders", "_slots")

    def __init__(self) -> None:
        self._holders: dict[int, int] = {}  # block -> bits of the shelves that have it
        self._free: list[int] = []  # slots given back
        self._slots = 0

    @property
    def blocks(self) -> int:
        """Different blocks known."""
        return len(self._holders)

    def shelf(self) -> Shelf:
        """A new, empty shelf; give it back with `retire`."""
        if self._free:
            return Shelf(self._free.pop())
        self._slots += 1
        return Shelf(self._slots - 1)

    def retire(self, shelf: Shelf) -> None:
        """The backend left."""
        self.clear(shelf)
        self._free.append(shelf.bit.bit_length() - 1)

    def clear(self, shelf: Shelf) -> None:
        """The backend has forgotten everything (restarted, cache reset)."""
        holders, bit = self._holders, shelf.bit
        for block in shelf.blocks:
            held = holders[block]
            if held == bit:
                del holders[block]
            else:
                holders[block] = held & ~bit
        shelf.empty()

    def match(self, blocks: Sequence[int], ends: Sequence[int], total: int) -> dict[int, int]:
        """Bytes of the prompt (of `total`) that shelves have, by their bits; those without any are left out."""
        get = self._holders.get
        found: dict[int, int] = {}
        mask = get(blocks[0], 0) if blocks else 0
        if not mask:
            return found
        at, top = 0, len(blocks) - 1  # all of `mask` have the blocks up to `at`
        whole = get(blocks[top], 0)
        while mask != whole:
            high = top
            while high - at > 1:
                middle = (at + high) >> 1
                if get(blocks[middle], 0) == mask:
                    at = middle
                else:
                    high = middle
            here = get(blocks[high], 0)
            lost, covered = mask & ~here, ends[at]
            while lost:
                bit = lost & -lost
                found[bit] = covered
                lost ^= bit
            mask, at = here, high
            if not mask:
                return found
        covered = min(ends[top], total)
        while mask:
            bit = mask & -mask
            found[bit] = covered
            mask ^= bit
        return found

    def insert(self, shelf: Shelf, blocks: Sequence[int], ends: Sequence[int], total: int, output: int) -> None:
        """A prompt of `total` bytes was sent there, whose answer will take about `output` bytes of cache."""
        batches, used_in, length = shelf.batches, shelf.blocks, len(blocks)
        batch = batches[-1]
        number = batch.number
        batch.output += output
        batch.bytes += output
        shelf.used += output
        if length and used_in.get(blocks[-1]) != number:
            hits = _leading(blocks, length, used_in)
            known = hits
            if hits and used_in[blocks[hits - 1]] != number:  # of these, the ones that this batch has
                known, high = 0, hits
                while known < high:
                    middle = (known + high) >> 1
                    if used_in[blocks[middle]] == number:
                        known = middle + 1
                    else:
                        high = middle
            end = min(ends[length - 1], total)
            fresh = blocks[known:] if known else blocks
            used_in.update(dict.fromkeys(fresh, number))
            batch.entries.append((fresh, known, ends, end))
            batch.bytes += end - (ends[known - 1] if known else 0)
            shelf.listed += length - known
            if hits < length:
                shelf.used += end - (ends[hits - 1] if hits else 0)
                self._hold(shelf.bit, fresh if hits == known else blocks[hits:])
        if batch.bytes * BATCHES >= shelf.limit or len(batch.entries) * BATCHES >= MAX_BLOCKS:
            batches.append(Batch(number + 1))
            if shelf.listed > 2 * len(used_in) + LISTED_SPARE:
                _tidy(shelf)
        if shelf.used > shelf.limit or len(used_in) > MAX_BLOCKS:
            self.trim(shelf)

    def trim(self, shelf: Shelf) -> None:
        """Forget the least recently used until the shelf is within its limits."""
        batches = shelf.batches
        while shelf.used > shelf.limit or len(shelf.blocks) > MAX_BLOCKS:
            batch = batches[0]
            forgotten = min(batch.output, max(shelf.used - shelf.limit, 0))
            batch.output -= forgotten
            shelf.used -= forgotten
            while batch.entries and (shelf.used > shelf.limit or len(shelf.blocks) > MAX_BLOCKS):
                self._shorten(shelf, batch)
            if not batch.entries:
                if len(batches) == 1:
                    break
                batches.popleft()
                batches[0].output += batch.output

    def _shorten(self, shelf: Shelf, batch: Batch) -> None:
        """Forget the end of a batch's last prompt: all of it, or what is over the limits."""
        used_in, number = shelf.blocks, batch.number
        blocks, first, ends, end = batch.entries.pop()
        length = len(blocks)
        shelf.listed -= length
        if used_in.get(blocks[-1]) != number:
            return  # all of it was used again since
        keep, over, spare = length, shelf.used - shelf.limit, len(used_in) - MAX_BLOCKS
        if over > 0:
            keep = bisect_right(ends, end - over) - first
        if spare > 0:
            keep = min(keep, length - spare)
        keep = max(keep, 0)
        rest = keep
        if used_in.get(blocks[keep]) != number:  # what was used again since is at the beginning, and stays
            keep, rest = _first(blocks, keep, length - 1, number, used_in), 0
        gone = blocks[keep:] if keep else blocks
        holders, bit = self._holders, shelf.bit
        for block in gone:
            del used_in[block]
            held = holders[block]
            if held == bit:
                del holders[block]
            else:
                holders[block] = held & ~bit
        start = ends[first + keep - 1] if first + keep else 0
        shelf.used -= end - start
        if rest:
            batch.entries.append((blocks[:rest], first, ends, start))
            shelf.listed += rest

    def _hold(self, bit: int, blocks: Sequence[int]) -> None:
        """A shelf has these blocks from now on."""
        holders = self._holders
        if holders.keys().isdisjoint(blocks):  # the common case, at C speed
            holders.update(dict.fromkeys(blocks, bit))
        else:
            for block in blocks:
                holders[block] = holders.get(block, 0) | bit


def _leading(blocks: Sequence[int], length: int, used_in: dict[int, int]) -> int:
    """How many of the blocks are known? Always the first ones."""
    if blocks[0] not in used_in:
        return 0
    if blocks[length - 1] in used_in:
        return length
    low, high = 0, length - 1  # known, not known
    while high - low > 1:
        middle = (low + high) >> 1
        if blocks[middle] in used_in:
            low = middle
        else:
            high = middle
    return high


def _first(blocks: Sequence[int], low: int, high: int, number: int, used_in: dict[int, int]) -> int:
    """The first block after `low` that was used last in batch `number`; the one at `high` was, the one at `low` not."""
    while high - low > 1:
        middle = (low + high) >> 1
        if used_in.get(blocks[middle]) == number:
            high = middle
        else:
            low = middle
    return high


def _tidy(shelf: Shelf) -> None:
    """Take out of older batches what was used again since; answers that are all that is left of one join the next."""
    used_in, newest = shelf.blocks, shelf.batches[-1]
    listed = output = 0
    kept: deque[Batch] = deque()
    for batch in shelf.batches:
        number, entries = batch.number, []
        for blocks, first, ends, end in batch.entries:
            if used_in.get(blocks[-1]) == number:
                again = 0 if used_in[blocks[0]] == number else _first(blocks, 0, len(blocks) - 1, number, used_in)
                entries.append((blocks[again:], first + again, ends, end))
                listed += len(blocks) - again
        batch.entries = entries
        output += batch.output
        if entries or batch is newest:
            batch.output, output = output, 0
            kept.append(batch)
    shelf.batches = kept
    shelf.listed = listed
