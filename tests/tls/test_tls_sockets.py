"""Unix sockets and IPv6, on both sides."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from peers import Peer, dial, run, until
from running import Fleet, reply
from scripted_engine import Engine, Play
from tls_peers import Authority, Ipv6Engine, SocketEngine, front, plain_fleet, status_over

from fairlead.config.build import App, StartError
from fairlead.config.load import parse
from fairlead.config.schema import Config
from fairlead.proxy.listener import open_unix

METRICS = "# TYPE vllm:num_requests_waiting gauge\nvllm:num_requests_waiting 3\nvllm:num_requests_running 2\n"


async def dial_file(fleet: Fleet, path: Path) -> Peer:
    _, peer = await asyncio.get_running_loop().create_unix_connection(Peer, str(path))
    fleet.clients.append(peer)
    return peer


def exists(path: Path) -> bool:
    return os.path.lexists(path)


def configured(**document: Any) -> Config:
    config, problems = parse(
        {"admin": "127.0.0.1:0", "access_log": False, "backends": ["http://127.0.0.1:1"], **document}, "test"
    )
    assert config is not None, problems
    return config


async def refused_start(config: Config) -> str:
    app = App(config)
    try:
        with pytest.raises(StartError) as caught:
            await app.start()
        return str(caught.value)
    finally:
        await app.stop(drain=0.0)


def test_a_request_travels_over_unix_sockets_from_end_to_end(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "fairlead.sock", tmp_path / "engine.sock"

    async def body() -> None:
        play = Play(reply())
        engine = SocketEngine(play, "engine0", theirs)
        async with front([engine], play, listen=["127.0.0.1:0", f"unix:{ours}"]) as fleet:
            client = await dial_file(fleet, ours)
            assert await status_over(client) == 200
            assert await status_over(client) == 200
            assert engine.probes > 0
            assert engine.seen[0].field("host") == "localhost"
            assert engine.seen[0].connection == engine.seen[1].connection
            assert (await fleet.logged(2))[0]["client"] == "unix"
            assert stat.S_IMODE(os.stat(ours).st_mode) == 0o660
            await fleet.stop()
            assert not exists(ours), "the file goes with the listener"

    run(body)


def test_tls_and_proxy_headers_work_on_a_unix_socket(tmp_path: Path) -> None:
    ca, ours = Authority(tmp_path), tmp_path / "fairlead.sock"

    async def body() -> None:
        listen = [
            "127.0.0.1:0",
            {"address": f"unix:{ours}", "proxy_protocol": True, "tls": ca.pair("one", "one.test")},
        ]
        async with plain_fleet(listen=listen, trusted_proxies=["unix"]) as fleet:
            loop = asyncio.get_running_loop()
            sock = socket.socket(socket.AF_UNIX)
            sock.setblocking(False)
            await loop.sock_connect(sock, str(ours))
            await loop.sock_sendall(sock, b"PROXY TCP4 192.0.2.7 10.0.0.1 1 2\r\n")
            _, client = await loop.create_unix_connection(Peer, sock=sock, ssl=ca.client(), server_hostname="one.test")
            fleet.clients.append(client)
            assert await status_over(client) == 200
            assert (await fleet.logged(1))[0]["client"] == "192.0.2.7"

    run(body)


def test_the_file_is_never_open_to_everybody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the umask is, and in the moment between its birth and the change of its mode too."""
    before: list[int] = []
    change = os.chmod

    def watched(path: str, mode: int) -> None:
        before.append(stat.S_IMODE(os.stat(path).st_mode))
        change(path, mode)

    monkeypatch.setattr(os, "chmod", watched)
    old = os.umask(0)
    try:
        with open_unix(str(tmp_path / "fairlead.sock")):
            assert before == [0o660]
    finally:
        os.umask(old)


def test_the_file_of_a_dead_process_is_replaced_and_that_of_a_live_one_is_not(tmp_path: Path) -> None:
    file = tmp_path / "fairlead.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(file))

    async def body() -> None:
        async with plain_fleet(listen=["127.0.0.1:0", f"unix:{file}"]) as fleet:
            said = await refused_start(configured(listen=f"unix:{file}"))
            assert said == (
                f"listen unix:{file}: another process listens on this file: stop what listens there, "
                "or choose another with --listen"
            )
            assert await status_over(await dial_file(fleet, file)) == 200, "the first one goes on"

    run(body)


def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "letters.txt"
    file.write_text("dear")

    async def body() -> None:
        said = await refused_start(configured(listen=f"unix:{file}"))
        assert said == f"listen unix:{file}: there is a file of this name that is no socket"

    run(body)
    assert file.read_text() == "dear"


def test_a_missing_folder_is_told(tmp_path: Path) -> None:
    async def body() -> None:
        file = tmp_path / "missing" / "fairlead.sock"
        said = await refused_start(configured(listen=f"unix:{file}"))
        assert said == f"listen unix:{file}: its folder does not exist: make it first"

    run(body)


def test_a_file_that_somebody_else_put_in_our_place_is_not_removed(tmp_path: Path) -> None:
    file = tmp_path / "fairlead.sock"

    async def body() -> None:
        async with plain_fleet(listen=["127.0.0.1:0", f"unix:{file}"]) as fleet:
            os.unlink(file)
            with socket.socket(socket.AF_UNIX) as other:
                other.bind(str(file))
                await fleet.stop()
                assert exists(file)

    run(body)


@pytest.mark.parametrize("secure", [False, True])
def test_engines_are_asked_for_health_models_and_metrics_over_their_own_kind_of_connection(
    tmp_path: Path, secure: bool
) -> None:
    """Secure: with the CA that the configuration names. Else over a Unix socket."""
    ca, file = Authority(tmp_path), tmp_path / "engine.sock"

    async def health(request: web.Request) -> web.Response:
        return web.Response()

    async def models(request: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "m", "object": "model", "owned_by": "vllm"}]})

    async def metrics(request: web.Request) -> web.Response:
        return web.Response(text=METRICS)

    async def body() -> None:
        site_app = web.Application()
        site_app.add_routes([web.get("/health", health), web.get("/v1/models", models), web.get("/metrics", metrics)])
        runner = web.AppRunner(site_app, access_log=None, handle_signals=False, shutdown_timeout=0.1)
        await runner.setup()
        if secure:
            await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=ca.server("127.0.0.1")).start()
            url = f"https://127.0.0.1:{runner.addresses[0][1]}"
        else:
            await web.UnixSite(runner, str(file)).start()
            url = f"unix:{file}"
        app = App(
            configured(
                listen="127.0.0.1:0",
                backends=[{"url": url, "name": "b"}],
                backend_tls={"ca": ca.file},
                metrics={"interval": "50ms"},
            )
        )
        try:
            await app.start()
            backend = app.balancer.backends["b"]
            await until(lambda: backend.stats.waiting == 3, "its queue is read")
            assert (app.watches["b"].about.engine, backend.models) == ("vllm", frozenset({"m"}))
        finally:
            await app.stop(drain=0.0)
            await runner.cleanup()

    run(body)


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6 loopback address")


@needs_ipv6
def test_a_request_travels_over_ipv6_from_end_to_end() -> None:
    async def body() -> None:
        play = Play(reply())
        engine: Engine = Ipv6Engine(play, "engine0")
        async with front([engine], play, listen=["[::1]:0"]) as fleet:
            _, client = await asyncio.get_running_loop().create_connection(Peer, *fleet.address)
            fleet.clients.append(client)
            assert await status_over(client) == 200
            assert engine.seen[0].field("host") == f"[::1]:{engine.address[1]}"
            assert engine.seen[0].field("x-forwarded-for") == "::1"
            assert (await fleet.logged(1))[0]["client"] == "::1"

    run(body)


@needs_ipv6
def test_all_ipv6_addresses_are_apart_from_all_ipv4_addresses() -> None:
    async def body() -> None:
        async with plain_fleet(listen=["[::]:0"]) as six:
            port = six.address[1]
            with pytest.raises(ConnectionRefusedError):
                await dial(("127.0.0.1", port))
            async with plain_fleet(listen=[f"0.0.0.0:{port}"]) as four:
                assert (await four.get()).status == 200
                assert (len(six.seen), len(four.seen)) == (0, 1)

    run(body)


@needs_ipv6
def test_a_name_with_two_addresses_is_served_on_both() -> None:
    found = {info[4][0] for info in socket.getaddrinfo("localhost", 0, type=socket.SOCK_STREAM)}
    if found != {"127.0.0.1", "::1"}:
        pytest.skip(f"localhost is {', '.join(map(str, sorted(found)))} on this machine")

    async def body() -> None:
        async with plain_fleet(listen=["localhost:0"]) as fleet:
            for host in ("127.0.0.1", "::1"):
                _, client = await asyncio.get_running_loop().create_connection(Peer, host, fleet.address[1])
                fleet.clients.append(client)
                assert await status_over(client) == 200

    run(body)
