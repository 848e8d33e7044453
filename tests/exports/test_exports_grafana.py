"""`fairlead export grafana`: every number on the dashboard exists, and every panel says what it shows."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from control_records import full_page
from exports_tools import config, needed
from prometheus_client.parser import text_string_to_metric_families
from promtool import promtool

from fairlead.control.exports.grafana import WIDTH, render
from fairlead.control.exports.grafana_panels import ROWS, Panel

OF_WORKERS = {"fairlead_workers": {"instance"}, "fairlead_worker_restarts_total": {"instance"}}
"""On the page of several workers only; held against workers/whole.py below."""
FROM_PROMETHEUS = {"instance", "job"}
VALUES = {"$instance": ".*", "$backend": ".*", "$__rate_interval": "1m", "$datasource": "prometheus"}
UNITS = {"none", "short", "percentunit", "reqps", "s", "bytes"}

DASHBOARD: Any = json.loads(render(None))
PANELS: list[Any] = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
EXPRESSIONS: list[str] = [target["expr"] for panel in PANELS for target in panel["targets"]]


def labels_on_the_page() -> dict[str, set[str]]:
    """The series that Fairlead can show, with their labels."""
    found: dict[str, set[str]] = {name: set(labels) for name, labels in OF_WORKERS.items()}
    for family in text_string_to_metric_families(full_page().decode()):
        names = {sample.name for sample in family.samples}
        suffix = "_total" if family.type == "counter" else ""
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
        if not names:
            found.setdefault(f"{family.name}{suffix}", set())
    return found


PAGE = labels_on_the_page()


def with_values(text: str) -> str:
    """As Grafana sends it."""
    for name, value in VALUES.items():
        text = text.replace(name, value)
    return text


def queries() -> list[str]:
    """All of them, those of variables and annotations too."""
    variables = [each["definition"] for each in DASHBOARD["templating"]["list"] if each["type"] == "query"]
    selected = [re.sub(r"label_values\((.*), \w+\)", r"\1", each) for each in variables]
    assert selected != variables
    return [*EXPRESSIONS, *selected, *(each["expr"] for each in DASHBOARD["annotations"]["list"])]


# --- the queries ----------------------------------------------------------------------------------------------


def test_every_metric_is_on_the_page_of_fairlead() -> None:
    used = {name for query in queries() for name in re.findall(r"\bfairlead_\w+", query)}
    assert len(used) > 30
    assert used - set(PAGE) == set()


def test_the_series_of_workers_are_those_of_their_page() -> None:
    source = Path(__file__).parents[2].joinpath("src/fairlead/workers/whole.py").read_text("utf-8")
    for name in OF_WORKERS:
        assert f'"{name.removesuffix("_total")}"' in source


@pytest.mark.parametrize("query", queries())
def test_every_label_is_one_that_the_series_has(query: str) -> None:
    names = re.findall(r"\bfairlead_\w+", query)
    known = FROM_PROMETHEUS.union({"le"}, *(PAGE[name] for name in names))
    selected = {
        label for inside in re.findall(r"\{([^}]*)\}", query) for label in re.findall(r"(\w+)\s*[=!]~?", inside)
    }
    grouped = {label.strip() for inside in re.findall(r"\bby \(([^)]*)\)", query) for label in inside.split(",")}
    assert (selected | grouped) - known == set()
    for name, inside in re.findall(r"\b(fairlead_\w+)\{([^}]*)\}", query):
        assert set(re.findall(r"(\w+)\s*[=!]~?", inside)) <= FROM_PROMETHEUS | PAGE[name] | {"le"}


def test_the_real_promtool_can_read_every_query(tmp_path: Path) -> None:
    rules = [{"record": f"of_panel_{n}", "expr": with_values(query)} for n, query in enumerate(queries())]
    file = tmp_path / "rules.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}), encoding="utf-8")
    status, output = promtool("check", "rules", str(file))
    assert status == 0 and f"{len(rules)} rules found" in output, output


def test_every_variable_in_a_query_is_one_of_the_dashboard() -> None:
    known = {each["name"] for each in DASHBOARD["templating"]["list"]} | {"__rate_interval"}
    text = json.dumps(DASHBOARD)
    assert set(re.findall(r"\$\{?(\w+)", text)) - {"__all"} == known


# --- the file ------------------------------------------------------------------------------------------------

BEYOND_THE_MODEL = {"definition", "titleFormat", "textFormat"}
"""Fields that Grafana writes and reads itself, and that the model published by Grafana does not have."""


def lost(before: Any, after: Any, path: str = "") -> set[str]:
    """Where two pieces of JSON differ, as far as the first goes."""
    if isinstance(before, dict) and isinstance(after, dict):
        kept = {key for key in before if key in after}
        return {f"{path}.{key}" for key in set(before) - kept} | {
            each for key in kept for each in lost(before[key], after[key], f"{path}.{key}")
        }
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        return {each for n, pair in enumerate(zip(before, after, strict=True)) for each in lost(*pair, f"{path}[{n}]")}
    return set() if before == after else {path}


def through_the_model(dashboard: Any) -> Any:
    """Read and written again by the model that Grafana publishes."""
    model = needed("grafana_foundation_sdk.models.dashboard")
    needed("grafana_foundation_sdk.cog.plugins").register_default_plugins()
    encoder = needed("grafana_foundation_sdk.cog.encoder").JSONEncoder(sort_keys=True)
    return json.loads(encoder.encode(model.Dashboard.from_json(dashboard)))


def test_the_model_that_grafana_publishes_knows_all_of_it() -> None:
    found = {path.rpartition(".")[2] for path in lost(DASHBOARD, through_the_model(DASHBOARD))}
    assert found == BEYOND_THE_MODEL


def test_the_model_would_lose_what_grafana_does_not_know() -> None:
    wrong = json.loads(render(None).replace('"fillOpacity"', '"fillOpacty"').replace('"legendFormat"', '"legend"'))
    found = {path.rpartition(".")[2] for path in lost(wrong, through_the_model(wrong))}
    assert found == BEYOND_THE_MODEL | {"fillOpacty", "legend"}


# --- the panels -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("panel", [panel for row in ROWS for panel in row.panels], ids=lambda panel: str(panel.title))
def test_every_panel_has_a_unit_a_description_and_legends(panel: Panel) -> None:
    assert panel.unit in UNITS
    assert 15 < len(panel.description) < 130 and panel.description.endswith((".", "?"))
    for expr, legend in panel.queries:
        grouped = {label.strip() for inside in re.findall(r"\bby \(([^)]*)\)", expr) for label in inside.split(",")}
        assert (legend and set(re.findall(r"\{\{(\w+)\}\}", legend)) == grouped - {"le"}) or panel.kind == "stat"


def test_what_the_written_panels_say_is_what_the_table_says() -> None:
    table = [panel for row in ROWS for panel in row.panels]
    for panel, written in zip(table, PANELS, strict=True):
        assert (written["title"], written["description"]) == (panel.title, panel.description)
        assert written["fieldConfig"]["defaults"]["unit"] == panel.unit
        assert [(each["expr"], each["legendFormat"]) for each in written["targets"]] == list(panel.queries)
        assert {each["datasource"]["uid"] for each in written["targets"]} == {"${datasource}"}


@pytest.mark.parametrize(
    "words",
    ["share of requests", "share of tokens", "in flight", "pending tokens", "queue in the engine", "kv cache",
     "cached", "time to first token", "time between tokens", "tokens per second", "failed tries", "retries", "hedges",
     "ejections", "loop lag", "workers"],
)  # fmt: skip
def test_what_was_asked_for_is_there(words: str) -> None:
    assert any(words in panel["title"].lower() for panel in PANELS)


def test_panels_lie_side_by_side_and_never_over_each_other() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken and at["x"] + at["w"] <= WIDTH
        taken |= cells
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_the_line_of_the_share_panel_is_where_the_alert_is_raised() -> None:
    made = json.loads(render(config({"alerts": {"share": {"threshold": "65%"}}})))
    (share,) = [panel for panel in made["panels"] if panel["title"] == "Share of requests"]
    assert share["fieldConfig"]["defaults"]["thresholds"]["steps"][1] == {"color": "red", "value": 0.65}
    assert share["fieldConfig"]["defaults"]["custom"]["thresholdsStyle"] == {"mode": "line"}


def test_it_is_imported_as_it_is() -> None:
    assert (DASHBOARD["uid"], DASHBOARD["title"]) == ("fairlead", "Fairlead")
    assert DASHBOARD["schemaVersion"] >= 41 and "id" not in DASHBOARD
    source, *others = DASHBOARD["templating"]["list"]
    assert (source["type"], source["query"]) == ("datasource", "prometheus")
    assert [each["name"] for each in others] == ["instance", "backend"]
