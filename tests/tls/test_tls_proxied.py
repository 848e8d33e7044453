"""Connections that begin with a PROXY header: who is the client then, and from whom do we believe it?"""

from __future__ import annotations

import asyncio
import socket
import ssl
from pathlib import Path
from typing import Any

import pytest
from peers import Gone, Peer, run, until
from running import Fleet, ask
from test_tls_proxy_headers import IP4, IP6, TCP4, TCP6, v2
from tls_peers import Authority, plain_fleet, raw_socket, refusals, status_over, tls_dial

V1 = b"PROXY TCP4 192.0.2.7 10.0.0.1 4711 443\r\n"
TRUSTED: dict[str, Any] = {"trusted_proxies": ["127.0.0.1"]}


def behind_proxy(**more: Any) -> dict[str, Any]:
    return {"listen": [{"address": "127.0.0.1:0", "proxy_protocol": True, "http2": False, **more}], **TRUSTED}


async def client_seen(fleet: Fleet) -> tuple[str, str | None]:
    """Who the last request came from, as the log and the engine were told."""
    lines = await fleet.logged(len(fleet.seen))
    return lines[-1]["client"], fleet.seen[-1].field("x-forwarded-for")


@pytest.mark.parametrize(
    ("header", "client"),
    [
        (V1, "192.0.2.7"),
        (b"PROXY TCP6 2001:db8::7 ::1 1 2\r\n", "2001:db8::7"),
        (v2(TCP4, IP4), "192.0.2.7"),
        (v2(TCP6, IP6), "2001:db8::7"),
        (b"PROXY UNKNOWN\r\n", "127.0.0.1"),
        (v2(TCP4, IP4, command=0x20), "127.0.0.1"),
    ],
)
@pytest.mark.parametrize("drip", [False, True])
def test_the_client_is_the_one_that_the_header_names(header: bytes, client: str, drip: bool) -> None:
    async def body() -> None:
        async with plain_fleet(**behind_proxy()) as fleet:
            peer = await fleet.dial()
            if drip:
                await peer.drip(header)
                assert await status_over(peer) == 200
            else:
                await peer.send(header + ask())
                assert (await peer.answer()).status == 200
            assert await client_seen(fleet) == (client, client)
            assert await status_over(peer) == 200, "the connection is kept, and has one header"
            assert await client_seen(fleet) == (client, client)

    run(body)


@pytest.mark.parametrize("header", [V1, v2(TCP6, IP6)])
def test_the_header_stands_before_tls_in_one_segment_with_it_or_not(tmp_path: Path, header: bytes) -> None:
    ca = Authority(tmp_path)
    client = "192.0.2.7" if header is V1 else "2001:db8::7"

    async def body() -> None:
        async with plain_fleet(**behind_proxy(tls=ca.pair("one", "one.test"))) as fleet:
            loop = asyncio.get_running_loop()
            sock = raw_socket(fleet.address)
            await loop.sock_sendall(sock, header)
            peer = await tls_dial(fleet, ca.client(), sock=sock)
            assert await status_over(peer) == 200
            assert await client_seen(fleet) == (client, client)
            assert b"200 OK" in await asyncio.to_thread(ask_in_one_segment, fleet.address, header, ca.client())
            assert await client_seen(fleet) == (client, client)
            assert fleet.seen[-1].field("x-forwarded-proto") == "https"

    run(body)


def ask_in_one_segment(address: tuple[str, int], header: bytes, context: ssl.SSLContext) -> bytes:
    """The header and TLS's first message leave in one write; the answer's first bytes."""
    came, leaves = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(came, leaves, server_hostname="one.test")
    with socket.create_connection(address, timeout=4.0) as sock:
        first = header
        for step in (tls.do_handshake, lambda: tls.write(ask()), lambda: tls.read(65_536)):
            while True:
                try:
                    result = step()
                    break
                except ssl.SSLWantReadError:
                    sock.sendall(first + leaves.read())
                    first = b""
                    came.write(sock.recv(65_536))
            sock.sendall(leaves.read())
        assert isinstance(result, bytes)
        return result


@pytest.mark.parametrize("sent", [V1 + ask(), ask(), v2(TCP4, IP4)])
def test_a_peer_that_is_not_trusted_is_closed_whatever_it_sends(sent: bytes) -> None:
    async def body() -> None:
        options = {**behind_proxy(), "trusted_proxies": ["10.0.0.0/8", "unix"]}
        async with plain_fleet(**options) as fleet:
            peer = await fleet.dial()
            await peer.send(sent)
            assert await peer.end() == b""
            assert fleet.seen == []
            assert refusals(fleet) == {"untrusted_proxy_protocol": 1}

    run(body)


@pytest.mark.parametrize("sent", [ask(), b"PROXY TCP4 nonsense\r\n" + ask(), b"PROXY UNKNOWN" + b" " * 200, V1[:20]])
def test_a_bad_header_closes_the_connection(sent: bytes) -> None:
    async def body() -> None:
        async with plain_fleet(**behind_proxy()) as fleet:
            peer = await fleet.dial()
            await peer.send(sent)
            if sent == V1[:20]:
                peer.half_close()
            assert await peer.end() == b""
            assert fleet.seen == []
            assert refusals(fleet) == {"bad_proxy_protocol": 1}

    run(body)


def test_a_header_has_one_deadline_however_slowly_it_comes() -> None:
    async def body() -> None:
        async with plain_fleet(**behind_proxy(), timeouts={"handshake": "100ms"}) as fleet:
            peer = await fleet.dial()
            await peer.send(V1[:5])
            assert await peer.end() == b""
            await until(lambda: refusals(fleet) == {"handshake_timeout": 1}, "it is counted")

    run(body)


def test_a_check_that_only_opens_the_port_is_no_fault() -> None:
    async def body() -> None:
        async with plain_fleet(**behind_proxy()) as fleet:
            peer = await fleet.dial()
            peer.half_close()
            assert await peer.end() == b""
            assert refusals(fleet) == {}

    run(body)


def test_elsewhere_a_header_is_a_bad_request() -> None:
    async def body() -> None:
        async with plain_fleet(**TRUSTED) as fleet:
            peer: Peer = await fleet.dial()
            await peer.send(V1 + ask())
            try:
                assert (await peer.answer()).status == 400
            except Gone as gone:
                raise AssertionError("it gets an answer") from gone
            assert fleet.seen == []

    run(body)
