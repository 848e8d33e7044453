"""Replies: how do an engine's tokens become bytes on the wire, streamed or whole?

Rule 1: the shapes are vLLM's. Chat: a role chunk when the first token is ready, a chunk per token, the finish
reason with the last token, usage only if asked for, then [DONE].
Rule 2: what repeats is encoded once per answer. All tokens have four bytes, so even the HTTP chunk's length is the same
for every event: an event is prefix + word + suffix, and one write.
"""

from __future__ import annotations

import asyncio
import base64
import struct
import time
from abc import ABC, abstractmethod
from typing import Any, ClassVar, Final

import msgspec

from fairlead.emulator.asks import Ask
from fairlead.emulator.text import TOKEN_BYTES, output_text
from fairlead.emulator.work import Output

_encode = msgspec.json.encode
_HOLE: Final = "\0\0\0\0"  # stands where a token will be; no id or model name holds these
_HOLE_JSON: Final = _encode(_HOLE)[1:-1]


def data_event(payload: Any) -> bytes:
    """One server-sent event with data only."""
    return b"data: " + _encode(payload) + b"\n\n"


def named_event(payload: dict[str, Any]) -> bytes:
    """One server-sent event whose name is its payload's type (Anthropic's form)."""
    name: str = payload["type"]
    return b"event: " + name.encode() + b"\ndata: " + _encode(payload) + b"\n\n"


class Choice:
    """One sequence of an answer: one prompt, one output."""

    __slots__ = ("cached", "id", "index", "limit", "prefix", "produced", "prompt_tokens", "reason", "suffix", "words")

    def __init__(
        self, index: int, request_id: int, prompt_tokens: int, words: tuple[bytes, ...], limit: int, reason: str
    ) -> None:
        self.id = request_id  # the engine's
        self.index = index
        self.prompt_tokens = prompt_tokens
        self.words = words
        self.limit = limit  # output tokens it will have
        self.reason = reason  # why it ends then: stop or length
        self.produced = 0
        self.cached = 0
        self.prefix = self.suffix = b""


class Reply(ABC):
    """One HTTP answer in the making. `done` is set when all its choices are finished."""

    prefix: ClassVar[str] = ""  # of the answer's id

    def __init__(self, ask: Ask, model: str, request_id: str) -> None:
        self.ask = ask
        self.model = model
        self.id = self.prefix + request_id
        self.created = int(time.time())
        self.choices: list[Choice] = []
        self.pending = 0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.chunked = True  # False for HTTP/1.0, where the end of the connection ends the stream
        self.transport: asyncio.WriteTransport | None = None  # set once a stream's head is sent

    def add(self, choice: Choice) -> None:
        self.choices.append(choice)
        self.pending += 1

    def take(self, choice: Choice, output: Output) -> None:
        """One step's output for one of the choices: count it, and write it if this is a stream."""
        transport = self.transport
        if transport is None:
            choice.produced += output.tokens
            if output.cached is not None:
                choice.cached = output.cached
            self._count_end(output)
            return
        data = b""
        if output.cached is not None:
            choice.cached = output.cached
            data = self.opening(choice)
            choice.prefix, choice.suffix = self._around_token(self.event(choice, _HOLE, None))
        word = choice.words[choice.produced & 63]
        choice.produced += output.tokens
        if not output.finished:
            transport.write(b"%b%b%b%b" % (data, choice.prefix, word, choice.suffix))
            return
        data += self.framed(self.event(choice, word.decode(), choice.reason))
        if self.pending == 1:
            data += self.closing()
        transport.write(data)
        self._count_end(output)

    def framed(self, event: bytes) -> bytes:
        """One HTTP/1.1 chunk (RFC 9112 section 7.1)."""
        return b"%x\r\n%b\r\n" % (len(event), event) if self.chunked else event

    def _around_token(self, event: bytes) -> tuple[bytes, bytes]:
        """What stands before and after the token in an event that has `_HOLE` in its place, framed as a chunk."""
        before, _, after = event.rpartition(_HOLE_JSON)
        if not self.chunked:
            return before, after
        return b"%x\r\n%b" % (len(before) + TOKEN_BYTES + len(after), before), after + b"\r\n"

    def _count_end(self, output: Output) -> None:
        if output.finished:
            self.pending -= 1
            if not self.pending and not self.done.done():
                self.done.set_result(None)

    def usage(self) -> dict[str, Any]:
        """Tokens of the whole answer; a prompt with several answers counts once."""
        prompt = sum(choice.prompt_tokens for choice in self.choices[:: self.ask.n])
        cached = sum(choice.cached for choice in self.choices[:: self.ask.n])
        produced = sum(choice.produced for choice in self.choices)
        return {
            "prompt_tokens": prompt,
            "total_tokens": prompt + produced,
            "completion_tokens": produced,
            "prompt_tokens_details": {"cached_tokens": cached},
        }

    def text(self, choice: Choice) -> str:
        return output_text(choice.words, choice.produced).decode()

    def opening(self, choice: Choice) -> bytes:
        """Chunks before the first token."""
        return b""

    @abstractmethod
    def event(self, choice: Choice, text: str, finish: str | None) -> bytes:
        """The event of one token, not framed."""

    @abstractmethod
    def closing(self) -> bytes:
        """Chunks after the last token."""

    @abstractmethod
    def body(self) -> bytes:
        """The whole answer, for a client that does not stream."""


class OpenAIReply(Reply):
    """What chat and plain completions share."""

    stream_object: ClassVar[str] = ""
    whole_object: ClassVar[str] = ""

    def _chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        head = {"id": self.id, "object": self.stream_object, "created": self.created, "model": self.model}
        return {**head, "choices": choices}

    def closing(self) -> bytes:
        end = self.framed(b"data: [DONE]\n\n")
        if not self.ask.wants_usage:
            return end
        return self.framed(data_event({**self._chunk([]), "usage": self.usage()})) + end

    @abstractmethod
    def _choice(self, choice: Choice) -> dict[str, Any]:
        """One entry of `choices` in a whole answer."""

    def body(self) -> bytes:
        head = {"id": self.id, "object": self.whole_object, "created": self.created, "model": self.model}
        choices = [self._choice(choice) for choice in self.choices]
        return _encode({**head, "choices": choices, "usage": self.usage()})


class ChatReply(OpenAIReply):
    """POST /v1/chat/completions."""

    prefix = "chatcmpl-"
    stream_object = "chat.completion.chunk"
    whole_object = "chat.completion"

    def opening(self, choice: Choice) -> bytes:
        delta = {"role": "assistant", "content": ""}
        part = {"index": choice.index, "delta": delta, "logprobs": None, "finish_reason": None}
        return self.framed(data_event(self._chunk([part])))

    def event(self, choice: Choice, text: str, finish: str | None) -> bytes:
        part: dict[str, Any] = {"index": choice.index, "delta": {"content": text}, "logprobs": None}
        part["finish_reason"] = finish
        if finish is not None:
            part["stop_reason"] = None
        return data_event(self._chunk([part]))

    def _choice(self, choice: Choice) -> dict[str, Any]:
        message = {"role": "assistant", "content": self.text(choice)}
        part = {"index": choice.index, "message": message, "logprobs": None}
        return {**part, "finish_reason": choice.reason, "stop_reason": None}


class CompletionReply(OpenAIReply):
    """POST /v1/completions."""

    prefix = "cmpl-"
    stream_object = whole_object = "text_completion"

    def event(self, choice: Choice, text: str, finish: str | None) -> bytes:
        part = {"index": choice.index, "text": text, "logprobs": None, "finish_reason": finish, "stop_reason": None}
        return data_event(self._chunk([part]))

    def _choice(self, choice: Choice) -> dict[str, Any]:
        part = {"index": choice.index, "text": self.text(choice), "logprobs": None}
        return {**part, "finish_reason": choice.reason, "stop_reason": None}


_STOP_REASONS: Final = {"stop": "end_turn", "length": "max_tokens"}


class MessageReply(Reply):
    """POST /v1/messages (Anthropic's shape; one choice)."""

    prefix = "chatcmpl-"  # vLLM answers this route with the ids of its chat route

    def _message(self, content: list[dict[str, Any]], stop: str | None, output_tokens: int) -> dict[str, Any]:
        choice = self.choices[0]
        return {
            "id": self.id,
            "type": "message",
            "role": "assistant",
            "content": content,
            "model": self.model,
            "stop_reason": stop,
            "stop_sequence": None,
            "usage": {"input_tokens": choice.prompt_tokens, "output_tokens": output_tokens},
        }

    def opening(self, choice: Choice) -> bytes:
        start = {"type": "message_start", "message": self._message([], None, 0)}
        block = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
        return self.framed(named_event(start)) + self.framed(named_event(block))

    def event(self, choice: Choice, text: str, finish: str | None) -> bytes:
        delta = {"type": "text_delta", "text": text}
        return named_event({"type": "content_block_delta", "index": 0, "delta": delta})

    def closing(self) -> bytes:
        choice = self.choices[0]
        delta = {"stop_reason": _STOP_REASONS[choice.reason], "stop_sequence": None}
        usage = {"input_tokens": choice.prompt_tokens, "output_tokens": choice.produced}
        events = (
            {"type": "content_block_stop", "index": 0},
            {"type": "message_delta", "delta": delta, "usage": usage},
            {"type": "message_stop"},
        )
        return b"".join(self.framed(named_event(event)) for event in events)

    def body(self) -> bytes:
        choice = self.choices[0]
        content = [{"type": "text", "text": self.text(choice)}]
        return _encode(self._message(content, _STOP_REASONS[choice.reason], choice.produced))


class EmbeddingReply(Reply):
    """POST /v1/embeddings: vectors that depend on the prompt only, and mean nothing."""

    prefix = "embd-"

    def event(self, choice: Choice, text: str, finish: str | None) -> bytes:
        return b""  # it never streams

    def closing(self) -> bytes:
        return b""

    def body(self) -> bytes:
        options, data = self.ask.options, []
        for choice in self.choices:
            numbers = (int.from_bytes(choice.words[j & 63], "big") for j in range(options["dimensions"]))
            vector = [(number % 2001 - 1000) / 1000 for number in numbers]
            packed: Any = vector
            if options["encoding"] == "base64":
                packed = base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
            data.append({"index": choice.index, "object": "embedding", "embedding": packed})
        head = {"id": self.id, "object": "list", "created": self.created, "model": self.model}
        return _encode({**head, "data": data, "usage": self.usage()})
