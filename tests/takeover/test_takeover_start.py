"""What a process may be told, or may pass on, before it serves: signals as it starts, and sockets that it was handed.

The start is held up by an engine that takes connections and says nothing: it is asked before anything serves.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from cli_process import chat, engine, serving

from fairlead.control import takeover

STOPPED_AT_START = [
    pytest.param(signal.SIGTERM, 1, id="SIGTERM"),
    pytest.param(signal.SIGINT, 2, id="SIGINT-workers"),
]


def written(folder: Path, *backends: str, listen: str, workers: int) -> str:
    path = folder / f"{len(list(folder.iterdir()))}.yaml"
    urls = ", ".join(map(repr, backends))
    path.write_text(
        f"listen: '{listen}'\nadmin: 127.0.0.1:0\nbackends: [{urls}]\nworkers: {workers}\n"
        "access_log: {enabled: false}\n"
    )
    return str(path)


def mute() -> socket.socket:
    """An engine that lets everybody wait. Its first client has a start to hold up."""
    sock = socket.create_server(("127.0.0.1", 0))
    sock.settimeout(60)
    return sock


def url_of(sock: socket.socket) -> str:
    return f"http://127.0.0.1:{sock.getsockname()[1]}"


def begin(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "fairlead", "serve", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize(("number", "workers"), STOPPED_AT_START)
def test_who_is_told_to_stop_as_it_starts_takes_nothing_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, workers: int
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    files = tmp_path / "files"
    files.mkdir()
    with engine() as url, mute() as silent:
        with serving(written(files, url, listen="127.0.0.1:0", workers=workers)) as old:
            config = written(files, url, url_of(silent), listen="127.0.0.1:0", workers=workers)
            new = begin("--config", config, "--takeover")
            with silent.accept()[0]:
                new.send_signal(number)
                out, said = new.communicate(timeout=60)
            assert (new.returncode, "took over" in said, out) == (0, False, "")
            assert old.process.poll() is None
            assert chat(old.listening[0]) == 200


def test_a_hangup_during_the_start_is_a_reload_after_it(tmp_path: Path) -> None:
    with engine() as url, mute() as silent:
        new = begin(written(tmp_path, url, url_of(silent), listen="127.0.0.1:0", workers=1))
        assert new.stderr is not None
        try:
            with silent.accept()[0]:
                new.send_signal(signal.SIGHUP)
                told = next((line for line in new.stderr if "reload: " in line), "it ended")
        finally:
            new.kill()
            new.communicate(timeout=60)
    assert "reload: version 2 is in force" in told


def test_sockets_that_were_handed_over_are_not_inherited_by_children(tmp_path: Path) -> None:
    """A worker would keep them open beside its own, and who connects there would wait for ever."""

    async def body() -> list[bool]:
        async def release(pid: int) -> None:
            raise AssertionError("nobody was ready")

        with socket.create_server(("127.0.0.1", 0)) as sock:
            offer = takeover.Offer(str(tmp_path / "c"), lambda: takeover.Offered({"a": [sock]}), release)
            offer.open()
            taken = await takeover.take_over(str(tmp_path / "c"))
            assert taken is not None
            found = [each.get_inheritable() for each in taken.sockets["a"]]
            taken.drop(["a"])
            taken.close()
            offer.close()
            assert offer._task is not None
            await offer._task
        return found

    assert asyncio.run(body()) == [False]
