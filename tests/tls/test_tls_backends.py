"""TLS to backends: verified unless somebody asked us not to, and a failure moves the request on."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from peers import run, until
from running import reply
from scripted_engine import Play
from tls_peers import Authority, TlsEngine, front

from fairlead.config.build import App, StartError
from fairlead.config.load import parse


@pytest.fixture
def ca(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def test_a_verified_backend_is_probed_and_served_over_tls(ca: Authority) -> None:
    async def body() -> None:
        play = Play(reply())
        engine = TlsEngine(play, "engine0", ca.server("127.0.0.1"))
        async with front([engine], play, backend_tls={"ca": ca.file}) as fleet:
            assert fleet.app.balancer.backends["engine0"].up
            assert engine.probes > 0
            assert [(await fleet.get()).status for _ in range(3)] == [200] * 3
            assert engine.seen[0].connection == engine.seen[2].connection, "the connection was kept"
            assert engine.seen[0].field("host") == f"127.0.0.1:{engine.address[1]}"

    run(body)


@pytest.mark.parametrize("fault", ["unknown CA", "wrong name", "no TLS at all"])
def test_a_backend_that_fails_in_tls_is_counted_so_and_the_next_one_is_tried(
    tmp_path: Path, ca: Authority, fault: str
) -> None:
    async def body() -> None:
        play = Play(reply())
        engines = [TlsEngine(play, f"engine{number}", ca.server("127.0.0.1")) for number in range(2)]
        async with front(list(engines), play, backend_tls={"ca": ca.file}) as fleet:
            # Both were up when their certificates could be verified. Now the first one's cannot.
            stranger = Authority(tmp_path, "stranger")
            contexts = {
                "unknown CA": stranger.server("127.0.0.1"),
                "wrong name": ca.server("127.0.0.2"),
                "no TLS at all": None,
            }
            await engines[0].refuse()
            engines[0].context = contexts[fault]
            await engines[0].open()
            if fault == "no TLS at all":
                engines[0].greeting = b"HTTP/1.1 400 Bad Request\r\n\r\n"
            answers = [await fleet.get() for _ in range(2)]
            fleet.unseen_tries += 1
            assert [answer.status for answer in answers] == [200, 200]
            assert engines[0].seen == []
            lines = await fleet.logged(2)
            assert sorted((line["tries"], line["failed_on"]) for line in lines) == [(1, []), (2, ["engine0"])]
            assert fleet.app.recorder.errors["engine0", "tls"] == 1

    run(body)


def test_a_stall_in_the_handshake_has_the_connect_deadline(ca: Authority) -> None:
    async def body() -> None:
        play = Play(reply())
        engines = [TlsEngine(play, f"engine{number}", ca.server("127.0.0.1")) for number in range(2)]
        async with front(list(engines), play, backend_tls={"ca": ca.file}, timeouts={"connect": "200ms"}) as fleet:
            await engines[0].refuse()
            engines[0].context = None  # takes connections, and says nothing
            await engines[0].open()
            answers = [await fleet.get() for _ in range(2)]
            fleet.unseen_tries += 1
            assert [answer.status for answer in answers] == [200, 200]
            assert sorted(line["tries"] for line in await fleet.logged(2)) == [1, 2]

    run(body)


@pytest.mark.parametrize("tls", [{}, {"ca": "FILE", "server_name": "other.test"}])
def test_a_backend_that_cannot_be_verified_is_never_up_and_gets_nothing(ca: Authority, tls: dict[str, str]) -> None:
    async def body() -> None:
        play = Play(reply())
        engine = TlsEngine(play, "engine0", ca.server("127.0.0.1"))
        told = {name: ca.file if value == "FILE" else value for name, value in tls.items()}
        async with front([engine], play, backend_tls=told) as fleet:
            assert fleet.app.watches["engine0"].about.problem == "its TLS certificate is not trusted"
            assert (await fleet.get()).status == 503
            assert engine.seen == []
            assert engine.probes == 0

    run(body)


def test_the_name_that_is_asked_for_and_verified_may_be_set(ca: Authority) -> None:
    async def body() -> None:
        play = Play(reply())
        context = ca.server("engine.test")
        asked: list[str | None] = []
        context.sni_callback = lambda _, name, __: asked.append(name)
        engine = TlsEngine(play, "engine0", context)
        tls = {"ca": ca.file, "server_name": "engine.test"}
        async with front([engine], play, backend={"tls": tls}) as fleet:
            assert (await fleet.get()).status == 200
            assert set(asked) == {"engine.test"}

    run(body)


def test_verification_is_off_only_where_that_is_asked_for_and_told_at_the_start(
    ca: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    async def body() -> None:
        play = Play(reply())
        engine = TlsEngine(play, "engine0", ca.server("elsewhere.test"))
        async with front([engine], play, backend_tls={"verify": False}) as fleet:
            assert (await fleet.get()).status == 200
        told = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING and "not verified" in r.message]
        assert told == ["backend engine0 is not verified (tls.verify: false): anybody on the way can pose as it"]

    run(body)


@pytest.mark.parametrize("shown", [True, False])
def test_our_own_certificate_is_shown_to_backends_that_ask_for_it(tmp_path: Path, ca: Authority, shown: bool) -> None:
    async def body() -> None:
        ours = Authority(tmp_path, "ours")
        play = Play(reply())
        engine = TlsEngine(play, "engine0", ca.server("127.0.0.1", clients=ours))
        tls = {"ca": ca.file, **(ours.pair("client", "fairlead.test") if shown else {})}
        async with front([engine], play, backend_tls=tls) as fleet:
            assert fleet.app.balancer.backends["engine0"].up == shown
            assert (await fleet.get()).status == (200 if shown else 503)
            assert len(engine.seen) == shown

    run(body)


def test_a_changed_ca_counts_for_new_connections(tmp_path: Path, ca: Authority) -> None:
    async def body() -> None:
        play = Play(reply())
        engine = TlsEngine(play, "engine0", ca.server("127.0.0.1"))
        async with front([engine], play, backend_tls={"ca": ca.file}) as fleet:
            [rotation] = fleet.app.service.rotations.all
            Authority(tmp_path, "ca")  # in the same file
            assert rotation.look()
            assert (await fleet.get()).status == 502
            fleet.unseen_tries += 1
            assert fleet.app.recorder.errors["engine0", "tls"] == 1
            await until(lambda: fleet.app.watches["engine0"].about.problem != "", "the probe meets it too")

    run(body)


def test_bad_files_end_the_start_with_a_sentence_that_names_them(ca: Authority, tmp_path: Path) -> None:
    gone, pair = str(tmp_path / "gone.pem"), ca.pair("one", "one.test")
    backends = [{"url": "https://127.0.0.1:1", "name": "gpu1", "tls": {"ca": gone}}]
    listen = [{"address": "127.0.0.1:0", "tls": {"cert": pair["cert"], "key": gone}}]
    cases: list[tuple[dict[str, Any], str]] = [
        ({"backends": backends, "listen": "127.0.0.1:0"}, f"backend gpu1: {gone}: no such file or directory"),
        ({"backends": ["http://127.0.0.1:1"], "listen": listen}, f"listen 127.0.0.1:0: {gone}: no such file"),
    ]

    async def body() -> None:
        for document, said in cases:
            config, problems = parse({**document, "admin": "127.0.0.1:0", "access_log": False}, "test")
            assert config is not None, problems
            app = App(config)
            try:
                with pytest.raises(StartError) as caught:
                    await app.start()
                assert str(caught.value).startswith(said)
            finally:
                await app.stop(drain=0.0)

    run(body)
