"""NVIDIA Triton: its own HTTP server (any backend, TensorRT-LLM among them), and its OpenAI frontend.

The two differ in health path and in where the metrics are. Triton's own server has them on port 8002 of the same
host, always without TLS; the OpenAI frontend has them beside the API. Names are the same.
Models of the own server are listed only on a POST, so they stay unknown unless /v1/models answers.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from fairlead.engines.base import BY_ANSWER, FAINT, OpenAIServer
from fairlead.engines.interface import Answers
from fairlead.engines.metrics import MetricTable, Source, gauges
from fairlead.engines.reading import MODELS, object_of

METRICS_PORT = 8002
SERVER = "/v2"
READY = "/v2/health/ready"


def _requests(kind: str) -> Source:
    return Source("nv_trt_llm_request_metrics", where=(("request_type", kind),))


def _blocks(kind: str) -> tuple[Source, ...]:
    return (Source("nv_trt_llm_kv_cache_block_metrics", where=(("kv_cache_block_type", kind),)),)


TABLE = MetricTable(
    waiting=(_requests("waiting"), *gauges("nv_inference_pending_request_count")),
    running=(_requests("scheduled"),),
    kv_usage=_blocks("fraction"),
    block_tokens=_blocks("tokens_per"),
    kv_blocks=_blocks("max"),
)


class Triton(OpenAIServer):
    name = "triton"
    title = "Triton"
    health_path = READY
    clues: tuple[str, ...] = (MODELS, SERVER, READY)
    version_path = SERVER
    table = TABLE

    def hint(self, answers: Answers) -> int:
        if SERVER in answers and answers[SERVER].status == 200:
            # Other servers of the same protocol name themselves here too.
            return BY_ANSWER if object_of(answers, SERVER).get("name") == "triton" else 0
        ready = answers.get(READY)  # an empty 200; a page for every path is no sign
        return FAINT if ready is not None and ready.status == 200 and not ready.body.strip() else 0

    def version(self, answers: Answers) -> str | None:
        return super().version(answers) if object_of(answers, SERVER).get("name") == "triton" else None

    def metrics_urls(self, base_url: str) -> tuple[str, ...]:
        """The metrics port, then the base URL itself (a reverse proxy may join the two)."""
        beside = super().metrics_urls(base_url)
        try:
            host = urlsplit(base_url).hostname
        except ValueError:  # not a URL; the config check says so in better words
            host = None
        if not host:
            return beside
        bracketed = f"[{host}]" if ":" in host else host
        return (f"http://{bracketed}:{METRICS_PORT}/metrics", *beside)


class TritonOpenAI(OpenAIServer):
    name = "triton-openai"
    title = "Triton (OpenAI frontend)"
    health_path = "/health/ready"
    owned_by = frozenset({"triton inference server"})
    metric_prefix = b"nv_inference_"
    table = TABLE
