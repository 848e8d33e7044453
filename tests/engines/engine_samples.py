"""Answers as engines give them, written by hand: one set per engine and, for metrics, per version.

Shared by the conformance suite, the detection matrix and the tables.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from fairlead.engines.interface import Answer, Answers

NOT_FOUND = Answer(404, b'{"detail":"Not Found"}')


def models(owner: str, *names: str) -> Answer:
    rows = [{"id": name, "object": "model", "created": 1, "owned_by": owner} for name in names or ("llama",)]
    return Answer(200, json.dumps({"object": "list", "data": rows}).encode())


def page(document: object) -> Answer:
    return Answer(200, json.dumps(document).encode())


VLLM_NEW = b"""\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="llama"} 3.0
vllm:num_requests_running{engine="1",model_name="llama"} 4.0
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="llama"} 2.0
vllm:num_requests_waiting{engine="1",model_name="llama"} 0.0
vllm:num_requests_waiting_by_reason{engine="0",model_name="llama",reason="capacity"} 99.0
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{engine="0",model_name="llama"} 0.5
vllm:kv_cache_usage_perc{engine="1",model_name="llama"} 0.25
vllm:cache_config_info{block_size="16",cache_dtype="auto",enable_prefix_caching="True",engine="0",\
num_gpu_blocks="1000",hash_block_size="None",prefix_caching_hash_algo="sha256"} 1.0
vllm:cache_config_info{block_size="16",cache_dtype="auto",enable_prefix_caching="True",engine="1",\
num_gpu_blocks="1000",hash_block_size="None",prefix_caching_hash_algo="sha256"} 1.0
# TYPE vllm:prefix_cache_queries_total counter
vllm:prefix_cache_queries_total{engine="0",model_name="llama"} 1000.0
vllm:prefix_cache_queries_created{engine="0",model_name="llama"} 1.7e+09
vllm:prefix_cache_hits_total{engine="0",model_name="llama"} 600.0
vllm:external_prefix_cache_hits_total{engine="0",model_name="llama"} 5.0
vllm:prompt_tokens_total{engine="0",model_name="llama"} 1200.0
vllm:prompt_tokens_by_source_total{engine="0",model_name="llama",source="local_compute"} 77.0
vllm:prompt_tokens_cached_total{engine="0",model_name="llama"} 600.0
vllm:generation_tokens_total{engine="0",model_name="llama"} 345.0
vllm:time_to_first_token_seconds_bucket{engine="0",le="0.001",model_name="llama"} 0.0
"""

VLLM_OLD = b"""\
vllm:num_requests_running{model_name="llama"} 1.0
vllm:num_requests_waiting{model_name="llama"} 6.0
vllm:gpu_cache_usage_perc{model_name="llama"} 0.75
vllm:cpu_cache_usage_perc{model_name="llama"} 0.1
vllm:gpu_prefix_cache_hit_rate{model_name="llama"} -1.0
vllm:gpu_prefix_cache_queries_total{model_name="llama"} 50.0
vllm:gpu_prefix_cache_hits_total{model_name="llama"} 20.0
vllm:cache_config_info{block_size="32",num_gpu_blocks="None"} 1.0
vllm:prompt_tokens_total{model_name="llama"} 70.0
vllm:generation_tokens_total{model_name="llama"} 9.0
"""

_SGL = 'model_name="qwen",engine_type="unified"'

SGLANG = f"""\
# TYPE sglang:num_running_reqs gauge
sglang:num_running_reqs{{{_SGL},tp_rank="0",pp_rank="0",moe_ep_rank="0"}} 5.0
sglang:num_running_reqs{{{_SGL},tp_rank="1",pp_rank="0",moe_ep_rank="0"}} 5.0
sglang:num_queue_reqs{{{_SGL},tp_rank="0",pp_rank="0",moe_ep_rank="0"}} 7.0
sglang:num_queue_reqs{{{_SGL},tp_rank="1",pp_rank="0",moe_ep_rank="0"}} 7.0
sglang:token_usage{{{_SGL},tp_rank="0",pp_rank="0",moe_ep_rank="0"}} 0.4
sglang:page_size{{{_SGL},tp_rank="0",pp_rank="0",moe_ep_rank="0"}} 64.0
sglang:num_pages{{{_SGL},tp_rank="0",pp_rank="0",moe_ep_rank="0"}} 512.0
sglang:cache_hit_rate{{{_SGL},tp_rank="0",pp_rank="0",moe_ep_rank="0"}} 0.3
sglang:prompt_tokens_total{{{_SGL}}} 900.0
sglang:generation_tokens_total{{{_SGL}}} 80.0
sglang:cached_tokens_total{{{_SGL},cache_source="device"}} 200.0
sglang:cached_tokens_total{{{_SGL},cache_source="host"}} 50.0
""".encode()

SGLANG_DP = f"""\
sglang:num_running_reqs{{{_SGL},dp_rank="0",tp_rank="0",pp_rank="0"}} 1.0
sglang:num_running_reqs{{{_SGL},dp_rank="1",tp_rank="1",pp_rank="0"}} 2.0
sglang:num_queue_reqs{{{_SGL},dp_rank="0",tp_rank="0",priority=""}} 3.0
sglang:num_queue_reqs{{{_SGL},dp_rank="0",tp_rank="0",priority="1"}} 3.0
sglang:num_queue_reqs{{{_SGL},dp_rank="1",tp_rank="1",priority=""}} 4.0
sglang:token_usage{{{_SGL},dp_rank="0",tp_rank="0",pp_rank="0"}} 0.2
sglang:token_usage{{{_SGL},dp_rank="1",tp_rank="1",pp_rank="0"}} 0.6
sglang:num_pages{{{_SGL},dp_rank="0",tp_rank="0"}} 100.0
sglang:num_pages{{{_SGL},dp_rank="1",tp_rank="1"}} 100.0
sglang:page_size{{{_SGL},dp_rank="0",tp_rank="0"}} 1.0
sglang:page_size{{{_SGL},dp_rank="1",tp_rank="1"}} 1.0
""".encode()

SGLANG_LOADS = json.dumps(
    {
        "timestamp": "2026-01-01T00:00:00",
        "version": "0.5.23",
        "loads": [
            {"dp_rank": 0, "num_running_reqs": 2, "num_waiting_reqs": 1, "token_usage": 0.5, "cache_hit_rate": 0.1},
            {"dp_rank": 1, "num_running_reqs": 3, "num_waiting_reqs": 0, "token_usage": 0.1, "cache_hit_rate": 0.3},
        ],
    }
).encode()

_TRT = 'model_name="llama",engine_type="trtllm"'

TRTLLM = f"""\
trtllm_num_requests_waiting{{{_TRT}}} 2.0
trtllm_num_requests_running{{{_TRT}}} 8.0
trtllm_kv_cache_utilization{{{_TRT}}} 0.6
trtllm_kv_cache_host_utilization{{{_TRT}}} 0.1
trtllm_kv_cache_tokens_per_block{{{_TRT}}} 32.0
trtllm_kv_cache_max_blocks{{{_TRT}}} 4000.0
trtllm_kv_cache_hit_rate{{{_TRT}}} 0.25
trtllm_prompt_tokens_total{{{_TRT}}} 100.0
trtllm_prompt_cached_tokens_total{{{_TRT}}} 40.0
trtllm_generation_tokens_total{{{_TRT}}} 60.0
trtllm_request_success_total{{{_TRT},finished_reason="stop"}} 4.0
""".encode()

TRTLLM_RC5 = f"""\
trtllm_request_success_total{{{_TRT},finished_reason="stop"}} 4.0
trtllm_e2e_request_latency_seconds_sum{{{_TRT}}} 4.5
""".encode()

TRTLLM_RECORD = {
    "iter": 9,
    "iterLatencyMS": 11.5,
    "numActiveRequests": 6,
    "numQueuedRequests": 4,
    "maxNumActiveRequests": 64,
    "kvCacheStats": {
        "maxNumBlocks": 200,
        "freeNumBlocks": 150,
        "usedNumBlocks": 50,
        "tokensPerBlock": 64,
        "cacheHitRate": 0.5,
    },
    "inflightBatchingStats": {"numContextRequests": 1, "numGenRequests": 5},
}

TRITON = b"""\
# TYPE nv_inference_pending_request_count gauge
nv_inference_request_success{model="ensemble",version="1"} 3
nv_inference_pending_request_count{model="ensemble",version="1"} 90
nv_trt_llm_request_metrics{model="tensorrt_llm",request_type="waiting",version="1"} 5
nv_trt_llm_request_metrics{model="tensorrt_llm",request_type="context",version="1"} 1
nv_trt_llm_request_metrics{model="tensorrt_llm",request_type="scheduled",version="1"} 12
nv_trt_llm_request_metrics{model="tensorrt_llm",request_type="max",version="1"} 64
nv_trt_llm_request_metrics{model="tensorrt_llm",request_type="active",version="1"} 17
nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="fraction",model="tensorrt_llm",version="1"} 0.125
nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="tokens_per",model="tensorrt_llm",version="1"} 64
nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="used",model="tensorrt_llm",version="1"} 100
nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="free",model="tensorrt_llm",version="1"} 700
nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="max",model="tensorrt_llm",version="1"} 800
"""

TRITON_PLAIN = b"""\
nv_inference_pending_request_count{model="a",version="1"} 2
nv_inference_pending_request_count{model="b",version="1"} 3
"""

TGI = b"""\
# TYPE tgi_queue_size gauge
tgi_queue_size 4
# TYPE tgi_batch_current_size gauge
tgi_batch_current_size 9
tgi_batch_current_max_tokens 4096
tgi_request_input_length_bucket{le="1"} 0
tgi_request_input_length_sum 500
tgi_request_input_length_count 10
tgi_request_skipped_tokens_sum 120
tgi_request_generated_tokens_sum 250
"""

LLAMACPP = b"""\
# HELP llamacpp:prompt_tokens_total Number of prompt tokens processed.
# TYPE llamacpp:prompt_tokens_total counter
llamacpp:prompt_tokens_total 42
llamacpp:prompt_tokens_seconds 99.5
llamacpp:tokens_predicted_total 21
llamacpp:tokens_predicted_seconds_total 3.5
llamacpp:requests_processing 2
llamacpp:requests_deferred 1
"""

LMDEPLOY = b"""\
lmdeploy:num_requests_waiting{engine="0",model_name="m"} 1.0
lmdeploy:num_requests_running{engine="0",model_name="m"} 2.0
lmdeploy:gpu_cache_usage_perc{engine="0",model_name="m"} 37.5
lmdeploy:prefix_cache_hit_rate{engine="0",model_name="m"} 0.2
lmdeploy:prompt_tokens_total{engine="0",model_name="m"} 10.0
lmdeploy:cached_tokens_total{engine="0",model_name="m"} 4.0
lmdeploy:generation_tokens_total{engine="0",model_name="m"} 5.0
"""

OWN_METRICS: Mapping[str, bytes] = {
    "vllm": VLLM_NEW,
    "sglang": SGLANG,
    "trtllm": TRTLLM,
    "triton": TRITON,
    "triton-openai": TRITON,
    "tgi": TGI,
    "llamacpp": LLAMACPP,
    "lmdeploy": LMDEPLOY,
}
"""A metrics page per dialect that has metrics."""

SGLANG_INFO = page(
    {"model_path": "qwen", "tp_size": 2, "mem_fraction_static": 0.8, "internal_states": [], "version": "0.5.23"}
)

OWN_ANSWERS: Mapping[str, Answers] = {
    "vllm": {
        "/v1/models": models("vllm", "llama", "my-lora"),
        "/metrics": Answer(200, VLLM_NEW),
        "/version": page({"version": "0.32.0"}),
    },
    "sglang": {
        "/v1/models": models("sglang", "qwen"),
        "/metrics": Answer(200, SGLANG),
        "/server_info": SGLANG_INFO,
        "/get_server_info": SGLANG_INFO,
    },
    "trtllm": {
        "/v1/models": models("tensorrt_llm"),
        "/metrics": page([TRTLLM_RECORD]),
        "/prometheus/metrics": Answer(200, TRTLLM),
        "/version": page({"version": "1.1.0rc5"}),
        "/server_info": page({"disaggregated_params": None}),
    },
    "triton": {
        "/v2": page({"name": "triton", "version": "2.54.0", "extensions": ["statistics"]}),
        "/v2/health/ready": Answer(200, b""),
    },
    "triton-openai": {
        "/v1/models": models("Triton Inference Server"),
        "/metrics": Answer(200, TRITON_PLAIN),
    },
    "tgi": {
        "/v1/models": models("meta/llama", "meta/llama"),
        "/metrics": Answer(200, TGI),
        "/info": page(
            {"model_id": "meta/llama", "max_total_tokens": 4096, "version": "3.3.7", "router": "text-generation-router"}
        ),
    },
    "llamacpp": {
        "/v1/models": Answer(200, models("llamacpp", "model.gguf").body, {"server": "llama.cpp"}),
        "/metrics": Answer(200, LLAMACPP),
        "/props": page({"default_generation_settings": {"n_ctx": 4096}, "total_slots": 4, "build_info": "b6000-abc"}),
    },
    "lmdeploy": {"/v1/models": models("lmdeploy"), "/metrics": Answer(200, LMDEPLOY)},
    "ollama": {"/v1/models": models("library", "llama3:8b"), "/api/version": page({"version": "0.33.0"})},
    "generic": {"/v1/models": models("organization")},
}
"""What each engine answers to the clues; every path not named here is a 404."""


def full_answers(name: str, clues: tuple[str, ...]) -> dict[str, Answer]:
    """The engine's answers to all clues, 404s included."""
    return {path: OWN_ANSWERS[name].get(path, NOT_FOUND) for path in clues}


def large_vllm_page() -> bytes:
    """A page of about 53 kB, as vLLM 0.32 gives it: mostly histogram buckets."""
    lines = [VLLM_NEW]
    for number in range(45):
        lines.append(b"# TYPE vllm:histogram_%d_seconds histogram\n" % number)
        for bound in range(14):
            lines.append(
                b'vllm:histogram_%d_seconds_bucket{engine="0",le="%d.0",model_name="meta-llama/Llama-3.1-8B"} 12.0\n'
                % (number, bound)
            )
    return b"".join(lines)
