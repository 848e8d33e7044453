"""A Grafana dashboard over the metrics that Prometheus reads from Fairlead.

Rule 1: it is imported as it is: which Prometheus is a variable, and so are the Fairleads and the backends to look at.
Rule 2: the uid stays the same, so that importing it again replaces the older one.
Rule 3: JSON has no comments; what there is to say stands in the descriptions.
"""

from __future__ import annotations

import json
from typing import Any, Final

from fairlead.config.schema import Config
from fairlead.control.exports.grafana_panels import ROWS, Panel, Row

SCHEMA: Final = 41  # Grafana 11.6; newer ones bring it up to date as they load it
WIDTH: Final = 24  # of Grafana's grid
_SOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}

Data = dict[str, Any]


def render(config: Config | None) -> str:
    """The dashboard. It asks Prometheus what there is; of `config` it shows where the share alert is raised."""
    limit = (config or Config()).alerts.share.threshold
    dashboard = {
        "title": "Fairlead",
        "uid": "fairlead",
        "description": "Load balancing of LLM inference engines. Written by `fairlead export grafana`.",
        "tags": ["fairlead", "llm"],
        "schemaVersion": SCHEMA,
        "editable": True,
        "graphTooltip": 1,  # one crosshair over all panels
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "templating": {"list": _variables()},
        "annotations": {"list": [_reloads()]},
        "panels": _panels(limit),
    }
    return json.dumps(dashboard, indent=2, ensure_ascii=False) + "\n"


def _variables() -> list[Data]:
    return [
        {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"},
        _query("instance", "Fairlead", "label_values(fairlead_build_info, instance)"),
        _query("backend", "Backend", 'label_values(fairlead_backend_up{instance=~"$instance"}, backend)'),
    ]


def _query(name: str, label: str, query: str) -> Data:
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": _SOURCE,
        "definition": query,
        "query": {"query": query, "refId": f"variable-{name}"},
        "refresh": 2,  # also when the time range changes
        "includeAll": True,
        "multi": True,
        "allValue": ".*",
        "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
        "sort": 1,
    }


def _reloads() -> Data:
    """Marks the moments at which a configuration came into force."""
    return {
        "name": "Reloads",
        "datasource": _SOURCE,
        "enable": True,
        "iconColor": "blue",
        "expr": 'changes(fairlead_config_version{instance=~"$instance"}[2m]) > 0',
        "titleFormat": "configuration changed",
        "textFormat": "{{instance}}",
    }


def _panels(limit: float) -> list[Data]:
    made: list[Data] = []
    top = 0
    for row in ROWS:
        made.append({
            "id": len(made) + 1, "type": "row", "title": row.title, "collapsed": False, "panels": [],
            "gridPos": {"x": 0, "y": top, "w": WIDTH, "h": 1},
        })  # fmt: skip
        top += 1
        for number, panel in enumerate(row.panels):
            made.append(_panel(len(made) + 1, panel, _place(row, number, top), limit))
        top += -(-len(row.panels) // row.columns) * row.height
    return made


def _place(row: Row, number: int, top: int) -> Data:
    width = WIDTH // row.columns
    line, column = divmod(number, row.columns)
    return {"x": column * width, "y": top + line * row.height, "w": width, "h": row.height}


def _panel(id: int, panel: Panel, place: Data, limit: float) -> Data:
    defaults: Data = {"unit": panel.unit, "min": 0}
    if panel.most is not None:
        defaults["max"] = panel.most
    if steps := ((0.0, "green"), (limit, "red")) if panel.shows_limit else panel.steps:
        # the first step has no lower end
        shown = [{"color": colour, "value": None if n == 0 else at} for n, (at, colour) in enumerate(steps)]
        defaults["thresholds"] = {"mode": "absolute", "steps": shown}
    options: Data
    if panel.kind == "stat":
        defaults["color"] = {"mode": "thresholds"}
        options = {"reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False}, "graphMode": "area"}
    else:
        defaults["custom"] = {
            "fillOpacity": 40 if panel.stacked else 5, "lineWidth": 1, "showPoints": "never",
            "stacking": {"mode": "normal" if panel.stacked else "none", "group": "A"},
            "thresholdsStyle": {"mode": "line" if panel.shows_limit else "off"},
        }  # fmt: skip
        options = {
            "legend": {"displayMode": "table", "placement": "bottom", "showLegend": True, "calcs": ["mean", "max"]},
            "tooltip": {"mode": "multi", "sort": "desc"},
        }
    return {
        "id": id,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": _SOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": options,
        "targets": [
            {"refId": chr(ord("A") + n), "datasource": _SOURCE, "expr": expr, "legendFormat": legend, "range": True}
            for n, (expr, legend) in enumerate(panel.queries)
        ],
    }
