"""The admin listener over real HTTP: pages, statuses, and who may ask."""

from __future__ import annotations

import asyncio
import json
import math
from pathlib import Path
from typing import Any

import pytest
from control_app import engines, running

from fairlead import __version__
from fairlead.control.admin import PAGES


def strict(body: bytes) -> Any:
    """JSON without the words that JSON does not have."""

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    return json.loads(body, parse_constant=refuse)


def test_every_page_answers_strict_json_or_metrics() -> None:
    async def body() -> None:
        async with engines(2) as (one, two), running(one.url, two.url) as fairlead:
            _, request_id = await fairlead.chat("m")
            for page in PAGES:
                if page in ("/api/reload", "/api/live"):
                    continue  # the one is not read, the other has no end
                status, answer = await fairlead.get(page.replace("{request_id}", request_id).replace("{id}", "b0"))
                assert status == 200, page
                if page in ("/metrics", "/"):
                    assert answer.startswith(b"# HELP" if page == "/metrics" else b"<!doctype html>")
                else:
                    assert isinstance(strict(answer), dict), page
            assert strict((await fairlead.get("/healthz"))[1]) == {"status": "ok", "version": __version__}

    asyncio.run(body())


def test_views_hold_no_infinities_even_when_numbers_are_odd() -> None:
    async def body() -> None:
        async with engines(1) as (one,), running(one.url, "http://127.0.0.1:1") as fairlead:
            backend = fairlead.app.balancer.backends["b0"]
            await fairlead.chat("m")
            for value in (math.inf, -math.inf, math.nan):
                backend.slowdown = backend.capacity = backend.polled_at = value
                for page in ("/api/backends", "/api/decisions", "/api/models"):
                    strict((await fairlead.get(page))[1])
            backend.capacity = backend.slowdown = 1.0

    asyncio.run(body())


def test_backends_say_what_they_are_and_why_they_are_down() -> None:
    async def body() -> None:
        async with engines(1) as (one,), running(one.url, "http://127.0.0.1:1") as fairlead:
            await fairlead.chat("m")
            answer = await fairlead.json("/api/backends")
            up, down = answer["backends"]
            assert answer["policy"] == fairlead.app.config.policy.name
            assert (up["id"], up["url"], up["state"], up["reason"], up["engine"]) == ("b0", one.url, "up", "", "vllm")
            assert (up["models"], up["requests"], up["inflight"], up["weight"]) == (["m"], 1, 0, None)
            assert (down["state"], down["reason"], down["engine"]) == ("down", "connection refused", None)
            assert (down["models"], down["metrics_age"], down["ttft_mean"]) == (None, None, None)

    asyncio.run(body())


@pytest.mark.parametrize(
    ("method", "path", "status", "words"),
    [
        ("GET", "/nothing", 404, "no such page here: /, /healthz"),
        ("GET", "/api/decisions/b0/x", 404, "no such page here"),
        ("GET", "/api/backends/b0/x", 404, "no such backend: 'b0/x'"),
        ("POST", "/healthz", 405, "allowed here: GET"),
        ("DELETE", "/api/decisions", 405, "allowed here: GET"),
        ("GET", "/api/decisions?limit=0", 400, "limit: expected a number from 1 to 1000, got '0'"),
        ("GET", "/api/decisions?limit=2001", 400, "got '2001'"),
        ("GET", "/api/decisions?limit=-1", 400, "got '-1'"),
        ("GET", "/api/decisions?limit=many", 400, "got 'many'"),
        ("GET", "/api/decisions?limit=", 400, "got ''"),
        ("GET", "/api/explain/who-knows", 404, "no such request among the last ones"),
        ("GET", "/api/explain/" + "x" * 4000, 404, "no such request"),
    ],
)
def test_errors_have_their_status_and_a_sentence(method: str, path: str, status: int, words: str) -> None:
    async def body() -> None:
        async with running("http://127.0.0.1:1") as fairlead:
            found, answer = await fairlead.call(method, path)
            assert found == status
            assert words in strict(answer)["error"]["message"]
            assert b"Traceback" not in answer

    asyncio.run(body())


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:9900", "127.0.0.1.evil.example", "localhost.evil:1", "[x]"]
)
def test_a_name_that_points_here_is_refused(host: str) -> None:
    """DNS rebinding: a page elsewhere lets its own name resolve to 127.0.0.1."""

    async def body() -> None:
        async with running("http://127.0.0.1:1") as fairlead:
            for page in ("/api/config", "/metrics", "/nothing"):
                status, answer = await fairlead.get(page, {"Host": host})
                assert (status, "address or as localhost" in strict(answer)["error"]["message"]) == (403, True)

    asyncio.run(body())


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.0.0.1:9900", "localhost", "localhost:1", "[::1]:9900", "10.1.2.3:9"]
)
def test_addresses_and_localhost_may_ask(host: str) -> None:
    async def body() -> None:
        async with running("http://127.0.0.1:1") as fairlead:
            assert (await fairlead.get("/healthz", {"Host": host}))[0] == 200

    asyncio.run(body())


def test_decisions_come_newest_first_and_as_many_as_asked() -> None:
    async def body() -> None:
        async with engines(1) as (one,), running(one.url) as fairlead:
            ids = [(await fairlead.chat("m"))[1] for _ in range(4)]
            rows = (await fairlead.json("/api/decisions?limit=3"))["decisions"]
            assert [row["id"] for row in rows] == ids[:0:-1]
            assert len((await fairlead.json("/api/decisions"))["decisions"]) == 4
            row = rows[0]
            assert (row["backend"], row["status"], row["model"], row["method"]) == ("b0", 200, "m", "POST")
            assert (row["path"], row["outcome"], row["error"], row["tries"]) == ("/v1/chat/completions", "ok", None, 1)
            assert row["output_tokens"] == 2 and 0 < row["ttft"] <= row["duration"]

    asyncio.run(body())


def test_explain_shows_every_candidate_with_its_terms() -> None:
    async def body() -> None:
        async with engines(2) as (one, two):
            async with running(one.url, two.url, "http://127.0.0.1:1", policy="least_pending_tokens") as fairlead:
                _, request_id = await fairlead.chat("m", "how are you", x_request_id="mine-1")
                assert request_id == "mine-1"
                answer = await fairlead.json("/api/explain/mine-1")
        decision = answer["decision"]
        policy = fairlead.app.balancer.policy
        assert (decision["policy"], answer["request"]["id"]) == (policy.name, "mine-1")
        assert decision["backend"] == answer["request"]["backend"]
        rows = decision["candidates"]
        assert [row["chosen"] for row in rows] == [True, False]
        assert {row["backend"] for row in rows} == {"b0", "b1"}
        for row in rows:
            assert tuple(row["terms"]) == policy.term_names
            assert rows[0]["score"] <= row["score"]
        (left_out,) = decision["not_considered"]
        assert left_out == {"backend": "b2", "state": "down", "reason": "connection refused", "state_now": "down"}
        assert decision["backend"] in answer["explanation"]
        assert decision["estimate"]["max_tokens"] == 2
        assert b"how are you" not in json.dumps(answer).encode()

    asyncio.run(body())


def test_explain_of_a_request_that_went_nowhere() -> None:
    async def body() -> None:
        async with engines(1) as (one,), running(one.url) as fairlead:
            status, request_id = await fairlead.chat("another")
            assert status == 404
            answer = await fairlead.json(f"/api/explain/{request_id}")
            assert answer["decision"] is None
            assert answer["explanation"] == "it was not sent to any backend: model_not_found"

    asyncio.run(body())


def test_readiness_follows_the_fleet_and_the_drain() -> None:
    async def body() -> None:
        async with engines(1) as (one,), running(one.url) as fairlead:
            assert await fairlead.get("/readyz") == (200, b'{\n  "status": "ready"\n}\n')
            await one.stop()
            await fairlead.until("down", lambda: not fairlead.app.balancer.backends["b0"].up)
            assert await fairlead.get("/readyz") == (503, b'{\n  "status": "no backend is up"\n}\n')
            assert (await fairlead.get("/healthz"))[0] == 200  # the balancer itself is well
            await one.start()
            await fairlead.until("up", lambda: fairlead.app.balancer.backends["b0"].up)
            assert (await fairlead.get("/readyz"))[0] == 200
            fairlead.app.service.draining = True
            assert await fairlead.get("/readyz") == (503, b'{\n  "status": "draining"\n}\n')

    asyncio.run(body())


def test_the_config_page_shows_what_is_in_force() -> None:
    async def body() -> None:
        async with running("http://127.0.0.1:1", drain="7s") as fairlead:
            shown = await fairlead.json("/api/config")
            assert shown["drain"] == 7.0
            assert shown["backends"][0]["url"] == "http://127.0.0.1:1"

    asyncio.run(body())


def test_a_standing_share_alert_is_listed() -> None:
    async def body() -> None:
        async with engines(2) as (one, two):
            async with running(one.url, two.url, alerts={"share": {"window": "1s", "min_requests": 5}}) as fairlead:
                assert await fairlead.json("/api/alerts") == {"alerts": [], "ended": []}
                backends = fairlead.app.balancer.backends
                for count in (0, 100):
                    backends["b0"].placed = backends["b0"].contested = count
                    now = fairlead.app.clock()
                    fairlead.app.alerting.look(fairlead.app.facts(now), now)
                (alert,) = (await fairlead.json("/api/alerts"))["alerts"]
                assert (alert["alert"], alert["backend"], alert["value"]) == ("backend_share", "b0", 1.0)
                assert "another healthy backend" in alert["message"]

    asyncio.run(body())


def test_the_docs_show_every_page_and_every_field() -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "admin-api.md").read_text(encoding="utf-8")
    for page in PAGES:
        assert f"\n## {page}\n" in text

    def fields(data: object) -> set[str]:
        if isinstance(data, dict):
            return set(data).union(*map(fields, data.values()))
        return set().union(*map(fields, data)) if isinstance(data, list) else set()

    async def body() -> None:
        async with engines(1) as (one,), running(one.url, "http://127.0.0.1:1") as fairlead:
            _, request_id = await fairlead.chat("m")
            for page in ("/api/backends", "/api/decisions", f"/api/explain/{request_id}"):
                shown = fields(await fairlead.json(page)) - set(fairlead.app.balancer.policy.term_names)
                missing = {name for name in shown if f'"{name}"' not in text}
                assert not missing, page

    asyncio.run(body())


@pytest.mark.parametrize("limit", ["9" * 5000, "\u0663"], ids=["5000 digits", "an Arabic digit"])
def test_odd_limits_are_refused_as_well(limit: str) -> None:
    async def body() -> None:
        async with running("http://127.0.0.1:1") as fairlead:
            assert (await fairlead.call("GET", f"/api/decisions?limit={limit}"))[0] == 400

    asyncio.run(body())


@pytest.mark.parametrize(("host", "status"), [("LOCALHOST", 200), ("[::1].evil", 403)])
def test_hosts_are_read_whole_and_in_any_case(host: str, status: int) -> None:
    async def body() -> None:
        async with running("http://127.0.0.1:1") as fairlead:
            assert (await fairlead.get("/healthz", {"Host": host}))[0] == status

    asyncio.run(body())


def test_a_caller_that_sends_half_a_request_does_not_hold_up_the_end() -> None:
    async def body() -> None:
        async with engines(1) as (one,), running(one.url) as fairlead:
            host, _, port = fairlead.admin.removeprefix("http://").partition(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            head = (
                f"POST /api/policy HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: 9\r\n"
            )
            writer.write(f"{head}Expect: 100-continue\r\n\r\n".encode())
            assert b"100" in await reader.readline()  # it is being read
            admin = fairlead.app._admin
            assert admin is not None
            async with asyncio.timeout(30):  # beyond any patience with it, and less than aiohttp has by itself
                await admin.close()
            writer.close()

    asyncio.run(body())
