"""Cases 61 to 63: what is counted is bounded, refused with a clear answer, and given back on every path.

Bodies (one, all together), connections, file descriptors.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
import re
import resource
from collections.abc import Iterator
from typing import Any

import aiohttp
import pytest
from peers import Peer, Seen, run, until
from running import CHAT, Fleet, ask, chunk, fleet, hang, reply, sse_head, stream

from fairlead.proxy import sockets
from fairlead.proxy.client import MAX_REFUSING
from fairlead.proxy.memory import Body, BodyMemory
from fairlead.wire.fields import BadHttp

POST = b"POST %b HTTP/1.1\r\nHost: test\r\n" % CHAT.encode()
MIB = 1 << 20
HALF = b'{"model":"m","prompt":"%b"}' % (b"x" * (MIB // 2))


def refusals(f: Fleet) -> dict[str, int]:
    """What was refused or cut off, by reason."""
    return {reason: count for reason, count in f.app.recorder.refusals.items() if count}


async def told(client: Peer, status: int, code: str) -> None:
    """The client gets this error, whole, and then the close."""
    answer = await client.answer()
    assert (answer.status, answer.whole, answer.field("connection")) == (status, True, "close")
    assert json.loads(answer.body)["error"]["code"] == code
    assert (answer.field("retry-after") == "1") == (status == 503)
    assert await client.end() == b""


async def metrics(f: Fleet) -> dict[str, float]:
    """The series without labels on the metrics page, and the refusals by reason."""
    url = f"http://{f.admin[0]}:{f.admin[1]}/metrics"
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        text = await answer.text()
    found = re.findall(r'^fairlead_(?:refused_total\{reason="([a-z_]+)"\}|([a-z_]+)) ([0-9.e+]+)$', text, re.MULTILINE)
    return {reason or name: float(value) for reason, name, value in found}


def used(f: Fleet) -> int:
    return f.app.service.memory.used


@pytest.mark.parametrize(
    "begun",
    [
        b"Content-Length: 209715200\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\nC800000\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n" + chunk(b"x" * 60_000) * 20,
    ],
    ids=["length", "one chunk", "chunks without end"],
)
def test_case_61_a_body_that_is_too_large_is_413_as_soon_as_that_is_known(begun: bytes) -> None:
    async def body() -> None:
        async with fleet(limits={"body": "1MiB"}) as f:
            client = await f.dial()
            await client.send(POST + begun)
            await told(client, 413, "body_too_large")
            assert not f.seen
            assert refusals(f) == {"body_too_large": 1}
            assert used(f) == 0

    run(body)


@pytest.mark.parametrize("framing", ["length", "chunks"])
def test_case_61_beyond_the_memory_for_bodies_new_ones_are_503_and_old_ones_go_on(framing: str) -> None:
    async def body() -> None:
        async with fleet(limits={"body": "1MiB", "body_memory": "1MiB"}) as f:
            size = 700 << 10
            if framing == "length":
                head, piece, rest = b"Content-Length: %d\r\n\r\n" % (size + 1), b"x" * size, b"x"
            else:
                head, piece, rest = b"Transfer-Encoding: chunked\r\n\r\n", chunk(b"x" * size), b"1\r\nx\r\n0\r\n\r\n"
            target = b"POST /v1/x HTTP/1.1\r\nHost: test\r\n"
            first, second = await f.dial(), await f.dial()
            await first.send(target + head + piece)
            await until(lambda: used(f) == size, "what came is counted")
            await second.send(target + head + piece)
            await told(second, 503, "body_memory")
            await until(lambda: used(f) == size, "what was refused is counted no more")
            page = await metrics(f)
            assert (page["body_bytes"], page["body_bytes_limit"], page["body_memory"]) == (size, MIB, 1)
            await first.send(rest)
            assert (await first.answer()).status == 200
            assert len(f.seen) == 1
            assert (await f.logged(2))[0]["error"] == "body_memory"
            third = await f.dial()
            await third.send(target + head + piece + rest)
            assert (await third.answer()).status == 200

    run(body)


def test_case_61_what_is_declared_but_does_not_come_reserves_nothing() -> None:
    async def body() -> None:
        async with fleet(limits={"body": "1MiB", "body_memory": "1MiB"}) as f:
            liars = [await f.dial() for _ in range(8)]
            for liar in liars:
                await liar.send(POST + b"Content-Length: 1000000\r\n\r\n{")
            await until(lambda: used(f) == 8)
            assert (await f.get(ask(body=HALF))).status == 200

    run(body)


async def half_stream(peer: Peer, seen: Seen) -> None:
    await peer.send(sse_head(seen) + chunk(b"data: x\n\n"))
    await hang(peer, seen)


def test_case_61_a_body_is_let_go_of_when_its_answer_begins() -> None:
    async def body() -> None:
        async with fleet(default=half_stream, limits={"body_memory": "1MiB"}) as f:
            clients = []
            for number in range(8):  # long answers one beside the other, each to half a MiB
                client = await f.dial()
                await client.send(ask(f"n{number}", body=HALF))
                await client.expect(b"data: x\n\n")
                clients.append(client)
            assert used(f) == 0
            for client in clients:
                client.reset()

    run(body)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_case_61_bytes_are_counted_once_and_given_back_on_every_path(seed: int) -> None:
    """Any mix of ends; the count is compared with what is really held, all the way."""
    rng = random.Random(seed)

    async def body() -> None:
        async with fleet(3, limits={"body": "64KiB", "body_memory": "2MiB"}, timeouts={"first_byte": "300ms"}) as f:
            f.play.default = reply()

            def held() -> int:
                service = f.app.service
                coming = [c._body.held for c in service.clients if getattr(c, "_body", None) is not None]  # type: ignore[attr-defined]
                return int(sum(coming)) + sum(len(exchange.body) for exchange in service.exchanges)

            async def one(number: int) -> None:
                text = b'{"model":"m","prompt":"%b"}' % (b"x" * rng.randrange(40_000))
                client = await f.dial()
                way = rng.randrange(6)
                whole = ask(f"n{number}", body=text)
                if way == 0:  # cut in its middle
                    await client.send(whole[: len(whole) // 2])
                    await asyncio.sleep(0.01)
                    client.reset()
                elif way == 1:  # broken framing
                    await client.send(POST + b"Transfer-Encoding: chunked\r\n\r\n" + chunk(text) + b"nonsense\r\n")
                    await client.end()
                elif way == 2:  # gone while it waits
                    await client.send(whole)
                    await asyncio.sleep(0.01)
                    client.reset()
                elif way == 3:  # too large
                    await client.send(POST + b"Transfer-Encoding: chunked\r\n\r\n" + chunk(text + b"x" * 30_000) * 3)
                    await client.end()
                elif way == 4:  # not JSON
                    await client.send(ask(f"n{number}", body=b"{" + text))
                    await client.answer()
                else:
                    await client.drip(whole, 7_000)
                    await client.answer()
                assert used(f) == held()
                client.close()

            for wave in range(6):
                f.play.scripts = [rng.choice((reply(), reply(b"{}", "503 Busy"), stream(2), hang)) for _ in range(4)]
                await asyncio.gather(*[one(wave * 10 + i) for i in range(10)])
                await until(lambda: not f.app.service.clients and used(f) == 0)

    run(body)


def test_a_body_counts_payload_not_framing() -> None:
    memory = BodyMemory(100)
    body = Body(memory, 1_000, None, 0.0)
    assert not body.feed(b"5\r\nhello\r\n3;ext\r\nab")
    assert memory.used == body.held == 7
    assert body.feed(b"c\r\n0\r\n\r\nGET ")
    assert (body.take(), body.rest, memory.used) == (b"helloabc", b"GET ", 0)
    full = Body(memory, 1_000, 200, 0.0)
    full.feed(b"x" * 100)
    with pytest.raises(BadHttp) as caught:
        full.feed(b"x")
    assert (caught.value.status, caught.value.reason, memory.used) == (503, "body_memory", 100)
    full.drop()
    full.drop()  # the second time nothing is left to give back
    assert memory.used == 0


def test_case_63_connections_beyond_the_limit_are_told_so_and_counted() -> None:
    async def body() -> None:
        async with fleet(limits={"connections": 3}) as f:
            held = [await f.dial() for _ in range(3)]
            await until(lambda: len(f.app.service.clients) == 3)
            extra = await f.dial()
            await told(extra, 503, "too_many_connections")
            extra.close()
            await until(lambda: len(f.app.service.clients) == 3)
            page = await metrics(f)
            assert (page["connections"], page["connections_limit"], page["too_many_connections"]) == (3, 3, 1)
            assert page["descriptors"] < page["descriptors_limit"]
            assert (await f.logged(1))[0]["error"] == "too_many_connections"
            await held[0].send(ask())
            assert (await held[0].answer()).status == 200

    run(body)


def test_case_63_a_flood_of_connections_is_closed_without_a_word() -> None:
    async def body() -> None:
        async with fleet(limits={"connections": 2}) as f:
            held = [await f.dial() for _ in range(2)]
            await until(lambda: len(f.app.service.clients) == 2)
            flood = [await f.dial() for _ in range(MAX_REFUSING + 30)]
            await until(lambda: refusals(f).get("too_many_connections") == MAX_REFUSING + 30)
            await until(lambda: all(client.over for client in flood))
            assert sum(not client.received for client in flood) >= 20
            assert len(f.app.service.clients) <= MAX_REFUSING + 2
            await held[1].send(ask())
            assert (await held[1].answer()).status == 200
            for client in flood:
                client.close()

    run(body)


def test_case_63_thousands_of_idle_connections_leave_room_for_requests() -> None:
    async def body() -> None:
        async with fleet(limits={"connections": 1_000}) as f:
            for _ in range(900):
                await f.dial()
            assert [(await f.get(ask(f"n{number}"))).status for number in range(5)] == [200] * 5
            page = await metrics(f)
            assert page["connections"] >= 900
            assert page["descriptors"] >= 900

    run(body)


@pytest.fixture
def few_files() -> Iterator[Any]:
    """Lower the soft limit on files within the test; whatever happens it is raised again."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield lambda number: resource.setrlimit(resource.RLIMIT_NOFILE, (number, hard))
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def fill_descriptors() -> list[int]:
    """Take all that are left."""
    taken: list[int] = []
    try:
        while True:
            taken.append(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        return taken


def test_case_63_without_descriptors_accepting_neither_spins_nor_ends(few_files: Any) -> None:
    async def body() -> None:
        async with fleet(1) as f:
            clients = [await f.dial() for _ in range(3)]
            await until(lambda: len(f.app.service.clients) == 3)
            # One descriptor is left: it is enough for the other end of a connection, and not for ours.
            few_files(512)
            taken = fill_descriptors()
            os.close(taken.pop())
            late = await f.dial()
            await late.end()
            assert not late.received
            before, after = resource.getrusage(resource.RUSAGE_SELF), f.app.service.wheel.now + 0.5
            await until(lambda: f.app.service.wheel.now > after)
            spent = resource.getrusage(resource.RUSAGE_SELF)
            assert spent.ru_nvcsw - before.ru_nvcsw > 0, "the loop slept in between"
            await clients[0].send(b"GET /health HTTP/1.1\r\nHost: test\r\n\r\n")
            assert (await clients[0].answer("GET")).status == 200
            for descriptor in taken:
                os.close(descriptor)
            assert (await f.get()).status == 200

    run(body)


def test_case_63_a_backend_is_not_blamed_when_we_have_no_descriptor_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body() -> None:
        async with fleet(2) as f:
            assert [(await f.get()).status for _ in range(2)] == [200, 200]

            async def nothing_left(loop: Any, upstream: Any) -> None:
                raise OSError(24, "Too many open files")

            for pool in f.app.service.pools.values():
                assert len(pool.idle) == 1
                monkeypatch.setattr(pool, "take", lambda: None)
                monkeypatch.setattr(pool, "connect", nothing_left)
            answer = await f.get()
            assert (answer.status, answer.field("retry-after")) == (503, "1")
            assert json.loads(answer.body)["error"]["code"] == "descriptors"
            f.unseen_tries = 1
            assert not any(f.app.recorder.errors.values())
            assert refusals(f) == {"descriptors": 1}
            assert all(not pool.idle for pool in f.app.service.pools.values()), "idle ones are given up"
            assert (await f.logged(3))[2]["error"] == "descriptors"

    run(body)


@pytest.mark.parametrize(
    ("wanted", "descriptors", "backends", "fitting"),
    [(10_000, 1_048_576, 8, 10_000), (10_000, 1_024, 2, 470), (10_000, 20_000, 1, 9_963), (500, 1_024, 2, 470),
     (400, 1_024, 2, 400), (10_000, 64, 50, 1)],
)  # fmt: skip
def test_case_63_connections_fit_twice_into_the_descriptors(
    wanted: int, descriptors: int, backends: int, fitting: int
) -> None:
    assert sockets.fitting_connections(wanted, descriptors, backends) == fitting


def test_case_63_a_limit_that_does_not_fit_is_lowered_and_the_log_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("fairlead.config.build.raise_descriptor_limit", lambda: 1_000)

    async def body() -> None:
        async with fleet(1, limits={"connections": 5_000}) as f:
            assert f.app.service.limits.connections == 463
            assert (await f.get()).status == 200

    with caplog.at_level(logging.WARNING, "fairlead"):
        run(body)
    assert "limits.connections: lowered from 5000 to 463" in caplog.text


def test_case_63_the_soft_limit_on_descriptors_is_raised_to_the_hard_one(few_files: Any) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    few_files(min(hard, 512))
    assert sockets.raise_descriptor_limit() == hard
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)


@pytest.mark.parametrize(
    "odd",
    ['"max_tokens":1000000000', '"n":128', '"best_of":9999999', '"max_tokens":-5', '"max_tokens":1.5', '"n":-1',
     '"max_completion_tokens":1e300', '"max_tokens":123456789012345678901234567890', '"prompt_logprobs":-1'],
)  # fmt: skip
def test_case_62_wild_numbers_leave_the_books_straight(odd: str) -> None:
    async def body() -> None:
        async with fleet(2, policy="expected_completion") as f:
            text = b'{"model":"m","prompt":"hello",%b}' % odd.encode()
            answer = await f.get(ask("a", target="/v1/completions", body=text))
            assert answer.status in (200, 400)
            assert len(f.seen) == (answer.status == 200)
            assert [(await f.get(ask(f"n{number}"))).status for number in range(4)] == [200] * 4

    run(body)
