"""Is what fairlead does not understand relayed as it is, in both directions?

Each answer is compared with the one that an engine gives directly: status, content type and every byte of the body.
"""

from __future__ import annotations

import pytest

from .balancer import Fairlead
from .client import MODEL, Answer, call, chat
from .engines import Engine

pytestmark = pytest.mark.live

CHAT = "/v1/chat/completions"


def seen(answer: Answer) -> tuple[int, str | None, bytes]:
    return answer.status, answer.headers.get("content-type"), answer.body


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/tokenize", {"model": MODEL, "prompt": "import os"}, 200),
        ("POST", "/tokenize", {"model": MODEL, "messages": chat()["messages"]}, 200),
        ("POST", "/detokenize", {"model": MODEL, "tokens": [300, 301, 302]}, 200),
        ("GET", "/version", None, 200),
        ("GET", CHAT, None, 405),
        ("POST", "/v1/no-such-route", {"model": MODEL}, 404),
        ("GET", "/no-such-page", None, 404),
        ("POST", CHAT, {"model": MODEL}, 400),
        ("POST", CHAT, chat(max_tokens=100_000), 400),
        ("POST", CHAT, chat("word " * 5000), 400),
        ("POST", CHAT, chat("word " * 5000, stream=True), 400),
        ("POST", CHAT, chat(temperature="warm"), 400),
        ("POST", "/v1/embeddings", {"model": MODEL, "input": "import os"}, 404),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_the_answer_is_the_engines_byte_by_byte(
    door: str, engines: tuple[Engine, Engine], method: str, path: str, body: object, status: int
) -> None:
    through = call(method, door + path, body)
    direct = call(method, engines[0].url + path, body)
    assert direct.status == status, f"the engine itself answered {direct.status}: {direct.body!r}"
    assert seen(through) == seen(direct)


def test_a_query_string_reaches_the_engine(door: str) -> None:
    assert call("GET", f"{door}/version?verbose=1&x=%20").status == 200


def test_a_body_that_is_no_json_is_a_bad_request(door: str) -> None:
    answer = call("POST", door + CHAT, b'{"model": "tiny", oops')
    assert answer.status == 400
    assert answer.json()["error"]["message"]


def test_a_body_without_a_model_is_served(door: str) -> None:
    """vLLM takes its own model then; with one model in the fleet there is nothing to choose."""
    body = chat(max_tokens=3)
    del body["model"]
    answer = call("POST", door + CHAT, body)
    assert answer.status == 200
    assert answer.json()["model"] == MODEL


def test_an_unknown_model_is_answered_by_fairlead_itself(fairlead: Fairlead, engines: tuple[Engine, Engine]) -> None:
    asked = [engine.generated_tokens() for engine in engines]
    answer = call("POST", fairlead.url + CHAT, {**chat(), "model": "no-such-model"})
    assert answer.status == 404
    error = answer.json()["error"]
    assert set(error) >= {"message", "type", "code", "param"}
    assert error["code"] == "model_not_found"
    assert error["param"] == "model"
    assert "no-such-model" in error["message"]
    assert [engine.generated_tokens() for engine in engines] == asked


def test_the_models_of_both_engines_are_listed_once(fairlead: Fairlead) -> None:
    answer = call("GET", f"{fairlead.url}/v1/models")
    listed = answer.json()
    assert listed["object"] == "list"
    assert [model["id"] for model in listed["data"]] == [MODEL]
    assert listed["data"][0]["object"] == "model"


def test_the_data_port_is_healthy_while_an_engine_is(fairlead: Fairlead) -> None:
    assert call("GET", f"{fairlead.url}/health").status == 200
    assert fairlead.get("/readyz").status == 200
    assert fairlead.get("/healthz").status == 200
