"""KV block pool: which blocks of prompt does the engine still remember, and who holds them?

Rule 1: conservation. blank + idle + (blocks held by requests) is the pool's size, always.
Rule 2: a block with a hash outlives its request: it waits in LRU order until the pool needs its room.
Rule 3: a request's tail is given back before its head, so that a shared beginning is forgotten last.

Follows vLLM V1's block pool with three simplifications: blocks without a hash are reused before remembered ones are
forgotten; a block computed twice at once is remembered once; and there is no reserved null block. Blocks
have no numbers here, only hashes, because nothing depends on where a block lies.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

Table = list[int | None]
"""One request's blocks in order: the hash where the block is shared through the cache, None where it is private."""


class BlockPool:
    """`size` blocks, and the prefix cache over them."""

    __slots__ = ("_idle", "_refs", "blank", "size")

    def __init__(self, size: int) -> None:
        self.size = size
        self.blank = size  # free blocks that remember nothing
        self._refs: dict[int, int] = {}  # remembered block -> requests that hold it, 0 = idle
        self._idle: OrderedDict[int, None] = OrderedDict()  # idle blocks, least recently used first

    @property
    def free(self) -> int:
        """Blocks that can be taken now (idle ones are forgotten when taken)."""
        return self.blank + len(self._idle)

    @property
    def remembered(self) -> int:
        """Blocks that can be found by hash, held or idle."""
        return len(self._refs)

    def __repr__(self) -> str:
        return f"BlockPool(size={self.size}, free={self.free}, remembered={self.remembered})"

    def match(self, hashes: Sequence[int], limit: int) -> tuple[int, int]:
        """How many leading blocks of `hashes` (at most `limit`) are remembered, and how many of these are idle."""
        refs, count, idle = self._refs, 0, 0
        for block in hashes if limit >= len(hashes) else hashes[:limit]:
            held = refs.get(block)
            if held is None:
                break
            count += 1
            if not held:
                idle += 1
        return count, idle

    def share(self, hashes: Sequence[int], count: int) -> Table:
        """Hold the first `count` blocks, which `match` has just found."""
        refs, idle = self._refs, self._idle
        table: Table = list(hashes[:count])
        for block in hashes[:count]:
            held = refs[block]
            if not held:
                del idle[block]
            refs[block] = held + 1
        return table

    def take(self, table: Table, count: int) -> None:
        """Append `count` private blocks to `table`, forgetting the least recently used. The caller checked `free`."""
        if count <= self.blank:
            self.blank -= count
        else:
            forget, refs = self._idle.popitem, self._refs
            for _ in range(count - self.blank):
                del refs[forget(last=False)[0]]
            self.blank = 0
        table.extend((None,) * count)

    def remember(self, table: Table, hashes: Sequence[int], start: int, stop: int) -> None:
        """Blocks `start`..`stop` of `table` are full now: make them findable by their hashes."""
        refs = self._refs
        fresh = dict.fromkeys(hashes[start:stop], 1)
        if len(fresh) == stop - start and refs.keys().isdisjoint(fresh):  # the common case, at C speed
            refs.update(fresh)
            table[start:stop] = fresh
            return
        for index in range(start, stop):
            block = hashes[index]
            if block not in refs:  # else another request computed the same block: this copy stays private
                refs[block] = 1
                table[index] = block

    def give_back(self, table: Table) -> None:
        """Let go of all blocks of `table`, tail first, and empty it."""
        refs, idle, blank = self._refs, self._idle, 0
        for block in reversed(table):
            if block is None:
                blank += 1
            elif refs[block] == 1:
                refs[block] = 0
                idle[block] = None
            else:
                refs[block] -= 1
        self.blank += blank
        table.clear()

    def forget_all(self) -> bool:
        """Empty the prefix cache. False, and nothing done, while any block is held (as vLLM does)."""
        if self.free != self.size:
            return False
        self._idle.clear()
        self._refs.clear()
        self.blank = self.size
        return True

    def forget_idle(self) -> None:
        """Forget the remembered blocks that no request holds."""
        for block in self._idle:
            del self._refs[block]
        self.blank += len(self._idle)
        self._idle.clear()
