"""What is wrong between engines? The same model should be the same on every engine that serves it.

Rule 1: pure. Only engines that serve a model of the same name are compared, and only by what both told.
Rule 2: a difference is told once per model, with each value and who has it; the majority is not called right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import combinations
from typing import Final

from fairlead.doctor.checks import CLOCK_SECONDS, Pool, check_engine
from fairlead.doctor.facts import EngineFacts, Model
from fairlead.doctor.findings import Finding, merged
from fairlead.doctor.mend import BLOCKS, CONTEXT, SAMPLING, mend

MOST_SHOWN: Final = 3  # engines named per value; the rest is counted
Member = tuple[EngineFacts, Model]


def check(fleet: Iterable[EngineFacts], pool: Pool) -> list[Finding]:
    """All findings about engines and fleet, the most harmful first."""
    fleet = list(fleet)
    findings = [finding for facts in fleet for finding in check_engine(facts, pool)]
    alive = [facts for facts in fleet if facts.answers]
    for model, members in _by_model(alive).items():
        for compare in COMPARISONS:
            findings += compare(model, members)
    findings += _clocks(alive)
    return merged(findings)


def _by_model(fleet: Iterable[EngineFacts]) -> dict[str, list[Member]]:
    """Models that two engines or more have."""
    found: dict[str, list[Member]] = {}
    for facts in fleet:
        for model in facts.models:
            found.setdefault(model.id, []).append((facts, model))
    return {name: members for name, members in sorted(found.items()) if len(members) > 1}


def _differing(
    code: str,
    model: str,
    what: str,
    members: list[Member],
    value: Callable[[Member], object],
    advice: Callable[[str], str],
) -> Iterator[Finding]:
    """One finding when what is told differs. `advice` is asked with the dialect of the engines."""
    told: dict[str, list[EngineFacts]] = {}
    for member in members:
        if (found := value(member)) is not None:
            told.setdefault(str(found), []).append(member[0])
    if len(told) < 2:
        return
    groups = sorted(told.items(), key=lambda row: (-len(row[1]), row[0]))
    rows = [f"{text} on {_names(who)}" for text, who in groups]
    engines = tuple(member[0].name for member in members if value(member) is not None)
    kinds = dict.fromkeys(facts.engine for _, who in groups for facts in who)
    advices = dict.fromkeys(advice(kind) for kind in kinds)
    yield Finding(
        code=code, engines=engines, seen=f"model {model!r}: {what} {'; '.join(rows)}", mend="; ".join(advices)
    )


def _names(who: list[EngineFacts]) -> str:
    shown = ", ".join(facts.name for facts in who[:MOST_SHOWN])
    return shown if len(who) <= MOST_SHOWN else f"{shown} and {len(who) - MOST_SHOWN} more"


def _tokenizers(model: str, members: list[Member]) -> Iterator[Finding]:
    return _differing(
        "tokenizer-differs", model, "the same sentence becomes tokens", members,
        lambda member: member[0].tokenization.get(model),
        lambda _: "serve the same model on all of them, or give each its own name (vLLM: --served-model-name)",
    )  # fmt: skip


def _weights(model: str, members: list[Member]) -> Iterator[Finding]:
    return _differing(
        "weights-differ", model, "its weights come from", members,
        lambda member: member[1].root,
        lambda _: "if these are not copies of the same weights, give each its own name (vLLM: --served-model-name)",
    )  # fmt: skip


def _context(model: str, members: list[Member]) -> Iterator[Finding]:
    return _differing(
        "context-differs", model, "context length", members,
        lambda member: f"{member[1].longest}" if member[1].longest else None,
        lambda kind: mend(CONTEXT, kind),
    )  # fmt: skip


def _blocks(model: str, members: list[Member]) -> Iterator[Finding]:
    return _differing(
        "block-size-differs", model, "tokens per cache block", members,
        lambda member: member[0].block_tokens,
        lambda kind: mend(BLOCKS, kind),
    )  # fmt: skip


def _sampling(model: str, members: list[Member]) -> Iterator[Finding]:
    def told(member: Member) -> str | None:
        defaults = member[0].sampling
        return None if defaults is None else ", ".join(f"{key}={text}" for key, text in sorted(defaults.items()))

    # Different engines name different things: only those of one kind can be compared.
    for kind in dict.fromkeys(facts.engine for facts, _ in members):
        same = [member for member in members if member[0].engine == kind]
        yield from _differing(
            "sampling-differs", model, "sampling defaults", same, told, lambda kind: mend(SAMPLING, kind)
        )


def _versions(model: str, members: list[Member]) -> Iterator[Finding]:
    return _differing(
        "version-differs", model, "served by", members,
        lambda member: f"{member[0].title} {member[0].version}" if member[0].version else None,
        lambda _: "bring all of them to one version, one engine at a time; fine while you are upgrading",
    )  # fmt: skip


COMPARISONS: Final[tuple[Callable[[str, list[Member]], Iterator[Finding]], ...]] = (
    _tokenizers,
    _weights,
    _context,
    _blocks,
    _sampling,
    _versions,
)


def _clocks(fleet: list[EngineFacts]) -> Iterator[Finding]:
    """Two engines that are both near enough to our clock may still be far from each other."""
    told = [(facts.clock_ahead, facts) for facts in fleet if facts.clock_ahead is not None]
    near = [(ahead, facts) for ahead, facts in told if abs(ahead) <= CLOCK_SECONDS]
    pairs = [(abs(a - b), one, other) for (a, one), (b, other) in combinations(near, 2)]
    if not pairs:
        return
    apart, one, other = max(pairs, key=lambda pair: pair[0])
    if apart > CLOCK_SECONDS:
        seen = f"their clocks are {apart:.1f} s apart"
        hint = "let both machines keep time by NTP (chrony, systemd-timesyncd)"
        yield Finding(code="clocks-apart", engines=(one.name, other.name), seen=seen, mend=hint)
