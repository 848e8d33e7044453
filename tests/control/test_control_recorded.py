"""From the client to the simulator: chats through a running Fairlead, recorded, and read back as a trace."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from control_app import Running, engines, running

from fairlead.config.build import App, StartError
from fairlead.config.load import parse
from fairlead.control import recording
from fairlead.sim.readers.read import read_trace

SYSTEM = "You are the harbour master and answer in rhymes. " * 60  # about 3 KB
QUESTIONS = ("How deep is the fairway?", "Where may I moor tonight?", "Who is the owner of the red boat?")


async def chats(fairlead: Running) -> None:
    """Three that begin alike and one that does not; and what is not worth a line."""
    for question in QUESTIONS:
        assert (await fairlead.chat("m", SYSTEM + question))[0] == 200
    assert (await fairlead.chat("m", "Something else entirely, quite short."))[0] == 200
    assert (await fairlead.chat("no such model", "refused"))[0] == 404


@pytest.mark.parametrize("policy", ["round_robin", "expected_completion"])
def test_recorded_chats_come_back_with_their_shared_beginnings_and_without_their_text(
    tmp_path: Path, policy: str
) -> None:
    file = tmp_path / "trace.jsonl"

    async def body() -> None:
        async with engines(2) as (one, two):
            async with running(one.url, two.url, policy=policy, recording=str(file)) as fairlead:
                await chats(fairlead)
                recorder = fairlead.app.recording
                assert recorder is not None
        assert (recorder.written, recorder.dropped) == (4, 0)  # closed with the app

    asyncio.run(body())
    trace = read_trace(str(file))
    assert len(trace.requests) == 4
    assert [(request.model, request.output, request.max_tokens) for request in trace.requests] == [("m", 2, 2)] * 4
    first, second, third, other = (request.blocks for request in trace.requests)
    assert first[:30] == second[:30] == third[:30]
    assert first[-1] != second[-1]
    assert not set(other) & {*first, *second, *third}
    found = b"".join(each.read_bytes() for each in tmp_path.iterdir())
    for text in ("harbour", "rhymes", "fairway", "moor", "boat", "entirely", "refused", "no such model", "user"):
        assert text.encode() not in found


def test_its_metrics_are_on_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "PERIOD_SECONDS", 0.001)

    async def body() -> None:
        async with engines(1) as (one,), running(one.url, recording=str(tmp_path / "t.jsonl")) as fairlead:
            await chats(fairlead)
            recorder = fairlead.app.recording
            assert recorder is not None
            await fairlead.until("written", lambda: recorder.written == 4)
            page = (await fairlead.get("/metrics"))[1].decode()
            for line in (
                "fairlead_recording_requests_total 4.0", "fairlead_recording_dropped_total 0.0",
                f"fairlead_recording_bytes_total {float((tmp_path / 't.jsonl').stat().st_size)}",
                "fairlead_recording_stopped 0.0",
            ):  # fmt: skip
                assert f"\n{line}\n" in page

    asyncio.run(body())


def test_prompts_are_hashed_only_for_somebody(tmp_path: Path) -> None:
    async def body() -> None:
        async with engines(1) as (one,):
            cases: list[tuple[dict[str, Any], bool]] = [
                ({"policy": "round_robin"}, False),
                ({"policy": "round_robin", "recording": str(tmp_path / "t.jsonl")}, True),
                ({"policy": "prefix_cache"}, True),
            ]
            for options, hashed in cases:
                async with running(one.url, **options) as fairlead:
                    _, id = await fairlead.chat("m", SYSTEM)
                    lease = fairlead.app.recorder.records[id].lease
                    assert lease is not None
                    assert bool(lease.facts.span) == hashed, options
                    # The hashes themselves are dropped with the answer, unless a recording still has to read them.
                    assert bool(lease.facts.blocks) == ("recording" in options), options

    asyncio.run(body())


def test_a_switch_of_the_policy_is_in_the_recording(tmp_path: Path) -> None:
    file = tmp_path / "trace.jsonl"

    async def body() -> None:
        async with engines(1) as (one,), running(one.url, policy="random", recording=str(file)) as fairlead:
            await fairlead.chat("m")
            assert (await fairlead.switch({"policy": "latency"}))[0] == 200
            await fairlead.chat("m")

    asyncio.run(body())
    lines = file.read_bytes().splitlines()
    assert [b'"policy":"random"' in lines[0], b'"policy":"latency"' in lines[2], len(lines)] == [True, True, 4]
    assert len(read_trace(str(file)).requests) == 2


def test_a_recording_that_cannot_be_begun_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").symlink_to(tmp_path / "elsewhere")

    async def body() -> None:
        config, problems = parse({"backends": "a:1", "recording": str(tmp_path / "t.jsonl")}, "test")
        assert config is not None, problems
        with pytest.raises(StartError, match=r"recording\.path: .*/t\.jsonl: cannot be written: it is a symbolic link"):
            App(config)

    asyncio.run(body())


def test_an_access_log_that_cannot_be_opened_leaves_no_recording_behind(tmp_path: Path) -> None:
    """The file is free for the next start."""
    options: dict[str, Any] = {"backends": "a:1", "recording": str(tmp_path / "t.jsonl")}

    async def body() -> None:
        config, problems = parse({**options, "access_log": {"path": str(tmp_path)}}, "test")
        assert config is not None, problems
        with pytest.raises(StartError, match=r"access_log\.path"):
            App(config)
        config, _ = parse({**options, "access_log": False}, "test")
        assert config is not None
        await App(config).stop(0.0)

    asyncio.run(body())
