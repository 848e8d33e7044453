"""Reading an engine's pages: what each family tells, and what rubbish tells (nothing, without an error)."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairlead.core.model import EngineStats
from fairlead.doctor import read
from fairlead.doctor.facts import MetricsState, Model
from fairlead.doctor.mend import FLAGS, mend
from fairlead.engines.interface import Answer, Answers
from fairlead.engines.registry import DIALECTS, NAMES


def page(document: object, status: int = 200) -> Answer:
    return Answer(status, json.dumps(document).encode())


def sglang(**info: Any) -> Answers:
    return {"/server_info": page({"model_path": "q", **info})}


def vllm(**config: Any) -> Answers:
    return {read.SERVER_INFO_JSON: page({"vllm_config": config})}


LIMITED = b'vllm:admission_rejections_total{model_name="m",reason="max_num_queued_reqs"} 3\n'
UNTRIED = b'vllm:admission_rejections_total{model_name="m",reason="max_num_queued_reqs"} 0\n'


@pytest.mark.parametrize(
    ("engine", "answers", "metrics", "told"),
    [
        ("vllm", vllm(scheduler_config={"max_num_queued_reqs": None, "max_num_queued_tokens": None}), b"", False),
        ("vllm", vllm(scheduler_config={"max_num_queued_reqs": 3, "max_num_queued_tokens": None}), b"", True),
        ("vllm", vllm(scheduler_config={"max_num_queued_reqs": None, "max_num_queued_tokens": 0}), b"", True),
        ("vllm", vllm(scheduler_config={}), b"", None),  # an older version
        ("vllm", {}, LIMITED, True),
        ("vllm", {}, UNTRIED, None),  # may have a limit all the same
        ("sglang", sglang(max_queued_requests=None), b"", False),
        ("sglang", sglang(max_queued_requests=9), b"", True),
        ("sglang", sglang(), b"", None),
        ("llamacpp", {}, b"", False),
        ("tgi", {}, b"", True),
        ("ollama", {}, b"", True),
        ("trtllm", {}, b"", None),
    ],
)
def test_a_limit_on_the_queue(engine: str, answers: Answers, metrics: bytes, told: bool | None) -> None:
    assert read.queue_limit(engine, answers, metrics) is told


def cache_info(label: str) -> bytes:
    return f'vllm:cache_config_info{{block_size="16",enable_prefix_caching="{label}",engine="0"}} 1.0\n'.encode()


@pytest.mark.parametrize(
    ("engine", "answers", "metrics", "told"),
    [
        ("vllm", {}, cache_info("True"), True),
        ("vllm", {}, cache_info("False"), False),
        ("vllm", {}, cache_info("True") + cache_info("False"), False),  # one rank without is enough
        ("vllm", {}, cache_info("None"), None),
        ("vllm", vllm(cache_config={"enable_prefix_caching": False}), b"", False),
        ("vllm", {}, b"", None),
        ("sglang", sglang(disable_radix_cache=True), b"", False),
        ("sglang", sglang(disable_radix_cache=False), b"", True),
        ("sglang", {"/get_server_info": page({"disable_radix_cache": True})}, b"", False),
        ("sglang", sglang(disable_radix_cache="no"), b"", None),
        ("tgi", {}, b"", None),
    ],
)
def test_prefix_caching(engine: str, answers: Answers, metrics: bytes, told: bool | None) -> None:
    assert read.prefix_caching(engine, answers, metrics) is told


@pytest.mark.parametrize(
    ("engine", "answers", "told"),
    [
        ("vllm", {read.EVENT_SOURCES: page({})}, False),
        ("vllm", {read.EVENT_SOURCES: page({"0": {"publisher": "zmq"}})}, True),
        ("vllm", {read.EVENT_SOURCES: page({"detail": "Not Found"}, 404)}, None),  # an older version
        ("vllm", {}, None),
        ("sglang", sglang(kv_events={"publisher": "zmq"}), True),
        ("sglang", sglang(kv_events_config='{"publisher":"zmq"}'), True),
        ("sglang", sglang(kv_events_config=None), False),
        ("sglang", sglang(kv_events={"publisher": "null"}), False),
        ("sglang", sglang(), None),
        ("trtllm", {}, None),
    ],
)
def test_cache_events(engine: str, answers: Answers, told: bool | None) -> None:
    assert read.cache_events(engine, answers) is told


@pytest.mark.parametrize(
    ("engine", "answers", "told"),
    [
        ("vllm", vllm(model_config={"generation_config": "auto", "model": "x"}), {"generation_config": "auto"}),
        ("vllm", vllm(), None),
        ("sglang", sglang(sampling_defaults="model"), {"sampling_defaults": "model"}),
        (
            "llamacpp",
            {"/props": page({"default_generation_settings": {"params": {"temperature": 0.8, "seed": 1}}})},
            {"temperature": "0.8"},
        ),
        ("tgi", {}, None),
    ],
)
def test_sampling_defaults(engine: str, answers: Answers, told: dict[str, str] | None) -> None:
    assert read.sampling(engine, answers) == told


def test_models_with_adapters_limits_and_roots() -> None:
    rows: list[Any] = [
        {"id": "m", "max_model_len": 4096, "root": "meta/m", "parent": None},
        {"id": "lora", "parent": "m", "root": "lora"},
        {"id": "m", "max_model_len": 1},
        {"id": 7},
        "rubbish",
    ]
    assert read.models_of({"/v1/models": page({"data": rows})}) == (
        Model("m", longest=4096, root="meta/m"),
        Model("lora", is_adapter=True),
    )


def test_the_context_length_of_engines_that_tell_it_elsewhere() -> None:
    listed = page({"data": [{"id": "m"}]})
    props = page({"default_generation_settings": {"n_ctx": 8192}})
    assert read.models_of({"/v1/models": listed, "/props": props}) == (Model("m", longest=8192),)
    assert read.models_of({"/v1/models": listed, "/info": page({"max_total_tokens": 99})}) == (Model("m", longest=99),)
    assert read.models_of({"/v1/models": listed}) == (Model("m"),)


def test_names_with_control_characters_cannot_reach_a_terminal() -> None:
    (model,) = read.models_of({"/v1/models": page({"data": [{"id": "m\x1b[31m\n" + "x" * 500}]})})
    assert model.id.isprintable()
    assert len(model.id) < 130


def test_a_fingerprint_is_the_same_for_the_same_ids_in_every_dialect() -> None:
    same = [b'{"tokens":[1,2,3],"count":3}', b"[1,2,3]", b'[{"id":1,"text":"a"},{"id":2},{"id":3}]']
    assert len({read.fingerprint(body) for body in same}) == 1
    assert read.fingerprint(same[0]) != read.fingerprint(b"[1,2,4]") != read.fingerprint(b"[12,4]")


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"[]", b'{"tokens":["a"]}', b'{"tokens":[true]}', b'[{"text":"a"}]', b"x"]
)
def test_what_holds_no_ids_has_no_fingerprint(body: bytes) -> None:
    assert read.fingerprint(body) is None


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("timeout=5", 5.0), ("max=3, Timeout=5", 5.0), ("timeout=5, max=100", 5.0), ("max=1", None), ("timeout=x", None),
     ("timeout=-1", None), ("", None)],
)  # fmt: skip
def test_the_keep_alive_header(header: str, seconds: float | None) -> None:
    assert read.keep_alive_header(Answer(200, b"", {"keep-alive": header})) == seconds


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b'{"error":{"message":"no room"}}', "answered 503: no room"),
        (b'{"error":"no room"}', "answered 503: no room"),
        (b'{"detail":"no room"}', "answered 503: no room"),
        (b"<html>", "answered 503"),
        (b'{"error":{"message":"\\u001b[2J"}}', "answered 503: ?[2J"),
    ],
)
def test_an_error_in_one_line(body: bytes, text: str) -> None:
    assert read.error_of(503, body) == text


def test_what_a_metrics_page_is_worth() -> None:
    def state(name: str, body: bytes) -> MetricsState:
        return read.metrics_state(DIALECTS[name], body, DIALECTS[name].parse_metrics("u", body))

    assert state("vllm", b"vllm:num_requests_running 1\n") is MetricsState.READ
    assert state("vllm", b"vllm:new_name 1\n") is MetricsState.UNKNOWN
    assert state("vllm", b"process_open_fds 1\n") is MetricsState.EMPTY
    assert state("trtllm", b"[]") is MetricsState.READ
    assert state("generic", b"x 1\n") is MetricsState.EMPTY


READERS: list[Callable[[Answers, bytes], object]] = [
    *(lambda answers, body, e=engine: read.queue_limit(e, answers, body) for engine in NAMES),
    *(lambda answers, body, e=engine: read.prefix_caching(e, answers, body) for engine in NAMES),
    *(lambda answers, body, e=engine: read.cache_events(e, answers) for engine in NAMES),
    *(lambda answers, body, e=engine: read.sampling(e, answers) for engine in NAMES),
    *(lambda answers, body, e=engine: read.metrics_state(DIALECTS[e], body, EngineStats()) for engine in NAMES),
    lambda answers, body: read.models_of(answers),
    lambda answers, body: read.fingerprint(body),
    lambda answers, body: (usage := read.usage_of(body)) is not None and read.cached_of(usage),
    lambda answers, body: read.error_of(500, body),
]
KEYS = ["data", "id", "tokens", "usage", "error", "prompt_tokens_details", "vllm_config", "publisher"]
KEYS += ["scheduler_config", "kv_events", "default_generation_settings", "params", "n_ctx"]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=12,
)
PATHS = ("/v1/models", "/server_info", "/get_server_info", "/props", "/info", read.SERVER_INFO_JSON, read.EVENT_SOURCES)


@given(document=JSON | st.binary(max_size=40))
def test_whatever_an_engine_answers_no_reader_raises(document: Any) -> None:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    answers = dict.fromkeys(PATHS, Answer(200, body))
    for reader in READERS:
        reader(answers, body)


@pytest.mark.parametrize("what", FLAGS)
def test_every_advice_is_for_an_engine_there_is(what: str) -> None:
    assert set(FLAGS[what]) <= set(NAMES)
    assert isinstance(mend(what, "generic"), str)
