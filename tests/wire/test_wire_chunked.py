"""Chunked bodies: whole, byte by byte and cut anywhere the scanner says the same, and what it says is right."""

from __future__ import annotations

import itertools

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairlead.wire.chunked import ChunkScanner
from fairlead.wire.fields import BadHttp

Verdict = tuple[str, bytes, bytes]  # ("done" | "more" | "bad", payload, what is left behind the end)


def scan(pieces: list[bytes]) -> Verdict:
    """Feed the pieces; once it is done, the rest of that piece and the pieces behind it are left."""
    sink: list[bytes] = []
    scanner = ChunkScanner(sink)
    blind = ChunkScanner()
    for index, piece in enumerate(pieces):
        try:
            scanner.feed(piece)
        except BadHttp:
            with pytest.raises(BadHttp) as caught:
                blind.feed(piece)
            assert caught.value.status == 400
            return "bad", b"", b""
        blind.feed(piece)
        assert (blind.done, blind.payload) == (scanner.done, scanner.payload)
        if scanner.done:
            assert blind.end == scanner.end
            assert scanner.payload == len(b"".join(sink))
            return "done", b"".join(sink), piece[scanner.end :] + b"".join(pieces[index + 1 :])
    return "more", b"".join(sink), b""


def one_by_one(data: bytes) -> list[bytes]:
    return [data[i : i + 1] for i in range(len(data))]


GOOD = [
    (b"0\r\n\r\n", b""),
    (b"5\r\nhello\r\n0\r\n\r\n", b"hello"),
    (b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n", b"hello world"),
    (b"A\r\n0123456789\r\n00\r\n\r\n", b"0123456789"),
    (b"0000000000000002\r\n\r\n\r\n0000\r\n\r\n", b"\r\n"),
    (b'5;a=b;c="d"\r\nhello\r\n0;last\r\n\r\n', b"hello"),
    (b"5;\r\nhello\r\n0\r\nX-One: 1\r\nX-Two:\r\n\r\n", b"hello"),
    (b"4\r\n\r\n\r\n\r\n0\r\n\r\n", b"\r\n\r\n"),
    (b"3\r\n0\r\n\r\n0\r\n\r\n", b"0\r\n"),
    (b"1\r\n\r\r\n1\r\n\n\r\n0\r\n\r\n", b"\r\n"),
]
BAD = [
    b"\r\n", b"x\r\n", b"5\nhello\r\n", b"5\rhello", b"5 \r\n", b" 5\r\n", b"+5\r\n", b"-5\r\n", b"0x5\r\n", b"5_0\r\n",
    b"00000000000000005\r\n", b"5\r\nhelloX", b"5\r\nhello\n", b"5\r\nhello\rX", b";x\r\n", b"5;\x00\r\n",
    b"5;\x7f\r\n",
    b"5;a\nb\r\n", b"5;a\rb\r\n", b"5;" + b"e" * 5_000 + b"\r\n", b"0\r\nnocolon\r\n", b"0\r\n: x\r\n",
    b"0\r\nA B: x\r\n",
    b"0\r\nA: \x00\r\n", b"0\r\n A: x\r\n", b"0\r\nA: b\nC: d\r\n", b"0\r\n\n", b"0\n\r\n", b"5\r\r\n",
    b"0\r\n" + b"A: b\r\n" * 4_000, b"0\r\nA: " + b"b" * 20_000 + b"\r\n",
]  # fmt: skip


@pytest.mark.parametrize(("data", "payload"), GOOD)
@pytest.mark.parametrize("behind", [b"", b"GET / HTTP/1.1\r\n"])
def test_good_bodies_cut_at_every_offset(data: bytes, payload: bytes, behind: bytes) -> None:
    expected = ("done", payload, behind)
    whole = data + behind
    assert scan([whole]) == expected
    assert scan(one_by_one(whole)) == expected
    for i in range(len(whole) + 1):
        assert scan([whole[:i], whole[i:]]) == expected
    for i, j in itertools.combinations(range(min(len(whole), 30)), 2):
        assert scan([whole[:i], whole[i:j], whole[j:]]) == expected
    for i in range(len(data)):
        assert scan([data[:i]])[0] == "more"


@pytest.mark.parametrize("data", BAD, ids=[repr(data[:24]) for data in BAD])
def test_bad_bodies_are_refused_however_they_are_cut(data: bytes) -> None:
    for start in (b"", b"3\r\nabc\r\n"):
        whole = start + data + b"0\r\n\r\n" * 3
        assert scan([whole])[0] == "bad"
        assert scan(one_by_one(whole))[0] == "bad"
        for i in range(min(len(whole), 40)):
            assert scan([whole[:i], whole[i:]])[0] == "bad"


@pytest.mark.parametrize(
    "line",
    [
        b"1;" + b"e" * 4_000,
        b"1;" + b"e" * 4_094,
        b"1;" + b"e" * 4_096,
        b"0\r\nX: " + b"t" * 4_090,
        b"0\r\nX: " + b"t" * 5_000,
        b"0\r\nX: " + b"t" * 16_000,
    ],
)
def test_long_lines_get_the_same_verdict_however_they_are_cut(line: bytes) -> None:
    data = line + (b"\r\nA\r\n0\r\n\r\n" if line[:1] == b"1" else b"\r\n\r\n")
    whole = scan([data])
    assert scan(one_by_one(data)) == whole
    for i in (3, 4_000, 4_097, 4_099, len(data) - 4, len(data) - 5):
        assert scan([data[:i], data[i:]]) == whole, i


def cut(data: bytes, offsets: list[int]) -> list[bytes]:
    points = sorted({0, len(data), *(offset % (len(data) + 1) for offset in offsets)})
    return [data[i:j] for i, j in itertools.pairwise(points)]


OFFSETS = st.lists(st.integers(0, 10_000), max_size=8)


@settings(max_examples=150, deadline=None)
@given(
    payloads=st.lists(st.binary(min_size=1, max_size=60), max_size=6),
    extensions=st.lists(st.sampled_from([b"", b"", b";a", b";a=b", b';q="x y"']), min_size=7, max_size=7),
    upper=st.booleans(),
    zeros=st.integers(0, 5),
    offsets=OFFSETS,
    behind=st.binary(max_size=10),
)
def test_any_chunking_is_read_as_h11_reads_it(
    payloads: list[bytes], extensions: list[bytes], upper: bool, zeros: int, offsets: list[int], behind: bytes
) -> None:
    data = b""
    for payload, extension in zip(payloads, extensions, strict=False):
        size = f"{len(payload):X}" if upper else f"{len(payload):x}"
        data += b"0" * zeros + size.encode() + extension + b"\r\n" + payload + b"\r\n"
    data += b"0" + extensions[-1] + b"\r\n\r\n"
    expected = ("done", b"".join(payloads), behind)
    assert scan(cut(data + behind, offsets)) == expected
    assert by_h11(data) == b"".join(payloads)


def by_h11(data: bytes) -> bytes | None:
    """The payload as h11 reads it; None when it refuses or wants more."""
    judge = h11.Connection(h11.SERVER)
    judge.receive_data(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + data)
    body = b""
    try:
        while True:
            got = judge.next_event()
            if isinstance(got, h11.Data):
                body += bytes(got.data)
            elif isinstance(got, h11.EndOfMessage):
                return body
            elif got is h11.NEED_DATA:
                return None
    except h11.RemoteProtocolError:
        return None


ALPHABET = st.lists(
    st.sampled_from([b"0", b"1", b"2", b"a", b"\r\n", b"\r\n", b"\r", b"\n", b";", b" ", b"x", b":", b"\x00", b"\xff"]),
    max_size=14,
).map(b"".join)


@settings(max_examples=300, deadline=None)
@given(data=ALPHABET | st.binary(max_size=30), offsets=OFFSETS)
def test_any_bytes_get_the_same_verdict_however_they_are_cut(data: bytes, offsets: list[int]) -> None:
    whole = scan([data])
    if whole[0] == "done":
        assert scan(cut(data, offsets)) == whole
        assert scan(one_by_one(data)) == whole
        end = len(data) - len(whole[2])
        assert by_h11(data[:end]) == whole[1], "what we take, another parser takes alike"
    else:
        # A cut may only make it see a fault sooner, never hide one or make a body of it.
        for pieces in (cut(data, offsets), one_by_one(data)):
            assert scan(pieces)[0] in (("bad",) if whole[0] == "bad" else ("more", "bad"))
        if whole[0] == "more":
            assert scan([data, b"\x00\x00\x00\x00"])[0] in ("more", "bad")


def test_a_place_for_a_chunk_of_our_own() -> None:
    scanner = ChunkScanner()
    assert scanner.between
    for piece, between in ((b"5", False), (b"\r\n", False), (b"hel", False), (b"lo", False), (b"\r", False),
        (b"\n", True),
                           (b"3\r\nabc\r\n", True), (b"0", False), (b"\r\n", False), (b"\r\n", False)):  # fmt: skip
        scanner.feed(piece)
        assert scanner.between is between, piece
    assert scanner.done
