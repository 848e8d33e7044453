"""The prefix index against a reference that keeps whole texts, and its bounds.

The reference is a list per shelf: every beginning of a prompt that is thought cached, as text, oldest use first. It
knows no hashes, no bit masks and no batches: the shelves are so small here that every prompt is a batch of its own.
"""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairlead.core.cluster import prefix
from fairlead.core.cluster.prefix import ENTRY_BYTES, MAX_BLOCKS, PrefixIndex, Shelf

ENDS = (2, 4, 6, 10, 14, 22)  # like the wire's: fine where prompts begin, coarser later, and not without end
EVEN = tuple(range(1_000, 3_000_000, 1_000))
SHELVES = 4
LIMIT = 60  # bytes: no text is smaller than a batch


def cut(text: str, ends: Sequence[int] = ENDS) -> list[str]:
    """The beginnings that a prompt's blocks stand for; the last is all of it, or all that is hashed."""
    found: list[str] = []
    for end in ends:
        found.append(text[:end])
        if end >= len(text):
            break
    return found


def chain(text: str) -> list[int]:
    """One number per beginning: the same text always has the same one, as with real hashes."""
    return [int.from_bytes(part.encode(), "big") for part in cut(text)]


class Reference:
    """What one shelf should have."""

    def __init__(self) -> None:
        self.entries: list[tuple[str, int]] = []  # (beginning, or "" for output; bytes), oldest use first
        self.limit = LIMIT

    @property
    def used(self) -> int:
        return sum(size for _, size in self.entries)

    def insert(self, text: str, output: int, most: int) -> None:
        parts = cut(text)
        sizes = [len(part) - len(before) for part, before in zip(parts, ["", *parts], strict=False)]
        fresh = [("", output)] if output else []
        fresh += list(zip(parts, sizes, strict=True))[::-1]
        self.entries = [entry for entry in self.entries if entry[0] not in parts] + fresh
        self.trim(most)

    def trim(self, most: int) -> None:
        while self.entries and (self.used > self.limit or sum(bool(part) for part, _ in self.entries) > most):
            part, size = self.entries.pop(0)
            over = max(self.used + size - self.limit, 0)
            if not part and size > over:  # of an answer, no more than is needed
                self.entries.insert(0, (part, size - over))
                if not over:  # there are too many blocks: the first of them goes
                    at = next(i for i, (block, _) in enumerate(self.entries) if block)
                    self.entries.pop(at)

    def match(self, text: str) -> int:
        known = {part for part, _ in self.entries}
        longest = 0
        for part in cut(text):
            if part not in known:
                break
            longest = len(part)
        return longest


texts = st.text("ab", min_size=3, max_size=26)
operations = st.lists(
    st.one_of(
        st.tuples(st.just("send"), st.integers(0, SHELVES - 1), texts, st.integers(0, 5)),
        st.tuples(st.just("limit"), st.integers(0, SHELVES - 1), st.integers(0, LIMIT), st.just(0)),
        st.tuples(st.just("clear"), st.integers(0, SHELVES - 1), st.just(0), st.just(0)),
        st.tuples(st.just("leave"), st.integers(0, SHELVES - 1), st.just(0), st.just(0)),
    ),
    max_size=40,
)


def consistent(index: PrefixIndex, shelves: Sequence[Shelf]) -> None:
    """The table has exactly the blocks of the shelves, and sizes add up."""
    expected: dict[int, int] = {}
    for shelf in shelves:
        sizes: dict[int, int] = {}  # block -> bytes, from the lists of the batches that used it last
        listed = 0
        for batch in shelf.batches:
            for blocks, first, ends, end in batch.entries:
                listed += len(blocks)
                for i, block in enumerate(blocks, first):
                    if shelf.blocks.get(block) == batch.number:
                        assert block not in sizes, "a block stands once in the batch that used it last"
                        sizes[block] = min(ends[i], end) - (ends[i - 1] if i else 0)
        assert sizes.keys() == shelf.blocks.keys()
        assert listed == shelf.listed
        assert shelf.used == sum(sizes.values()) + sum(batch.output for batch in shelf.batches)
        for block in shelf.blocks:
            expected[block] = expected.get(block, 0) | shelf.bit
    assert index._holders == expected
    assert index.blocks == len(expected)


@given(operations, st.lists(texts, min_size=1, max_size=6), st.sampled_from([12, 32, MAX_BLOCKS]))
@settings(max_examples=200, deadline=None)
def test_the_index_knows_what_the_reference_knows(
    script: list[tuple[str, int, str | int, int]], asked: list[str], most: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prefix, "MAX_BLOCKS", most)
        index = PrefixIndex()
        shelves = [index.shelf() for _ in range(SHELVES)]
        references = [Reference() for _ in range(SHELVES)]
        for shelf in shelves:
            shelf.limit = LIMIT
        for what, i, value, output in script:
            shelf, reference = shelves[i], references[i]
            if what == "send":
                assert isinstance(value, str)
                index.insert(shelf, chain(value), ENDS, len(cut(value)[-1]), output)
                reference.insert(value, output, most)
                asked.append(value)
            elif what == "limit":
                assert isinstance(value, int)
                shelf.limit = reference.limit = value
                if shelf.used > value:
                    index.trim(shelf)
                    reference.trim(most)
            else:
                references[i] = Reference()
                if what == "clear":
                    index.clear(shelf)
                else:
                    index.retire(shelf)
                    shelves[i] = index.shelf()
                    assert shelves[i].bit == shelf.bit, "a slot given back is used again"
                shelves[i].limit = references[i].limit
            consistent(index, shelves)
            assert all(shelf.used <= shelf.limit and len(shelf.blocks) <= most for shelf in shelves)
            parts = {int.from_bytes(part.encode(), "big") for part, _ in references[i].entries if part}
            assert shelves[i].blocks.keys() == parts
            assert shelves[i].used == references[i].used
        for text in asked:
            found = index.match(chain(text), ENDS, len(text))
            wanted = {s.bit: r.match(text) for s, r in zip(shelves, references, strict=True) if r.match(text)}
            assert found == wanted, text
            for shelf in shelves:  # of a prompt it has a beginning, never a later part alone
                has = [block in shelf.blocks for block in chain(text)]
                assert has == sorted(has, reverse=True)


@given(st.lists(st.tuples(texts, st.integers(0, 9)), max_size=150), st.sampled_from([100, 400, 2_000]))
@settings(max_examples=100, deadline=None)
def test_batches_of_many_prompts_keep_what_was_used_lately(sent: list[tuple[str, int]], limit: int) -> None:
    """What was used within the last part of the traffic that fits, less one batch and one prompt, is there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prefix, "LISTED_SPARE", 0)  # batches are tidied up all the time
        patch.setattr(prefix, "BATCHES", 4)
        index = PrefixIndex()
        shelf = index.shelf()
        shelf.limit = limit
        for text, output in sent:
            index.insert(shelf, chain(text), ENDS, len(cut(text)[-1]), output)
            consistent(index, [shelf])
            assert shelf.used <= limit
            assert shelf.listed <= 4 * len(shelf.blocks) + 8 * len(ENDS), "old batches are tidied up"
    room = limit - limit // 4 - 2 * (26 + 9)
    for text, output in reversed(sent):
        room -= len(text) + output
        if room < 0:
            break
        assert index.match(chain(text), ENDS, len(text)) == {shelf.bit: len(cut(text)[-1])}
    for text, _ in sent:
        has = [block in shelf.blocks for block in chain(text)]
        assert has == sorted(has, reverse=True)


def test_answers_to_one_prompt_again_and_again_do_not_pile_up() -> None:
    index = PrefixIndex()
    shelf = index.shelf()
    shelf.limit = 1_000_000
    for _ in range(10_000):
        index.insert(shelf, range(40), EVEN, 40_000, 200)
    assert len(shelf.batches) < 200
    assert len(shelf.blocks) == 40
    assert 900_000 < shelf.used <= 1_000_000
    consistent(index, [shelf])


def test_the_last_block_may_be_a_part_and_counts_for_its_bytes_only() -> None:
    index = PrefixIndex()
    shelf = index.shelf()
    index.insert(shelf, chain("aabbc"), ENDS, 5, 0)
    assert shelf.used == 5
    assert index.match(chain("aabbc"), ENDS, 5) == {shelf.bit: 5}
    assert index.match(chain("aabbcd"), ENDS, 6) == {shelf.bit: 4}, "its third block is another one"
    index.insert(shelf, chain("aabbcd"), ENDS, 6, 0)
    assert shelf.used == 7


def test_a_prompt_longer_than_what_is_hashed_counts_as_far_as_it_is_hashed() -> None:
    index, text = PrefixIndex(), "ab" * 50
    shelf = index.shelf()
    index.insert(shelf, chain(text), ENDS, len(text), 0)
    assert shelf.used == ENDS[-1]
    assert index.match(chain(text), ENDS, len(text)) == {shelf.bit: ENDS[-1]}


def test_output_takes_room_and_is_forgotten_before_its_prompt() -> None:
    index = PrefixIndex()
    shelf = index.shelf()
    shelf.limit = 20
    index.insert(shelf, chain("aaaaaa"), ENDS, 6, 10)
    assert shelf.used == 16
    index.insert(shelf, chain("bbbbbb"), ENDS, 6, 0)
    assert shelf.used == 20
    assert len(index.match(chain("aaaaaa"), ENDS, 6)) == 1


def test_a_prompt_larger_than_the_shelf_leaves_its_beginning() -> None:
    index = PrefixIndex()
    shelf = index.shelf()
    shelf.limit = 9
    index.insert(shelf, chain("abababababab"), ENDS, 12, 3)
    assert index.match(chain("abababababab"), ENDS, 12) == {shelf.bit: 6}


def test_nothing_is_found_for_a_prompt_without_blocks() -> None:
    index = PrefixIndex()
    index.insert(index.shelf(), (), (), 0, 7)
    assert index.match((), (), 0) == {}
    assert index.blocks == 0


def test_a_thousand_shelves_share_a_beginning_and_differ_in_the_rest() -> None:
    index = PrefixIndex()
    shelves = [index.shelf() for _ in range(1_000)]
    for i, shelf in enumerate(shelves):
        index.insert(shelf, [1, 2, *([10_000 + i] if i % 2 else [])], EVEN, 3_000, 0)
    found = index.match([1, 2, 10_007], EVEN, 2_500)
    assert len(found) == 1_000
    assert found.pop(shelves[7].bit) == 2_500
    assert set(found.values()) == {2_000}
    for shelf in shelves[1:]:
        index.retire(shelf)
    assert index.match([1, 2, 10_007], EVEN, 2_500) == {shelves[0].bit: 2_000}
    assert index.blocks == 2


def test_a_shelf_holds_no_more_entries_than_its_bound_however_large_the_cache() -> None:
    index, rng = PrefixIndex(), random.Random(1)
    shelf = index.shelf()
    shelf.limit = 10**15
    for _ in range(120):
        index.insert(shelf, [rng.getrandbits(64) for _ in range(999)], EVEN, 999_000, 100)
        assert len(shelf.blocks) <= MAX_BLOCKS
    assert len(shelf.blocks) > 0.9 * MAX_BLOCKS
    consistent(index, [shelf])


def test_an_entry_takes_about_the_memory_that_is_shown_for_it() -> None:
    """Fresh shelves take less, those that have long been full take more: half of it either way."""
    index, rng = PrefixIndex(), random.Random(2)
    shelves = [index.shelf() for _ in range(4)]
    for shelf in shelves:
        shelf.limit = 8_000_000
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    try:
        for filled in (1, 4):  # times over
            for shelf in shelves:
                for _ in range(250 * filled):
                    index.insert(shelf, [rng.getrandbits(64) for _ in range(32)], EVEN, 32_000, 500)
            after, _ = tracemalloc.get_traced_memory()
            entries = sum(len(shelf.blocks) for shelf in shelves)
            assert 0.5 * ENTRY_BYTES < (after - before) / entries < 1.5 * ENTRY_BYTES
    finally:
        tracemalloc.stop()
