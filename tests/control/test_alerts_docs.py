"""docs/alerts.md names every alert, its name in Prometheus and its times as they are, and its examples load."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from fairlead.config import schema
from fairlead.config.load import parse
from fairlead.config.parts import alert_rules, webhook_targets
from fairlead.config.schema import ALERTS, Alerts, Config, options_of
from fairlead.control.webhook_outbox import FIRST_PAUSE, GROUP, LONGEST_PAUSE, REPEAT
from fairlead.control.webhooks import FORMAT_NAMES, TIMEOUT
from fairlead.core.alerts.rules import AlertRules
from fairlead.core.alerts.table import CRITICAL, NAMES, RULES

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "alerts.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| `(\w+)` \| `(\w+)` \| (.*?) \| (.*?) \| .*\|$", TEXT, re.MULTILINE)
EXAMPLES = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)


def written(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 60 else f"{seconds:.0f} s"


def test_the_table_is_the_one_of_the_code() -> None:
    assert [(name, title, held) for name, title, _, held in ROWS] == [
        (rule.name, rule.title, written(rule.hold)) for rule in RULES
    ]
    assert {name for name, _, reason, _ in ROWS if "(critical)" in reason} == {
        rule.name for rule in RULES if rule.severity == CRITICAL
    }


def test_every_alert_and_every_option_has_its_place() -> None:
    assert set(re.findall(r"^### `(\w+)`$", TEXT, re.MULTILINE)) == set(NAMES)
    named = set(re.findall(r"`alerts\.(\w+)", TEXT)) | {"off", "webhooks"}
    assert named == set(options_of(Alerts))


def test_the_configuration_knows_the_alerts_that_there_are() -> None:
    assert ALERTS == NAMES


def test_the_defaults_of_the_configuration_are_those_of_the_rules() -> None:
    assert alert_rules(Config()) == AlertRules()


def test_the_formats_offered_are_those_that_can_be_sent() -> None:
    option, _ = options_of(schema.Webhook)["format"]
    assert set(option.choices) == set(FORMAT_NAMES)


@pytest.mark.parametrize("example", EXAMPLES, ids=range(len(EXAMPLES)))
def test_every_example_loads(example: str) -> None:
    config, problems = parse(yaml.safe_load(example), "alerts.md")
    assert config is not None and problems == [], problems
    assert config.alerts.ttft is not None or len(webhook_targets(config)) == 3


def test_times_are_told_as_they_are() -> None:
    words = " ".join(TEXT.split())
    assert f"within {GROUP:g} s is one message" in words
    assert f"no answer in {TIMEOUT:g} s" in words
    assert f"after {FIRST_PAUSE:g} s, {2 * FIRST_PAUSE:g} s and so on up to {written(LONGEST_PAUSE)}" in words
    assert f"sent again every {written(REPEAT)} with an end {written(3 * REPEAT)} ahead" in words
