"""`fairlead export`: what goes to standard output, what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from fairlead.cli.main import main
from fairlead.config.load import parse
from fairlead.control.exports import prometheus_rules, prometheus_scrape
from fairlead.control.exports.registry import KINDS


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["export", *arguments])


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_written_with_and_without_a_file(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "f.yaml"
    file.write_text("backends: [a:1]\n", encoding="utf-8")
    for arguments in ((kind,), (kind, str(file))):
        done = run(*arguments)
        assert (done.exit_code, done.stderr) == (0, "")
        assert done.stdout.endswith("\n") and not done.stdout.endswith("\n\n")
        assert str(tmp_path) not in done.stdout


def test_help_names_every_kind() -> None:
    text = " ".join(run("--help").output.split())
    for name, kind in KINDS.items():
        assert f"{name} {kind.help}" in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("prometheus-rule",), "unknown kind 'prometheus-rule'; did you mean 'prometheus-rules'?"),
        (("Prometheus_Scrape",), "did you mean 'prometheus-scrape'?"),
        (("xyz",), "unknown kind 'xyz'; there are: prometheus-rules"),
        ((), "name what to export: prometheus-rules"),
        (("prometheus-rules", "no-such.yaml"), "no-such.yaml: is not there\nnothing was exported"),
        (("prometheus-rules", "a.yaml", "b.yaml"), "unexpected extra argument"),
    ],
)
def test_what_cannot_be_exported_is_said_and_nothing_is_written(arguments: tuple[str, ...], words: str) -> None:
    done = run(*arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    assert words in done.stderr


def test_problems_go_to_standard_error_and_warnings_do_not_stop_it(tmp_path: Path) -> None:
    file = tmp_path / "f.yaml"
    file.write_text("backends: [a:1]\nadmin: 0.0.0.0:9900\nalerts: {share: {threshold: 2}}\n", encoding="utf-8")
    done = run("prometheus-rules", str(file))
    assert (done.exit_code, done.stdout) == (2, "")
    assert "f.yaml:3: alerts.share.threshold:" in done.stderr and "f.yaml:2: warning: admin:" in done.stderr
    file.write_text("backends: [a:1]\nadmin: 0.0.0.0:9900\n", encoding="utf-8")
    done = run("prometheus-scrape", str(file))
    assert done.exit_code == 0
    assert "f.yaml:2: warning: admin:" in done.stderr
    assert yaml.safe_load(done.stdout)["scrape_configs"][0]["job_name"] == "fairlead"


@pytest.mark.parametrize(
    ("admin", "target"),
    [
        ("127.0.0.1:9901", "127.0.0.1:9901"),
        ("10.0.0.5:9900", "10.0.0.5:9900"),
        ("[::1]:9900", "[::1]:9900"),
        ("0.0.0.0:9900", "127.0.0.1:9900"),
        ("[::]:9900", "[::1]:9900"),
    ],
)
def test_the_scrape_target_is_the_admin_address(admin: str, target: str) -> None:
    config, problems = parse({"backends": ["a:1"], "admin": admin}, "test")
    assert config is not None, problems
    (job,) = yaml.safe_load(prometheus_scrape.render(config))["scrape_configs"]
    assert job["static_configs"] == [{"targets": [target]}]


@pytest.mark.parametrize(("window", "interval"), [("60s", "15s"), ("30s", "7s"), ("1d", "15s"), ("2s", "500ms")])
def test_readings_come_often_enough_for_the_share_alert(window: str, interval: str) -> None:
    config, problems = parse({"backends": ["a:1"], "alerts": {"share": {"window": window}}}, "test")
    assert config is not None, problems
    whole = yaml.safe_load(prometheus_scrape.render(config))
    assert whole["scrape_configs"][0]["scrape_interval"] == whole["global"]["evaluation_interval"] == interval
    assert f"scrape_interval {interval} or shorter" in prometheus_rules.render(config)


def test_the_two_files_fit_together() -> None:
    (pattern,) = yaml.safe_load(prometheus_scrape.render(None))["rule_files"]
    assert Path("fairlead-rules.yml").match(pattern)
