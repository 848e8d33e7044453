"""What does a request ask for, and what did the answer say? JSON bodies -> facts, answers -> usage.

Reads as little as it can: the body is decoded once, typed, with the prompt left as raw bytes; answers are not
parsed at all but for the few bytes that hold `usage`. Works for the OpenAI routes, Anthropic messages, and the
native routes of Triton, TGI, SGLang, llama.cpp and Ollama. Text is measured and hashed, never kept.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Final

import msgspec
from xxhash import xxh3_64_intdigest

from fairlead.core.model import Facts, Kind, Usage
from fairlead.wire.names import is_known, unclear_name

BLOCK_ENDS: Final = tuple(
    # bytes of the prompt that each hash stands for: fine where prompts begin, coarser far into a long one
    end
    for start, stop, size in (
        (0, 1, 256),
        (1, 4, 512),
        (4, 16, 2_048),
        (16, 64, 4_096),
        (64, 256, 8_192),
        (256, 1_024, 32_768),
        (1_024, 4_096, 131_072),
    )
    for end in range(start * 1_024 + size, stop * 1_024 + 1, size)
)
SAMPLE_STEP: Final = 4_096  # a long prompt is looked at once in so many bytes,
SAMPLE: Final = 192  # for so many bytes
IMAGE_BYTES: Final = 4_000  # an inline picture counts as this many prompt bytes: about 1,000 tokens
MAX_MODEL: Final = 512  # characters of a model's name
MAX_TOKENS: Final = 10_000_000  # larger limits say no more than this one

_CHAT = (Kind.CHAT, True)
_COMPLETION = (Kind.COMPLETION, True)
_PROMPT = (Kind.PROMPT_ONLY, True)
_CHEAP = (Kind.CHEAP, True)

ROUTES: Final[dict[bytes, tuple[str, bool]]] = {
    # path -> (kind, is a model needed where the fleet serves several?)
    b"/v1/chat/completions": _CHAT,
    b"/v1/responses": _CHAT,
    b"/v1/messages": _CHAT,
    b"/v1/completions": _COMPLETION,
    b"/v1/embeddings": _PROMPT,
    b"/v2/embed": _PROMPT,
    b"/pooling": _PROMPT,
    b"/classify": _PROMPT,
    b"/score": _PROMPT,
    b"/v1/score": _PROMPT,
    b"/rerank": _PROMPT,
    b"/v1/rerank": _PROMPT,
    b"/v2/rerank": _PROMPT,
    b"/tokenize": _CHEAP,
    b"/detokenize": _CHEAP,
    b"/v1/messages/count_tokens": _CHEAP,
    b"/api/chat": _CHAT,
    b"/api/generate": _COMPLETION,
    # these engines serve one model and are not told which
    b"/generate": (Kind.COMPLETION, False),
    b"/generate_stream": (Kind.COMPLETION, False),
    b"/completion": (Kind.COMPLETION, False),
}

_OVERHEAD: Final = {
    b"/v1/chat/completions": 2,  # role, [DONE]
    b"/v1/completions": 1,  # [DONE]
    b"/v1/messages": 5,  # message_start, content_block_start, content_block_stop, message_delta, message_stop
}
_TRITON: Final = re.compile(rb"/v2/models/([^/]{1,256})(?:/versions/[^/]{1,64})?/(generate|generate_stream|infer)")
_INLINE: Final = re.compile(rb'(?:;base64,|"data"\s*:\s*")[A-Za-z0-9+/=\\]*')  # a picture or sound in the body

_POSITION: Final = re.compile(r"\(byte (\d+)\)")
_NO_NUMBER: Final = re.compile(rb"[^NI]{0,2}(?:NaN|Infinity)")  # Python's parser takes these for numbers
_MARKS: Final = (b"\xef\xbb", b"\xff\xfe", b"\xfe\xff")

USAGE_TAIL: Final = 4_096  # bytes of an answer's end in which `usage` is looked for

_NONE = msgspec.Raw(b"null")


class BadBody(Exception):
    """A body that cannot be read; the message says what to do. `reason` is a short fixed word for logs and metrics."""

    def __init__(self, message: str, reason: str = "bad_body") -> None:
        super().__init__(message)
        self.reason = reason


def _ambiguous(message: str) -> BadBody:
    """The refusal of a body that an engine could read differently."""
    return BadBody(message, "ambiguous_body")


class _Chat(msgspec.Struct):
    """What most requests hold, and no more: fewer fields are decoded faster."""

    model: Any = None
    messages: msgspec.Raw = _NONE
    system: msgspec.Raw = _NONE
    instructions: msgspec.Raw = _NONE
    tools: msgspec.Raw = _NONE
    input: msgspec.Raw = _NONE
    stream: Any = None
    max_tokens: Any = None
    max_completion_tokens: Any = None
    max_output_tokens: Any = None
    n: Any = None
    stream_options: Any = None
    options: Any = None
    cache_salt: Any = None


class _Body(_Chat):
    prompt: msgspec.Raw = _NONE
    inputs: msgspec.Raw = _NONE
    input_ids: msgspec.Raw = _NONE
    text_input: msgspec.Raw = _NONE
    text: msgspec.Raw = _NONE
    documents: msgspec.Raw = _NONE
    n_predict: Any = None
    parameters: Any = None
    sampling_params: Any = None


_CHAT_NAMES: Final = frozenset(_Chat.__struct_fields__)
_BODY_NAMES: Final = frozenset(_Body.__struct_fields__)
_LONG: Final = tuple(
    (name, b'"%b"' % name.encode()) for name in ("tools", "system", "instructions", "messages", "input")
)
_LONG_BODY: Final = _LONG + tuple(
    (name, b'"%b"' % name.encode()) for name in ("prompt", "inputs", "input_ids", "text_input", "text", "documents")
)

_Tokens = Annotated[int, msgspec.Meta(ge=0, le=10**12)]


class _Details(msgspec.Struct):
    cached_tokens: _Tokens | None = None


class _Counts(msgspec.Struct):
    prompt_tokens: _Tokens | None = None
    completion_tokens: _Tokens | None = None
    prompt_tokens_details: _Details | None = None
    input_tokens: _Tokens | None = None
    output_tokens: _Tokens | None = None
    input_tokens_details: _Details | None = None
    cache_read_input_tokens: _Tokens | None = None


_decode_counts = msgspec.json.Decoder(_Counts).decode
_decode = msgspec.json.Decoder(_Body).decode
_decode_chat = msgspec.json.Decoder(_Chat).decode


def route_of(path: bytes) -> tuple[str, bool, str | None] | None:
    """(kind, is a model needed?, model named by the path); None for a route whose body is not ours to read."""
    known = ROUTES.get(path)
    if known is not None:
        return known[0], known[1], None
    if path.startswith(b"/v2/models/"):
        match = _TRITON.fullmatch(path)
        if match is not None:
            return Kind.COMPLETION, True, match[1].decode("latin-1")
    return None


def read_facts(path: bytes, body: bytes, prefixes: bool) -> Facts | None:
    """Facts of a POST; `prefixes` asks for hashes of the prompt's blocks. BadBody when it is no JSON object.

    None for a route whose body is not ours to read.
    """
    route = route_of(path)
    if route is None:
        return None
    kind, needs_model, model = route
    try:
        fields = _decode_chat(body) if kind == Kind.CHAT else _decode(body)
    except msgspec.ValidationError:
        raise BadBody("the body is JSON, but not an object: send {...}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as problem:
        # msgspec's messages give positions, never text of the body.
        raise BadBody(f"the body is not valid JSON: {problem}", _why_invalid(body, problem)) from None
    _check_names(body, fields)
    if model is None and fields.model is not None:
        model = fields.model
        if not isinstance(model, str) or not 0 < len(model) <= MAX_MODEL:
            raise _ambiguous(f"`model` is not a name: send a string of 1 to {MAX_MODEL} characters")
    if fields.stream is not None and type(fields.stream) is not bool:
        raise _ambiguous("`stream` is neither true nor false")
    if fields.cache_salt is not None and type(fields.cache_salt) is not str:
        raise _ambiguous("`cache_salt` is not a string")
    facts = Facts(kind, model, needs_model)
    if kind == Kind.CHEAP:
        return facts
    facts.stream = fields.stream is True or path.endswith(b"generate_stream")
    if kind != Kind.PROMPT_ONLY:
        facts.max_tokens = _limit(fields)
        if fields.n is not None:
            choices = _whole("n", fields.n)
            if 1 < choices <= 128:
                facts.n = choices
        options = fields.stream_options
        facts.wants_usage = options is not None and isinstance(options, dict) and options.get("include_usage") is True
    if fields.messages is not _NONE and fields.tools is _NONE and fields.system is _NONE:
        prompt = [fields.messages]  # the common case
    else:
        said = (fields.tools, fields.system, fields.instructions, fields.messages, fields.input)
        prompt = [raw for raw in said if raw is not _NONE]
        if isinstance(fields, _Body):
            others = (fields.prompt, fields.inputs, fields.input_ids, fields.text_input, fields.text, fields.documents)
            prompt += [raw for raw in others if raw is not _NONE]
            if len(prompt) == 1 and _ids(prompt[0], facts):
                if prefixes:
                    hash_blocks(bytes(prompt[0]), facts, fields.cache_salt)
                return facts
    _measure(prompt, facts, body)
    if prefixes and prompt:
        hash_blocks(prompt[0] if len(prompt) == 1 else b"".join(prompt), facts, fields.cache_salt)
    return facts


def _why_invalid(body: bytes, problem: Exception) -> str:
    """Would another parser read it all the same? UTF-8 with a mark, UTF-16 and UTF-32, NaN, or nested very deeply."""
    at = _POSITION.search(str(problem))
    start = max(int(at[1]) - 2, 0) if at is not None else 0
    if isinstance(problem, RecursionError) or body[:2] in _MARKS or b"\0" in body[:4]:
        return "ambiguous_body"
    return "ambiguous_body" if _NO_NUMBER.match(body, start) else "bad_body"


def _check_names(body: bytes, fields: _Chat) -> None:
    """Is every name there once, and spelled as everybody spells it?"""
    if fields.messages is not _NONE and fields.tools is _NONE and fields.system is _NONE:
        if is_known(body, fields.messages):  # the common case
            return
        problem = unclear_name(body, _CHAT_NAMES, ((b'"messages"', fields.messages),))
    else:
        whole = isinstance(fields, _Body)
        found = [
            (body.find(quoted), quoted, getattr(fields, name)) for name, quoted in (_LONG_BODY if whole else _LONG)
        ]
        # In their order, so that each is met with short ones before it.
        values = [(quoted, raw) for _, quoted, raw in sorted(found, key=_at) if raw is not _NONE]
        problem = unclear_name(body, _BODY_NAMES if whole else _CHAT_NAMES, values)
    if problem is not None:
        raise _ambiguous(f"{problem}: engines differ in what they make of that")


def _at(found: tuple[int, bytes, msgspec.Raw]) -> int:
    return found[0]


def _whole(name: str, value: Any) -> int:
    """A number without a fraction; other types are read by some engines, and refused by others."""
    if type(value) is int:
        return value
    if type(value) is float and value.is_integer():
        return int(value)
    raise _ambiguous(f"`{name}` is not a whole number")


def _limit(fields: _Chat) -> int | None:
    """The client's own limit on output tokens, wherever its dialect puts it."""
    value: int | None = None
    if fields.max_tokens is not None:
        value = _whole("max_tokens", fields.max_tokens)
    if fields.max_completion_tokens is not None:
        value = _whole("max_completion_tokens", fields.max_completion_tokens) or value
    if fields.max_output_tokens is not None:
        value = value or _whole("max_output_tokens", fields.max_output_tokens)
    nested: tuple[Any, ...] = (fields.options,)
    if isinstance(fields, _Body):
        if fields.n_predict is not None:
            value = value or _whole("n_predict", fields.n_predict)
        nested = (fields.parameters, fields.sampling_params, fields.options)
    if not value:
        for table in nested:
            if isinstance(table, dict):
                value = table.get("max_tokens") or table.get("max_new_tokens") or table.get("num_predict")
                if value:
                    break
    return min(value, MAX_TOKENS) if type(value) is int and value > 0 else None


def _measure(prompt: list[msgspec.Raw], facts: Facts, body: bytes) -> None:
    """Length of the prompt, from the bytes as they stand in the body."""
    size = 0
    for raw in prompt:
        size += len(raw)
    if size > IMAGE_BYTES and _may_hold_media(body):
        size -= sum(max(len(m.group()) - IMAGE_BYTES, 0) for m in _INLINE.finditer(body))
    facts.prompt_bytes = max(size, 0)


def _may_hold_media(body: bytes) -> bool:
    """Is there a long run without a blank, as pictures and sounds in base64 are?

    Looking for "base64" in the whole body takes as long as all the rest of reading it; text has blanks everywhere.
    """
    return any(b" " not in body[at : at + SAMPLE] for at in range(SAMPLE_STEP, len(body), SAMPLE_STEP))


def _ids(raw: msgspec.Raw, facts: Facts) -> bool:
    """Is the prompt a list of token ids (or of such lists)? Then they can be counted exactly."""
    start = bytes(memoryview(raw)[:16]).lstrip(b"[ \t\r\n")
    if len(raw) < 2 or memoryview(raw)[0] != 91 or not start[:1].isdigit():
        return False
    facts.prompt_ids = bytes(raw).count(b",") + 1
    return True


def hash_blocks(prompt: bytes | msgspec.Raw, facts: Facts, salt: Any = None) -> None:
    """Chained hashes of the prompt's blocks: each byte is read once, and at most 4 MiB of them.

    The chain begins with what keeps engines from sharing a cache entry: the model (which an adapter is, too) and the
    client's cache salt.
    """
    view = memoryview(prompt)
    span = len(view)
    facts.span = span
    facts.block_ends = BLOCK_ENDS
    seed = 0
    if facts.model is not None or salt is not None:
        seed = xxh3_64_intdigest(f"{facts.model or ''}\0{salt if isinstance(salt, str) else ''}".encode())
    hashes = []
    start = 0
    for end in BLOCK_ENDS:
        seed = xxh3_64_intdigest(view[start:end], seed)
        hashes.append(seed)
        if end >= span:
            break
        start = end
    facts.blocks = hashes


def stream_overhead(path: bytes, facts: Facts) -> int:
    """How many events of a whole stream carry no token: the role, the usage, [DONE] and the like."""
    return _OVERHEAD.get(path, 0) + facts.wants_usage


def body_field(body: bytes, name: str) -> str | None:
    """A top-level string or number of a JSON body, as text; None where there is none."""
    try:
        raw = msgspec.json.decode(body, type=dict[str, msgspec.Raw]).get(name)
        value = None if raw is None else msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return str(value) if isinstance(value, (str, int)) and value != "" else None


def read_usage(tail: bytes) -> Usage | None:
    """Token counts from the end of an answer, JSON or event stream; None where it tells none."""
    at = tail.rfind(b'"usage"')
    start = tail.find(b"{", at, at + 16) if at >= 0 else -1
    if start < 0:
        return None
    end = tail.find(b"}", start)
    while end >= 0 and tail.count(b"{", start, end) > tail.count(b"}", start, end) + 1:  # the details' own braces
        end = tail.find(b"}", end + 1)
    try:
        counts = _decode_counts(tail[start : end + 1])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    details = counts.prompt_tokens_details or counts.input_tokens_details
    cached = details.cached_tokens if details is not None else counts.cache_read_input_tokens
    prompt = counts.prompt_tokens if counts.prompt_tokens is not None else counts.input_tokens
    output = counts.completion_tokens if counts.completion_tokens is not None else counts.output_tokens
    if prompt is None and output is None:
        return None
    return Usage(prompt or 0, output or 0, cached)
