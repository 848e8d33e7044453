"""What does a client see that keeps nothing from the test?

The SDKs hide heads, chunk ends and broken connections; this one shows them. Standard library only.
Rule 1: one connection per call, closed on every path.
Rule 2: nothing is retried and nothing is repaired: a body that ends too early is an exception.
"""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPResponse
from typing import Any
from urllib.parse import urlsplit

from prometheus_client.parser import text_string_to_metric_families

DONE = "[DONE]"
MODEL = "tiny"

BROKEN = (OSError, HTTPException)
"""What reading raises when the other side broke the connection."""


def chat(prompt: str = "import os", *, max_tokens: int = 8, **fields: Any) -> dict[str, Any]:
    """The body of a chat that produces exactly `max_tokens` tokens: a random model would stop by chance."""
    turns = [{"role": "user", "content": prompt}]
    return {"model": MODEL, "messages": turns, "max_tokens": max_tokens, "ignore_eos": True, **fields}


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: Mapping[str, str]  # names in lower case
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class Stream:
    """An answer that is read while it comes."""

    def __init__(self, connection: HTTPConnection, response: HTTPResponse) -> None:
        self._connection = connection
        self._response = response
        self.status = response.status
        self.headers = _lower(response)

    def events(self) -> Iterator[str]:
        """The data of each server-sent event, `[DONE]` included; raises one of BROKEN if the body is cut."""
        rest = b""
        while piece := self._response.read1(65536):
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                if line.startswith(b"data:"):
                    yield line[5:].strip().decode()

    def close_gently(self) -> None:
        """The end of the connection as a client that closes its socket sends it: FIN."""
        self._response.close()
        self._connection.close()

    def reset(self) -> None:
        """The end as a client that crashed sends it: RST."""
        if self._connection.sock is not None:
            linger_zero = struct.pack("ii", 1, 0)
            self._connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger_zero)
        self.close_gently()


def _lower(response: HTTPResponse) -> dict[str, str]:
    return {name.lower(): value for name, value in response.getheaders()}


def _send(
    connection: HTTPConnection, method: str, target: str, body: object, headers: Mapping[str, str] | None
) -> None:
    sent = dict(headers or {})
    data: bytes | None
    if body is None or isinstance(body, bytes):
        data = body
    else:
        data = json.dumps(body).encode()
    if data is not None:
        sent.setdefault("content-type", "application/json")
    connection.request(method, target, body=data, headers=sent)


def _connect(url: str, timeout: float) -> tuple[HTTPConnection, str]:
    parts = urlsplit(url)
    assert parts.hostname is not None
    connection = HTTPConnection(parts.hostname, parts.port, timeout=timeout)
    return connection, parts.path + (f"?{parts.query}" if parts.query else "")


def call(
    method: str, url: str, body: object = None, headers: Mapping[str, str] | None = None, timeout: float = 60.0
) -> Answer:
    """One request and its whole answer; `body` is bytes as they are, or anything that becomes JSON."""
    connection, target = _connect(url, timeout)
    try:
        _send(connection, method, target, body, headers)
        response = connection.getresponse()
        return Answer(response.status, _lower(response), response.read())
    finally:
        connection.close()


@contextmanager
def streaming(url: str, body: object, timeout: float = 60.0) -> Iterator[Stream]:
    """A POST whose answer is read event by event."""
    connection, target = _connect(url, timeout)
    try:
        _send(connection, "POST", target, body, None)
        response = connection.getresponse()
        with response:
            yield Stream(connection, response)
    finally:
        connection.close()


@contextmanager
def unanswered(url: str, body: object) -> Iterator[socket.socket]:
    """A POST that was sent whole and whose answer nobody reads yet."""
    connection, target = _connect(url, timeout=60.0)
    try:
        _send(connection, "POST", target, body, None)
        assert isinstance(connection.sock, socket.socket)
        yield connection.sock
    finally:
        connection.close()


def metrics(url: str) -> list[tuple[str, Mapping[str, str], float]]:
    """Every sample of a Prometheus page as (name, labels, value)."""
    answer = call("GET", f"{url}/metrics", timeout=10.0)
    assert answer.status == 200, f"{url}/metrics answered {answer.status}"
    families = text_string_to_metric_families(answer.body.decode())
    return [(sample.name, sample.labels, sample.value) for family in families for sample in family.samples]


def metric(url: str, name: str) -> float:
    """The sum of all series of that exact name; 0 where there are none."""
    return sum(value for found, _, value in metrics(url) if found == name)
