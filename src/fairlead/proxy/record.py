"""What is kept of a request when it is over: for the access log, `/api/decisions` and `/api/explain`.

Holds no body, no header and no text of the prompt. Times are seconds on the host's clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fairlead.core.cluster.ledger import Lease
    from fairlead.proxy.hedge import Told
    from fairlead.proxy.trace import Trace


class Record:
    """One finished request. An exchange fills it in as it goes."""

    __slots__ = (
        "arrived", "bytes_out", "cached_tokens", "duration", "error", "hedge", "lease", "method", "model", "outcome",
        "output_tokens", "path", "peer", "prompt_tokens", "protocol", "request_id", "status", "stream", "trace",
        "tried", "tries", "ttft", "version",
    )  # fmt: skip

    def __init__(self) -> None:
        self.request_id = ""
        self.arrived = 0.0
        self.peer = ""  # the client's address
        self.method = ""
        self.protocol = "HTTP/1.1"
        self.path = ""  # without the query
        self.model: str | None = None
        self.stream = False
        self.status = 0  # what the client got; 499: it left before
        self.outcome = ""  # see core/balancer.py
        self.error = ""  # short fixed word where something went wrong
        self.lease: Lease | None = None  # the last one; None when the request was never placed
        self.hedge: Told | None = None  # where a second backend was asked before the first had answered
        self.trace: Trace | None = None  # where it may have spans
        self.version = 0  # of the configuration that was in force when it came
        self.tries = 0
        self.tried: Sequence[str] = ()  # backends that failed it
        self.prompt_tokens: int | None = None  # as the engine counted, where it did
        self.output_tokens: int | None = None
        self.cached_tokens: int | None = None  # prompt tokens that the engine found in its cache, where it told
        self.bytes_out = 0
        self.ttft: float | None = None  # seconds from the request's first byte to the answer's first body byte
        self.duration = 0.0

    @property
    def backend(self) -> str | None:
        return self.lease.backend.id if self.lease is not None else None
