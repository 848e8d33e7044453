"""What goes into the step model and what comes out of it: requests, tokens, counters.

Rule 1: plain data. Token counts are tokens, times are seconds of engine time, `id` is the caller's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from fairlead.emulator.kvcache import Table

RequestId = str | int


@dataclass(frozen=True, slots=True)
class EmulatedRequest:
    """One sequence to work on.

    `block_hashes` name the full KV blocks of the prompt, each hash standing for everything up to its block's end;
    more of them than the prompt fills name blocks of the output, so that a next turn can find those too.
    `output_tokens` is how many the model will produce; 0 is a request that only has its prompt processed.
    """

    id: RequestId
    prompt_tokens: int
    block_hashes: Sequence[int]
    output_tokens: int


class Output(NamedTuple):
    """What one step did for one request."""

    id: RequestId
    tokens: int  # new output tokens: 1, or 0 when a prompt without output was finished
    finished: bool
    cached: int | None  # prompt tokens found in the prefix cache; told once, with the first output


@dataclass(slots=True)
class StepResult:
    """One step: it ran from `start` for `duration` seconds; tokens exist at `end`."""

    start: float
    duration: float
    outputs: list[Output]

    @property
    def end(self) -> float:
        return self.start + self.duration


@dataclass(slots=True)
class Counters:
    """Totals since the engine started; none ever decreases."""

    submitted: int = 0
    finished: int = 0
    aborted: int = 0
    steps: int = 0
    busy_seconds: float = 0.0
    prompt_tokens: int = 0  # counted when the prompt is done (at the first token)
    generation_tokens: int = 0
    prefix_queries: int = 0  # prompt tokens looked up in the prefix cache, once per request
    prefix_hits: int = 0  # of these, tokens found
    preemptions: int = 0


class Work:
    """A request inside the engine."""

    __slots__ = (
        "cached",
        "computed",
        "done",
        "generated",
        "hashes",
        "id",
        "named",
        "output",
        "prompt",
        "table",
    )

    def __init__(self, request: EmulatedRequest) -> None:
        self.id = request.id
        self.prompt = request.prompt_tokens
        self.output = request.output_tokens
        self.hashes = request.block_hashes
        self.generated = 0
        self.computed = 0  # tokens whose KV is in the cache
        self.named = 0  # leading blocks whose hash has been dealt with
        self.cached = -1  # prefix hit at the first admission, tokens; -1 = not admitted yet
        self.done = False  # finished or aborted: a step in flight must skip it
        self.table: Table = []
