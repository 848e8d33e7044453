"""Conformance case 16: however the bytes are cut on their way, the outcome is the same to the bit.

Every payload that is refused is cut at every offset (in memory, where a piece is a piece), every one that is served as
well, and the whole table at random, over sockets. Streams are cut at every offset on the engine's side.
"""

from __future__ import annotations

import asyncio
import random
import re
from itertools import accumulate
from typing import Any

import pytest
from bench.conformance.payloads import LAST, PAYLOADS, Payload
from oracle import judged
from peers import Peer, Script, Seen, run
from running import DONE, Fleet, ask, chunk, event, fleet, sse_head

from conformance import fate
from fairlead.proxy.client import Client

FAR = 400  # offsets behind this one are taken in steps
REFUSED = [payload for payload in PAYLOADS if not payload.seen]
_OWN = re.compile(rb"x-request-id: [^\r]*")


class Memory(asyncio.Transport):
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.ended = False

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        assert not self.ended, "bytes after the end"
        self.written += bytes(data)

    def write_eof(self) -> None:
        self.ended = True

    def can_write_eof(self) -> bool:
        return True

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...

    def get_extra_info(self, name: str, default: object = None) -> Any:
        return ("127.0.0.1", 1) if name == "peername" else default

    def close(self) -> None:
        self.ended = True

    def abort(self) -> None:
        self.ended = True


def outcome(f: Fleet, pieces: list[bytes]) -> tuple[bytes, bool, str]:
    """(what is answered, is the connection ended, what is counted) when the bytes come in these pieces."""
    before = dict(f.app.recorder.refusals)
    transport = Memory()
    client = Client(f.app.service)
    client.connection_made(transport)
    for piece in pieces:
        client.data_received(piece)
    client.connection_lost(None)
    counted = [reason for reason, times in f.app.recorder.refusals.items() if times > before.get(reason, 0)]
    return _OWN.sub(b"", transport.written), transport.ended, " ".join(counted)


def offsets(size: int) -> list[int]:
    return [*range(1, min(size, FAR)), *range(FAR, size, 997)]


@pytest.mark.parametrize("case", sorted({payload.case for payload in REFUSED}))
def test_a_refusal_is_the_same_wherever_the_bytes_are_cut(case: int) -> None:
    async def body() -> None:
        async with fleet() as f:
            for payload in (payload for payload in REFUSED if payload.case == case):
                data = payload.sent
                whole = outcome(f, [data])
                assert any(b" %d " % status in whole[0] for status in (*payload.statuses, *payload.also)), payload.id
                assert whole[1:] == (True, payload.reason), payload.id
                for at in offsets(len(data)):
                    assert outcome(f, [data[:at], data[at:]]) == whole, (payload.id, at)
                each = [data[i : i + 1] for i in range(len(data))]
                assert outcome(f, each) == whole, (payload.id, "byte by byte")
            assert f.seen == []
            await f.logged(1)
            assert len(f.lines()) == sum(f.app.recorder.requests.values())

    run(body)


def test_what_is_served_is_served_wherever_the_bytes_are_cut() -> None:
    async def body() -> None:
        async with judged() as (f, oracle):
            wrong = {}
            for payload in (payload for payload in PAYLOADS if payload.seen and payload.case not in (11, 12)):
                for at in offsets(len(payload.sent) + 2 * len("oracle-0")):
                    if why := await fate(f, oracle, payload, (at,)):
                        wrong[f"{payload.id} at {at}"] = why
            assert wrong == {}

    run(body)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_whole_table_in_random_pieces(seed: int) -> None:
    async def body() -> None:
        rng = random.Random(seed)
        rows: list[Payload] = list(PAYLOADS)
        rng.shuffle(rows)
        async with judged() as (f, oracle):
            wrong = {}
            for payload in rows:
                cuts = sorted(rng.sample(range(1, len(payload.sent)), min(rng.randint(1, 6), len(payload.sent) - 1)))
                pieces = [b - a for a, b in zip([0, *cuts], cuts, strict=False)]
                assert list(accumulate(pieces)) == cuts
                if why := await fate(f, oracle, payload, pieces):
                    wrong[payload.id] = why, cuts
            assert wrong == {}

    run(body)


GOLDEN: dict[str, list[bytes]] = {
    "OpenAI": [event(1), 'data: {"choices":[{"delta":{"content":"é✓𝄞"}}]}\n\n'.encode(), DONE],
    "Anthropic": [b'event: message_start\ndata: {"type":"message_start"}\n\n', b"event: ping\ndata: {}\n\n",
                  b'event: message_stop\ndata: {"type":"message_stop"}\n\n'],
    "CRLF, CR and comments": [b": a comment\r\n\r\ndata: 1\r\n\r\n", b"data: 2\r\rdata:3\n\n", b": ping\n\n", DONE],
    "several lines and a mark": ["\ufeffdata: first\ndata: second\n\n".encode(), b"id: 1\nretry: 5\ndata\n\n", DONE],
}  # fmt: skip


def cut_at(data: bytes, at: int) -> Script:
    async def play(peer: Peer, seen: Seen) -> None:
        await peer.send(sse_head(seen))
        await peer.drip(data[:at], max(at, 1))
        await peer.send(data[at:])

    return play


@pytest.mark.parametrize("name", GOLDEN)
def test_a_stream_loses_and_alters_nothing_wherever_it_is_cut(name: str) -> None:
    events = GOLDEN[name]
    data = b"".join(chunk(part) for part in events) + LAST

    async def body() -> None:
        async with judged() as (f, oracle):
            for at in range(len(data) + 1):
                f.play.scripts = [cut_at(data, at)]
                nonce = oracle.nonce()
                verdict = await oracle.speak(ask(nonce), [nonce], closed=False)
                assert verdict.answers[0].body == b"".join(events), at
            for version in ("1.1", "1.0"):
                f.play.scripts = [dripped(data)]
                nonce = oracle.nonce()
                verdict = await oracle.speak(ask(nonce, version=version), [nonce], closed=version == "1.0")
                assert verdict.answers[0].body == b"".join(events), version

    run(body)


def dripped(data: bytes) -> Script:
    async def play(peer: Peer, seen: Seen) -> None:
        await peer.drip(sse_head(seen) + data)

    return play
