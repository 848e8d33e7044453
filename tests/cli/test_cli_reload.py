"""SIGHUP and `fairlead reload` on real processes."""

from __future__ import annotations

import contextlib
import json
import signal
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cli_process import Served, chat, engine, serving
from click.testing import CliRunner, Result

from fairlead.cli.main import main

PATIENCE = 20.0


def config_of(served: Served) -> dict[str, Any]:
    with urllib.request.urlopen(f"{served.admin}/api/config", timeout=10) as answer:
        found: dict[str, Any] = json.load(answer)
        return found


def hang_up(served: Served) -> dict[str, Any]:
    """Send SIGHUP; what the admin API tells of the attempt once it was made."""
    before = config_of(served)["loaded"]
    served.process.send_signal(signal.SIGHUP)
    until = time.monotonic() + PATIENCE
    while (now := config_of(served)["loaded"]) == before:
        assert time.monotonic() < until, "the signal was not heard"
    return now  # type: ignore[no-any-return]


@contextlib.contextmanager
def with_file(path: Path, *arguments: str) -> Iterator[tuple[Served, str]]:
    with engine() as url:
        write(path, url)
        with serving(str(path), "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", *arguments) as served:
            yield served, url


def write(path: Path, url: str, more: str = "") -> None:
    path.write_text(f"backends: ['{url}']\n{more}", encoding="utf-8")


def reload(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["reload", *arguments])


def test_a_hangup_reloads_and_the_command_line_still_has_the_last_word(tmp_path: Path) -> None:
    path = tmp_path / "fairlead.yaml"
    with with_file(path, "--policy", "random") as (served, url):
        write(path, url, "policy: latency\ntimeouts: {connect: 7s}\nlisten: 127.0.0.1:1\n")
        loaded = hang_up(served)
        assert (loaded["version"], loaded["file"], loaded["last_error"]) == (2, str(path), None)
        config = config_of(served)
        assert (config["policy"]["name"], config["timeouts"]["connect"]) == ("random", 7.0)
        assert chat(served.listening[0]) == 200, "it listens where the command line says"
        served.process.send_signal(signal.SIGTERM)
        assert served.process.wait(PATIENCE) == 0
        assert "reload: version 2 is in force" in served.end()[1]


def test_a_hangup_with_a_bad_file_is_told_and_the_old_configuration_serves(tmp_path: Path) -> None:
    path = tmp_path / "fairlead.yaml"
    with with_file(path) as (served, url):
        write(path, url, "polcy: latency\n")
        loaded = hang_up(served)
        assert loaded["version"] == 1
        assert loaded["last_error"]["problems"][0]["path"] == "polcy"
        assert chat(served.listening[0]) == 200
        errors = served.end()[1]
        assert "reload refused, version 1 stays in force" in errors
        assert "line 2: polcy: unknown key 'polcy' (did you mean 'policy'?)" in errors


def test_a_hangup_without_a_file_says_so_and_ends_nothing() -> None:
    with engine() as url, serving(url, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0") as served:
        loaded = hang_up(served)
        assert "the engines were given on the command line" in loaded["last_error"]["message"]
        assert chat(served.listening[0]) == 200
        result = reload("--admin", served.admin)
        assert (result.exit_code, "on the command line" in result.output) == (1, True)
        assert "reload refused" in served.end()[1]


def test_the_command_tells_what_has_changed_or_every_problem_with_exit_code_1(tmp_path: Path) -> None:
    path = tmp_path / "fairlead.yaml"
    with with_file(path) as (served, url), engine() as other:
        path.write_text(f"backends: ['{url}', '{other}']\npolicy: latency\nadmin: 127.0.0.1:1\n", encoding="utf-8")
        result = reload("--admin", served.admin)
        assert result.exit_code == 0
        assert result.output.splitlines() == [
            "version 2 is in force", f"  added: {other.removeprefix('http://')}", "  options: policy",
        ]  # fmt: skip
        write(path, url, "policy: best\ntimeouts: {connect: soon}\n")
        result = reload("--admin", served.admin.removeprefix("http://"))
        assert result.exit_code == 1
        assert "line 2: policy: expected one of" in result.output
        assert "line 3: timeouts.connect: expected" in result.output
        assert result.output.splitlines()[-1] == "not reloaded: the file has 2 problems: nothing was changed"


def test_the_command_says_when_there_is_nobody_to_ask() -> None:
    result = reload("--admin", "http://127.0.0.1:1")
    assert result.exit_code == 1
    assert result.output.startswith("no Fairlead answers at http://127.0.0.1:1: ")
    assert reload("--admin", "http://[").exit_code == 2, "that is no address at all"
