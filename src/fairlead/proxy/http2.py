"""One HTTP/2 connection of a client: frames in and out through the h2 library, a stream object per request.

Rule 1: what comes in is counted (wire/frames.py) before the library takes the trouble; floods end the connection.
Rule 2: a fault of one request ends its stream, a fault of the framing ends the connection, with a GOAWAY.
Rule 3: what streams write is sent once per turn of the loop, by turns, a frame each; while the connection itself
takes nothing, frames are not even made.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, cast

from h2.errors import ErrorCodes
from h2.events import (
    DataReceived,
    Event,
    RemoteSettingsChanged,
    RequestReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
    WindowUpdated,
)
from h2.exceptions import ProtocolError

from fairlead.proxy.http2_library import Http2Library
from fairlead.proxy.http2_stream import Http2Stream
from fairlead.proxy.timers import NEVER, TICK
from fairlead.wire.frames import BadFrames, FrameGuard

if TYPE_CHECKING:
    from fairlead.proxy.service import Service

log = logging.getLogger("fairlead")

LINGER_SECONDS, LINGER_BYTES = 2.0, 65_536  # after a refusal we read on, so that our GOAWAY is not lost in a reset

# What the connection itself waits for; streams have their own deadlines.
HEAD, IDLE, STREAMS, BLOCKED, CLOSING, CLOSED = range(6)


class Http2Connection(asyncio.Protocol):
    """A client connection, by ALPN or prior knowledge. Stands in the service where a `Client` stands."""

    protocol = "HTTP/2.0"

    __slots__ = (
        "_dirty", "_expires", "_flushing", "_goaway", "_guard", "_last", "_lingered", "_served", "_wants",
        "_written", "arrived", "blocked", "deadline", "h2", "peer", "secure", "service", "streams", "transport", "wake",
    )  # fmt: skip

    def __init__(self, service: Service, peer: str = "") -> None:
        self.service = service
        self.transport: asyncio.Transport = None  # type: ignore[assignment]
        self.peer = peer
        self.secure = False
        self.arrived = 0.0
        self.deadline = NEVER  # the earliest one of ours and the streams'
        self.wake = NEVER
        self._expires = NEVER  # our own
        self.blocked = False  # the transport's buffer is full
        self.streams: dict[int, Http2Stream] = {}
        self.h2 = Http2Library(service.limits)
        self._guard = FrameGuard(service.limits.head)
        self._dirty: dict[Http2Stream, None] = {}  # streams with something to send, in the order they came
        self._flushing = False
        self._goaway = False  # was the client told to open no more streams?
        self._last = 0  # the last stream that we take, once it was told
        self._served = False  # did a request come?
        self._wants = -1
        self._written = 0  # bytes ever given to the transport
        self._lingered = 0

    # --- asyncio ---------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        service = self.service
        self.transport = cast(asyncio.Transport, transport)
        self.arrived = service.clock()
        if not self.peer:
            peer = transport.get_extra_info("peername")
            self.peer = peer[0] if isinstance(peer, tuple) else "unix"
        self.secure = transport.get_extra_info("sslcontext") is not None
        if not service.client_connected(self):
            self._fail(ErrorCodes.ENHANCE_YOUR_CALM, 503, "too_many_connections", "too many connections")
            return
        self._flush()
        self._rearm()

    def data_received(self, data: bytes) -> None:
        if self._wants >= CLOSING:
            self._lingered += len(data)
            if self._lingered > LINGER_BYTES:
                self.abort()
            return
        try:
            for piece in self._guard.feed(data, self.service.wheel.now):
                for event in self.h2.receive_data(piece):
                    self._handle(event)
                    if self._wants >= CLOSING:
                        return
        except BadFrames as problem:
            status = {"head_too_long": 431, "bad_framing": 400}.get(problem.reason, 429)
            self._fail(ErrorCodes(problem.code), status, problem.reason, problem.message)
            return
        except ProtocolError as problem:
            self.h2.clear_outbound_data_buffer()  # of its own GOAWAY
            bomb = problem.error_code == ErrorCodes.ENHANCE_YOUR_CALM
            reason = "head_too_long" if bomb else "bad_framing"
            self._fail(problem.error_code, 431 if bomb else 400, reason, str(problem))
            return
        except Exception:
            log.exception("an HTTP/2 connection could not be handled; this is a fault in Fairlead")
            self._fail(ErrorCodes.INTERNAL_ERROR, 500, "internal_error", "the balancer failed on this connection")
            return
        if self._guard.leaving:
            self._leave()
        self._schedule()
        self._rearm()

    def eof_received(self) -> bool:
        """The client will send no more: it left."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._wants = CLOSED
        self.deadline = self._expires = NEVER
        self.service.client_lost(self)
        self._lose_streams()

    def pause_writing(self) -> None:
        self.blocked = True
        for stream in self.streams.values():
            stream.stall()
        self._rearm()

    def resume_writing(self) -> None:
        self.blocked = False
        for stream in self.streams.values():
            self.touch(stream)
        self._rearm()

    # --- events ----------------------------------------------------------------------------------------------

    def _handle(self, event: Event) -> None:
        if isinstance(event, DataReceived):
            stream = self.streams.get(event.stream_id)
            # Taken whatever becomes of it: bodies are bounded by limits.body, not by the windows.
            self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            if stream is not None:
                stream.data(event.data)
        elif isinstance(event, RequestReceived):
            self._request(event)
        elif isinstance(event, StreamEnded):
            stream = self.streams.get(event.stream_id)
            if stream is not None and stream.open:
                stream.ended()
        elif isinstance(event, WindowUpdated):
            stream = self.streams.get(event.stream_id)
            if not event.stream_id:
                self._touch_waiting()
            elif stream is not None and stream.waiting:
                self.touch(stream)
        elif isinstance(event, RemoteSettingsChanged):
            self.h2.bound_encoder()
            self._touch_waiting()  # it may have opened the windows
        elif isinstance(event, TrailersReceived):
            stream = self.streams.get(event.stream_id)
            if stream is not None:
                stream.trailers(event.headers)
        elif isinstance(event, StreamReset):
            stream = self.streams.pop(event.stream_id, None)
            self._dirty.pop(stream, None)  # type: ignore[arg-type]
            if stream is not None:
                stream.lost()
            if not event.remote_reset:
                self._guard.reset()

    def _request(self, event: RequestReceived) -> None:
        self._served = True
        if (self._goaway and event.stream_id > self._last) or len(self.streams) >= self.service.limits.streams:
            self.h2.reset_stream(event.stream_id, ErrorCodes.REFUSED_STREAM)
            if not self._goaway:
                self.service.recorder.refused("too_many_streams")
                self._guard.reset()
            return
        stream = self.streams[event.stream_id] = Http2Stream(self, event.stream_id)
        stream.begin(event.headers, ended=event.stream_ended is not None)

    def _touch_waiting(self) -> None:
        for stream in self.streams.values():
            if stream.waiting:
                self.touch(stream)

    # --- for the streams -------------------------------------------------------------------------------------

    def touch(self, stream: Http2Stream) -> None:
        """It has something to send: with the next flush."""
        self._dirty[stream] = None
        if not self._flushing:
            self._schedule()

    def done(self, stream: Http2Stream) -> None:
        """Its answer has gone out to the end."""
        self._guard.answered += 1
        self._forget(stream)
        if stream.open:  # it need not send the rest of its request, RFC 9113 section 8.1
            self._reset(stream, ErrorCodes.NO_ERROR)

    def drop(self, stream: Http2Stream, code: ErrorCodes) -> None:
        """End it at once."""
        self._forget(stream)
        self._reset(stream, code)
        self._schedule()

    def faulty(self, stream: Http2Stream) -> None:
        """The same, and the client is to blame."""
        self.drop(stream, ErrorCodes.PROTOCOL_ERROR)
        self._guard.reset()

    def taken(self) -> int:
        """Bytes that the client's side has taken."""
        return self._written - self.transport.get_write_buffer_size()

    def _forget(self, stream: Http2Stream) -> None:
        self.streams.pop(stream.id, None)
        self._dirty.pop(stream, None)
        stream.lost()
        if not self.streams:
            if self._goaway:
                self._schedule()
            self._rearm()

    def _reset(self, stream: Http2Stream, code: ErrorCodes) -> None:
        try:
            self.h2.reset_stream(stream.id, code)
        except ProtocolError:
            log.debug("stream %d is closed already", stream.id)

    # --- sending ---------------------------------------------------------------------------------------------

    def _schedule(self) -> None:
        if not self._flushing and self._wants < CLOSING:
            self._flushing = True
            self.service.loop.call_soon(self._flush)

    def _flush(self) -> None:
        """Send what is there, by turns, as far as the windows let it."""
        self._flushing = True
        try:
            self._pump()
        except Exception:
            log.exception("an HTTP/2 connection could not be written; this is a fault in Fairlead")
            self._fail(ErrorCodes.INTERNAL_ERROR, 500, "internal_error", "the balancer failed on this connection")
        self._flushing = False
        self._write()
        if self._goaway and not self.streams and self._wants < CLOSING:
            self._close()

    def _pump(self) -> None:
        dirty = self._dirty
        while dirty and not self.blocked and self._wants < CLOSING:
            for stream in list(dirty):
                before = self.h2.waiting
                try:
                    more = stream.pump()
                    self._guard.sent += self.h2.waiting != before
                except ProtocolError:  # the client closed it, and the event is still to come
                    self._forget(stream)
                    continue
                if not more:
                    dirty.pop(stream, None)
        if self.blocked:
            for stream in dirty:
                stream.stall()
            dirty.clear()

    def _write(self) -> None:
        data = self.h2.take()
        if data and self._wants != CLOSED:
            self._written += len(data)
            self.transport.write(data)

    # --- ends ------------------------------------------------------------------------------------------------

    def _rearm(self) -> None:
        """Set the deadline for what the connection waits for, if that has changed."""
        timeouts = self.service.timeouts
        if self._wants >= CLOSING:
            return
        if self._guard.in_block or not self._served:
            wants, seconds = HEAD, timeouts.client_header
        elif self.blocked:
            wants, seconds = BLOCKED, timeouts.client_write + TICK  # the streams speak first
        elif self.streams:
            wants, seconds = STREAMS, NEVER
        else:
            wants, seconds = IDLE, timeouts.client_idle
        if wants != self._wants:
            self._wants = wants
            self._expire(seconds)

    def _expire(self, seconds: float) -> None:
        self._expires = self.service.wheel.now + TICK + seconds
        self.watch(self._expires)

    def watch(self, deadline: float) -> None:
        """Look at us, or at a stream, at this time. Streams are not in the wheel: it would keep them long after."""
        if deadline < self.deadline:
            self.deadline = deadline
            if deadline < self.wake:
                self.service.wheel.enter(self)

    def on_deadline(self, now: float) -> None:
        self.deadline = NEVER
        for stream in [stream for stream in self.streams.values() if stream.deadline <= now]:
            stream.on_deadline()
        if self._expires <= now:
            self._expires = NEVER
            self._expired()
        for stream in self.streams.values():
            self.watch(stream.deadline)
        self.watch(self._expires)

    def _expired(self) -> None:
        if self._wants == HEAD and self._guard.in_block:
            self._fail(ErrorCodes.ENHANCE_YOUR_CALM, 408, "header_timeout", "the request's head did not come in time")
        elif self._wants in (HEAD, IDLE):
            self._leave()
        elif self._wants != STREAMS:
            self.abort()

    def _fail(self, code: ErrorCodes | int, status: int, reason: str, message: str) -> None:
        """Refuse the connection: say why, and let go of all its streams."""
        self.service.recorder.refused(reason)
        self.service.recorder.early(self, status, reason, None, self.service.new_request_id())
        self._tell(code, message.encode("ascii", "replace"))
        self._wants = CLOSING
        self._lose_streams()
        self._expire(LINGER_SECONDS)
        if self.transport.can_write_eof():
            self.transport.write_eof()
        else:
            self.transport.close()

    def _tell(self, code: ErrorCodes | int, message: bytes = b"") -> None:
        """A GOAWAY."""
        if self._goaway and code == ErrorCodes.NO_ERROR:
            return
        self._goaway = True
        self._last = self.h2.highest_inbound_stream_id
        self.h2.say_goaway(code, message)
        self._write()

    def _leave(self) -> None:
        """Take no more streams; close when none is left."""
        if self._wants < CLOSING:
            self._tell(ErrorCodes.NO_ERROR)
            self._schedule()

    def _lose_streams(self) -> None:
        streams, self.streams = self.streams, {}
        self._dirty.clear()
        for stream in streams.values():
            stream.lost()

    def _close(self) -> None:
        """Close when what was written has been taken, within the time a client has for that."""
        self._wants = CLOSING
        self._expire(self.service.timeouts.client_write)
        self.transport.close()

    # --- for the service -------------------------------------------------------------------------------------

    @property
    def busy(self) -> bool:
        """Is a request coming in, under way, or its answer not yet taken?"""
        return self._wants != CLOSED and (bool(self.streams) or self.transport.get_write_buffer_size() > 0)

    def finish(self) -> None:
        """Take no more requests; close when those that run are answered."""
        self._leave()

    def cut(self, *, reset: bool) -> None:
        """Close now; what was written may still be taken."""
        self._flush()
        self._lose_streams()
        if self._wants < CLOSING:
            self._close()

    def has_left(self) -> bool:
        return False  # it is always read, and so tells us itself

    def abort(self) -> None:
        """Close at once."""
        if self._wants != CLOSED:
            self._wants = CLOSING
            self.transport.abort()
