"""An HTTP/2 client for tests: the h2 library over a raw connection, told step by step what to send.

Its checks are off, so that it can say what no honest client says; frames that the library would not make are written
with `raw`. Windows are opened only when a test says so (`auto` False), as flow control is what many tests are about.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    DataReceived,
    Event,
    InformationalResponseReceived,
    ResponseReceived,
    StreamEnded,
    StreamReset,
)
from h2.settings import SettingCodes
from hyperframe.frame import Frame, GoAwayFrame
from peers import PATIENCE, Gone, until

CHAT_BODY = b'{"model":"m","messages":[{"role":"user","content":"hello"}]}'
STREAM_BODY = b'{"model":"m","stream":true,"messages":[{"role":"user","content":"hello"}]}'

Fields = list[tuple[bytes, bytes]]


@dataclass
class Got:
    """What came on one stream."""

    fields: list[tuple[bytes, bytes]] = field(default_factory=list)
    interim: list[list[tuple[bytes, bytes]]] = field(default_factory=list)
    body: bytes = b""
    ended: bool = False  # with END_STREAM
    reset: int | None = None  # the RST_STREAM's code

    @property
    def status(self) -> int:
        return int(dict(self.fields).get(b":status", b"0"))

    @property
    def over(self) -> bool:
        return self.ended or self.reset is not None

    def field(self, name: bytes) -> bytes | None:
        return dict(self.fields).get(name)


def head(method: bytes = b"POST", path: bytes = b"/v1/chat/completions", *more: tuple[bytes, bytes]) -> Fields:
    """A request's fields, right ones."""
    return [(b":method", method), (b":scheme", b"http"), (b":authority", b"test"), (b":path", path), *more]


class Http2Client(asyncio.Protocol):
    """One connection. `got[id]` is what came on a stream so far."""

    def __init__(self, *, auto: bool = True, window: int = 65_535, prefix: bytes = b"") -> None:
        self.h2 = H2Connection(
            H2Configuration(
                client_side=True,
                header_encoding=None,
                validate_outbound_headers=False,
                normalize_outbound_headers=False,
            )
        )
        # The library stops reading at a GOAWAY, but what runs goes on until the streams before it are over.
        self.h2._frame_dispatch_table[GoAwayFrame] = self._goaway
        self.auto = auto
        self.got: dict[int, Got] = {}
        self.events: list[Event] = []
        self.goaway: tuple[int, int, bytes] | None = None  # last stream, code, message
        self.lost = False
        self.transport: asyncio.Transport = cast(asyncio.Transport, None)
        self._window = window
        self._changed = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: self._window})
        self.h2.clear_outbound_data_buffer()
        self.h2.local_settings.acknowledge()
        self.h2.initiate_connection()
        self.flush()

    def data_received(self, data: bytes) -> None:
        for event in self.h2.receive_data(data):
            self.events.append(event)
            got = self.got.setdefault(getattr(event, "stream_id", 0) or 0, Got())
            if isinstance(event, ResponseReceived):
                got.fields = list(event.headers)
            elif isinstance(event, InformationalResponseReceived):
                got.interim.append(list(event.headers))
            elif isinstance(event, DataReceived):
                got.body += event.data
                if self.auto:
                    self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, StreamEnded):
                got.ended = True
            elif isinstance(event, StreamReset) and event.remote_reset:
                got.reset = int(event.error_code)
        self.flush()

    def _goaway(self, frame: GoAwayFrame) -> tuple[list[Frame], list[Event]]:
        self.goaway = (frame.last_stream_id, frame.error_code, frame.additional_data)
        return [], []

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        self._changed.set()

    def flush(self) -> None:
        data = self.h2.data_to_send()
        if data and not self.transport.is_closing():
            self.transport.write(data)

    # --- steps ---

    def raw(self, *frames: Frame | bytes) -> None:
        """Frames as they are, past the library."""
        self.flush()
        self.transport.write(b"".join(f if isinstance(f, bytes) else f.serialize() for f in frames))

    def begin(self, fields: Fields | None = None, *, end: bool = False) -> int:
        """Open a stream; its id."""
        id = self.h2.get_next_available_stream_id()
        self.h2.send_headers(id, fields if fields is not None else head(), end_stream=end)
        self.got[id] = Got()
        self.flush()
        return id

    def send(self, id: int, data: bytes, *, end: bool = False) -> None:
        """Body bytes, as far as the window is known to be open."""
        while len(data) > 16_384:
            self.h2.send_data(id, data[:16_384])
            data = data[16_384:]
        self.h2.send_data(id, data, end_stream=end)
        self.flush()

    def ask(self, nonce: str = "n0", body: bytes = CHAT_BODY, path: bytes = b"/v1/chat/completions") -> int:
        """A whole chat request."""
        id = self.begin(
            head(
                b"POST",
                path,
                (b"content-type", b"application/json"),
                (b"content-length", b"%d" % len(body)),
                (b"x-nonce", nonce.encode()),
            )
        )
        self.send(id, body, end=True)
        return id

    def get(self, path: bytes = b"/health", *more: tuple[bytes, bytes]) -> int:
        return self.begin(head(b"GET", path, *more), end=True)

    def reset(self, id: int, code: int = 8) -> None:
        self.h2.reset_stream(id, code)
        self.flush()

    def open_window(self, size: int, id: int | None = None) -> None:
        self.h2.increment_flow_control_window(size, id)
        self.flush()

    async def answer(self, id: int, seconds: float = PATIENCE) -> Got:
        """Wait until a stream is over."""
        got = self.got[id]
        await until(lambda: got.over or self.lost, f"stream {id} is over; {got}", seconds)
        if not got.over:
            raise Gone(f"the connection was lost: {self.goaway}")
        return got

    async def gone(self, seconds: float = PATIENCE) -> tuple[int, int, bytes]:
        """Wait for the GOAWAY and the end of the connection."""
        await until(lambda: self.lost, "the connection is closed", seconds)
        assert self.goaway is not None
        return self.goaway

    def close(self) -> None:
        self.transport.abort()


async def dial2(
    address: tuple[str, int],
    *,
    auto: bool = True,
    window: int = 65_535,
    receive_buffer: int | None = None,
    tls: ssl.SSLContext | None = None,
) -> Http2Client:
    """Connect with prior knowledge, or by ALPN where `tls` is given."""
    loop = asyncio.get_running_loop()
    sock = socket.socket()
    sock.setblocking(False)
    if receive_buffer is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    await loop.sock_connect(sock, address)
    make: Callable[[], Http2Client] = lambda: Http2Client(auto=auto, window=window)  # noqa: E731
    _, client = await loop.create_connection(make, sock=sock, ssl=tls, server_hostname="localhost" if tls else None)
    return client
