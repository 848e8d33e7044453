"""TLS in front: who is served, by which certificate, and who is refused?"""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
import warnings
from pathlib import Path
from typing import Any

import pytest
from peers import Gone, dial, run, until
from running import ask
from tls_peers import Authority, plain_fleet, refusals, refused_over, status_over, tls_dial


@pytest.fixture
def ca(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def listen(**tls: object) -> dict[str, object]:
    return {"listen": [{"address": "127.0.0.1:0", "http2": False, "tls": tls}]}


def test_a_request_over_tls_is_answered_and_the_backend_is_told_of_it(ca: Authority) -> None:
    async def body() -> None:
        async with plain_fleet(**listen(**ca.pair("one", "one.test"))) as fleet:
            assert fleet.app.service.listeners
            client = await tls_dial(fleet, ca.client())
            assert await status_over(client) == 200
            assert await status_over(client) == 200
            assert client.object.version() == "TLSv1.3"
            assert fleet.seen[0].field("x-forwarded-proto") == "https"

    run(body)


def test_the_certificate_is_chosen_by_the_name_that_is_asked_for(ca: Authority) -> None:
    first = ca.pair("one", "one.test")
    more = [ca.pair("two", "two.test", "three.test"), ca.pair("wild", "*.wild.test"), ca.pair("own", "own.wild.test")]
    asked = {
        "one.test": "one.test",
        "two.test": "two.test",
        "THREE.test": "two.test",
        "a.wild.test": "*.wild.test",
        "own.wild.test": "own.wild.test",  # its own before the wildcard
        "a.b.wild.test": "one.test",  # a star is one label
        "wild.test": "one.test",
        "unknown.test": "one.test",
    }

    async def body() -> None:
        client = ca.client()
        client.check_hostname = False  # which is shown is to be seen
        async with plain_fleet(**listen(**first, more=more)) as fleet:
            for name, shown in asked.items():
                peer = await tls_dial(fleet, client, name)
                assert peer.subject == shown, name
                assert await status_over(peer) == 200
            unnamed = await tls_dial(fleet, client, "")
            assert unnamed.subject == "one.test"

    run(body)


def test_tls_older_than_1_2_is_refused(ca: Authority) -> None:
    async def body() -> None:
        old = ca.client()
        old.set_ciphers("DEFAULT:@SECLEVEL=0")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            old.minimum_version = ssl.TLSVersion.TLSv1
            old.maximum_version = ssl.TLSVersion.TLSv1_1
        async with plain_fleet(**listen(**ca.pair("one", "one.test"))) as fleet:
            await refused_over(fleet, old)
            await until(lambda: refusals(fleet) == {"tls_handshake": 1}, "the refusal is counted")
            still = ca.client()
            still.maximum_version = ssl.TLSVersion.TLSv1_2
            assert await status_over(await tls_dial(fleet, still)) == 200

    run(body)


def test_only_tls_1_3_is_spoken_where_that_is_asked_for(ca: Authority) -> None:
    async def body() -> None:
        old = ca.client()
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        async with plain_fleet(**listen(**ca.pair("one", "one.test"), min_version="1.3")) as fleet:
            await refused_over(fleet, old)
            assert await status_over(await tls_dial(fleet, ca.client())) == 200

    run(body)


@pytest.mark.parametrize(
    "suite", ["AES128-SHA", "AES256-GCM-SHA384", "ECDHE-RSA-AES128-SHA", "ECDHE-ECDSA-AES128-SHA256"]
)
def test_suites_without_forward_secrecy_or_aead_are_refused(ca: Authority, suite: str) -> None:
    async def body() -> None:
        weak = ca.client()
        weak.maximum_version = ssl.TLSVersion.TLSv1_2
        weak.set_ciphers(f"{suite}:@SECLEVEL=0")
        async with plain_fleet(**listen(**ca.pair("one", "one.test"))) as fleet:
            await refused_over(fleet, weak)
            await until(lambda: refusals(fleet) == {"tls_handshake": 1}, "the refusal is counted")

    run(body)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize(
    ("asked", "shown", "served"),
    [
        ("required", "right", True),
        ("required", "wrong", False),
        ("required", "none", False),
        ("optional", "right", True),
        ("optional", "wrong", False),
        ("optional", "none", True),
        ("none", "none", True),
    ],
)
def test_client_certificates(
    tmp_path: Path, ca: Authority, asked: str, shown: str, served: bool, version: ssl.TLSVersion
) -> None:
    theirs, stranger = Authority(tmp_path, "theirs"), Authority(tmp_path, "stranger")
    shows = {
        "right": theirs.pair("right", "client.test"),
        "wrong": stranger.pair("wrong", "client.test"),
        "none": None,
    }[shown]
    options = {} if asked == "none" else {"client_ca": theirs.file, "client_certs": asked}

    async def body() -> None:
        context = ca.client(shows=shows)
        context.maximum_version = version
        # A second certificate: what is asked of clients does not depend on the name they ask for.
        own = ca.pair("one", "one.test")
        async with plain_fleet(**listen(**own, more=ca.pair("two", "two.test"), **options)) as fleet:
            for name in ("one.test", "two.test"):
                if served:
                    assert await status_over(await tls_dial(fleet, context, name)) == 200
                else:
                    await refused_over(fleet, context, name)
                    assert fleet.seen == []

    run(body)


def test_a_handshake_has_one_deadline_however_slowly_it_goes_on(ca: Authority) -> None:
    async def body() -> None:
        options = listen(**ca.pair("one", "one.test"))
        async with plain_fleet(**options, timeouts={"handshake": "150ms"}) as fleet:
            client = await fleet.dial()
            hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500)
            for byte in hello:
                if client.over:
                    break
                await client.send(bytes((byte,)))
                await asyncio.sleep(0.002)
            await client.end()
            assert len(client.received) == 0
            await until(lambda: refusals(fleet) == {"handshake_timeout": 1}, "it is counted")

    run(body)


def test_handshakes_count_as_connections(ca: Authority) -> None:
    async def body() -> None:
        options = listen(**ca.pair("one", "one.test"))
        async with plain_fleet(**options, limits={"connections": 2}) as fleet:
            listener = fleet.app.service.listeners[0]
            stalled = [await fleet.dial(), await fleet.dial()]
            await until(lambda: len(listener.greeting) == 2, "both wait for a handshake")
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await tls_dial(fleet, ca.client())
            assert refusals(fleet) == {"too_many_connections": 1}
            for client in stalled:
                client.reset()
            await until(lambda: not listener.greeting, "their places are free")
            served = await tls_dial(fleet, ca.client())
            assert await status_over(served) == 200

    run(body)


def test_plain_http_on_a_tls_port_gets_nothing(ca: Authority) -> None:
    async def body() -> None:
        async with plain_fleet(**listen(**ca.pair("one", "one.test"))) as fleet:
            client = await dial(fleet.address)
            fleet.clients.append(client)
            await client.send(ask())
            with pytest.raises(Gone):
                await client.expect(b"HTTP/")
            assert fleet.seen == []
            await until(lambda: refusals(fleet) == {"tls_handshake": 1}, "it is counted")

    run(body)


@pytest.mark.parametrize(
    ("http2", "offered", "chosen"),
    [
        (True, ["h2", "http/1.1"], "h2"),
        (True, ["http/1.1", "h2"], "h2"),
        (True, ["http/1.1"], "http/1.1"),
        (True, [], None),
        (False, ["h2", "http/1.1"], "http/1.1"),
        (False, ["h2"], None),
    ],
)
def test_http2_is_offered_by_alpn_where_it_is_on(
    ca: Authority, http2: bool, offered: list[str], chosen: str | None
) -> None:
    async def body() -> None:
        context = ca.client()
        if offered:
            context.set_alpn_protocols(offered)
        tls = ca.pair("one", "one.test")
        async with plain_fleet(listen=[{"address": "127.0.0.1:0", "http2": http2, "tls": tls}]) as fleet:
            client = await tls_dial(fleet, context)
            assert client.object.selected_alpn_protocol() == chosen
            if chosen != "h2":
                assert await status_over(client) == 200
            else:
                preface = await client.take(9)
                assert preface[3] == 4, "a server's first frame is SETTINGS"

    run(body)


def test_a_drain_lets_a_stream_over_tls_end(ca: Authority) -> None:
    async def body() -> None:
        async with plain_fleet(**listen(**ca.pair("one", "one.test"))) as fleet:
            client = await tls_dial(fleet, ca.client())
            await client.send(ask())
            assert (await client.answer()).status == 200
            stopping = asyncio.ensure_future(fleet.stop(drain=5.0))
            await client.end()
            assert await stopping == 0

    run(body)


@pytest.mark.parametrize("proxied", [True, False])
def test_a_stop_does_not_wait_for_those_who_only_wait(ca: Authority, proxied: bool) -> None:
    async def body() -> None:
        tls = {} if proxied else {"tls": ca.pair("one", "one.test")}
        listen = [{"address": "127.0.0.1:0", "proxy_protocol": proxied, **tls}]
        async with plain_fleet(listen=listen, trusted_proxies=["127.0.0.1"]) as fleet:
            listener = fleet.app.service.listeners[0]
            client = await fleet.dial()
            await until(lambda: len(listener.greeting) == 1, "it is taken")
            assert await fleet.stop() == 0
            assert await client.end() == b""
            await until(lambda: not listener.greeting, "nothing is left of it")

    run(body)


def test_without_file_descriptors_connections_wait_until_there_are_some(
    ca: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body() -> None:
        async with plain_fleet(**listen(**ca.pair("one", "one.test"))) as fleet:
            [listening] = fleet.app.service.listeners[0]._sockets
            failing = [OSError(errno.EMFILE, "too many open files")] * 2
            accept = socket.socket.accept

            def sometimes(self: socket.socket) -> tuple[socket.socket, Any]:
                if self is listening and failing:
                    raise failing.pop()
                return accept(self)

            monkeypatch.setattr(socket.socket, "accept", sometimes)
            assert await status_over(await tls_dial(fleet, ca.client())) == 200
            assert refusals(fleet) == {"descriptors": 2}

    run(body)
