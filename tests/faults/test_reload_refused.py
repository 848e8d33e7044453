"""Case 74: a file that cannot be used changes nothing, and everybody who should know is told. Case 75: certificates."""

from __future__ import annotations

import asyncio
import logging
import socket
from pathlib import Path
from typing import Any

import pytest
import trustme
import yaml
from peers import dial, run, until
from reloading import Kept, begun, finished, held, is_there, kept
from running import ask, event, fleet
from scripted_engine import Engine

from fairlead.config.load import read_file
from fairlead.control.fleet import Refused


def state(k: Kept) -> tuple[Any, ...]:
    """What a refused reload must leave as it is, to the very objects."""
    app = k.f.app
    service, balancer = app.service, app.balancer
    return (
        app.config, app.access_log, app.listening, app.pool_settings, [*app.watches.items()], [*service.pools.items()],
        [*balancer.backends.items()], balancer.policy, service.timeouts, service.limits, service.routes,
        service.forwarding, service.rotations.all, [*service.listeners], service.retired,
    )  # fmt: skip


def ours() -> set[asyncio.Task[Any]]:
    """Tasks that run, but those of the engines."""
    return {task for task in asyncio.all_tasks() if "Engine." not in repr(task.get_coro())}


async def refused(k: Kept, *words: str) -> None:
    """A reload of the file as it is now is refused for this, and nothing has changed."""
    before = state(k)
    tasks = ours()
    with pytest.raises(Refused) as info:
        await k.f.app.reloader.reload()
    text = f"{info.value} {info.value.problems}"
    for word in words:
        assert word in text
    assert info.value.status == 400
    assert state(k) == before
    await until(lambda: ours() <= tasks, "nothing of the attempt runs on")
    await k.ask()


GOOD = "backends: ['http://127.0.0.1:1']\nlisten: 127.0.0.1:0\nadmin: 127.0.0.1:0\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("backends: [", ["is not valid YAML"]),
        ("\tbackends: x", ["indent with blanks"]),
        ("", ["is empty"]),
        (GOOD[:30], ["is not valid YAML"]),  # half-written
        ("backends: []\n", ["backends", "expected at least one"]),
        (f"{GOOD}retires: 1\n", ["retires", "did you mean 'retries'?"]),
        (f"{GOOD}timeouts: {{connect: 5 parsecs}}\n", ["timeouts.connect", "'line': 4"]),
        ("backends: ['http://127.0.0.1:1', 'http://127.0.0.1:1']\n", ["backends[1].url", "is already"]),
        (f"{GOOD}routes: [{{path: /, backends: [nobody]}}]\n", ["routes[0].backends"]),
        (f"{GOOD}listen: 127.0.0.1:0\n", ["listen", "is given twice"]),
        (f"{GOOD}access_log: {{path: nowhere/at/all.log}}\n", ["access_log.path", "is not there"]),
        ("backends: x\npolicy: best\nretires: 1\n", ["policy", "retires"]),  # all of them at once
    ],
)
def test_a_bad_file_changes_nothing(text: str, words: list[str]) -> None:
    async def body() -> None:
        async with kept() as k:
            k.path.write_text(text, encoding="utf-8")
            await refused(k, *words)
            k.path.write_bytes(b"\xff\xfe")
            await refused(k, "UTF-8")
            k.path.unlink()
            await refused(k, "is not there")
            k.write()
            assert (await k.f.app.reloader.reload())["version"] == 2

    run(body)


def test_a_file_that_was_cut_anywhere_is_refused_or_in_force_as_it_stands() -> None:
    """A writer that does not rename can be met at any byte; what is there may be a whole file, and is used whole."""

    async def body() -> None:
        async with kept() as k:
            k.document.update(timeouts={"connect": "9s"}, retries={"attempts": 2})
            k.write()
            listed = ["access_log", "listen", "admin", "backends", "timeouts", "retries"]
            text = yaml.safe_dump({name: k.document[name] for name in listed}, sort_keys=False)
            results: set[bool] = set()
            for cut in range(text.index("timeouts"), len(text) + 1, 3):
                k.path.write_text(text[:cut], encoding="utf-8")
                before, (read, _) = state(k), read_file(k.path)
                results.add(read is None)
                if read is None:
                    with pytest.raises(Refused):
                        await k.f.app.reloader.reload()
                    assert state(k) == before
                else:
                    await k.f.app.reloader.reload()
                    assert k.f.app.config == read
                    await until(lambda: not k.f.app.service.retired, "nothing is left of the one before")
            assert results == {True, False}
            await k.reload()
            await k.ask()

    run(body)


def test_everybody_is_told_until_a_reload_succeeds(caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> None:
        async with kept() as k:
            k.write(policy="best")
            with caplog.at_level(logging.INFO, "fairlead"):
                status, answer = await k.call("POST", "/api/reload", {})
            assert status == 400
            (problem,) = answer["error"]["problems"]
            assert problem["path"] == "policy"
            assert problem["message"].startswith("expected one of")
            assert "the file has 1 problem" in answer["error"]["message"]
            assert [m for m in caplog.messages if m.startswith("reload refused, version 1 stays in force")]
            assert [m for m in caplog.messages if m.startswith("reload: line 1: policy: expected one of")]
            loaded = (await k.call("GET", "/api/config"))[1]["loaded"]
            assert (loaded["version"], loaded["last_error"]["problems"]) == (1, [problem])
            page = await k.oracle._page("/metrics")
            assert 'fairlead_config_reloads_total{result="refused"} 1.0' in page
            assert "fairlead_config_last_reload_success 0.0" in page
            assert "fairlead_config_version 1.0" in page
            k.write(policy="random")
            status, answer = await k.call("POST", "/api/reload", {})
            assert (status, answer["version"], answer["options"]) == (200, 2, ["policy"])
            loaded = (await k.call("GET", "/api/config"))[1]["loaded"]
            assert (loaded["version"], loaded["last_error"]) == (2, None)
            page = await k.oracle._page("/metrics")
            assert 'fairlead_config_reloads_total{result="applied"} 1.0' in page
            assert "fairlead_config_last_reload_success 1.0" in page

    run(body)


def test_a_port_that_is_taken_refuses_the_whole_and_lets_go_of_what_was_made_ready() -> None:
    async def body() -> None:
        async with kept() as k:
            more = Engine(k.f.play, "new")
            await more.open()
            k.f.engines.append(more)
            fine = str(k.path.with_name("fine.sock"))
            with socket.socket() as taken:
                taken.bind(("127.0.0.1", 0))
                taken.listen()
                k.write(
                    listen=["127.0.0.1:0", f"unix:{fine}", f"127.0.0.1:{taken.getsockname()[1]}"],
                    backends=[*k.backends, {"url": more.url, "name": "new"}],
                    timeouts={"connect": "9s"},
                    headers={"set": ["X-New: yes"]},
                )
                await refused(k, "listen[2].address", "this port is in use")
                assert not is_there(fine)
                assert more.probes, "it was asked before the refusal"
            assert (await k.f.app.reloader.reload())["added"] == ["new"]

    run(body)


def test_a_refusal_leaves_a_listener_that_would_have_been_taken_over_where_it_is() -> None:
    async def body() -> None:
        async with kept() as k:
            path = k.path.with_name("own.sock")
            await k.reload(listen=["127.0.0.1:0", f"unix:{path}"])
            with socket.socket() as taken:
                taken.bind(("127.0.0.1", 0))
                taken.listen()
                k.write(
                    listen=[
                        {"address": "127.0.0.1:0", "http2": False},
                        {"address": f"unix:{path}", "http2": False},
                        f"127.0.0.1:{taken.getsockname()[1]}",
                    ]
                )
                await refused(k, "in use")
            assert is_there(path)
            await k.ask()

    run(body)


def test_certificates_change_with_a_reload_and_bad_ones_refuse_it(tmp_path: Path) -> None:
    ca = trustme.CA()

    def write(name: str) -> dict[str, str]:
        issued = ca.issue_cert(name)
        cert, key = tmp_path / f"{name}.pem", tmp_path / f"{name}.key"
        issued.cert_chain_pems[0].write_to_path(str(cert))
        issued.private_key_pem.write_to_path(str(key))
        return {"cert": str(cert), "key": str(key)}

    async def body() -> None:
        async with kept() as k:
            app = k.f.app
            one, two = write("one.test"), write("two.test")
            await k.reload(listen=["127.0.0.1:0", {"address": "127.0.0.1:0", "tls": one}])
            assert [rotation.what for rotation in app.service.rotations.all] == ["listen 127.0.0.1:0"]
            first = app.listening[1][1].tls
            await k.reload(listen=["127.0.0.1:0", {"address": "127.0.0.1:0", "tls": two}])
            assert app.listening[1][1].tls is not first
            assert app.service.rotations.all == [app.listening[1][1].tls]
            k.write(listen=["127.0.0.1:0", {"address": "127.0.0.1:0", "tls": {**two, "key": one["key"]}}])
            await refused(k, "listen[1].tls", "does not belong")
            k.write(listen=["127.0.0.1:0", {"address": "127.0.0.1:0", "tls": {**two, "cert": "none.pem"}}])
            await refused(k, "listen[1].tls.cert", "is not there")
            await k.reload(listen=["127.0.0.1:0"])
            assert app.service.rotations.all == []

    run(body)


def test_streams_live_on_through_a_refused_reload() -> None:
    async def body() -> None:
        async with kept() as k:
            go = asyncio.Event()
            k.f.play.scripts = [held(go)]
            client = await begun(k, "s")
            k.path.write_text("backends: [", encoding="utf-8")
            await refused(k, "YAML")
            go.set()
            await finished(k, client, "s")

    run(body)


def test_without_a_file_there_is_nothing_to_reload() -> None:
    async def body() -> None:
        async with kept() as k:
            k.f.app.reloader.read = None
            status, answer = await k.call("POST", "/api/reload", {})
            assert (status, "on the command line" in answer["error"]["message"]) == (409, True)

    run(body)


def test_nothing_is_changed_any_more_once_it_stops() -> None:
    async def body() -> None:
        go = asyncio.Event()
        async with fleet(1, default=held(go)) as f:
            f.app.reloader.read = lambda: (f.app.config, [])
            client = await f.dial()
            await client.send(ask("s"))
            await client.expect(event(1))
            stop = asyncio.create_task(f.stop(drain=10.0))
            await until(lambda: f.app.service.draining)
            with pytest.raises(Refused, match="about to stop"):
                await f.app.reloader.reload()
            go.set()
            await client.end()
            assert await stop == 0

    run(body)


def test_who_waits_to_be_accepted_is_served_after_a_refused_reload() -> None:
    async def body() -> None:
        async with kept() as k:
            k.write(listen=[{"address": "127.0.0.1:0", "http2": False}], access_log={"path": "/no/such/place.log"})
            client = await dial(k.f.address)
            await refused(k, "access_log.path")
            await client.send(ask("w", fields="Connection: close\r\n"))
            assert (await client.answer()).status == 200
            k.oracle.outcomes[200] += 1
            client.transport.abort()

    run(body)
