"""`tracing` in the configuration: what is written wrong is said, and so is the part that is not installed."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from peers import run
from reloading import kept

from fairlead.config.load import parse, read_file
from fairlead.config.schema import Tracing
from fairlead.control.exports import compose

BACKENDS = {"backends": ["http://gpu1:8000"]}


def test_one_address_is_enough() -> None:
    config, problems = parse({**BACKENDS, "tracing": "collector:4318"}, "test")
    assert config is not None, problems
    assert config.tracing == Tracing(endpoint="http://collector:4318")
    assert parse(BACKENDS, "test")[0].tracing is None  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("endpoint", "ftp://collector"),
        ("endpoint", "http://user:key@collector:4318"),
        ("sample", 1.5),
        ("sample", -0.1),
        ("sample", "many"),
        ("headers", ["no colon"]),
        ("headers", ["A: b\nC: d"]),
        ("service_name", ""),
    ],
)
def test_what_is_wrong_is_said(option: str, value: Any) -> None:
    config, problems = parse({**BACKENDS, "tracing": {"endpoint": "http://c:4318", option: value}}, "test")
    assert config is None
    assert [problem.path.partition("[")[0] for problem in problems] == [f"tracing.{option}"]


def test_a_key_for_the_collector_is_not_repeated_in_problems() -> None:
    _, problems = parse({**BACKENDS, "tracing": {"endpoint": "http://c:4318", "headers": ["A key: sesame"]}}, "test")
    assert problems and not any("sesame" in str(problem) for problem in problems)


@pytest.mark.parametrize("missing", ["opentelemetry", "opentelemetry.exporter.otlp.proto.http"])
def test_a_part_that_is_not_installed_is_named(missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec

    def find(name: str, package: str | None = None) -> Any:
        if missing == "opentelemetry" and name.startswith(missing):
            raise ModuleNotFoundError(name)
        return None if name.startswith(missing) else real(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", find)
    file = tmp_path / "fairlead.yaml"
    file.write_text("backends: [http://gpu1:8000]\ntracing: http://collector:4318\n")
    config, problems = read_file(file)
    assert config is None
    (problem,) = problems
    assert (problem.path, problem.hint) == ("tracing", "pip install fairlead[otel]")
    file.write_text("backends: [http://gpu1:8000]\n")
    assert read_file(file)[1] == [], "who traces nothing needs nothing"


def test_without_the_option_nothing_of_it_is_imported() -> None:
    code = "import sys, fairlead.config.build; print([m for m in sys.modules if m.startswith('opentelemetry')])"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[]"


def test_a_reload_says_that_it_waits_for_a_restart() -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="fairlead[otel] is not installed")

    async def body() -> None:
        async with kept(1) as k:
            told = await k.reload(tracing="http://127.0.0.1:1")
            assert told["needs_restart"] == ["tracing"]
            assert k.f.app.tracing is None and k.f.app.service.tracer is None

    run(body)


def test_an_exported_container_has_the_extra_where_it_is_wanted_and_no_key() -> None:
    tracing = {"endpoint": "http://c:4318", "headers": ["Authorization: sesame"]}
    config, problems = parse({**BACKENDS, "tracing": tracing}, "test")
    assert config is not None, problems
    written = compose.render(config)
    assert "'/source[otel]'" in written and "sesame" not in written
    assert "[otel]" not in compose.render(parse(BACKENDS, "test")[0])
