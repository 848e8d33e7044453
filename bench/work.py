"""Which requests do the measurements send?

Rule 1: made once, before the clock starts, from a fixed random seed: the same bytes in every run.
Rule 2: each request ends with its own mark, so an answer that belongs to another request is seen.
Rule 3: prompts differ from request to request (also where heads do not), so nothing is won by remembering one body.
"""

from __future__ import annotations

import json
import random
from typing import NamedTuple

MODEL = "m"
_PROSE = (
    "the queue of a busy engine holds tokens rather than connections and every prompt that shares its first "
    "blocks with an earlier one is cheaper than it looks so measure twice before you route once and say why "
    'function return value "quoted" latency batch prefill decode cache memory bandwidth schedule stream'
)
_WORDS = _PROSE.split()


class Request(NamedTuple):
    """One request as it goes out, and the mark that its answer must repeat."""

    wire: bytes
    mark: bytes


def _prompt(rng: random.Random, length: int) -> str:
    """Prose-like text of exactly `length` characters, with line ends and quotes as real prompts have them."""
    pieces: list[str] = []
    size = 0
    while size < length:
        word = rng.choice(_WORDS) + ("\n" if rng.random() < 0.06 else " ")
        pieces.append(word)
        size += len(word)
    return "".join(pieces)[:length]


def _body(messages: list[dict[str, str]], mark: int, max_tokens: int, stream: bool) -> bytes:
    """The stub reads `max_tokens` and `seed` from the end of the body, so they stay last, in this order."""
    body: dict[str, object] = {"model": MODEL, "messages": messages, "temperature": 0.7}
    if stream:
        body["stream"] = True
        body["stream_options"] = {"include_usage": True}
    body |= {"max_tokens": max_tokens, "seed": mark}
    return json.dumps(body, separators=(",", ":")).encode()


def _wire(head: str, body: bytes) -> bytes:
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


_PLAIN_HEAD = (
    "POST /v1/chat/completions HTTP/1.1\r\nHost: engines.example\r\nContent-Type: application/json\r\n"
    "Accept: */*\r\nAuthorization: Bearer sk-bench\r\n"
)


def fixed(prompt_length: int, count: int) -> list[Request]:
    """Requests with one constant head and prompts of one length."""
    rng = random.Random(prompt_length)
    requests = []
    for mark in range(10_000_000, 10_000_000 + count):
        messages = [{"role": "user", "content": _prompt(rng, prompt_length)}]
        body = _body(messages, mark, 128, False)
        requests.append(Request(_wire(_PLAIN_HEAD, body), b"%08d" % mark))
    return requests


def streams(count: int, events: int, interval_ms: int, first_ms: int, prompt_length: int = 400) -> list[Request]:
    """Streaming requests: `events` events, the first after `first_ms`, then one per `interval_ms`."""
    rng = random.Random(events)
    head = f"{_PLAIN_HEAD}x-bench-pace: {interval_ms} {first_ms}\r\n"
    requests = []
    for mark in range(20_000_000, 20_000_000 + count):
        messages = [{"role": "user", "content": _prompt(rng, prompt_length)}]
        requests.append(Request(_wire(head, _body(messages, mark, events, True)), b"%08d" % mark))
    return requests


def varied(count: int) -> list[Request]:
    """What SDK clients of many kinds send: long heads, other lengths, keys and conversations every time."""
    rng = random.Random(7)
    systems = [_prompt(rng, rng.randint(100, 2000)) for _ in range(12)]
    requests = []
    for mark in range(30_000_000, 30_000_000 + count):
        messages = [{"role": "system", "content": rng.choice(systems)}]
        for turn in range(rng.choice((1, 1, 1, 3, 5))):
            size = min(8000, max(20, int(rng.lognormvariate(5.5, 1.0))))
            role = "assistant" if turn % 2 else "user"
            messages.append({"role": role, "content": _prompt(rng, size)})
        version = f"1.{rng.randint(40, 109)}.{rng.randint(0, 3)}"
        head = (
            "POST /v1/chat/completions HTTP/1.1\r\n"
            f"Host: {rng.choice(('llm', 'gateway', 'inference'))}.example.com\r\n"
            "Accept-Encoding: gzip, deflate\r\nConnection: keep-alive\r\nAccept: application/json\r\n"
            "Content-Type: application/json\r\n"
            f"User-Agent: {rng.choice(('OpenAI', 'AsyncOpenAI'))}/Python {version}\r\n"
            f"X-Stainless-Lang: python\r\nX-Stainless-Package-Version: {version}\r\n"
            f"X-Stainless-OS: Linux\r\nX-Stainless-Arch: {rng.choice(('x64', 'arm64'))}\r\n"
            f"X-Stainless-Runtime: CPython\r\n"
            f"X-Stainless-Runtime-Version: 3.{rng.randint(9, 13)}.{rng.randint(0, 9)}\r\n"
            f"Authorization: Bearer sk-{rng.getrandbits(192):048x}\r\n"
            f"X-Stainless-Async: {rng.choice(('false', 'async:asyncio'))}\r\n"
            f"x-stainless-retry-count: 0\r\nx-stainless-read-timeout: {rng.choice((60, 120, 600))}\r\n"
        )
        requests.append(Request(_wire(head, _body(messages, mark, rng.randint(16, 2048), False)), b"%08d" % mark))
    rng.shuffle(requests)
    return requests
