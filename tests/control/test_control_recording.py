"""The recording: lines as the readers expect them, no text in it, bounded, and nobody waits for its disk."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import random
import stat
import string
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from control_records import finish, make_balancer, place, record
from hypothesis import given, settings
from hypothesis import strategies as st
from xxhash import xxh3_64_intdigest

from fairlead import __version__
from fairlead.control import file_queue, recording, recording_files
from fairlead.control.recorder import Recorder
from fairlead.control.recording import Recording, RecordingError
from fairlead.core.balancer import Balancer
from fairlead.core.model import Facts, Kind, Usage
from fairlead.sim.readers.read import read_trace

STEP = 64  # bytes per block in these tests
ENDS = range(STEP, 1_000_000, STEP)
FIELDS = [
    "at", "model", "prompt_tokens", "prompt_bytes", "output_tokens", "max_tokens", "stream", "blocks", "ends",
    "backend", "ttft", "duration", "cached_tokens", "status", "outcome", "tries", "tenant", "session",
]  # fmt: skip
HEX = set(string.hexdigits.lower())


def prompt_facts(prompt: bytes, **more: Any) -> dict[str, Any]:
    """What the facts say about a prompt: its length and chained hashes of its blocks."""
    blocks, seed = [], 0
    for start in range(0, len(prompt), STEP):
        seed = xxh3_64_intdigest(prompt[start : start + STEP], seed)
        blocks.append(seed)
    return {"model": "m", "prompt_bytes": len(prompt), "blocks": tuple(blocks), "block_ends": ENDS, **more}


class Taken:
    """A recording with a fleet of one and a recorder before it; the clock stands at 5."""

    def __init__(self, path: Path, balancer: Balancer, **options: Any) -> None:
        self.path, self.balancer = path, balancer
        self.recording = Recording(str(path), balancer=balancer, policy="round_robin", clock=lambda: 5.0, **options)
        self.recorder = Recorder(balancer, self.recording.take)

    def request(
        self, prompt: bytes = b"", outcome: str = "ok", facts: dict[str, Any] | None = None, **ended: Any
    ) -> None:
        """One request with this prompt is over."""
        lease = place(self.balancer, **prompt_facts(prompt, **facts or {}))
        finish(self.recorder, lease, 12.0, outcome, **ended)
        self.balancer.finish(lease, outcome, 12.0)

    def lines(self) -> list[dict[str, Any]]:
        """Close it and read the newest file."""
        self.recording.close()
        return read(self.path)


@contextlib.contextmanager
def taking(path: Path, **options: Any) -> Iterator[Taken]:
    taken = Taken(path, make_balancer("gpu1"), **options)
    try:
        yield taken
    finally:
        taken.recording.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "trace.jsonl"


def read(path: Path) -> list[dict[str, Any]]:
    """The requests of a file, after a look at its header."""
    header, *lines = [json.loads(line) for line in path.read_bytes().splitlines()]
    assert list(header) == ["fairlead_recording", "started", "version", "salt", "policy"]
    return lines


def blocks_of(taken: Taken, *prompts: bytes) -> list[list[str]]:
    for prompt in prompts:
        taken.request(prompt)
    return [line["blocks"] for line in taken.lines()]


# --- what is in it --------------------------------------------------------------------------------------------


def test_a_request_is_one_line_as_the_readers_expect_it(path: Path) -> None:
    with taking(path) as taken:
        lease = place(taken.balancer, **prompt_facts(b"x" * 150, stream=True, max_tokens=64, session="s"))
        taken.balancer.first_token(lease, 10.25)
        lease.produced = 7
        finish(taken.recorder, lease, 12.0000004, first_byte_at=10.25, usage=Usage(40, 7, 32))
        (line,) = taken.lines()
    assert list(line) == FIELDS
    blocks, session = line.pop("blocks"), line.pop("session")
    assert line == {
        "at": 5.0, "model": "m", "prompt_tokens": 40, "prompt_bytes": 150, "output_tokens": 7, "max_tokens": 64,
        "stream": True, "ends": [64, 128, 150], "backend": "gpu1", "ttft": 0.25, "duration": 2.0, "cached_tokens": 32,
        "status": 200, "outcome": "ok", "tries": 1, "tenant": "",
    }  # fmt: skip
    assert len(blocks) == 3
    assert all(len(digest) == 16 and HEX.issuperset(digest) for digest in [*blocks, session])


def test_the_header_says_what_it_is_and_whose_salt_it_has(path: Path) -> None:
    with taking(path) as taken:
        taken.request()
        taken.lines()
    header = json.loads(path.read_bytes().splitlines()[0])
    assert (header["fairlead_recording"], header["version"], header["policy"]) == (1, __version__, "round_robin")
    assert isinstance(header["started"], float) and header["started"] > 1_600_000_000
    assert len(header["salt"]) == 8 and HEX.issuperset(header["salt"])
    assert bytes.fromhex(header["salt"]) not in Path(f"{path}.salt").read_bytes()


def test_a_switch_of_the_policy_begins_a_new_part_with_its_own_header(path: Path) -> None:
    with taking(path) as taken:
        taken.request()
        taken.recording.switched("latency")
        taken.request()
        taken.request()
        taken.recording.close()
        taken.recording.switched("random")  # too late, and no harm
    first, _, second, *rest = [json.loads(line) for line in path.read_bytes().splitlines()]
    assert (first["policy"], second["policy"], len(rest)) == ("round_robin", "latency", 2)
    assert first | {"policy": ""} == second | {"policy": ""}
    assert len(read_trace(str(path)).requests) == taken.recording.written == 3


def test_a_switch_before_the_first_request_and_one_before_a_new_file_leave_one_header_each(path: Path) -> None:
    with taking(path, max_bytes=900) as taken:
        taken.recording.switched("latency")
        taken.request()
        taken.request()
        taken.recording.switched("random")
        taken.request()
        taken.recording.close()
    policies = [
        [json.loads(line).get("policy", "-") for line in file.read_bytes().splitlines()]
        for file in (path.with_name("trace.jsonl.1"), path)
    ]
    assert policies == [["latency", "-", "-"], ["random", "-"]]


def test_where_the_engine_told_nothing_our_own_counts_stand(path: Path) -> None:
    with taking(path) as taken:
        lease = place(taken.balancer, **prompt_facts(b"x" * 400))
        lease.produced = 3
        finish(taken.recorder, lease, 12.0, "client_gone", status=499)
        (line,) = taken.lines()
    assert (line["prompt_tokens"], line["output_tokens"]) == (lease.prompt_tokens, 3)
    assert line["prompt_tokens"] > 0
    assert (line["cached_tokens"], line["ttft"], line["max_tokens"], line["session"]) == (None, None, None, "")
    assert (line["status"], line["outcome"]) == (499, "client_gone")


def test_the_first_byte_of_an_answer_in_one_piece_is_no_first_token(path: Path) -> None:
    with taking(path) as taken:
        taken.request(first_byte_at=11.9)
        taken.request(first_byte_at=11.0, facts={"stream": True})
        assert [line["ttft"] for line in taken.lines()] == [None, 1.0]


def test_blocks_end_with_the_prompt_and_token_ids_end_with_their_blocks(path: Path) -> None:
    with taking(path) as taken:
        taken.request(b"x" * 200, facts={"prompt_bytes": 100})  # a picture counts less than its bytes
        taken.request(b"x" * 200, facts={"prompt_bytes": 0, "prompt_ids": 60})
        picture, ids = taken.lines()
    assert (picture["prompt_bytes"], picture["ends"], len(picture["blocks"])) == (100, [64, 100], 2)
    assert (ids["prompt_bytes"], ids["ends"], ids["prompt_tokens"]) == (256, [64, 128, 192, 256], 60)


@settings(derandomize=True, deadline=None)
@given(size=st.integers(0, 600), counted=st.integers(0, 600))
def test_ends_rise_and_the_last_one_is_within_the_prompt(size: int, counted: int) -> None:
    with tempfile.TemporaryDirectory() as folder, taking(Path(folder) / "trace") as taken:
        taken.request(b"x" * size, facts={"prompt_bytes": counted})
        (line,) = taken.lines()
    ends = line["ends"]
    assert len(ends) == len(line["blocks"])
    assert ends == sorted(set(ends))
    assert not ends or 0 < ends[0] <= ends[-1] <= line["prompt_bytes"]
    if counted >= size:
        assert len(ends) == -(-size // STEP)
    assert line["prompt_bytes"] == (counted or -(-size // STEP) * STEP)


def test_the_simulator_reads_what_was_recorded(path: Path) -> None:
    with taking(path) as taken:
        taken.request(b"x" * 1_000, facts={"stream": True}, first_byte_at=10.5, usage=Usage(250, 8, 16))
        taken.request(b"x" * 500 + b"y" * 500, arrived=9.0, usage=Usage(250, 8))
        taken.lines()
    trace = read_trace(str(path))
    assert [(r.at, r.prompt, r.output, r.model) for r in trace.requests] == [(0.0, 250, 8, "m"), (1.0, 250, 8, "m")]
    later, earlier = (r.blocks for r in trace.requests)
    assert len(later) == len(earlier) == 250 // 16
    # 7 blocks of 64 bytes are the same, 112 tokens of them at 4 bytes each, 7 blocks of 16 tokens
    assert [a == b for a, b in zip(later, earlier, strict=True)] == [True] * 7 + [False] * 8
    assert [(m.ttft, m.cached, m.backend) for m in trace.measured] == [(None, None, "gpu1"), (0.5, 16, "gpu1")]


def test_files_of_several_runs_put_together_are_read_as_one(path: Path) -> None:
    for tries in (1, 2):
        with taking(path, max_bytes=2_000) as taken:
            for _ in range(4):
                taken.request(b"x" * 100, tries=tries)
    older = sorted(path.parent.glob("trace.jsonl.[0-9]"), reverse=True)
    assert older
    together = path.parent / "all"
    together.write_bytes(b"".join(file.read_bytes() for file in [*older, path]))
    trace = read_trace(str(together))
    assert len(trace.requests) == 8
    assert len({r.blocks for r in trace.requests}) == 1


def test_of_a_huge_prompt_the_first_blocks_are_kept(path: Path) -> None:
    with taking(path) as taken:
        taken.request(b"x" * STEP * 600)
        (line,) = taken.lines()
    assert len(line["blocks"]) == len(line["ends"]) == recording.MAX_BLOCKS == 512
    assert line["prompt_bytes"] == STEP * 600 and line["ends"][-1] == STEP * 512


def test_what_no_engine_worked_on_is_not_in_it(path: Path) -> None:
    with taking(path) as taken:
        finish(taken.recorder, None, 12.0, "refused", status=503)
        cheap = taken.balancer.assign(Facts(kind=Kind.CHEAP), 0.0)
        finish(taken.recorder, cheap, 12.0)  # type: ignore[arg-type]
        taken.recording.take(record())
        taken.request(outcome="failed", status=502, tries=3)
        (line,) = taken.lines()
        assert (line["status"], line["outcome"], line["tries"]) == (502, "failed", 3)
        assert (taken.recording.written, taken.recording.dropped) == (1, 0)


def test_only_models_that_engines_list_are_named(path: Path) -> None:
    with taking(path) as taken:
        lease = place(taken.balancer, model="m")
        for model in ("m", "what a client made up", None):
            taken.recording.take(record(lease=lease, model=model, arrived=6.0))
        assert [line["model"] for line in taken.lines()] == ["m", "other", None]


def test_times_count_from_the_start_of_the_recording(path: Path) -> None:
    with taking(path) as taken:
        lease = place(taken.balancer, model="m")
        for arrived in (5.0, 5.1234567, 3605.5, 4.9):
            taken.recording.take(record(lease=lease, arrived=arrived))
        assert [line["at"] for line in taken.lines()] == [0.0, 0.123457, 3600.5, 0.0]


# --- what is never in it --------------------------------------------------------------------------------------

SECRET = st.text(st.sampled_from('ABCDEFGHIJKLMNOPQRSTUVWXYZäЖ字😀\x00\n"\\'), min_size=6, max_size=200)


@settings(derandomize=True, max_examples=40, deadline=None)
@given(prompt=SECRET, session=SECRET, model=SECRET, key=SECRET, known=st.booleans())
def test_no_text_of_a_client_gets_into_it(prompt: str, session: str, model: str, key: str, known: bool) -> None:
    """Every word in the file is one of ours or a keyed hash; the plain hashes are not in it either."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace"
        with taking(path) as taken:
            facts = prompt_facts(prompt.encode(), session=session)
            lease = place(taken.balancer, **facts)
            lease.facts.model = "m" if known else model
            told: dict[str, Any] = {"path": key.encode(), "error": key, "tried": [key]}
            finish(taken.recorder, lease, 12.0, request_id=key.encode(), **told)
            (line,) = taken.lines()
        text = path.read_text(encoding="utf-8")
    hashes = [*line.pop("blocks"), line.pop("session")]
    assert all(len(digest) == 16 and HEX.issuperset(digest) for digest in hashes)
    words = {value for value in line.values() if isinstance(value, str)}
    assert words == {"m" if known else "other", "gpu1", "ok", ""}
    for block in facts["blocks"]:
        assert f"{block:016x}" not in text and str(block) not in text
    assert f"{xxh3_64_intdigest(session.encode()):016x}" not in text
    assert not any(character.isupper() or not character.isascii() for character in text)


@given(shared=st.integers(0, 400), tails=st.tuples(st.integers(1, 300), st.integers(1, 300)), seed=st.integers(0, 99))
@settings(derandomize=True, max_examples=40, deadline=None)
def test_shared_beginnings_are_shared_leading_blocks(shared: int, tails: Sequence[int], seed: int) -> None:
    beginning = random.Random(seed).randbytes(shared)
    one, other = beginning + b"a" * tails[0], beginning + b"b" * tails[1]
    with tempfile.TemporaryDirectory() as folder, taking(Path(folder) / "trace") as taken:
        first, again, second = blocks_of(taken, one, one, other)
    assert first == again
    same = shared // STEP
    assert first[:same] == second[:same]
    assert not set(first[same:]) & set(second[same:])


def test_a_restart_keeps_the_salt_and_another_salt_gives_other_hashes(tmp_path: Path) -> None:
    hashes, salts = [], []
    for name in ("one", "one", "two"):
        with taking(tmp_path / name) as taken:
            taken.request(b"x" * 100, facts={"session": "s"})
            (line,) = taken.lines()
        hashes.append((*line["blocks"], line["session"]))
        salts.append(json.loads((tmp_path / name).read_bytes().splitlines()[0])["salt"])
    assert hashes[0] == hashes[1] and salts[0] == salts[1] != salts[2]
    assert not set(hashes[0]) & set(hashes[2])


def test_a_session_never_looks_like_a_block(path: Path) -> None:
    with taking(path) as taken:
        taken.request(facts={"blocks": (int.from_bytes(b"sessions", "big"),), "session": "sessions"})
        (line,) = taken.lines()
    assert line["blocks"] != [line["session"]]


# --- files ----------------------------------------------------------------------------------------------------


def test_files_and_salt_are_for_their_owner_only(path: Path) -> None:
    before = os.umask(0)
    try:
        with taking(path, max_bytes=2_000) as taken:
            for _ in range(50):
                taken.request()
    finally:
        os.umask(before)
    files = sorted(path.parent.iterdir())
    assert [file.name.removeprefix(path.name) for file in files] == ["", ".1", ".2", ".3", ".salt"]
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    assert len(Path(f"{path}.salt").read_bytes()) == 32


def test_a_file_that_was_there_becomes_its_owners_alone(path: Path) -> None:
    path.touch(0o644)
    with taking(path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("keep", [1, 2, 4])
def test_files_are_rotated_by_size_and_the_newest_are_kept(path: Path, keep: int) -> None:
    with taking(path, max_bytes=2_000, keep=keep) as taken:
        for tries in range(100):
            taken.request(tries=tries)
        taken.lines()
        assert (taken.recording.written, taken.recording.dropped, taken.recording.problem) == (100, 0, "")
    files = [path, *(Path(f"{path}.{number}") for number in range(1, keep))]
    assert sorted(path.parent.iterdir()) == sorted([*files, Path(f"{path}.salt")])
    assert all(file.stat().st_size <= 2_000 for file in files)
    assert len({file.read_bytes().splitlines()[0] for file in files}) == 1  # one header, one time zero
    kept = [line["tries"] for file in reversed(files) for line in read(file)]
    assert kept == list(range(100 - len(kept), 100))
    assert len(kept) > 3 * (keep - 1)
    assert taken.recording.bytes_written > sum(file.stat().st_size for file in files)


def test_an_earlier_recording_moves_on_with_the_first_request_not_before(path: Path) -> None:
    for tries in (1, 2):
        with taking(path) as taken:
            taken.request(tries=tries)
    with taking(path):
        pass  # a start without a request
    assert [line["tries"] for line in read(path)] == [2]
    assert [line["tries"] for line in read(Path(f"{path}.1"))] == [1]
    assert not Path(f"{path}.2").exists()


def test_a_file_that_somebody_deletes_is_begun_anew(path: Path) -> None:
    with taking(path) as taken:
        taken.request(tries=1)
        wait_for_written(taken.recording, 1)
        path.unlink()
        taken.request(tries=2)
        assert [line["tries"] for line in taken.lines()] == [2]
    assert not Path(f"{path}.1").exists()


def test_a_file_that_is_none_is_an_error_that_says_so(tmp_path: Path) -> None:
    target = tmp_path / "target"
    (tmp_path / "link").symlink_to(target)
    os.mkfifo(tmp_path / "pipe")
    os.mkfifo(tmp_path / "unread")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    for name, reason in [
        ("link", "symbolic link"),
        ("pipe", "not a regular file"),
        ("unread", "No such device or address"),
        ("no/trace", "No such file or directory"),
        ("", "Is a directory"),
    ]:
        with pytest.raises(RecordingError, match=reason):
            Taken(tmp_path / name if name else tmp_path, make_balancer("a"))
    os.close(reader)
    assert not target.exists()
    assert "recording" not in [thread.name for thread in threading.enumerate()]


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_salt_of_a_wrong_size_is_an_error_that_says_what_to_do(path: Path, size: int) -> None:
    Path(f"{path}.salt").write_bytes(b"s" * size)
    with pytest.raises(RecordingError, match=r"trace\.jsonl\.salt: .* 32 bytes: delete it"):
        Taken(path, make_balancer("a"))
    assert not path.exists()


def test_a_salt_that_cannot_be_read_is_an_error(path: Path) -> None:
    salt = Path(f"{path}.salt")
    salt.mkdir()
    with pytest.raises(RecordingError, match="cannot be used: Is a directory"):
        Taken(path, make_balancer("a"))
    salt.rmdir()
    salt.symlink_to(path.parent / "elsewhere")
    with pytest.raises(RecordingError, match="symbolic link"):
        Taken(path, make_balancer("a"))
    assert not (path.parent / "elsewhere").exists()


def test_two_cannot_record_to_one_file(path: Path) -> None:
    with taking(path):
        with pytest.raises(RecordingError, match="another fairlead records there"):
            Taken(path, make_balancer("a"))
    with taking(path):
        pass


# --- under pressure -------------------------------------------------------------------------------------------


def wait_for_written(recording: Recording, count: int) -> None:
    """Let the thread work until so many requests are written."""
    for _ in range(2_000):
        if recording.written >= count:
            return
        threading.Event().wait(0.005)
    raise AssertionError(f"not {count} requests written: {recording!r}")


def test_requests_are_written_without_being_asked(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "PERIOD_SECONDS", 0.001)
    with taking(path) as taken:
        for count in (1, 2):
            taken.request()
            wait_for_written(taken.recording, count)
            assert len(read(path)) == count


def test_what_does_not_fit_into_the_queue_is_dropped_and_counted(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "PERIOD_SECONDS", 3600.0)
    monkeypatch.setattr(recording, "MAX_WAITING", 4)
    with taking(path) as taken:
        for tries in range(10):
            taken.request(tries=tries)
        assert taken.recording.dropped == 6
        assert [line["tries"] for line in taken.lines()] == [0, 1, 2, 3]
        assert (taken.recording.written, taken.recording.dropped) == (4, 6)


def test_long_prompts_fill_the_queue_sooner(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "PERIOD_SECONDS", 3600.0)
    monkeypatch.setattr(recording, "MAX_WAITING_BLOCKS", 100)
    with taking(path) as taken:
        for _ in range(10):
            taken.request(b"x" * STEP * 40)
        assert len(taken.lines()) == 3
        assert taken.recording.dropped == 7


def test_a_queue_that_was_emptied_has_room_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "PERIOD_SECONDS", 0.001)
    monkeypatch.setattr(recording, "MAX_WAITING", 1)
    monkeypatch.setattr(recording, "MAX_WAITING_BLOCKS", 40)
    with taking(path) as taken:
        for count in range(1, 6):
            taken.request(b"x" * STEP * 40)
            wait_for_written(taken.recording, count)
        assert taken.recording.dropped == 0


def test_close_writes_all_that_was_taken(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "PERIOD_SECONDS", 3600.0)
    with taking(path) as taken:
        for tries in range(300):  # more than one piece
            taken.request(b"x" * STEP * 20, tries=tries)
        assert [line["tries"] for line in taken.lines()] == list(range(300))
        taken.recording.close()
        taken.request()
        assert (taken.recording.written, taken.recording.dropped) == (300, 1)
        assert taken.recording.bytes_written == path.stat().st_size
        assert repr(taken.recording) == "<Recording closed, 300 written, 1 dropped>"


def test_a_full_disk_ends_the_recording_with_one_warning(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(recording, "PERIOD_SECONDS", 3600.0)
    monkeypatch.setattr(recording_files, "open_file", lambda path: (os.open("/dev/full", os.O_WRONLY), 0))
    with taking(path) as taken, caplog.at_level(logging.WARNING):
        for _ in range(50):
            taken.request()
        taken.recording.close()
        taken.request()
        assert taken.recording.problem == "No space left on device"
        assert (taken.recording.written, taken.recording.dropped, taken.recording.bytes_written) == (0, 51, 0)
    assert [r.getMessage() for r in caplog.records] == [
        "recording stopped: No space left on device; requests go on, restart to record again"
    ]


def test_a_disk_that_fills_up_leaves_whole_lines(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    written, write = 0, os.write

    def fills_up(file: int, data: bytes) -> int:
        nonlocal written
        if written > 5_000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        count = write(file, data[:700])  # in pieces, as a disk that is nearly full takes them
        written += count
        return count

    monkeypatch.setattr(recording, "PERIOD_SECONDS", 3600.0)
    with taking(path) as taken:
        for _ in range(200):
            taken.request()
        monkeypatch.setattr(os, "write", fills_up)
        taken.recording.close()
        monkeypatch.undo()
        lines = read(path)
        assert path.read_bytes().endswith(b"}\n")
        assert 0 < len(lines) == taken.recording.written
        assert taken.recording.written + taken.recording.dropped == 200
        assert taken.recording.problem == "No space left on device"
    assert len(caplog.records) == 1


def test_a_rotation_that_fails_ends_the_recording(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Path(f"{path}.1").mkdir()
    with taking(path, max_bytes=2_000, keep=2) as taken:
        for _ in range(100):
            taken.request()
        taken.recording.close()
        assert taken.recording.problem == "Is a directory"
        assert 0 < taken.recording.written == len(read(path))
        assert taken.recording.written + taken.recording.dropped == 100
    assert len(caplog.records) == 1


def test_close_does_not_wait_for_a_disk_that_stalls(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stalled, write = threading.Event(), os.write

    def stalls(file: int, data: bytes) -> int:
        stalled.wait()
        return write(file, data)

    monkeypatch.setattr(file_queue, "CLOSE_SECONDS", 0.01)
    with taking(path) as taken:
        taken.request()
        monkeypatch.setattr(os, "write", stalls)
        taken.recording.close()
        assert "does not answer" in caplog.text
        stalled.set()
        assert taken.recording._thread.join(10.0)
        assert taken.recording.written == 1
