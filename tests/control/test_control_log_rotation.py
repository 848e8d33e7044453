"""Log files that are moved away begin again when somebody asks for it; no line is lost or cut, and nobody waits."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import os
import sys
import termios
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from control_records import finish, make_balancer, place, record

from fairlead.control import access_log, decision_log, log_file, recording
from fairlead.control.access_log import AccessLog
from fairlead.control.decision_log import DecisionLog
from fairlead.control.log_formats import json_line
from fairlead.control.recorder import Recorder
from fairlead.control.recording import Recording


def until(state: Callable[[], object], what: str = "") -> None:
    """Wait for a thread of a log."""
    deadline = time.monotonic() + 10.0
    while not state():
        assert time.monotonic() < deadline, what
        time.sleep(0.002)


def ids(path: Path) -> list[str]:
    """Requests in an access log, whole lines only."""
    text = path.read_text("utf-8") if path.exists() else ""
    assert text.endswith("\n") or not text
    return [json.loads(line)["id"] for line in text.splitlines()]


def waiting_in(pipe: int) -> int:
    """Bytes that nobody has read."""
    return int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, b"\0" * 4), sys.byteorder)


def logging_to(path: Path) -> AccessLog:
    return AccessLog(str(path), json_line, lambda: 0.0)


def write(log: AccessLog, *names: str) -> None:
    for name in names:
        log(record(request_id=name))
        log.flush()


# --- the access log -------------------------------------------------------------------------------------------


def test_a_file_that_was_moved_away_begins_again(tmp_path: Path) -> None:
    path, old = tmp_path / "access.log", tmp_path / "access.log.1"
    log = logging_to(path)
    write(log, "a", "b")
    until(lambda: ids(path) == ["a", "b"])
    os.rename(path, old)
    write(log, "c")
    until(lambda: ids(old) == ["a", "b", "c"], "before the signal it goes on where it was")
    log.reopen()
    until(path.exists, "it is there before the next request")
    write(log, "d")
    log.close()
    assert (ids(old), ids(path)) == (["a", "b", "c"], ["d"])
    assert log.dropped == 0
    assert path.stat().st_mode & 0o777 & ~0o640 == 0


def test_no_line_is_lost_or_told_twice_while_it_is_rotated_again_and_again(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    log = logging_to(path)
    for number in range(300):
        log(record(request_id=f"r{number}"))
        if number % 7 == 0:
            log.flush()
        if number % 30 == 29:
            os.rename(path, tmp_path / f"old{number:03}")
            log.reopen()
            until(path.exists)
    log.close()
    found = [name for file in sorted(tmp_path.glob("old*")) for name in ids(file)] + ids(path)
    assert found == [f"r{number}" for number in range(300)]
    assert log.dropped == 0


def test_the_old_descriptor_is_let_go_of(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    log = logging_to(path)
    os.rename(path, tmp_path / "old")
    log.reopen()
    until(path.exists)

    def held() -> list[str]:
        links = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
        return [target for link in links if os.path.lexists(link) and (target := os.readlink(link)).endswith("/old")]

    until(lambda: not held())
    log.close()


def test_a_file_that_cannot_be_opened_again_goes_on_under_its_old_name(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    log = logging_to(folder / "access.log")
    write(log, "a")
    moved = tmp_path / "moved"
    folder.rename(moved)
    log.reopen()
    write(log, "b")
    log.close()
    assert ids(moved / "access.log") == ["a", "b"]
    assert log.dropped == 0
    assert "the old file goes on: No such file or directory" in caplog.text


def test_standard_output_is_what_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    log = AccessLog("-", json_line, lambda: 0.0)
    log.reopen()
    write(log, "a")
    log.close()
    assert json.loads(capsys.readouterr().out)["id"] == "a"


def test_a_full_disk_costs_lines_until_there_is_room_again(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    path.symlink_to("/dev/full")
    log = logging_to(path)
    write(log, "a", "b")
    until(lambda: log.dropped == 2)
    path.unlink()
    log.reopen()
    until(path.exists)
    write(log, "c")
    log.close()
    assert (ids(path), log.dropped) == (["c"], 2)


def test_half_a_line_of_a_disk_that_ran_full_is_ended_before_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "access.log"
    real, room = os.write, [40]

    def little(file: int, data: Any) -> int:
        if not room[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        count = real(file, data[: room[0]])
        room[0] -= count
        return count

    log = logging_to(path)
    monkeypatch.setattr(os, "write", little)
    write(log, "a")
    until(lambda: log.dropped == 1)
    room[0] = 1_000_000
    write(log, "b")
    log.close()
    monkeypatch.undo()
    half, whole = path.read_text("utf-8").splitlines()
    assert len(half) == 40
    assert json.loads(whole)["id"] == "b"


def test_a_pipe_whose_reader_stalls_is_left_for_another_when_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access_log, "MAX_BATCHES", 4)
    monkeypatch.setattr(log_file, "LOOK_SECONDS", 0.01)
    path = tmp_path / "pipe"
    os.mkfifo(path)
    stalled = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    fcntl.fcntl(stalled, fcntl.F_SETPIPE_SZ, 4096)
    log = logging_to(path)
    long = "x" * 2000
    write(log, long)
    until(lambda: waiting_in(stalled))
    sent = 1
    while log.dropped < 5:  # the pipe has no room for a second, then the queue is full
        write(log, long)
        sent += 1
    until(lambda: sent - log.dropped - log._queue.qsize() == 2, "the thread has one that it cannot write")
    os.rename(path, tmp_path / "old")
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    log.reopen()
    received = bytearray()
    closing = threading.Thread(target=log.close)
    closing.start()

    def drained() -> bool:
        ended = not closing.is_alive()
        with contextlib.suppress(BlockingIOError):
            while data := os.read(reader, 65_536):
                received.extend(data)
        return ended

    until(drained)
    closing.join()
    os.close(reader)
    os.close(stalled)
    lines = received.decode().splitlines()
    assert lines, "what waited went to the new one"
    assert all(json.loads(line)["status"] == 200 for line in lines)


def test_asking_never_waits_even_when_the_queue_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access_log, "MAX_BATCHES", 1)
    path = tmp_path / "pipe"
    os.mkfifo(path)
    stalled = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    fcntl.fcntl(stalled, fcntl.F_SETPIPE_SZ, 4096)
    log = logging_to(path)
    while log.dropped < 2:
        write(log, "x" * 3000)
    for _ in range(1_000):
        log.reopen()  # comes back: else this test ends by its limit of time
    os.close(stalled)
    log.close()


# --- recording and decisions ----------------------------------------------------------------------------------


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.exists() else []


def test_a_recording_that_was_moved_away_begins_again_with_a_header(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording, "PERIOD_SECONDS", 0.01)
    path, old = tmp_path / "trace.jsonl", tmp_path / "old.jsonl"
    balancer = make_balancer("a")
    taken = Recording(str(path), balancer=balancer, policy="random", clock=lambda: 5.0)
    recorder = Recorder(balancer, taken.take)
    try:
        taken.reopen()  # nothing was moved: nothing changes
        finish(recorder, place(balancer, model="m"), 12.0, "ok")
        until(lambda: len(lines_of(path)) == 2)
        taken.reopen()
        until(lambda: not taken._files._asked)
        finish(recorder, place(balancer, model="m"), 12.5, "ok")
        until(lambda: len(lines_of(path)) == 3)
        os.rename(path, old)
        taken.reopen()
        until(path.exists, "it is there before the next request")
        finish(recorder, place(balancer, model="m"), 13.0, "ok")
    finally:
        taken.close()
    for each, count in ((old, 2), (path, 1)):
        header, *lines = lines_of(each)
        assert "fairlead_recording" in header and [line["status"] for line in lines] == [200] * count
    assert (taken.written, taken.dropped) == (3, 0)
    assert path.stat().st_mode & 0o777 == 0o600
    assert not (tmp_path / "trace.jsonl.1").exists()


def test_decisions_that_were_moved_away_begin_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decision_log, "PERIOD_SECONDS", 0.01)
    path, old = tmp_path / "decisions.jsonl", tmp_path / "old.jsonl"
    balancer = make_balancer("a")
    log = DecisionLog(str(path), clock=lambda: 5.0)
    recorder = Recorder(balancer, log.take)
    try:
        finish(recorder, place(balancer, model="m"), 12.0, "ok")
        until(lambda: len(lines_of(path)) == 1)
        os.rename(path, old)
        log.reopen()
        until(path.exists)
        finish(recorder, place(balancer, model="m"), 13.0, "ok")
    finally:
        log.close()
    assert (len(lines_of(old)), len(lines_of(path))) == (1, 1)
    assert log.dropped == 0


def test_a_recording_that_cannot_begin_again_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(recording, "PERIOD_SECONDS", 0.01)
    caplog.set_level(logging.INFO)
    path, old = tmp_path / "trace.jsonl", tmp_path / "old.jsonl"
    balancer = make_balancer("a")
    taken = Recording(str(path), balancer=balancer, policy="random", clock=lambda: 5.0)
    recorder = Recorder(balancer, taken.take)
    os.rename(path, old)
    path.symlink_to("/nowhere/at/all")
    taken.reopen()
    until(lambda: "cannot be opened again" in caplog.text)
    finish(recorder, place(balancer, model="m"), 12.0, "ok")
    taken.close()
    assert len(lines_of(old)) == 2
    assert "it is a symbolic link" in caplog.text and not taken.problem
