"""Who may do what at the admin listener, with and without a token; and what browsers are told about the page."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from control_app import running

from fairlead.cli.reload import reload
from fairlead.config.build import App, StartError
from fairlead.config.load import parse
from fairlead.control import gate
from fairlead.dashboard import files

TOKEN = "correct-horse-battery-staple"
OTHER = "another-token-that-is-long"
GOOD = {"Authorization": f"Bearer {TOKEN}"}
JSON = {"Content-Type": "application/json"}
DOWN = "http://127.0.0.1:1"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n", "utf-8")
    return file


CHANGES = [
    ("POST", "/api/policy", {"policy": "latency"}),
    ("PATCH", "/api/backends/b0", {"weight": 2}),
    ("POST", "/api/backends", {"url": "http://127.0.0.1:2"}),
    ("POST", "/api/reload", {}),
]


@pytest.mark.parametrize(("method", "path", "change"), CHANGES)
def test_with_a_token_nothing_is_changed_without_it(file: Path, method: str, path: str, change: Any) -> None:
    async def body() -> None:
        async with running(DOWN, policy="random", admin_token_file=str(file)) as fairlead:
            before = await fairlead.json("/api/config")
            wrong = [
                {}, {"Authorization": f"Bearer {OTHER}"}, {"Authorization": f"Basic {TOKEN}"},
                {"Authorization": TOKEN}, {"Authorization": "Bearer "}, {"Authorization": f"Bearer {TOKEN}x"},
            ]  # fmt: skip
            for headers in wrong:
                status, answer = await fairlead.call(method, path, json.dumps(change).encode(), {**JSON, **headers})
                assert status == 401, headers
                assert TOKEN.encode() not in answer
            assert await fairlead.json("/api/config") == before
            status, answer = await fairlead.call(method, path, json.dumps(change).encode(), {**JSON, **GOOD})
            assert status in (200, 201, 409), answer  # 409: there is no file to reload

    asyncio.run(body())


def test_the_token_opens_nothing_for_pages_of_elsewhere(file: Path) -> None:
    async def body() -> None:
        async with running(DOWN, policy="random", admin_token_file=str(file)) as fairlead:
            for headers in (
                {"origin": "http://evil.example"},
                {"host": "evil.example"},
                {"content_type": "text/plain"},
            ):
                status, _ = await fairlead.switch({"policy": "latency"}, authorization=f"Bearer {TOKEN}", **headers)
                assert status in (403, 415), headers
            assert (await fairlead.switch({"policy": "latency"}, authorization=f"bearer {TOKEN}"))[0] == 200

    asyncio.run(body())


def test_on_loopback_reading_needs_no_token(file: Path) -> None:
    async def body() -> None:
        async with running(DOWN, admin_token_file=str(file)) as fairlead:
            for page in ("/", "/healthz", "/metrics", "/api/backends", "/api/config", "/dashboard/app.js"):
                assert (await fairlead.get(page))[0] == 200, page
            assert await fairlead.json("/api/access") == {
                "token_set": True, "token_valid": False, "may_read": True, "may_change": False,
            }  # fmt: skip

    asyncio.run(body())


def test_elsewhere_reading_needs_it_too_except_for_probes_prometheus_and_the_empty_page(file: Path) -> None:
    async def body() -> None:
        async with running(DOWN, admin="0.0.0.0:0", admin_token_file=str(file)) as fairlead:
            for page in (
                "/api/backends",
                "/api/backends/b0",
                "/api/config",
                "/api/live",
                "/api/decisions",
                "/api/alerts",
            ):
                assert (await fairlead.get(page))[0] == 401, page
                if page != "/api/live":
                    assert (await fairlead.get(page, GOOD))[0] == 200, page
            for page in ("/", "/healthz", "/metrics", "/dashboard/app.js", "/api/access"):
                assert (await fairlead.get(page))[0] == 200, page
            assert (await fairlead.get("/readyz"))[0] == 503
            _, answer = await fairlead.get("/api/access", GOOD)
            assert json.loads(answer) == {
                "token_set": True, "token_valid": True, "may_read": True, "may_change": True,
            }  # fmt: skip

    asyncio.run(body())


def test_without_a_token_all_is_as_open_as_the_address(file: Path) -> None:
    async def body() -> None:
        async with running(DOWN, policy="random") as fairlead:
            assert (await fairlead.switch({"policy": "latency"}))[0] == 200
            assert (await fairlead.json("/api/access"))["token_set"] is False

    asyncio.run(body())


def test_the_token_is_shown_nowhere(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> None:
        async with running(DOWN, admin_token_file=str(file)) as fairlead:
            await fairlead.switch({"policy": "latency"}, authorization=f"Bearer {TOKEN}")
            await fairlead.switch({"policy": "latency"}, authorization=f"Bearer {OTHER}")
            pages = [(await fairlead.get(page))[1] for page in ("/api/config", "/metrics", "/api/access", "/")]
            assert all(TOKEN.encode() not in page for page in pages)
            admin = fairlead.app._admin
            assert admin is not None and TOKEN not in repr(vars(admin._token))
        assert TOKEN not in caplog.text and OTHER not in caplog.text

    asyncio.run(body())


def test_a_new_token_in_the_file_needs_no_restart_and_a_bad_one_changes_nothing(
    file: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(gate, "FRESH_SECONDS", 0.0)
    token = gate.AdminToken(file=str(file))

    def fits(text: str) -> bool:
        return asyncio.run(token.fits(f"Bearer {text}"))

    assert fits(TOKEN) and not fits(OTHER)
    file.write_text(OTHER, "utf-8")
    assert fits(OTHER) and not fits(TOKEN)
    for bad in ("", "short"):
        file.write_text(bad, "utf-8")
        assert fits(OTHER)
    file.unlink()
    assert fits(OTHER)
    assert "the admin token of before counts" in caplog.text


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"short", "expected a token of at least 16 characters, got 5"),
        (b"", "got 0"),
        (b"a token with spaces in it", "visible ASCII characters"),
        ("ein-schlüssel-mit-umlaut".encode(), "visible ASCII characters"),
        (None, "No such file"),
    ],
)
def test_a_token_that_cannot_be_used_stops_the_start(file: Path, content: bytes | None, words: str) -> None:
    if content is None:
        file.unlink()
    else:
        file.write_bytes(content)
    config, _ = parse(
        {
            "listen": "127.0.0.1:0", "admin": "127.0.0.1:0", "backends": DOWN, "admin_token_file": str(file),
            "access_log": {"enabled": False},
        },
        "test",
    )  # fmt: skip
    assert config is not None

    async def body() -> None:
        app = App(config)
        with pytest.raises(StartError, match=words):
            await app.start()
        await app.stop(drain=0.0)

    asyncio.run(body())


def test_the_environment_may_hold_it_and_comes_before_the_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(gate.VARIABLE, OTHER)

    async def body() -> None:
        async with running(DOWN, policy="random", admin_token_file=str(file)) as fairlead:
            assert (await fairlead.switch({"policy": "latency"}, authorization=f"Bearer {TOKEN}"))[0] == 401
            assert (await fairlead.switch({"policy": "latency"}, authorization=f"Bearer {OTHER}"))[0] == 200

    asyncio.run(body())


def test_fairlead_reload_shows_it(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def body() -> None:
        async with running(DOWN, admin_token_file=str(file)) as fairlead:

            async def run(*arguments: str) -> str:
                runner = CliRunner()
                done = await asyncio.to_thread(runner.invoke, reload, ["--admin", fairlead.admin, *arguments])
                assert done.exit_code == 1  # these engines came from the command line
                return done.output

            assert "it wants its admin token: --token-file FILE" in await run()
            assert "there is no file to read again" in await run("--token-file", str(file))
            monkeypatch.setenv(gate.VARIABLE, TOKEN)
            assert "there is no file to read again" in await run()

    asyncio.run(body())


# --- the page's own files -----------------------------------------------------------------------------------------


def test_browsers_are_told_to_take_nothing_from_elsewhere() -> None:
    async def body() -> None:
        async with running(DOWN) as fairlead:
            for name in files():
                path = f"/dashboard/{name}" if name else "/"
                async with fairlead._session.get(fairlead.admin + path) as answer:
                    assert answer.status == 200, path
                    policy = answer.headers["content-security-policy"]
                    assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy
                    assert "unsafe" not in policy
                    assert answer.headers["x-content-type-options"] == "nosniff"
                    tag = answer.headers["etag"]
                async with fairlead._session.get(fairlead.admin + path, headers={"If-None-Match": tag}) as again:
                    assert (again.status, await again.read()) == (304, b"")
            assert (await fairlead.get("/dashboard/nothing.js"))[0] == 404
            assert (await fairlead.get("/dashboard/..%2F__init__.py"))[0] == 404

    asyncio.run(body())


def test_nothing_stands_inside_the_markup_that_such_a_policy_would_refuse() -> None:
    page = files()[""].body.decode()
    assert "<style" not in page and " style=" not in page and "javascript:" not in page
    assert page.count("<script") == page.count('<script type="module" src=') == 1
    assert not any(f" on{event}=" in page for event in ("click", "load", "error", "submit"))
    for name, file in files().items():
        text = file.body.decode()
        assert "//cdn" not in text and "innerHTML" not in text and "insertAdjacentHTML" not in text, name
        for url in ("http://", "https://"):
            assert text.replace("http://www.w3.org/", "").count(url) == 0, name
