"""Which kind of exchange does a request need? The plain one, unless something that was asked for may help it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fairlead.core.model import Facts, Kind
from fairlead.proxy.exchange import Exchange
from fairlead.proxy.hedge import Race
from fairlead.proxy.hedging import HedgedExchange, HedgedResumable
from fairlead.proxy.resume import ResumableExchange
from fairlead.wire.resume import Plan, read_plan

if TYPE_CHECKING:
    from fairlead.proxy.downstream import Downstream
    from fairlead.proxy.service import Service
    from fairlead.wire.http1 import RequestHead


def make_exchange(
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
) -> Exchange:
    """The exchange for a request: one that reads along, or may be hedged, where that is wanted and may help.

    Asked only where anything of that is wanted: everybody else's request needs no choice.
    """
    plan = read_plan(path, body) if service.resume and facts.stream else None
    given = service, client, head, target, path, body, facts, request_id, arrived, replay_safe
    hedges = service.hedges
    if hedges is None or not replay_safe or facts.kind == Kind.CHEAP:
        return ResumableExchange(*given, plan) if isinstance(plan, Plan) else Exchange(*given)
    exchange = HedgedResumable(*given, plan) if isinstance(plan, Plan) else HedgedExchange(*given)
    exchange.race = Race(hedges)
    return exchange
