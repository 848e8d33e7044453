"""Event streams are cut into blocks, whatever pieces they come in, and put together give what came."""

from __future__ import annotations

import pytest

from fairlead.wire.sse import EventReader, data_of, event

STREAM = (
    b'data: {"a":"\xc3\xa9"}\n\n: ping\n\ndata: one\r\ndata: two\r\n\r\nevent: x\ndata:three\n\n\n\ndata: [DONE]\n\n'
)
BLOCKS = [
    b'data: {"a":"\xc3\xa9"}\n\n',
    b": ping\n\n",
    b"data: one\r\ndata: two\r\n\r\n",
    b"event: x\ndata:three\n\n",
    b"\n\n",
    b"data: [DONE]\n\n",
]


def test_blocks_come_out_as_they_came_in() -> None:
    reader = EventReader()
    assert reader.feed(STREAM) == BLOCKS
    assert reader.held == 0


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_pieces_of_any_size_give_the_same_blocks(size: int) -> None:
    reader = EventReader()
    pieces = [STREAM[at : at + size] for at in range(0, len(STREAM), size)]
    assert [block for piece in pieces for block in reader.feed(piece)] == BLOCKS


def test_a_cut_at_any_byte_gives_the_same_blocks() -> None:
    for at in range(len(STREAM) + 1):
        reader = EventReader()
        assert reader.feed(STREAM[:at]) + reader.feed(STREAM[at:]) == BLOCKS, at


def test_half_a_block_is_held_back_and_can_be_taken() -> None:
    reader = EventReader()
    assert reader.feed(b"data: a\n\ndata: b\n") == [b"data: a\n\n"]
    assert reader.held == 8
    assert reader.take_rest() == b"data: b\n"
    assert (reader.held, reader.feed(b"\n")) == (0, [])


@pytest.mark.parametrize(
    ("block", "data"),
    [
        (b"data: x\n\n", b"x"),
        (b"data: x\r\n\r\n", b"x"),
        (b"data:x\n\n", b"x"),
        (b"data:  x\n\n", b" x"),
        (b"data\n\n", None),
        (b"data:\n\n", b""),
        (b": ping\n\n", None),
        (b"\n\n", None),
        (b"event: e\nid: 5\ndata: x\ndata: y\n\n", b"x\ny"),
        (b": ping\ndata: x\n\n", b"x"),
    ],
)
def test_data_is_found(block: bytes, data: bytes | None) -> None:
    assert data_of(block) == data


def test_an_event_of_our_own_can_be_read() -> None:
    assert data_of(event(b"{}")) == b"{}"
