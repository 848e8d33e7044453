"""Do both engines get work, and does a conversation stay where its beginning is cached?

Counted by the engines themselves, not by fairlead.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from .balancer import Fairlead
from .client import MODEL, call, chat, streaming
from .engines import Engine

pytestmark = pytest.mark.live

CLIENTS = 16
TOKENS = 40


def stream_one(url: str, number: int) -> int:
    """How many tokens came, told by the usage at the end of the stream."""
    body = chat(f"client {number}", max_tokens=TOKENS, stream=True, stream_options={"include_usage": True})
    with streaming(f"{url}/v1/chat/completions", body) as answer:
        assert answer.status == 200
        events = list(answer.events())
    assert events[-1] == "[DONE]"
    return TOKENS if f'"completion_tokens":{TOKENS}' in events[-2] else 0


def test_both_engines_work_on_concurrent_requests(fairlead: Fairlead, engines: tuple[Engine, Engine]) -> None:
    before = [engine.generated_tokens() for engine in engines]
    with ThreadPoolExecutor(CLIENTS) as clients:
        tokens = list(clients.map(lambda number: stream_one(fairlead.url, number), range(CLIENTS)))
    assert tokens == [TOKENS] * CLIENTS
    grew = [engine.generated_tokens() - count for engine, count in zip(engines, before, strict=True)]
    assert sum(grew) == CLIENTS * TOKENS
    # The engines are alike and the requests come at once: neither may be left with only a few of them.
    assert min(grew) >= CLIENTS * TOKENS / 4


def test_a_conversation_stays_where_its_beginning_is_cached(fairlead: Fairlead) -> None:
    """Blocks are 128 tokens; the engines are idle between turns, so nothing speaks against the warm one."""
    for name in ("alpha", "beta"):
        turns = [{"role": "user", "content": f"{name} {number} " * 4} for number in range(60)]
        cached = []
        for number in range(4):
            body = {"model": MODEL, "messages": turns, "max_tokens": 4, "ignore_eos": True}
            answer = call("POST", f"{fairlead.url}/v1/chat/completions", body).json()
            cached.append(answer["usage"]["prompt_tokens_details"]["cached_tokens"])
            turns += [
                {"role": "assistant", "content": answer["choices"][0]["message"]["content"]},
                {"role": "user", "content": f"and then, {number}?"},
            ]
        assert all(tokens >= 256 for tokens in cached[1:]), f"cached tokens per turn of {name}: {cached}"
