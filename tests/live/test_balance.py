"""Do both engines get work, and does a conversation stay where its beginning is cached?

Counted by the engines themselves, not by fairlead. The engines are alike: same weights, one core each.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from fairlead.core.policies.registry import POLICIES

from .balancer import Fairlead
from .client import MODEL, call, chat, streaming
from .conftest import OwnFairlead
from .engines import Engine
from .waiting import holds_for, wait_for

pytestmark = pytest.mark.live

PREFIX_POLICIES = ("prefix_cache", "expected_completion")

CLIENTS = 16
RELEARN_SECONDS = 2.5  # speeds are worked out anew about once a second
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
    assert min(grew) >= CLIENTS * TOKENS / 4, f"tokens that each engine produced: {grew}"


def test_a_burst_is_shared_whatever_happened_before(own: OwnFairlead, engines: tuple[Engine, Engine]) -> None:
    """Before the burst: requests one by one, refused ones, and ones that were left. None tells a lasting difference."""
    proxy = own()
    url = f"{proxy.url}/v1/chat/completions"
    for number in range(6):
        assert call("POST", url, chat(f"alone {number}", max_tokens=4)).status == 200
        assert call("POST", url, chat("word " * 20_000)).status == 400  # too long: refused without any work on it
        with streaming(url, chat(max_tokens=2000, stream=True)) as left:
            next(left.events())
    wait_for("the engines to be free", lambda: sum(engine.inflight() for engine in engines) == 0, seconds=5.0)

    before = [engine.generated_tokens() for engine in engines]
    with ThreadPoolExecutor(32) as clients:
        asked = list(clients.map(lambda number: call("POST", url, chat(f"burst {number}", max_tokens=20)), range(32)))
    assert [answer.status for answer in asked] == [200] * 32
    grew = [engine.generated_tokens() - count for engine, count in zip(engines, before, strict=True)]
    assert min(grew) >= sum(grew) / 4, f"tokens that each engine produced: {grew}; {capacities(proxy)}"


def test_a_refused_request_tells_nothing_about_speed(own: OwnFairlead) -> None:
    """A prompt that is too long is answered in milliseconds, but not because the engine is quick."""
    proxy = own()
    url = f"{proxy.url}/v1/chat/completions"
    for number in range(8):
        assert call("POST", url, chat(f"alone {number}", max_tokens=8)).status == 200
    assert call("POST", url, chat("word " * 200_000)).status == 400
    holds_for("alike engines have like speeds", lambda: max(capacities(proxy)) < 2.0, seconds=RELEARN_SECONDS)


@pytest.mark.parametrize("policy", [name for name in ("prefix_hash", *PREFIX_POLICIES) if name in POLICIES])
def test_conversations_stay_where_their_beginning_is_cached(own: OwnFairlead, policy: str) -> None:
    """Two at once, so that there is a choice; who asks first changes from turn to turn.

    The engines keep blocks of 128 tokens and are otherwise idle, so nothing speaks against the warm one.
    """
    url = f"{own('--policy', policy).url}/v1/chat/completions"
    turns = {name: long_talk(f"{policy} {name}") for name in ("alpha", "beta")}
    cached: dict[str, list[int]] = {name: [] for name in turns}

    def ask(name: str) -> str:
        body = {"model": MODEL, "messages": turns[name], "max_tokens": 8, "ignore_eos": True}
        answer = call("POST", url, body).json()
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


def capacities(proxy: Fairlead) -> list[float]:
    """What it has learned of each backend's speed; the mean of the fleet is 1."""
    return [row["capacity"] for row in proxy.backends().values()]
