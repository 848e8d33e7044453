"""What do the counts of a scenario say? Pure: words and seconds in, figures and a table out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

BAD = ("lost", "refused", "error", "broken", "silent", "mixed up", "doubled", "hung")


@dataclass(frozen=True, slots=True)
class Figure:
    """What one balancer did in one scenario; `met`: None where nothing was promised."""

    text: str
    met: bool | None = None


def count(told: Mapping[tuple[str, str], int], *words: str) -> int:
    """How many requests of any kind ended in one of these words."""
    return sum(number for (_, word), number in told.items() if word in words)


def bad(told: Mapping[tuple[str, str], int]) -> dict[str, int]:
    """Everything but whole answers, by word."""
    by_word = Counter[str]()
    for (_, word), number in told.items():
        by_word[word] += number
    return {word: by_word[word] for word in BAD if by_word[word]}


def of(failed: int, total: int) -> str:
    """`0 of N` with the bound that it proves with 95 % confidence: 3/N."""
    if failed or not total:
        return f"{failed:,} of {total:,}"
    return f"0 of {total:,} (< {3 / total:.2%})"


def percentile(values: Sequence[float], share: float) -> float:
    """The nearest rank; 0 without values."""
    ranked = sorted(values)
    return ranked[min(int(share * len(ranked)), len(ranked) - 1)] if ranked else 0.0


def allowed_tries(requests: int, seconds: float) -> float:
    """The most tries that a failing pool may see: 1.2 for each request and 10 a second."""
    return 1.2 * requests + 10.0 * seconds


def table(rows: Sequence[tuple[str, str, Mapping[str, Figure]]], names: Sequence[str]) -> str:
    """One line for each scenario: (title, target, figures by balancer); ours is marked where it fails its target."""
    lines = [f"| scenario | target | {' | '.join(names)} |", "|---|---|" + "---|" * len(names)]
    for title, target, figures in rows:
        cells = [figures[name].text if name in figures else "-" for name in names]
        ours = figures.get("fairlead")
        if ours is not None and ours.met is False:
            cells[list(names).index("fairlead")] += " (**missed**)"
        lines.append(f"| {title} | {target} | {' | '.join(cells)} |")
    return "\n".join(lines)
