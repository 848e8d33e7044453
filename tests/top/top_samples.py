"""A fleet with something to see in every column, as the admin API tells it."""

from __future__ import annotations

from typing import Any

from fairlead.top.fleet import Fleet

Row = dict[str, Any]


def row(id: str, **changed: Any) -> Row:
    """A backend that is well and has nothing to do."""
    last_minute = {
        "requests_per_second": 0.0,
        "tokens_per_second": 0.0,
        "token_share": 0.0,
        "error_rate": None,
        "ttft_p50": None,
        "ttft_p99": None,
    } | changed.pop("last_minute", {})
    return {
        "id": id,
        "url": f"http://{id}:8000",
        "state": "up",
        "reason": "",
        "engine": "vllm",
        "version": "0.11.0",
        "models": ["llama"],
        "weight": None,
        "backup": False,
        "capacity": 1.0,
        "share": 0.0,
        "inflight": 0,
        "pending_tokens": 0,
        "answered": 0,
        "errors": 0,
        "engine_waiting": 0.0,
        "kv_usage": 0.0,
        "prefix_hit_ratio": None,
        "metrics_problem": None,
        "last_minute": last_minute,
        **changed,
    }


FAST = row(
    "gpu1", capacity=1.62, share=0.5512, inflight=41, pending_tokens=128_412, answered=9_100, errors=0,
    engine_waiting=3.0, kv_usage=0.943, prefix_hit_ratio=0.612,
    last_minute={
        "requests_per_second": 21.4, "tokens_per_second": 5_210.0, "token_share": 0.58, "error_rate": 0.0,
        "ttft_p50": 0.0214, "ttft_p99": 0.412,
    },
)  # fmt: skip
SLOW = row(
    "gpu2-with-a-long-name", capacity=0.71, share=0.4488, inflight=17, pending_tokens=9_100, answered=7_000, errors=90,
    kv_usage=0.41, prefix_hit_ratio=0.33,
    last_minute={
        "requests_per_second": 16.2, "tokens_per_second": 3_300.0, "token_share": 0.42, "error_rate": 0.0132,
        "ttft_p50": 0.0802, "ttft_p99": 2.31,
    },
)  # fmt: skip
DRAINING = row("gpu3", state="draining", reason="takes no new requests", inflight=2, weight=2.0)
DISABLED = row("gpu4", state="disabled", reason="marked as down: it gets no requests")
DOWN = row(
    "gpu5", state="down", reason="connection refused", engine=None, version=None, models=None, engine_waiting=None,
    kv_usage=None,
)  # fmt: skip
ALERT = {"alert": "backend_share", "backend": "gpu1", "message": "backend gpu1 got 91% of 900 requests"}

FLEET = Fleet(
    rows=[FAST, SLOW, DRAINING, DISABLED, DOWN],
    policy="expected_completion",
    status="ready",
    version="0.1.0",
    config_version=7,
    alerts=[ALERT],
    time=1_795_537_492.0,
)
