"""An explanation as the admin API gives it: of a stream whose first backend failed."""

from __future__ import annotations

from typing import Any

from fairlead.control.words import in_words, score_means

POLICY = "expected_completion"
NAMES = (
    "prompt tokens cached", "prefill queued, s", "own prefill, s", "first token after, s", "delay to others, s",
    "decoding, s", "prefill slowdown", "decode slowdown", "price of others' and decode time",
)  # fmt: skip


def candidate(id: str, score: float, values: tuple[float, ...], chosen: bool, speed: float | None) -> dict[str, Any]:
    terms = dict(zip(NAMES, values, strict=True))
    signals = {"metrics_age": 0.412, "check_age": 2.1, "speed_age": speed}
    return {
        "backend": id,
        "score": score,
        "terms": terms,
        "signals": signals,
        "chosen": chosen,
        "words": in_words(POLICY, terms),
    }


def answer() -> dict[str, Any]:
    return {
        "request": {
            "id": "13acd280bafd-25", "time": 1_795_537_492.5, "method": "POST", "path": "/v1/chat/completions",
            "model": "llama", "backend": "gpu1", "reason": "first token soonest, everybody's time counted",
            "status": 200, "outcome": "ok", "error": None, "tries": 2, "failed_on": ["gpu3"], "hedged": False,
            "hedge": None, "ttft": 0.0712, "duration": 3.4, "prompt_tokens": 5_120, "output_tokens": 231,
            "stream": True, "config_version": 7,
        },
        "decision": {
            "policy": POLICY,
            "backend": "gpu1",
            "reason": "first token soonest, everybody's time counted",
            "candidates": [
                candidate("gpu1", 0.1555, (4_864, 0.0, 0.0071, 0.0094, 0.0213, 2.9, 1.3, 1.1, 0.05), True, 8.2),
                candidate("gpu2", 0.401, (0, 0.021, 0.142, 0.241, 0.4, 2.8, 1.4, 1.1, 0.05), False, None),
            ],
            "not_considered": [
                {
                    "backend": "gpu3", "state": "tried", "reason": "it had failed this request before",
                    "state_now": "up",
                },
                {"backend": "gpu4", "state": "down", "reason": "connection refused", "state_now": "down"},
            ],
            "lower_score_is_better": True,
            "score_means": score_means(POLICY),
            "shadow": {
                "policy": "least_pending_tokens", "backend": "gpu2", "agrees": False,
                "predicted_ttft": {"policy": 0.0094, "shadow": 0.241},
            },
            "estimate": {
                "kind": "chat", "prompt_bytes": 20_400, "prompt_tokens": None, "prompt_tokens_expected": 5_097,
                "cached_tokens_expected": 4_864, "output_tokens_expected": 256, "max_tokens": 512, "session": False,
                "hashed_bytes": 20_400,
            },
        },
        "after": {
            "attempts": [{"backend": "gpu3", "result": "failed"}, {"backend": "gpu1", "result": "ok"}],
            "resumed": False, "chosen_after": 0.0602, "first_token_predicted": 0.0094, "first_token_real": 0.011,
            "cached_tokens": 4_864, "output_tokens": 231, "outcome": "ok",
            "words": [
                "gpu3 failed it",
                "gpu1 answered it",
                "its first token came after 11 ms; 9.4 ms were predicted",
                "the engine found 4,864 prompt tokens in its cache; 4,864 expected",
                "it produced 231 tokens; 256 expected",
                "it ended with status 200, ok, after 3.4 s",
            ],
        },
        "explanation": "expected_completion chose gpu1 out of 2: first token soonest, everybody's time counted",
    }  # fmt: skip


def refused() -> dict[str, Any]:
    request = {**answer()["request"], "backend": None, "status": 404, "outcome": "refused", "error": "model_not_found"}
    return {
        "request": request, "decision": None, "after": None,
        "explanation": "it was not sent to any backend: model_not_found",
    }  # fmt: skip
