"""`fairlead init`: what it finds, what it writes, and what it never overwrites."""

from __future__ import annotations

import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result
from doctor_peers import in_thread, scripted

from fairlead.cli.check import check
from fairlead.cli.init import init
from fairlead.config.load import read_file
from fairlead.doctor.facts import Model
from fairlead.doctor.places import ENGINE, LOCKED, Found, Place
from fairlead.doctor.write import config_text
from fairlead.emulator.fleet import EmulatedFleet
from fairlead.engines.registry import DIALECTS


def run(*arguments: str) -> Result:
    return CliRunner().invoke(init, list(arguments))


def host_of(url: str) -> str:
    return url.removeprefix("http://")


@contextmanager
def closed_port() -> Iterator[int]:
    """A port of ours on which nobody listens."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


def test_found_engines_go_into_a_file_that_can_be_used(tmp_path: Path) -> None:
    file = tmp_path / "fairlead.yaml"
    with in_thread(EmulatedFleet(["h100-8b", "l4-8b"], model="m", speed=50)) as fleet, closed_port() as nobody:
        result = run(*map(host_of, fleet.urls), f"127.0.0.1:{nobody}", "-o", str(file))
        urls = list(fleet.urls)
    assert result.exit_code == 0, result.output
    config, problems = read_file(file)
    assert problems == []
    assert config is not None
    assert [backend.url for backend in config.backends] == urls
    checked = CliRunner().invoke(check, [str(file)])
    assert (checked.exit_code, "no problems" in checked.output) == (0, True)
    for word in ("check", "doctor", "serve"):
        assert f"fairlead {word} {file}" in result.stderr
    assert f"127.0.0.1: {host_of(urls[0]).partition(':')[2]}: vLLM 0.32.0+emulated: m, 131072 tokens" in result.stderr
    assert not stat.S_IMODE(file.stat().st_mode) & 0o111


def test_the_file_may_go_to_standard_output_alone() -> None:
    with in_thread(scripted()) as (script, url):
        result = run(host_of(url), "-o", "-")
        assert {method for method, _ in script.asked} == {"GET"}
    assert result.exit_code == 0
    assert [row["url"] for row in yaml.safe_load(result.stdout)["backends"]] == [url]
    assert "asking 1 port of this machine" in result.stderr


def test_a_file_that_is_there_stays_unless_told_otherwise(tmp_path: Path) -> None:
    file = tmp_path / "fairlead.yaml"
    file.write_text("mine")
    with in_thread(scripted()) as (script, url):
        result = run(host_of(url), "-o", str(file))
        assert (result.exit_code, file.read_text(), script.asked) == (2, "mine", [])  # said before anybody is asked
        assert "--force" in result.output
        assert run(host_of(url), "-o", str(file), "--force").exit_code == 0
    assert url in file.read_text()
    assert list(tmp_path.iterdir()) == [file]


def test_no_engine_means_no_file_and_status_1(tmp_path: Path) -> None:
    file = tmp_path / "f.yaml"
    with closed_port() as port:
        result = run(f"127.0.0.1:{port}", "-o", str(file))
    assert (result.exit_code, file.exists()) == (1, False)
    assert "127.0.0.1: nothing on 1 port" in result.stderr
    assert "fairlead emulate" in result.stderr


@pytest.mark.parametrize(
    ("faults", "words", "is_written"),
    [
        ({"server": "fairlead"}, "a Fairlead, left out", False),
        ({"pages": dict.fromkeys(("/v1/models", "/metrics", "/version"), "<html>")}, "no engine that is known", False),
        ({"key": "sesame", "metrics_on": False, "pages": {"/version": 404}}, "does not say what it is", False),
        ({"key": "sesame"}, "asks for a key", True),
        ({"metrics_on": False}, "vLLM 0.32.0: m", True),
    ],
)
def test_what_answers_is_told_apart(faults: dict[str, Any], words: str, is_written: bool) -> None:
    with in_thread(scripted(**faults)) as (_, url):
        result = run(host_of(url), "-o", "-")
    assert words in result.stderr
    assert (result.exit_code == 0) == is_written
    assert (url in result.stdout) == is_written
    assert "sesame" not in result.output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["10.0.0.0/8"], "/24 or smaller"),
        (["--ports", "x"], "such as 8000-8010"),
        (["gpu1", "-o", "."], "is a directory"),
        (["gpu1", "-o", "no-such-folder/f.yaml"], "create it"),
    ],
)
def test_what_is_wrong_is_said_before_anybody_is_asked(arguments: list[str], words: str) -> None:
    result = run(*arguments)
    assert (result.exit_code, words in result.output) == (2, True)
    assert "asking" not in result.output


def found(port: int, what: str = ENGINE, host: str = "gpu1", **about: Any) -> Found:
    about = {"engine": "vllm", "title": "vLLM", "models": (Model("m"),), **about}
    return Found(Place(host, port), what, **about)


@pytest.mark.parametrize("name", DIALECTS)
@pytest.mark.parametrize("what", [ENGINE, LOCKED])
def test_every_kind_of_engine_makes_a_file_without_a_problem(name: str, what: str, tmp_path: Path) -> None:
    file = tmp_path / "f.yaml"
    rows = [found(8080, what, engine=name, title=DIALECTS[name].title), found(8090, host="fd00::1")]
    file.write_text(config_text(rows, str(file)), encoding="utf-8")
    config, problems = read_file(file)
    assert problems == []
    assert config is not None
    assert [backend.url for backend in config.backends] == ["http://gpu1:8080", "http://[fd00::1]:8090"]
    assert config.listen[0].address.port == 8888  # the usual ones are taken


@pytest.mark.parametrize(
    "nasty", ["m\nlisten: 0.0.0.0:1", "m\u2028admin: x", "m # {x}", "m\x1b[2J", "x" * 5000, "{file}"]
)
def test_a_model_name_cannot_get_out_of_its_comment(nasty: str, tmp_path: Path) -> None:
    file = tmp_path / "f.yaml"
    text = config_text([found(8000, models=(Model(nasty),), version=nasty)])
    file.write_text(text, encoding="utf-8")
    plain = yaml.safe_load(text)
    assert (plain["listen"], plain["admin"], len(plain["backends"])) == ("127.0.0.1:8080", "127.0.0.1:9900", 1)
    assert read_file(file)[1] == []
    assert max(map(len, text.splitlines())) < 300


@pytest.mark.parametrize("word", ["weight:", "max_connections:", "keepalive:", "health:", "fall:"])
def test_the_file_teaches(word: str) -> None:
    text = config_text([found(8000)])
    at = text.index(word)
    assert "#" in text[max(0, at - 400) : at + 40]


def test_a_keys_place_is_shown_only_where_an_engine_asks_for_one() -> None:
    assert "Authorization" not in config_text([found(8000)])
    assert "Bearer KEY" in config_text([found(8000, LOCKED)])
