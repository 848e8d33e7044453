"""Is the engine free at once when the client has gone?

A request that nobody waits for still costs the GPU, unless every part on the way passes the end of the connection on.
"""

from __future__ import annotations

import socket
import struct

import pytest

from .client import call, chat, streaming, unanswered
from .engines import Engine
from .waiting import wait_for

pytestmark = pytest.mark.live

FREE_SECONDS = 2.0
LONG = 3000  # tokens; some 40 s of work

Engines = tuple[Engine, Engine]


def inflight(engines: Engines) -> float:
    return sum(engine.inflight() for engine in engines)


def generated(engines: Engines) -> float:
    return sum(engine.generated_tokens() for engine in engines)


@pytest.mark.parametrize("ending", ["close", "reset"])
def test_a_stream_that_is_left_frees_the_engine(door: str, engines: Engines, ending: str) -> None:
    with streaming(f"{door}/v1/chat/completions", chat(max_tokens=LONG, stream=True)) as answer:
        events = answer.events()
        for _ in range(4):
            next(events)
        assert inflight(engines) == 1
        answer.close_gently() if ending == "close" else answer.reset()
        wait_for("the engine to be free", lambda: inflight(engines) == 0, seconds=FREE_SECONDS)
    counted = generated(engines)
    assert call("POST", f"{door}/v1/chat/completions", chat(max_tokens=4)).status == 200
    assert generated(engines) == counted + 4, "tokens for nobody"


@pytest.mark.parametrize("ending", ["close", "reset"])
def test_a_plain_request_that_is_left_frees_the_engine(door: str, engines: Engines, ending: str) -> None:
    with unanswered(f"{door}/v1/chat/completions", chat(max_tokens=LONG)) as connection:
        wait_for("the engine to begin", lambda: inflight(engines) == 1, seconds=10.0)
        if ending == "reset":
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()
        wait_for("the engine to be free", lambda: inflight(engines) == 0, seconds=FREE_SECONDS)


def test_a_client_that_leaves_during_the_prefill_frees_the_engine(door: str, engines: Engines) -> None:
    """No byte of the answer has come yet, though it will be a stream."""
    body = chat("word " * 3500, max_tokens=400, stream=True)
    with unanswered(f"{door}/v1/chat/completions", body) as connection:
        wait_for("the engine to begin", lambda: inflight(engines) == 1, seconds=10.0)
        connection.close()
        wait_for("the engine to be free", lambda: inflight(engines) == 0, seconds=FREE_SECONDS)


def test_many_clients_that_leave_at_once_leave_nothing_behind(door: str, engines: Engines) -> None:
    """More than the engines run at a time: some of these wait in an engine's queue when their clients go."""
    opened = [unanswered(f"{door}/v1/chat/completions", chat(max_tokens=LONG)) for _ in range(40)]
    for one in opened:
        one.__enter__()
    try:
        wait_for("the engines to be full", lambda: inflight(engines) == 40, seconds=20.0)
    finally:
        for one in opened:
            one.__exit__(None, None, None)
    wait_for("the engines to be free", lambda: inflight(engines) == 0, seconds=FREE_SECONDS)
