"""A test that hangs is ended, and tells where it hung."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import peers
import pytest

ROOT = Path(__file__).parents[2]

HANGS = """
import asyncio
from peers import run

def test_hangs():
    async def waits_forever():
        await asyncio.Event().wait()

    run(waits_forever)
"""


def test_what_a_long_test_waits_for_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(peers, "HUNG", 0.0)

    async def waits_for_a_word() -> None:
        told = ""
        while not told:
            await asyncio.sleep(0)
            told = capsys.readouterr().err
        assert "waits_for_a_word" in told + capsys.readouterr().err

    peers.run(waits_for_a_word)


@pytest.mark.parametrize("fails", [True, False])
def test_a_test_that_leaves_something_open_fails_and_does_not_hang(fails: bool) -> None:
    async def leaves_a_listener() -> None:
        server = await asyncio.get_running_loop().create_server(asyncio.Protocol, "127.0.0.1", 0)
        assert not fails, f"and fails besides: {server}"

    with pytest.raises(AssertionError, match="fails besides" if fails else "unclosed"):
        peers.run(leaves_a_listener)


def test_a_test_that_hangs_in_the_loop_is_ended_by_its_timeout(tmp_path: Path) -> None:
    """pytest's own way, a signal, would leave it hanging: uvloop swallows what the handler raises."""
    file = tmp_path / "test_hangs.py"
    file.write_text(HANGS)
    command = [sys.executable, "-m", "pytest", "-q", "-c", "pyproject.toml", "--timeout", "1", str(file)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60.0)
    assert ended.returncode != 0
    assert "Timeout" in ended.stderr + ended.stdout
