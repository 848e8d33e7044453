"""Floods: what costs a client nothing to send is bounded before it costs us much. Each ends in a GOAWAY."""

from __future__ import annotations

import asyncio

import pytest
from h2.settings import SettingCodes
from http2_peer import STREAM_BODY, Http2Client, dial2, head
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)
from peers import Peer, Seen, run, until
from running import Fleet, fleet, hang, reply

from fairlead.proxy.http2 import Http2Connection
from fairlead.proxy.http2_library import Http2Library
from fairlead.proxy.service import LimitSettings
from fairlead.wire.frames import PREFACE, BadFrames, Bounds, FrameGuard

CALM = 11  # ENHANCE_YOUR_CALM
BOUNDS = Bounds()


def refusals(f: Fleet) -> dict[str, int]:
    """Those that happened, by reason."""
    return {reason: count for reason, count in f.app.recorder.refusals.items() if count}


async def refused(f: Fleet, client: Http2Client, reason: str, code: int = CALM) -> None:
    """The connection was ended for this reason, once, in the metrics and the log."""
    _, told, _ = await client.gone()
    assert told == code
    assert refusals(f) == {reason: 1}
    assert reason in [line["error"] for line in await f.logged(1)]
    await until(lambda: not f.app.service.clients)


def test_rapid_reset_ends_the_connection_and_frees_every_engine() -> None:
    async def body() -> None:
        async with fleet(2, default=hang) as f:
            client = await dial2(f.address)
            for _ in range(BOUNDS.resets + 1):
                client.reset(client.ask("n", STREAM_BODY))
            await refused(f, client, "rapid_reset")
            await until(lambda: not f.busy)
            f.unseen_tries = sum(line["tries"] for line in f.lines()) - len(f.seen)  # given up before they were sent

    run(body)


def test_fewer_resets_are_taken() -> None:
    async def body() -> None:
        async with fleet(2) as f:
            client = await dial2(f.address)
            for _ in range(BOUNDS.resets):
                client.reset(client.begin(head()))
            assert (await client.answer(client.ask("n"))).status == 200
            client.close()

    run(body)


def test_resets_that_we_are_made_to_send_count_too() -> None:
    async def body() -> None:
        async with fleet(1) as f:
            client = await dial2(f.address)
            for _ in range(BOUNDS.resets + 1):
                client.begin(head(b"GET", b"/", (b"connection", b"close")), end=True)
            _, code, _ = await client.gone()
            assert code == CALM
            assert f.app.recorder.refusals["rapid_reset"] == 1
            assert not f.seen

    run(body)


def _continuations(client: Http2Client, size: int) -> list[Frame]:
    """A header block that does not end."""
    id = client.h2.get_next_available_stream_id()
    first = HeadersFrame(id)
    first.data = client.h2.encoder.encode(head())
    return [first, *[ContinuationFrame(id, data=b"\0" * size) for _ in range(BOUNDS.continuations + 100)]]


@pytest.mark.parametrize("size", [0, 1, 16_384])
def test_a_header_block_without_an_end_is_bounded(size: int) -> None:
    async def body() -> None:
        async with fleet(1) as f:
            client = await dial2(f.address)
            client.raw(*_continuations(client, size))
            await refused(f, client, "head_too_long")
            assert not f.seen

    run(body)


def test_a_head_too_long_is_answered() -> None:
    async def body() -> None:
        async with fleet(1, limits={"head": "2KiB"}) as f:
            client = await dial2(f.address)
            got = await client.answer(client.get(b"/v1/x", (b"x-long", b"a" * 1_900)))
            assert (got.status, b"head_too_long" in got.body) == (431, True)
            assert (await client.answer(client.get())).status == 200
            client.close()

    run(body)


def test_too_many_fields_are_answered() -> None:
    async def body() -> None:
        async with fleet(1) as f:
            client = await dial2(f.address)
            got = await client.answer(client.get(b"/v1/x", *[(b"x-%d" % number, b"1") for number in range(120)]))
            assert (got.status, b"too_many_fields" in got.body) == (431, True)
            client.close()

    run(body)


def test_a_small_block_that_unpacks_to_a_large_head_is_bounded() -> None:
    async def body() -> None:
        async with fleet(1, limits={"head": "8KiB"}) as f:
            client = await dial2(f.address)
            # One large value goes into the table once, and is then named again and again with a byte each.
            first = await client.answer(client.get(b"/v1/x", (b"x-bomb", b"a" * 3_000)))
            assert first.status == 200
            client.begin(head(b"GET", b"/v1/x", *[(b"x-bomb", b"a" * 3_000)] * 90), end=True)
            await refused(f, client, "head_too_long")
            assert len(f.seen) == 1

    run(body)


FLOODS: dict[str, list[Frame | bytes]] = {
    "pings": [PingFrame(0, b"12345678")],
    "settings": [SettingsFrame(0)],
    "settings_acks": [SettingsFrame(0, flags=["ACK"])],
    "priorities": [PriorityFrame(1, depends_on=0, stream_weight=1)],
    "window_updates": [WindowUpdateFrame(0, window_increment=1)],
    "unknown_frames": [b"\0\0\0\xfa\0\0\0\0\0"],
}


@pytest.mark.parametrize("name", FLOODS)
def test_frames_that_bring_nothing_are_bounded(name: str) -> None:
    async def body() -> None:
        async with fleet(1) as f:
            client = await dial2(f.address)
            client.raw(*FLOODS[name] * (BOUNDS.noise + 1))
            await refused(f, client, "frame_flood")

    run(body)


def test_empty_data_frames_are_bounded() -> None:
    async def body() -> None:
        async with fleet(1) as f:
            client = await dial2(f.address)
            id = client.begin(head())
            client.raw(*[DataFrame(id, b"")] * (BOUNDS.noise + 1))
            await refused(f, client, "frame_flood")
            assert not f.seen

    run(body)


def test_a_client_that_opens_its_windows_for_every_frame_is_no_flood() -> None:
    async def many(peer: Peer, seen: Seen) -> None:
        await peer.send(b"HTTP/1.1 200 OK\r\nX-Nonce: n0\r\nContent-Length: 6000\r\n\r\n")
        for _ in range(1_500):
            await peer.send(b"1234")
            await asyncio.sleep(0)

    async def body() -> None:
        async with fleet(1, default=many) as f:
            client = await dial2(f.address, auto=False, window=4)
            id = client.ask()
            taken = 0
            while taken < 6_000:
                await until(lambda taken=taken: len(client.got[id].body) > taken)  # type: ignore[misc]
                step, taken = len(client.got[id].body) - taken, len(client.got[id].body)
                client.open_window(step)
                if not client.got[id].over:
                    client.open_window(step, id)
            assert (await client.answer(id)).ended
            client.close()

    run(body)


def test_more_streams_than_allowed_are_refused_and_harm_nobody() -> None:
    async def body() -> None:
        async with fleet(1, limits={"streams": 3}) as f:
            gate = asyncio.Event()

            async def wait_then_answer(peer: Peer, seen: Seen) -> None:
                await gate.wait()
                await reply()(peer, seen)

            f.play.default = wait_then_answer
            client = await dial2(f.address)
            ids = [client.ask(f"n{number}") for number in range(5)]
            for id in ids[3:]:
                assert (await client.answer(id)).reset == 7  # REFUSED_STREAM: safe to send again
            gate.set()
            assert [(await client.answer(id)).status for id in ids[:3]] == [200] * 3
            assert client.h2.remote_settings[SettingCodes.MAX_CONCURRENT_STREAMS] == 3
            assert refusals(f) == {"too_many_streams": 2}
            assert len(f.seen) == 3
            client.close()

    run(body)


WRONG: dict[str, tuple[Frame | bytes, int]] = {
    "window_update_of_zero": (b"\0\0\x04\x08\0\0\0\0\0\0\0\0\0", 1),
    "window_overflow": (WindowUpdateFrame(0, window_increment=2**31 - 1), 3),
    "frame_too_large": (b"\x00\x40\x01\x00\x00\x00\x00\x00\x01" + b"x" * 16_385, 6),
    "data_on_an_unknown_stream": (DataFrame(5, b"x"), 1),
    "naked_continuation": (ContinuationFrame(1), 1),
    "push_promise": (b"\0\0\x04\x05\x04\0\0\0\x01\0\0\0\x02", 1),
    "even_stream": (b"\0\0\x01\x01\x05\0\0\0\x02\x82", 1),
    "bad_hpack": (b"\0\0\x01\x01\x05\0\0\0\x01\xff", 1),
    "settings_of_odd_size": (b"\0\0\x05\x04\0\0\0\0\0\0\0\0\0\0", 6),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_frames_end_the_connection(name: str) -> None:
    frame, code = WRONG[name]

    async def body() -> None:
        async with fleet(1) as f:
            client = await dial2(f.address)
            client.raw(frame)
            await refused(f, client, "bad_framing", code)
            assert not f.seen

    run(body)


def test_a_stream_window_that_overflows_ends_its_stream_alone() -> None:
    async def body() -> None:
        async with fleet(1, default=hang) as f:
            client = await dial2(f.address)
            id = client.ask()
            await until(lambda: f.seen)
            client.raw(WindowUpdateFrame(id, window_increment=2**31 - 1))
            assert (await client.answer(id)).reset == 3  # FLOW_CONTROL_ERROR
            await until(lambda: not f.busy)
            assert (await client.answer(client.get())).status == 200
            client.close()

    run(body)


def test_a_body_that_is_too_large_is_refused_before_it_came() -> None:
    async def body() -> None:
        async with fleet(1, limits={"body": "1KiB"}) as f:
            client = await dial2(f.address)
            declared = client.begin(head(b"POST", b"/v1/x", (b"content-length", b"1025")))
            counted = client.begin(head())
            client.send(counted, b"x" * 1_025)
            for id in (declared, counted):
                got = await client.answer(id)
                assert (got.status, b"body_too_large" in got.body) == (413, True)
            assert f.app.service.memory.used == 0
            assert not f.seen
            client.close()

    run(body)


def test_bodies_count_in_the_memory_of_all() -> None:
    async def body() -> None:
        async with fleet(1, limits={"body_memory": "1MiB"}) as f:
            client = await dial2(f.address)
            f.app.service.memory.limit = 1_000
            first, second = client.begin(head(b"POST", b"/v1/x")), client.begin(head(b"POST", b"/v1/x"))
            client.send(first, b"x" * 600)
            client.send(second, b"x" * 600)
            got = await client.answer(second)
            assert (got.status, got.field(b"retry-after"), b"body_memory" in got.body) == (503, b"1", True)
            client.send(first, b"", end=True)
            assert (await client.answer(first)).status == 200
            await until(lambda: f.app.service.memory.used == 0)
            client.close()

    run(body)


@pytest.mark.parametrize("frames", [0, 1])
def test_a_connection_without_a_request_is_closed_in_time(frames: int) -> None:
    async def body() -> None:
        async with fleet(1, timeouts={"client_header": "300ms"}) as f:
            client = await dial2(f.address)
            client.raw(*[SettingsFrame(0)] * frames)
            assert (await client.gone())[1] == 0
            assert not f.lines()

    run(body)


def test_a_head_that_does_not_end_is_given_up_in_time() -> None:
    async def body() -> None:
        async with fleet(1, timeouts={"client_header": "300ms"}) as f:
            client = await dial2(f.address)
            assert (await client.answer(client.get())).status == 200
            client.raw(*_continuations(client, 0)[:2])
            await refused(f, client, "header_timeout")

    run(body)


def test_an_idle_connection_is_closed_with_a_goaway() -> None:
    async def body() -> None:
        async with fleet(1, timeouts={"client_idle": "300ms"}) as f:
            client = await dial2(f.address)
            assert (await client.answer(client.get())).status == 200
            assert (await client.gone())[1] == 0
            assert not refusals(f)

    run(body)


def test_a_body_that_does_not_come_is_given_up_in_time() -> None:
    async def body() -> None:
        async with fleet(1, timeouts={"client_body": "300ms"}) as f:
            client = await dial2(f.address)
            id = client.begin(head(b"POST", b"/v1/x", (b"content-length", b"10")))
            client.send(id, b"half")
            got = await client.answer(id)
            assert (got.status, b"body_timeout" in got.body) == (408, True)
            assert f.app.service.memory.used == 0
            assert (await client.answer(client.get())).status == 200
            client.close()

    run(body)


def test_resets_are_forgotten_with_time() -> None:
    guard = FrameGuard(65_536)
    one = RstStreamFrame(1).serialize()
    guard.feed(PREFACE, 0.0)
    for window in range(4):
        guard.feed(one * BOUNDS.resets, window * (BOUNDS.window + 1.0))
    guard.feed(one * BOUNDS.resets, 100.0)
    with pytest.raises(BadFrames):
        guard.feed(one, 100.0)


def test_a_connection_that_resets_more_than_it_takes_is_ended_in_the_long_run() -> None:
    guard = FrameGuard(65_536)
    one = RstStreamFrame(1).serialize()
    guard.feed(PREFACE, 0.0)
    guard.answered = 600
    hours = 0
    for hours in range(1, 1_201):
        guard.feed(one, hours * 3_600.0)
    with pytest.raises(BadFrames):
        guard.feed(one, (hours + 1) * 3_600.0)


@pytest.mark.parametrize("size", [1, 2, 5, 9, 10, 1_000])
def test_the_guard_passes_every_byte_but_those_of_a_goaway(size: int) -> None:
    goaway = GoAwayFrame(0, last_stream_id=0, error_code=0, additional_data=b"bye").serialize()
    ping, data = PingFrame(0, b"12345678").serialize(), DataFrame(1, b"x" * 100).serialize()
    guard = FrameGuard(65_536)
    whole = PREFACE + ping + goaway + data + goaway + goaway + ping
    read = b"".join(b"".join(guard.feed(whole[i : i + size], 0.0)) for i in range(0, len(whole), size))
    assert read == PREFACE + ping + data + ping
    assert guard.leaving


def test_the_table_of_sent_fields_stays_small_whatever_the_client_allows() -> None:
    async def body() -> None:
        async with fleet(1) as f:
            client = await dial2(f.address)
            client.h2.update_settings({SettingCodes.HEADER_TABLE_SIZE: 2**31 - 1})
            client.flush()
            for i in range(3):
                assert (await client.answer(client.ask(f"n{i}"))).status == 200
            (served,) = f.app.service.clients
            assert isinstance(served, Http2Connection)
            assert served.h2.encoder.header_table_size <= 4_096
            client.close()

    run(body)


def test_a_turn_in_which_nothing_was_sent_allows_no_more_frames() -> None:
    library = Http2Library(LimitSettings(1, 65_536, 100, 1, 100, 1))
    library.take()
    before = library.waiting
    assert library.waiting == before
    library.say_goaway(0)
    assert library.waiting != before
