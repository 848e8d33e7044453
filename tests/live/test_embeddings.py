"""A fleet of two kinds: one engine writes, another one embeds. Does each request find the engine of its model?

A third vLLM runs for this file only: the same weights, served under another name to pool instead of to generate.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from .balancer import Fairlead
from .client import MODEL, call, chat
from .conftest import DIRECT, Tell
from .engines import Engine, free_port

pytestmark = pytest.mark.live

EMBEDDER = "tiny-embedder"
WIDTH = 384  # the hidden size of the small model


@pytest.fixture(scope="module")
def embedder(tell: Tell, started: list[Engine | Fairlead]) -> Iterator[Engine]:
    engine = Engine("embedder", free_port(), "--embed", "--served-as", EMBEDDER)
    try:
        tell("starting a vLLM that embeds")
        engine.log.unlink(missing_ok=True)
        engine.start()
        engine.wait_until_up(tell)
        started.append(engine)
        yield engine
    finally:
        engine.stop()


@pytest.fixture(scope="module")
def mixed(engines: tuple[Engine, Engine], embedder: Engine, started: list[Engine | Fairlead]) -> Iterator[Fairlead]:
    if DIRECT:
        pytest.skip("FAIRLEAD_LIVE_DIRECT is set, and this test is about fairlead")
    proxy = Fairlead("fairlead-mixed", engines[0].url, embedder.url)
    try:
        proxy.start()
        proxy.wait_until_up(engines[0].url, embedder.url)
        started.append(proxy)
        yield proxy
    finally:
        proxy.stop()


@pytest.fixture(scope="module")
def embedding_door(request: pytest.FixtureRequest, embedder: Engine) -> str:
    if DIRECT:
        return embedder.url
    proxy = request.getfixturevalue("mixed")
    assert isinstance(proxy, Fairlead)
    return proxy.url


def test_embeddings_come_in_the_order_of_their_texts(embedding_door: str) -> None:
    from openai import OpenAI

    texts = ["import os", "def main(", "import os"]
    with OpenAI(base_url=f"{embedding_door}/v1", api_key="not-needed", max_retries=0) as client:
        answer = client.embeddings.create(model=EMBEDDER, input=texts)
    vectors = [row.embedding for row in answer.data]
    assert [len(vector) for vector in vectors] == [WIDTH] * 3
    assert math.dist(vectors[0], vectors[2]) < 0.05 < math.dist(vectors[0], vectors[1])
    assert answer.usage.prompt_tokens > 0


def test_the_models_of_both_kinds_are_listed(mixed: Fairlead) -> None:
    listed = call("GET", f"{mixed.url}/v1/models").json()["data"]
    assert sorted(model["id"] for model in listed) == sorted([MODEL, EMBEDDER])


def test_every_request_finds_the_engine_of_its_model(mixed: Fairlead, engines: tuple[Engine, Engine]) -> None:
    """Neither engine could answer for the other: vLLM says 404 to the route or to the model."""
    before = engines[0].generated_tokens()

    def ask(number: int) -> int:
        if number % 2:
            return call("POST", f"{mixed.url}/v1/chat/completions", chat(max_tokens=3)).status
        embed = {"model": EMBEDDER, "input": f"text {number}"}
        return call("POST", f"{mixed.url}/v1/embeddings", embed).status

    with ThreadPoolExecutor(8) as clients:
        assert list(clients.map(ask, range(24))) == [200] * 24
    assert engines[0].generated_tokens() == before + 12 * 3


def test_a_model_that_cannot_do_it_gets_its_engines_own_answer(mixed: Fairlead) -> None:
    answer = call("POST", f"{mixed.url}/v1/chat/completions", {**chat(), "model": EMBEDDER})
    assert answer.status == 404
