"""The engines' side of the proxy's connections: what vLLM's server writes, when the test says so."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from parity_log import NOBODY
from parity_memory import Loop, Wire
from parity_script import CHAT, TOO_LONG, Asked

from fairlead.core.model import Usage

LAST = b"0\r\n\r\n"
STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
REFUSAL = b'{"error":{"message":"too long","type":"BadRequestError","param":"input_tokens","code":400}}'
ONE_BY_ONE = 3  # so many events come in a piece each; more come in one piece


class Line(Wire):
    """A connection of the proxy to an engine, from the engine's side: it reads requests and says what it is told."""

    def __init__(self, loop: Loop, upstream: asyncio.Protocol, network: Network) -> None:
        super().__init__(loop, upstream)
        self.network = network
        self._got = b""
        self.request = NOBODY
        self.head_sent = False
        self.events = 0  # with a token or the role

    def heard(self, data: bytes) -> None:
        got = self._got = self._got + data
        end = got.find(b"\r\n\r\n")
        if end < 0:
            return
        fields = dict(line.lower().split(b": ", 1) for line in got[:end].split(b"\r\n")[1:])
        if len(got) < end + 4 + int(fields[b"content-length"]):
            return
        self._got = b""
        self.request = int(fields[b"x-request-id"][1:])
        self.head_sent, self.events = False, 0
        self.network.received(self, got[end + 4 :])

    def say(self, data: bytes) -> None:
        assert not self.closed
        self.protocol.data_received(data)


def _chunk(event: bytes) -> bytes:
    data = b"data: " + event + b"\n\n"
    return b"%x\r\n%b\r\n" % (len(data), data)


_TOKEN = {
    True: _chunk(b'{"choices":[{"index":0,"delta":{"content":" one"}}]}'),
    False: _chunk(b'{"choices":[{"index":0,"text":" one"}]}'),
}
_ROLE = _chunk(b'{"choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}')


class Network:
    """All engines: which are there, and who is working on which request."""

    def __init__(self, loop: Loop, asked: Sequence[Asked]) -> None:
        self.asked = asked
        self.names: dict[tuple[str, int], str] = {}
        self.down: set[str] = set()
        self.lines: dict[int, Line] = {}  # by request
        self._loop = loop
        loop.open = self._open

    def _open(self, host: str, port: int, factory: Callable[[], asyncio.Protocol]) -> None:
        if self.names[host, port] in self.down:
            raise ConnectionRefusedError
        protocol = factory()
        protocol.connection_made(Line(self._loop, protocol, self))

    def received(self, line: Line, body: bytes) -> None:
        """A whole request has come. Half of the engines' answers begin at once with their head, as vLLM's do."""
        assert body == self.asked[line.request].body
        self.lines[line.request] = line
        if line.request % 2 and self.asked[line.request].request.prompt < TOO_LONG:  # those may be answered with 400
            self._loop.call_soon(self._head, line)

    def _head(self, line: Line) -> None:
        if not line.closed and not line.head_sent:
            line.head_sent = True
            line.say(STREAM_HEAD)

    def first(self, request: int) -> None:
        line = self.lines[request]
        data = b"" if line.head_sent else STREAM_HEAD
        line.head_sent = True
        chat = self.asked[request].path == CHAT
        line.events = 1 + chat
        line.say(data + (_ROLE if chat else b"") + _TOKEN[chat])

    def up_to(self, request: int, events: int) -> None:
        """Say tokens until so many events were said in all."""
        line = self.lines[request]
        new, line.events = events - line.events, max(events, line.events)
        piece = _TOKEN[self.asked[request].path == CHAT]
        if 0 < new <= ONE_BY_ONE:
            for _ in range(new):
                line.say(piece)
        elif new > 0:
            line.say(piece * new)

    def end(self, request: int, usage: Usage) -> None:
        """The last tokens, the counts and the end, in two pieces as vLLM's server sends them."""
        chat = self.asked[request].path == CHAT
        self.up_to(request, usage.completion_tokens + chat)
        counts: dict[str, Any] = {
            "prompt_tokens": usage.prompt_tokens,
            "total_tokens": usage.prompt_tokens + usage.completion_tokens,
            "completion_tokens": usage.completion_tokens,
        }
        if usage.cached_tokens is not None:
            counts["prompt_tokens_details"] = {"cached_tokens": usage.cached_tokens}
        line = self.lines.pop(request)
        line.say(_chunk(msgspec.json.encode({"choices": [], "usage": counts})) + _chunk(b"[DONE]"))
        line.say(LAST)

    def refuse(self, request: int) -> None:
        line = self.lines.pop(request)
        head = b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
        line.say(head % len(REFUSAL) + REFUSAL)

    def lose(self, request: int) -> None:
        self.lines.pop(request).lose(ConnectionResetError())
