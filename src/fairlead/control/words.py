"""What does a number in a decision mean? A sentence for each term and for each score of every policy.

Said by /api/explain, and by whoever shows it: the dashboard, `fairlead explain`, the log of decisions.
Rule 1: one row per policy, one sentence per term; a test finds what is missing when a policy gets another term.
Rule 2: numbers in sentences are rounded to what can be told apart by eye; the exact ones stand beside them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

Number = float | None


def count(value: float) -> str:
    """12, 4,310."""
    return f"{value:,.0f}" if abs(value) >= 10 or value == int(value) else f"{value:.2g}"


def seconds(value: float) -> str:
    """850 us, 12.4 ms, 3.21 s, 4.5 min."""
    size = abs(value)
    if size >= 120.0:
        return f"{value / 60.0:.1f} min"
    if size >= 1.0:
        return f"{value:.3g} s"
    if size >= 1e-3:
        return f"{value * 1e3:.3g} ms"
    return f"{value * 1e6:.0f} us" if value else "0 s"


def factor(value: float) -> str:
    return f"{value:.3g}"


def is_so(value: float) -> str:
    """The word that makes a sentence true or not."""
    return "" if value else "not "


Term = tuple[str, Callable[[float], str]]

_IN_FLIGHT: Final[Term] = ("requests in flight there: {}", count)
_WEIGHT: Final[Term] = ("its weight is {}", factor)
_CACHED: Final[Term] = ("tokens of its prompt that are thought to be in the prefix cache there: {}", count)
_PENDING: Final[dict[str, Term]] = {
    "prompt tokens pending": ("prompt tokens sent there and not yet worked through: {}", count),
    "output tokens pending": ("answer tokens still to be produced there: {}", count),
    "weight": _WEIGHT,
    "speed": ("its learned speed is {} times the fleet's mean (1 where weights are set)", factor),
}

TERMS: Final[Mapping[str, Mapping[str, Term]]] = {
    "expected_completion": {
        "prompt tokens cached": _CACHED,
        "prefill queued, s": ("prompts before it have {} of work left, by the reference machine", seconds),
        "own prefill, s": ("what is not cached of its own prompt takes {}, by the reference machine", seconds),
        "first token after, s": ("its first token is expected after {}", seconds),
        "delay to others, s": ("it keeps the streams that run there waiting for {} in all", seconds),
        "decoding, s": ("to produce its answer is expected to take {}", seconds),
        "prefill slowdown": ("prompts take {} times as long there as on the reference machine", factor),
        "decode slowdown": ("answers take {} times as long there as on the reference machine", factor),
        "price of others' and decode time": (
            "a second of others' waiting, or of its own answer, counts as much as {} of waiting for the first token",
            seconds,
        ),
    },
    "prefix_cache": {
        "prompt tokens cached": _CACHED,
        "has room": ("it is {}within its share of the pending tokens", is_so),
        **_PENDING,
    },
    "latency": {
        "first token lately, s": ("first tokens came after {} lately", seconds),
        "in flight": _IN_FLIGHT,
        "hot": ("it does {}have more requests in flight than most others, which would rule it out", is_so),
    },
    "least_pending_tokens": _PENDING,
    "least_waiting": {
        "waiting": ("requests waiting in its queue, our unreported ones included: {}", count),
        "in flight": _IN_FLIGHT,
        "age of the report, s": ("the engine's own report was {} old", seconds),
    },
    "least_connections": {"in flight": _IN_FLIGHT, "weight": _WEIGHT},
    "power_of_two": {"in flight": _IN_FLIGHT},
    "prefix_hash": {
        "in flight": _IN_FLIGHT,
        "has room": ("it is {}below its bound of requests in flight", is_so),
        "draw: the highest wins": ("the number that it draws for this prefix is {}, and the highest wins", factor),
    },
    "session": _PENDING,
    "round_robin": {
        "credit": ("it has collected a credit of {}, and the highest is next", factor),
        "weight": _WEIGHT,
    },
    "random": {"weight": _WEIGHT},
}

SCORES: Final[Mapping[str, str]] = {
    "expected_completion": "seconds to its first token, plus the price times others' delay and its decoding",
    "prefix_cache": "pending tokens over weight, its own over speed; it counts among those with the longest prefix",
    "latency": "first tokens lately times requests in flight; a million more for one that is hot",
    "least_pending_tokens": "pending tokens over weight, and the request's own over speed",
    "least_waiting": "requests waiting over weight, and a thousandth of those in flight",
    "least_connections": "requests in flight over weight",
    "power_of_two": "requests in flight over weight, of the two that were drawn; the others have none",
    "prefix_hash": "the number drawn for this prefix, below zero; bounds and popular prefixes come first",
    "session": "pending tokens over weight, and its own over speed; it counts where the session has no home",
    "round_robin": "the credit, below zero",
    "random": "one over the weight: the lower, the likelier it is drawn",
}


def in_words(policy: str, terms: Mapping[str, Number]) -> list[str]:
    """One sentence per term, in their order; what no table knows is told as it is called."""
    known = TERMS.get(policy, {})
    said = []
    for name, value in terms.items():
        sentence, shown = known.get(name, (f"{name}: {{}}", factor))
        said.append(sentence.format("unknown" if value is None else shown(value)))
    return said


def score_means(policy: str) -> str | None:
    """What a score of this policy is; the lowest wins."""
    return SCORES.get(policy)
