"""From metric lines to `EngineStats`: which names tell what, and how do several series become one number?

A dialect states its names in one `MetricTable`; the first name of a field that has a reading wins, so that
newer names stand before older ones.
Rule 1: queues and counters are summed over data-parallel ranks; shares (0..1) are averaged over them, because
the block counts they belong to are summed.
Rule 2: tensor and pipeline ranks of one replica all see the same requests: one of them speaks for all.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Final

from fairlead.core.model import EngineStats
from fairlead.engines.promtext import Found, Scanner, Series, number

SHARD_LABELS: Final = ("pp_rank", "tp_rank", "moe_ep_rank")
MAX_WHOLE: Final = 10**12
SHARE_SLACK: Final = 1.05  # a share just over 1 is rounding or overcommitment, not "1 percent"


@dataclass(frozen=True, slots=True)
class Source:
    """One place where a number stands: a metric's value, or (`label`) the text of one of its labels."""

    name: str
    where: tuple[tuple[str, str], ...] = ()  # only series with these labels
    label: str | None = None

    def numbers(self, found: Found) -> list[float]:
        """The readings, one per replica (data-parallel rank)."""
        series = found.get(self.name)
        if not series:
            return []
        if self.where:
            series = [one for one in series if all(one.labels.get(key) == text for key, text in self.where)]
        kept = one_per_replica(series)
        if self.label is None:
            return [one.value for one in kept]
        texts = (one.labels.get(self.label) for one in kept)
        return [value for text in texts if (value := number(text)) is not None]  # the text may be "None"


def gauges(*names: str) -> tuple[Source, ...]:
    return tuple(Source(name) for name in names)


def counters(*names: str) -> tuple[Source, ...]:
    """Counters are exposed with `_total` at the end, by old and odd exporters without."""
    return tuple(Source(name + suffix) for name in names for suffix in ("_total", ""))


@dataclass(frozen=True)
class MetricTable:
    """Where each field of `EngineStats` is read from, best source first; empty: the engine does not tell."""

    waiting: tuple[Source, ...] = ()
    running: tuple[Source, ...] = ()
    kv_usage: tuple[Source, ...] = ()
    block_tokens: tuple[Source, ...] = ()
    kv_blocks: tuple[Source, ...] = ()
    prefix_queries: tuple[Source, ...] = ()
    prefix_hits: tuple[Source, ...] = ()
    hit_rate: tuple[Source, ...] = ()
    prompt_tokens: tuple[Source, ...] = ()
    generation_tokens: tuple[Source, ...] = ()

    @cached_property
    def scanner(self) -> Scanner:
        sources: Iterable[Source] = (source for each in fields(self) for source in getattr(self, each.name))
        return Scanner(source.name for source in sources)

    def read(self, body: bytes) -> EngineStats:
        """One page of Prometheus text; what it does not hold stays None."""
        found = self.scanner.scan(body)
        return EngineStats(
            waiting=total(_first(self.waiting, found)),
            running=total(_first(self.running, found)),
            kv_usage=mean_share(_first(self.kv_usage, found)),
            block_tokens=whole(max(_first(self.block_tokens, found), default=None)),
            kv_blocks=whole(total(_first(self.kv_blocks, found))),
            prefix_queries=total(_first(self.prefix_queries, found)),
            prefix_hits=total(_first(self.prefix_hits, found)),
            hit_rate=mean_share(_first(self.hit_rate, found)),
            prompt_tokens=total(_first(self.prompt_tokens, found)),
            generation_tokens=total(_first(self.generation_tokens, found)),
        )


def total(numbers: Sequence[float]) -> float | None:
    if not numbers:
        return None
    result = sum(numbers)
    return result if math.isfinite(result) else None


def mean_share(numbers: Sequence[float]) -> float | None:
    """The mean of shares, each brought into 0..1."""
    return sum(map(share, numbers)) / len(numbers) if numbers else None


def share(value: float) -> float:
    """0..1; a value clearly over 1 can only be percent."""
    return min(value if value <= SHARE_SLACK else value / 100.0, 1.0)


def whole(value: float | None) -> int | None:
    """A positive whole number of a believable size."""
    return int(value) if value is not None and 1 <= value <= MAX_WHOLE else None


def one_per_replica(series: list[Series]) -> list[Series]:
    """Drop what repeats or splits another series' number.

    The lowest shard of each group that is alike in all other labels speaks for the group. It need not be rank 0:
    with data-parallel attention each data-parallel rank has its own tensor rank. A series with `priority=""` is
    the total of the series with priorities.
    """
    if len(series) < 2:
        return series
    if any(one.labels.get("priority") == "" for one in series):
        series = [one for one in series if not one.labels.get("priority")]
    lowest: dict[tuple[tuple[str, str], ...], tuple[tuple[int, ...], Series]] = {}
    for one in series:
        group = tuple(sorted((key, text) for key, text in one.labels.items() if key not in SHARD_LABELS))
        shard = tuple(_rank(one.labels.get(key)) for key in SHARD_LABELS)
        if group not in lowest or shard < lowest[group][0]:
            lowest[group] = (shard, one)
    return [one for _, one in lowest.values()]


def _rank(text: str | None) -> int:
    return int(text) if text is not None and text.isascii() and text.isdigit() and len(text) < 10 else 0


def _first(sources: tuple[Source, ...], found: Found) -> list[float]:
    for source in sources:
        numbers = source.numbers(found)
        if numbers:
            return numbers
    return []
