"""A try has failed before the commit point: may another backend be asked, and what is the client told if not?

The rules are those of core/retry.py. Here they meet what is known of this try: was anything sent, is it harmless to
send it twice, and whose fault was it?
Rule 1: nothing was sent (no connection): any request may go elsewhere. Rule 2: something was sent: only what is known
to be harmless when done twice. Rule 3: what a failure is called in metrics and logs (`kind`) may say more than the rule
it falls under (`reason`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from fairlead.core.balancer import ABANDONED, ERROR, FAILED, OK
from fairlead.core.retry import CONNECT, TIMEOUT
from fairlead.wire.endings import tells_server_error

if TYPE_CHECKING:
    from fairlead.core.cluster.ledger import Lease
    from fairlead.proxy.exchange import Exchange

CONNECTING, WAITING, RELAYING, ENDED = "connecting", "waiting", "relaying", "ended"  # phases of an exchange
BEGUN: Final = "begun"  # committed, but nothing has come of the stream but comments

# Kinds of failures beside the reasons of core/retry.py.
CONNECT_TIMEOUT: Final = "connect_timeout"  # falls under connect
TLS: Final = "tls"  # falls under connect
SEND_TIMEOUT: Final = "send_timeout"  # falls under timeout
DESCRIPTORS: Final = "descriptors"  # our own trouble, no backend's

BAD_RESPONSE: Final = "bad_response"
UPSTREAM_BROKEN: Final = "upstream_broken"  # an answer that broke off in its middle
STREAM_INCOMPLETE: Final = "stream_incomplete"  # one that ended in its middle, as if that were its end
ENGINE_ERROR: Final = "engine_error"  # an answer of status 200 that tells of a failure of the engine
POISON: Final = "poison_suspect"


def moved(exchange: Exchange, reason: str, kind: str = "") -> bool:
    """Try another backend if the rules allow it; the failed one is told."""
    service = exchange.service
    if exchange.goes_on(reason, kind):
        return True
    now = service.clock()
    balancer = service.balancer
    if reason not in balancer.retry_rules.on or exchange.relaying:
        return False
    if reason != CONNECT and not exchange.replay_safe:
        return False
    if exchange.race is not None and is_poison(exchange):  # its hedge was the last to break
        return False
    overflows = balancer.budget.overflows
    if not balancer.may_retry(exchange.lease, reason, exchange.tries, exchange.placed, now, exchange.tried):
        exchange.final |= balancer.budget.overflows > overflows
        return False
    fail_lease(exchange, reason, now, kind)
    exchange.drop_upstream()
    service.recorder.retried(kind or reason)
    exchange.phase = CONNECTING
    exchange.place(now)
    return True


def failed(exchange: Exchange, reason: str, message: str, kind: str = "") -> None:
    """The try failed before the commit point."""
    service = exchange.service
    if kind == DESCRIPTORS:
        service.balancer.finish(exchange.lease, ABANDONED, service.clock())
        service.recorder.refused(DESCRIPTORS)
        exchange.refuse(503, DESCRIPTORS, f"{message}: try again soon", None, 1)
        return
    sent = exchange.phase is WAITING
    # A kept connection that broke, and now nobody is there: then it was not just closed for its age.
    if reason == CONNECT and ((sent and not kind) or (exchange.resent and kind == CONNECT)):
        exchange.breaks += 1
        if is_poison(exchange):
            _poison(exchange, service.clock())
            return
    if sent and reason == CONNECT and not exchange.replay_safe:
        pass  # the engine may have done it: only what is known to be harmless is sent twice
    elif moved(exchange, reason, kind):
        return
    fail_lease(exchange, reason, service.clock(), kind)
    exchange.drop_upstream()
    exchange.final |= exchange.tries > 1
    if reason == TIMEOUT:
        option = "send" if kind == SEND_TIMEOUT else "first_byte"
        exchange.refuse(504, "upstream_timeout", f"{message}: try again, or raise timeouts.{option}", error=kind)
    elif reason == BAD_RESPONSE:
        exchange.refuse(502, BAD_RESPONSE, f"{message}: the engine or something before it is at fault")
    elif kind == CONNECT and not exchange.reached:  # nobody is there at all: that may be over soon
        exchange.final = False
        exchange.refuse(503, "upstream_unreachable", f"{message}: try again soon", None, 1, error=kind)
    else:
        message += ": the fleet's operator should look at its backends"
        exchange.refuse(502, "upstream_unreachable", message, error=kind)


def is_poison(exchange: Exchange) -> bool:
    """Have as many backends broken under this request as are given to it?"""
    limit = exchange.service.balancer.retry_rules.breaks
    return 0 < limit <= exchange.breaks


def judged(exchange: Exchange, tail: bytes, *, stream: bool) -> str:
    """The outcome of an answer that was relayed in full; a failure of the engine is told and named."""
    status, service = exchange.status, exchange.service
    if status >= 500:
        exchange.error = str(status)
    elif status == 200 and tail and tells_server_error(tail, stream=stream):
        exchange.error = ENGINE_ERROR
    else:
        return OK
    service.failed(exchange.lease.backend.id, exchange.error)
    return FAILED if status == 200 or exchange.error in service.balancer.retry_rules.on else ERROR


def _poison(exchange: Exchange, now: float) -> None:
    """One backend after the other broke under this request: no third one is risked."""
    exchange.service.suspects.add(exchange.body, now)
    fail_lease(exchange, CONNECT, now, "")
    exchange.drop_upstream()
    exchange.final = True
    refuse_suspect(exchange)


def refuse_suspect(exchange: Exchange) -> None:
    """The answer to a request that seems to break engines."""
    exchange.final = True
    if not exchange.tries:
        exchange.service.recorder.refused(POISON)
    message = "backends broke while they worked on this request, so it is not sent to more of them: change it"
    exchange.refuse(502, POISON, f"{message}, or try again in a minute")


def fail_lease(exchange: Exchange, reason: str, now: float, kind: str, lease: Lease | None = None) -> None:
    """The backend (that of `lease`, where a hedge failed) has failed this request, and is not asked again for it."""
    lease = lease or exchange.lease
    service, backend = exchange.service, lease.backend
    exchange.tried += (backend.id,)
    if exchange.trace is not None:
        exchange.trace.over(lease, now, kind or reason)
    if reason == "429":  # it is busy, not broken
        service.balancer.finish(lease, ABANDONED, now)
    elif reason.isdigit() and reason < "500":  # the request's own affair
        service.balancer.finish(lease, OK, now, worked=False)
    else:
        service.failed(backend.id, kind or reason)
        outcome = ERROR if reason.isdigit() and reason not in service.balancer.retry_rules.on else FAILED
        service.balancer.finish(lease, outcome, now, reason=reason)
