"""What is read from each engine and version, field by field."""

from __future__ import annotations

import json
from typing import Any

import engine_samples as samples
import pytest
from engine_samples import TRTLLM_RECORD, models, page

from fairlead.core.model import EngineStats
from fairlead.engines.interface import Answer
from fairlead.engines.metrics import share
from fairlead.engines.registry import DIALECTS

NOTHING = EngineStats()
URL = "http://engine:8000/metrics"


def records(*rows: object) -> bytes:
    return json.dumps(rows).encode()


TABLE: list[tuple[str, str, bytes, EngineStats]] = [
    (
        "vllm",
        "0.32 with two data-parallel ranks",
        samples.VLLM_NEW,
        EngineStats(
            waiting=2,
            running=7,
            kv_usage=0.375,
            block_tokens=16,
            kv_blocks=2000,
            prefix_queries=1000,
            prefix_hits=600,
            prompt_tokens=1200,
            generation_tokens=345,
        ),
    ),
    (
        "vllm",
        "before 0.12",
        samples.VLLM_OLD,
        EngineStats(
            waiting=6,
            running=1,
            kv_usage=0.75,
            block_tokens=32,
            prefix_queries=50,
            prefix_hits=20,
            prompt_tokens=70,
            generation_tokens=9,
        ),
    ),
    (
        "vllm",
        "between the names: the newer wins",
        b"vllm:gpu_cache_usage_perc 0.1\nvllm:kv_cache_usage_perc 0.2\n",
        EngineStats(kv_usage=0.2),
    ),
    (
        "vllm",
        "the newer name is unreadable",
        b"vllm:gpu_cache_usage_perc 0.1\nvllm:kv_cache_usage_perc NaN\n",
        EngineStats(kv_usage=0.1),
    ),
    ("vllm", "counters without suffix", b"vllm:prefix_cache_hits 4\n", EngineStats(prefix_hits=4)),
    ("vllm", "a very old gauge", b"vllm:gpu_prefix_cache_hit_rate 0.4\n", EngineStats(hit_rate=0.4)),
    ("vllm", "no cache", b'vllm:cache_config_info{block_size="None",num_gpu_blocks="0"} 1\n', NOTHING),
    ("vllm", "nothing known", b"vllm:num_requests_waiting NaN\nvllm:num_requests_running -1\n", NOTHING),
    (
        "sglang",
        "two tensor ranks are one replica",
        samples.SGLANG,
        EngineStats(
            waiting=7,
            running=5,
            kv_usage=0.4,
            block_tokens=64,
            kv_blocks=512,
            prefix_queries=900,
            prefix_hits=250,
            hit_rate=0.3,
            prompt_tokens=900,
            generation_tokens=80,
        ),
    ),
    (
        "sglang",
        "two data-parallel ranks, each on its own tensor rank",
        samples.SGLANG_DP,
        EngineStats(waiting=7, running=3, kv_usage=0.4, block_tokens=1, kv_blocks=200),
    ),
    (
        "sglang",
        "without metrics",
        samples.SGLANG_LOADS,
        EngineStats(waiting=1, running=5, kv_usage=0.3, hit_rate=0.2),
    ),
    ("sglang", "loads of wrong types", b'{"loads": [3, {"num_running_reqs": true, "token_usage": "1"}]}', NOTHING),
    (
        "trtllm",
        "Prometheus",
        samples.TRTLLM,
        EngineStats(
            waiting=2,
            running=8,
            kv_usage=0.6,
            block_tokens=32,
            kv_blocks=4000,
            prefix_queries=100,
            prefix_hits=40,
            hit_rate=0.25,
            prompt_tokens=100,
            generation_tokens=60,
        ),
    ),
    ("trtllm", "1.1.0rc5 has no gauges", samples.TRTLLM_RC5, NOTHING),
    (
        "trtllm",
        "the newest record counts",
        records({"iter": 8, "numQueuedRequests": 77}, TRTLLM_RECORD),
        EngineStats(waiting=4, running=6, kv_usage=0.25, block_tokens=64, kv_blocks=200, hit_rate=0.5),
    ),
    ("trtllm", "no new iterations", b"[]", NOTHING),
    ("trtllm", "no new iterations, spaced", b" [ ]\n", NOTHING),
    ("trtllm", "half a list", records(TRTLLM_RECORD)[:-5], NOTHING),
    (
        "trtllm",
        "no cache yet",
        records({"numActiveRequests": 1, "kvCacheStats": {"usedNumBlocks": 0, "maxNumBlocks": 0}}),
        EngineStats(running=1),
    ),
    ("trtllm", "wrong types", records({"numActiveRequests": "1", "kvCacheStats": [1]}), NOTHING),
    (
        "triton",
        "with the TensorRT-LLM backend",
        samples.TRITON,
        EngineStats(waiting=5, running=12, kv_usage=0.125, block_tokens=64, kv_blocks=800),
    ),
    ("triton", "any backend", samples.TRITON_PLAIN, EngineStats(waiting=5)),
    ("triton-openai", "any backend", samples.TRITON_PLAIN, EngineStats(waiting=5)),
    (
        "tgi",
        "3.3",
        samples.TGI,
        EngineStats(
            waiting=4, running=9, prefix_queries=500, prefix_hits=120, prompt_tokens=500, generation_tokens=250
        ),
    ),
    (
        "llamacpp",
        "now",
        samples.LLAMACPP,
        EngineStats(waiting=1, running=2, prompt_tokens=42, generation_tokens=21),
    ),
    ("llamacpp", "older builds", b"llamacpp:kv_cache_usage_ratio 0.9\n", EngineStats(kv_usage=0.9)),
    (
        "lmdeploy",
        "usage in percent",
        samples.LMDEPLOY,
        EngineStats(
            waiting=1,
            running=2,
            kv_usage=0.375,
            prefix_queries=10,
            prefix_hits=4,
            hit_rate=0.2,
            prompt_tokens=10,
            generation_tokens=5,
        ),
    ),
]


@pytest.mark.parametrize(("name", "case", "body", "expected"), TABLE, ids=[f"{row[0]}: {row[1]}" for row in TABLE])
def test_metrics(name: str, case: str, body: bytes, expected: EngineStats) -> None:
    stats = DIALECTS[name].parse_metrics(URL, body)
    for field in EngineStats.__slots__:
        want: Any = getattr(expected, field)
        assert getattr(stats, field) == (want if want is None else pytest.approx(want)), field


def test_a_page_of_real_size_gives_the_same_as_a_short_one() -> None:
    body = samples.large_vllm_page()
    assert len(body) > 50_000
    assert DIALECTS["vllm"].parse_metrics(URL, body) == DIALECTS["vllm"].parse_metrics(URL, samples.VLLM_NEW)


@pytest.mark.parametrize(
    ("value", "expected"), [(0.0, 0.0), (0.4, 0.4), (1.0, 1.0), (1.02, 1.0), (37.5, 0.375), (100.0, 1.0), (250.0, 1.0)]
)
def test_shares_over_one_are_percent_unless_they_are_rounding(value: float, expected: float) -> None:
    assert share(value) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("base", "first"),
    [
        ("http://h:8000", "http://h:8002/metrics"),
        ("https://h", "http://h:8002/metrics"),
        ("http://[::1]:8000/", "http://[::1]:8002/metrics"),
        ("http://[bad", "http://[bad/metrics"),
    ],
)
def test_triton_has_its_metrics_on_another_port(base: str, first: str) -> None:
    urls = DIALECTS["triton"].metrics_urls(base)
    assert urls[0] == first
    assert urls[-1] == base.rstrip("/") + "/metrics"
    assert DIALECTS["triton-openai"].metrics_urls(base) == urls[-1:]


def test_urls_are_tried_best_first() -> None:
    assert DIALECTS["trtllm"].metrics_urls("http://h")[0].endswith("/prometheus/metrics")
    assert DIALECTS["sglang"].metrics_urls("http://h") == ("http://h/metrics", "http://h/v1/loads?include=core")


def test_health_probes_fit_the_engine() -> None:
    assert DIALECTS["triton"].health_path == "/v2/health/ready"
    assert DIALECTS["triton-openai"].health_path == "/health/ready"
    assert DIALECTS["ollama"].health_path == "/"
    assert DIALECTS["sglang"].health_timeout > 20  # its probe runs a token through the model


MODEL_CASES: list[tuple[str, dict[str, Answer], frozenset[str] | None]] = [
    ("vllm", {"/v1/models": models("vllm", "base", "lora-a")}, frozenset({"base", "lora-a"})),
    ("vllm", {"/v1/models": page({"object": "list", "data": []})}, frozenset()),
    ("vllm", {"/v1/models": Answer(401, models("vllm").body)}, None),
    ("vllm", {"/v1/models": page({"data": [{"id": 3}, {"id": "ok"}, "x"]})}, frozenset({"ok"})),
    ("vllm", {}, None),
    ("tgi", {"/info": page({"model_id": "meta/llama"})}, frozenset({"meta/llama"})),
    ("tgi", {"/info": page({"model_id": 7})}, None),
    ("tgi", {"/v1/models": models("x", "listed"), "/info": page({"model_id": "told"})}, frozenset({"listed"})),
    ("triton", {"/v1/models": models("Triton Inference Server", "m")}, frozenset({"m"})),
    ("triton", {"/v2": page({"name": "triton"})}, None),
]


@pytest.mark.parametrize(("name", "answers", "expected"), MODEL_CASES)
def test_models(name: str, answers: dict[str, Answer], expected: frozenset[str] | None) -> None:
    assert DIALECTS[name].models(answers) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("vllm", "0.32.0"),
        ("sglang", "0.5.23"),
        ("trtllm", "1.1.0rc5"),
        ("triton", "2.54.0"),
        ("tgi", "3.3.7"),
        ("llamacpp", "b6000-abc"),
        ("ollama", "0.33.0"),
        ("generic", None),
    ],
)
def test_versions(name: str, expected: str | None) -> None:
    assert DIALECTS[name].version(samples.OWN_ANSWERS[name]) == expected
