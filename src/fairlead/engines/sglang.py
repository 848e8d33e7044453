"""SGLang: `sglang.launch_server`, and an SGLang gateway that passes its engines' answers on.

Metrics need `--enable-metrics`; without it `/v1/loads` tells queue and cache as JSON (newer versions).
`/health` runs one token through the model, and waits up to 20 s for it: the probe must wait longer.
"""

from __future__ import annotations

from typing import Any

from fairlead.core.model import EngineStats
from fairlead.engines.base import BY_ANSWER, COMPLETIONS, OpenAIServer
from fairlead.engines.interface import Answers
from fairlead.engines.metrics import MetricTable, counters, gauges, mean_share, total
from fairlead.engines.reading import MODELS, count_of, object_of, parse_json, version_text

INFO_PATHS = ("/server_info", "/get_server_info")  # the newer name first


class SGLang(OpenAIServer):
    name = "sglang"
    title = "SGLang"
    canary_path = COMPLETIONS
    health_timeout = 25.0
    clues: tuple[str, ...] = (MODELS, "/metrics", *INFO_PATHS)
    owned_by = frozenset({"sglang"})
    metric_prefix = b"sglang:"
    metrics_paths = ("/metrics", "/v1/loads?include=core")
    table = MetricTable(
        waiting=gauges("sglang:num_queue_reqs"),
        running=gauges("sglang:num_running_reqs"),
        kv_usage=gauges("sglang:token_usage"),
        block_tokens=gauges("sglang:page_size"),
        kv_blocks=gauges("sglang:num_pages"),
        # Cached tokens are counted by source (device, host, storage); a request is counted either by source or
        # under "total", so the sum over all series is right.
        prefix_queries=counters("sglang:prompt_tokens"),
        prefix_hits=counters("sglang:cached_tokens"),
        hit_rate=gauges("sglang:cache_hit_rate"),
        prompt_tokens=counters("sglang:prompt_tokens"),
        generation_tokens=counters("sglang:generation_tokens"),
    )

    def hint(self, answers: Answers) -> int:
        return BY_ANSWER if any(_is_server_info(object_of(answers, path)) for path in INFO_PATHS) else 0

    def version(self, answers: Answers) -> str | None:
        versions = (version_text(object_of(answers, path).get("version")) for path in INFO_PATHS)
        return next((text for text in versions if text is not None), None)

    def parse_metrics(self, url: str, body: bytes) -> EngineStats:
        if body[:64].lstrip()[:1] == b"{":
            return _read_loads(parse_json(body))
        return super().parse_metrics(url, body)


def _is_server_info(info: dict[str, Any]) -> bool:
    """Server arguments and scheduler facts, laid out flat; other engines use the path for other things."""
    return "model_path" in info and ("internal_states" in info or "mem_fraction_static" in info)


def _read_loads(document: object) -> EngineStats:
    """`{"loads": [one object per data-parallel rank]}`."""
    loads = document.get("loads") if isinstance(document, dict) else None
    ranks = [load for load in loads if isinstance(load, dict)] if isinstance(loads, list) else []
    return EngineStats(
        waiting=total(_column(ranks, "num_waiting_reqs")),
        running=total(_column(ranks, "num_running_reqs")),
        kv_usage=mean_share(_column(ranks, "token_usage")),
        hit_rate=mean_share(_column(ranks, "cache_hit_rate")),
    )


def _column(ranks: list[dict[str, Any]], key: str) -> list[float]:
    return [value for rank in ranks if (value := count_of(rank.get(key))) is not None]
