"""The log of decisions: whole lines, no text of prompts, bounded, and nobody waits for its disk."""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from control_app import engines, running
from control_records import finish, make_balancer, place, record

from fairlead.config.load import parse
from fairlead.control.decision_log import MAX_WAITING, MOST_CANDIDATES, DecisionLog, DecisionLogError, line_of
from fairlead.control.recorder import Recorder
from fairlead.workers.supervisor import own_config


class Logged:
    """A log of decisions with a fleet and a recorder before it; the clock stands at 5."""

    def __init__(self, path: Path, *ids: str, **options: Any) -> None:
        self.path, self.balancer = path, make_balancer(*(ids or ("a", "b")))
        self.log = DecisionLog(str(path), clock=lambda: 5.0, **options)
        self.recorder = Recorder(self.balancer, self.log.take)

    def request(self, **ended: Any) -> None:
        finish(self.recorder, place(self.balancer, model="m"), 11.0, **ended)

    def lines(self) -> list[dict[str, Any]]:
        self.log.close()
        return [json.loads(line) for line in self.path.read_text("utf-8").splitlines()]


def test_a_line_tells_what_explain_tells(tmp_path: Path) -> None:
    logged = Logged(tmp_path / "d.jsonl")
    logged.balancer.set_enabled("b", False)
    logged.request(tried=["b"])
    finish(logged.recorder, None, 11.0, "refused", status=404, error="model_not_found")
    one, two = logged.lines()
    assert one["request"]["backend"] == "a"
    assert one["decision"]["candidates"][0]["terms"] == {"credit": 1.0, "weight": 1.0}
    assert one["decision"]["not_considered"][0]["backend"] == "b"
    assert [row["result"] for row in one["after"]["attempts"]] == ["failed", "ok"]
    assert (two["decision"], two["after"], two["request"]["error"]) == (None, None, "model_not_found")
    assert (logged.log.written, logged.log.dropped) == (2, 0)


def test_sentences_are_left_out_and_large_fleets_are_cut(tmp_path: Path) -> None:
    logged = Logged(tmp_path / "d.jsonl", *(f"b{i}" for i in range(40)))
    logged.request()
    (line,) = logged.lines()
    assert len(line["decision"]["candidates"]) == MOST_CANDIDATES
    assert line["decision"]["candidates"][0]["chosen"] is True
    assert "words" not in json.dumps(line)


def test_a_line_can_be_made_in_a_thread_while_the_fleet_changes() -> None:
    """It reads only what the lease kept: the fleet of now is the loop's."""
    balancer = make_balancer("a", "b")
    taken = record(lease=place(balancer, model="m"))
    balancer.backends = None  # type: ignore[assignment]
    assert json.loads(line_of(taken, 1.0))["decision"]["backend"] == "a"


def test_files_are_bounded(tmp_path: Path) -> None:
    logged = Logged(tmp_path / "d.jsonl", max_bytes=4_000, keep=3)
    for _ in range(40):
        logged.request()
    logged.log.close()
    names = sorted(file.name for file in tmp_path.iterdir())
    assert names == ["d.jsonl", "d.jsonl.1", "d.jsonl.2"]
    for file in tmp_path.iterdir():
        assert file.stat().st_size <= 4_000
        assert file.stat().st_mode & 0o077 == 0
        assert all(json.loads(line) for line in file.read_text("utf-8").splitlines())


def test_a_full_queue_drops_and_counts_and_the_loop_does_not_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go, writes = threading.Event(), threading.Event()
    write = os.write

    def stalls(file: int, data: Any) -> int:
        writes.set()
        go.wait()
        return write(file, data)

    logged = Logged(tmp_path / "d.jsonl")
    monkeypatch.setattr(os, "write", stalls)
    try:
        logged.request()
        assert writes.wait(10)  # the thread hangs in its disk
        for _ in range(MAX_WAITING + 5):
            logged.request()
        assert logged.log.dropped == 5
    finally:
        go.set()
    logged.log.close()
    assert (logged.log.written, logged.log.dropped) == (MAX_WAITING + 1, 5)
    logged.request()  # one that ends after the end
    assert logged.log.dropped == 6


def test_a_disk_that_fails_ends_the_log_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(file: int, data: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    logged = Logged(tmp_path / "d.jsonl")
    with caplog.at_level(logging.WARNING, "fairlead"), monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        logged.request()
        logged.log._thread.join(10)
    assert logged.log.problem == "No space left on device"
    assert "log of decisions stopped: No space left on device" in caplog.text
    logged.request()
    assert (logged.log.written, logged.log.dropped) == (0, 2)
    logged.log.close()


@pytest.mark.parametrize("what", ["a folder", "a link", "a pipe"])
def test_only_a_regular_file_is_written_to(tmp_path: Path, what: str) -> None:
    path = tmp_path / "d.jsonl"
    if what == "a folder":
        path.mkdir()
    elif what == "a link":
        path.symlink_to(tmp_path / "other")
    else:
        os.mkfifo(path)
    with pytest.raises(DecisionLogError, match="cannot be written"):
        DecisionLog(str(path), clock=lambda: 0.0)


def test_by_the_config_file_every_request_is_a_line_without_its_prompt(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"

    async def body() -> None:
        async with engines(2) as (one, two), running(one.url, two.url, decisions=str(path)) as fairlead:
            for place in range(3):
                await fairlead.chat("m", f"a secret of mine {place}", x_session_id="anna-7")
            page = (await fairlead.get("/metrics"))[1].decode()
            assert "fairlead_decision_log_dropped_total 0.0" in page

    asyncio.run(body())
    text = path.read_text("utf-8")
    assert len(text.splitlines()) == 3
    assert "secret" not in text
    assert "anna" not in text


def test_no_two_workers_write_to_one_log() -> None:
    config, problems = parse({"backends": "a:1", "decisions": "d.jsonl"}, "test")
    assert config is not None, problems
    own = [own_config(config, index).decisions for index in range(2)]
    assert [each.path for each in own if each is not None] == ["d.jsonl.worker1", "d.jsonl.worker2"]


def test_without_the_option_there_is_no_log() -> None:
    async def body() -> None:
        async with running("http://127.0.0.1:1") as fairlead:
            assert fairlead.app.decisions is None
            assert b"decision_log" not in (await fairlead.get("/metrics"))[1]

    asyncio.run(body())
