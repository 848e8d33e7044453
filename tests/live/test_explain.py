"""Can a user find out where a request went, and why, with nothing but the id on its answer?"""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest

from .balancer import Fairlead
from .client import MODEL, call, chat, metrics, streaming
from .engines import Engine

pytestmark = pytest.mark.live

CHAT = "/v1/chat/completions"
SECRET = "sesame-4711"


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", CHAT, chat()),
        ("POST", CHAT, {"model": MODEL}),
        ("POST", CHAT, {**chat(), "model": "no-such-model"}),
        ("POST", CHAT, b"{ no json"),
        ("GET", "/v1/models", None),
        ("GET", "/health", None),
        ("GET", "/version", None),
        ("GET", "/no-such-page", None),
        ("HEAD", "/v1/models", None),
        ("OPTIONS", CHAT, None),
    ],
)
def test_every_answer_has_a_request_id(fairlead: Fairlead, method: str, path: str, body: object) -> None:
    ids = {call(method, fairlead.url + path, body).headers["x-request-id"] for _ in range(2)}
    assert len(ids) == 2
    assert all(ids)


def test_a_stream_has_a_request_id_on_its_head(fairlead: Fairlead) -> None:
    with streaming(fairlead.url + CHAT, chat(stream=True)) as answer:
        assert answer.headers["x-request-id"]
        assert list(answer.events())[-1] == "[DONE]"


def test_the_id_explains_where_the_request_went(fairlead: Fairlead, engines: tuple[Engine, Engine]) -> None:
    before = [engine.generated_tokens() for engine in engines]
    answer = call("POST", fairlead.url + CHAT, chat(max_tokens=9))
    grew = [engine.generated_tokens() - count for engine, count in zip(engines, before, strict=True)]
    assert sorted(grew) == [0, 9]
    served, other = engines if grew[0] else engines[::-1]

    explained = fairlead.explain(answer.headers["x-request-id"])
    assert explained.status == 200
    decision = explained.json()["decision"]
    rows = fairlead.backends()
    assert decision["backend"] == rows[served.url]["id"]
    assert decision["policy"] == fairlead.get("/api/backends").json()["policy"]
    assert decision["reason"]
    candidates = {row["backend"]: row for row in decision["candidates"]}
    assert candidates[rows[served.url]["id"]]["chosen"]
    assert not candidates[rows[other.url]["id"]]["chosen"]


def test_an_id_that_nobody_had_is_not_found(fairlead: Fairlead) -> None:
    answer = fairlead.explain("no-such-request")
    assert answer.status == 404
    assert json.loads(answer.body)


def test_the_requests_id_of_the_client_is_kept(fairlead: Fairlead) -> None:
    """It is in the client's own logs already; vLLM makes it a part of its id too."""
    answer = call("POST", fairlead.url + CHAT, chat(), headers={"X-Request-Id": "ticket-42"})
    assert answer.headers["x-request-id"] == "ticket-42"
    assert "ticket-42" in answer.json()["id"]
    assert fairlead.explain("ticket-42").status == 200


def test_counters_name_the_backend_and_the_model(fairlead: Fairlead) -> None:
    def answered() -> float:
        def wanted(labels: Mapping[str, str]) -> bool:
            return labels["model"] == MODEL and labels["code"] == "200"

        found = metrics(fairlead.admin)
        return sum(value for name, labels, value in found if name == "fairlead_requests_total" and wanted(labels))

    before = answered()
    for _ in range(3):
        assert call("POST", fairlead.url + CHAT, chat(max_tokens=2)).status == 200
    assert answered() == before + 3


def test_prompts_and_keys_stay_out_of_everything_that_is_kept(fairlead: Fairlead) -> None:
    key = {"Authorization": f"Bearer {SECRET}"}
    answer = call("POST", fairlead.url + CHAT, chat(f"the word is {SECRET}"), headers=key)
    pages = ["/metrics", "/api/decisions", "/api/backends", "/api/config"]
    kept = [fairlead.get(page).body.decode() for page in pages]
    kept.append(fairlead.explain(answer.headers["x-request-id"]).body.decode())
    kept.append(fairlead.log.read_text(errors="replace"))
    assert not [text for text in kept if SECRET in text]
