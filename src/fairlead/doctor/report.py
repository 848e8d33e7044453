"""What was found, for people and for programs.

Rule 1: the JSON is a contract: keys are added, never renamed; a value that could not be told is null.
Rule 2: people get the findings in order of harm, and above them one line per engine.
"""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Final

from fairlead.doctor.facts import EngineFacts, MetricsState
from fairlead.doctor.findings import ERROR, NOTE, WARNING, Finding

WIDTH: Final = 100
MOST_MODELS: Final = 3
COLOURS: Final = {ERROR: "red", WARNING: "yellow", NOTE: "cyan"}


def about(facts: EngineFacts) -> str:
    """One engine in one line, without its name."""
    if facts.trouble is not None:
        return facts.trouble.value
    if facts.is_fairlead:
        return "Fairlead"
    if not facts.is_engine:
        return "not an engine"
    names = [model.id for model in facts.models]
    more = f" and {len(names) - MOST_MODELS} more" if len(names) > MOST_MODELS else ""
    served = f"; {', '.join(names[:MOST_MODELS])}{more}" if names else ""
    return f"{facts.title} {facts.version or ''}".strip() + served


def as_json(fleet: Iterable[EngineFacts], findings: Sequence[Finding], status: int) -> dict[str, Any]:
    return {
        "status": status,
        "counts": {severity: _counts(findings)[severity] for severity in (ERROR, WARNING, NOTE)},
        "findings": [finding.as_dict() for finding in findings],
        "engines": [_engine(facts) for facts in fleet],
    }


def _engine(facts: EngineFacts) -> dict[str, Any]:
    tried = facts.generation
    return {
        "name": facts.name,
        "url": facts.url,
        "seconds": round(facts.seconds, 3),
        "trouble": facts.trouble.name.lower() if facts.trouble is not None else None,
        "engine": facts.engine or None,
        "version": facts.version,
        "health": facts.health,
        "models": [{"id": model.id, "longest": model.longest} for model in facts.models],
        "metrics": facts.metrics.name.lower() if facts.metrics is not None else None,
        "metrics_url": facts.metrics_url if facts.metrics is MetricsState.READ else None,
        "block_tokens": facts.block_tokens,
        "prefix_caching": facts.prefix_caching,
        "events": facts.events,
        "queue_limit": facts.queue_limit,
        "sampling": dict(facts.sampling) if facts.sampling is not None else None,
        "keep_alive": facts.keep_alive,
        "keep_alive_at_least": facts.keep_alive_open,
        "clock_ahead": facts.clock_ahead,
        "answers_without_key": facts.is_open,
        "public_address": facts.is_public,
        "generation": None
        if tried is None
        else {
            "model": tried.model,
            "error": tried.error or None,
            "prompt_tokens": tried.prompt_tokens,
            "usage_details": tried.has_details,
            "cached_tokens": tried.cached,
            "counted_hits": tried.hits,
        },
    }


def lines(fleet: Sequence[EngineFacts], findings: Sequence[Finding]) -> list[tuple[str, str | None]]:
    """(line, colour) for a terminal."""
    widest = max((len(facts.name) for facts in fleet), default=0)
    out: list[tuple[str, str | None]] = [(f"{facts.name:<{widest}}  {about(facts)}", None) for facts in fleet]
    for finding in findings:
        out.append(("", None))
        out.append((f"{finding.severity}: {finding.code}: {', '.join(finding.engines)}", COLOURS[finding.severity]))
        for word, text in (("seen", finding.seen), ("why", finding.why), ("mend", finding.mend)):
            # Flags and quoted JSON are to be copied: a line breaks at blanks only.
            wrapped = textwrap.wrap(
                text, WIDTH - 9, break_long_words=False, break_on_hyphens=False, subsequent_indent=" " * 8
            )
            out += [(f"  {word:<5} " + line if place == 0 else line, None) for place, line in enumerate(wrapped)]
    return [*out, ("", None), (summary(fleet, findings), None)]


def summary(fleet: Sequence[EngineFacts], findings: Sequence[Finding]) -> str:
    counts = _counts(findings)
    told = [_count(counts[severity], severity) for severity in (ERROR, WARNING, NOTE) if counts[severity]]
    return f"{_count(len(fleet), 'engine')} looked at: {', '.join(told) or 'nothing to mend'}"


def _counts(findings: Iterable[Finding]) -> Counter[str]:
    return Counter(finding.severity for finding in findings)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
