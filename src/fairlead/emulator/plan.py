"""From an ask to engine work: which sequences, how long, on which blocks?

Rule 1: each prompt and each of its answers is one sequence of the engine.
Rule 2: what cannot fit the model's context is refused here, before any byte of an answer.
"""

from __future__ import annotations

from collections.abc import Iterator

from fairlead.emulator.asks import AskError
from fairlead.emulator.profiles import Profile
from fairlead.emulator.replies import Choice, Reply
from fairlead.emulator.text import (
    TOKEN_BYTES,
    block_hashes,
    natural_length,
    output_text,
    output_words,
    seed_of,
    token_count,
)
from fairlead.emulator.work import EmulatedRequest


def plan(reply: Reply, profile: Profile, ids: Iterator[int], mean_output: float, seed: int) -> list[EmulatedRequest]:
    """The engine's requests for `reply`, which gets one choice for each; AskError when a prompt is too long.

    The client's limit is taken as the length (as with vLLM's `ignore_eos`); without one the model stops by itself.
    """
    ask, longest = reply.ask, profile.max_model_len
    sequences: list[EmulatedRequest] = []
    for prompt in ask.prompts:
        tokens = token_count(prompt)
        limit_words = f"This model's maximum context length is {longest} tokens. However, your prompt contains {tokens}"
        if tokens + (ask.limit != 0) > longest:
            message = f"{limit_words} tokens, which leaves no room for an answer."
            raise AskError(400, "BadRequestError", message, "input_tokens")
        if ask.limit is not None and tokens + ask.limit > longest:
            message = f"{limit_words} tokens and max_tokens is {ask.limit}."
            raise AskError(400, "BadRequestError", message, "max_tokens")
        padded = prompt.ljust(tokens * TOKEN_BYTES, b"\0")
        for answer in range(ask.n):
            own_seed = seed_of(prompt, seed + answer)
            if ask.limit is None:
                output, reason = min(natural_length(own_seed, mean_output), longest - tokens), "stop"
            else:
                output, reason = ask.limit, "length"
            words = output_words(own_seed)
            # the output's blocks too: the next turn of a conversation finds this answer in the cache
            hashes = block_hashes(padded + output_text(words, output), profile.block_tokens, ask.salt)
            number = next(ids)
            reply.add(Choice(len(sequences), number, tokens, words, output, reason))
            sequences.append(EmulatedRequest(number, tokens, hashes, output))
    return sequences
