"""Engine profiles: how fast is one model on one machine, and how much does it remember?

Rule 1: a profile is data. The step model turns it into times; nothing else interprets it.
Rule 2: the table is visible and complete; an unknown name is answered with the nearest right one.

The coefficients are fits and roofline arithmetic over published per-step times of vLLM (BLIS and Vidur profiling
data, chip peaks and memory bandwidth); the L4 row comes from its data sheet alone. They are meant to be
right within some tens of percent, and routing results hardly depend on their exact values.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Profile:
    """One model on one instance. All times are seconds; see `step_seconds` for how they combine."""

    name: str
    base: float  # seconds per step, whatever is in it
    prefill: float  # `p`: seconds per prompt token computed
    attention: float  # `a`: seconds per (prompt token x token of context before it)
    kv_read: float  # `k`: seconds per KV token that decoding sequences read
    sequence: float  # `s`: seconds per sequence in the step
    kv_tokens: int  # KV cache size in tokens
    token_budget: int  # most tokens in one step (vLLM: max_num_batched_tokens)
    max_num_seqs: int  # most sequences running at once
    max_model_len: int  # longest prompt plus output in tokens
    block_tokens: int = 16  # tokens per KV block

    def __post_init__(self) -> None:
        if self.token_budget < 1 or self.max_num_seqs < 1 or self.block_tokens < 1:
            raise ValueError(f"profile {self.name!r}: token_budget, max_num_seqs and block_tokens must be at least 1")
        if self.kv_blocks < 1:
            raise ValueError(f"profile {self.name!r}: kv_tokens must hold at least one block of {self.block_tokens}")
        if self.max_model_len > self.kv_blocks * self.block_tokens:
            raise ValueError(f"profile {self.name!r}: max_model_len {self.max_model_len} does not fit the KV cache")

    @property
    def kv_blocks(self) -> int:
        """KV blocks in all."""
        return self.kv_tokens // self.block_tokens

    def step_seconds(self, prefill_tokens: int, attended: float, kv_read: int, sequences: int) -> float:
        """One step's time: base + p*prefill + a*sum(chunk*(ctx + chunk/2)) + k*(KV tokens read) + s*sequences.

        `attended` is that sum over the step's prefill chunks, `ctx` being the tokens computed before the chunk.
        """
        return (
            self.base
            + self.prefill * prefill_tokens
            + self.attention * attended
            + self.kv_read * kv_read
            + self.sequence * sequences
        )


# vLLM picks a budget of 8192 tokens and 1024 sequences on cards of 70 GiB and more, and 2048 and 256 on the A100 and on
# smaller cards.
_BIG: Final = (8192, 1024)
_SMALL: Final = (2048, 256)


def _row(
    name: str, base_ms: float, p_us: float, a_ns: float, k_us: float, s_us: float, kv: int, limits: tuple[int, int]
) -> Profile:
    """A table row in the units people quote: ms, us per token, ns per token pair, us, us, tokens."""
    budget, seqs = limits
    longest = min(131_072, kv // 1024 * 1024)
    return Profile(name, base_ms * 1e-3, p_us * 1e-6, a_ns * 1e-9, k_us * 1e-6, s_us * 1e-6, kv, budget, seqs, longest)


PROFILES: Final[dict[str, Profile]] = {
    row.name: row
    for row in (
        # name, base, p, a, k, s, KV tokens, (budget, sequences)
        _row("h100-8b", 6.8, 20, 1.3, 0.076, 5, 440_000, _BIG),
        _row("a100-8b", 10.5, 60, 4.0, 0.125, 5, 440_000, _SMALL),
        _row("l4-8b", 64, 260, 10, 0.85, 8, 39_000, _SMALL),
        _row("h100-70b-tp4", 16.6, 70, 1.66, 0.048, 8, 486_000, _BIG),
        _row("a100-70b-tp4", 25.6, 175, 5.0, 0.078, 8, 486_000, _SMALL),
    )
}


class UnknownProfile(ValueError):
    """A profile name that is not in the table."""


def profile(name: str) -> Profile:
    """The profile called `name`; UnknownProfile names the nearest right one, or all of them."""
    found = PROFILES.get(name)
    if found is not None:
        return found
    near = difflib.get_close_matches(name, PROFILES, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(PROFILES)}"
    raise UnknownProfile(f"unknown profile {name!r}; {hint}")
