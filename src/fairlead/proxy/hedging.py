"""A request that two backends work on until one of them begins to answer. Only with `hedging`, and never by default.

The exchange is the first try, as ever. When its answer is late, core/hedge.py says whom else to ask, and a `Hedge`
(hedge.py) stands beside it: a second lease, a second connection, nothing else. As soon as it is the one that counts, it
is taken over: the exchange goes on with its lease and connection, as if they had always been its own.
Rule 1: only before the commit point, for what is harmless when done twice, and once the first backend has all of it.
Rule 2: the first body byte of an answer wins. An answer that says no (a status from 400 on, or an error as its first
        event) wins nothing as a hedge, nor do comments of a stream.
Rule 3: who has lost is closed at once, so that the engine frees the GPU, and is not blamed.
Rule 4: when one of the two fails the other goes on; a retry comes only when that one has failed as well.
Rule 5: whatever ends the exchange ends both. Each of the two leases is closed exactly once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from fairlead.core.balancer import ABANDONED
from fairlead.core.hedge import CANCELLED, FAILED, LOST, WON
from fairlead.proxy.exchange import Exchange
from fairlead.proxy.hedge import LEADING, Hedge, Race
from fairlead.proxy.resume import ResumableExchange
from fairlead.proxy.trace import HEDGE
from fairlead.proxy.tries import CONNECTING, DESCRIPTORS, ENDED, WAITING, fail_lease

if TYPE_CHECKING:
    from fairlead.wire.http1 import ResponseHead

HELD_UP: Final = 0.1  # seconds: a look that comes so late tells of us, not of the backend


class Hedging(Exchange):
    """An exchange that may be hedged. Mixed into one of the other kinds, as it adds no state but `race`."""

    __slots__ = ()
    race: Race

    # --- before ----------------------------------------------------------------------------------------------

    def place(self, now: float) -> None:
        if not self.tries:
            self.race.hedges.request()
        super().place(now)
        race = self.race
        if race.lease is None and not self.bytes_out and self.phase in (CONNECTING, WAITING):
            race.predicted = race.hedges.predict(self.lease, now)
            delay = race.hedges.delay(self.lease, race.predicted)
            if delay is not None:
                self._look_in(delay)

    def _look_in(self, seconds: float) -> None:
        race = self.race
        if race.timer is not None:
            race.timer.cancel()
        race.due = self.service.clock() + seconds
        race.timer = self.service.loop.call_later(seconds, self._look)

    def _look(self) -> None:
        """The answer is late, if it has not begun."""
        race, service = self.race, self.service
        race.timer = None
        now = service.clock()
        if now > race.due + HELD_UP:  # what came meanwhile is read first
            self._look_in(HELD_UP)
            return
        waited = max(now - self.lease.opened_at, HELD_UP)
        if self.phase is not WAITING or self.unsent or self.client.stalled:
            self._look_in(waited)
            return
        lease = race.hedges.send(self.lease, race.predicted, self.tried, self.tries, self.placed, now)
        if isinstance(lease, str):
            if not race.refused:
                race.refused = True
                service.recorder.hedged(lease)
            self._look_in(waited)
            return
        race.first, race.lease = self.lease.backend.id, lease
        if self.trace is not None:
            self.trace.asks(lease, HEDGE)
        self.tries += 1
        race.side = side = Hedge(self, lease, self.asked_as(lease.backend.id), race.hedges.predict(lease, now))
        side.send(fresh=False)

    # --- while both run --------------------------------------------------------------------------------------

    def on(self, backend: str) -> Exchange | Hedge | None:
        side = self.race.side
        return side if side is not None and side.lease.backend.id == backend else super().on(backend)

    def overtaken(self) -> None:
        """The hedge has answered: the first backend is let go of."""
        race = self.race
        now = self.service.clock()
        race.hedges.overtaken(self.lease, race.predicted, now)
        if self.trace is not None:
            self.trace.over(self.lease, now, outcome=LOST)
        self.drop_upstream()
        self._take_over()

    def goes_on(self, reason: str, kind: str) -> bool:
        race = self.race
        if self.lease is race.lease:
            self._settle(FAILED)
        if race.side is None:
            return False
        fail_lease(self, reason, self.service.clock(), kind)
        self.drop_upstream()
        self._take_over()
        return True

    def _take_over(self) -> None:
        """From here on the hedge is this exchange's try."""
        race, client, timeouts = self.race, self.client, self.service.timeouts
        side, race.side = race.side, None
        assert side is not None
        upstream = side.upstream
        side.state = LEADING
        race.predicted = side.predicted
        self.lease, self.upstream, self.response = side.lease, upstream, side.response
        self.phase, self.unsent, self.resent = side.phase, side.unsent, side.resent
        if side.counted:
            self.service.memory.used -= len(self.body)
            self.body = side.body
        self.took_over(side)
        if upstream is not None and upstream.exchange is side:
            upstream.exchange = self
        if self.phase is CONNECTING:
            client.set_deadline(timeouts.connect)
            return
        self.reached = True
        left = timeouts.send if self.unsent else timeouts.first_byte - (self.service.clock() - side.sent_at)
        client.set_deadline(max(left, 0.0))
        if side.comments:
            self.relay_comments(side.comments)

    def side_failed(self, reason: str, kind: str, *, broke: bool) -> None:
        """The hedge came to nothing; the first try goes on."""
        self.breaks += broke
        side = self._close_side()
        self._settle(FAILED)
        now = self.service.clock()
        if kind == DESCRIPTORS:  # our own trouble
            self.service.balancer.finish(side.lease, ABANDONED, now)
            self.service.recorder.refused(DESCRIPTORS)
            if self.trace is not None:
                self.trace.over(side.lease, now, DESCRIPTORS)
        else:
            fail_lease(self, reason, now, kind, side.lease)

    def _drop_side(self, outcome: str) -> None:
        side = self._close_side()
        now = self.service.clock()
        self.service.balancer.finish(side.lease, ABANDONED, now)
        if self.trace is not None:
            self.trace.over(side.lease, now, outcome=outcome)
        self._settle(outcome)

    def _close_side(self) -> Hedge:
        side, self.race.side = self.race.side, None
        assert side is not None
        side.close()
        self.service.memory.used -= side.counted
        return side

    def _settle(self, outcome: str) -> None:
        if not self.race.outcome:
            self.race.outcome = outcome
            self.service.recorder.hedged(outcome)

    # --- ends ------------------------------------------------------------------------------------------------

    def _commit(self, data: bytes) -> bytes:
        race, response = self.race, self.response
        assert response is not None
        self._stop_looking()
        if race.side is not None:
            self._drop_side(LOST)
        elif self.lease is race.lease:
            self._settle(WON)
        if response.status < 400 and not self.bytes_out:
            race.hedges.answered(self.lease, race.predicted, self.service.clock())
        return super()._commit(data)

    def _end(self, outcome: str, *, keep_client: bool = False) -> None:
        race = self.race
        if self.phase is not ENDED:
            self._stop_looking()
            if race.side is not None:
                self._drop_side(CANCELLED)
            elif race.lease is not None:
                self._settle(CANCELLED)
        super()._end(outcome, keep_client=keep_client)

    def _stop_looking(self) -> None:
        timer, self.race.timer = self.race.timer, None
        if timer is not None:
            timer.cancel()

    # --- what depends on the kind of exchange ----------------------------------------------------------------

    def asked_as(self, backend: str) -> bytes:
        """The body as this backend is asked."""
        return self.body

    def is_plain(self, response: ResponseHead) -> bool:
        """Are body bytes of this answer wanted without their chunks?"""
        return self.client.plain

    def took_over(self, side: Hedge) -> None:
        """The hedge's answer is this exchange's from now on."""


class HedgedExchange(Hedging):
    """An exchange that may be hedged, and nothing else."""

    __slots__ = ()


class HedgedResumable(Hedging, ResumableExchange):
    """One that may be hedged before its answer begins, and continued elsewhere afterwards."""

    __slots__ = ()

    def asked_as(self, backend: str) -> bytes:
        body, _ = self.first_asked(backend)
        return body

    def is_plain(self, response: ResponseHead) -> bool:
        return self.can_follow(response) or self.client.plain

    def took_over(self, side: Hedge) -> None:
        self.begin_anew(side.lease.backend.id, side.response)
