"""A watch's readings of engine metrics: whatever that page does, the backend stays up and the loop stays free."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp import web
from watch_peers import VLLM_METRICS, LagMeter, Reply, engine, watching

from fairlead.feeds import watch as watch_module

LAG = 0.5  # seconds; generous, since other programs run on this machine as well


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_module, "HURRY_SECONDS", 0.01)


def test_readings_reach_the_balancer_with_the_moment_they_were_asked_for() -> None:
    async def body() -> None:
        async with engine() as one, watching(one.url) as seen:
            stats = await seen.reading()
            assert (stats.waiting, stats.running) == (3, 2)
            assert seen.backend.stats == stats
            assert seen.backend.polled_at > float("-inf")
            about = seen.watch.about
            assert (about.metrics_url, about.metrics_problem) == (f"{one.url}/metrics", "")
            one.replies["/metrics"] = VLLM_METRICS.replace(" 3", " 7")
            while (await seen.reading()).waiting != 7:
                pass

    asyncio.run(body())


async def endless(request: web.Request) -> web.StreamResponse:
    """50 MB of metrics."""
    answer = web.StreamResponse()
    await answer.prepare(request)
    line = b"vllm:num_requests_waiting 3\n" * 2_340  # 64 KiB
    for _ in range(800):
        await answer.write(line)
    return answer


async def broken(request: web.Request) -> web.StreamResponse:
    """The connection breaks in the middle of the page."""
    answer = web.StreamResponse(headers={"Content-Length": "1000"})
    await answer.prepare(request)
    await answer.write(VLLM_METRICS.encode())
    assert request.transport is not None
    request.transport.abort()
    return answer


@pytest.mark.parametrize(
    ("trouble", "problem"),
    [
        ("slow", "no answer within 0.05 s"),
        ("dead", "connection refused"),
        ("huge", "answered more than 4194304 bytes"),
        ("broken", "the connection broke"),
        ("missing", "answered 404"),
        ("failing", "answered 500"),
        ("empty", "holds no number that is known"),
        ("rubbish", "holds no number that is known"),
    ],
)
def test_a_metrics_page_in_trouble_costs_nothing_but_its_numbers(trouble: str, problem: str) -> None:
    async def body() -> None:
        async with engine() as one:
            pages: dict[str, Reply] = {
                "slow": one.never, "dead": 200, "huge": endless, "broken": broken,
                "missing": 404, "failing": 500, "empty": "", "rubbish": "\x00" * 100_000,
            }  # fmt: skip
            one.replies["/numbers"] = pages[trouble]
            url = "http://127.0.0.1:1/metrics" if trouble == "dead" else f"{one.url}/numbers"
            timeout = 0.05 if trouble == "slow" else 5.0
            async with LagMeter() as lag, watching(one.url, metrics_url=url, metrics_timeout=timeout) as seen:
                await seen.change()
                while not (found := seen.watch.about.metrics_problem):
                    assert (await seen.probe())[0]
                assert problem in found
                for _ in range(3):  # and health goes on beside it
                    assert await seen.probe() == (True, "")
                assert seen.backend.up and seen.changes.empty() and seen.balancer.readings.empty()
                assert (seen.backend.stats.waiting, seen.watch.about.metrics_url) == (None, "")
            assert lag.worst < LAG

    asyncio.run(body())


def test_a_large_page_is_read_without_holding_up_the_loop() -> None:
    async def body() -> None:
        filler = "".join(f'vllm:other{{engine="{n}"}} {n}\n' for n in range(100_000))
        async with engine(numbers=filler + VLLM_METRICS) as one:
            async with LagMeter() as lag, watching(one.url, metrics_url=f"{one.url}/numbers") as seen:
                assert (await seen.reading()).waiting == 3
            assert lag.worst < LAG

    asyncio.run(body())


def test_numbers_come_back_when_the_page_does() -> None:
    async def body() -> None:
        async with engine() as one, watching(one.url) as seen:
            await seen.reading()
            one.replies["/metrics"] = 500
            while not seen.watch.about.metrics_problem:
                await seen.probe()
            old = seen.backend.stats
            assert old.waiting == 3  # the last word stays, its age tells
            one.replies["/metrics"] = VLLM_METRICS.replace(" 3", " 9")
            while (await seen.reading()).waiting != 9:
                pass
            assert seen.watch.about.metrics_problem == ""

    asyncio.run(body())


def test_another_address_for_metrics_is_used_instead() -> None:
    async def body() -> None:
        async with engine() as one, engine(numbers=VLLM_METRICS.replace(" 3", " 5")) as two:
            async with watching(one.url, engine="vllm", metrics_url=f"{two.url}/numbers") as seen:
                assert (await seen.reading()).waiting == 5
                assert seen.watch.about.metrics_url == f"{two.url}/numbers"
                before = one.asked.count("/metrics")  # as a clue to what it is
                for _ in range(3):
                    await seen.reading()
                assert (one.asked.count("/metrics"), set(two.asked)) == (before, {"/numbers"})

    asyncio.run(body())


def test_metrics_are_not_redirected_either() -> None:
    async def elsewhere(request: web.Request) -> web.StreamResponse:
        raise web.HTTPFound("/elsewhere")

    async def body() -> None:
        async with engine(numbers=elsewhere, elsewhere=VLLM_METRICS) as one:
            async with watching(one.url, metrics_url=f"{one.url}/numbers") as seen:
                await seen.change()
                while not (found := seen.watch.about.metrics_problem):
                    await seen.probe()
                assert found == "answered 302"
                assert "/elsewhere" not in one.asked

    asyncio.run(body())


def test_a_backend_that_is_down_is_not_asked_for_metrics() -> None:
    async def body() -> None:
        async with engine(health=500) as one, watching(one.url, metrics_url=f"{one.url}/numbers") as seen:
            for _ in range(3):
                await seen.probe_that(False)
            assert "/numbers" not in one.asked

    asyncio.run(body())


@pytest.mark.parametrize("trouble", ["slow", "huge"])
def test_a_page_in_trouble_from_the_start_does_not_keep_an_unknown_engine_out(
    trouble: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The metrics page is also a clue to what an engine is."""
    monkeypatch.setattr(watch_module, "CLUE_SECONDS", 0.1)

    async def body() -> None:
        async with engine() as one:
            one.replies["/metrics"] = one.never if trouble == "slow" else endless
            async with LagMeter() as lag, watching(one.url, metrics_timeout=0.05) as seen:
                assert await seen.change() is True
                assert (seen.watch.about.engine, seen.backend.models) == ("vllm", {"m"})
                while not seen.watch.about.metrics_problem:
                    assert (await seen.probe())[0]
            assert lag.worst < LAG

    asyncio.run(body())


def test_the_problem_is_still_told_while_the_next_reading_hangs() -> None:
    async def body() -> None:
        async with engine() as one:
            one.replies["/numbers"] = one.never
            async with watching(one.url, metrics_url=f"{one.url}/numbers", metrics_timeout=0.05) as seen:
                while not seen.watch.about.metrics_problem:
                    await seen.probe()
                asked = len(one.asked)
                while "/numbers" not in one.asked[asked:]:
                    await seen.probe()
                assert seen.watch.about.metrics_problem == "no answer within 0.05 s"

    asyncio.run(body())
