"""How is it mended? The exact flag for each family of engines, in one visible table.

Rule 1: flags are of the versions that docs/engines.md describes; a family without a row has no such flag.
Rule 2: what an engine cannot do is answered with what Fairlead can do instead.
"""

from __future__ import annotations

from typing import Final

CACHING: Final = "prefix caching"
METRICS: Final = "metrics"
DETAILS: Final = "usage details"
QUEUE: Final = "queue limit"
KEY: Final = "key"
CONTEXT: Final = "context length"
BLOCKS: Final = "block size"
SAMPLING: Final = "sampling defaults"
EVENTS: Final = "cache events"
KEEP_ALIVE: Final = "keep-alive"

_OWN_LIMIT: Final = "it has no such option; give the backend a max_connections in Fairlead's config"

FLAGS: Final[dict[str, dict[str, str]]] = {
    CACHING: {
        "vllm": "start it with --enable-prefix-caching (and without --no-enable-prefix-caching)",
        "sglang": "start it without --disable-radix-cache",
        "trtllm": "set kv_cache_config: {enable_block_reuse: true} in its options file",
        "triton": "set the model's parameter enable_kv_cache_reuse to true in config.pbtxt",
        "triton-openai": "set the model's parameter enable_kv_cache_reuse to true in config.pbtxt",
        "tgi": "start it without PREFIX_CACHING=0 in its environment",
        "llamacpp": "start it without --no-cache-prompt",
        "lmdeploy": "start it with --enable-prefix-caching",
    },
    METRICS: {
        "vllm": "start it without --disable-log-stats",
        "sglang": "start it with --enable-metrics",
        "trtllm": "set return_perf_metrics: true in its options file",
        "triton": "open its metrics port 8002 (no --allow-metrics=false), or give the backend a metrics_url",
        "triton-openai": "start it without --allow-metrics=false",
        "llamacpp": "start it with --metrics",
        "lmdeploy": "start it without --disable-metrics",
    },
    DETAILS: {
        "vllm": "start it with --enable-prompt-tokens-details",
        "sglang": "start it with --enable-cache-report",
    },
    QUEUE: {
        "vllm": "start it with --max-num-queued-reqs N, such as 4 times its --max-num-seqs",
        "sglang": "start it with --max-queued-requests N",
        "tgi": "start it with --max-concurrent-requests N",
        "ollama": "set OLLAMA_MAX_QUEUE=N in its environment",
    },
    KEY: {
        "vllm": "bind it to a private address (--host), or start it with --api-key",
        "sglang": "bind it to a private address (--host), or start it with --api-key",
        "llamacpp": "bind it to a private address (--host), or start it with --api-key",
        "lmdeploy": "bind it to a private address (--server-name), or start it with --api-keys",
        "ollama": "bind it to a private address (OLLAMA_HOST)",
        "tgi": "bind it to a private address (--hostname), or start it with --api-key",
    },
    CONTEXT: {
        "vllm": "start all of them with the same --max-model-len",
        "sglang": "start all of them with the same --context-length",
        "trtllm": "start all of them with the same --max_seq_len",
        "tgi": "start all of them with the same --max-total-tokens",
        "llamacpp": "start all of them with the same --ctx-size and --parallel",
        "lmdeploy": "start all of them with the same --session-len",
    },
    BLOCKS: {
        "vllm": "start all of them with the same --block-size",
        "sglang": "start all of them with the same --page-size",
        "trtllm": "set the same kv_cache_config: {tokens_per_block: N} for all of them",
    },
    SAMPLING: {
        "vllm": "start all of them with the same --generation-config and --override-generation-config",
        "sglang": "start all of them with the same --sampling-defaults and --preferred-sampling-params",
        "llamacpp": "start all of them with the same sampling options (--temp, --top-k, --top-p, ...)",
    },
    EVENTS: {
        "vllm": """to have them: --kv-events-config '{"enable_kv_cache_events":true,"publisher":"zmq"}'""",
        "sglang": """to have them: --kv-events-config '{"publisher":"zmq","endpoint":"tcp://*:5557"}'""",
        "trtllm": "to have them: kv_cache_config: {event_buffer_max_size: 1024} in its options file",
    },
    KEEP_ALIVE: {
        "vllm": "set VLLM_HTTP_TIMEOUT_KEEP_ALIVE in its environment, or",
        "sglang": "set SGLANG_TIMEOUT_KEEP_ALIVE in its environment, or",
        "llamacpp": "let it keep connections longer, or",
    },
}

_ELSE: Final[dict[str, str]] = {
    CACHING: "switch prefix caching on in the engine",
    METRICS: "switch Prometheus metrics on in the engine, or give the backend a metrics_url",
    DETAILS: "let the engine report prompt_tokens_details.cached_tokens, where it can",
    QUEUE: _OWN_LIMIT,
    KEY: "bind it to a private address, or put a firewall before it",
    CONTEXT: "start all of them with the same limit",
    BLOCKS: "start all of them with the same block size",
    SAMPLING: "start all of them with the same defaults",
    EVENTS: "this engine has no cache events that are known",
    KEEP_ALIVE: "",
}


def mend(what: str, engine: str) -> str:
    """The advice for one family; for one without a flag of its own, what helps in general."""
    return FLAGS[what].get(engine, _ELSE[what])
