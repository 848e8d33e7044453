"""The real Alertmanager for tests: found, or had by scripts/need.sh, or the test is skipped and says why."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

ROOT = Path(__file__).resolve().parents[2]
UNPACKED = ROOT / ".tools" / "root" / "usr" / "bin"
NAMES = ("alertmanager", "prometheus-alertmanager")  # upstream's, Debian's
FETCH_SECONDS = 90
PATIENCE = 20.0
CONFIG = "route: {receiver: nobody}\nreceivers: [{name: nobody}]\n"


@functools.cache
def programs() -> tuple[str, str | None]:
    """(alertmanager, amtool). Skips."""
    path = os.pathsep.join([os.environ.get("PATH", ""), str(UNPACKED)])
    found = [program for name in NAMES if (program := shutil.which(name, path=path))]
    if not found:
        why = _fetch()
        found = [program for name in NAMES if (program := shutil.which(name, path=path))]
        if not found:
            pytest.skip(f"alertmanager could not be had: {why}")
    return found[0], shutil.which("amtool", path=path)


def _fetch() -> str:
    """By scripts/need.sh; what it said."""
    try:
        done = subprocess.run(
            ["sh", str(ROOT / "scripts" / "need.sh"), "prometheus-alertmanager"],
            capture_output=True, text=True, timeout=FETCH_SECONDS,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as problem:
        return str(problem)
    return (done.stdout + done.stderr).strip()


class Alertmanager:
    """One that runs."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self.url = url
        self._session = session

    async def alerts(self) -> list[dict[str, Any]]:
        async with self._session.get(f"{self.url}/api/v2/alerts") as answer:
            found: list[dict[str, Any]] = await answer.json()
            return found

    async def amtool(self, *arguments: str) -> str:
        """What it prints."""
        program = programs()[1]
        if program is None:
            pytest.skip("amtool is not there")
        process = await asyncio.create_subprocess_exec(
            program, f"--alertmanager.url={self.url}", *arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        output, _ = await process.communicate()
        assert process.returncode == 0, output.decode()
        return output.decode()

    async def query(self) -> dict[str, dict[str, Any]]:
        """What amtool sees, by the backend."""
        found = json.loads(await self.amtool("alert", "query", "-o", "json"))
        return {each["labels"].get("backend", ""): each for each in found}


@contextlib.asynccontextmanager
async def running(folder: Path) -> AsyncIterator[Alertmanager]:
    """Alone, on a port of its own, with nobody to notify."""
    program, _ = programs()
    (folder / "alertmanager.yml").write_text(CONFIG, encoding="utf-8")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with (folder / "alertmanager.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            program, f"--config.file={folder}/alertmanager.yml", f"--storage.path={folder}/data",
            f"--web.listen-address=127.0.0.1:{port}", "--cluster.listen-address=", stdout=log, stderr=log,
        )  # fmt: skip
    try:
        async with aiohttp.ClientSession() as session:
            url = f"http://127.0.0.1:{port}"
            async with asyncio.timeout(PATIENCE):
                while not await _answers(session, url):
                    if process.returncode is not None:  # Debian's needs a file that only an installation puts there
                        said = (folder / "alertmanager.log").read_text("utf-8").strip()
                        pytest.skip(f"alertmanager does not start: {said[-200:]}")
                    await asyncio.sleep(0.05)
            yield Alertmanager(url, session)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def _answers(session: aiohttp.ClientSession, url: str) -> bool:
    try:
        async with session.get(f"{url}/-/ready") as answer:
            return answer.status == 200
    except aiohttp.ClientError:
        return False
