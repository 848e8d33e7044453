"""How many tokens is a request? Estimated from lengths, learned per model from the engines' `usage`.

Prompt tokens = prompt bytes over a learned bytes-per-token ratio; output tokens = a running mean of what
the model answered, bounded by the client's `max_tokens`. A perfect forecast of output lengths would gain
little over the mean, so there is none.
"""

from __future__ import annotations

from dataclasses import dataclass

from fairlead.core.model import Facts, Kind

PRIOR_BYTES_PER_TOKEN = 4.0  # English text in a BPE vocabulary
PRIOR_PROMPT_TOKENS = 500.0  # how many tokens of evidence the prior is worth
PRIOR_OUTPUT_TOKENS = 256.0
PRIOR_OUTPUT_SAMPLES = 4.0
MEMORY = 0.99  # weight left to what was learned, per answer: the last ~100 answers count
MAX_MODELS = 1_000  # model names come from engines, but a bound is a bound


@dataclass(slots=True)
class ModelTokens:
    """What was learned for one model: decayed sums, so that a ratio of sums is a weighted mean."""

    prompt_bytes: float = PRIOR_BYTES_PER_TOKEN * PRIOR_PROMPT_TOKENS
    prompt_tokens: float = PRIOR_PROMPT_TOKENS
    output_tokens: float = PRIOR_OUTPUT_TOKENS * PRIOR_OUTPUT_SAMPLES
    outputs: float = PRIOR_OUTPUT_SAMPLES

    @property
    def bytes_per_token(self) -> float:
        return self.prompt_bytes / self.prompt_tokens

    @property
    def mean_output(self) -> float:
        return self.output_tokens / self.outputs


class TokenEstimator:
    """Learns per model and estimates per request."""

    __slots__ = ("_default", "_models")

    def __init__(self) -> None:
        self._models: dict[str, ModelTokens] = {}
        self._default = ModelTokens()

    def of(self, model: str | None) -> ModelTokens:
        """What is known of `model`; the prior for an unknown one."""
        return self._models.get(model or "", self._default)

    def estimate(self, facts: Facts) -> tuple[int, int]:
        """(prompt tokens, expected output tokens); (0, 0) for requests that cost no GPU time."""
        kind = facts.kind
        if kind == Kind.CHEAP:
            return 0, 0
        known = self._models.get(facts.model or "", self._default)
        prompt = facts.prompt_ids or int(facts.prompt_bytes * known.prompt_tokens / known.prompt_bytes) + 1
        if kind == Kind.PROMPT_ONLY:
            return prompt, 0
        output = int(known.output_tokens / known.outputs) + 1
        limit = facts.max_tokens
        if limit is not None and limit < output:
            output = limit if limit > 0 else 1
        return prompt, output * facts.n

    def learn(self, facts: Facts, prompt_tokens: int | None, output_tokens: int | None) -> None:
        """Take what one finished request really had; None where the engine did not say."""
        model = facts.model or ""
        known = self._models.get(model)
        if known is None:
            if len(self._models) >= MAX_MODELS:
                return
            known = self._models[model] = ModelTokens()
        if prompt_tokens and facts.prompt_bytes:
            known.prompt_bytes = known.prompt_bytes * MEMORY + facts.prompt_bytes
            known.prompt_tokens = known.prompt_tokens * MEMORY + prompt_tokens
        limit = facts.max_tokens
        # An answer cut by the client's limit would have gone on: below the mean it says nothing.
        cut = limit is not None and (output_tokens or 0) >= limit * facts.n and limit < known.mean_output
        if output_tokens and not cut:
            known.output_tokens = known.output_tokens * MEMORY + output_tokens / facts.n
            known.outputs = known.outputs * MEMORY + 1.0

    def snapshot(self) -> dict[str, ModelTokens]:
        """Everything learned, by model."""
        return dict(self._models)
