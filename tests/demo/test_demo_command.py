"""`fairlead demo` as people run it: from start to end, interrupted, and with wrong options."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from fairlead.cli.demo import demo

COMMAND = [sys.executable, "-m", "fairlead", "demo"]
SHORT = ["--policy", "least_pending_tokens", "--rate", "8"]


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_it_runs_compares_and_leaves_nothing_behind() -> None:
    arguments = ["--seconds", "2", *SHORT, "--policy", "least_connections", "--json"]
    done = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["emulated"] is True and told["complete"] is True
    assert [row["policy"] for row in told["policies"]] == ["least_pending_tokens", "least_connections"]
    sent = {row["requests"] for row in told["policies"]}
    assert len(sent) == 1 and sent.pop() > 5  # the same requests for both
    for row in told["policies"]:
        assert row["errors"] == row["unfinished"] == 0
        assert row["finished"] == row["requests"]
        assert 0 < row["ttft_seconds"]["p50"] <= row["ttft_seconds"]["p99"] <= row["end_to_end_seconds"]["p99"]
        assert 0 <= row["prefix_hit_ratio"] < 1
        assert sum(row["share"].values()) == pytest.approx(1.0, abs=1e-5)
    # the same prompts, so the same tokens; what was cached may differ
    assert len({(row["prompt_tokens"], row["output_tokens"]) for row in told["policies"]}) == 1
    shown = done.stderr
    assert "\x1b" not in shown
    for part in ("emulated engines", "policy 2 of 2", "time to first token", "fairlead serve http://gpu1:8000"):
        assert part in shown
    assert "Traceback" not in shown and "WARNING" not in shown


def test_an_interrupt_prints_what_was_measured_and_ends_the_children() -> None:
    process = subprocess.Popen(
        [*COMMAND, "--seconds", "600", *SHORT], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if "answered" in line:  # the first progress line of a run under way
                break
        children = children_of(process.pid)
        assert len(children) == 2  # engines, balancer
        process.send_signal(signal.SIGINT)
        said, errors = process.communicate(timeout=60)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 130
    assert "Interrupted: this is what was measured so far." in said
    assert "time to first token" in said
    assert errors == ""
    assert not any(is_there(child) for child in children)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--policy", "least_conections"], "did you mean 'least_connections'?"),
        (["--policy", "?"], "known: expected_completion"),
        (["--seconds", "0"], "0.0 is not in the range"),
        (["--rate", "1000"], "is not in the range"),
    ],
)
def test_wrong_options_are_explained(arguments: list[str], sentence: str) -> None:
    done = CliRunner().invoke(demo, arguments)
    assert done.exit_code == 2
    assert sentence in done.output
