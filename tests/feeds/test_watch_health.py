"""A watch's health checks and discovery, against scripted engines."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp import web
from watch_peers import ScriptedEngine, engine, models, watching

from fairlead.engines.registry import DIALECTS, all_clues
from fairlead.feeds import watch as watch_module


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_module, "DOWN_INTERVAL", 0.02)
    monkeypatch.setattr(watch_module, "HURRY_SECONDS", 0.01)


def test_a_backend_joins_by_itself_when_it_comes_up() -> None:
    async def body() -> None:
        late = ScriptedEngine()  # nobody listens yet
        try:
            async with watching(late.url) as seen:
                assert await seen.probe() == (False, "connection refused")
                assert (seen.backend.up, seen.backend.models) == (False, None)
                assert seen.watch.about.problem == "connection refused"
                await late.listen()
                assert await seen.change() is True
                assert (seen.backend.up, seen.backend.models) == (True, {"m"})
                assert (seen.watch.about.engine, seen.watch.about.problem) == ("vllm", "")
        finally:
            await late.close()

    asyncio.run(body())


def test_the_first_good_answer_is_enough_for_a_newcomer() -> None:
    async def body() -> None:
        async with engine() as one, watching(one.url) as seen:
            assert await seen.probe() == (True, "")
            assert seen.backend.up

    asyncio.run(body())


def test_it_takes_fall_failures_to_go_down_and_rise_successes_to_come_back() -> None:
    async def body() -> None:
        async with engine() as one, watching(one.url) as seen:
            await seen.probe_that(True)
            one.replies["/health"] = 503
            assert await seen.probe_that(False) == "GET /health answered 503"
            assert seen.backend.up  # one is not enough
            assert await seen.probe() == (False, "GET /health answered 503")
            assert not seen.backend.up
            assert seen.backend.probes.reason == "GET /health answered 503"
            one.replies["/health"] = 200
            await seen.probe_that(True)
            assert not seen.backend.up
            assert (await seen.probe())[0]
            assert seen.backend.up
            assert [seen.changes.get_nowait() for _ in range(3)] == [True, False, True]

    asyncio.run(body())


def test_a_single_failure_between_good_answers_changes_nothing() -> None:
    async def body() -> None:
        async with engine() as one, watching(one.url) as seen:
            await seen.probe_that(True)
            for _ in range(3):
                one.replies["/health"] = 500
                await seen.probe_that(False)
                one.replies["/health"] = 200
                await seen.probe_that(True)
            assert seen.backend.up
            assert [seen.changes.get_nowait() for _ in range(seen.changes.qsize())] == [True]

    asyncio.run(body())


def test_an_engine_that_still_loads_its_model_is_not_up() -> None:
    async def body() -> None:
        async with engine(v1_models=503) as one, watching(one.url) as seen:
            for _ in range(3):
                assert await seen.probe() == (False, "GET /v1/models answered 503")
            assert (seen.backend.up, seen.backend.models) == (False, None)
            one.replies["/v1/models"] = models("m")
            assert await seen.change() is True
            assert seen.backend.models == {"m"}

    asyncio.run(body())


def test_models_that_come_and_go_while_it_is_up_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_module, "REDISCOVER_SECONDS", 0.0)

    async def body() -> None:
        async with engine() as one, watching(one.url) as seen:
            await seen.change()
            one.replies["/v1/models"] = models("m", "m-lora")
            while seen.backend.models != {"m", "m-lora"}:
                await seen.probe()
            assert [entry["id"] for entry in seen.watch.about.entries] == ["m", "m-lora"]
            one.replies["/v1/models"] = models("m")
            while seen.backend.models != {"m"}:
                await seen.probe()
            assert seen.changes.empty() and seen.backend.up

    asyncio.run(body())


def test_a_model_list_that_fails_later_takes_nothing_away_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_module, "REDISCOVER_SECONDS", 0.0)

    async def body() -> None:
        async with engine() as one, watching(one.url) as seen:
            await seen.change()
            one.replies["/v1/models"] = 500
            for _ in range(4):  # it is well by its health page; that it does not tell its models again is no failure
                await seen.probe_that(True)
            assert (seen.backend.up, seen.backend.models) == (True, {"m"})

    asyncio.run(body())


def test_a_server_that_lists_no_models_is_offered_every_request() -> None:
    async def body() -> None:
        async with engine(v1_models=404, metrics=404, health=404) as one, watching(one.url) as seen:
            assert await seen.change() is True
            assert (seen.backend.models, seen.watch.about.engine) == ({"*"}, "generic")

    asyncio.run(body())


def test_a_redirect_is_no_answer_and_is_not_followed() -> None:
    async def elsewhere(request: web.Request) -> web.StreamResponse:
        raise web.HTTPFound("/elsewhere")

    async def body() -> None:
        async with engine(health=elsewhere, elsewhere=200) as one, watching(one.url) as seen:
            assert await seen.probe_that(False) == "GET /health answered 302"
            assert not seen.backend.up
            one.replies["/health"] = 200
            assert await seen.change() is True
            assert "/elsewhere" not in one.asked

    asyncio.run(body())


def test_a_health_page_that_hangs_fails_after_its_time() -> None:
    async def body() -> None:
        async with engine() as one:
            async with watching(one.url, engine="vllm", health_path="/ping", health_timeout=0.05) as seen:
                one.replies["/ping"] = one.never
                assert await seen.probe_that(False) == "GET /ping gave no answer within 0.05 s"
                one.replies["/ping"] = 200
                assert await seen.change() is True
                assert "/health" not in one.asked

    asyncio.run(body())


def test_an_engine_fixed_by_config_is_asked_only_its_own_pages() -> None:
    async def body() -> None:
        async with engine() as one, watching(one.url, engine="sglang") as seen:
            await seen.change()
            sglang = DIALECTS["sglang"]
            assert (seen.watch.about.engine, seen.watch.dialect) == ("sglang", sglang)
            allowed = {*sglang.clues, "/v1/models", sglang.health_path, "/metrics"}
            assert set(one.asked) <= allowed < set(all_clues()) | {sglang.health_path, "/metrics"}

    asyncio.run(body())


def test_models_fixed_by_config_are_believed() -> None:
    async def body() -> None:
        async with engine() as one, watching(one.url, models=frozenset({"mine"})) as seen:
            await seen.change()
            assert seen.backend.models == {"mine"}
            assert [entry["id"] for entry in seen.watch.about.entries] == ["mine"]

    asyncio.run(body())


def test_a_base_path_stands_before_every_page() -> None:
    async def body() -> None:
        async with engine() as one:
            for path in ("/health", "/v1/models", "/metrics"):
                one.replies[f"/team{path}"] = one.replies.pop(path)
            async with watching(f"{one.url}/team/") as seen:
                assert await seen.change() is True
                assert (seen.backend.models, (await seen.reading()).waiting) == ({"m"}, 3)
            assert all(path.startswith("/team/") for path in one.asked)

    asyncio.run(body())


def test_a_failing_request_makes_it_look_again_soon() -> None:
    async def body() -> None:
        async with engine() as one, watching(one.url, health_interval=3600.0) as seen:
            assert await seen.probe() == (True, "")
            one.replies["/health"] = 500
            for _ in range(2):  # an hour would pass between two probes otherwise
                while seen.balancer.probes.empty():
                    seen.watch.hurry()
                    await asyncio.sleep(0)
                assert await seen.probe() == (False, "GET /health answered 500")
            assert not seen.backend.up

    asyncio.run(body())


def test_one_hurry_is_one_probe_and_is_not_forgotten() -> None:
    async def body() -> None:
        async with engine() as one, watching(one.url, health_interval=3600.0) as seen:
            await seen.probe()
            await asyncio.sleep(0)
            seen.watch.hurry()  # while the least time between two probes runs
            assert await seen.probe() == (True, "")
            asked = one.asked.count("/health")
            assert asked == 2

    asyncio.run(body())


def test_it_stops_at_once_though_a_probe_hangs() -> None:
    async def body() -> None:
        async with engine() as one:
            one.replies["/health"] = one.replies["/metrics"] = one.never
            async with asyncio.timeout(5), watching(one.url, engine="vllm", health_timeout=3600.0):
                while not one.asked:
                    await asyncio.sleep(0)

    asyncio.run(body())


def test_rubbish_for_answers_is_survived() -> None:
    async def body() -> None:
        rubbish = "{" * 10_000
        async with engine(v1_models=rubbish, metrics="\x00\x01 \ufffd", version="[]") as one:
            async with watching(one.url) as seen:
                assert await seen.change() is True
                assert seen.backend.models == {"*"}

    asyncio.run(body())
