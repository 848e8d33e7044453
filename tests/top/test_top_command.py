"""`fairlead top` and `fairlead explain` where nobody looks at a terminal: what is printed, and the exit status."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from typing import Any

import pytest
from click.testing import CliRunner, Result
from control_app import engines, running
from top_answers import answer, refused
from top_samples import FLEET
from top_terminal import TOKEN, admin

from fairlead.cli.explain import explain
from fairlead.cli.top import top
from fairlead.top.ask import Asker, NoAnswer, Refused, WrongUrl
from fairlead.top.keys import Change
from fairlead.top.run import Feed
from fairlead.top.screen import text_of
from fairlead.top.story import story

NOBODY = "http://127.0.0.1:1"


def call(command: Any, *arguments: str, **environment: str) -> Result:
    return CliRunner().invoke(command, arguments, env={"COLUMNS": "200", "NO_COLOR": "1", **environment})


def test_once_prints_every_backend_without_codes() -> None:
    with admin() as server:
        result = call(top, server.url, "--once")
    assert result.exit_code == 0
    assert [line.split()[0] for line in result.output.splitlines()[-5:]] == [row["id"] for row in FLEET.rows]
    assert "\x1b" not in result.output


def test_without_a_terminal_it_prints_once() -> None:
    with admin() as server:
        command = [sys.executable, "-m", "fairlead", "top", server.url]
        kept = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "LINES")}
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, env=kept)
    assert (done.returncode, done.stderr) == (0, "")
    assert "ABOUT" in done.stdout  # nobody says how wide it is: all columns


def test_json_has_the_names_and_numbers_of_the_admin_api() -> None:
    with admin() as server:
        told = json.loads(call(top, server.url, "--json").output)
    assert told["backends"] == list(FLEET.rows)
    assert told["alerts"] == list(FLEET.alerts)
    assert (told["policy"], told["shadow"], told["config_version"]) == ("expected_completion", None, 7)
    assert (told["status"], told["version"], told["config_problem"]) == ("ready", "0.1.0", None)


def test_a_fleet_that_cannot_serve_is_no_error() -> None:
    with admin() as server:
        server.pages["/readyz"] = {"status": "no backend is up"}
        result = call(top, server.url, "--once")
    assert (result.exit_code, "no backend is up" in result.output) == (0, True)


@pytest.mark.parametrize("command", [top, explain])
def test_nobody_there_is_told(command: Any) -> None:
    arguments = (NOBODY, "--once") if command is top else ("--last", "--admin", NOBODY)
    result = call(command, *arguments)
    assert (result.exit_code, result.output) == (
        1, f"no Fairlead answers at {NOBODY}: connection refused; name its admin API\n",
    )  # fmt: skip


@pytest.mark.parametrize("command", [top, explain])
def test_one_that_wants_its_token_to_be_read_is_told_apart(command: Any) -> None:
    with admin(token=TOKEN) as server:
        server.is_private = True
        server.pages["/api/explain/x"] = answer()
        arguments = (server.url, "--once") if command is top else ("x", "--admin", server.url)
        without = call(command, *arguments)
        wants = "it wants its admin token: --token-file FILE, or FAIRLEAD_ADMIN_TOKEN in the environment\n"
        assert (without.exit_code, without.output) == (1, wants)
        assert call(command, *arguments, "--token", "another-token-that-is-long").output == wants
        for shown in (
            call(command, *arguments, "--token", TOKEN),
            call(command, *arguments, FAIRLEAD_ADMIN_TOKEN=TOKEN),
        ):
            assert shown.exit_code == 0
            assert TOKEN not in shown.output


@pytest.mark.parametrize("page", [[], {"backends": None}, {"backends": [], "policy": 3}, "text"])
def test_something_else_there_is_told(page: Any) -> None:
    with admin() as server:
        server.pages["/api/backends"] = page
        server.pages["/api/policy"] = page
        result = call(top, server.url, "--once")
        assert result.exit_code == 1
        assert (
            "not a Fairlead's admin API" in result.output or "404" in result.output or "no such page" in result.output
        )
        assert isinstance(result.exception, SystemExit)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("https://h:1", "expected the URL of an admin API"),
        ("http://", "expected the URL of an admin API"),
        ("http://user:secret@h:1", "expected the URL of an admin API"),
        ("http://h:99999", "Port out of range"),
    ],
)
def test_a_wrong_url_is_refused(url: str, words: str) -> None:
    result = call(top, url)
    assert (result.exit_code, words in result.output) == (2, True)


def test_a_token_in_two_places_is_refused(tmp_path: Any) -> None:
    file = tmp_path / "token"
    file.write_text(TOKEN)
    result = call(top, "--token", TOKEN, "--token-file", str(file))
    assert (result.exit_code, "either --token or --token-file" in result.output) == (2, True)
    with pytest.raises(WrongUrl, match="visible ASCII"):
        Asker(NOBODY, "two\nlines")


def test_an_address_needs_no_scheme_and_may_lie_under_a_path() -> None:
    with admin() as server:
        server.pages = {"/under" + path: page for path, page in server.pages.items()}
        asker = Asker(server.url.removeprefix("http://") + "/under/")
        assert asker.get("/healthz") == {"status": "ok", "version": "0.1.0"}
        with pytest.raises(Refused, match="no such page"):
            asker.get("/nothing")
        asker.close()


def test_a_kept_connection_that_was_closed_for_its_age_is_opened_again() -> None:
    with admin() as server:
        asker = Asker(server.url)
        asker.get("/healthz")
        asker._connection.sock.shutdown(2)
        assert asker.get("/healthz")["status"] == "ok"
        asker.close()
    with pytest.raises(NoAnswer, match="connection refused"):
        asker.get("/healthz")


def test_explain_prints_the_story_or_the_answer() -> None:
    with admin() as server:
        server.pages["/api/explain/13acd280bafd-25"] = answer()
        server.pages["/api/decisions?limit=1"] = {"decisions": [{"id": "13acd280bafd-25"}]}
        told = call(explain, "13acd280bafd-25", "--admin", server.url, COLUMNS="100")
        assert told.output.splitlines() == [text_of(line) for line in story(answer(), 100)]
        assert call(explain, "--last", "--admin", server.url, COLUMNS="100").output == told.output
        assert json.loads(call(explain, "--last", "--admin", server.url, "--json").output) == answer()
        unknown = call(explain, "other", "--admin", server.url)
        assert (unknown.exit_code, unknown.output) == (1, "it says: no such page\n")
        server.pages["/api/decisions?limit=1"] = {"decisions": []}
        none = call(explain, "--last", "--admin", server.url)
        assert (none.exit_code, none.output) == (1, "it says: no request has ended yet\n")


@pytest.mark.parametrize("arguments", [(), ("an-id", "--last")])
def test_explain_wants_one_request(arguments: tuple[str, ...]) -> None:
    result = call(explain, *arguments)
    assert (result.exit_code, "name one request, or --last" in result.output) == (2, True)


def test_a_request_that_went_nowhere_has_a_short_story() -> None:
    lines = [text_of(line) for line in story(refused(), 100)]
    assert lines[0] == "it was not sent to any backend: model_not_found"
    assert lines[-1] == "answer    404 model_not_found"


def test_a_large_fleet_is_told_in_words_for_the_best_and_counted_for_the_rest() -> None:
    told = answer()
    row = told["decision"]["candidates"][1]
    told["decision"]["candidates"] += [{**row, "backend": f"more{i}"} for i in range(40)]
    lines = [text_of(line) for line in story(told, 100)]
    assert sum("its first token is expected after" in line for line in lines) == 4
    assert "  and 22 more: --json has them" in lines


@pytest.mark.parametrize("width", [1, 20, 60, 200])
def test_text_of_clients_and_engines_is_harmless_at_every_width(width: int) -> None:
    told = answer()
    told["request"]["model"] = "\x1b[2J" * 20
    told["decision"]["not_considered"][0]["reason"] = "\u202e\x07"
    assert all(text_of(line).isprintable() for line in story(told, width))


def test_with_a_real_fairlead() -> None:
    async def body() -> None:
        async with engines(2) as (one, two), running(one.url, two.url, NOBODY) as fairlead:
            _, id = await fairlead.chat("m")
            told = json.loads((await asyncio.to_thread(call, top, fairlead.admin, "--json")).output)
            rows = (await fairlead.json("/api/backends"))["backends"]
            assert [set(row) for row in told["backends"]] == [set(row) for row in rows]
            assert [row["state"] for row in told["backends"]] == ["up", "up", "down"]
            once = (await asyncio.to_thread(call, top, fairlead.admin, "--once")).output
            assert [line.split()[:2] for line in once.splitlines()[-3:]] == [["b0", "up"], ["b1", "up"], ["b2", "down"]]
            story = (await asyncio.to_thread(call, explain, id, "--admin", fairlead.admin)).output
            assert story.startswith("expected_completion chose b")
            assert "  b2  down: connection refused" in story
            assert (await asyncio.to_thread(call, explain, "--last", "--admin", fairlead.admin)).output == story

            asker = Asker(fairlead.admin)
            news = asyncio.Event()
            loop = asyncio.get_running_loop()

            def wake() -> None:
                loop.call_soon_threadsafe(news.set)

            feed = Feed(asker, 60.0, wake)
            await news.wait()
            for change, word in (({"drain": True}, "drains"), ({"drain": False}, "is back to work")):
                news.clear()
                feed.change(Change("b0", change))
                await news.wait()
                assert feed.said.get().startswith(f"b0 {word}, until the next ")
                assert fairlead.app.balancer.backends["b0"].draining is change["drain"]
            feed.end()
            feed._thread.join(10)

    asyncio.run(body())
