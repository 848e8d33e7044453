"""`fairlead top` in a real terminal: keys, sizes, signals, lost connections, and the terminal afterwards."""

from __future__ import annotations

import shlex
import signal
from pathlib import Path

import pytest
from top_terminal import PATIENCE, TOKEN, TOP, Screen, admin, on_screen, top

FAST = ("--interval", "0.2")


def order(running: Screen) -> list[str]:
    """The backends from the top to the bottom."""
    names = [line.split()[0] for line in running.frame if line]
    return [name for name in names if name.startswith("gpu") and not name.endswith(":")]


def test_it_shows_the_fleet_and_q_ends_it() -> None:
    with admin() as server, top(server.url) as running:
        running.until_shown("gpu5")
        assert running.frame[0].startswith("fairlead 0.1.0  ready  expected_completion  config 7")
        assert len(running.frame) == 20
        running.press("q")
        assert running.ends() == 0
        assert running.is_given_back


def test_arrows_and_letters_sort() -> None:
    with admin() as server, top(server.url, columns=200) as running:
        running.until_shown("gpu5")
        assert order(running)[0] == "gpu1"
        running.press("n")
        running.until_shown("BACKENDv")
        running.press("r")
        running.until("the other way round", lambda: order(running)[0] == "gpu5")
        running.press("\x1b[C\x1bOC")  # two to the right: the share of requests
        running.until_shown("vREQ")
        assert order(running)[:2] == ["gpu1", "gpu2-with-a-long-name"]
        running.press("0")
        running.until("no column is marked", lambda: not any("vREQ" in line for line in running.frame))


def test_a_drain_is_asked_for_and_y_does_it_and_e_takes_it_back() -> None:
    with admin() as server, top(server.url, *FAST) as running:
        running.until_shown("gpu5")
        running.press("d")
        running.until_shown("select a backend first")
        running.press("\x1b[B")
        running.until_shown("gpu1: up")
        running.press("d")
        running.until_shown("drain gpu1? its 41 running requests finish, new ones go elsewhere [y/n]")
        running.press("n")
        running.until_shown("nothing was changed")
        assert server.changes == []
        running.press("dy")
        running.until_shown("gpu1 drains, until the next reload")
        running.until_shown("gpu1: draining")
        running.press("ey")
        running.until_shown("gpu1: up")
        assert server.changes == [("gpu1", {"drain": True}), ("gpu1", {"drain": False})]


def test_changes_want_the_token_where_there_is_one(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(TOKEN + "\n")
    with admin(token=TOKEN) as server:
        with top(server.url, *FAST) as running:
            running.until_shown("gpu5")
            running.press("\x1b[Bdy")
            running.until_shown("not changed: it wants its admin token")
            assert server.changes == []
        with top(server.url, *FAST, "--token-file", str(file)) as running:
            running.until_shown("gpu5")
            running.press("\x1b[Bdy")
            running.until_shown("gpu1 drains")
        with top(server.url, *FAST, FAIRLEAD_ADMIN_TOKEN=TOKEN) as running:
            running.until_shown("gpu5")
            running.press("\x1b[Bey")
            running.until_shown("gpu1 is back to work")
        assert len(server.changes) == 2


def test_help_comes_and_goes() -> None:
    with admin() as server, top(server.url, columns=80, lines=30) as running:
        running.until_shown("gpu5")
        running.press("?")
        running.until_shown("requests waiting in the engine")
        running.press("\x1b")  # alone: a key of its own
        running.until_shown("gpu5")


def test_another_size_is_drawn_at_once() -> None:
    with admin() as server, top(server.url, columns=60, lines=12) as running:
        running.until_shown("gpu5")
        assert not any("SPEED" in line for line in running.frame)
        running.resize(150, 30)
        running.until_shown("SPEED")
        assert len(running.frame) == 30


def test_a_lost_connection_is_told_and_found_again() -> None:
    with admin() as server:
        port = server.server_address[1]
        running = Screen(*TOP, server.url, *FAST)
        running.until_shown("gpu5")
    try:
        running.until_shown("no answer")
        assert "gpu1" in order(running)  # the last that was known stays
        with admin(port):
            running.until("it is back", lambda: "q quit" in running.frame[-1] and "no answer" not in running.frame[-1])
            running.press("q")
            assert running.ends() == 0
    finally:
        running.close()


def test_it_waits_for_one_that_is_not_there_yet() -> None:
    with top("http://127.0.0.1:1", *FAST) as running:
        running.until_shown("no answer yet from http://127.0.0.1:1")
        running.until_shown("connection refused; trying again")
        running.press("q")
        assert running.ends() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_every_signal_gives_the_terminal_back(number: signal.Signals) -> None:
    with admin() as server, top(server.url) as running:
        running.until_shown("gpu5")
        running.process.send_signal(number)
        assert running.ends() == 128 + number
        assert running.is_given_back
        assert "Traceback" not in running.text


def test_it_ends_when_the_terminal_goes_away() -> None:
    with admin() as server, top(server.url) as running:
        running.until_shown("gpu5")
        running.hang_up()
        assert running.process.wait(PATIENCE) in (0, 128 + signal.SIGHUP)


def test_control_c_is_a_signal() -> None:
    with admin() as server, top(server.url) as running:
        running.until_shown("gpu5")
        running.press("\x03")
        assert running.ends() == 128 + signal.SIGINT
        assert running.is_given_back


def test_stopped_it_gives_the_terminal_back_and_continued_it_draws_anew() -> None:
    """^Z and fg, under a shell as people have it."""
    with admin() as server, on_screen("bash", "--norc", "--noprofile", "--noediting", "-i") as running:
        running.press(f"{shlex.join(TOP)} {server.url}\n")
        running.until_shown("gpu5")
        running.press("\x1a")
        running.until("the shell tells that it stands still", lambda: "Stopped" in running.text)
        assert running.is_given_back
        running.text = ""
        running.press("fg\n")
        running.until_shown("gpu5")
        assert "\x1b[?1049h" in running.text
        running.press("q")
        running.until("it has ended", lambda: running.is_given_back)
        running.press("exit 7\n")
        assert running.ends() == 7


def test_an_error_gives_the_terminal_back() -> None:
    """Not one that can happen: a page that the drawing was not made for."""
    with admin() as server:
        for row in server.pages["/api/backends"]["backends"]:
            row["share"] = "a lot"
        with top(server.url) as running:
            assert running.ends() == 1
            assert "TypeError" in running.text
            running.text = running.text.replace("\r\n", "\n")
            assert running.is_given_back


@pytest.mark.parametrize("term", ["dumb", ""])
def test_a_terminal_that_can_not_show_a_screen_gets_it_once(term: str) -> None:
    with admin() as server, top(server.url, columns=120, TERM=term) as running:
        assert running.ends() == 0
        assert "gpu5" in running.text
        assert "\x1b" not in running.text


def test_without_colours_only_what_is_chosen_is_marked() -> None:
    with admin() as server, top(server.url, NO_COLOR="1") as running:
        running.until_shown("gpu5")
        running.press("\x1b[B")
        running.until_shown("gpu1: up")
        codes = {code for code in running.text.split("\x1b[")[1:] if code.partition("m")[0].replace(";", "").isdigit()}
        assert {code.partition("m")[0] for code in codes} == {"7", "0"}
