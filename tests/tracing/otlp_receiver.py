"""A collector for tests: takes OTLP over HTTP as real ones do, and decodes it with OpenTelemetry's own messages."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.trace.v1 import trace_pb2
from peers import until

SERVER, CLIENT = trace_pb2.Span.SPAN_KIND_SERVER, trace_pb2.Span.SPAN_KIND_CLIENT


@dataclass
class Got:
    """A span as it came."""

    name: str
    kind: int
    trace_id: str
    span_id: str
    parent_id: str
    state: str
    seconds: float
    began: float  # wall clock
    failed: bool
    told: dict[str, Any]
    resource: dict[str, Any]

    @property
    def reason(self) -> Any:
        """Why its backend was asked."""
        return self.told["fairlead.attempt"]


@dataclass
class Receiver:
    """What came, and how it is answered."""

    url: str = ""
    spans: list[Got] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    raw: bytes = b""  # all of it
    status: int = 200
    silent: asyncio.Event | None = None  # no answer before it is set

    async def take(self, request: web.Request) -> web.Response:
        body = await request.read()
        self.raw += body
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        self.paths.append(request.path)
        if self.silent is not None:
            await self.silent.wait()
        if self.status == 200:
            self.spans += decoded(body)
        return web.Response(status=self.status, body=b"", content_type="application/x-protobuf")

    async def tree(self, attempts: int) -> tuple[Got, list[Got]]:
        """The one request's span and those of its attempts, in order; their family ties are checked."""
        await until(lambda: len(self.spans) >= 1 + attempts, f"{1 + attempts} spans have come")
        servers = [span for span in self.spans if span.kind == SERVER]
        clients = sorted((span for span in self.spans if span.kind == CLIENT), key=lambda span: span.began)
        assert (len(servers), len(clients)) == (1, attempts), self.spans
        assert {span.trace_id for span in clients} <= {servers[0].trace_id}
        assert {span.parent_id for span in clients} <= {servers[0].span_id}
        assert len({span.span_id for span in self.spans}) == 1 + attempts
        for span in clients:
            assert servers[0].began - 0.001 <= span.began
            assert span.seconds >= 0.0
        return servers[0], clients


def decoded(body: bytes) -> list[Got]:
    message = ExportTraceServiceRequest.FromString(body)
    found = []
    for resource in message.resource_spans:
        about = {each.key: _value(each.value) for each in resource.resource.attributes}
        for scope in resource.scope_spans:
            assert scope.scope.name == "fairlead"
            for span in scope.spans:
                found.append(
                    Got(
                        span.name, span.kind, span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex(),
                        span.trace_state, (span.end_time_unix_nano - span.start_time_unix_nano) / 1e9,
                        span.start_time_unix_nano / 1e9, span.status.code == trace_pb2.Status.STATUS_CODE_ERROR,
                        {each.key: _value(each.value) for each in span.attributes}, about,
                    )
                )  # fmt: skip
    return found


def _value(value: AnyValue) -> Any:
    return getattr(value, value.WhichOneof("value") or "string_value")


@contextlib.asynccontextmanager
async def receiver(prepare: Callable[[Receiver], None] | None = None) -> AsyncIterator[Receiver]:
    """One that listens; `prepare` changes it before anything comes."""
    made = Receiver()
    if prepare is not None:
        prepare(made)
    app = web.Application()
    app.router.add_post("/{path:.*}", made.take)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        made.url = f"http://{host}:{port}"
        yield made
    finally:
        if made.silent is not None:
            made.silent.set()
        await runner.cleanup()
