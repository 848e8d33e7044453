"""Made workloads: what would people ask of the fleet, if there is no trace of it?

    chat                      a workload as it is in the table
    chat:rate=4,seconds=600   with some parameters set; `k` is a thousand and `%` a hundredth: size=120k,share=1%

Rule 1: the table `KINDS` is all there is: parsing, help text and docs/traces.md follow it.
Rule 2: same workload, same seed: same trace. Another seed: other lengths, times and prompts.
Rule 3: blocks are named as an engine would name them, those of answers too, so that the next turn finds them.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from fairlead.sim.generators import prefixes, talks
from fairlead.sim.generators.building import Drafts, Settings, WorkloadError
from fairlead.sim.trace import NO_REQUEST, Trace

__all__ = ["KINDS", "Kind", "Parameter", "Workload", "WorkloadError", "generate", "parse_workload", "workload_help"]


@dataclass(frozen=True, slots=True)
class Parameter:
    """One number that a workload can be given, from `low` to `high`."""

    name: str
    default: float
    low: float
    high: float
    unit: str  # "" for a plain number
    what: str
    whole: bool = True

    @property
    def range(self) -> str:
        return f"{_number(self.low)} to {_number(self.high)}{' ' + self.unit if self.unit else ''}"

    def wrong(self, value: float) -> str:
        """Why the value will not do; "" where it does. NaN is in no range."""
        if self.low <= value <= self.high and (not self.whole or value == int(value)):
            return ""
        return f"expected {'a whole' if self.whole else 'a'} number from {self.range}, got {value:g}"


@dataclass(frozen=True, slots=True)
class Kind:
    """One row of the table."""

    name: str
    what: str
    parameters: tuple[Parameter, ...]
    make: Callable[[Settings, Drafts], None]

    def default_values(self) -> dict[str, float]:
        return {parameter.name: parameter.default for parameter in self.parameters}


def _rate(default: float) -> Parameter:
    return Parameter("rate", default, 0.001, 10_000, "requests/s", "requests that come, on average", whole=False)


def _seconds(default: float) -> Parameter:
    return Parameter("seconds", default, 1, 604_800, "s", "how long new ones come", whole=False)


def _tokens(name: str, default: float, what: str, low: float = 1, high: float = 1_000_000) -> Parameter:
    return Parameter(name, default, low, high, "tokens", what)


def _block(default: float) -> Parameter:
    return Parameter("block_tokens", default, 1, 4_096, "tokens", "tokens per KV block")


def _think(name: str, default: float, what: str) -> Parameter:
    return Parameter(name, default, 0, 86_400, "s", f"{what}, median", whole=False)


def _talk(
    tenants: float, system: float, turns: Parameter, question: float, output: float, longest: float, block: float
) -> tuple[Parameter, ...]:
    """What all conversations have."""
    return (
        Parameter("tenants", tenants, 1, 10_000, "", "tenants, each with a system prompt of its own"),
        Parameter("skew", 1.1, 0, 5, "", "tenant n is as popular as 1/n^skew", whole=False),
        _tokens("system", system, "system prompt, median", low=0),
        turns,
        _tokens("question", question, "what each turn adds before its answer, median"),
        _tokens("output", output, "answer, median"),
        _tokens("longest", longest, "most tokens of a conversation", low=64, high=10_000_000),
        _block(block),
    )


def _turns(default: float, what: str = "turns of a conversation, mean", whole: bool = False) -> Parameter:
    return Parameter("turns", default, 1, 1_000, "", what, whole)


def _clients(default: float) -> Parameter:
    return Parameter("clients", default, 1, 100_000, "", "clients, each with one request at a time")


_CHAT: Final = _talk(8, 1_200, _turns(4), 120, 200, 32_000, 16)
_THINK: Final = _think("think", 15, "time between an answer and the next question")
_SHARE: Final = Parameter("share", 0.01, 0, 1, "", "share of outliers among requests", whole=False)

KINDS: Final[dict[str, Kind]] = {
    kind.name: kind
    for kind in (
        Kind(
            "chat",
            "people in conversations, each tenant with its system prompt; conversations begin at random (open loop)",
            (_rate(4), _seconds(600), *_CHAT, _THINK),
            talks.chat,
        ),
        Kind(
            "agents",
            "programs in long conversations: much context, short answers, short pauses while a tool runs (closed loop)",
            (
                _clients(64),
                Parameter("tasks", 1, 1, 10_000, "", "tasks that each client does, one after the other"),
                *_talk(
                    4,
                    6_000,
                    _turns(12, "steps of a task, mean; half to one and a half of it", True),
                    1_500,
                    120,
                    120_000,
                    64,
                ),
                _think("tool", 3, "time that a tool takes"),
                _think("think", 20, "time between two tasks"),
            ),
            talks.agents,
        ),
        Kind(
            "bursts",
            "chat whose conversations begin in bursts: quiet and burst in turn, `rate` on average",
            (
                _rate(4),
                _seconds(600),
                Parameter("times", 6, 1, 1_000, "", "rate in a burst over rate in quiet", whole=False),
                Parameter("quiet_seconds", 120, 0.1, 86_400, "s", "length of a quiet phase", whole=False),
                Parameter("burst_seconds", 30, 0.1, 86_400, "s", "length of a burst", whole=False),
                *_talk(8, 1_200, _turns(2), 120, 200, 32_000, 16),
                _THINK,
            ),
            talks.bursts,
        ),
        Kind(
            "outliers",
            "chat, and now and then a huge prompt that shares nothing",
            (
                _rate(4),
                _seconds(600),
                _SHARE,
                _tokens("size", 120_000, "prompt of an outlier"),
                *_talk(8, 1_200, _turns(4), 120, 200, 32_000, 64),
                _THINK,
            ),
            talks.outliers,
        ),
        Kind(
            "prefix_groups",
            "groups of prompts with a long common beginning, as in llm-d's published comparison (open loop)",
            (
                _rate(10),
                Parameter("rate_to", 0, 0, 10_000, "requests/s", "rate of the last stage; 0: it stays", whole=False),
                Parameter("stages", 8, 1, 1_000, "", "stages of equal length in which the rate rises to rate_to"),
                _seconds(300),
                Parameter("groups", 150, 1, 100_000, "", "groups"),
                Parameter("prompts", 5, 1, 100_000, "", "different prompts in each group"),
                _tokens("shared", 6_000, "beginning that a group shares", low=0),
                _tokens("question", 1_200, "rest of each prompt"),
                _tokens("output", 1_000, "answer"),
                _block(16),
            ),
            prefixes.prefix_groups,
        ),
        Kind(
            "closed_chat",
            "many clients in long conversations without pause, as in KubeAI's published comparison (closed loop)",
            (
                _clients(800),
                Parameter("requests", 16_000, 1, 2_000_000, "", "requests of all clients together"),
                *_talk(
                    1,
                    0,
                    _turns(16, "turns of a conversation: from this to half as many more", True),
                    60,
                    150,
                    16_000,
                    16,
                ),
                _think("think", 0, "time between an answer and the next question"),
            ),
            talks.closed_chat,
        ),
        Kind(
            "hot_prefix",
            "single requests, many of which begin with the same long text (open loop)",
            (
                _rate(8),
                _seconds(600),
                Parameter("share", 0.5, 0, 1, "", "share of requests with the hot prefix", whole=False),
                _tokens("hot", 3_000, "the hot prefix; others begin with as much of their own"),
                Parameter("move", 0, 0, 86_400, "s", "time until another prefix is the hot one; 0: never", whole=False),
                _tokens("question", 800, "what each request has behind it, median"),
                _tokens("output", 200, "answer, median"),
                _block(16),
            ),
            prefixes.hot_prefix,
        ),
    )
}


@dataclass(frozen=True, slots=True)
class Workload:
    """A kind and the parameters that differ from its defaults; WorkloadError if there is no such thing."""

    kind: str
    given: tuple[tuple[str, float], ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise WorkloadError(_unknown("workload", self.kind, KINDS))
        names = [name for name, _ in self.given]
        for name, value in self.given:
            wrong = _parameter(self.kind, name).wrong(value)
            if names.count(name) > 1:
                wrong = "is given twice"
            if wrong:
                raise WorkloadError(f"{self.kind}: {name}: {wrong}")

    def __str__(self) -> str:
        said = ",".join(f"{name}={value:.12g}" for name, value in self.given)
        return f"{self.kind}:{said}" if said else self.kind

    @property
    def values(self) -> dict[str, float]:
        """All parameters."""
        return KINDS[self.kind].default_values() | dict(self.given)


_VALUE: Final = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?)(k|%)?")
_SUFFIXES: Final = {None: 1.0, "k": 1_000.0, "%": 0.01}


def parse_workload(text: str) -> Workload:
    """What stands on a command line: KIND or KIND:NAME=VALUE,NAME=VALUE. WorkloadError."""
    kind, colon, rest = text.strip().partition(":")
    Workload(kind)  # what is wrong with the kind is told first
    given = []
    for piece in rest.split(",") if colon else ():
        name, equals, said = (part.strip() for part in piece.partition("="))
        if not equals or not name:
            raise WorkloadError(f"{kind}: expected NAME=VALUE, got {piece!r}")
        match = _VALUE.fullmatch(said)
        if match is None:
            expected = _parameter(kind, name).range
            raise WorkloadError(f"{kind}: {name}: expected a number from {expected}, got {said!r}")
        given.append((name, round(float(match[1]) * _SUFFIXES[match[2]], 12)))
    return Workload(kind, tuple(given))


def generate(spec: Workload, seed: int) -> Trace:
    """The requests of a workload. WorkloadError where they would be too many."""
    settings, drafts, kind = Settings(spec.kind, seed, spec.values), Drafts(), KINDS[spec.kind]
    try:
        kind.make(settings, drafts)
        if not len(drafts):
            raise WorkloadError("no request comes; ask for more time or a higher rate")
    except WorkloadError as error:
        raise WorkloadError(f"{spec}: {error}") from None
    requests = drafts.requests()
    chained = sum(request.after != NO_REQUEST for request in requests)
    notes = [f"Made, not recorded: {kind.what}.", f"{len(requests):,} requests from seed {seed}."]
    if chained:
        notes.append(f"{chained:,} of them wait for the end of the one before them.")
    return Trace(str(spec), requests, settings.whole("block_tokens"), tuple(notes))


def workload_help() -> str:
    """The table, for a terminal."""
    lines = []
    for kind in KINDS.values():
        lines += [f"{kind.name}: {kind.what}"]
        width = max(len(p.name) + len(_number(p.default)) for p in kind.parameters) + 1
        for p in kind.parameters:
            lines.append(f"  {f'{p.name}={_number(p.default)}':<{width}}  {p.what} ({p.range})")
        lines.append("")
    return "\n".join(lines)


def _number(value: float) -> str:
    """Without a trailing .0, and as one may write it."""
    return str(int(value)) if value == int(value) else f"{value:g}"


def _parameter(kind: str, name: str) -> Parameter:
    known = {parameter.name: parameter for parameter in KINDS[kind].parameters}
    if name not in known:
        raise WorkloadError(f"{kind}: {_unknown('parameter', name, known)}")
    return known[name]


def _unknown(what: str, name: str, known: Iterable[str]) -> str:
    names = list(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
    return f"unknown {what} {name!r}; " + (f"did you mean {near[0]!r}?" if near else f"known: {', '.join(names)}")
