"""What can `fairlead export` write?

A plain table: a new kind is one file with one function, and one row here. A function takes the checked
configuration, None when the user gave none, and returns the whole text.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from fairlead.config.schema import Config
from fairlead.control.exports import nginx, prometheus_rules, prometheus_scrape


@dataclass(frozen=True, slots=True)
class Kind:
    """One thing that can be written."""

    help: str  # one line for people
    render: Callable[[Config | None], str]


KINDS: Final = MappingProxyType[str, Kind](
    {
        "prometheus-rules": Kind("alerting rules for Prometheus", prometheus_rules.render),
        "prometheus-scrape": Kind("how Prometheus reads Fairlead's metrics", prometheus_scrape.render),
        "nginx": Kind("the nearest that nginx can do with the same backends", nginx.render),
    }
)
