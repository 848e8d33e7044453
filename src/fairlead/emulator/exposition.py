"""Metrics in vLLM's names and in Prometheus' text format (version 0.0.4): what would this engine's /metrics say?

Rule 1: every series carries `model_name` and `engine`; the model's name is escaped, nothing else is free text.
Rule 2: rendered when asked; between scrapes there are only plain numbers.
"""

from __future__ import annotations

from bisect import bisect_left
from itertools import accumulate
from typing import Final

from fairlead.emulator.engine import Engine

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

_TTFT_BOUNDS: Final = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0,
    640.0, 2560.0,
)  # fmt: skip
_E2E_BOUNDS: Final = (
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0,
    1920.0, 7680.0,
)  # fmt: skip


class Histogram:
    """Counts per bucket, in seconds."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, seconds: float) -> None:
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.sum += seconds

    def lines(self, name: str, labels: str) -> list[str]:
        totals = list(accumulate(self.counts))
        bounds = [*(repr(bound) for bound in self.bounds), "+Inf"]
        lines = [f"# TYPE {name} histogram"]
        lines += [
            f'{name}_bucket{{{labels},le="{bound}"}} {total}' for bound, total in zip(bounds, totals, strict=True)
        ]
        return [*lines, f"{name}_count{{{labels}}} {totals[-1]}", f"{name}_sum{{{labels}}} {self.sum!r}"]


class Observations:
    """What only the server can see: outcomes, and times on its clients' clock (wall seconds)."""

    def __init__(self) -> None:
        self.success = {"stop": 0, "length": 0}
        self.first_token = Histogram(_TTFT_BOUNDS)
        self.whole = Histogram(_E2E_BOUNDS)


def render(engine: Engine, seen: Observations, model: str, engine_label: str) -> str:
    """The whole page."""
    name = model.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
    labels = f'model_name="{name}",engine="{engine_label}"'
    stats, counters = engine.stats(), engine.counters
    lines: list[str] = []

    def add(kind: str, metric: str, value: float) -> None:
        lines.append(f"# TYPE {metric} {kind}")
        lines.append(f"{metric}{{{labels}}} {float(value)!r}")

    add("gauge", "vllm:num_requests_running", stats.running or 0)
    add("gauge", "vllm:num_requests_waiting", stats.waiting or 0)
    add("gauge", "vllm:kv_cache_usage_perc", stats.kv_usage or 0)
    lines.append("# TYPE vllm:cache_config_info gauge")
    lines.append(
        f'vllm:cache_config_info{{block_size="{stats.block_tokens}",enable_prefix_caching="True",engine="{engine_label}",'
        f'gpu_memory_utilization="0.9",kv_cache_size_tokens="{(stats.kv_blocks or 0) * (stats.block_tokens or 0)}",'
        f'num_gpu_blocks="{stats.kv_blocks}",prefix_caching_hash_algo="sha256"}} 1.0'
    )
    add("counter", "vllm:prefix_cache_queries_total", counters.prefix_queries)
    add("counter", "vllm:prefix_cache_hits_total", counters.prefix_hits)
    add("counter", "vllm:num_preemptions_total", counters.preemptions)
    add("counter", "vllm:prompt_tokens_total", counters.prompt_tokens)
    add("counter", "vllm:generation_tokens_total", counters.generation_tokens)
    lines.append("# TYPE vllm:request_success_total counter")
    for reason in ("stop", "length", "abort", "error", "repetition"):
        count = float(seen.success.get(reason, 0))
        lines.append(f'vllm:request_success_total{{{labels},finished_reason="{reason}"}} {count!r}')
    lines += seen.first_token.lines("vllm:time_to_first_token_seconds", labels)
    lines += seen.whole.lines("vllm:e2e_request_latency_seconds", labels)
    return "\n".join(lines) + "\n"
