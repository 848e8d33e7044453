"""What does a request cost on the reference machine? Seconds of prefill and of a decode step.

The step time of continuous batching with chunked prefill, Llama-3.1-8B on an H100 (fits over published per-step times
of vLLM, see docs/policies.md). Every backend's own speed is learned as a factor over these (speeds.py), for prefill
and for decode apart, so neither the scale nor the exact shape matters: coefficients three times too
large or too small change the mean latency by a few percent.

    step    = BASE + KV * (tokens that decodes read) + SEQ * (requests decoding)
    prefill = TOKEN * u + ATTENTION * u * (m + u / 2),  u = prompt tokens to compute, m = those found cached
"""

from __future__ import annotations

from typing import Final

BASE: Final = 6.8e-3  # seconds per step
TOKEN: Final = 20e-6  # seconds per prefilled token
ATTENTION: Final = 1.3e-9  # seconds per token and token of context
KV: Final = 0.076e-6  # seconds per KV token read in a decode step
SEQ: Final = 5e-6  # seconds per decoding request
BUDGET: Final = 8192  # prompt tokens per step
FULL_CHUNK: Final = TOKEN * BUDGET + BASE  # seconds of a step that is full of prompt


def step_seconds(kv_tokens: float, decoding: float) -> float:
    """Decode step of a machine that holds so much."""
    return BASE + KV * kv_tokens + SEQ * decoding


def prefill_seconds(uncached: float, cached: float) -> float:
    """Computing `uncached` tokens behind `cached` ones, on an otherwise idle machine."""
    return TOKEN * uncached + ATTENTION * uncached * (cached + uncached / 2)
