"""The two ends of the comparison: an engine that notes what reaches it, and a client that notes what comes back.

Plain sockets and threads, no parser of anybody's: the engine frames as leniently as a careless server would, so that
what a proxy lets through counts as what such a server would have done with it.
"""

from __future__ import annotations

import contextlib
import socket
import socketserver
import threading
from dataclasses import dataclass

from bench.conformance.payloads import answer

PATIENCE = 2.0  # seconds until a first byte comes back
QUIET = 0.25  # seconds without a byte: then nothing more comes
MODELS = b'{"object":"list","data":[{"id":"m","object":"model"}]}'


class _Connection(socketserver.BaseRequestHandler):
    """One connection of the engine."""

    server: Engine

    def handle(self) -> None:
        self.sock: socket.socket = self.request
        self.buffer = b""
        with contextlib.suppress(OSError, ValueError):
            while head := self._until(b"\r\n\r\n"):
                fields = {}
                for line in head.split(b"\r\n")[1:]:
                    name, _, value = line.partition(b":")
                    fields[name.strip().lower()] = value.strip()
                if fields.get(b"user-agent") == b"fairlead" and b"via" not in fields:  # a probe
                    self.sock.sendall(answer(MODELS))
                    continue
                self._body(fields)
                nonce = fields.get(b"x-nonce", b"none")
                said = self.server.heard(head)
                self.sock.sendall(said.replace(b"%NONCE", nonce))

    def _until(self, end: bytes) -> bytes:
        while end not in self.buffer:
            data = self.sock.recv(65_536)
            if not data:
                return b""
            self.buffer += data
        head, _, self.buffer = self.buffer.partition(end)
        return head + end

    def _take(self, size: int) -> None:
        while len(self.buffer) < size:
            data = self.sock.recv(65_536)
            if not data:
                raise ValueError("the request is cut short")
            self.buffer += data
        self.buffer = self.buffer[size:]

    def _body(self, fields: dict[bytes, bytes]) -> None:
        if b"chunked" in fields.get(b"transfer-encoding", b"").lower():
            while size := int(self._until(b"\r\n").partition(b";")[0], 16):
                self._take(size + 2)
            while self._until(b"\r\n") != b"\r\n":
                pass
        else:
            self._take(int(fields.get(b"content-length", b"0")))


class Engine(socketserver.ThreadingTCPServer):
    """Answers probes by itself, and every other request with `said`; notes the heads of the latter."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Connection)
        self.said = answer()
        self.heads: list[bytes] = []
        self._lock = threading.Lock()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def heard(self, head: bytes) -> bytes:
        with self._lock:
            self.heads.append(head)
            return self.said

    def handle_error(self, request: object, client_address: object) -> None:
        """A connection that a proxy broke off is no news."""


@dataclass
class Heard:
    """What a client got back."""

    statuses: tuple[int, ...]
    closed: bool
    raw: bytes


def speak(port: int, data: bytes, *, head: bool) -> Heard:
    """Say this on a new connection, and listen until it is closed or nothing more comes; `head`: HEAD was asked."""
    received = b""
    closed = False
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as sock:
        try:
            sock.sendall(data)
            while True:
                piece = sock.recv(65_536)
                if not piece:
                    closed = True
                    break
                received += piece
                sock.settimeout(QUIET)
        except TimeoutError:
            pass
        except OSError:
            closed = True
    return Heard(_statuses(received, head=head), closed, received)


def _statuses(data: bytes, *, head: bool) -> tuple[int, ...]:
    """The final statuses, one after the other."""
    found = []
    while data.startswith(b"HTTP/1."):
        lines, _, data = data.partition(b"\r\n\r\n")
        status = int(lines[9:12])
        if status < 200:
            continue
        found.append(status)
        if head or status in (204, 304):
            continue
        fields = dict(line.lower().split(b":", 1) for line in lines.split(b"\r\n")[1:])
        if b"content-length" in fields:
            data = data[int(fields[b"content-length"]) :]
        elif b"transfer-encoding" in fields:
            data = data.partition(b"0\r\n\r\n")[2]
        else:
            break
    return tuple(found)
