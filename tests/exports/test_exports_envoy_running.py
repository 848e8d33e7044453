"""A real Envoy with the exported file: does a backend see what Fairlead would send it?"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from exports_tools import PATIENCE, config, envoy, make_certificates

from fairlead.control.exports.envoy import render


class _Echo(BaseHTTPRequestHandler):
    """Tells what it was asked."""

    def do_GET(self) -> None:
        self.do_POST()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", 0)))
        body = json.dumps({"path": self.path, "headers": dict(self.headers)}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


class _Server(ThreadingHTTPServer):
    """One that takes refused handshakes as they come."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass


@contextlib.contextmanager
def serving(context: ssl.SSLContext | None = None) -> Iterator[int]:
    """A backend; its port."""
    server = _Server(("127.0.0.1", 0), _Echo)
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Connection(http.client.HTTPConnection):
    """To a socket file, by TLS where a context is given."""

    def __init__(self, path: str, tls: ssl.SSLContext | None = None) -> None:
        super().__init__("llm.example.com", timeout=PATIENCE)
        self._path, self._tls = path, tls

    def connect(self) -> None:
        raw = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        raw.settimeout(PATIENCE)
        raw.connect(self._path)
        self.sock = raw if self._tls is None else self._tls.wrap_socket(raw, server_hostname="llm.example.com")


@contextlib.contextmanager
def running(data: dict[str, Any], folder: Path, environ: dict[str, str] | None = None) -> Iterator[str]:
    """Envoy with the exported configuration, without its admin port; the path of its socket."""
    path = f"{folder}/e.sock"
    listen = {"address": f"unix:{path}"} | data.pop("listen", {})
    whole = yaml.safe_load(render(config({"listen": listen, "access_log": False} | data)))
    del whole["admin"]
    file = folder / "envoy.yaml"
    file.write_text(yaml.safe_dump(whole), encoding="utf-8")
    command = [envoy(), "--config-path", str(file), "--concurrency", "1", "--disable-hot-restart"]
    with open(folder / "envoy.log", "wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **(environ or {})})
    try:
        _until_it_listens(path, process, folder / "envoy.log")
        yield path
    finally:
        process.kill()
        process.wait()


def _until_it_listens(path: str, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + PATIENCE
    while True:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
            probe.connect(path)
            return
        assert process.poll() is None and time.monotonic() < end, log.read_text("utf-8")
        time.sleep(0.01)


def asked(
    path: str, target: str, headers: dict[str, str] | None = None, tls: ssl.SSLContext | None = None
) -> tuple[int, Any]:
    connection = _Connection(path, tls)
    connection.request("POST", target, b"{}", headers or {})
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, json.loads(body) if answer.status == 200 else body.decode()


@pytest.mark.parametrize(
    ("base", "path", "strip", "asked_for", "seen"),
    [
        ("", None, False, "/v1/chat/completions?x=1", "/v1/chat/completions?x=1"),
        ("", "/v1/", False, "/v2/models", None),
        ("", "/llm/", True, "/llm/v1/models?x=1", "/v1/models?x=1"),
        ("/base", None, False, "/v1/models", "/base/v1/models"),
        ("/base", "/v1/", False, "/v1/models", "/base/v1/models"),
        ("/base", "/llm/", True, "/llm/v1/models", "/base/v1/models"),
    ],
)
def test_a_backend_sees_the_path_that_fairlead_would_send(
    tmp_path: Path, base: str, path: str | None, strip: bool, asked_for: str, seen: str | None
) -> None:
    with serving() as port:
        data: dict[str, Any] = {"backends": [{"url": f"http://127.0.0.1:{port}{base}", "name": "b"}]}
        if path is not None:
            data["routes"] = [{"path": path, "backends": ["b"], "strip": strip}]
        with running(data, tmp_path) as listener:
            status, told = asked(listener, asked_for)
    assert (status, told["path"] if status == 200 else None) == ((404, None) if seen is None else (200, seen))


def test_header_values_come_from_the_environment(tmp_path: Path) -> None:
    with serving() as port:
        data = {
            "backends": [{"url": f"http://127.0.0.1:{port}", "name": "gpu-1", "headers": ["Authorization: not this"]}],
            "headers": {"set": ["X-Team: nor this"], "remove": ["x-debug"]},
        }
        secrets = {"FAIRLEAD_GPU_1_AUTHORIZATION": "Bearer own", "FAIRLEAD_HEADERS_X_TEAM": "50% a"}
        with running(data, tmp_path, secrets) as listener:
            sent = {"X-Debug": "1", "Authorization": "Bearer client", "X-Team": "client"}
            status, told = asked(listener, "/v1/models", sent)
    assert status == 200, told
    headers = {name.lower(): value for name, value in told["headers"].items()}
    assert (headers["authorization"], headers["x-team"]) == ("Bearer own", "50% a")
    assert "x-debug" not in headers and headers["x-request-id"]


@pytest.mark.parametrize("name", ["llm.example.com", "other.example.com"])
def test_tls_on_both_sides_is_spoken_and_checked(tmp_path: Path, name: str) -> None:
    make_certificates(tmp_path)
    certs = tmp_path / "certs"
    pair = {"cert": str(certs / "llm.pem"), "key": str(certs / "llm.key")}
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certs / "llm.pem", certs / "llm.key")
    with serving(context) as port:
        data: dict[str, Any] = {
            "listen": {"tls": pair},
            "backends": [f"https://127.0.0.1:{port}"],
            "backend_tls": {"ca": str(certs / "ca.pem"), "server_name": name},
            "retries": {"attempts": 0},
        }
        with running(data, tmp_path) as listener:
            tls = ssl.create_default_context(cafile=str(certs / "ca.pem"))
            status, told = asked(listener, "/v1/models", tls=tls)
    if name == "llm.example.com":
        assert status == 200 and told["path"] == "/v1/models"
    else:  # the backend's certificate holds another name
        assert status == 503, told
