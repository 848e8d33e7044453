"""Records, exchanges and pages for tests, made by hand: no network, no clock."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any, cast

from fairlead.control.alerting import Alerting
from fairlead.control.decision_log import DecisionLog
from fairlead.control.fleet import Versions
from fairlead.control.metrics import MetricsPage
from fairlead.control.recorder import Recorder
from fairlead.control.recording import Recording
from fairlead.control.tracing import Tracing
from fairlead.core.balancer import Balancer
from fairlead.core.cluster.ledger import Lease
from fairlead.core.model import EngineStats, Facts, Kind, Usage
from fairlead.core.policies.registry import make
from fairlead.core.shadow import Shadow
from fairlead.proxy.exchange import Exchange
from fairlead.proxy.record import Record
from fairlead.proxy.service import Service


def make_balancer(*ids: str, model: str = "m") -> Balancer:
    """A fleet that is up."""
    balancer = Balancer(make("round_robin"), random.Random(0))
    for id in ids:
        balancer.add(id)
        balancer.set_models(id, frozenset({model}))
        balancer.probe(id, True)
    return balancer


def place(balancer: Balancer, **facts: Any) -> Lease:
    lease = balancer.assign(Facts(kind=Kind.CHAT, **facts), 0.0)
    assert isinstance(lease, Lease)
    return lease


def exchange(lease: Lease | None = None, **changed: Any) -> Exchange:
    """What the recorder reads of a finished exchange: one that went well, but for what is `changed`."""
    fields: dict[str, Any] = {
        "request_id": b"id-1",
        "arrived": 10.0,
        "race": None,
        "client": SimpleNamespace(peer="192.0.2.7", arrived=10.0, protocol=""),
        "trace": None,
        "head": SimpleNamespace(method=b"POST", target=b"/v1/chat/completions?key=secret", minor=1, forwarded=[]),
        "path": b"/v1/chat/completions",
        "facts": lease.facts if lease is not None else Facts(kind=Kind.CHAT, model="m"),
        "status": 200,
        "error": "",
        "lease": lease,
        "version": 1,
        "tries": 1,
        "tried": [],
        "bytes_out": 100,
        "first_byte_at": 0.0,
        "usage": None,
        **changed,
    }
    return cast(Exchange, SimpleNamespace(**fields))


def finish(recorder: Recorder, lease: Lease | None, now: float, outcome: str = "ok", **changed: Any) -> None:
    """A request with this lease ends at `now`."""
    recorder.finished(exchange(lease, **changed), outcome, now)


def record(**changed: Any) -> Record:
    """A record of a request that went well, but for what is `changed`."""
    made = Record()
    made.request_id, made.peer, made.method, made.path = "id-1", "192.0.2.7", "POST", "/v1/chat/completions"
    made.status, made.outcome, made.model, made.tries, made.duration = 200, "ok", "m", 1, 0.25
    for name, value in changed.items():
        setattr(made, name, value)
    return made


def page_of(
    balancer: Balancer, recorder: Recorder, alerting: Alerting | None = None, recording: Recording | None = None
) -> MetricsPage:
    service = SimpleNamespace(
        clock=lambda: 100.0,
        wheel=SimpleNamespace(lag=0.001),
        clients={1, 2},
        pools={id: SimpleNamespace(id=id, open=3) for id in balancer.backends},
        limits=SimpleNamespace(connections=10_000),
        memory=SimpleNamespace(used=5, limit=1 << 30),
        descriptors=20_000,
        rotations=SimpleNamespace(all=[SimpleNamespace(what="listen [::]:443", expires=1.8e9, problem="")]),
    )
    alerting = alerting or Alerting(None, lambda: 0.0)
    return MetricsPage(balancer, recorder, cast(Service, service), alerting, lambda: 4, recording)


def full_page() -> bytes:
    """A page with every metric that there can be on it."""
    balancer = make_balancer("a", "b")
    balancer.set_shadow(Shadow(make("expected_completion"), random.Random(1)))
    recorder = Recorder(balancer)
    for id in balancer.backends:
        mark = balancer.poll_started(id)
        balancer.poll_result(id, mark, EngineStats(waiting=3.0, running=2.0, kv_usage=0.5), 90.0)
    lease = place(balancer, model="m", stream=True)
    balancer.first_token(lease, 11.0)
    lease.produced = 5
    finish(recorder, lease, 12.0, first_byte_at=11.0, usage=Usage(100, 5, 40))
    finish(recorder, None, 12.0, "client_gone", status=499, error="client_gone")
    recorder.failed("b", "connect")
    recorder.retried("connect")
    recorder.refused("bad_body")
    recorder.decided(2e-5)
    recording = SimpleNamespace(written=7, dropped=1, bytes_written=900, problem="no space left")
    page = page_of(balancer, recorder, recording=cast(Recording, recording))
    page.versions = Versions("fairlead.yaml")
    page.decisions = cast(DecisionLog, SimpleNamespace(written=7, dropped=1, problem=""))
    page.tracing = cast(Tracing, SimpleNamespace(sent=7, dropped=1))
    return page.render()
