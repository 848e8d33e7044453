"""What most dialects share: an OpenAI-compatible server that owns its models and its metric names.

A dialect sets the class attributes and overrides only what its engine does differently.
Scores: 95 own metric names, 90 own `owned_by`, 85 an answer that only this engine gives, 30 to 60 a faint sign.
"""

from __future__ import annotations

from typing import ClassVar, Final

from fairlead.core.model import EngineStats
from fairlead.engines.interface import Answers
from fairlead.engines.metrics import MetricTable
from fairlead.engines.reading import MODELS, body_of, listed_models, names_metric, object_of, owners, version_text

BY_METRICS: Final = 95
BY_OWNER: Final = 90
BY_ANSWER: Final = 85
FAINT: Final = 40
COMPLETIONS: Final = "/v1/completions"


class OpenAIServer:
    """The common part of a dialect. Stateless."""

    name: str = ""
    title: str = ""
    health_path: str = "/health"
    health_timeout: float = 5.0  # seconds
    canary_path: str = ""
    clues: tuple[str, ...] = (MODELS, "/metrics")

    owned_by: ClassVar[frozenset[str]] = frozenset()
    metric_prefix: ClassVar[bytes] = b""
    metric_clues: ClassVar[tuple[str, ...]] = ("/metrics",)  # clues that may hold Prometheus text
    metrics_paths: ClassVar[tuple[str, ...]] = ("/metrics",)
    version_path: ClassVar[str] = ""
    version_key: ClassVar[str] = "version"
    table: ClassVar[MetricTable] = MetricTable()

    def recognise(self, answers: Answers) -> int:
        if self.metric_prefix and any(
            names_metric(body_of(answers, path), self.metric_prefix) for path in self.metric_clues
        ):
            return BY_METRICS
        # All of them: a list with several engines' models comes from something in front of engines.
        if self.owned_by and (found := owners(answers)) and found <= self.owned_by:
            return BY_OWNER
        return self.hint(answers)

    def hint(self, answers: Answers) -> int:
        """The score of signs other than metric names and owners."""
        return 0

    def version(self, answers: Answers) -> str | None:
        return version_text(object_of(answers, self.version_path).get(self.version_key))

    def models(self, answers: Answers) -> frozenset[str] | None:
        return listed_models(answers)

    def metrics_urls(self, base_url: str) -> tuple[str, ...]:
        return tuple(base_url.rstrip("/") + path for path in self.metrics_paths)

    def parse_metrics(self, url: str, body: bytes) -> EngineStats:
        return self.table.read(body)

    def __repr__(self) -> str:
        return f"<dialect {self.name}>"
