"""docs/tracing.md and docs/logs.md say what there is: every attribute, every field, and examples that load."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from control_records import make_balancer, place, record

from fairlead.config.load import parse
from fairlead.control import access_log, tracing
from fairlead.control.log_formats import combined_line, json_line, text_line
from fairlead.proxy import trace
from fairlead.proxy.hedge import Told

DOCS = Path(__file__).resolve().parents[2] / "docs"
TRACING, LOGS = ((DOCS / name).read_text("utf-8") for name in ("tracing.md", "logs.md"))
EXAMPLES = re.findall(r"```yaml\n(.*?)```", TRACING, re.DOTALL)


def test_every_attribute_is_explained_and_no_other() -> None:
    source = Path(tracing.__file__).read_text("utf-8")
    made = set(re.findall(r'"((?:http|url|network|error|gen_ai|server|fairlead)\.[a-z_.]+)"', source))
    rows = re.findall(r"^\| (`[^|]+) \| (?:both|request|try) \|", TRACING, re.MULTILINE)
    told = {name for row in rows for name in re.findall(r"`([^`]+)`", row)}
    assert len(made) > 15
    assert told == made


def test_every_reason_for_a_try_is_named() -> None:
    for reason in (trace.FIRST, trace.RETRY, trace.HEDGE, trace.RESUME):
        assert f"`{reason}`" in TRACING


@pytest.mark.parametrize("example", EXAMPLES, ids=range(len(EXAMPLES)))
def test_every_example_loads(example: str) -> None:
    config, problems = parse({"backends": "a:1", **yaml.safe_load(example)}, "tracing.md")
    assert config is not None, problems
    assert config.tracing is not None and problems == []


def test_the_limits_are_those_of_the_code() -> None:
    otlp = (Path(tracing.__file__).with_name("tracing_otlp.py")).read_text("utf-8")
    assert f"queue ({tracing.MAX_WAITING:,})" in TRACING
    assert "MAX_WAITING: Final = 4_096" in otlp and "4,096 may wait" in TRACING
    assert "EXPORT_SECONDS: Final = 5.0" in otlp and "within 5 s" in TRACING
    assert f"for {tracing.CLOSE_SECONDS:g} s at most" in TRACING
    assert f"up to {access_log.MAX_BATCHES} batches" in LOGS


def test_the_table_of_fields_has_each_field_of_a_line_and_no_other() -> None:
    lease = place(make_balancer("a"), model="m")
    made = record(lease=lease, ttft=0.1, error="x", tried=["b"], hedge=Told("b", "a", "won"))
    section = LOGS.partition("## Access log")[2].partition("## Rotation")[0]
    rows = re.findall(r"^\|([^|]*)\|([^|]*)\|", section, re.MULTILINE)
    text, fields = (set(re.findall(r"`([^`]+)`", " ".join(row[place] for row in rows))) for place in (0, 1))
    assert fields == set(json.loads(json_line(made, 0.0)))
    assert text == set(re.findall(r" (\w+=)", text_line(made, 0.0)))


def test_the_examples_of_lines_look_like_lines() -> None:
    lines = re.findall(r"```(?:text|json)\n(.*?)```", LOGS, re.DOTALL)
    lease = place(make_balancer("a"), model="m")
    made = record(lease=lease, ttft=0.1, prompt_tokens=1, output_tokens=1)
    shape = re.compile(r"[\w.:+-]*\d[\w.:+-]*|(?<==)\S+")
    assert shape.sub("_", text_line(made, 0.0)).split()[3:] == shape.sub("_", lines[0]).split()[3:]
    assert list(json.loads(lines[1])) == list(json.loads(json_line(made, 0.0)))
    quoted = re.compile(r'^\S+ - - \[[^]]+\] "POST \S+ HTTP/1\.1" \d+ \d+ "-" "-"\n$')
    assert quoted.match(combined_line(made, 0.0)) and quoted.match(lines[2])
