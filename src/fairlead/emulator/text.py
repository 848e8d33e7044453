"""Text without a tokenizer: how many tokens is a prompt, what are its blocks called, what does the model answer?

Rule 1: four bytes are one token, everywhere, so that counts, ids and block borders agree with each other.
Rule 2: same prompt, same seed -> same answer, on every engine.
Rule 3: an answer sent back in the next turn lies on the same block borders as when it was produced: every piece of
the chat template is padded to whole tokens, and every produced token is exactly one.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec
import xxhash

TOKEN_BYTES: Final = 4

_SPEECH: Final = (
    b" one two and bay cap day ebb far gig hub ice jib key lee map net oar pad quo rig sea tar use van"
    b" way yaw zip arm bow cam dip eye fog gap hem ink jet kit log mud nor oak pin row rib sag tag urn"
    b" vow wax yam air bar cog den elm fin gym hop ivy jam keg lot mob"
)
WORDS: Final[tuple[bytes, ...]] = tuple(_SPEECH[j : j + TOKEN_BYTES] for j in range(0, 256, TOKEN_BYTES))
"""What the model says, one token each: four bytes that need no escaping in JSON."""
_MASK: Final = len(WORDS) - 1


class Message(msgspec.Struct):
    """One chat message; fields that do not change the prompt are left out."""

    role: str
    content: str | list[dict[str, Any]] | None = None
    tool_calls: msgspec.Raw = msgspec.Raw(b"")


def _padded(piece: bytes) -> bytes:
    return piece + b"\0" * (-len(piece) % TOKEN_BYTES)


def content_text(content: str | list[dict[str, Any]] | None) -> str:
    """The text of a message; parts that are not text stand as a mark with a hash, so that they are told apart."""
    if content is None or isinstance(content, str):
        return content or ""
    parts = []
    for part in content:
        text = part.get("text")
        if isinstance(text, str):
            parts.append(text)
        else:
            parts.append(f"<|part {xxhash.xxh3_64_hexdigest(msgspec.json.encode(part))}|>")
    return "".join(parts)


def render_chat(messages: Iterable[Message], tools: bytes = b"") -> bytes:
    """The prompt that a chat template would make of these messages."""
    pieces = [_padded(b"<|tools|>" + tools)] if tools and tools != b"null" else []
    for message in messages:
        pieces.append(_padded(f"<|{message.role}|>".encode()))
        text = content_text(message.content).encode(errors="replace")
        pieces.append(_padded(text + bytes(message.tool_calls) + b"<|end|>"))
    pieces.append(_padded(b"<|assistant|>"))
    return b"".join(pieces)


def token_count(prompt: bytes) -> int:
    """Tokens of a rendered prompt; an empty one still has its start token."""
    return max(1, -(-len(prompt) // TOKEN_BYTES))


def tokenize(prompt: bytes) -> list[int]:
    """Token ids: the bytes, four by four."""
    padded = _padded(prompt)
    return list(struct.unpack(f"<{len(padded) // TOKEN_BYTES}I", padded))


def detokenize(ids: Sequence[int]) -> bytes:
    """The bytes behind token ids. Ids of a real tokenizer give unreadable but stable bytes."""
    return struct.pack(f"<{len(ids)}I", *(token & 0xFFFFFFFF for token in ids))


def seed_of(prompt: bytes, seed: int) -> int:
    """A number that stands for this prompt on a fleet with this seed."""
    return xxhash.xxh3_64_intdigest(prompt, seed=seed & 0xFFFFFFFFFFFFFFFF)


def block_hashes(data: bytes, block_tokens: int, salt: str | None = None) -> list[int]:
    """Chained hashes of the full blocks of `data`: each depends on everything before it, and on the salt."""
    chained = xxhash.xxh3_64_intdigest
    last = chained(salt.encode()) if salt else 0
    size = block_tokens * TOKEN_BYTES
    view = memoryview(data)
    hashes = []
    for start in range(0, len(data) - size + 1, size):
        last = chained(view[start : start + size], seed=last)
        hashes.append(last)
    return hashes


def natural_length(seed: int, mean: float) -> int:
    """How many tokens the model says before it stops by itself: a gamma distribution of shape 2 around `mean`.

    Median 0.84 and 99th percentile 3.3 times the mean: between the recorded chat traces, whose outputs have
    medians of 0.6 to 1.0 and 99th percentiles of 2.8 to 3.3 means.
    """
    first = ((seed & 0xFFFFFFFF) + 0.5) / 2**32
    second = ((seed >> 32 & 0xFFFFFFFF) + 0.5) / 2**32
    return max(1, round(-(math.log(first) + math.log(second)) * mean / 2))


def output_words(seed: int) -> tuple[bytes, ...]:
    """The cycle of 64 words that the model says for this seed: token number j is word j modulo 64."""
    start, stride = seed & _MASK, (seed >> 8 & _MASK) | 1  # an odd stride visits all 64
    return tuple(WORDS[(start + stride * j) & _MASK] for j in range(len(WORDS)))


def output_text(words: tuple[bytes, ...], tokens: int) -> bytes:
    """The first `tokens` tokens of the answer."""
    whole, rest = divmod(tokens, len(words))
    return b"".join(words) * whole + b"".join(words[:rest])
