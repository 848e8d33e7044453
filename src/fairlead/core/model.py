"""Value types that every part speaks: what a request is, what an engine reports, what was decided.

Plain data, no behaviour beyond arithmetic on itself. Times are seconds on the host's monotonic clock,
sizes are bytes, token counts are tokens unless a name says otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

ANY_MODEL: Final = frozenset({"*"})
"""The model set of a backend that does not list its models: it is offered every request."""


class Kind:
    """What a request asks the engine to do; it decides how its cost is estimated."""

    CHAT: Final = "chat"  # prompt in messages, output generated
    COMPLETION: Final = "completion"  # prompt in a string or in token ids, output generated
    PROMPT_ONLY: Final = "prompt_only"  # embeddings, scoring, pooling: prompt processed, nothing generated
    CHEAP: Final = "cheap"  # tokenize, model lists, GETs: no GPU work worth counting


@dataclass(slots=True)
class Facts:
    """What a request's head and body tell (never its text)."""

    kind: str = Kind.CHEAP
    model: str | None = None
    needs_model: bool = False  # does the route make sense for one model only?
    prompt_bytes: int = 0  # bytes of prompt text as it stands in the body; 0 when `prompt_ids` is known
    prompt_ids: int = 0  # exact tokens, where the client sent token ids instead of text
    max_tokens: int | None = None  # the client's own limit on generated tokens
    n: int = 1  # parallel completions asked for
    stream: bool = False
    wants_usage: bool = False  # the client asked for `usage` in the stream
    # Chained hashes of the prompt: blocks[i] stands for its first block_ends[i] bytes, the last one for all of it (or
    # for all that is hashed). `block_ends` is shared by all requests and may be longer than `blocks`.
    blocks: Sequence[int] = ()
    block_ends: Sequence[int] = ()
    span: int = 0  # bytes of the whole prompt in the count of `block_ends`; 0 where nothing was hashed
    group: frozenset[str] | None = None  # ids of the backends that its route leads to; None: all of them
    session: str | None = None  # value of the session header, cookie or body field, where the policy asks for it


@dataclass(frozen=True, slots=True)
class EngineStats:
    """One reading of an engine's own metrics; None where the engine does not tell."""

    waiting: float | None = None  # requests in the engine's own queue
    running: float | None = None  # requests being worked on
    kv_usage: float | None = None  # share of the KV cache in use, 0..1
    block_tokens: int | None = None  # tokens per KV block
    kv_blocks: int | None = None  # KV blocks in all
    prefix_queries: float | None = None  # counter: prompt tokens looked up in the prefix cache
    prefix_hits: float | None = None  # counter: prompt tokens found there
    hit_rate: float | None = None  # 0..1, for engines that report only the ratio
    prompt_tokens: float | None = None  # counter
    generation_tokens: float | None = None  # counter


@dataclass(slots=True)
class Usage:
    """Token counts as an engine reported them for one request."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request cannot be placed, ready to be put into an OpenAI-shaped error."""

    status: int  # HTTP status for the client
    code: str  # short fixed word for programs: "model_not_found"
    message: str  # for people: whose fault, what to do; no upstream address, no prompt text
    retry_after: int | None = None  # whole seconds
    param: str | None = None  # the request's field at fault
