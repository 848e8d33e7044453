"""How does an answer look on an HTTP/1 connection?

Framing passes as the backend sent it where it can (see upstream.py): this writes the heads, and breaks answers off.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fairlead.wire.errors import error_body, render

if TYPE_CHECKING:
    from collections.abc import Callable

    from fairlead.proxy.exchange import Exchange
    from fairlead.proxy.service import Service
    from fairlead.wire.http1 import RequestHead, ResponseHead

# SDKs of OpenAI and Anthropic obey it: what was tried on enough backends is not to be sent three times more.
NO_RETRY = b"x-should-retry: false\r\n"


class Http1Answers:
    """The part of a client connection that an exchange writes its answer to."""

    __slots__ = ()

    if TYPE_CHECKING:
        service: Service
        keep_alive: bool
        plain: bool
        exchange: Exchange | None
        write: Callable[[bytes], None]

        def cut(self, *, reset: bool) -> None: ...

        def _next(self) -> None: ...

        def _close(self) -> None: ...

    def interim(self, exchange: Exchange, response: ResponseHead) -> None:
        """A 1xx before the answer: passed on to clients that know what it is."""
        if exchange.head.minor == 1:
            self.write(response.forward + b"\r\n")

    def answer_head(self, exchange: Exchange, response: ResponseHead, recode: int) -> bytes:
        """The head's bytes, to be written with the body's first."""
        if response.status == 204:
            framing = b""
        elif response.chunked and not recode:
            framing = b"transfer-encoding: chunked\r\n"
        elif response.content_length is not None:
            framing = b"content-length: %d\r\n" % response.content_length
        elif response.status in (204, 304) or exchange.head.method == b"HEAD":
            framing = b""
        elif recode == 2:
            framing = b"transfer-encoding: chunked\r\n"
        else:
            framing = b""
        if not self.keep_alive or self.service.draining or recode == 1:
            self.keep_alive = False  # type: ignore[misc]  # the slot is the connection's
            framing += b"connection: close\r\n"
        elif self.plain:
            framing += b"connection: keep-alive\r\n"
        if exchange.final:
            framing += NO_RETRY
        return b"%b%bx-request-id: %b\r\n\r\n" % (response.forward, framing, exchange.request_id)

    def break_off(self, exchange: Exchange, event: bytes) -> None:
        """The event, framed as the client expects it, and no proper end."""
        until_close = self.plain and (exchange.response is None or exchange.response.content_length is None)
        if event:
            self.write(event if self.plain else b"%x\r\n%b\r\n" % (len(event), event))
        # Where only the close tells the end, a clean close would be a lie.
        self.cut(reset=until_close and not event)

    def respond(self, head: RequestHead, status: int, body: bytes, request_id: bytes, extra: bytes = b"") -> None:
        """An answer of our own to a complete request."""
        if self.service.draining:
            self.keep_alive = False  # type: ignore[misc]
        close = not self.keep_alive
        self.write(render(status, body, request_id, extra, close=close, bodyless=head.method == b"HEAD"))
        self.exchange = None  # type: ignore[misc]
        if self.keep_alive:
            self._next()
        else:
            self._close()


def respond_error(
    exchange: Exchange, status: int, code: str, message: str, param: str | None, retry_after: int | None
) -> None:
    """An error of our own in place of a backend's answer, to whatever client."""
    body = error_body(status, code, message, param, anthropic=exchange.path == b"/v1/messages")
    extra = b"retry-after: %d\r\n" % retry_after if retry_after is not None else b""
    if exchange.final:
        extra += NO_RETRY
    exchange.client.respond(exchange.head, status, body, exchange.request_id, extra)
