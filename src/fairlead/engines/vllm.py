"""vLLM: `vllm serve` and what is built on it.

Names changed twice: `kv_cache_usage_perc` was `gpu_cache_usage_perc` and `prefix_cache_*` was `gpu_prefix_cache_*`
until about 0.12, and before 0.8 the hit rate was a gauge. All are read, newest first. `_perc` is a share, 0..1.
"""

from __future__ import annotations

from fairlead.engines.base import BY_ANSWER, COMPLETIONS, FAINT, OpenAIServer
from fairlead.engines.interface import Answers
from fairlead.engines.metrics import MetricTable, Source, counters, gauges
from fairlead.engines.reading import MODELS, object_of, owners, version_text

CACHE_INFO = "vllm:cache_config_info"  # value 1; the facts are its labels, as text


class VLLM(OpenAIServer):
    name = "vllm"
    title = "vLLM"
    canary_path = COMPLETIONS
    clues: tuple[str, ...] = (MODELS, "/metrics", "/version", "/server_info")
    owned_by = frozenset({"vllm"})
    metric_prefix = b"vllm:"
    version_path = "/version"
    table = MetricTable(
        waiting=gauges("vllm:num_requests_waiting"),
        running=gauges("vllm:num_requests_running"),
        kv_usage=gauges("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"),
        block_tokens=(Source(CACHE_INFO, label="block_size"),),
        kv_blocks=(Source(CACHE_INFO, label="num_gpu_blocks"),),
        prefix_queries=counters("vllm:prefix_cache_queries", "vllm:gpu_prefix_cache_queries"),
        prefix_hits=counters("vllm:prefix_cache_hits", "vllm:gpu_prefix_cache_hits"),
        hit_rate=gauges("vllm:gpu_prefix_cache_hit_rate"),
        prompt_tokens=counters("vllm:prompt_tokens"),
        generation_tokens=counters("vllm:generation_tokens"),
    )

    def hint(self, answers: Answers) -> int:
        if "vllm_config" in object_of(answers, "/server_info"):  # development mode only
            return BY_ANSWER
        # Others answer /version alike, so it counts only while nobody else claims the models.
        answer = object_of(answers, "/version")
        lonely = set(answer) == {"version"} and version_text(answer["version"]) is not None
        return FAINT if lonely and not owners(answers) else 0
