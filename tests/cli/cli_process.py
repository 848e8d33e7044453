"""`fairlead serve` as a process of its own, and the smallest engine to put behind it."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        models = {"object": "list", "data": [{"id": "m", "object": "model", "owned_by": "vllm"}]}
        self._answer({"/v1/models": models, "/health": {}}.get(self.path))

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        held = self.server.held  # type: ignore[attr-defined]
        if asked.get("stream") and held is not None:
            self._stream(held)
            return
        self._answer({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}})

    def _stream(self, held: threading.Event) -> None:
        """One event, and the last word when it is let go."""
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(b'data: {"choices":[{"index":0,"delta":{"content":"t"}}]}\n\n')
        held.wait()
        self.wfile.write(b"data: [DONE]\n\n")
        self.close_connection = True

    def _answer(self, data: object) -> None:
        body = json.dumps(data).encode()
        self.send_response(404 if data is None else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    held: threading.Event | None = None

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # connections may break when Fairlead goes


@contextlib.contextmanager
def engine(held: threading.Event | None = None) -> Iterator[str]:
    """Its URL. Its streams stop after one event until `held` is set."""
    server = _Server(("127.0.0.1", 0), _Handler)
    server.held = held
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Served:
    """A started `fairlead serve`; its addresses are those that it printed."""

    def __init__(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "fairlead", "serve", *arguments]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.printed: list[str] = []
        self.listening: list[str] = []
        assert self.process.stdout is not None
        for line in self.process.stdout:  # ends with the process, so this cannot wait for ever
            self.printed.append(line.rstrip("\n"))
            if line.startswith("listening on "):
                self.listening.append(line.split()[-1])
            if line.startswith("admin on "):
                self.admin = line.split()[-1]
                return
        raise AssertionError(f"it ended: {self.process.communicate()[1]}")

    def end(self) -> tuple[str, str]:
        """The rest of what it wrote, killing it if it still runs."""
        if self.process.poll() is None:
            self.process.kill()
        return self.process.communicate(timeout=10)


@contextlib.contextmanager
def serving(*arguments: str) -> Iterator[Served]:
    served = Served(*arguments)
    try:
        yield served
    finally:
        served.end()


def chat(url: str) -> int:
    """One request; its status."""
    request = urllib.request.Request(
        f"{url}/v1/chat/completions",
        data=b'{"model":"m","messages":[]}',
        headers={"Content-Type": "application/json", "X-Request-Id": "mine"},
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        answer.read()
        status: int = answer.status
        return status
