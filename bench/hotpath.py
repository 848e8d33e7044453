"""What does our own code cost per request and per streamed event, without sockets?

Drives the real proxy objects over memory transports, so that only Python work is left: repeatable on a noisy
machine, and the place to look for hot spots. Run: python -m bench.hotpath [--profile]
"""

from __future__ import annotations

import asyncio
import cProfile
import pstats
import random
import statistics
import sys
import time
from typing import Any

from fairlead.control.recorder import Recorder
from fairlead.core.balancer import Balancer
from fairlead.core.policies.registry import DEFAULT, make
from fairlead.proxy.client import Client
from fairlead.proxy.pool import Pool
from fairlead.proxy.service import LimitSettings, Service, TimeoutSettings
from fairlead.proxy.upstream import Upstream


class Wire(asyncio.Transport):
    """A transport that keeps nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.writes = 0

    def write(self, data: Any) -> None:
        self.writes += 1

    def writelines(self, list_of_data: Any) -> None:
        self.writes += 1

    def get_write_buffer_size(self) -> int:
        return 0

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 1) if name == "peername" else default

    def is_closing(self) -> bool:
        return False

    def close(self) -> None: ...
    def abort(self) -> None: ...
    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...


FIELDS = (
    b"Host: 127.0.0.1:8080\r\nAccept: application/json\r\nAccept-Encoding: gzip, deflate\r\nConnection: keep-alive\r\n"
    b"User-Agent: OpenAI/Python 1.0\r\nContent-Type: application/json\r\nAuthorization: Bearer sk-0123456789\r\n"
    b"X-Stainless-Lang: python\r\nX-Stainless-Arch: x64\r\n"
)
SMALL_FIELDS = b"Host: 127.0.0.1:8080\r\nContent-Type: application/json\r\n"


def request(chars: int, stream: bool, fields: bytes) -> bytes:
    text = b"lorem ips " * (chars // 10)
    body = b'{"model":"m","messages":[{"role":"user","content":"%b"}],"max_tokens":64,"stream":%b}' % (
        text,
        b"true" if stream else b"false",
    )
    return b"POST /v1/chat/completions HTTP/1.1\r\n%bContent-Length: %d\r\n\r\n%b" % (fields, len(body), body)


ANSWER_BODY = (
    b'{"id":"chatcmpl-1","object":"chat.completion","choices":[{"message":{"content":"' + b"word " * 80 + b'"}}],'
    b'"usage":{"prompt_tokens":104,"completion_tokens":52,"total_tokens":156,"prompt_tokens_details":null}}'
)
ANSWER = (
    b"HTTP/1.1 200 OK\r\ndate: Mon, 01 Jan 2026 00:00:00 GMT\r\nserver: uvicorn\r\ncontent-type: application/json\r\n"
    b"content-length: %d\r\n\r\n%b" % (len(ANSWER_BODY), ANSWER_BODY)
)
STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nserver: uvicorn\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)
EVENT = (
    b'data: {"id":"chatcmpl-1","choices":[{"index":0,"delta":{"content":" word"},"finish_reason":null}]}' + b" " * 60
)
CHUNK = b"%x\r\n%b\n\n\r\n" % (len(EVENT) + 2, EVENT)


def build() -> tuple[Service, Client, list[Upstream]]:
    balancer = Balancer(make(DEFAULT), random.Random(1))
    recorder = Recorder(balancer, lambda record: None)
    loop = asyncio.get_running_loop()
    service = Service(
        loop=loop,
        balancer=balancer,
        recorder=recorder,
        timeouts=TimeoutSettings(5, 600, 600, 10, 60, 75, 60),
        limits=LimitSettings(1 << 25, 65_536, 100, 1000),
        models_body=lambda: b"{}",
    )
    upstreams = []
    for name in ("a", "b"):
        balancer.add(name, models=frozenset(("m",)))
        balancer.probe(name, True)
        pool = Pool(name, f"http://{name}:8000", connections=100, requests=10**9, timeout=4, via=service.via)
        service.pools[name] = pool
        upstream = Upstream(pool)
        upstream.connection_made(Wire())
        pool.give(upstream, 0.0)
        upstreams.append(upstream)
    client = Client(service)
    client.connection_made(Wire())
    return service, client, upstreams


def run_requests(client: Client, upstreams: list[Upstream], data: bytes, count: int) -> None:
    a, b = upstreams
    receive = client.data_received
    for _ in range(count):
        receive(data)
        (a if a.exchange is not None else b).data_received(ANSWER)


def run_events(client: Client, upstreams: list[Upstream], count: int) -> None:
    client.data_received(request(400, True, FIELDS))
    upstream = next(u for u in upstreams if u.exchange is not None)
    upstream.data_received(STREAM_HEAD)
    receive = upstream.data_received
    chunk = CHUNK
    for _ in range(count):
        receive(chunk)
    receive(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")


def yardstick() -> float:
    """Seconds for a fixed piece of Python work: what the machine gives us right now."""
    start = time.process_time()
    table: dict[int, int] = {}
    for i in range(20_000):
        table[i & 1023] = table.get(i & 1023, 0) + len(b"%d" % i)
    return time.process_time() - start


NOMINAL = 0.0052  # the yardstick on a quiet 2.5 GHz Xeon, CPython 3.11


def best(work: Any, count: int, rounds: int = 9) -> float:
    """Median over the rounds of microseconds per item, as if the machine were quiet."""
    times = []
    work(count // 10)
    for _ in range(rounds):
        before = yardstick()
        start = time.process_time()
        work(count)
        used = time.process_time() - start
        times.append(used / count * 1e6 * NOMINAL / ((before + yardstick()) / 2))
    return statistics.median(times)


async def main() -> None:
    service, client, upstreams = build()
    cases = {
        "request, 400 chars, small head": lambda n: run_requests(
            client, upstreams, request(400, False, SMALL_FIELDS), n
        ),
        "request, 400 chars, SDK head": lambda n: run_requests(client, upstreams, request(400, False, FIELDS), n),
        "request, 40,000 chars": lambda n: run_requests(client, upstreams, request(40_000, False, SMALL_FIELDS), n),
        "streamed event": lambda n: run_events(client, upstreams, n),
    }
    if "--profile" in sys.argv:
        profile = cProfile.Profile()
        profile.runcall(cases["request, 400 chars, SDK head"], 20_000)
        pstats.Stats(profile).sort_stats("tottime").print_stats(28)
        return
    for name, work in cases.items():
        print(f"{name:35s} {best(work, 5_000):8.2f} us")
    assert not service.exchanges


if __name__ == "__main__":
    asyncio.run(main())
