"""`dynamo`: how would NVIDIA Dynamo's KV router place the request?

A reference rule, reimplemented from its public description for comparison in the simulator alone.

    cost = prefill_load_scale * max(0, (prefill tokens under way + prompt) / 16 - cached blocks) + active blocks

All in KV blocks of 16 tokens, lowest cost wins, ties at random (temperature 0). Prefill under way is the uncached part
of the prompts of requests without a first token. Active blocks are those of all running requests, in prefill as well
as in decode.
Defaults: `prefill_load_scale` 1, full credit for what is cached, no decay of that credit, no price on the number of
requests. `dynamo_32` has `prefill_load_scale` 32, where Dynamo's own sweep ended.

Simplified: a block that several running requests share is counted for each of them (the original counts it once); of a
prompt in prefill only the uncached part is counted as active; output tokens are counted as they come, which is an
option in the original; the request's own blocks are left out of the active ones, being equal for all candidates. Only
the GPU's cache gives credit. There is no queue in the router.
"""

from __future__ import annotations

from fairlead.core.model import Facts
from fairlead.core.view import Choice, View
from fairlead.sim.rivals.ties import at_random

BLOCK = 16  # tokens


class Dynamo:
    term_names = ("prefill blocks", "active blocks")
    needs_prefixes = True

    def __init__(self, name: str = "dynamo", *, prefill_load_scale: float = 1.0) -> None:
        self.name = name
        self._scale = prefill_load_scale

    def choose(self, facts: Facts, view: View) -> Choice:
        prompt, scale = view.prompt, self._scale
        terms = [
            (
                max(0.0, (b.prompt_pending + prompt) / BLOCK - cached // BLOCK),
                (b.kv_tokens + b.prompt_pending) / BLOCK,
            )
            for b, cached in zip(view.backends, view.cached, strict=True)
        ]
        scores = [scale * prefill + active for prefill, active in terms]
        return Choice(at_random(scores, view), "fewest blocks to prefill and to hold", scores, terms)
