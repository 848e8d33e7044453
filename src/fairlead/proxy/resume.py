"""A stream that outlives its engine: what it said is kept, and another engine is asked for the rest.

Only with `resume: true`, and only for requests that wire/resume.py can continue; all others are plain exchanges.
Such an exchange reads its stream event by event, and passes on whole events only: half of one never needs mending.
Rule 1: an engine has died when its connection breaks, when it says so by an error event (5xx), when it makes no
progress for `timeouts.idle`, or when its stream ends without a last word. Its lease is closed as failed.
Rule 2: once per request. Until the second engine begins to answer, the usual rules of retries hold for it as well;
afterwards its death is told to the client, as any other.
Rule 3: what cannot be continued ends as if there were no such thing: see `Exchange._break`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from fairlead.core.balancer import ABANDONED, FAILED, OK
from fairlead.core.model import Facts, Usage
from fairlead.core.retry import CONNECT
from fairlead.proxy.exchange import RETRIED, Exchange
from fairlead.proxy.tries import CONNECTING, ENDED, ENGINE_ERROR, POISON, fail_lease, moved
from fairlead.wire.errors import error_event
from fairlead.wire.openai import stream_overhead
from fairlead.wire.resume import (
    MAX_KEPT,
    TAKES_IDS,
    Kept,
    Plan,
    Rewriter,
    asking_ids,
    closing,
    continuation,
    is_engines_end,
    without_ids,
)
from fairlead.wire.sse import DONE, EventReader, data_of, event

if TYPE_CHECKING:
    from fairlead.proxy.downstream import Downstream
    from fairlead.proxy.service import Service
    from fairlead.proxy.upstream import Upstream
    from fairlead.wire.http1 import RequestHead, ResponseHead

RESUME: Final = "resume"  # as the metrics call such a retry
LAST_CHUNK: Final = b"0\r\n\r\n"

_decode = msgspec.json.Decoder(dict).decode
_encode = msgspec.json.encode


class ResumableExchange(Exchange):
    """An exchange that reads along."""

    __slots__ = ("_asked", "_counted", "_following", "_original", "_query", "_reader", "_rewriter", "kept", "plan")

    def __init__(
        self,
        service: Service,
        client: Downstream,
        head: RequestHead,
        target: bytes,
        path: bytes,
        body: bytes,
        facts: Facts,
        request_id: bytes,
        arrived: float,
        replay_safe: bool,
        plan: Plan,
    ) -> None:
        super().__init__(service, client, head, target, path, body, facts, request_id, arrived, replay_safe)
        self.plan = plan
        self.kept = Kept(plan)
        self._original = body  # needed again after the commit
        self._query = target[len(path) :]
        self._counted = 0  # bytes in `service.memory` beside those of `body`
        self._asked = False  # was this engine asked for token ids?
        self._following = False  # is the answer a stream that can be read?
        self._reader = EventReader()
        self._rewriter: Rewriter | None = None  # of the second engine's events, when it was asked

    # --- asking ----------------------------------------------------------------------------------------------

    def _send(self, *, fresh: bool) -> None:
        engine = self.service.engine_of(self.lease.backend.id)
        if self._rewriter is None:
            self._following = False
            body, self._asked = self.first_asked(self.lease.backend.id)
        else:
            asked = continuation(self.path, self._original, self.plan, self.kept, engine)
            if asked is None:
                self.service.balancer.finish(self.lease, ABANDONED, self.service.clock())
                self._end_broken("the backend broke down, and the engines that are left cannot continue its answer")
                return
            path, body = asked
            self.target = path + self._query
            self._rewriter = Rewriter(self.plan, self.kept, path)
        self.service.memory.used += len(body) - len(self.body)
        self.body = body
        self._count()
        super()._send(fresh=fresh)

    def first_asked(self, backend: str) -> tuple[bytes, bool]:
        """The body as this backend is asked for a new answer, and whether for token ids as well."""
        if self.plan.asks_ids and self.service.engine_of(backend) in TAKES_IDS:
            return asking_ids(self._original), True
        return self._original, False

    def begin_anew(self, backend: str, response: ResponseHead | None) -> None:
        """Read along with this backend's answer from its beginning; it was asked, and may have sent its head."""
        _, self._asked = self.first_asked(backend)
        self._following = response is not None and self.can_follow(response)
        self._reader, self.kept = EventReader(), Kept(self.plan)
        self._count()

    @staticmethod
    def can_follow(response: ResponseHead) -> bool:
        """Is this answer a stream that can be read event by event?"""
        return (
            response.status == 200
            and response.event_stream
            and response.content_length is None
            and b"\r\ncontent-encoding:" not in response.forward.lower()
        )

    def _count(self) -> None:
        held = self.kept.size if self._original is self.body else self.kept.size + len(self._original)
        self.service.memory.used += held - self._counted
        self._counted = held

    def head_received(self, response: ResponseHead) -> bool:
        upstream = self.upstream
        fits = self.can_follow(response)
        if not fits and self._rewriter is None:
            return super().head_received(response)
        if not fits:
            if response.status in RETRIED and moved(self, str(response.status)):
                return False
            self.error = str(response.status)
            if response.status < 500:
                self.service.balancer.finish(self.lease, ABANDONED, self.service.clock())
            self._break("the backend broke down, and another one did not continue its answer")
            return False
        assert upstream is not None
        if self._rewriter is None:
            self.kept = Kept(self.plan)
        self._following = True
        self._reader = EventReader()
        self.response = response
        upstream.begin(response, bodyless=False, plain=True)
        return True

    # --- passing on ------------------------------------------------------------------------------------------

    def relay(self, data: bytes) -> None:
        if not self._following:
            super().relay(data)
            return
        out = self._read(data)
        if out is None:
            return
        if out or self.relaying or self._rewriter is not None:
            super().relay(self._framed(out))
        self._count()

    def relay_comments(self, data: bytes) -> None:
        if not self._following:
            super().relay_comments(data)
            return
        out = self._read(data)
        if out:
            super().relay_comments(self._framed(out))

    def _read(self, data: bytes) -> bytes | None:
        """What the client gets of this piece; None when the engine said that it dies, and all was seen to."""
        out: list[bytes] = []
        reader = self._reader
        for block in reader.feed(data):
            said = self._pass(block)
            if said is None:
                if out:
                    super().relay(self._framed(b"".join(out)))
                    out.clear()
                self.error = ENGINE_ERROR
                if self.relaying and self._revived():
                    return None
                self.error = ""
                said = block
            out.append(said)
        if reader.held > MAX_KEPT:
            self.kept.give_up("an endless event")
            out.append(reader.take_rest())
        return b"".join(out)

    def _pass(self, block: bytes) -> bytes | None:
        """A block as the client gets it; None for the last word of an engine that breaks down."""
        data = data_of(block)
        if data is None:
            return block
        kept, rewriter = self.kept, self._rewriter
        if data == DONE:
            kept.done = True
            return block
        try:
            said = _decode(data)
            if rewriter is not None:
                return block if "error" in said else rewriter.rewrite(said)
            if is_engines_end(said):
                return None
            kept.observe(said)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, AttributeError, TypeError):
            kept.give_up("an event that cannot be read")
            return block
        return event(_encode(said)) if self._asked and without_ids(said) else block

    def _framed(self, data: bytes) -> bytes:
        return data if self.client.plain or not data else b"%x\r\n%b\r\n" % (len(data), data)

    def _recode(self, upstream: Upstream) -> int:
        if not self._following or self.client.plain:
            return upstream.recode
        response = self.response
        return 0 if response is not None and response.chunked else 2

    def _begin(self, data: bytes) -> bytes:
        first = self.first_byte_at
        data = super()._begin(data)
        self.first_byte_at = first or self.first_byte_at
        return data

    def _commit(self, data: bytes) -> bytes:
        if self._rewriter is None:
            return super()._commit(data)
        upstream, client = self.upstream, self.client
        assert upstream is not None
        if client.stalled:
            upstream.pause()
            client.set_deadline(self.service.timeouts.client_write)
        return data

    def answered(self, upstream: Upstream) -> None:
        if not self._following:
            super().answered(upstream)
            return
        kept, rewriter = self.kept, self._rewriter
        rest = self._reader.take_rest()
        if rest or not self.relaying:
            super().relay(self._framed(rest))
        self._write_end()
        if rewriter is not None:
            # It was not this lease's work alone: nothing is learned from it of speed and lengths.
            self.service.balancer.finish(self.lease, OK, self.service.clock(), worked=False)
            upstream.tail = b""
            self._tell(rewriter.usage, kept.tokens + rewriter.said)
        super().answered(upstream)

    def _write_end(self) -> None:
        if not self.client.plain:
            self.bytes_out += len(LAST_CHUNK)
            self.client.write(LAST_CHUNK)

    def _tell(self, usage: object, tokens: int) -> None:
        """For the records: what both engines did."""
        self.lease.produced = tokens + stream_overhead(self.path, self.facts)
        if isinstance(usage, dict):
            self.usage = Usage(int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0), None)
        elif self.kept.prompt_ids is not None:
            self.usage = Usage(len(self.kept.prompt_ids), tokens, None)

    # --- breaking --------------------------------------------------------------------------------------------

    def _break(self, message: str, outcome: str = FAILED) -> None:
        if not self._following and self._rewriter is None:
            super()._break(message, outcome)
        elif outcome != FAILED or not self._revived():
            if outcome == FAILED:
                self.service.failed(self.lease.backend.id, self.error)
            self._end_broken(message, outcome)

    def refuse(
        self,
        status: int,
        code: str,
        message: str,
        param: str | None = None,
        retry_after: int | None = None,
        error: str = "",
    ) -> None:
        if code == POISON and self.tries:  # it comes back as the client sent it
            self.service.suspects.add(self._original, self.service.clock())
        if self._rewriter is None:
            super().refuse(status, code, message, param, retry_after, error)
            return
        self.error = error or code
        self._end_broken(f"the backend broke down, and no other continued its answer: {message}")

    def _end_broken(self, message: str, outcome: str = FAILED) -> None:
        self.drop_upstream()
        self._end(outcome, keep_client=True)
        # The empty lines end what may have been passed on of an endless event.
        self.client.break_off(self, b"\n\n" + error_event("stream_broken", message))

    def _revived(self) -> bool:
        """The engine died: end the stream properly if all was said, else let another engine go on. False: neither."""
        if self._rewriter is not None:
            return False
        plan, kept, service = self.plan, self.kept, self.service
        end = closing(plan, kept)
        now = service.clock()
        if end is not None:
            fail_lease(self, self.error, now, self.error)
            self.drop_upstream()
            super().relay(self._framed(end))
            self._write_end()
            self.lease.produced = kept.tokens
            self._tell(kept.usage, kept.tokens)
            self.lease.produced = kept.tokens
            self.error = ""
            self._end(OK)
            return True
        if kept.unfit or kept.finished or (plan.limit is not None and kept.tokens >= plan.limit):
            return False
        # The window and the number of tries are for what comes now: the stream may have run for minutes.
        if not service.balancer.may_retry(self.lease, CONNECT, 0, now, now, self.tried):
            return False
        fail_lease(self, self.error, now, self.error)
        self.drop_upstream()
        service.recorder.retried(RESUME)
        self.error = ""
        self.resent = False
        self.breaks += 1
        self.placed = now
        self.phase = CONNECTING
        self._rewriter = Rewriter(plan, kept, self.path)
        self.place(now)
        return True

    def _end(self, outcome: str, *, keep_client: bool = False) -> None:
        if self.phase is not ENDED:
            self.service.memory.used -= self._counted
            self._counted = 0
            self._original = b""
        super()._end(outcome, keep_client=keep_client)
