"""Who starts the real engines, and who makes sure that they are gone afterwards?

An `Engine` is one vLLM on this machine's CPU, run by scripts/engines/start.sh as the leader of its own process group,
because its core and its worker are processes of their own.
Rule 1: whoever starts an engine stops it, by process group, on every path.
Rule 2: no fixed ports: the system names a free one, and it stays the engine's own across a restart.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from .client import call, metric
from .waiting import WaitedTooLong, wait_for

ROOT = Path(__file__).resolve().parents[2]
HOME = Path(os.environ.get("FAIRLEAD_ENGINES_HOME", ROOT / ".engines"))
LOGS = HOME / "logs"

START_SECONDS = 300.0  # 25 s on an idle machine; several times that when others use the cores
STOP_SECONDS = 5.0  # vLLM may never answer a SIGTERM while requests are open

Tell = Callable[[str], None]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        assert isinstance(port, int)
        return port


def end_of(log: Path, lines: int = 20) -> str:
    if not log.exists():
        return f"(there is no {log})"
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])


class Engine:
    """One engine: started by us when it has options, else one that runs already and is only used."""

    def __init__(self, name: str, port: int, *options: str, ours: bool = True) -> None:
        self.name = name
        self.url = f"http://127.0.0.1:{port}"
        self.is_ours = ours
        self.log = LOGS / f"{name}.log"
        self._command = [str(ROOT / "scripts/engines/start.sh"), "--port", str(port), *options]
        self._process: subprocess.Popen[bytes] | None = None

    def __repr__(self) -> str:
        return f"Engine({self.name} at {self.url})"

    def start(self) -> None:
        """Begins to start it; `wait_until_up` waits, so that several can start at once."""
        assert self._process is None, f"{self} runs already"
        LOGS.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def wait_until_up(self, tell: Tell | None = None) -> None:
        try:
            wait_for(f"{self.name} to be healthy", self._look, seconds=START_SECONDS, pause=0.25, tell=tell)
        except WaitedTooLong as late:
            raise AssertionError(f"{late}\nend of {self.log}:\n{end_of(self.log)}") from None

    def _look(self) -> bool:
        if self._process is not None and self._process.poll() is not None:
            raise AssertionError(f"{self} ended while it was starting; end of {self.log}:\n{end_of(self.log)}")
        return self.is_healthy()

    def is_healthy(self) -> bool:
        try:
            return call("GET", f"{self.url}/health", timeout=5.0).status == 200
        except OSError:
            return False

    def is_running(self) -> bool:
        """Also true for one that is not ours: somebody else answers for it."""
        if not self.is_ours:
            return True
        return self._process is not None and self._process.poll() is None

    def kill(self) -> None:
        """SIGKILL to everything of it at once: how it looks when its machine dies."""
        assert self._process is not None, f"{self} was not started by this test run"
        self._signal_group(signal.SIGKILL)
        self._process.wait(timeout=STOP_SECONDS)
        self._process = None

    def stop(self) -> None:
        """SIGTERM, and SIGKILL for what is left of its group."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=STOP_SECONDS)
        finally:
            self.kill()

    def _signal_group(self, number: signal.Signals) -> None:
        assert self._process is not None
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    # What it tells about itself; its own word is how the tests know where requests went.

    def inflight(self) -> float:
        """Requests that it works on or has queued."""
        return metric(self.url, "vllm:num_requests_running") + metric(self.url, "vllm:num_requests_waiting")

    def generated_tokens(self) -> float:
        return metric(self.url, "vllm:generation_tokens_total")
