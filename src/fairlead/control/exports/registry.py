"""What can `fairlead export` write?

A plain table: a new kind is one file with one function, and one row here. A function takes the checked
configuration, None when the user gave none.
Rule 1: a kind is one file or several, each with the name under which the other tool looks for it.
Rule 2: several on one output are told apart by comment lines, which all their formats know.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from fairlead.config.schema import Config
from fairlead.control.exports import (
    compose,
    envoy,
    grafana,
    kubernetes,
    nginx,
    prometheus_rules,
    prometheus_scrape,
    systemd,
)


@dataclass(frozen=True, slots=True)
class Kind:
    """One thing that can be written."""

    help: str  # one line for people
    files: Callable[[Config | None], Mapping[str, str]]  # file name -> text

    def render(self, config: Config | None) -> str:
        """All of it as one text."""
        files = self.files(config)
        if len(files) == 1:
            return next(iter(files.values()))
        return "\n".join(f"# ----- {name} -----\n{text}" for name, text in files.items())


def _one(name: str, render: Callable[[Config | None], str]) -> Callable[[Config | None], Mapping[str, str]]:
    return lambda config: {name: render(config)}


KINDS: Final = MappingProxyType[str, Kind](
    {
        "prometheus-rules": Kind("alerting rules for Prometheus", _one("fairlead-rules.yml", prometheus_rules.render)),
        "prometheus-scrape": Kind(
            "how Prometheus reads Fairlead's metrics", _one("prometheus.yml", prometheus_scrape.render)
        ),
        "grafana": Kind("a dashboard for Grafana over Prometheus", _one("fairlead-grafana.json", grafana.render)),
        "nginx": Kind("the nearest that nginx can do with the same backends", _one("nginx.conf", nginx.render)),
        "envoy": Kind("the nearest that Envoy can do with the same backends", _one("envoy.yaml", envoy.render)),
        "systemd": Kind("a service and the sockets that systemd holds for it", systemd.files),
        "kubernetes": Kind("manifests to run it in a cluster", _one("fairlead-kubernetes.yaml", kubernetes.render)),
        "compose": Kind("a compose file to run it beside engines", _one("compose.yaml", compose.render)),
    }
)
