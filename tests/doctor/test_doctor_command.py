"""`fairlead doctor`: what it prints, how it exits, and what it keeps to itself."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from click.testing import CliRunner, Result
from doctor_peers import in_thread, scripted

from fairlead.cli import doctor as doctor_module
from fairlead.cli.doctor import doctor
from fairlead.doctor.look import Look
from fairlead.emulator.fleet import EmulatedFleet

SECRET = "sesame-4711"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Idle connections are watched for half a second, not for the pool's four."""

    def look(**options: Any) -> Look:
        return Look(**{**options, "keepalive_most": 0.0})

    monkeypatch.setattr(doctor_module, "Look", look)


@contextmanager
def serving(**faults: Any) -> Iterator[str]:
    """A scripted engine on a loop of its own: the command has one too. Its URL."""
    with in_thread(scripted(**faults)) as made:
        yield made[1]


def run(*arguments: str) -> Result:
    return CliRunner().invoke(doctor, list(arguments))


def codes(result: Result) -> list[str]:
    return [row["code"] for row in json.loads(result.stdout)["findings"]]


def test_a_warning_is_told_with_its_reason_and_its_flag_and_is_status_1() -> None:
    with serving(has_details=False) as url:
        result = run(url)
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    name = urlsplit(url).netloc
    assert lines[0] == f"{name}  vLLM 0.32.0; m"
    assert f"warning: usage-details-off: {name}" in lines
    assert "  seen  its usage has no prompt_tokens_details.cached_tokens" in lines
    assert "  mend  start it with --enable-prompt-tokens-details" in lines
    assert lines[-1] == "1 engine looked at: 1 warning, 1 note"
    assert f"[1/1] {name}: vLLM 0.32.0; m" in result.stderr


def test_notes_alone_are_status_0_and_errors_status_2() -> None:
    with serving() as url:
        good = run(url)
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))  # nobody listens there
            bad = run(url, f"http://127.0.0.1:{closed.getsockname()[1]}")
    assert (good.exit_code, bad.exit_code) == (0, 2)
    assert "connection refused" in bad.stdout


def test_json_is_the_only_thing_on_standard_output() -> None:
    with serving(is_caching=False, caching_label="False") as url:
        result = run("--json", url)
    told = json.loads(result.stdout)
    assert (told["status"], told["counts"]) == (1, {"error": 0, "warning": 1, "note": 1})
    finding = told["findings"][0]
    assert finding["code"] == "prefix-caching-off"
    assert set(finding) == {"code", "severity", "engines", "seen", "why", "mend"}
    (engine,) = told["engines"]
    assert (engine["engine"], engine["prefix_caching"], engine["queue_limit"]) == ("vllm", False, None)
    assert engine["generation"]["cached_tokens"] == 0


def test_no_prompt_is_sent_when_told_so() -> None:
    with in_thread(scripted()) as (script, url):
        assert json.loads(run("--json", "--no-generate", url).stdout)["engines"][0]["generation"] is None
        assert script.prompts == []


def test_a_key_opens_the_engine_and_is_never_shown() -> None:
    with serving(key=SECRET) as url:
        closed = run("--json", url)
        open_ = run("--json", "--header", f"Authorization: Bearer {SECRET}", url)
    assert (codes(closed), codes(open_)) == (["key-refused"], ["unknown"])
    assert SECRET not in closed.output + open_.output
    broken = run("--header", SECRET, url)
    assert (broken.exit_code, SECRET in broken.output) == (2, False)


def test_a_config_file_gives_engines_keys_limits_and_the_pools_time(tmp_path: Path) -> None:
    with serving(key=SECRET, keep_alive="timeout=5", dev=True, queue_limit=None) as url:
        text = f"keepalive: {{timeout: 6s}}\nbackends:\n- {{url: '{url}', name: one, "
        text += f"headers: ['Authorization: Bearer {SECRET}'], max_connections: 8}}\n"
        file = tmp_path / "f.yaml"
        file.write_text(text)
        result = run("--json", str(file))
    assert codes(result) == ["keepalive-short", "dev-pages-local"]
    assert json.loads(result.stdout)["engines"][0]["name"] == "one"
    assert SECRET not in result.output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "Missing argument"),
        (["ftp://a"], "expected http:// or https://"),
        (["no-such.yaml"], "is not there"),
        (["http://a:1", "f.yaml"], "either engine URLs or one config file"),
        (["--timeout", "0", "http://a:1"], "0.1"),
    ],
)
def test_wrong_targets_are_status_2_without_a_look(arguments: list[str], words: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert words.lower() in result.output.lower()


def test_emulated_engines_have_only_what_is_true_of_them() -> None:
    fleet = EmulatedFleet(["h100-8b", "h100-8b"], model="m", speed=50)
    with in_thread(fleet) as made:
        result = run("--json", *made.urls)
    assert codes(result) == ["dev-pages-local", "unknown"]
    assert result.exit_code == 0
    for engine in json.loads(result.stdout)["engines"]:
        assert engine["generation"]["cached_tokens"] > 0
    fleet = EmulatedFleet(["h100-8b", "l4-8b"], model="m", speed=50)
    with in_thread(fleet) as made:
        result = run("--json", *made.urls)
    assert codes(result) == ["context-differs", "dev-pages-local", "unknown"]
