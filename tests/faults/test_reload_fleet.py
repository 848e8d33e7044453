"""Backends that come, change and go by the admin API, while streams run. Case 69: who is removed finishes first."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from peers import run, until
from reloading import Kept, begun, finished, held, kept
from running import ask, hang
from scripted_engine import Engine


async def newcomer(k: Kept) -> Engine:
    engine = Engine(k.f.play, "new")
    await engine.open()
    k.f.engines.append(engine)
    return engine


async def row(k: Kept, id: str) -> dict[str, Any]:
    status, found = await k.call("GET", f"/api/backends/{id}")
    assert status == 200
    return found  # type: ignore[no-any-return]


# --- POST ----------------------------------------------------------------------------------------------------


def test_a_backend_that_is_posted_gets_requests_until_the_next_reload() -> None:
    async def body() -> None:
        async with kept() as k:
            engine = await newcomer(k)
            k.write()
            status, told = await k.call("POST", "/api/backends", {"url": engine.url, "name": "new", "weight": 2})
            assert (status, told["id"], told["version"]) == (201, "new", 2)
            assert told["lasts"] == "until the next reload, which reads the file again"
            assert (await row(k, "new"))["weight"] == 2.0
            assert await k.engines(8) == {"engine0", "engine1", "new"}
            shown = (await k.call("GET", "/api/config"))[1]
            assert [backend["name"] for backend in shown["backends"]] == ["engine0", "engine1", "new"]
            assert (shown["loaded"]["version"], shown["loaded"]["changes"]) == (2, ["backend new: added"])
            told = await k.f.app.reloader.reload()
            assert told["removed"] == ["new"]
            assert await k.engines(6) == {"engine0", "engine1"}
            assert (await k.call("GET", "/api/config"))[1]["loaded"]["changes"] == []

    run(body)


def test_a_bare_url_is_a_backend_too() -> None:
    async def body() -> None:
        async with kept() as k:
            engine = await newcomer(k)
            status, told = await k.call("POST", "/api/backends", engine.url)
            assert (status, told["id"]) == (201, engine.url.removeprefix("http://"))

    run(body)


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({}, 400, "url: required, but not there"),
        ([], 400, "expected a table of options"),
        ({"url": "ftp://x"}, 400, "url: expected"),
        ({"url": "http://127.0.0.1:1", "wieght": 2}, 400, "wieght: unknown key 'wieght' (did you mean 'weight'?)"),
        ({"url": "http://127.0.0.1:1", "weight": 0}, 400, "weight: expected"),
        ({"url": "http://127.0.0.1:1", "weight": "heavy"}, 400, "weight: expected"),
        ({"url": "http://127.0.0.1:1", "name": "engine0"}, 409, "name: the name 'engine0' is already that of"),
        ({"url": "https://127.0.0.1:1", "tls": {"ca": "/no/such.pem"}}, 400, "tls.ca: '/no/such.pem' is not there"),
        ({"url": "https://127.0.0.1:1", "tls": {"cert": "/no/such.pem"}}, 400, "is of no use without 'key'"),
    ],
)
def test_a_backend_that_cannot_be_is_refused(body: object, status: int, words: str) -> None:
    async def whole() -> None:
        async with kept(1) as k:
            before = k.f.app.config
            got, answer = await k.call("POST", "/api/backends", body)
            assert (got, words in answer["error"]["message"]) == (status, True), answer
            assert answer["error"]["problems"]
            assert k.f.app.config is before
            assert (await k.call("GET", "/api/config"))[1]["loaded"]["version"] == 1

    run(whole)


def test_the_url_of_a_backend_that_is_there_is_a_conflict() -> None:
    async def body() -> None:
        async with kept(1) as k:
            status, answer = await k.call("POST", "/api/backends", {"url": k.f.engines[0].url, "name": "twin"})
            assert (status, "is already backend engine0" in answer["error"]["message"]) == (409, True), answer

    run(body)


# --- PATCH ---------------------------------------------------------------------------------------------------


def test_draining_and_disabling_keep_new_requests_away_and_let_streams_finish() -> None:
    async def body() -> None:
        async with kept() as k:
            for no, yes, state in (
                ({"drain": True}, {"drain": False}, "draining"),
                ({"enable": False}, {"enable": True}, "disabled"),
            ):
                go = asyncio.Event()
                k.f.play.scripts = [held(go), held(go)]
                clients = [await begun(k, f"{state}0"), await begun(k, f"{state}1")]
                assert (await k.call("PATCH", "/api/backends/engine0", no))[0] == 200
                found = await row(k, "engine0")
                assert (found["state"], found["inflight"]) == (state, 1)
                assert await k.engines(4) == {"engine1"}
                go.set()
                for number, client in enumerate(clients):
                    await finished(k, client, f"{state}{number}")
                assert (await k.call("PATCH", "/api/backends/engine0", yes))[0] == 200
                assert await k.engines(4) == {"engine0", "engine1"}

    run(body)


def test_a_weight_that_is_changed_counts_from_the_next_choice_on() -> None:
    async def body() -> None:
        async with kept() as k:
            status, told = await k.call("PATCH", "/api/backends/engine1", {"weight": 3})
            assert (status, told["id"]) == (200, "engine1")
            before = [len(engine.seen) for engine in k.f.engines]
            await k.engines(8)
            assert [len(e.seen) - n for e, n in zip(k.f.engines, before, strict=True)] == [2, 6]
            await k.call("PATCH", "/api/backends/engine1", {"weight": None})
            assert (await row(k, "engine1"))["weight"] is None

    run(body)


def test_limits_and_backup_are_changed_and_a_reload_brings_the_file_back() -> None:
    async def body() -> None:
        async with kept() as k:
            k.write()
            change = {"max_connections": 3, "backup": True, "drain": True}
            assert (await k.call("PATCH", "/api/backends/engine1", change))[0] == 200
            found = await row(k, "engine1")
            assert (found["max_connections"], found["backup"], found["state"]) == (3, True, "draining")
            told = (await k.call("GET", "/api/config"))[1]["loaded"]["changes"]
            assert told == ["backend engine1: max_connections 3, backup true, drain true"]
            await k.f.app.reloader.reload()
            found = await row(k, "engine1")
            assert (found["max_connections"], found["backup"], found["state"]) == (None, False, "up")
            assert await k.engines(4) == {"engine0", "engine1"}

    run(body)


@pytest.mark.parametrize(
    ("id", "body", "status", "words"),
    [
        ("nobody", {"weight": 1}, 404, "no such backend: 'nobody'"),
        ("engine0", {}, 400, "nothing to change"),
        ("engine0", [], 400, "expected an object"),
        ("engine0", {"enabled": True}, 400, "did you mean 'enable'?"),
        ("engine0", {"url": "http://x"}, 400, "may be changed here: weight, drain"),
        ("engine0", {"weight": -1}, 400, "weight: expected"),
        ("engine0", {"weight": 2, "max_connections": 0}, 400, "max_connections: expected"),
        ("engine0", {"drain": "soon"}, 400, "drain: expected"),
        ("engine0", {"enable": None}, 400, "enable: expected"),
    ],
)
def test_a_change_that_cannot_be_is_refused_and_nothing_of_it_is_done(
    id: str, body: object, status: int, words: str
) -> None:
    async def whole() -> None:
        async with kept(1) as k:
            before = k.f.app.config
            got, answer = await k.call("PATCH", f"/api/backends/{id}", body)
            assert (got, words in answer["error"]["message"]) == (status, True), answer
            assert k.f.app.config is before
            assert (await row(k, "engine0"))["weight"] is None

    run(whole)


# --- DELETE --------------------------------------------------------------------------------------------------


def test_streams_on_a_deleted_backend_finish() -> None:
    async def body() -> None:
        async with kept() as k:
            go = asyncio.Event()
            k.f.play.scripts = [held(go), held(go)]
            clients = [await begun(k, "s0"), await begun(k, "s1")]
            status, told = await k.call("DELETE", "/api/backends/engine0")
            assert (status, told["id"], told["running"]) == (200, "engine0", 1)
            assert (await k.call("GET", "/api/backends/engine0"))[0] == 404
            assert await k.engines(4) == {"engine1"}
            go.set()
            for number, client in enumerate(clients):
                await finished(k, client, f"s{number}")
            assert (await k.call("DELETE", "/api/backends/engine0"))[0] == 404

    run(body)


def test_force_breaks_what_has_begun_visibly_and_moves_what_has_not() -> None:
    async def body() -> None:
        async with kept() as k:
            go = asyncio.Event()
            k.f.play.scripts = [held(go), hang]
            k.f.engines[1].script = None
            streaming = await begun(k, "s0")  # on engine0, whose turn it was
            await k.call("PATCH", "/api/backends/engine1", {"enable": False})
            waiting = await k.f.dial()
            await waiting.send(ask("s1"))
            await until(lambda: k.f.engines[0].busy and len(k.f.engines[0].seen) == 2)
            await k.call("PATCH", "/api/backends/engine1", {"enable": True})
            status, told = await k.call("DELETE", "/api/backends/engine0?force=1")
            assert (status, told["broken"]) == (200, 2)
            end = await streaming.end()
            assert b'"code":"stream_broken"' in end or b'"error"' in end
            answer = await waiting.answer()
            assert (answer.status, answer.field("x-nonce")) == (200, "s1"), "it was tried elsewhere"
            waiting.close()
            k.oracle.outcomes[200] += 2
            await until(lambda: not k.f.engines[0].busy, "the engine's work was ended, too")

    run(body)


def test_the_last_backend_and_one_that_a_route_needs_stay() -> None:
    async def body() -> None:
        async with kept() as k:
            await k.reload(routes=[{"path": "/", "backends": ["engine0"]}])
            status, answer = await k.call("DELETE", "/api/backends/engine0")
            assert (status, "engine0" in answer["error"]["message"]) == (400, True)
            assert (await k.call("DELETE", "/api/backends/engine0?force=yes"))[0] == 400
            assert (await k.call("DELETE", "/api/backends/engine1"))[0] == 200
            await k.reload(routes=[], backends=k.backends[:1])
            status, answer = await k.call("DELETE", "/api/backends/engine0")
            assert (status, "is the last one" in answer["error"]["message"]) == (400, True)

    run(body)


def test_backends_that_come_and_go_leave_no_state_behind() -> None:
    async def body() -> None:
        async with kept() as k:
            app, engine = k.f.app, await newcomer(k)
            for turn in range(120):
                assert (await k.call("POST", "/api/backends", {"url": engine.url, "name": f"n{turn}"}))[0] == 201
                if turn % 40 == 0:
                    await k.engines(3)
                assert (await k.call("DELETE", f"/api/backends/n{turn}"))[0] == 200
            await until(lambda: not app.service.retired)
            assert {*app.balancer.backends} == {*app.watches} == {*app.service.pools} == {"engine0", "engine1"}
            assert {key[0] for key in app.recorder.errors} == {"engine0", "engine1"}
            assert {*app.recorder.backends} == {"engine0", "engine1"}
            assert "n0" not in {key[0] for key in app.recorder.requests}, "a hundred others have left since"
            assert "n80" in {key[0] for key in app.recorder.requests}
            app.recorder.requests["n0", "m", 200] = 1  # for the oracle, which counts every request
            assert len(app.reloader.versions.changes) == 100

    run(body)
