"""Case 73: what a reload may change, while streams run: each kind by itself, and whom it leaves alone."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from peers import Peer, dial, run, until
from reloading import Kept, begun, finished, held, is_there, kept, text_of
from running import ask
from scripted_engine import Engine

from fairlead.proxy.service import SessionSource


def reloading(body: Callable[[Kept], Awaitable[None]], count: int = 2, **options: Any) -> None:
    async def whole() -> None:
        async with kept(count, **options) as k:
            await body(k)

    run(whole)


# --- backends ------------------------------------------------------------------------------------------------


def test_an_added_backend_gets_requests_as_soon_as_the_reload_is_over() -> None:
    async def body(k: Kept) -> None:
        more = Engine(k.f.play, "new")
        await more.open()
        k.f.engines.append(more)
        told = await k.reload(backends=[*k.backends, {"url": more.url, "name": "new", "engine": "generic"}])
        assert (told["added"], told["removed"], told["changed"], told["options"]) == (["new"], [], [], [])
        assert k.f.app.balancer.backends["new"].up, "it was probed before it took part"
        assert await k.engines(6) == {"engine0", "engine1", "new"}

    reloading(body)


def test_a_backend_that_is_down_may_be_added_and_is_waited_for() -> None:
    async def body(k: Kept) -> None:
        more = Engine(k.f.play, "new")
        await more.open()
        await more.refuse()
        k.f.engines.append(more)
        await k.reload(
            backends=[*k.backends, {"url": more.url, "name": "new"}], health={"interval": "100ms", "fall": 100}
        )
        assert not k.f.app.balancer.backends["new"].up
        assert await k.engines(4) == {"engine0", "engine1"}
        await more.open()
        await until(lambda: k.f.app.balancer.backends["new"].up)
        assert "new" in await k.engines(6)

    reloading(body)


def test_streams_on_a_removed_backend_finish_and_then_nothing_of_it_is_left() -> None:
    async def body(k: Kept) -> None:
        go, app = asyncio.Event(), k.f.app
        k.f.play.scripts = [held(go), held(go)]
        clients = [await begun(k, "s0"), await begun(k, "s1")]
        old = app.balancer.backends["engine0"]
        told = await k.reload(backends=k.backends[1:])
        assert (told["removed"], [*app.balancer.backends], [*app.watches]) == (["engine0"], ["engine1"], ["engine1"])
        assert await k.engines(6) == {"engine1"}
        assert (old.inflight, len(app.service.retired)) == (1, 1)
        go.set()
        for number, client in enumerate(clients):
            await finished(k, client, f"s{number}")
        await until(lambda: not app.service.retired, "its pool is closed")
        assert old.inflight == old.decoding == old.kv_tokens == 0
        await until(lambda: not k.f.engines[0].busy, "all its connections are closed")
        assert "engine0" not in app.recorder.backends
        assert not [key for key in app.recorder.errors if key[0] == "engine0"]

    reloading(body)


def test_all_backends_may_be_others_at_once_and_no_request_finds_none() -> None:
    async def body(k: Kept) -> None:
        others = [Engine(k.f.play, f"other{number}") for number in range(2)]
        for engine in others:
            await engine.open()
        k.f.engines += others
        # The same names at other places: other backends all the same.
        await k.reload(
            backends=[{"url": engine.url, "name": f"engine{n}", "models": ["m"]} for n, engine in enumerate(others)]
        )
        assert await k.engines(4) == {"other0", "other1"}

    reloading(body)


def test_a_backend_of_the_same_name_and_place_keeps_what_was_learned() -> None:
    async def body(k: Kept) -> None:
        app = k.f.app
        await k.engines(4)
        old = app.balancer.backends["engine0"]
        old.price = (0.0,) * 10 + (False,)
        learned = (old.prefill, old.decode, old.shelf, old.latency, old.probes)
        first, second = k.backends
        told = await k.reload(backends=[{**first, "weight": 3, "max_connections": 7, "backup": False}, second])
        assert told["changed"] == ["engine0"]
        now = app.balancer.backends["engine0"]
        assert now is old
        assert (now.prefill, now.decode, now.shelf, now.latency, now.probes) == learned
        assert (now.weight, now.weight_set, now.max_connections, now.price) == (3.0, True, 7, None)
        await until(lambda: now.capacity == 3.0, "the weight is the capacity")
        before = len(k.f.engines[0].seen), len(k.f.engines[1].seen)
        await k.engines(8)
        assert (len(k.f.engines[0].seen) - before[0], len(k.f.engines[1].seen) - before[1]) == (6, 2)
        await k.reload(backends=[first, second])
        assert (now.weight, now.weight_set, now.max_connections) == (1.0, False, None)

    reloading(body)


def test_down_and_backup_are_obeyed_at_once() -> None:
    async def body(k: Kept) -> None:
        first, second = k.backends
        await k.reload(backends=[{**first, "down": True}, second])
        assert await k.engines(4) == {"engine1"}
        await k.reload(backends=[first, {**second, "backup": True}])
        assert await k.engines(4) == {"engine0"}
        await k.reload(backends=[first, second])
        assert await k.engines(4) == {"engine0", "engine1"}

    reloading(body)


def test_headers_change_for_the_next_request_and_running_streams_keep_their_connection() -> None:
    async def body(k: Kept) -> None:
        go = asyncio.Event()
        k.f.play.scripts = [held(go)]
        client = await begun(k, "s")
        told = await k.reload(headers={"set": ["X-Team: red"], "remove": ["X-Gone"]})
        assert told["options"] == ["headers"]
        assert (await k.ask()).field("x-team") == "red"
        go.set()
        await finished(k, client, "s")
        await k.reload(headers={"set": ["X-Team: blue"]})
        seen = [await k.ask() for _ in range(4)]
        assert [each.field("x-team") for each in seen] == ["blue"] * 4

    reloading(body)


def test_another_engine_kind_models_and_health_path_are_followed() -> None:
    async def body(k: Kept) -> None:
        watch = k.f.app.watches["engine0"]
        first, second = k.backends
        await k.reload(
            backends=[{**first, "models": ["other"], "health_path": "/live"}, second], health={"interval": "100ms"}
        )
        assert k.f.app.watches["engine0"] is watch
        assert watch.settings.health_path == "/live"
        assert k.f.app.balancer.backends["engine0"].models == frozenset(("other",))
        assert await k.engines(4) == {"engine1"}, "the requests are for m"

    reloading(body)


# --- options -------------------------------------------------------------------------------------------------


def test_the_policy_of_the_file_comes_into_force_and_an_unchanged_one_keeps_its_memory() -> None:
    async def body(k: Kept) -> None:
        app = k.f.app
        before = app.balancer.policy
        await k.reload(timeouts={"connect": "3s"})
        assert app.balancer.policy is before
        await k.reload(policy={"name": "session", "header": "x-chat"}, shadow="latency")
        assert (app.balancer.policy.name, app.service.session) == ("session", SessionSource(header=b"x-chat"))
        assert app.balancer.shadow is not None
        assert (await k.call("POST", "/api/policy", {"policy": "random"}))[0] == 200
        await k.reload()
        assert app.balancer.policy.name == "session", "what was switched by hand ends with the next reload"
        await k.reload(policy="round_robin", shadow=None)
        assert app.balancer.policy.name == "round_robin"
        assert (await k.call("GET", "/api/policy"))[1]["shadow"] is None

    reloading(body)


def test_routes_change_for_the_next_request() -> None:
    async def body(k: Kept) -> None:
        await k.reload(routes=[{"path": "/v1/", "backends": ["engine1"]}])
        assert await k.engines(4) == {"engine1"}
        await k.reload(routes=[{"path": "/blue", "backends": ["engine0"], "strip": True}])
        assert (await k.ask("/blue/v1/chat/completions")).engine == "engine0"
        verdict = await k.oracle.speak(ask("r", fields="Connection: close\r\n"))
        assert verdict.statuses == (404,)
        await k.reload(routes=[])
        assert await k.engines(4) == {"engine0", "engine1"}

    reloading(body)


def test_numbers_come_into_force_where_they_are_used() -> None:
    async def body(k: Kept) -> None:
        app = k.f.app
        await k.reload(
            timeouts={"first_byte": "7s"},
            retries={"attempts": 1, "on": ["connect"], "window": "3s", "budget": "5%"},
            limits={"body": "2KiB", "streams": 7, "body_memory": "2MiB"},
            health={"interval": "9s", "rise": 4, "fall": 5, "max_fails": 6, "fail_timeout": "8s"},
            metrics={"interval": "11s"},
            alerts={"share": {"threshold": "60%"}},
            drain="3s",
            forwarded=False,
            keepalive={"connections": 3},
        )
        service, balancer = app.service, app.balancer
        assert service.timeouts.first_byte == 7.0
        rules = balancer.retry_rules
        assert (rules.attempts, rules.on, rules.window, rules.budget) == (1, frozenset(("connect",)), 3.0, 0.05)
        assert (service.limits.body, service.limits.streams, service.memory.limit) == (2048, 7, 2 << 20)
        for backend in balancer.backends.values():
            assert (backend.probes.rise, backend.probes.fall) == (4, 5)
            assert (backend.passive.max_fails, backend.passive.fail_timeout) == (6, 8.0)
        assert {watch.settings.health_interval for watch in app.watches.values()} == {9.0}
        assert {watch.settings.metrics_interval for watch in app.watches.values()} == {11.0}
        assert (app.alerting.alerts.rules.share.threshold, app.config.drain) == (0.6, 3.0)
        assert {pool.max_idle for pool in service.pools.values()} == {3}
        assert (await k.ask()).field("x-forwarded-for") is None
        large = b'{"model":"m","messages":[{"role":"user","content":"%b"}]}' % (b"x" * 4096)
        assert (await k.oracle.speak(ask("l", body=large))).statuses == (413,)

    reloading(body)


def test_the_access_log_goes_to_another_file_in_another_format() -> None:
    async def body(k: Kept) -> None:
        old = Path(k.document["access_log"]["path"])
        await k.ask()
        new = k.path.with_name("other.log")
        await k.reload(access_log={"path": str(new), "format": "combined"})
        await k.ask()
        log = k.f.app.access_log
        assert log is not None
        log.flush()
        await until(lambda: text_of(new).endswith("\n"))
        assert "POST /v1/chat/completions" in text_of(new)
        (line,) = text_of(old).splitlines(keepends=True)  # it was written before it was closed
        await k.reload(access_log={"path": str(old), "format": "json"})
        add(old, line)  # the oracle counts lines: this one stands for the one that went elsewhere

    reloading(body)


def add(path: Path, line: str) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(line)


def test_an_access_log_that_was_moved_away_is_begun_anew() -> None:
    async def body(k: Kept) -> None:
        path = Path(k.document["access_log"]["path"])
        await k.ask()
        await k.f.logged(1)
        line = text_of(path)
        os.rename(path, path.with_suffix(".1"))
        await k.reload()
        await k.ask()
        assert len(await k.f.logged(1)) == 1
        add(path, line)  # for the oracle's count

    reloading(body)


@pytest.mark.parametrize("option", ["admin", "recording"])
def test_what_only_a_start_reads_is_said_and_waits(option: str) -> None:
    async def body(k: Kept) -> None:
        value = "127.0.0.1:1" if option == "admin" else str(k.path.with_name("trace.jsonl"))
        told = await k.reload(**{option: value}, timeouts={"connect": "4s"})
        assert told["needs_restart"] == [option]
        assert k.f.app.service.timeouts.connect == 4.0
        loaded = (await k.call("GET", "/api/config"))[1]["loaded"]
        assert loaded["needs_restart"] == [option]

    reloading(body)


# --- listeners -----------------------------------------------------------------------------------------------


async def answered(k: Kept, path: str) -> int:
    """The status of one request over a Unix socket."""
    peer = Peer()
    await asyncio.get_running_loop().create_unix_connection(lambda: peer, path)
    await peer.send(ask("u", fields="Connection: close\r\n"))
    answer = await peer.answer()
    peer.transport.abort()
    k.oracle.outcomes[answer.status] += 1
    return answer.status


def test_a_listener_is_added_and_removed_and_the_other_one_is_not_touched() -> None:
    async def body(k: Kept) -> None:
        app, path = k.f.app, str(k.path.with_name("own.sock"))
        ((listen, listener),) = app.listening
        idle = await k.f.dial()
        await k.reload(listen=["127.0.0.1:0", f"unix:{path}"])
        assert app.listening[0] == (listen, listener)
        assert await answered(k, path) == 200
        await k.reload(listen=["127.0.0.1:0"])
        assert app.listening == [(listen, listener)]
        assert not is_there(path)
        await idle.send(ask("i", fields="Connection: close\r\n"))
        assert (await idle.answer()).status == 200, "who was connected before the two reloads"
        k.oracle.outcomes[200] += 1
        await until(lambda: app.service.listeners == [listener], "the other is let go of")

    reloading(body)


def test_a_listener_with_other_options_takes_over_the_very_sockets() -> None:
    async def body(k: Kept) -> None:
        app, path = k.f.app, str(k.path.with_name("own.sock"))
        await k.reload(listen=["127.0.0.1:0", f"unix:{path}"])
        old = [listener for _, listener in app.listening]
        await k.reload(listen=[{"address": "127.0.0.1:0", "http2": False}, {"address": f"unix:{path}", "http2": False}])
        assert not {*old} & {listener for _, listener in app.listening}
        await k.ask()  # at the address that the system once gave us
        assert await answered(k, path) == 200, "the socket's file is still there"
        await k.reload(listen=["127.0.0.1:0"])
        assert not is_there(path), "and it is removed with its last listener"

    reloading(body)


def test_connections_that_wait_to_be_accepted_are_not_lost_when_a_listener_is_taken_over() -> None:
    async def body(k: Kept) -> None:
        for turn in range(6):
            clients = await asyncio.gather(
                *[dial(k.f.address) for _ in range(20)],
                k.reload(listen=[{"address": "127.0.0.1:0", "http2": bool(turn % 2)}]),
            )
            for client in clients[:20]:
                assert isinstance(client, Peer)
                await client.send(ask("w", fields="Connection: close\r\n"))
                assert (await client.answer()).status == 200
                client.transport.abort()
                k.oracle.outcomes[200] += 1

    reloading(body)
