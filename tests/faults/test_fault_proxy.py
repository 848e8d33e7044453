"""The faulty wire does what it is told, and nothing else."""

from __future__ import annotations

import asyncio

import pytest
from fault_proxy import FaultProxy, Faults, Way
from peers import Peer, dial, run, until

WORDS = b"what goes in comes out, byte by byte; " * 40


class Wire:
    """A client and a server with the faulty wire between them."""

    def __init__(self, proxy: FaultProxy, client: Peer, server: Peer) -> None:
        self.proxy, self.client, self.server = proxy, client, server

    @property
    def up(self) -> Way:
        return self.proxy.links[0].up

    @property
    def down(self) -> Way:
        return self.proxy.links[0].down


async def wired(up: Faults | None = None, down: Faults | None = None, slept: list[float] | None = None) -> Wire:
    async def sleep(seconds: float) -> None:
        assert slept is not None
        slept.append(seconds)

    accepted: list[Peer] = []
    listener = await asyncio.get_running_loop().create_server(lambda: Peer(accepted.append), "127.0.0.1", 0)
    proxy = FaultProxy(listener.sockets[0].getsockname()[:2], up=up, down=down, sleep=sleep)
    await proxy.open()
    client = await dial(proxy.address)
    await until(lambda: accepted and proxy.links)
    listener.close()
    return Wire(proxy, client, accepted[0])


async def undone(wire: Wire) -> None:
    """Everything is let go of: the loop's own check finds no task."""
    await wire.proxy.close()
    for peer in (wire.client, wire.server):
        await peer.end()
        peer.transport.abort()
    await until(lambda: wire.client.lost and wire.server.lost)


def test_without_faults_bytes_and_ends_pass_both_ways() -> None:
    async def body() -> None:
        wire = await wired()
        await wire.client.send(WORDS)
        assert await wire.server.take(len(WORDS)) == WORDS
        wire.client.half_close()
        assert await wire.server.end() == b""
        await wire.server.send(WORDS)
        wire.server.close()
        assert await wire.client.end() == WORDS
        assert (wire.up.passed, wire.down.passed, wire.up.swallowed) == (len(WORDS), len(WORDS), 0)
        assert not wire.client.reset_by_other
        await undone(wire)

    run(body)


def test_a_reset_passes_as_a_reset() -> None:
    async def body() -> None:
        wire = await wired()
        await wire.client.send(b"a")
        await wire.server.take(1)
        wire.client.reset()
        await until(lambda: wire.server.lost)
        assert wire.server.reset_by_other
        await undone(wire)

    run(body)


@pytest.mark.parametrize("size", [1, 7, 1_000])
def test_slices_carry_the_same_bytes_in_as_many_pieces(size: int) -> None:
    async def body() -> None:
        wire = await wired(down=Faults(slice=size))
        await wire.server.send(WORDS)
        assert await wire.client.take(len(WORDS)) == WORDS
        pieces = list(Faults(slice=size).cut(WORDS, 0))
        assert b"".join(pieces) == WORDS
        assert {len(piece) for piece in pieces[:-1]} == {size}
        await undone(wire)

    run(body)


def test_delay_and_rate_are_slept_for_each_piece() -> None:
    async def body() -> None:
        slept: list[float] = []
        wire = await wired(up=Faults(delay=0.5, rate=100, slice=50), slept=slept)
        await wire.client.send(b"x" * 100)
        await wire.server.take(100)
        assert slept == [1.0, 1.0]
        await undone(wire)

    run(body)


@pytest.mark.parametrize("at", [0, 5, len(WORDS) - 1])
def test_one_byte_is_corrupted(at: int) -> None:
    async def body() -> None:
        wire = await wired(up=Faults(corrupt=at, slice=3))
        await wire.client.send(WORDS)
        got = await wire.server.take(len(WORDS))
        assert [i for i, byte in enumerate(got) if byte != WORDS[i]] == [at]
        await undone(wire)

    run(body)


@pytest.mark.parametrize("after", [0, 1, 10])
def test_a_reset_after_so_many_bytes_breaks_both_sides(after: int) -> None:
    async def body() -> None:
        wire = await wired(up=Faults(reset_after=after))
        await wire.client.send(WORDS)
        await until(lambda: wire.client.lost and wire.server.lost)
        assert wire.up.passed == after
        assert wire.client.reset_by_other
        assert wire.server.reset_by_other
        await undone(wire)

    run(body)


@pytest.mark.parametrize("after", [0, 1, 10])
def test_a_half_close_ends_one_direction_only(after: int) -> None:
    async def body() -> None:
        wire = await wired(up=Faults(half_close_after=after))
        await wire.client.send(WORDS)
        assert await wire.server.end() == WORDS[:after]
        assert not wire.server.lost
        await wire.server.send(b"still here")
        assert await wire.client.take(10) == b"still here"
        await undone(wire)

    run(body)


def test_a_drop_swallows_the_rest_and_says_nothing() -> None:
    async def body() -> None:
        wire = await wired(up=Faults(drop_after=10))
        await wire.client.send(WORDS)
        await until(lambda: wire.up.swallowed == len(WORDS) - 10)
        assert await wire.server.take(10) == WORDS[:10]
        assert wire.server.unread == b""
        assert not wire.client.over
        await undone(wire)

    run(body)


def test_a_stall_holds_everything_until_it_is_released() -> None:
    async def body() -> None:
        wire = await wired(down=Faults(stall_after=10))
        await wire.server.send(WORDS)
        await wire.down.stalled.wait()
        assert bytes(wire.client.received) == WORDS[:10]
        await wire.client.send(b"up")  # the other way goes on
        assert await wire.server.take(2) == b"up"
        wire.down.release()
        assert await wire.client.take(len(WORDS)) == WORDS
        await undone(wire)

    run(body)


def test_a_link_is_broken_by_hand_and_a_refusal_is_passed_on() -> None:
    async def body() -> None:
        wire = await wired()
        wire.proxy.links[0].reset()
        await until(lambda: wire.client.reset_by_other and wire.server.reset_by_other)
        late = await dial(wire.proxy.address)  # nobody listens behind it any more
        await late.end()
        assert len(wire.proxy.links) == 1
        late.transport.abort()
        await undone(wire)

    run(body)
