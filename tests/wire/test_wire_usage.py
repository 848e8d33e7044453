"""Token counts at the end of answers, JSON and event streams of the dialects that tell them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairlead.core.model import Usage
from fairlead.wire.errors import error_body, error_event
from fairlead.wire.openai import USAGE_TAIL, body_field, read_usage


def sse(*events: Any) -> bytes:
    return b"".join(b"data: " + (e if isinstance(e, bytes) else json.dumps(e).encode()) + b"\n\n" for e in events)


CHAT_USAGE = {
    "prompt_tokens": 31,
    "total_tokens": 40,
    "completion_tokens": 9,
    "prompt_tokens_details": {"cached_tokens": 16},
}
DETAILS = {"completion_tokens_details": {"reasoning_tokens": 64, "accepted_prediction_tokens": 0}}

TABLE: list[tuple[str, bytes, Usage | None]] = [
    ("chat", json.dumps({"choices": [{}], "usage": CHAT_USAGE}).encode(), Usage(31, 9, 16)),
    ("compact", json.dumps({"usage": CHAT_USAGE}, separators=(",", ":")).encode(), Usage(31, 9, 16)),
    ("spread out", json.dumps({"usage": CHAT_USAGE}, indent=4).encode(), Usage(31, 9, 16)),
    ("usage first", json.dumps({"usage": CHAT_USAGE, "id": "x" * 300}).encode(), Usage(31, 9, 16)),
    ("no details", b'{"usage":{"prompt_tokens":3,"completion_tokens":0}}', Usage(3, 0, None)),
    ("null details", b'{"usage":{"prompt_tokens":3,"completion_tokens":1,"prompt_tokens_details":null}}', Usage(3, 1)),
    ("details first", json.dumps({"usage": {**DETAILS, "prompt_tokens": 5, "completion_tokens": 80}}).encode(),
     Usage(5, 80)),
    ("embeddings", b'{"data":[],"usage":{"prompt_tokens":8,"total_tokens":8}}', Usage(8, 0)),
    ("stream", sse({"choices": [], "usage": None}, {"choices": [], "usage": CHAT_USAGE}, b"[DONE]"), Usage(31, 9, 16)),
    ("stream, counted all along", sse({"usage": {"prompt_tokens": 31, "completion_tokens": 1}},
                                      {"usage": {"prompt_tokens": 31, "completion_tokens": 2}}, b"[DONE]"),
                                      Usage(31, 2)),
    ("responses", json.dumps({"usage": {"input_tokens": 7, "input_tokens_details": {"cached_tokens": 2},
                                        "output_tokens": 4, "output_tokens_details": {"reasoning_tokens": 1},
                                        "total_tokens": 11}}).encode(), Usage(7, 4, 2)),
    ("messages", b'{"usage":{"input_tokens":12,"cache_read_input_tokens":10,"output_tokens":6}}', Usage(12, 6, 10)),
    ("messages stream", b'event: message_delta\ndata: {"type":"message_delta","usage":{"output_tokens":6}}\n\n'
                        b'event: message_stop\ndata: {"type":"message_stop"}\n\n', Usage(0, 6)),
    ("chunked framing behind it", b'{"usage":{"prompt_tokens":3,"completion_tokens":1}}\r\n0\r\n\r\n', Usage(3, 1)),
    ("none", b'{"choices":[]}', None),
    ("null", b'{"usage":null}', None),
    ("in the text", json.dumps({"text": 'the "usage":{"prompt_tokens":99} of it'}).encode(), None),
    ("of another kind", b'{"usage":"a lot"}', None),
    ("empty", b"", None),
    ("cut", b'{"usage":{"prompt_tok', None),
]  # fmt: skip


@pytest.mark.parametrize(("tail", "expected"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_usage(tail: bytes, expected: Usage | None) -> None:
    assert read_usage(tail) == expected


@settings(max_examples=200, deadline=None)
@given(tail=st.binary(max_size=200), name=st.sampled_from([b'"usage"', b'"prompt_tokens":', b'"output_tokens": 9']))
def test_random_tails_never_crash(tail: bytes, name: bytes) -> None:
    for mixed in (tail, b'"usage"' + tail + name, name + tail, b'{"usage":{' + name + b"9" * 40 + tail):
        found = read_usage(mixed[-USAGE_TAIL:])
        assert found is None or (found.prompt_tokens >= 0 and found.completion_tokens >= 0)


def test_body_fields() -> None:
    body = b'{"user":"u1","n":5,"deep":{"user":"no"},"empty":"","list":[1],"yes":true,"none":null}'
    assert [body_field(body, name) for name in ("user", "n", "deep", "empty", "list", "none", "missing")] == [
        "u1", "5", None, None, None, None, None,
    ]  # fmt: skip
    for bad in (b"", b"[]", b"{", b"\xff", b'{"a":' * 50_000, b'{"user":"\xff"}', b"null"):
        assert body_field(bad, "user") is None


def test_error_bodies_have_the_shape_of_the_route() -> None:
    said = json.loads(error_body(404, "model_not_found", 'no "x"\n', "model"))
    assert said == {
        "error": {"message": 'no "x"\n', "type": "not_found_error", "code": "model_not_found", "param": "model"}
    }
    said = json.loads(error_body(503, "no_backend", "none", anthropic=True))
    assert said == {"type": "error", "error": {"type": "overloaded_error", "message": "none"}}
    for status in range(400, 600):
        assert json.loads(error_body(status, "c", "m"))["error"]["type"]
        assert json.loads(error_body(status, "c", "m", anthropic=True))["error"]["type"]


def test_error_events_are_one_event_each() -> None:
    for anthropic in (False, True):
        event = error_event("stream_broken", "two\nlines", anthropic=anthropic)
        assert event.endswith(b"\n\n")
        assert event.count(b"\n\n") == 1
        assert json.loads(event.partition(b"data: ")[2])["error"]["message"] == "two\nlines"
        assert event.startswith(b"event: error\n") == anthropic
