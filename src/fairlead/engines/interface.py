"""What a dialect is: one engine family's names and habits, as pure functions over bytes.

A dialect does no I/O. The feeds fetch the paths that it names and hand the answers back.
Adding an engine = one file with one `Dialect` subclass, one row in `registry.py`, one section in docs/engines.md;
the conformance suite in tests/engines runs over it by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from fairlead.core.model import EngineStats


@dataclass(frozen=True, slots=True)
class Answer:
    """One HTTP answer of an engine. Header names are lower case. `body` is cut at the fetcher's limit."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


Answers = Mapping[str, Answer]
"""Answers by the path that was asked (as the dialect wrote it); paths that failed to answer are absent."""


class Dialect(Protocol):
    """One engine family. Instances are stateless and shared."""

    name: str  # the word in config files and metrics: "vllm"
    title: str  # for people: "vLLM"
    health_path: str
    health_timeout: float  # seconds; some engines run a token through the model before they answer
    canary_path: str  # where one token can be asked for, as OpenAI's /v1/completions has it; "": nowhere
    clues: tuple[str, ...]  # GET paths whose answers tell this engine from others

    def recognise(self, answers: Answers) -> int:
        """0 = certainly not, 100 = certainly; the highest wins, the registry's order breaks ties."""
        ...

    def version(self, answers: Answers) -> str | None: ...

    def models(self, answers: Answers) -> frozenset[str] | None:
        """Model names served; None where the answers do not tell (then every model is accepted)."""
        ...

    def metrics_urls(self, base_url: str) -> tuple[str, ...]:
        """Absolute URLs to try in order; the first that yields numbers is kept. Empty: no metrics."""
        ...

    def parse_metrics(self, url: str, body: bytes) -> EngineStats:
        """Read the few needed lines. Never raises on odd input: what cannot be read stays None."""
        ...
