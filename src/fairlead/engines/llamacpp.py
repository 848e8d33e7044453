"""llama.cpp's server (`llama-server`).

Metrics need `--metrics`. While a model loads every path answers 503, but the `server` header already tells who it
is. `prompt_tokens_total` counts only tokens that were really processed, not those found in a slot's cache.
"""

from __future__ import annotations

from fairlead.engines.base import BY_ANSWER, COMPLETIONS, OpenAIServer
from fairlead.engines.interface import Answers
from fairlead.engines.metrics import MetricTable, counters, gauges
from fairlead.engines.reading import MODELS, header_has, object_of

PROPS = "/props"


class LlamaCpp(OpenAIServer):
    name = "llamacpp"
    title = "llama.cpp"
    canary_path = COMPLETIONS
    clues: tuple[str, ...] = (MODELS, "/metrics", PROPS)
    owned_by = frozenset({"llamacpp"})
    metric_prefix = b"llamacpp:"
    version_path = PROPS
    version_key = "build_info"
    table = MetricTable(
        waiting=gauges("llamacpp:requests_deferred"),
        running=gauges("llamacpp:requests_processing"),
        kv_usage=gauges("llamacpp:kv_cache_usage_ratio"),  # older builds only
        prompt_tokens=counters("llamacpp:prompt_tokens"),
        generation_tokens=counters("llamacpp:tokens_predicted"),
    )

    def hint(self, answers: Answers) -> int:
        props = object_of(answers, PROPS)
        own_props = "default_generation_settings" in props and "total_slots" in props
        return BY_ANSWER if own_props or header_has(answers, "server", "llama.cpp") else 0
