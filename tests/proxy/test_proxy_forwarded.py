"""What backends are told of the client, which headers they get, and which paths lead to them."""

from __future__ import annotations

from typing import Any

import pytest
from peers import Seen, run
from running import CHAT, ask, fleet

from fairlead.proxy.forwarded import MAX_HOPS, Forwarding
from fairlead.wire.http1 import RequestHead, parse_request

LIES = (
    b"X-Forwarded-For: 6.6.6.6\r\nx-forwarded-proto: https\r\nX-FORWARDED-HOST: evil\r\nX-Real-IP: 6.6.6.6\r\n"
    b"Forwarded: for=6.6.6.6\r\nX-Forwarded-Port: 1\r\n"
)


def with_fields(fields: bytes, target: str = CHAT) -> bytes:
    request = ask("n1", target)
    line, _, rest = request.partition(b"\r\n")
    return line + b"\r\n" + fields + rest


def values(seen: Seen, name: str) -> list[str]:
    return [value for key, value in seen.fields if key == name]


def head_of(fields: bytes) -> RequestHead:
    return parse_request(b"GET / HTTP/1.1\r\nHost: public.example" + b"".join(b"\r\n" + f for f in fields.splitlines()))


def sent(fields: bytes, **options: Any) -> tuple[Seen, dict[str, Any]]:
    """One request with these fields: what the engine saw, and the access log's line."""
    found: list[Any] = []

    async def body() -> None:
        async with fleet(**options) as f:
            assert (await f.get(with_fields(fields))).status == 200
            found.extend([f.seen[0], (await f.logged(1))[0]])

    run(body)
    return found[0], found[1]


def test_backends_are_told_of_the_client_and_what_a_stranger_says_of_itself_is_taken_away() -> None:
    seen, line = sent(LIES)
    assert values(seen, "x-forwarded-for") == ["127.0.0.1"]
    assert values(seen, "x-forwarded-proto") == ["http"]
    assert values(seen, "x-forwarded-host") == ["test"]
    for name in ("x-real-ip", "forwarded", "x-forwarded-port"):
        assert values(seen, name) == []
    assert line["client"] == "127.0.0.1"


def test_a_trusted_proxy_is_believed_and_added() -> None:
    seen, line = sent(LIES, trusted_proxies=["127.0.0.0/8"])
    assert values(seen, "x-forwarded-for") == ["6.6.6.6, 127.0.0.1"]
    assert values(seen, "x-forwarded-proto") == ["https"]
    assert values(seen, "x-forwarded-host") == ["evil"]
    assert values(seen, "x-real-ip") == ["6.6.6.6"]
    assert line["client"] == "6.6.6.6", "the log names the client, not the proxy before us"


def test_backends_are_told_nothing_where_that_is_switched_off() -> None:
    seen, _ = sent(LIES, forwarded=False)
    assert not [name for name, _ in seen.fields if name.startswith("x-forwarded") or name in ("forwarded", "x-real-ip")]
    seen, _ = sent(LIES, forwarded=False, trusted_proxies=["127.0.0.1"])
    assert values(seen, "x-forwarded-for") == ["6.6.6.6"], "a trusted proxy's word passes as it is"


def test_connection_cannot_take_away_what_we_tell_of_the_client() -> None:
    async def body() -> None:
        async with fleet() as f:
            answer = await f.get(with_fields(b"Connection: x-forwarded-for\r\nX-Forwarded-For: 6.6.6.6\r\n"))
            assert answer.status == 400
            assert f.seen == []

    run(body)


@pytest.mark.parametrize(
    ("chain", "client"),
    [
        ("6.6.6.6", "6.6.6.6"),
        ("1.1.1.1, 6.6.6.6, 10.0.0.7", "6.6.6.6"),  # what stands left of the first stranger is his own word
        ("10.0.0.9, 10.0.0.8", "10.0.0.9"),
        ("junk, 10.0.0.8", "10.0.0.8"),
        ("6.6.6.6, 203.0.113.7:50111", "203.0.113.7"),
        ("6.6.6.6, [2001:db8::7]:50111", "2001:db8::7"),
        ("6.6.6.6, not an address", "10.0.0.1"),  # what stands before it, nobody vouches for
        ("", "10.0.0.1"),
    ],
)
def test_the_client_is_the_last_address_that_is_not_a_trusted_proxy(chain: str, client: str) -> None:
    forwarding = Forwarding(["10.0.0.0/8"])
    assert forwarding.client("10.0.0.1", head_of(b"X-Forwarded-For: " + chain.encode())) == client
    assert forwarding.client("9.9.9.9", head_of(b"X-Forwarded-For: " + chain.encode())) == "9.9.9.9"


def test_who_is_trusted() -> None:
    forwarding = Forwarding(["10.0.0.0/8", "fd00::/8", "unix"])
    trusted = ("10.1.2.3", "::ffff:10.1.2.3", "fd00::1", "fd00::1%eth0", "unix")
    assert [peer for peer in (*trusted, "11.0.0.1", "::1", "fe80::1%eth0", "", "x") if forwarding.trusts(peer)] == list(
        trusted
    )
    assert not Forwarding().trusts("127.0.0.1")
    assert not Forwarding(["10.0.0.0/8"]).trusts("unix")


def test_what_is_remembered_of_peers_and_read_of_hops_is_bounded() -> None:
    forwarding = Forwarding(["10.0.0.0/8"])
    head = head_of(b"")
    for i in range(10_000):
        forwarding.lines(f"11.0.{i >> 8}.{i & 255}", False, head)
        forwarding.trusts(f"11.0.{i >> 8}.{i & 255}")
    assert len(forwarding._lines) <= 4_096
    assert len(forwarding._trusted) <= 4_096
    long = head_of(b"X-Forwarded-For: " + b", ".join([b"1.1.1.1"] * 1_000))
    assert forwarding.lines("10.0.0.1", False, long).count(b"1.1.1.1") == MAX_HOPS


def test_headers_are_set_and_removed_on_the_way_to_every_backend() -> None:
    headers = {"set": ["X-Team: ml", "Authorization: Bearer ours"], "remove": ["X-Internal"]}
    seen, _ = sent(b"Authorization: Bearer theirs\r\nx-internal: 1\r\nX-Kept: 2\r\nX-TEAM: other\r\n", headers=headers)
    assert values(seen, "authorization") == ["Bearer ours"]
    assert values(seen, "x-team") == ["ml"]
    assert values(seen, "x-internal") == []
    assert values(seen, "x-kept") == ["2"]


def test_what_a_backend_is_given_of_its_own_goes_before_what_all_get() -> None:
    async def body() -> None:
        async with fleet(2, headers={"set": ["X-Key: all"]}, backend={"headers": ["X-Key: own"]}) as f:
            for nonce in ("n1", "n2"):
                await f.get(ask(nonce))
            assert [values(seen, "x-key") for seen in f.seen] == [["own"], ["own"]]

    run(body)


def test_paths_lead_to_the_backends_of_the_longest_route() -> None:
    async def body() -> None:
        routes = [
            {"path": "/", "backends": ["engine0"]},
            {"path": "/v1/", "backends": ["engine1"]},
            {"path": "/team/", "backends": ["engine2"], "strip": True},
        ]
        async with fleet(3, named=True, routes=routes) as f:
            for target in ("/other", CHAT, "/v1x", "/team" + CHAT + "?a=/team/", "/team/", "/team/?q=1"):
                assert (await f.get(ask("n", target))).status == 200
            assert sorted((seen.engine, seen.target) for seen in f.seen) == sorted(
                [
                    ("engine0", "/other"),
                    ("engine1", CHAT),
                    ("engine0", "/v1x"),
                    ("engine2", CHAT + "?a=/team/"),
                    ("engine2", "/"),
                    ("engine2", "/?q=1"),
                ]
            )

    run(body)


def test_a_path_without_a_route_is_refused_and_no_backend_sees_it() -> None:
    async def body() -> None:
        async with fleet(1, named=True, routes=[{"path": "/v1/", "backends": ["engine0"]}]) as f:
            answer = await f.get(ask("n1", "/metrics"))
            assert answer.status == 404
            assert b'"code":"no_route"' in answer.body
            assert (await f.get(ask("n2"))).status == 200, "the connection is fine"
            assert [seen.target for seen in f.seen] == [CHAT]
            assert (await f.logged(2))[0]["error"] == "no_route"

    run(body)


def test_a_stripped_request_is_read_by_the_path_that_the_backend_sees() -> None:
    async def body() -> None:
        async with fleet(1, named=True, routes=[{"path": "/llm/", "backends": ["engine0"], "strip": True}]) as f:
            await f.get(ask("n1", "/llm" + CHAT))
            line = (await f.logged(1))[0]
            assert (line["model"], line["path"]) == ("m", CHAT)

    run(body)
