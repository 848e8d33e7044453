"""How is the real `fairlead serve` run by a test?

As a user runs it: a process of its own, told only the engines' URLs. Everything else is read from what it prints and
from its admin port.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote

from .client import Answer, call, metric, metrics
from .engines import LOGS, ROOT, end_of
from .waiting import WaitedTooLong, wait_for

START_SECONDS = 30.0


class Fairlead:
    def __init__(self, name: str, *targets: str, options: tuple[str, ...] = ()) -> None:
        self.log = LOGS / f"{name}.log"
        self._arguments = [*targets, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", *options]
        self._process: subprocess.Popen[bytes] | None = None
        self.url = ""
        self.admin = ""

    def __repr__(self) -> str:
        return f"Fairlead({self.url or 'not listening'}, log {self.log})"

    def start(self) -> None:
        LOGS.mkdir(parents=True, exist_ok=True)
        environment = dict(os.environ)
        places = [str(ROOT / "src"), environment.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = os.pathsep.join(place for place in places if place)
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "fairlead", "serve", *self._arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                cwd=Path("/"),  # nothing may depend on where it is started
            )
        self.url = self._printed("listening on")
        self.admin = self._printed("admin on")

    def _printed(self, words: str) -> str:
        pattern = re.compile(re.escape(words) + r" (http://127\.0\.0\.1:\d+)")

        def look() -> str:
            assert self._process is not None
            found = pattern.search(self.log.read_text(errors="replace"))
            if found is None and self._process.poll() is not None:
                code = self._process.returncode
                raise AssertionError(f"fairlead ended with code {code} while it started:\n{end_of(self.log)}")
            return found.group(1) if found else ""

        try:
            return wait_for(f"fairlead to print {words!r}", look, seconds=START_SECONDS)
        except WaitedTooLong as late:
            raise AssertionError(f"{late}\n{end_of(self.log)}") from None

    def terminate(self) -> None:
        """Asks it to end; `exit_code` waits for it."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)

    def exit_code(self, seconds: float) -> int:
        assert self._process is not None
        return self._process.wait(timeout=seconds)

    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def stop(self) -> None:
        if self._process is None:
            return
        if self.is_running():
            self._process.terminate()
            try:
                self._process.wait(timeout=10.0)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    # The admin port.

    def get(self, path: str) -> Answer:
        return call("GET", self.admin + path, timeout=10.0)

    def explain(self, request_id: str) -> Answer:
        return self.get(f"/api/explain/{quote(request_id, safe='')}")

    def backends(self) -> dict[str, dict[str, Any]]:
        """The admin port's list, by URL."""
        answer = self.get("/api/backends")
        assert answer.status == 200, f"/api/backends answered {answer.status}: {answer.body!r}"
        return {row["url"].rstrip("/"): row for row in answer.json()["backends"]}

    def up(self) -> dict[str, bool]:
        """Which backends can serve, by URL; the metrics and the API must say the same."""
        rows = self.backends()
        gauges = {labels["backend"]: value for name, labels, value in metrics(self.admin) if name == UP}
        return {url: row["state"] == "up" and gauges[row["id"]] == 1 for url, row in rows.items()}

    def wait_until_up(self, *urls: str, seconds: float = START_SECONDS) -> None:
        def look() -> bool:
            up = self.up()
            return all(up.get(url, False) for url in urls)

        wait_for(f"fairlead to use {', '.join(urls)}", look, seconds=seconds, pause=0.1)

    def inflight(self) -> float:
        return metric(self.admin, INFLIGHT)


UP = "fairlead_backend_up"
INFLIGHT = "fairlead_inflight_requests"
