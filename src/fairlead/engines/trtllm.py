"""TensorRT-LLM: `trtllm-serve`.

Two sources. `/prometheus/metrics` (needs `return_perf_metrics`) is preferred: reading it changes nothing.
`/metrics` is a JSON list of iteration records, and reading it empties it; an empty list means that no step has run
since the last reading, not that the engine is idle. Then nothing is told, and the caller keeps what it knew.
"""

from __future__ import annotations

from typing import Any

import msgspec

from fairlead.core.model import EngineStats
from fairlead.engines.base import BY_OWNER, COMPLETIONS, OpenAIServer
from fairlead.engines.interface import Answers
from fairlead.engines.metrics import MetricTable, counters, gauges, share, whole
from fairlead.engines.reading import MAX_JSON, MODELS, body_of, count_of, parse_json

RECORDS = "/metrics"
PROMETHEUS = "/prometheus/metrics"
EMPTY_LIST_SCORE = 50  # `[]` under /metrics: no other engine does that, but it is little to go by

_ROWS = msgspec.json.Decoder(list[msgspec.Raw])  # rows stay bytes: only the newest is worth decoding


class TensorRTLLM(OpenAIServer):
    name = "trtllm"
    title = "TensorRT-LLM"
    canary_path = COMPLETIONS
    clues: tuple[str, ...] = (MODELS, RECORDS, PROMETHEUS, "/version")
    owned_by = frozenset({"tensorrt_llm"})
    metric_prefix = b"trtllm_"
    metric_clues = (PROMETHEUS, RECORDS)
    metrics_paths = (PROMETHEUS, RECORDS)
    version_path = "/version"
    table = MetricTable(
        waiting=gauges("trtllm_num_requests_waiting"),
        running=gauges("trtllm_num_requests_running"),
        kv_usage=gauges("trtllm_kv_cache_utilization"),
        block_tokens=gauges("trtllm_kv_cache_tokens_per_block"),
        kv_blocks=gauges("trtllm_kv_cache_max_blocks"),
        prefix_queries=counters("trtllm_prompt_tokens"),
        prefix_hits=counters("trtllm_prompt_cached_tokens"),
        hit_rate=gauges("trtllm_kv_cache_hit_rate"),
        prompt_tokens=counters("trtllm_prompt_tokens"),
        generation_tokens=counters("trtllm_generation_tokens"),
    )

    def hint(self, answers: Answers) -> int:
        body = body_of(answers, RECORDS)
        newest = _newest(body)
        if "kvCacheStats" in newest or "iterLatencyMS" in newest:
            return BY_OWNER
        return EMPTY_LIST_SCORE if body[:16].strip() == b"[]" and len(body) < 16 else 0

    def parse_metrics(self, url: str, body: bytes) -> EngineStats:
        if body[:64].lstrip()[:1] == b"[":
            return _read_record(_newest(body))
        return super().parse_metrics(url, body)


def _newest(body: bytes) -> dict[str, Any]:
    """The last iteration record; empty where there is none."""
    if not body or len(body) > MAX_JSON:
        return {}
    try:
        rows = _ROWS.decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return {}
    record = parse_json(bytes(rows[-1])) if rows else None
    return record if isinstance(record, dict) else {}


def _read_record(record: dict[str, Any]) -> EngineStats:
    cache = record.get("kvCacheStats")
    cache = cache if isinstance(cache, dict) else {}
    used, most = count_of(cache.get("usedNumBlocks")), count_of(cache.get("maxNumBlocks"))
    hit_rate = count_of(cache.get("cacheHitRate"))
    return EngineStats(
        waiting=count_of(record.get("numQueuedRequests")),
        running=count_of(record.get("numActiveRequests")),
        kv_usage=min(used / most, 1.0) if used is not None and most else None,
        block_tokens=whole(count_of(cache.get("tokensPerBlock"))),
        kv_blocks=whole(most),
        hit_rate=share(hit_rate) if hit_rate is not None else None,
    )
