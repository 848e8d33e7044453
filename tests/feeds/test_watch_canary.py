"""The token that a watch asks a backend for that hung, and a watch that fails by a fault of ours."""

from __future__ import annotations

import asyncio
import logging
import random
from typing import Any

import msgspec
import pytest
from aiohttp import web
from watch_peers import ScriptedEngine, Watched, engine, models, watching

from fairlead.core.cluster.backend import METRICS, PROBER
from fairlead.core.health.passive import NO_PROGRESS
from fairlead.feeds import canary
from fairlead.feeds import watch as watch_module

PATH = "/v1/completions"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_module, "DOWN_INTERVAL", 0.02)
    monkeypatch.setattr(watch_module, "HURRY_SECONDS", 0.01)


def hangs(seen: Watched) -> None:
    """The backend was ejected as it hung, and its rest is over."""
    now = asyncio.get_running_loop().time()
    seen.backend.passive.eject(NO_PROGRESS, "no token for 10 s", now, random.Random(0))
    seen.backend.passive.reopen(now)


async def asked(one: ScriptedEngine, seen: Watched, times: int) -> None:
    while one.asked.count(PATH) < times:
        await seen.probe()


def test_one_token_of_a_model_that_it_lists_brings_it_back() -> None:
    bodies: list[dict[str, Any]] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        bodies.append(await request.json())
        return web.json_response({"choices": [{"text": "x"}]})

    async def body() -> None:
        async with engine(v1_completions=answer, v1_models=models("m", "a-lora")) as one:
            async with watching(one.url, canary_timeout=5.0) as seen:
                await seen.change()
                for _ in range(3):
                    await seen.probe()
                assert not bodies, "a sound one is never asked"
                assert seen.backend.passive.by_canary
                hangs(seen)
                while seen.backend.passive.resting:
                    await seen.probe()
                assert seen.backend.passive.ramping
                for _ in range(3):
                    await seen.probe()
        assert [(each["model"], each["max_tokens"], each["stream"]) for each in bodies] == [("a-lora", 1, False)]

    asyncio.run(body())


@pytest.mark.parametrize("trouble", ["hangs", "500", "429", "breaks"])
def test_one_that_does_not_come_makes_the_rest_longer(trouble: str) -> None:
    async def breaks(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    async def body() -> None:
        async with engine() as one:
            replies: dict[str, Any] = {"hangs": one.never, "500": 500, "429": 429, "breaks": breaks}
            one.replies[PATH] = replies[trouble]
            async with watching(one.url, canary_timeout=0.05) as seen:
                await seen.change()
                hangs(seen)
                passive = seen.backend.passive
                while passive.streak < 2:
                    await seen.probe()
                assert passive.resting and passive.ejected(asyncio.get_running_loop().time())
                assert passive.reason.startswith("a token that was asked for")
                assert seen.backend.up, "its health page is well all the time"
                for _ in range(3):
                    await seen.probe()
                assert one.asked.count(PATH) == 1, "none while it rests"

    asyncio.run(body())


def test_while_one_hangs_probes_go_on_and_no_second_one_is_asked() -> None:
    async def body() -> None:
        async with engine() as one:
            one.replies[PATH] = one.never
            async with watching(one.url, canary_timeout=3600.0) as seen:
                await seen.change()
                hangs(seen)
                await asked(one, seen, 1)
                for _ in range(10):
                    assert (await seen.probe())[0]
                assert one.asked.count(PATH) == 1

    asyncio.run(body())


def test_an_engine_that_does_not_want_to_be_asked_is_tried_by_requests(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "fairlead")

    async def body() -> None:
        async with engine(v1_completions=401) as one, watching(one.url, canary_timeout=5.0) as seen:
            await seen.change()
            hangs(seen)
            while seen.backend.passive.by_canary:
                await seen.probe()
            for _ in range(5):
                await seen.probe()
            assert one.asked.count(PATH) == 1
            passive, now = seen.backend.passive, asyncio.get_running_loop().time()
            assert passive.on_trial(now) and not passive.awaits_canary(now) and passive.streak == 1

    asyncio.run(body())
    assert [r.message for r in caplog.records if "does not want" in r.message] == [
        "backend b does not want to be asked for a token: a request will find out how it is"
    ]


@pytest.mark.parametrize("settings", [{"canary_timeout": 0.0}, {"engine": "generic"}, {"models": frozenset({"*"})}])
def test_it_is_not_asked_when_turned_off_or_where_nobody_knows_how(settings: dict[str, Any]) -> None:
    async def body() -> None:
        async with engine(v1_completions=200) as one, watching(one.url, **{"canary_timeout": 5.0, **settings}) as seen:
            await seen.change()
            hangs(seen)
            for _ in range(5):
                await seen.probe()
            assert not seen.backend.passive.by_canary and PATH not in one.asked
            assert seen.backend.passive.resting

    asyncio.run(body())


def test_the_smallest_request_there_is() -> None:
    assert msgspec.json.decode(canary.body("m")) == {
        "model": "m", "prompt": "Hi", "max_tokens": 1, "temperature": 0, "stream": False,
    }  # fmt: skip
    assert canary.model_of(frozenset({"*"})) is None and canary.model_of(None) is None


def test_case_53_a_prober_that_fails_goes_on_is_counted_and_is_in_the_log_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body() -> None:
        async with engine() as one, watching(one.url) as seen:
            await seen.change()
            right, left = seen.watch._probe, 3

            async def wrong() -> str:
                nonlocal left
                left -= 1
                if left >= 0:
                    raise RuntimeError("a fault")
                return await right()

            monkeypatch.setattr(seen.watch, "_probe", wrong)
            while left >= 0:
                await asyncio.sleep(0)
            assert (await seen.probe())[0], "it goes on"
            assert seen.backend.troubles[PROBER] == 3
            assert seen.backend.up and seen.changes.empty()

    asyncio.run(body())
    faults = [record for record in caplog.records if "a fault in Fairlead" in record.message]
    assert len(faults) == 1 and faults[0].exc_info is not None


def test_case_105_readings_without_numbers_are_counted() -> None:
    async def body() -> None:
        async with engine(numbers="vllm:num_requests_waiting NaN\n") as one:
            async with watching(one.url, metrics_url=f"{one.url}/numbers") as seen:
                while seen.backend.troubles[METRICS] < 2:
                    assert (await seen.probe())[0]
                assert seen.backend.stats.waiting is None

    asyncio.run(body())
