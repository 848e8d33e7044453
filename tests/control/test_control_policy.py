"""Switching policies and shadows through the admin listener of a running Fairlead, and who may do it."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import pytest
from control_app import Running, engines, running

from fairlead.proxy.service import SessionSource


def policies(answer: Any) -> tuple[str, str | None]:
    """The names of policy and shadow in an answer's `old` or `new`."""
    return answer["policy"]["name"], answer["shadow"]["name"] if answer["shadow"] else None


def source(fairlead: Running) -> SessionSource | None:
    """Where sessions are read at the moment."""
    return fairlead.app.service.session


async def sent_to(fairlead: Running, count: int, **headers: str) -> list[str]:
    """Where so many requests went."""
    found = []
    for _ in range(count):
        _, id = await fairlead.chat("m", **headers)
        found.append((await fairlead.json(f"/api/explain/{id}"))["request"]["backend"])
    return found


# --- switching ------------------------------------------------------------------------------------------------


def test_one_call_switches_the_policy_and_says_old_and_new(caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> None:
        async with engines(2) as (one, two), running(one.url, two.url, policy="round_robin") as fairlead:
            learned = fairlead.app.balancer.tokens
            await fairlead.chat("m")
            with caplog.at_level(logging.INFO, "fairlead"):
                status, answer = await fairlead.switch({"policy": "session", "options": {"ttl": "2m"}})
            assert status == 200
            assert (policies(answer["old"]), policies(answer["new"])) == (("round_robin", None), ("session", None))
            options = {"header": "x-session-id", "cookie": None, "body_field": None, "ttl": 120.0}
            assert answer["new"]["policy"]["options"] == options
            assert answer["old"]["policy"]["options"] == {}
            assert "the policy is session now, it was round_robin" in caplog.messages
            assert await fairlead.json("/api/policy") == answer["new"]
            assert (await fairlead.json("/api/config"))["policy"]["ttl"] == 120.0
            assert (await fairlead.json("/api/backends"))["policy"] == "session"
            assert b'fairlead_policy_info{policy="session",shadow=""} 1.0' in (await fairlead.get("/metrics"))[1]
            assert fairlead.app.balancer.tokens is learned

    asyncio.run(body())


def test_a_switch_to_session_reads_the_sessions_and_a_switch_away_does_not() -> None:
    async def body() -> None:
        async with engines(3) as three, running(*(e.url for e in three), policy="round_robin") as fairlead:
            assert len(set(await sent_to(fairlead, 3, x_chat="s1"))) == 3
            status, _ = await fairlead.switch({"policy": "session", "options": {"header": "X-Chat"}})
            assert (status, source(fairlead)) == (200, SessionSource(header=b"x-chat"))
            homes = [set(await sent_to(fairlead, 4, x_chat=f"s{number}")) for number in range(3)]
            assert [len(home) for home in homes] == [1, 1, 1]
            status, _ = await fairlead.switch({"policy": "round_robin", "shadow": "session"})
            assert source(fairlead) == SessionSource(header=b"x-session-id")
            await fairlead.switch({"shadow": None})
            assert source(fairlead) is None
            assert len(set(await sent_to(fairlead, 3, x_chat="s1"))) == 3

    asyncio.run(body())


def test_the_configured_session_policy_comes_back_with_its_options() -> None:
    async def body() -> None:
        session = {"name": "session", "header": "x-chat", "ttl": "1m"}
        async with engines(1) as (one,), running(one.url, policy=session) as fairlead:
            assert source(fairlead) == SessionSource(header=b"x-chat")
            await fairlead.switch({"policy": "random"})
            assert source(fairlead) is None
            _, answer = await fairlead.switch({"policy": "session"})
            assert source(fairlead) == SessionSource(header=b"x-chat")
            assert answer["new"]["policy"]["options"]["ttl"] == 60.0

    asyncio.run(body())


@pytest.mark.parametrize(
    ("begin", "body", "warms"),
    [
        ({"policy": "round_robin"}, {"policy": "expected_completion"}, True),
        ({"policy": "round_robin"}, {"shadow": "random"}, True),
        ({"policy": "round_robin"}, {"policy": "latency"}, False),
        ({"policy": "prefix_cache"}, {"policy": "expected_completion"}, False),
        ({"policy": "round_robin", "shadow": "expected_completion"}, {"policy": "prefix_cache", "shadow": None}, False),
        ({"policy": "prefix_cache"}, {"policy": "round_robin", "shadow": "prefix_cache"}, False),
    ],
)
def test_a_cold_prefix_index_is_said_to_be_warming(begin: Any, body: Any, warms: bool) -> None:
    async def run() -> None:
        async with engines(2) as (one, two), running(one.url, two.url, **begin) as fairlead:
            kept = fairlead.app.balancer.uses_prefixes
            await fairlead.chat("m", "a long prompt " * 100)
            blocks = fairlead.app.balancer.cache.index.blocks
            assert bool(blocks) == kept
            status, answer = await fairlead.switch(body)
            assert status == 200
            assert (answer["warming"] is not None) == warms
            assert fairlead.app.balancer.cache.index.blocks == blocks
            if warms:
                assert "starts empty" in answer["warming"]
                await fairlead.chat("m", "a long prompt " * 100)
                assert fairlead.app.balancer.cache.index.blocks > 0  # the prompts are hashed now

    asyncio.run(run())


def test_a_decision_of_an_older_policy_is_explained_in_its_own_terms() -> None:
    async def body() -> None:
        async with engines(2) as (one, two), running(one.url, two.url, policy="expected_completion") as fairlead:
            _, id = await fairlead.chat("m")
            terms = fairlead.app.balancer.policy.term_names
            await fairlead.switch({"policy": "round_robin"})
            decision = (await fairlead.json(f"/api/explain/{id}"))["decision"]
            assert decision["policy"] == "expected_completion"
            assert all(tuple(row["terms"]) == terms for row in decision["candidates"])
            _, id = await fairlead.chat("m")
            decision = (await fairlead.json(f"/api/explain/{id}"))["decision"]
            assert (decision["policy"], tuple(decision["candidates"][0]["terms"])) == (
                "round_robin", ("credit", "weight"),
            )  # fmt: skip

    asyncio.run(body())


def test_what_cannot_be_done_is_400_with_the_nearest_name_and_changes_nothing() -> None:
    async def body() -> None:
        async with running("http://127.0.0.1:1", policy="random", shadow="latency") as fairlead:
            before = fairlead.app.balancer.policy, fairlead.app.balancer.shadow
            for asked, words in (
                ({"policy": "round-robin"}, "did you mean 'round_robin'?"),
                ({"policy": "round_robin", "shadow": "latenzy"}, "did you mean 'latency'?"),
                ({"policy": "session", "options": {"header": None}}, "set header, cookie or body_field"),
                ([], "expected an object"),
            ):
                status, answer = await fairlead.switch(asked)
                assert (status, words in answer["error"]["message"]) == (400, True), answer
            assert (fairlead.app.balancer.policy, fairlead.app.balancer.shadow) == before
            assert policies(await fairlead.json("/api/policy")) == ("random", "latency")

    asyncio.run(body())


@pytest.mark.parametrize(
    ("body", "status"),
    [(b"", 400), (b"{", 400), (b"\xff", 400), (b"[" * 30_000, 400), (b'"' + b"x" * 70_000 + b'"', 413)],
    ids=["empty", "cut", "no text", "deep", "long"],
)
def test_a_body_that_is_no_json_is_refused(body: bytes, status: int) -> None:
    async def run() -> None:
        async with running("http://127.0.0.1:1") as fairlead:
            found, answer = await fairlead.call("POST", "/api/policy", body, {"Content-Type": "application/json"})
            assert found == status
            assert json.loads(answer)["error"]["message"]

    asyncio.run(run())


# --- who may ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"content_type": "text/plain"}, 415),
        ({"content_type": "application/x-www-form-urlencoded"}, 415),
        ({"content_type": "application/jsonp"}, 415),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "https://127.0.0.1"}, 403),
        ({"sec_fetch_site": "cross-site"}, 403),
        ({"sec_fetch_site": "same-site"}, 403),
        ({"sec_fetch_site": "none"}, 403),
        ({"host": "evil.example"}, 403),
        ({"host": "10.1.2.3:9900"}, 403),
        ({"host": "localhost.evil.example"}, 403),
        ({"host": "fairlead"}, 403),
    ],
)
def test_pages_of_elsewhere_and_other_names_may_not_switch(headers: dict[str, str], status: int) -> None:
    async def body() -> None:
        async with running("http://127.0.0.1:1", policy="random") as fairlead:
            found, answer = await fairlead.switch({"policy": "latency"}, **headers)
            assert found == status, answer
            assert fairlead.app.balancer.policy.name == "random"

    asyncio.run(body())


def test_a_listener_that_is_open_to_others_still_wants_its_own_address() -> None:
    """A name could be rebound; the address on which the connection came, and the loopback names, could not."""

    async def body() -> None:
        async with running("http://127.0.0.1:1", policy="random", admin="0.0.0.0:0") as fairlead:
            for host, status in (("evil.example", 403), ("10.1.2.3", 403), ("127.0.0.1", 200), ("localhost:9", 200)):
                assert (await fairlead.switch({"policy": "latency"}, host=host))[0] == status, host

    asyncio.run(body())


def test_programs_and_pages_of_the_listener_itself_may() -> None:
    async def body() -> None:
        async with running("http://127.0.0.1:1", policy="random") as fairlead:
            host = fairlead.admin.removeprefix("http://")
            for headers in (
                {},
                {"content_type": "application/json; charset=utf-8"},
                {"origin": fairlead.admin, "sec_fetch_site": "same-origin"},
                {"host": host.replace("127.0.0.1", "localhost")},
                {
                    "host": host.replace("127.0.0.1", "LOCALHOST"),
                    "origin": fairlead.admin.replace("127.0.0.1", "localhost"),
                },
                {"host": "[::1]:9900"},
            ):
                assert (await fairlead.switch({"policy": "latency"}, **headers))[0] == 200, headers

    asyncio.run(body())


# --- shadows ----------------------------------------------------------------------------------------------------


def test_a_shadow_is_counted_and_shown_and_never_obeyed() -> None:
    async def body() -> None:
        options: dict[str, Any] = {"policy": "round_robin", "shadow": {"name": "prefix_hash", "load_factor": 10}}
        async with engines(2) as (one, two), running(one.url, two.url, **options) as fairlead:
            assert await fairlead.json("/api/shadow") == {
                "policy": "round_robin", "shadow": "prefix_hash", "active": True, "since": None, "requests": 0,
                "agreement": None, "predicted_ttft": {"policy": None, "shadow": None},
                "estimated_gain": {"seconds": None, "share": None}, "differences": [], "errors": 0, "last_error": None,
            }  # fmt: skip
            ids = [(await fairlead.chat("m", "the same prompt " * 40))[1] for _ in range(8)]
            shown = await fairlead.json("/api/shadow")
            assert (shown["requests"], shown["agreement"]) == (8, 0.5)  # it would have kept to one backend
            assert shown["since"] is not None
            (one_row, other) = shown["differences"]
            assert {one_row["backend"], other["backend"]} == {"b0", "b1"}
            assert sorted((row["only_policy"], row["only_shadow"]) for row in (one_row, other)) == [(0, 4), (4, 0)]
            predicted, gain = shown["predicted_ttft"], shown["estimated_gain"]
            assert gain["seconds"] == pytest.approx(predicted["policy"] - predicted["shadow"], abs=2e-6)
            assert gain["share"] == pytest.approx(gain["seconds"] / predicted["policy"], abs=1e-3)
            went = [(await fairlead.json(f"/api/explain/{id}"))["decision"] for id in ids]
            assert [decision["backend"] for decision in went] == ["b0", "b1"] * 4
            assert len({decision["shadow"]["backend"] for decision in went}) == 1
            for decision in went:
                shadow = decision["shadow"]
                assert (shadow["policy"], shadow["agrees"]) == ("prefix_hash", shadow["backend"] == decision["backend"])
                assert shadow["predicted_ttft"]["policy"] > 0
            page = (await fairlead.get("/metrics"))[1]
            assert b"fairlead_shadow_requests_total 8.0" in page and b"fairlead_shadow_agreements_total 4.0" in page

    asyncio.run(body())


def test_without_a_shadow_there_is_nothing_to_show() -> None:
    async def body() -> None:
        async with engines(2) as (one, two), running(one.url, two.url, policy="random") as fairlead:
            _, id = await fairlead.chat("m")
            assert await fairlead.json("/api/shadow") == {"policy": "random", "shadow": None}
            assert (await fairlead.json(f"/api/explain/{id}"))["decision"]["shadow"] is None

    asyncio.run(body())


def test_a_shadow_of_an_earlier_request_keeps_its_name() -> None:
    async def body() -> None:
        async with engines(2) as (one, two), running(one.url, two.url, shadow="random") as fairlead:
            _, id = await fairlead.chat("m")
            await fairlead.switch({"shadow": "latency"})
            assert (await fairlead.json(f"/api/explain/{id}"))["decision"]["shadow"]["policy"] == "random"
            shown = await fairlead.json("/api/shadow")
            assert (shown["shadow"], shown["requests"]) == ("latency", 0)

    asyncio.run(body())
