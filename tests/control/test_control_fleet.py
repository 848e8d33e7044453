"""Who may change the fleet by the admin listener, and what its pages tell of the configuration in force."""

from __future__ import annotations

import asyncio
import json
import shlex
import time
from pathlib import Path

import pytest
from control_app import running
from control_records import finish, make_balancer, place

from fairlead.config.fleet import KEYS
from fairlead.config.schema import Address, Backend, Config, Listen
from fairlead.control.fleet import MAX_CHANGES, Refused, Versions
from fairlead.control.recorder import MAX_LEFT, Recorder

JSON = {"Content-Type": "application/json"}
CHANGES = [
    ("POST", "/api/backends", b'{"url": "http://127.0.0.1:2"}'),
    ("PATCH", "/api/backends/b0", b'{"weight": 2}'),
    ("DELETE", "/api/backends/b0", b""),
    ("POST", "/api/reload", b"{}"),
]


@pytest.mark.parametrize(("method", "path", "body"), CHANGES)
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 415),
        ({"Content-Type": "text/plain"}, 415),
        ({**JSON, "Host": "evil.example"}, 403),
        ({**JSON, "Origin": "http://evil.example"}, 403),
        ({**JSON, "Sec-Fetch-Site": "cross-site"}, 403),
    ],
)
def test_a_page_from_elsewhere_changes_nothing(
    method: str, path: str, body: bytes, headers: dict[str, str], status: int
) -> None:
    async def whole() -> None:
        async with running("http://127.0.0.1:1", "http://127.0.0.1:3") as fairlead:
            before = fairlead.app.config
            assert (await fairlead.call(method, path, body, headers))[0] == status
            assert fairlead.app.config is before

    asyncio.run(whole())


@pytest.mark.parametrize(("method", "path"), [("POST", "/api/backends"), ("PATCH", "/api/backends/b0")])
@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[" * 5000])
def test_what_is_no_json_is_refused(method: str, path: str, body: bytes) -> None:
    async def whole() -> None:
        async with running("http://127.0.0.1:1") as fairlead:
            status, answer = await fairlead.call(method, path, body, JSON)
            assert (status, b"expected JSON" in answer) == (400, True)

    asyncio.run(whole())


def test_the_methods_of_each_page_are_told() -> None:
    async def whole() -> None:
        async with running("http://127.0.0.1:1") as fairlead:
            for method, path, allowed in (
                ("GET", "/api/reload", b"allowed here: POST"),
                ("PUT", "/api/backends", b"allowed here: GET, HEAD, POST"),
                ("PUT", "/api/backends/b0", b"allowed here: DELETE, GET, HEAD, PATCH"),
            ):
                status, answer = await fairlead.call(method, path, b"", JSON)
                assert (status, allowed in answer) == (405, True), answer

    asyncio.run(whole())


def test_keys_are_not_shown_by_anything_that_tells_of_a_change() -> None:
    async def whole() -> None:
        async with running("http://127.0.0.1:1") as fairlead:
            body = b'{"url": "http://127.0.0.1:3", "headers": ["Authorization: Bearer s3cret"]}'
            status, answer = await fairlead.call("POST", "/api/backends", body, JSON)
            assert (status, b"s3cret" in answer) == (201, False)
            _, shown = await fairlead.get("/api/config")
            assert b"s3cret" not in shown
            bad = b'{"url": "http://u:s3cret@127.0.0.1:4", "headers": ["Authorization s3cret"]}'
            status, answer = await fairlead.call("POST", "/api/backends", bad, JSON)
            assert (status, b"s3cret" in answer) == (400, False)

    asyncio.run(whole())


def test_the_config_page_tells_the_version_and_its_source() -> None:
    async def whole() -> None:
        async with running("http://127.0.0.1:1") as fairlead:
            loaded = (await fairlead.json("/api/config"))["loaded"]
            assert abs(loaded.pop("applied_at") - time.time()) < 60.0
            assert loaded == {"version": 1, "file": None, "changes": [], "needs_restart": [], "last_error": None}

    asyncio.run(whole())


# --- the docs ------------------------------------------------------------------------------------------------


DOCS = Path(__file__).resolve().parents[2] / "docs"


def commands() -> list[tuple[str, str, bytes]]:
    """(method, path, body) of every curl command in operating.md."""
    found = []
    for line in (DOCS / "operating.md").read_text("utf-8").splitlines():
        if line.startswith("curl "):
            words = shlex.split(line)
            method = words[words.index("-X") + 1] if "-X" in words else "GET"
            body = words[words.index("-d") + 1] if "-d" in words else ""
            path = next(word for word in words if word.startswith("http://")).removeprefix("http://127.0.0.1:9900")
            found.append((method, path, body.encode()))
    return found


def test_the_commands_of_the_docs_work_in_their_order() -> None:
    async def whole() -> None:
        named = [{"url": f"http://127.0.0.1:{place}", "name": f"gpu{place}"} for place in (1, 2)]
        async with running(backends=named) as fairlead:
            fairlead.app.reloader.read = lambda: (fairlead.app.config, [])
            done = []
            for method, path, body in commands():
                body = body.replace(b"10.0.1.12:8000", b"127.0.0.1:3")  # an address that refuses at once
                status, answer = await fairlead.call(method, path, body, JSON)
                assert status in (200, 201), (method, path, answer)
                done.append(method)
            assert {*done} == {"GET", "POST", "PATCH", "DELETE"}

    asyncio.run(whole())


def test_the_docs_name_every_key_and_every_field() -> None:
    page = (DOCS / "admin-api.md").read_text("utf-8")
    for field in Versions(None).shown():
        assert f"`{field}`" in page
        assert f'"{field}":' in page
    for key in KEYS:
        assert f"`{key}`" in page

    async def whole() -> None:
        async with running("http://127.0.0.1:1", "http://127.0.0.1:3") as fairlead:
            fairlead.app.reloader.read = lambda: (fairlead.app.config, [])
            for method, path, body in ((("POST", "/api/reload", b"{}")), ("DELETE", "/api/backends/b0", b"")):
                answer = json.loads((await fairlead.call(method, path, body, JSON))[1])
                assert not [field for field in answer if f'"{field}":' not in page]
            status, answer = await fairlead.call("PATCH", "/api/backends/b1", b'{"weight": -1}', JSON)
            (problem,) = json.loads(answer)["error"]["problems"]
            assert (status, f'"message": "{problem["message"]}"' in page) == (400, True), answer

    asyncio.run(whole())


# --- the books -----------------------------------------------------------------------------------------------


def test_versions_count_what_was_applied_and_forget_changes_with_the_next_reload() -> None:
    versions = Versions("fairlead.yaml")
    versions.applied("backend a: weight 2")
    versions.refused(Refused(400, "no", [{"path": "x"}]))
    assert (versions.number, versions.reloads) == (2, {"applied": 0, "refused": 1})
    assert versions.problem is not None
    versions.applied("backend a: weight 3")
    assert versions.problem is not None, "a change by hand mends no file"
    assert versions.shown()["changes"] == ["backend a: weight 2", "backend a: weight 3"]
    versions.applied(needs_restart=["admin"])
    shown = versions.shown()
    assert (shown["version"], shown["changes"], shown["needs_restart"], shown["last_error"]) == (4, [], ["admin"], None)
    for number in range(MAX_CHANGES + 5):
        versions.applied(f"change {number}")
    assert versions.changes[0] == "change 5"


def test_a_backend_that_left_keeps_its_count_of_requests_for_a_while() -> None:
    balancer = make_balancer("a", "b")
    recorder = Recorder(balancer)
    finish(recorder, place(balancer, model="m"), 1.0)
    ((id, _, _),) = recorder.requests
    recorder.failed(id, "connect")
    recorder.left(id)
    assert id not in recorder.backends
    assert id not in {key[0] for key in recorder.errors}
    assert [key[0] for key in recorder.requests] == [id]
    for number in range(MAX_LEFT - 1):
        recorder.left(f"other{number}")
    assert [key[0] for key in recorder.requests] == [id]
    recorder.left("one more")
    assert recorder.requests == {}
    recorder.joined(id)
    assert recorder.errors[id, "connect"] == 0


def test_configs_that_are_equal_are_told_by_their_values() -> None:
    """Reloads find what is unchanged by comparing: tables must compare by what they say."""
    one, two = (
        Config(listen=(Listen(address=Address("::1", 80)),), backends=(Backend(url="http://a:1"),)) for _ in "ab"
    )
    assert one == two
    assert one is not two
