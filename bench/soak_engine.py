"""An engine with the faults that it is asked for: what would a balancer see of a bad day?

Run as `python -m bench.soak_engine PORT NUMBER`; port 0 takes any. Prints `port N` once it listens; ends when its
standard input closes.
Rule 1: the request says what happens, in `x-soak: KIND`; faults marked with `x-soak-at: N` happen at engine N only, so
that a balancer that moves the request can save it. Rule 2: the request's nonce comes back in every answer and event.
Rule 3: now and then a kept connection is closed just after an answer without a word of warning, as uvicorn does it.
"""

from __future__ import annotations

import asyncio
import random
import re
import socket
import struct
import sys
from typing import cast

import uvloop

CLOSES = 0.02  # of the answers: the connection is closed behind them
_FIELD = re.compile(rb"\r\n(x-soak|x-soak-at|x-nonce|content-length): *([^\r]*)", re.IGNORECASE)
_JSON = b"HTTP/1.1 %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
_SSE = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_MODELS = b'{"object":"list","data":[{"id":"m","object":"model"}]}'
EVENTS = 12


def event(nonce: bytes, number: int) -> bytes:
    return b'data: {"id":"%b","choices":[{"index":0,"delta":{"content":" %d"},"finish_reason":null}]}\n\n' % (
        nonce,
        number,
    )


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


class Engine(asyncio.Protocol):
    """One connection."""

    number = b"0"
    rng = random.Random()
    slowness = 1.0  # times that every pause takes longer

    def __init__(self) -> None:
        self._transport: asyncio.Transport
        self._buffer = b""
        self._answers = 0
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n") + 4
        if end == 3:
            return
        fields = {name.lower(): value for name, value in _FIELD.findall(self._buffer[:end])}
        length = int(fields.get(b"content-length", b"0"))
        if len(self._buffer) < end + length:
            return
        head, self._buffer = self._buffer[:end], self._buffer[end + length :]
        if head.startswith(b"GET "):
            self._fact(head.split(b" ", 2)[1])
            return
        at = fields.get(b"x-soak-at")
        kind = fields.get(b"x-soak", b"plain").decode()
        if at is not None and at != self.number:
            kind = "stream" if kind == "head" else "plain"
        self._play(kind, fields.get(b"x-nonce", b""))

    def _fact(self, path: bytes) -> None:
        """Answer what balancers ask on their own."""
        known = path in (b"/v1/models", b"/health")
        self._say(_JSON % (b"200 OK" if known else b"404 Not Found", len(_MODELS), _MODELS))

    def _say(self, data: bytes) -> None:
        self._answers += 1
        self._transport.write(data)

    def _play(self, kind: str, nonce: bytes) -> None:
        body = b'{"nonce":"%b","choices":[]}' % nonce
        if kind == "race" and self._answers:  # as if it had closed before the request came
            self._transport.close()
        elif kind in ("plain", "race"):
            self._say(_JSON % (b"200 OK", len(body), body))
            if self.rng.random() < CLOSES:
                self._transport.close()
        elif kind == "late":
            self._timer = asyncio.get_running_loop().call_later(0.03 * self.slowness, self._play, "plain", nonce)
        elif kind in ("400", "500", "503"):
            self._say(_JSON % (kind.encode() + b" No", len(body), body))
        elif kind == "reset":
            self._reset()
        elif kind == "head":
            self._transport.write(_SSE)
            asyncio.get_running_loop().call_later(0.002, self._reset)
        else:
            self._say(_SSE)
            self._event(kind, nonce, 0)

    def _event(self, kind: str, nonce: bytes, number: int) -> None:
        loop = asyncio.get_running_loop()
        if number == EVENTS // 2 and kind == "breaks":
            self._reset()
        elif number == EVENTS // 2 and kind == "ends":  # properly, in the middle
            self._transport.write(b"0\r\n\r\n")
        elif number == EVENTS:
            self._transport.write(chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")
        else:
            self._transport.write(chunk(event(nonce, number)))
            pause = (0.01 if kind == "slow" else 0.0005) * self.slowness
            self._timer = loop.call_later(pause, self._event, kind, nonce, number + 1)

    def _reset(self) -> None:
        sock = self._transport.get_extra_info("socket")
        if sock is not None and not self._transport.is_closing():
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()


async def _serve(kind: type[Engine], port: int) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(kind, "127.0.0.1", port, backlog=4096)
    print(f"port {server.sockets[0].getsockname()[1]}", flush=True)
    ended = asyncio.Event()
    loop.add_reader(sys.stdin.fileno(), ended.set)
    await ended.wait()


def main(kind: type[Engine]) -> None:
    """Serve until standard input closes, as the command line says."""
    kind.number = sys.argv[2].encode()
    kind.rng = random.Random(int(sys.argv[2]))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(kind, int(sys.argv[1])))


if __name__ == "__main__":
    main(Engine)
