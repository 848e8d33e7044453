"""A scripted admin API, and `fairlead top` in a terminal of its own whose screen can be read."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from top_samples import FLEET

TOP = (sys.executable, "-m", "fairlead", "top")
PATIENCE = 20.0  # seconds; no test should need them
CODES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
TOKEN = "a-token-that-is-long"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Admin

    def do_GET(self) -> None:
        if self.server.is_private and self.headers["Authorization"] != f"Bearer {self.server.token}":
            self._answer(401, {"error": {"message": "show the admin token"}})
            return
        page = self.server.pages.get(self.path)
        self._answer(404 if page is None else 200, page or {"error": {"message": "no such page"}})

    def do_PATCH(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.server.token and self.headers["Authorization"] != f"Bearer {self.server.token}":
            self._answer(401, {"error": {"message": "show the admin token"}})
            return
        id = self.path.removeprefix("/api/backends/")
        self.server.changes.append((id, body))
        for row in self.server.pages["/api/backends"]["backends"]:
            if row["id"] == id:
                row["state"] = "draining" if body.get("drain") else "up"
        self._answer(200, {"id": id, "version": 8, "lasts": "until the next reload"})

    def _answer(self, status: int, data: Any) -> None:
        body = json.dumps(data).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with contextlib.suppress(ConnectionError):
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


class Admin(ThreadingHTTPServer):
    """Answers what `pages` say, and takes changes."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, port: int = 0, token: str = "") -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        told = json.loads(json.dumps(FLEET.as_json()))
        self.token = token
        self.is_private = False  # is the token asked for by those who read, too?
        self.changes: list[tuple[str, Any]] = []
        self.pages: dict[str, Any] = {
            "/api/backends": {"backends": told["backends"], "policy": told["policy"]},
            "/api/policy": {"policy": {"name": told["policy"], "options": {}}, "shadow": None},
            "/api/alerts": {"alerts": told["alerts"]},
            "/api/config": {"loaded": {"version": 7, "last_error": None}},
            "/readyz": {"status": "ready"},
            "/healthz": {"status": "ok", "version": "0.1.0"},
        }

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def process_request(self, request: Any, client_address: Any) -> None:
        self.requests.append(request)
        super().process_request(request, client_address)

    def server_activate(self) -> None:
        self.requests: list[Any] = []
        super().server_activate()

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # whoever asked may be gone


@contextlib.contextmanager
def admin(port: int = 0, token: str = "") -> Iterator[Admin]:
    """On leaving, its connections break, too."""
    server = Admin(port, token)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        for request in server.requests:
            with contextlib.suppress(OSError):
                request.shutdown(2)
        thread.join()


class Screen:
    """A command in a terminal of its own, and what it has drawn there."""

    def __init__(self, *command: str, columns: int = 100, lines: int = 20, **environment: str) -> None:
        self._master, slave = pty.openpty()
        self.resize(columns, lines)
        self.modes = termios.tcgetattr(slave)
        name = os.ttyname(slave)
        # A leader of a session that opens a terminal gets it for its own: so ^C and ^Z reach it as they would.
        shell = ["/bin/sh", "-c", 'exec "$@" 0<>"$TTY" 1>&0 2>&0', "sh", *command]
        own = {"TERM": "xterm", "TTY": name, **environment}
        kept = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "LINES", "NO_COLOR")}
        self.process = subprocess.Popen(shell, env={**kept, **own}, start_new_session=True)
        self._slave = slave  # kept open, so that what was written can be read to the end
        self.text = ""

    def resize(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def press(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    @property
    def frame(self) -> list[str]:
        """The last screen that was drawn whole."""
        whole = self.text.rpartition("\x1b[J")[0].rpartition("\x1b[H")[2]
        return [CODES.sub("", line).rstrip() for line in whole.split("\r\n")]

    def until(self, what: str, look: Callable[[], object]) -> None:
        """Read what it draws until `look` is true."""
        end = time.monotonic() + PATIENCE
        while not look():
            if not select.select([self._master], [], [], max(end - time.monotonic(), 0.0))[0]:
                raise AssertionError(f"waited {PATIENCE:g} s for: {what}; it shows {self.frame}")
            self.text += os.read(self._master, 65_536).decode()

    def until_shown(self, part: str) -> None:
        self.until(part, lambda: any(part in line for line in self.frame))

    def ends(self) -> int:
        """Its exit status."""
        status = self.process.wait(PATIENCE)
        while select.select([self._master], [], [], 0)[0]:
            self.text += os.read(self._master, 65_536).decode()
        return status

    @property
    def is_given_back(self) -> bool:
        """Is the terminal as it was, the first screen shown and the cursor seen?"""
        left = self.text.rfind("\x1b[?1049l") > self.text.rfind("\x1b[?1049h")
        seen = self.text.rfind("\x1b[?25h") > self.text.rfind("\x1b[?25l")
        return left and seen and termios.tcgetattr(self._slave) == self.modes

    def hang_up(self) -> None:
        """As when the SSH connection breaks."""
        os.close(self._slave)
        os.close(self._master)
        self._slave = self._master = -1

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait(PATIENCE)
        if self._master >= 0:
            os.close(self._slave)
            os.close(self._master)


@contextlib.contextmanager
def on_screen(*command: str, **options: Any) -> Iterator[Screen]:
    running = Screen(*command, **options)
    try:
        yield running
    finally:
        running.close()


def top(*arguments: str, **options: Any) -> contextlib.AbstractContextManager[Screen]:
    """`fairlead top` with these arguments."""
    return on_screen(*TOP, *arguments, **options)
