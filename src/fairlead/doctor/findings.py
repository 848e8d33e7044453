"""What can be wrong, how bad is it, and why does it matter? One visible table, the most harmful first.

Rule 1: a code is a fixed word that scripts may rely on; its place in the table is its harm.
Rule 2: `error` means that requests fail or that answers are wrong; `warning` that balancing or speed suffers;
        `note` is for people to know.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

ERROR: Final = "error"
WARNING: Final = "warning"
NOTE: Final = "note"


@dataclass(frozen=True, slots=True)
class Kind:
    """One row of the table."""

    severity: str
    why: str


KINDS: Final[dict[str, Kind]] = {
    "unreachable": Kind(ERROR, "it gets no requests, and the others carry its share"),
    "not-an-engine": Kind(ERROR, "requests sent there would fail"),
    "key-refused": Kind(ERROR, "requests without a valid key fail, and so does every look at its models"),
    "unhealthy": Kind(ERROR, "Fairlead sends no requests to an engine whose health page says no"),
    "generation-failed": Kind(ERROR, "it looks alive and cannot serve"),
    "tokenizer-differs": Kind(
        ERROR, "the same request gets other tokens, and other answers, from one engine to the next"
    ),
    "open-to-internet": Kind(ERROR, "anybody can use the engine, and reach it past Fairlead"),
    "weights-differ": Kind(WARNING, "the same request may get another answer from one engine to the next"),
    "context-differs": Kind(WARNING, "a long request works or fails by where it happens to go"),
    "sampling-differs": Kind(WARNING, "requests that leave sampling to the engine get other answers by where they go"),
    "no-models": Kind(WARNING, "requests that name a model are never sent there"),
    "prefix-caching-off": Kind(WARNING, "every prompt is computed anew; sending it where its prefix is gains nothing"),
    "prefix-no-hit": Kind(WARNING, "a prompt that was just sent should be cached; prefix routing gains nothing if not"),
    "metrics-off": Kind(
        WARNING, "Fairlead cannot see the queue and the cache of this engine, only what it sent itself"
    ),
    "metrics-unknown": Kind(WARNING, "Fairlead cannot read them; queue and cache of this engine stay unseen"),
    "usage-missing": Kind(WARNING, "prompt and answer lengths are guessed, so that its load is estimated badly"),
    "usage-details-off": Kind(WARNING, "Fairlead cannot check which prefixes really hit, and trusts its guesses less"),
    "block-size-differs": Kind(
        WARNING, "a prefix hits in whole blocks: the same prompt hits more on one than on another"
    ),
    "version-differs": Kind(WARNING, "engines of one model then differ in speed, flags, metrics and sometimes answers"),
    "keepalive-short": Kind(
        WARNING, "Fairlead sends on a connection that the engine is closing; such a request has to be sent again"
    ),
    "queue-unlimited": Kind(
        WARNING, "a full engine lets requests wait without end instead of sending them to another one"
    ),
    "dev-pages-open": Kind(
        WARNING, "whoever reaches the engine can empty its cache, pause it or read its configuration"
    ),
    "clocks-apart": Kind(WARNING, "times in logs, traces and certificates do not fit together"),
    "dev-pages-local": Kind(NOTE, "fine for a test on this machine; leave it out where others can reach the engine"),
    "another-fairlead": Kind(NOTE, "its engines cannot be seen one by one; name them instead to have them looked at"),
    "no-metrics": Kind(NOTE, "Fairlead balances by what it measures itself"),
    "no-generation": Kind(NOTE, "prefix caching and usage could not be tried out"),
    "events-off": Kind(
        NOTE, "nothing is lost today: this version learns the cache from answers and does not read events"
    ),
    "unknown": Kind(NOTE, "it cannot be told from outside, so look at how the engine was started"),
}
"""Harm first. Checks name a row by its code."""

ORDER: Final = {code: place for place, code in enumerate(KINDS)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was seen."""

    code: str
    engines: tuple[str, ...]
    seen: str
    mend: str

    @property
    def severity(self) -> str:
        return KINDS[self.code].severity

    @property
    def why(self) -> str:
        return KINDS[self.code].why

    def as_dict(self) -> dict[str, Any]:
        return {
            "code": self.code,
            "severity": self.severity,
            "engines": list(self.engines),
            "seen": self.seen,
            "why": self.why,
            "mend": self.mend,
        }


def merged(findings: list[Finding]) -> list[Finding]:
    """In order of harm; what several engines have in common stands once."""
    together: dict[tuple[str, str, str], list[str]] = {}
    for one in findings:
        together.setdefault((one.code, one.seen, one.mend), []).extend(one.engines)
    rows = [
        Finding(code=code, engines=tuple(dict.fromkeys(engines)), seen=seen, mend=mend)
        for (code, seen, mend), engines in together.items()
    ]
    return sorted(rows, key=lambda row: ORDER[row.code])


def exit_status(findings: list[Finding]) -> int:
    """0: nothing but notes; 1: warnings; 2: errors."""
    severities = {one.severity for one in findings}
    return 2 if ERROR in severities else 1 if WARNING in severities else 0
