"""Which backend has which beginning of a prompt in its KV cache, as far as we can know without asking?

Our own record of what was sent where, over the chained block hashes of prompts (`Facts.blocks`). Per backend it is a
shelf of blocks in LRU order, bounded by that backend's KV capacity, so that it forgets about when the engine does.
One table over all shelves maps a block to a bit mask of the backends that have it: the longest prefix on every
backend is found in one walk over the prompt's blocks, however many backends there are.

Rule 1: a prompt is put on the shelf when it is sent: an engine works in order, so the next one finds it cached.
Rule 2: a prompt's end is forgotten before its beginning, as engines do; so what a shelf has of a prompt is always a
beginning of it.
Rule 3: what an answer needs beside the prompt's blocks (its output) takes room on the shelf, too.
Rule 4: memory is bounded: a shelf holds at most MAX_BLOCKS entries, whatever the engine's cache holds.

How far a shelf can be trusted is judged by trust.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Final

MAX_BLOCKS: Final = 65_536  # entries per backend; about 200 bytes each
ENTRY_BYTES: Final = 200  # memory of one entry, measured: ordered dict node, two integers, its part of the table
SLACK: Final = 32  # a full shelf is emptied by this part of its limit at once
TRIM_STEP: Final = 256  # blocks looked up at a time when it is
DEFAULT_TOKENS: Final = 262_144  # KV capacity taken for an engine that does not tell its own


class Shelf:
    """The blocks that one backend is thought to have. Sizes are bytes of prompt."""

    __slots__ = ("bit", "blocks", "limit", "used")

    def __init__(self, slot: int) -> None:
        self.bit = 1 << slot
        self.blocks: dict[int, int] = {}  # block (output: a negative number) -> bytes, oldest use first
        self.used = 0
        self.limit = DEFAULT_TOKENS * 4

    def __repr__(self) -> str:
        return f"<Shelf {len(self.blocks)} blocks, {self.used} of {self.limit} bytes>"


class PrefixIndex:
    """All shelves. Not thread-safe; one balancer owns it."""

    __slots__ = ("_fillers", "_free", "_holders", "_slots")

    def __init__(self) -> None:
        self._holders: dict[int, int] = {}  # block -> bits of the shelves that have it
        self._free: list[int] = []  # slots given back
        self._slots = 0
        self._fillers = 0

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
        self._let_go(shelf.bit, shelf.blocks)
        shelf.blocks.clear()
        shelf.used = 0

    def match(self, blocks: Sequence[int], ends: Sequence[int], total: int) -> dict[int, int]:
        """Bytes of the prompt (of `total`) that shelves have, by their bits; those without any are left out."""
        holders = self._holders
        found: dict[int, int] = {}
        mask = holders.get(blocks[0], 0) if blocks else 0
        covered = 0
        for i in range(1, len(blocks)):
            if not mask:
                return found
            here = mask & holders.get(blocks[i], 0)
            if here != mask:
                covered = ends[i - 1]
                lost = mask & ~here
                while lost:
                    bit = lost & -lost
                    found[bit] = covered
                    lost ^= bit
                mask = here
        if mask:
            covered = min(ends[len(blocks) - 1], total)
            while mask:
                bit = mask & -mask
                found[bit] = covered
                mask ^= bit
        return found

    def insert(self, shelf: Shelf, blocks: Sequence[int], ends: Sequence[int], total: int, output: int) -> None:
        """A prompt of `total` bytes was sent there, whose answer will take about `output` bytes of cache."""
        known, holders, bit = shelf.blocks, self._holders, shelf.bit
        hits = 0
        for block in blocks:
            if block not in known:
                break
            hits += 1
        if output > 0:
            self._fillers += 1
            known[-self._fillers] = output
        used = shelf.used + output
        if hits < len(blocks):
            new = blocks[hits:]
            begin = ends[hits - 1] if hits else 0
            stops = [*ends[hits : len(blocks) - 1], min(ends[len(blocks) - 1], total)]
            sizes = [stop - start for start, stop in zip((begin, *stops), stops, strict=False)]
            used += stops[-1] - begin
            # The end first: it is forgotten first.
            known.update(zip(reversed(new), reversed(sizes), strict=True))
            if holders.keys().isdisjoint(new):  # the common case, at C speed
                holders.update(dict.fromkeys(new, bit))
            else:
                for block in new:
                    holders[block] = holders.get(block, 0) | bit
        for i in range(hits - 1, -1, -1):
            block = blocks[i]
            known[block] = known.pop(block)
        shelf.used = used
        if used > shelf.limit or len(known) > MAX_BLOCKS:
            self.trim(shelf)

    def trim(self, shelf: Shelf) -> None:
        """Forget the least recently used until the shelf is within its limits."""
        known = shelf.blocks
        # A little more than needed: the oldest of a dictionary are found fast only if they are sought seldom.
        limit = shelf.limit - shelf.limit // SLACK
        spare = len(known) - (MAX_BLOCKS - MAX_BLOCKS // SLACK)
        used = shelf.used
        gone: list[int] = []
        while known and (used > limit or spare > 0):
            for block in list(islice(known, TRIM_STEP)):
                used -= known.pop(block)
                spare -= 1
                gone.append(block)
                if used <= limit and spare <= 0:
                    break
        shelf.used = used
        self._let_go(shelf.bit, gone)

    def _let_go(self, bit: int, blocks: Iterable[int]) -> None:
        """A shelf no longer holds these blocks."""
        holders = self._holders
        for block in blocks:
            if block >= 0:
                left = holders[block] & ~bit
                if left:
                    holders[block] = left
                else:
                    del holders[block]
