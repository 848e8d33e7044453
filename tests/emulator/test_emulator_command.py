"""`fairlead emulate`: what it says, how it ends, what it refuses."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import urllib.request

import pytest
from click.testing import CliRunner

from fairlead.cli.emulate import emulate

START = "from fairlead.cli.emulate import emulate; emulate()"


def test_it_starts_says_where_serves_and_stops_cleanly() -> None:
    arguments = [
        "--listen",
        "127.0.0.1:0",
        "--count",
        "3",
        "--profile",
        "h100-8b",
        "--profile",
        "l4-8b",
        "--model",
        "m",
    ]
    process = subprocess.Popen(
        [sys.executable, "-c", START, *arguments, "--slow", "2"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        lines = [process.stdout.readline().split() for _ in range(4)]
        assert [line[1] for line in lines[:3]] == ["h100-8b", "l4-8b", "h100-8b"]
        assert lines[3] == ["3", "engines", "ready"]
        for line in lines[:3]:
            with urllib.request.urlopen(f"{line[0]}/v1/models", timeout=10) as answer:
                assert json.load(answer)["data"][0]["id"] == "m"
            with urllib.request.urlopen(f"{line[0]}/emulator/faults", timeout=10) as answer:
                assert json.load(answer)["slow"] == 2
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    finally:
        process.kill()
        process.communicate()


def test_a_port_in_use_is_one_sentence_and_code_1() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = subprocess.run(
            [sys.executable, "-c", START, "--listen", f"127.0.0.1:{port}"], capture_output=True, text=True, timeout=30
        )
    assert done.returncode == 1
    assert done.stderr == f"Error: 127.0.0.1:{port} is already in use; choose another --listen\n"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--listen", "here"], "expected HOST:PORT, got 'here'"),
        (["--profile", "h100-9b"], "did you mean 'h100-8b'?"),
        (["--slow", "0"], "slow: expected a factor above 0"),
        (["--speed", "0"], "must be above 0"),
        (["--status", "200"], "status: expected 400 to 599"),
        (["--listen", "127.0.0.1:65535", "--count", "2"], "go past 65535"),
    ],
)
def test_wrong_options_are_explained(arguments: list[str], sentence: str) -> None:
    done = CliRunner().invoke(emulate, arguments)
    assert done.exit_code == 2
    assert sentence in done.output
