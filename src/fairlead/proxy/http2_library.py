"""The h2 library's connection, set up as we need it, and the few frames that we make ourselves.

By hand are made: DATA frames in the middle of a stream, as a stream is thousands of them and the library takes 15 us
for one; and GOAWAY, as the library lets no stream go on once it has sent one. What the library would keep count of for
them (the windows) is kept here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.settings import SettingCodes, Settings
from hyperframe.frame import GoAwayFrame

if TYPE_CHECKING:
    from fairlead.proxy.service import LimitSettings

STREAM_WINDOW = 262_144  # bytes that a client may send on a stream before we have taken them
CONNECTION_WINDOW = 1_048_576  # and on all of them together
MAX_TABLE = 4_096  # bytes of fields that we remember having sent: HTTP/2's default

# Fields are checked by us (wire/http2.py): the library would end the connection, with all its streams, for one
# malformed request.
CONFIG = H2Configuration(
    client_side=False,
    header_encoding=None,
    validate_inbound_headers=False,
    normalize_inbound_headers=False,
    validate_outbound_headers=False,
    normalize_outbound_headers=False,
)


class Http2Library(H2Connection):
    """One connection's frames and states."""

    MAX_CLOSED_STREAMS = 1_024  # remembered to tell late frames from wrong ones; the library's own number is 65,536

    def __init__(self, limits: LimitSettings) -> None:
        super().__init__(CONFIG)
        self._made: list[bytes] = []  # what is to be sent before what the library has ready
        settings = {
            SettingCodes.MAX_CONCURRENT_STREAMS: limits.streams,
            SettingCodes.INITIAL_WINDOW_SIZE: STREAM_WINDOW,
            SettingCodes.MAX_HEADER_LIST_SIZE: limits.head,
        }
        self.local_settings = Settings(client=False, initial_values=settings)
        self.initiate_connection()
        self.increment_flow_control_window(CONNECTION_WINDOW - 65_535)
        # The streams are counted by us: the library would end the connection where one stream can be refused, though a
        # client that has not seen our settings yet is not at fault.
        settings[SettingCodes.MAX_CONCURRENT_STREAMS] = 2**31 - 1
        self.local_settings = Settings(client=False, initial_values=settings)
        self.decoder.max_header_list_size = 2 * limits.head  # between the two there is an answer: 431

    @property
    def waiting(self) -> int:
        """A number that is another one after each frame that was made."""
        return len(self._made) + len(self._data_to_send)

    def bound_encoder(self) -> None:
        """A client may let us use a table of any size; the library searches it from end to end for each field."""
        if self.encoder.header_table_size > MAX_TABLE:
            self.encoder.header_table_size = MAX_TABLE

    def send_part(self, id: int, data: bytes) -> None:
        """A DATA frame that does not end its stream and for which the windows have room."""
        size = len(data)
        self.outbound_flow_control_window -= size
        self.streams[id].outbound_flow_control_window -= size
        self._made += (self.data_to_send(), size.to_bytes(3) + b"\0\0" + id.to_bytes(4), data)

    def say_goaway(self, code: int, message: bytes = b"") -> None:
        """Streams opened from now on are not taken."""
        last = self.highest_inbound_stream_id
        frame = GoAwayFrame(0, last_stream_id=last, error_code=code, additional_data=message[:200])
        self._made += (self.data_to_send(), frame.serialize())

    def take(self) -> bytes:
        """All that is to be written."""
        data = self.data_to_send()
        if self._made:
            data = b"".join((*self._made, data))
            self._made.clear()
        return data
