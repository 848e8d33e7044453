"""Case 67 on a real process: one SIGTERM lets a stream go on, the second ends it visibly, and the exit status is 0."""

from __future__ import annotations

import json
import signal
import socket
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

from cli_process import Served, engine, serving

PATIENCE = 20.0
BODY = b'{"model":"m","messages":[],"stream":true}'
EVENT = b'data: {"choices":[{"index":0,"delta":{"content":"t"}}]}\n\n'


def not_ready(served: Served) -> bool:
    try:
        urllib.request.urlopen(f"{served.admin}/readyz", timeout=10).close()
    except urllib.error.HTTPError as refusal:
        with refusal:
            return bool(json.load(refusal) == {"status": "draining"})
    return False


def read_until(sock: socket.socket, end: bytes) -> bytes:
    """What comes, up to these bytes or the end of the connection."""
    got = b""
    while end not in got and (data := sock.recv(65_536)):
        got += data
    return got


def test_case_67_a_second_sigterm_ends_a_stream_that_the_first_one_let_go_on(tmp_path: Path) -> None:
    path, held = tmp_path / "fairlead.yaml", threading.Event()
    try:
        with engine(held) as url:
            path.write_text(f"backends: ['{url}']\ndrain: 1h\nlisten: 127.0.0.1:0\nadmin: 127.0.0.1:0\n")
            with serving(str(path)) as served:
                where = urlsplit(served.listening[0])
                assert where.hostname is not None
                assert where.port is not None
                with socket.create_connection((where.hostname, where.port), timeout=PATIENCE) as client:
                    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(BODY)
                    client.sendall(head + BODY)
                    assert EVENT in read_until(client, EVENT)
                    served.process.send_signal(signal.SIGTERM)
                    until = time.monotonic() + PATIENCE
                    while not not_ready(served):
                        assert time.monotonic() < until, "the signal was not heard"
                    assert served.process.poll() is None
                    served.process.send_signal(signal.SIGTERM)
                    rest = read_until(client, b"no such end")
                    assert b"shutting down" in rest
                    assert b"0\r\n\r\n" not in rest
                assert served.process.wait(PATIENCE) == 0
                _, errors = served.end()
            assert "draining 1 requests, at most 3600 s" in errors
            assert "1 requests were broken off" in errors
            assert "Traceback" not in errors
            held.set()
    finally:
        held.set()
