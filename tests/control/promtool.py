"""The real promtool and prometheus: found, or fetched by scripts/need.sh, or the test is skipped and says why."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
UNPACKED = ROOT / ".tools" / "root" / "usr" / "bin"
FETCH_SECONDS = 90


def promtool(*arguments: str, stdin: bytes = b"") -> tuple[int, str]:
    """Run it; (exit status, everything it printed)."""
    done = subprocess.run([program("promtool"), *arguments], input=stdin, capture_output=True, timeout=60)
    return done.returncode, (done.stdout + done.stderr).decode()


def program(name: str) -> str:
    """Where it is; the test is skipped where it cannot be had."""
    found, why = _find(name)
    if found is None:
        pytest.skip(f"{name} could not be had: {why}")
    return found


@functools.cache
def _find(name: str) -> tuple[str | None, str]:
    path = os.pathsep.join([os.environ.get("PATH", ""), str(UNPACKED)])
    if found := shutil.which(name, path=path):
        return found, ""
    try:
        done = subprocess.run(
            ["sh", str(ROOT / "scripts" / "need.sh"), name], capture_output=True, text=True, timeout=FETCH_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired) as problem:
        return None, str(problem)
    return shutil.which(name, path=path), (done.stdout + done.stderr).strip()
