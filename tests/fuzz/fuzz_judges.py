"""Other parsers' readings of the same bytes: h11 and llhttp (httptools).

Both are laxer than we are in places, so laws go one way: what we accept they accept, with the same boundaries.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import h11
import httptools


@dataclass
class Message:
    """A request or an answer as one parser reads it."""

    method: bytes = b""
    target: bytes = b""
    status: int = 0
    fields: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: bytes = b""
    whole: bool = False
    refused: bool = False  # within this message the parser gave up


class _Listener:
    def __init__(self, kind: Any) -> None:
        self.parser = kind(self)
        self.messages: list[Message] = []

    def on_message_begin(self) -> None:
        self.messages.append(Message())

    def on_url(self, url: bytes) -> None:
        self.messages[-1].target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.messages[-1].fields.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        message = self.messages[-1]
        if isinstance(self.parser, httptools.HttpRequestParser):
            message.method = self.parser.get_method()
        else:
            message.status = self.parser.get_status_code()

    def on_body(self, data: bytes) -> None:
        self.messages[-1].body += data

    def on_message_complete(self) -> None:
        self.messages[-1].whole = True


def _llhttp(kind: Any, data: bytes) -> list[Message]:
    listener = _Listener(kind)
    try:
        listener.parser.feed_data(data)
    except httptools.HttpParserUpgrade:
        pass
    except httptools.HttpParserError:
        if listener.messages:
            listener.messages[-1].refused = True  # what was read before it counts
    return listener.messages


def requests_by_llhttp(data: bytes) -> list[Message]:
    return _llhttp(httptools.HttpRequestParser, data)


def answers_by_llhttp(data: bytes) -> list[Message]:
    return _llhttp(httptools.HttpResponseParser, data)


def requests_by_h11(data: bytes) -> list[Message]:
    """All requests up to the first that h11 refuses."""
    judge = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    judge.receive_data(data)
    messages: list[Message] = []
    try:
        while True:
            event: Any = judge.next_event()
            if isinstance(event, h11.Request):
                messages.append(Message(event.method, event.target, fields=list(event.headers)))
            elif isinstance(event, h11.Data):
                messages[-1].body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                messages[-1].whole = True
                judge.send(h11.Response(status_code=204, headers=[]))
                judge.send(h11.EndOfMessage())
                if judge.our_state is not h11.DONE or judge.their_state is not h11.DONE:
                    return messages
                judge.start_next_cycle()
            else:
                return messages
    except h11.LocalProtocolError:
        return messages  # it cannot answer CONNECT: nothing behind it is HTTP
    except h11.RemoteProtocolError as problem:
        if messages and not messages[-1].whole:
            messages[-1].refused = True
        elif "no request line" in str(problem):  # an empty line, of which RFC 9112 section 2.2 lets servers ignore one
            messages.append(Message(refused=True))
        return messages


def answer_by_h11(data: bytes, method: bytes, *, end: bool) -> Message | None:
    """The final answer to a request of this method; None where h11 refuses it."""
    judge = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 20)
    judge.send(h11.Request(method=method, target=b"/", headers=[(b"host", b"a"), (b"content-length", b"0")]))
    judge.send(h11.EndOfMessage())
    judge.receive_data(data)
    if end:
        judge.receive_data(b"")
    message = Message()
    try:
        while True:
            event: Any = judge.next_event()
            if isinstance(event, h11.Response):
                message.status, message.fields = event.status_code, list(event.headers)
            elif isinstance(event, h11.Data):
                message.body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                message.whole = True
                return message
            elif event in (h11.NEED_DATA, h11.PAUSED) or isinstance(event, h11.ConnectionClosed):
                return message
    except h11.RemoteProtocolError:
        return None
