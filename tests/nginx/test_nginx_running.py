"""The exported file in a running nginx: which path and which headers does a backend see?

What Fairlead would send stands in the tables; nginx listens on a Unix socket, so no port is fixed.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from nginx_checking import NGINX, TEMPORARY

from fairlead.config.load import parse
from fairlead.control.exports.nginx import render


class _Echo(BaseHTTPRequestHandler):
    """Answers with what it was asked."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        body = json.dumps({"path": self.path, "headers": dict(self.headers.items())}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def backend() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Echo)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("llm.example.com", timeout=20)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


@contextlib.contextmanager
def running(data: dict[str, Any], folder: Path, filled: dict[str, str] | None = None) -> Iterator[str]:
    """nginx with the exported configuration; the path of its socket. It is bound when the command returns.

    `filled`: what is put in the places of words to replace.
    """
    if NGINX is None:
        pytest.skip("nginx is not installed")
    path = f"{folder}/n.sock"
    config, problems = parse(data | {"listen": f"unix:{path}", "access_log": False}, "test")
    assert config is not None, problems
    places = "".join(f"{name}_temp_path {folder}/{name}_temp; " for name in TEMPORARY)
    file = folder / "running.conf"
    text = render(config).replace("http {", "http { " + places, 1)
    for word, value in (filled or {}).items():
        assert f'"{word}"' in text
        text = text.replace(word, value)
    file.write_text(text, encoding="utf-8")
    process_only = f"pid {folder}/pid; master_process off;"
    command = [NGINX, "-p", str(folder), "-c", str(file), "-e", f"{folder}/error.log", "-g", process_only]
    subprocess.run(command, check=True, timeout=30, capture_output=True)
    try:
        yield path
    finally:
        asked(path, "/")  # an answer: the process file is written by now
        os.kill(int((folder / "pid").read_text()), signal.SIGTERM)


def asked(path: str, target: str, headers: dict[str, str] | None = None) -> tuple[int, Any]:
    connection = _Connection(path)
    connection.request("POST", target, b"{}", headers or {})
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, json.loads(body) if answer.status == 200 else None


@pytest.mark.parametrize(
    ("base", "path", "strip", "asked_for", "seen"),
    [
        ("", None, False, "/v1/chat/completions?x=1", "/v1/chat/completions?x=1"),
        ("", "/v1/", False, "/v1/models", "/v1/models"),
        ("", "/v1/", False, "/v2/models", None),
        ("", "/llm/", True, "/llm/v1/models?x=1", "/v1/models?x=1"),
        ("", "/llm/", True, "/llm/", "/"),
        ("/base", None, False, "/v1/models", "/base/v1/models"),
        ("/base", "/v1/", False, "/v1/models", "/base/v1/models"),
        ("/base", "/llm/", True, "/llm/v1/models", "/base/v1/models"),
    ],
)
def test_a_backend_sees_the_path_that_fairlead_would_send(
    tmp_path: Path, backend: str, base: str, path: str | None, strip: bool, asked_for: str, seen: str | None
) -> None:
    data: dict[str, Any] = {"backends": [{"url": f"http://{backend}{base}", "name": "b"}]}
    if path is not None:
        data["routes"] = [{"path": path, "backends": ["b"], "strip": strip}]
    with running(data, tmp_path) as listener:
        status, told = asked(listener, asked_for)
        assert (status, told and told["path"]) == ((404, None) if seen is None else (200, seen))


def test_a_backend_sees_the_headers_that_fairlead_would_send(tmp_path: Path, backend: str) -> None:
    data = {
        "backends": [{"url": f"http://{backend}", "name": "b", "headers": ["Authorization: Bearer own"]}],
        "headers": {"set": ["X-Team: team", "Authorization: Bearer all"], "remove": ["x-debug"]},
    }
    filled = {"REPLACE-ME-FAIRLEAD_B_AUTHORIZATION": "Bearer own", "REPLACE-ME-FAIRLEAD_HEADERS_X_TEAM": "team"}
    with running(data, tmp_path, filled) as listener:
        sent = {"X-Debug": "1", "Authorization": "Bearer client", "X-Forwarded-For": "6.6.6.6", "X-Team": "client"}
        _, told = asked(listener, "/v1/models", sent)
    headers = {name.lower(): value for name, value in told["headers"].items()}
    assert headers["authorization"] == "Bearer own"
    assert headers["x-team"] == "team"
    assert "x-debug" not in headers
    assert "6.6.6.6" not in headers["x-forwarded-for"]  # nobody here is trusted
    assert headers["x-forwarded-host"] == "llm.example.com"
    assert headers["x-request-id"]
