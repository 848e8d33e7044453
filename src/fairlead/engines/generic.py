"""Any OpenAI-compatible server, and two small engines that need little more: LMDeploy and Ollama.

Generic is where detection ends when nothing else fits, and where another Fairlead belongs: its answers are those
of the engines behind it, but it is not one of them, so its own marks outweigh every other sign.
"""

from __future__ import annotations

from fairlead.engines.base import OpenAIServer
from fairlead.engines.interface import Answers
from fairlead.engines.metrics import MetricTable, counters, gauges
from fairlead.engines.reading import MODELS, body_of, header_has, names_metric, object_of, owners, version_text

CERTAIN = 100
ANYTHING = 1
OWN_NAME = "fairlead"


class Generic(OpenAIServer):
    name = "generic"
    title = "OpenAI-compatible server"
    metrics_paths = ()  # names unknown: nothing to read

    def recognise(self, answers: Answers) -> int:
        return CERTAIN if _is_fairlead(answers) else ANYTHING


class LMDeploy(OpenAIServer):
    name = "lmdeploy"
    title = "LMDeploy"
    owned_by = frozenset({"lmdeploy"})
    metric_prefix = b"lmdeploy:"
    table = MetricTable(
        waiting=gauges("lmdeploy:num_requests_waiting"),
        running=gauges("lmdeploy:num_requests_running"),
        kv_usage=gauges("lmdeploy:gpu_cache_usage_perc"),
        prefix_queries=counters("lmdeploy:prompt_tokens"),
        prefix_hits=counters("lmdeploy:cached_tokens"),
        hit_rate=gauges("lmdeploy:prefix_cache_hit_rate"),
        prompt_tokens=counters("lmdeploy:prompt_tokens"),
        generation_tokens=counters("lmdeploy:generation_tokens"),
    )


class Ollama(OpenAIServer):
    name = "ollama"
    title = "Ollama"
    health_path = "/"
    clues: tuple[str, ...] = (MODELS, "/api/version")
    metrics_paths = ()  # it has none
    owned_by = frozenset({"library"})
    version_path = "/api/version"

    def recognise(self, answers: Answers) -> int:
        # Others imitate its API and the word is common, so these signs stay below every engine's that names itself.
        versioned = version_text(object_of(answers, self.version_path).get("version")) is not None
        found = owners(answers)
        owned = bool(found) and found <= self.owned_by
        return 30 * owned + 30 * versioned


def _is_fairlead(answers: Answers) -> bool:
    return (
        OWN_NAME in owners(answers)
        or header_has(answers, "server", OWN_NAME)
        or header_has(answers, "via", OWN_NAME)
        or names_metric(body_of(answers, "/metrics"), b"fairlead_")
    )
