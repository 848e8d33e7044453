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


def test_conversations_stay_where_their_beginning_is_cached(fairlead: Fairlead) -> None:
    """Two at once, so that each engine has one; who asks first changes from turn to turn.

    The engines keep blocks of 128 tokens and are otherwise idle, so nothing speaks against the warm one.
    """
    turns = {name: long_talk(name) for name in ("alpha", "beta")}
    cached: dict[str, list[int]] = {name: [] for name in turns}

    def ask(name: str) -> str:
        body = {"model": MODEL, "messages": turns[name], "max_tokens": 8, "ignore_eos": True}
        answer = call("POST", f"{fairlead.url}/v1/chat/completions", body).json()
        cached[name].append(answer["usage"]["prompt_tokens_details"]["cached_tokens"])
        return str(answer["choices"][0]["message"]["content"])

    with ThreadPoolExecutor(2) as clients:
        for number in range(6):
            names = ["alpha", "beta"] if number % 2 else ["beta", "alpha"]
            for name, said in zip(names, clients.map(ask, names), strict=True):
                turns[name].append({"role": "assistant", "content": said})
                turns[name].append({"role": "user", "content": f"and then, {number}?"})
    for name, tokens in cached.items():
        assert all(count >= 512 for count in tokens[1:]), f"cached tokens per turn of {name}: {tokens}"


def long_talk(name: str) -> list[dict[str, str]]:
    """A beginning of about a thousand tokens that no other conversation has."""
    return [{"role": "user", "content": f"{name} asks {number}, {name} asks {number}"} for number in range(60)]
