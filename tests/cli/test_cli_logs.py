"""SIGUSR1 on real processes: the files of the logs begin again, as logrotate wants it, and requests go on."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cli_process import Served, chat, engine, serving

PATIENCE = 20.0


def until(state: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not state():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def requests(path: Path) -> int:
    """How many requests the lines of a file tell of."""
    return len([line for line in path.read_text("utf-8").splitlines() if "fairlead_recording" not in json.loads(line)])


def rotated(served: Served, files: list[Path]) -> None:
    for file in files:
        os.rename(file, f"{file}.old")
    served.process.send_signal(signal.SIGUSR1)
    until(lambda: all(file.exists() for file in files), "the signal was not heard")


def test_the_signal_begins_all_files_again_and_costs_no_request(tmp_path: Path) -> None:
    log, trace, decisions = (tmp_path / name for name in ("access.log", "trace.jsonl", "decisions.jsonl"))
    files = [log, trace, decisions]
    config = tmp_path / "fairlead.yaml"
    with engine() as url:
        config.write_text(
            f"backends: ['{url}']\nlisten: 127.0.0.1:0\nadmin: 127.0.0.1:0\n"
            f"access_log: {{path: {log}, format: json}}\nrecording: {trace}\ndecisions: {decisions}\n",
            encoding="utf-8",
        )
        with serving(str(config)) as served:
            assert chat(served.listening[0]) == 200
            until(lambda: [requests(file) for file in files] == [1, 1, 1], "the first is written")
            rotated(served, files)
            assert [chat(served.listening[0]) for _ in range(2)] == [200, 200]
            served.process.send_signal(signal.SIGTERM)
            assert served.process.wait(PATIENCE) == 0
    assert [requests(file) for file in files] == [2, 2, 2]
    assert [requests(Path(f"{file}.old")) for file in files] == [1, 1, 1]


@pytest.mark.parametrize("to_all", [False, True], ids=["to the first process", "to each of them, as systemd does"])
def test_workers_hear_of_it_from_the_first_process(tmp_path: Path, to_all: bool) -> None:
    log = tmp_path / "access.log"
    with engine() as url:
        arguments = [url, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--workers", "2"]
        with serving(*arguments, "--access-log", str(log), "--log-format", "json") as served:
            assert chat(served.listening[0]) == 200
            until(lambda: log.exists() and requests(log) == 1, "the first is written")
            os.rename(log, tmp_path / "old")
            if to_all:
                children = Path(f"/proc/{served.process.pid}/task/{served.process.pid}/children").read_text().split()
                for pid in children:
                    os.kill(int(pid), signal.SIGUSR1)
                assert len(children) == 2
            served.process.send_signal(signal.SIGUSR1)
            until(log.exists, "the signal was not heard")
            assert [chat(served.listening[0]) for _ in range(4)] == [200] * 4
            until(lambda: requests(log) + requests(tmp_path / "old") == 5, "no worker died, no line is lost")
            served.process.send_signal(signal.SIGTERM)
            assert served.process.wait(PATIENCE) == 0
            assert "killed" not in served.end()[1]
