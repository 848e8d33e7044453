"""Certificates change while we run: who gets the new one, what happens to open streams, and what to bad files?"""

from __future__ import annotations

import asyncio
import datetime
import logging
import socket
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
from peers import Peer, Seen, run, until
from running import DONE, Fleet, ask, chunk, event, sse_head
from tls_peers import Authority, TlsPeer, plain_fleet, status_over, tls_dial

from fairlead.proxy import tls
from fairlead.proxy.tls import ClientTls, Pair, Rotation, ServerTls, make_client, make_server

NEXT_YEAR = datetime.datetime(2039, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)


@pytest.fixture
def ca(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def rotation_of(fleet: Fleet) -> Rotation:
    [rotation] = fleet.app.service.rotations.all
    return rotation


async def dial_any(fleet: Fleet, ca: Authority) -> TlsPeer:
    context = ca.client()
    context.check_hostname = False  # which one is shown is to be seen
    return await tls_dial(fleet, context, "one.test")


def test_new_handshakes_get_the_new_certificate_and_open_streams_live_on(ca: Authority) -> None:
    async def body() -> None:
        go_on = asyncio.Event()

        async def stream(peer: Peer, seen: Seen) -> None:
            await peer.send(sse_head(seen) + chunk(event(0)))
            await go_on.wait()
            await peer.send(chunk(event(1)) + chunk(DONE) + b"0\r\n\r\n")

        tls = ca.pair("one", "old.test")
        async with plain_fleet(listen=[{"address": "127.0.0.1:0", "tls": tls}]) as fleet:
            old = await dial_any(fleet, ca)
            fleet.play.scripts.append(stream)
            await old.send(ask("s1"))
            await old.expect(b"t0")
            assert not rotation_of(fleet).look(), "nothing has changed"
            ca.pair("one", "new.test")
            assert rotation_of(fleet).look()
            new = await dial_any(fleet, ca)
            assert (old.subject, new.subject) == ("old.test", "new.test")
            assert await status_over(new) == 200
            go_on.set()
            await old.expect(b"t1")
            await old.expect(b"0\r\n\r\n")
            assert await status_over(old) == 200, "and serves the next request too"

    run(body)


def cut_the_certificate(ca: Authority, name: str = "one.crt") -> None:
    file = ca.folder / name
    file.write_bytes(file.read_bytes()[:300])


def lose_the_key(ca: Authority) -> None:
    (ca.folder / "one.key").unlink()


def change_the_key_alone(ca: Authority) -> None:
    (ca.folder / "one.key").write_bytes(ca.issue("other.test").private_key_pem.bytes())


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (cut_the_certificate, "one.crt: this is no certificate"),
        (lose_the_key, "one.key: no such file"),
        (change_the_key_alone, "one.key: does not belong to that certificate"),
    ],
)
def test_a_bad_change_leaves_the_old_pair_in_force_and_is_told_once(
    ca: Authority, caplog: pytest.LogCaptureFixture, spoil: Callable[[Authority], None], said: str
) -> None:
    async def body() -> None:
        caplog.set_level(logging.INFO, "fairlead")
        tls = ca.pair("one", "old.test")
        async with plain_fleet(listen=[{"address": "127.0.0.1:0", "tls": tls}]) as fleet:
            rotation = rotation_of(fleet)
            spoil(ca)
            for _ in range(3):
                assert not rotation.look()
            assert said in rotation.problem
            assert (await dial_any(fleet, ca)).subject == "old.test"
            told = [record.getMessage() for record in caplog.records if "not taken up" in record.getMessage()]
            assert len(told) == 1
            assert said in told[0]
            page = fleet.app.service.rotations
            assert [bool(each.problem) for each in page.all] == [True]
            ca.pair("one", "mended.test")
            assert rotation.look()
            assert rotation.problem == ""
            assert (await dial_any(fleet, ca)).subject == "mended.test"

    run(body)


def test_one_bad_pair_among_several_leaves_all_of_them(ca: Authority) -> None:
    async def body() -> None:
        first, second = ca.pair("one", "one.test"), ca.pair("two", "two.test")
        async with plain_fleet(listen=[{"address": "127.0.0.1:0", "tls": {**first, "more": [second]}}]) as fleet:
            ca.pair("one", "changed.test")
            cut_the_certificate(ca, "two.crt")
            assert not rotation_of(fleet).look()
            assert (await dial_any(fleet, ca)).subject == "one.test"

    run(body)


def test_the_files_are_looked_at_by_themselves(ca: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    async def body() -> None:
        monkeypatch.setattr(tls, "LOOK_SECONDS", 0.005)
        pair = ca.pair("one", "old.test")
        async with plain_fleet(listen=[{"address": "127.0.0.1:0", "tls": pair}]) as fleet:
            ca.pair("one", "new.test")
            await until(lambda: rotation_of(fleet).loads > 1 and not rotation_of(fleet).problem, "they are in force")
            assert (await dial_any(fleet, ca)).subject == "new.test"

    run(body)


def test_a_new_client_ca_ends_the_trust_in_the_old_one_resumed_sessions_included(tmp_path: Path, ca: Authority) -> None:
    async def body() -> None:
        old = Authority(tmp_path, "clients")
        shows = old.pair("client", "client.test")
        listen = {"client_ca": old.file, "client_certs": "required", **ca.pair("one", "one.test")}
        async with plain_fleet(listen=[{"address": "127.0.0.1:0", "tls": listen}]) as fleet:
            context = ca.client(shows=shows)
            answer, session, _ = await asyncio.to_thread(visit, fleet.address, context)
            assert b" 200 OK" in answer
            answer, session, resumed = await asyncio.to_thread(visit, fleet.address, context, session)
            assert resumed, "while the CA is the same"
            assert b" 200 OK" in answer
            Authority(tmp_path, "clients")  # in the same file
            assert rotation_of(fleet).look()
            seen = len(fleet.seen)
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await asyncio.to_thread(visit, fleet.address, context, session)
            assert len(fleet.seen) == seen

    run(body)


def visit(
    address: tuple[str, int], context: ssl.SSLContext, session: ssl.SSLSession | None = None
) -> tuple[bytes, ssl.SSLSession | None, bool | None]:
    """One request, resuming a session if there is one: the answer, the session it left, was one resumed?"""
    with (
        socket.create_connection(address, timeout=4.0) as plain,
        context.wrap_socket(plain, server_hostname="one.test", session=session) as secure,
    ):
        secure.sendall(ask())
        answer = secure.recv(65_536)
        if not answer:
            raise ConnectionError("closed")
        return answer, secure.session, secure.session_reused


def test_a_file_put_in_place_by_a_rename_or_a_link_is_noticed(ca: Authority) -> None:
    pair = ca.pair("one", "old.test")
    link = ca.folder / "current.crt"
    link.symlink_to(pair["cert"])
    settings = ServerTls((Pair(str(link), pair["key"]),))
    rotation = Rotation("test", settings.files(), lambda: make_server(settings))
    new = ca.pair("two", "new.test")
    Path(new["key"]).rename(pair["key"])
    link.unlink()
    link.symlink_to(new["cert"])
    assert rotation.look()
    assert not rotation.look()
    assert (rotation.loads, rotation.failures) == (2, 0)


def test_the_first_end_of_its_certificates_can_be_read(ca: Authority) -> None:
    late = NEXT_YEAR + datetime.timedelta(days=300)
    one, two = ca.pair("one", "one.test", expires=late), ca.pair("two", "two.test", expires=NEXT_YEAR)
    made = make_server(ServerTls((Pair(**one), Pair(**two))))
    assert made.expires == NEXT_YEAR.timestamp()
    assert make_client(ClientTls(cert=one["cert"], key=one["key"])).expires == late.timestamp()
    assert make_client(ClientTls()).expires is None
