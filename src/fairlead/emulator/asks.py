"""What is asked: from an HTTP body to prompts, limits and options, or to the error that vLLM would give.

Rule 1: unknown fields pass; wrong types and missing fields are a 400.
Rule 2: prompts leave here as bytes of whole tokens, whatever form they came in.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import msgspec

from fairlead.emulator.text import Message, content_text, detokenize, render_chat


class AskError(Exception):
    """An answer other than 200, in vLLM's words for it."""

    def __init__(self, status: int, kind: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status, self.kind, self.message, self.param = status, kind, message, param

    def body(self, *, anthropic: bool = False) -> bytes:
        if anthropic:
            return msgspec.json.encode({"type": "error", "error": {"type": self.kind, "message": self.message}})
        return msgspec.json.encode(
            {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.status}}
        )


@dataclass(slots=True)
class Ask:
    """One inference request, of whatever kind."""

    model: str | None
    prompts: list[bytes]
    n: int = 1  # answers per prompt
    limit: int | None = None  # the client's limit on output tokens
    stream: bool = False
    wants_usage: bool = False  # in the stream; a plain answer always has it
    salt: str | None = None  # prompts share cached blocks only within one salt
    options: dict[str, Any] = field(default_factory=dict)  # what only one route reads


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class _Generation(msgspec.Struct, kw_only=True):
    model: str | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    n: int | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    cache_salt: str | None = None

    def ask(self, prompts: list[bytes]) -> Ask:
        limit = self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens
        if limit is not None and limit < 1:
            raise AskError(400, "BadRequestError", f"max_tokens must be at least 1, got {limit}.", "max_tokens")
        n = 1 if self.n is None else self.n
        if not 1 <= n <= _MOST_ANSWERS:
            raise AskError(400, "BadRequestError", f"n must be between 1 and {_MOST_ANSWERS}, got {n}.", "n")
        options = self.stream_options
        return Ask(
            model=self.model,
            prompts=prompts,
            n=n,
            limit=limit,
            stream=bool(self.stream),
            wants_usage=bool(options and options.include_usage),
            salt=self.cache_salt,
        )


_MOST_ANSWERS: Final = 128


class _Chat(_Generation, kw_only=True):
    messages: list[Message]
    tools: msgspec.Raw = msgspec.Raw(b"")


class _Completion(_Generation, kw_only=True):
    prompt: Any


class _Anthropic(msgspec.Struct, kw_only=True):
    messages: list[Message]
    max_tokens: int
    model: str | None = None
    system: str | list[dict[str, Any]] | None = None
    stream: bool | None = None
    tools: msgspec.Raw = msgspec.Raw(b"")


class _CountTokens(_Anthropic, kw_only=True):
    max_tokens: int = 1


class _Embeddings(msgspec.Struct, kw_only=True):
    input: Any
    model: str | None = None
    encoding_format: str | None = None
    dimensions: int | None = None


class _Tokenize(msgspec.Struct, kw_only=True):
    model: str | None = None
    prompt: str | None = None
    messages: list[Message] | None = None


class _Detokenize(msgspec.Struct, kw_only=True):
    tokens: list[int]
    model: str | None = None


_T = TypeVar("_T")


def _decode(body: bytes, kind: type[_T]) -> _T:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise AskError(400, "Bad Request", f"the body cannot be read: {error}") from None


def _prompts(value: Any, param: str) -> list[bytes]:
    """Text, token ids, or a list of either."""
    if isinstance(value, str):
        return [value.encode(errors="replace")]
    if isinstance(value, list) and value:
        if all(type(item) is int for item in value):
            return [detokenize(value)]
        if all(isinstance(item, str) or (isinstance(item, list) and item) for item in value):
            return [prompt for item in value for prompt in _prompts(item, param)]
    raise AskError(400, "Bad Request", f"{param}: expected text, token ids, or a list of these", param)


def chat(body: bytes) -> Ask:
    """POST /v1/chat/completions."""
    asked = _decode(body, _Chat)
    if not asked.messages:
        raise AskError(400, "BadRequestError", "messages: at least one is needed.", "messages")
    return asked.ask([render_chat(asked.messages, bytes(asked.tools))])


def completion(body: bytes) -> Ask:
    """POST /v1/completions."""
    asked = _decode(body, _Completion)
    return asked.ask(_prompts(asked.prompt, "prompt"))


def message(body: bytes) -> Ask:
    """POST /v1/messages."""
    asked = _decode(body, _Anthropic)
    if not asked.messages:
        raise AskError(400, "BadRequestError", "messages: at least one is needed.", "messages")
    if asked.max_tokens < 1:
        raise AskError(400, "BadRequestError", f"max_tokens must be at least 1, got {asked.max_tokens}.", "max_tokens")
    return Ask(asked.model, [_anthropic_prompt(asked)], limit=asked.max_tokens, stream=bool(asked.stream))


def message_count(body: bytes) -> Ask:
    """POST /v1/messages/count_tokens."""
    asked = _decode(body, _CountTokens)
    return Ask(asked.model, [_anthropic_prompt(asked)])


def _anthropic_prompt(asked: _Anthropic) -> bytes:
    messages = asked.messages
    if asked.system:
        messages = [Message("system", content_text(asked.system)), *messages]
    return render_chat(messages, bytes(asked.tools))


def embeddings(body: bytes) -> Ask:
    """POST /v1/embeddings."""
    asked = _decode(body, _Embeddings)
    encoding = asked.encoding_format or "float"
    if encoding not in ("float", "base64"):
        raise AskError(400, "BadRequestError", f"encoding_format: expected float or base64, got {encoding!r}.")
    dimensions = 16 if asked.dimensions is None else asked.dimensions
    if not 1 <= dimensions <= 65_536:
        raise AskError(400, "BadRequestError", f"dimensions: expected 1 to 65536, got {dimensions}.", "dimensions")
    options = {"encoding": encoding, "dimensions": dimensions}
    return Ask(asked.model, _prompts(asked.input, "input"), limit=0, options=options)


def tokenize(body: bytes) -> Ask:
    """POST /tokenize, with a prompt or with messages."""
    asked = _decode(body, _Tokenize)
    if asked.messages is not None:
        return Ask(asked.model, [render_chat(asked.messages)])
    if asked.prompt is None:
        raise AskError(400, "Bad Request", "prompt or messages is needed", "prompt")
    return Ask(asked.model, [asked.prompt.encode(errors="replace")])


def detokenized(body: bytes) -> tuple[str | None, str]:
    """POST /detokenize: the model asked for, and the text (filling bytes left out)."""
    asked = _decode(body, _Detokenize)
    return asked.model, detokenize(asked.tokens).replace(b"\0", b"").decode(errors="replace")
