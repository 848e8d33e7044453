"""What does an exchange need of the client that it answers?

An HTTP/1 connection (client.py) and one stream of an HTTP/2 connection (http2_stream.py) both offer it, so that an
exchange, its retries and its deadlines are the same for both. The exchange says what happens; how that looks in
bytes is the downstream's own affair.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from fairlead.proxy.exchange import Exchange
    from fairlead.wire.http1 import RequestHead, ResponseHead


class Asker(Protocol):
    """Whoever asked, as the records know it."""

    peer: str
    arrived: float
    protocol: str


class Downstream(Protocol):
    """Where one exchange's answer goes. Its deadline is that of whatever the exchange waits for."""

    peer: str
    protocol: str
    secure: bool  # does it speak TLS?
    arrived: float  # when the request's first byte came
    deadline: float
    stalled: bool  # it takes nothing of what we write
    plain: bool  # body bytes go without the framing of HTTP/1: no chunks
    exchange: Exchange | None

    @property
    def write(self) -> Callable[[bytes], None]:
        """Takes bytes of the answer: what `answer_head` gave, then those of the body."""

    def set_deadline(self, seconds: float) -> None: ...

    def interim(self, exchange: Exchange, response: ResponseHead) -> None:
        """A 1xx before the answer."""

    def answer_head(self, exchange: Exchange, response: ResponseHead, recode: int) -> bytes:
        """The answer begins; bytes to write before those of its body (none if the head goes its own way)."""

    def exchange_ended(self, exchange: Exchange) -> None:
        """The answer was written in full."""

    def respond(self, head: RequestHead, status: int, body: bytes, request_id: bytes, extra: bytes = b"") -> None:
        """An answer of our own to a complete request."""

    def break_off(self, exchange: Exchange, event: bytes) -> None:
        """End a begun answer so that nobody takes it for a whole one; `event` tells why, where one may stand."""

    def abort(self) -> None:
        """It takes nothing: let go of it at once."""


class Connection(Protocol):
    """A client's connection, as the service keeps it."""

    @property
    def busy(self) -> bool:
        """Is a request coming in, under way, or its answer not yet taken?"""

    def finish(self) -> None:
        """Take no more requests; close when all that runs is done."""

    def cut(self, *, reset: bool) -> None:
        """Close, whatever is under way."""

    def has_left(self) -> bool:
        """Has it closed its side?"""

    def abort(self) -> None:
        """Close at once."""
