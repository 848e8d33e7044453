"""An explanation, as the admin API gives it, in lines for people.

Rule: pure, and it invents nothing: sentences about terms come with the answer, from the Fairlead that decided.
"""

from __future__ import annotations

import textwrap
import time
from collections.abc import Sequence
from typing import Any, Final

from fairlead.top.columns import count, seconds
from fairlead.top.fleet import Row, printable
from fairlead.top.screen import Line

IN_WORDS: Final = 4  # candidates that are told in words; of the next ones only the score,
LISTED: Final = 20  # and of the others how many there are
SIGNALS: Final = {"metrics_age": "metrics", "check_age": "health check", "speed_age": "learned speed"}
STATES: Final = {
    "tried": "had it before",
    "late": "was late",
    "other_model": "other model",
    "other_route": "other route",
    "backup": "is a backup",
    "full": "was full",
    "returning": "was coming back",
    "unknown": "not there",
}


def story(answer: Row, width: int = 100) -> list[Line]:
    """All of it. KeyError when a field is missing."""
    request, decision, after = answer["request"], answer["decision"], answer["after"]
    lines: list[Line] = _wrapped(answer["explanation"], width, "title")
    lines += [[("", "")], *_facts(_request(request, decision), width)]
    if decision is not None:
        lines += _candidates(decision, width)
        lines += _left_out(decision["not_considered"], width)
        shadow = decision["shadow"]
        if shadow is not None:
            would = "the same" if shadow["agrees"] else shadow["backend"]
            lines += [[("", "")], [("shadow  ", "head"), (f"{shadow['policy']} would have chosen {would}", "")]]
    if after is not None:
        lines += [[("", "")], [("what happened then", "head")]]
        for sentence in after["words"]:
            lines += _wrapped(sentence, width, "", "  ")
    return lines


def _request(request: Row, decision: Row | None) -> list[tuple[str, str]]:
    stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(request["time"])) + "Z"
    facts = [
        ("request", " ".join(str(part) for part in (request["method"], request["path"]) if part)),
        ("came", f"{stamp}, under version {request['config_version']} of the configuration"),
        ("model", request["model"] or "none named"),
    ]
    if decision is None:
        return [*facts, ("answer", f"{request['status']} {request['error'] or request['outcome']}")]
    estimate = decision["estimate"]
    real = request["prompt_tokens"]
    counted = "" if real is None else f", {count(real)} as the engine counted"
    expected = estimate["prompt_tokens_expected"]
    cached = estimate["cached_tokens_expected"]
    limit = estimate["max_tokens"]
    facts += [
        ("prompt", f"{count(expected)} tokens expected{counted}; {count(cached)} of them cached where it went"),
        (
            "output",
            f"{count(estimate['output_tokens_expected'])} tokens expected"
            + (f", at most {count(limit)} allowed" if limit is not None else "")
            + (", streamed" if request["stream"] else ", in one piece"),
        ),
        ("known by", _known_by(estimate)),
    ]
    return facts


def _known_by(estimate: Row) -> str:
    """What could tie it to requests before it?"""
    hashed = estimate["hashed_bytes"]
    parts = [
        f"hashes of {count(hashed)} bytes of its prompt" if hashed else "",
        "the name of its session" if estimate["session"] else "",
    ]
    return " and ".join(part for part in parts if part) or "nothing: no session, and its prompt was not hashed"


def _facts(facts: Sequence[tuple[str, str]], width: int) -> list[Line]:
    lines: list[Line] = []
    for name, text in facts:
        first, *more = textwrap.wrap(printable(text), max(width - 10, 20)) or [""]
        lines += [[(f"{name:<10}", "head"), (first, "")], *([(" " * 10 + line, "")] for line in more)]
    return lines


def _candidates(decision: Row, width: int) -> list[Line]:
    rows = decision["candidates"]
    means = f": {decision['score_means']}" if decision["score_means"] else ""
    title = f"candidates of {decision['policy']}, the lowest score wins{means}"
    lines: list[Line] = [[("", "")], *_wrapped(title, width, "head")]
    for place, row in enumerate(rows[:LISTED]):
        style = "good" if row["chosen"] else ""
        chosen = ", chosen" if row["chosen"] else ""
        score = "none" if row["score"] is None else f"{row['score']:.4g}"
        lines.append([(f"  {printable(row['backend'])}", style), (f"  score {score}{chosen}", style)])
        if place < IN_WORDS:
            for sentence in row["words"]:
                lines += _wrapped(sentence, width, "", "    ")
            lines += _wrapped(_heard(row["signals"]), width, "dim", "    ")
    if len(rows) > LISTED:
        lines.append([(f"  and {len(rows) - LISTED} more: --json has them", "dim")])
    return lines


def _heard(signals: Row) -> str:
    """How fresh was what was known?"""
    told = [f"{what} {seconds(signals[name])}" for name, what in SIGNALS.items() if signals.get(name) is not None]
    never = [what for name, what in SIGNALS.items() if signals.get(name) is None]
    parts = [f"age of what was known: {', '.join(told)}" if told else "", f"not known: {', '.join(never)}"]
    return "; ".join(part for part in (parts if never else parts[:1]) if part)


def _left_out(rows: Sequence[Row], width: int) -> list[Line]:
    if not rows:
        return []
    lines: list[Line] = [[("", "")], [("not considered", "head")]]
    for row in rows:
        now = f" (now {row['state_now']})" if row["state_now"] != row["state"] else ""
        state = STATES.get(row["state"], row["state"])
        lines += _wrapped(f"{row['backend']}  {state}: {row['reason']}{now}", width, "", "  ")
    return lines


def _wrapped(text: str, width: int, style: str, indent: str = "") -> list[Line]:
    said: list[Any] = textwrap.wrap(
        printable(text), max(width, 24), initial_indent=indent, subsequent_indent=indent + "  "
    )
    return [[(line, style)] for line in said]
