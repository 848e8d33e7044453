"""Hugging Face Text Generation Inference (TGI).

`/info` names the engine, its version and its one model. The cache share is not told; the prompt tokens that a
prefix hit spared are (`skipped`), as histograms whose sums are counters of tokens.
"""

from __future__ import annotations

from fairlead.engines.base import BY_ANSWER, COMPLETIONS, OpenAIServer
from fairlead.engines.interface import Answers
from fairlead.engines.metrics import MetricTable, gauges
from fairlead.engines.reading import MODELS, listed_models, object_of

INFO = "/info"
ROUTER = "text-generation-router"


class TGI(OpenAIServer):
    name = "tgi"
    title = "TGI"
    canary_path = COMPLETIONS
    health_timeout = 10.0  # the check may run a token through the model
    clues: tuple[str, ...] = (MODELS, "/metrics", INFO)
    metric_prefix = b"tgi_"
    version_path = INFO
    table = MetricTable(
        waiting=gauges("tgi_queue_size"),
        running=gauges("tgi_batch_current_size"),
        prefix_queries=gauges("tgi_request_input_length_sum"),
        prefix_hits=gauges("tgi_request_skipped_tokens_sum"),
        prompt_tokens=gauges("tgi_request_input_length_sum"),
        generation_tokens=gauges("tgi_request_generated_tokens_sum"),
    )

    def hint(self, answers: Answers) -> int:
        info = object_of(answers, INFO)
        # The embedding server of the same house also has /info with a model_id, but generates nothing.
        generates = "max_total_tokens" in info or info.get("router") == ROUTER
        return BY_ANSWER if generates and isinstance(info.get("model_id"), str) else 0

    def models(self, answers: Answers) -> frozenset[str] | None:
        listed = listed_models(answers)
        if listed is not None:
            return listed
        model = object_of(answers, INFO).get("model_id")
        return frozenset({model}) if isinstance(model, str) and model else None
