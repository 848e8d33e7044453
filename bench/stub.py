"""An upstream that costs almost nothing: what would an engine send, without the engine?

Run as `python -m bench.stub`; prints `port N` once it listens and ends when its standard input closes.
Rule 1: the answer is fixed, save for an eight-digit mark that the request ends with (its `seed`) and the answer
repeats; so the client can tell that it got the answer to its own request.
Rule 2: one write per streamed event, never two events in one write. The head goes out at once and alone, as
engines do it. `max_tokens` says how many events, the header `x-bench-pace: INTERVAL_MS FIRST_MS` says when.
Rule 3: anything unexpected is answered 400 and closes, so that a mangled request shows up as an error.
"""

from __future__ import annotations

import asyncio
import re
import sys
from typing import cast

import uvloop

MARK_LENGTH = 8
BODY_BEFORE = b'{"id":"chatcmpl-'
_TEXT = b"The instance that finishes a request soonest is rarely the one with the fewest connections. " * 3
BODY_AFTER = (
    b'","object":"chat.completion","created":1700000000,"model":"m","choices":[{"index":0,"message":'
    b'{"role":"assistant","content":"' + _TEXT.strip() + b'","tool_calls":[]},"logprobs":null,'
    b'"finish_reason":"stop"}],"usage":{"prompt_tokens":104,"completion_tokens":52,"total_tokens":156,'
    b'"prompt_tokens_details":null}}'
)
BODY_LENGTH = len(BODY_BEFORE) + MARK_LENGTH + len(BODY_AFTER)

_HEAD = b"HTTP/1.1 200 OK\r\nserver: uvicorn\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
_ANSWER_BEFORE = _HEAD % BODY_LENGTH + BODY_BEFORE
_STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nserver: uvicorn\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)
_EVENT = (
    b'data: {"id":"chatcmpl-%s","object":"chat.completion.chunk","created":1700000000,"model":"m",'
    b'"choices":[{"index":0,"delta":{"content":" %05d"},"logprobs":null,"finish_reason":null}]}\n\n'
)
_USAGE = (
    b'data: {"id":"chatcmpl-%s","object":"chat.completion.chunk","created":1700000000,"model":"m",'
    b'"choices":[],"usage":{"prompt_tokens":104,"completion_tokens":%d,"total_tokens":%d}}\n\n'
)
_DONE = b"data: [DONE]\n\n"

_METRICS = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} %d
# HELP vllm:num_requests_waiting Number of requests waiting to be processed.
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="m"} 0
# HELP vllm:kv_cache_usage_perc KV-cache usage. 1 means 100 percent usage.
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.02
# HELP vllm:cache_config_info Information of the LLMEngine CacheConfig
# TYPE vllm:cache_config_info gauge
vllm:cache_config_info{block_size="16",enable_prefix_caching="True",engine="0",num_gpu_blocks="20000"} 1.0
"""
_MODELS = b'{"object":"list","data":[{"id":"m","object":"model","owned_by":"bench","max_model_len":131072}]}'
_LIMIT = re.compile(rb'"max_tokens":(\d+),"seed":\d{8}}$')
_TAIL = 48  # enough for `"max_tokens":N,"seed":MARK}`


def event_at(mark: bytes, index: int, total: int) -> bytes:
    """The event that a stream of `total` events carries at `index`; the marker of the end comes after them."""
    if index < total - 1:
        return _EVENT % (mark, index)
    return _USAGE % (mark, total - 1, 104 + total - 1)


def stream_body(mark: bytes, total: int) -> bytes:
    """The whole decoded body of a stream, for the client's check."""
    return b"".join(event_at(mark, index, total) for index in range(total)) + _DONE


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


class Stub(asyncio.Protocol):
    """One connection from a proxy: requests one after the other, no pipelining."""

    streams = 0  # open streams of this process, shown in /metrics

    def __init__(self) -> None:
        self._transport: asyncio.Transport
        self._loop = asyncio.get_running_loop()
        self._partial = b""  # an incomplete head
        self._missing = 0  # body bytes still to come
        self._tail = b""
        self._pace = (0.0, 0.0)
        self._known_head = b""
        self._known: tuple[int, tuple[float, float]] = (0, (0.0, 0.0))
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are not of that class

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_stream()

    def data_received(self, data: bytes) -> None:
        if self._missing:
            self._body(data)
            return
        if self._partial:
            data = self._partial + data
            self._partial = b""
        end = data.find(b"\r\n\r\n") + 4
        if end == 3:
            self._partial = data
            return
        head = data[:end]
        if not head.startswith(b"POST /v1/chat/completions "):
            self._fact(head)
            return
        if head != self._known_head:
            self._known, self._known_head = _read_head(head), head
        self._missing, self._pace = self._known
        if self._missing <= 0 or self._timer is not None:
            self._refuse()
            return
        self._tail = b""
        if len(data) > end:
            self._body(data[end:])

    def _body(self, data: bytes) -> None:
        self._missing -= len(data)
        self._tail = data[-_TAIL:] if len(data) >= _TAIL else (self._tail + data)[-_TAIL:]
        if self._missing == 0:
            self._answer()
        elif self._missing < 0:
            self._refuse()

    def _answer(self) -> None:
        found = _LIMIT.search(self._tail)
        if found is None:
            self._refuse()
            return
        mark = self._tail[-MARK_LENGTH - 1 : -1]
        if self._pace == (0.0, 0.0):
            self._transport.write(_ANSWER_BEFORE + mark + BODY_AFTER)
            return
        self._transport.write(_STREAM_HEAD)
        Stub.streams += 1
        interval, first = self._pace
        start = self._loop.time() + first
        self._timer = self._loop.call_at(start, self._event, mark, 0, int(found[1]), start, interval)

    def _event(self, mark: bytes, index: int, total: int, start: float, interval: float) -> None:
        if index == total:
            self._transport.write(_chunk(_DONE) + b"0\r\n\r\n")
            self._end_stream()
            return
        self._transport.write(_chunk(event_at(mark, index, total)))
        index += 1
        self._timer = self._loop.call_at(start + index * interval, self._event, mark, index, total, start, interval)

    def _end_stream(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            Stub.streams -= 1

    def _fact(self, head: bytes) -> None:
        """Answer what proxies ask on their own: health, models, version, metrics."""
        path = head.split(b" ", 2)[1] if head.startswith(b"GET ") else b""
        kind = b"application/json"
        status, body = b"200 OK", b""
        if path == b"/v1/models":
            body = _MODELS
        elif path == b"/version":
            body = b'{"version":"0.11.0"}'
        elif path == b"/metrics":
            kind = b"text/plain; version=0.0.4; charset=utf-8"
            body = (_METRICS % Stub.streams).encode()
        elif path != b"/health":
            status, body = b"404 Not Found", b'{"detail":"Not Found"}'
        close = b"" if head.startswith(b"GET ") else b"connection: close\r\n"  # a body we do not read
        self._transport.write(
            b"HTTP/1.1 %s\r\nserver: uvicorn\r\ncontent-type: %s\r\ncontent-length: %d\r\n%s\r\n%s"
            % (status, kind, len(body), close, body)
        )
        if close:
            self._transport.close()

    def _refuse(self) -> None:
        self._missing = 0
        self._transport.write(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        self._transport.close()


def _read_head(head: bytes) -> tuple[int, tuple[float, float]]:
    """Content length (-1 where there is none) and (interval, first) in seconds, zeros for a plain answer."""
    lower = head.lower()
    length = re.search(rb"\r\ncontent-length: *(\d+)\r\n", lower)
    pace = re.search(rb"\r\nx-bench-pace: *(\d+) (\d+)\r\n", lower)
    if length is None or b"\r\ntransfer-encoding:" in lower:
        return -1, (0.0, 0.0)
    return int(length[1]), (int(pace[1]) / 1e3, int(pace[2]) / 1e3) if pace else (0.0, 0.0)


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Stub, "127.0.0.1", 0, backlog=4096)
    print(f"port {server.sockets[0].getsockname()[1]}", flush=True)
    ended = asyncio.Event()
    loop.add_reader(sys.stdin.fileno(), ended.set)
    await ended.wait()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve())
