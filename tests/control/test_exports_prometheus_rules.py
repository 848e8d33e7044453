"""The exported alerting rules, run by the real promtool over made-up series."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from promtool import promtool

from fairlead.config.load import parse
from fairlead.config.schema import Config
from fairlead.control.exports.prometheus_alerts import RULES
from fairlead.control.exports.prometheus_rules import render, rules_of
from fairlead.core.alerts.table import RULES as OWN

SHARE = "FairleadBackendTakesMostTraffic"
TARGET = 'job="fairlead",instance="lb1:9900"'
ALWAYS = 200  # readings, 15 s apart

Series = dict[str, str]


def configured(**options: Any) -> Config:
    config, problems = parse({"backends": ["a:1", "b:1"], **options}, "test")
    assert config is not None, problems
    return config


def constant(value: float) -> str:
    return f"{value:g}x{ALWAYS}"


def traffic(target: str = TARGET, **per_reading: float) -> Series:
    """Counters that grow by so many requests per reading, by backend; another could have taken each of them."""
    series: Series = {}
    for name, step in per_reading.items():
        grows = f"0+{step:g}x{ALWAYS}"
        series[f'fairlead_requests_total{{{target},backend="{name}",model="m",code="200"}}'] = grows
        series[f'fairlead_contested_requests_total{{{target},backend="{name}"}}'] = grows
    return series


def gauges(metric: str, target: str = TARGET, **values: float) -> Series:
    return {f'{metric}{{{target},backend="{name}"}}': constant(value) for name, value in values.items()}


def fleet(target: str = TARGET, *, weights: dict[str, float] | None = None, **up: float) -> Series:
    """What every Fairlead shows: who is up, who rests, and the shares that weights ask for."""
    none = dict.fromkeys(up, 0.0)
    return {
        f"fairlead_build_info{{{target}}}": constant(1),
        **gauges("fairlead_backend_up", target, **up),
        **gauges("fairlead_backend_ejected", target, **none),
        **gauges("fairlead_backend_weight_share", target, **(weights or none)),
    }


def firing(tmp_path: Path, series: Series, expected: dict[str, list[str]], config: Config | None = None) -> None:
    """`expected`: at a time ("5m"), the alerts that fire, as `name{backend,instance}`; all others must not."""
    (tmp_path / "rules.yml").write_text(render(config), encoding="utf-8")
    checks = []
    for at, alerts in expected.items():
        samples = [{"labels": f'{{alert="{alert}"}}', "value": 1} for alert in sorted(alerts)]
        where = 'label_join(ALERTS{alertstate="firing"}, "of", ",", "backend", "instance")'
        named = f'label_join({where}, "alert", "|", "alertname", "of")'
        checks.append({"expr": f"max by (alert) ({named})", "eval_time": at, "exp_samples": samples})
    test = {
        "interval": "15s",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": checks,
    }
    file = tmp_path / "test.yml"
    file.write_text(
        yaml.safe_dump({"rule_files": ["rules.yml"], "evaluation_interval": "15s", "tests": [test]}), encoding="utf-8"
    )
    status, output = promtool("test", "rules", str(file))
    assert status == 0, output


def share_of(backend: str, instance: str = "lb1:9900") -> str:
    return f"{SHARE}|{backend},{instance}"


# --- the file ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "config",
    [
        None,
        configured(),
        configured(alerts={"share": {"threshold": "33.3%", "window": "1500ms", "min_requests": 7}}),
        configured(alerts={"share": {"threshold": "100%", "window": "1d"}}, metrics={"interval": "1h"}),
        configured(alerts={"ttft": "1500ms", "errors": {"threshold": "0.5%", "window": "90s"}, "certificate": "1h"}),
    ],
)
def test_promtool_finds_nothing_wrong(tmp_path: Path, config: Config | None) -> None:
    (tmp_path / "rules.yml").write_text(render(config), encoding="utf-8")
    status, output = promtool("check", "rules", "--lint-fatal", str(tmp_path / "rules.yml"))
    assert status == 0, output
    assert f"{len(rules_of(config or Config()))} rules found" in output


def test_every_rule_says_what_to_do_and_where() -> None:
    rules = yaml.safe_load(render(configured(alerts={"ttft": "2s"})))["groups"][0]["rules"]
    assert [rule["alert"] for rule in rules] == [rule.alert for rule in RULES]
    for rule in rules:
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert 10 < len(rule["annotations"]["summary"]) < 100
        assert len(rule["annotations"]["description"]) > 100
        assert "$" not in re.sub(r"\{\{ \$(labels\.(backend|instance|model|where)|value)( \| \w+)? \}\}", "", str(rule))


def test_the_numbers_come_from_the_config() -> None:
    text = render(configured(alerts={"share": {"threshold": "65%", "window": "5m", "min_requests": 33}}))
    expr = yaml.safe_load(text)["groups"][0]["rules"][0]["expr"]
    assert "> 0.65" in expr and ">= 33" in expr and "[300s]" in expr and "60s" not in expr
    assert "threshold 65 %, window 300s, min_requests 33 (alerts.share of the config file)" in text


def test_fairlead_and_prometheus_judge_the_same_things_under_the_same_names() -> None:
    severity = {rule.alert: rule.severity for rule in RULES}
    assert {rule.title: rule.severity for rule in OWN}.items() <= severity.items()
    assert severity.keys() - {rule.title for rule in OWN} == {"FairleadAbsent"}


def test_what_is_turned_off_or_means_nothing_here_is_left_out() -> None:
    names = [rule.alert for rule in rules_of(configured())]
    assert "FairleadSlowFirstToken" not in names, "no target is set"
    assert "FairleadSlowFirstToken" in [rule.alert for rule in rules_of(configured(alerts={"ttft": "2s"}))]
    less = [rule.alert for rule in rules_of(configured(alerts={"off": ["panic"]}, retries={"budget": "0%"}))]
    assert set(names) - set(less) == {"FairleadPanic", "FairleadRetryBudgetSpent"}


def test_the_stale_limit_follows_a_slow_reading_of_engines() -> None:
    assert "age_seconds > 30\n" in render(configured())
    assert "age_seconds > 300\n" in render(configured(metrics={"interval": "1m"}))


# --- the share alert -----------------------------------------------------------------------------------------


def test_it_fires_at_90_to_10_with_two_up_and_clears_afterwards(tmp_path: Path) -> None:
    series = fleet(a=1, b=1)
    key = 'fairlead_contested_requests_total{%s,backend="%s"}'
    series[key % (TARGET, "a")] = "0+9x40 365+5x100"  # 10 minutes at 9 per reading, then at 5
    series[key % (TARGET, "b")] = "0+1x40 45+5x100"
    firing(tmp_path, series, {"15s": [], "2m": [share_of("a")], "10m": [share_of("a")], "11m30s": [], "20m": []})


def test_it_fires_when_the_other_one_gets_nothing_at_all(tmp_path: Path) -> None:
    firing(tmp_path, fleet(a=1, b=1) | traffic(a=9), {"5m": [share_of("a")]})


def test_it_needs_no_series_but_requests_and_health(tmp_path: Path) -> None:
    series = gauges("fairlead_backend_up", a=1, b=1) | {f"fairlead_build_info{{{TARGET}}}": constant(1)}
    firing(tmp_path, series | traffic(a=9, b=1), {"5m": [share_of("a")]})


def test_its_text_names_backend_share_and_instance(tmp_path: Path) -> None:
    (tmp_path / "rules.yml").write_text(render(None), encoding="utf-8")
    rule = yaml.safe_load(render(None))["groups"][0]["rules"][0]
    words = {
        "{{ $labels.backend }}": "a",
        "{{ $value | humanizePercentage }}": "90%",
        "{{ $labels.instance }}": "lb1:9900",
    }
    texts = dict(rule["annotations"])
    for name in texts:
        for template, value in words.items():
            texts[name] = texts[name].replace(template, value)
    alert = {
        "exp_labels": {"severity": "warning", "backend": "a", "job": "fairlead", "instance": "lb1:9900"},
        "exp_annotations": texts,
    }
    series = fleet(a=1, b=1) | traffic(a=9, b=1)
    test = {
        "interval": "15s",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "alert_rule_test": [{"eval_time": "5m", "alertname": SHARE, "exp_alerts": [alert]}],
    }
    (tmp_path / "test.yml").write_text(yaml.safe_dump({"rule_files": ["rules.yml"], "tests": [test]}), encoding="utf-8")
    status, output = promtool("test", "rules", str(tmp_path / "test.yml"))
    assert status == 0, output


@pytest.mark.parametrize(
    "series",
    [
        pytest.param(fleet(a=1, b=1) | traffic(a=5, b=5), id="an even share"),
        pytest.param(fleet(a=1) | traffic(a=9), id="the only backend"),
        pytest.param(fleet(a=1, b=1, weights={"a": 0.9, "b": 0.1}) | traffic(a=9, b=1), id="weights 9:1"),
        pytest.param(fleet(a=1, b=1, weights={"a": 0.9, "b": 0.1}) | traffic(a=95, b=5), id="1.05 times its weight"),
        pytest.param(fleet(a=1, b=1) | traffic(a=0.9, b=0.1), id="4 requests a minute"),
        pytest.param(fleet(a=1, b=1) | gauges("fairlead_backend_ejected", b=1) | traffic(a=9), id="the other rests"),
        pytest.param(fleet(a=1, b=1), id="no requests"),
    ],
)
def test_it_stays_silent(tmp_path: Path, series: Series) -> None:
    firing(tmp_path, series, {"5m": [], "30m": []})


def test_a_lone_healthy_backend_is_no_reason(tmp_path: Path) -> None:
    firing(tmp_path, fleet(a=1, b=0) | traffic(a=9), {"1m": [], "30m": ["FairleadBackendDown|b,lb1:9900"]})


def test_a_backend_that_just_came_back_gets_time_to_take_its_share(tmp_path: Path) -> None:
    series = fleet(a=1, b=1) | traffic(a=9)
    series[f'fairlead_backend_up{{{TARGET},backend="b"}}'] = "0x6 1x100"  # back after 105 s
    firing(tmp_path, series, {"2m": [], "2m30s": [], "4m": [share_of("a")]})


@pytest.mark.parametrize(
    ("weights", "fires"),
    [({"a": 0.5, "b": 0.5}, True), ({"a": 0.7, "b": 0.3}, True), ({"a": 0.83, "b": 0.17}, False)],
)
def test_weights_explain_a_share_up_to_a_tenth_above_theirs(
    tmp_path: Path, weights: dict[str, float], fires: bool
) -> None:
    series = fleet(a=1, b=1, weights=weights) | traffic(a=9, b=1)
    firing(tmp_path, series, {"5m": [share_of("a")] if fires else []})


def test_each_fairlead_is_judged_by_itself(tmp_path: Path) -> None:
    other = TARGET.replace("lb1", "lb2")
    series = fleet(a=1, b=1) | traffic(a=9, b=1) | fleet(other, a=1, b=1) | traffic(other, a=1, b=9)
    firing(tmp_path, series, {"5m": [share_of("a"), share_of("b", "lb2:9900")]})
    even = fleet(a=1, b=1) | traffic(a=5, b=5) | fleet(other, a=1) | traffic(other, a=50)
    firing(tmp_path, even, {"5m": []})


def test_labels_that_prometheus_adds_keep_clusters_apart(tmp_path: Path) -> None:
    east, west = f'{TARGET},cluster="east"', f'{TARGET},cluster="west"'
    series = fleet(east, a=1, b=1) | traffic(east, a=9, b=1) | fleet(west, a=1, b=1) | traffic(west, a=1, b=9)
    firing(tmp_path, series, {"5m": [share_of("a"), share_of("b")]})


def test_refused_requests_do_not_thin_out_a_share(tmp_path: Path) -> None:
    refused = {f'fairlead_requests_total{{{TARGET},backend="",model="",code="404"}}': f"0+50x{ALWAYS}"}
    firing(tmp_path, fleet(a=1, b=1) | traffic(a=9, b=1) | refused, {"5m": [share_of("a")]})
    firing(tmp_path, fleet(a=1, b=1) | traffic(a=0.9) | refused, {"5m": []})


def test_requests_that_only_one_could_take_do_not_count(tmp_path: Path) -> None:
    """Each backend serves a model of its own, and nearly all ask for the first one's."""
    series = fleet(a=1, b=1) | traffic(a=0, b=0) | {
        f'fairlead_requests_total{{{TARGET},backend="{backend}",model="{model}",code="200"}}': f"0+{step}x{ALWAYS}"
        for backend, model, step in [("a", "m", 9), ("b", "n", 1)]
    }  # fmt: skip
    firing(tmp_path, series, {"5m": []})


def test_threshold_and_least_requests_of_the_config_count(tmp_path: Path) -> None:
    series = fleet(a=1, b=1) | traffic(a=6, b=4)
    firing(tmp_path, series, {"5m": []})
    firing(tmp_path, series, {"5m": [share_of("a")]}, configured(alerts={"share": {"threshold": "55%"}}))
    many = configured(alerts={"share": {"threshold": "55%", "min_requests": 60}})
    firing(tmp_path, series, {"5m": []}, many)


# --- the others ----------------------------------------------------------------------------------------------


def tokens(**per_reading: float) -> Series:
    """Five requests per reading for each, and so many tokens."""
    return traffic(TARGET, **dict.fromkeys(per_reading, 5.0)) | {
        f'fairlead_contested_tokens_total{{{TARGET},backend="{name}"}}': f"0+{step:g}x{ALWAYS}"
        for name, step in per_reading.items()
    }


def first_tokens(late: float, in_time: float) -> Series:
    """So many per reading, within one second and within five."""
    counts = {"1": in_time, "5": in_time + late, "+Inf": in_time + late}
    series = {
        f'fairlead_ttft_seconds_bucket{{{TARGET},backend="a",le="{le}"}}': f"0+{step:g}x{ALWAYS}"
        for le, step in counts.items()
    }
    return series | {f'fairlead_ttft_seconds_count{{{TARGET},backend="a"}}': f"0+{late + in_time:g}x{ALWAYS}"}


@pytest.mark.parametrize(("late", "in_time", "fires"), [(1, 9, True), (1, 49, False), (0.05, 0.05, False)])
def test_the_first_token_has_a_target_only_where_one_is_set(
    tmp_path: Path, late: float, in_time: float, fires: bool
) -> None:
    series = fleet(a=1) | first_tokens(late, in_time)
    told = ["FairleadSlowFirstToken|,lb1:9900"] if fires else []
    firing(tmp_path, series, {"10m": told}, configured(alerts={"ttft": "2s"}))
    firing(tmp_path, series, {"10m": []})


def test_the_other_numbers_of_the_config_count(tmp_path: Path) -> None:
    series = fleet(a=1, b=1) | traffic(a=50, b=50) | errors(b=1)
    told = {"8m": ["FairleadBackendErrors|b,lb1:9900"]}
    firing(tmp_path, series, told, configured(alerts={"errors": {"threshold": "1%"}}))
    firing(tmp_path, series, {"8m": []}, configured(alerts={"errors": {"threshold": "1%", "min_errors": 50}}))
    queue = fleet(a=1) | {f'fairlead_engine_waiting{{{TARGET},backend="a"}}': f"1+1x{ALWAYS}"}
    firing(tmp_path, queue, {"15m": []}, configured(alerts={"queue": {"waiting": 100}}))
    slow = fleet(a=1) | gauges("fairlead_backend_pace", a=3.2) | gauges("fairlead_inflight_requests", a=1)
    firing(tmp_path, slow, {"15m": []}, configured(alerts={"slow": 4}))


def errors(**per_reading: float) -> Series:
    return {
        f'fairlead_backend_errors_total{{{TARGET},backend="{name}",kind="connect"}}': f"0+{step:g}x{ALWAYS}"
        for name, step in per_reading.items()
    }


@pytest.mark.parametrize(
    ("series", "expected"),
    [
        pytest.param(
            fleet(a=0, b=0),
            {"1m": ["FairleadNoHealthyBackend|,lb1:9900"]},
            id="no healthy backend",
        ),
        pytest.param(
            fleet(a=1, b=0),
            {"1m45s": [], "2m30s": ["FairleadBackendDown|b,lb1:9900"]},
            id="one down for two minutes",
        ),
        pytest.param(
            fleet(a=1, b=1) | traffic(a=5, b=5) | errors(b=1),
            {"8m": ["FairleadBackendErrors|b,lb1:9900"]},
            id="one try in six fails",
        ),
        pytest.param(fleet(a=1, b=1) | traffic(a=50, b=50) | errors(b=1), {"8m": []}, id="one try in fifty fails"),
        pytest.param(fleet(a=1, b=1) | traffic(a=0.05) | errors(a=0.05), {"8m": []}, id="one stray failure"),
        pytest.param(
            fleet(a=1, b=1)
            | traffic(a=5, b=5)
            | {f'fairlead_requests_total{{{TARGET},backend="b",model="m",code="500"}}': f"0+2x{ALWAYS}"},
            {"8m": ["FairleadBackendErrors|b,lb1:9900"]},
            id="an engine that answers 500",
        ),
        pytest.param(
            fleet(a=1)
            | {f'fairlead_engine_waiting{{{TARGET},backend="a"}}': f"1+1x{ALWAYS}"}
            | traffic(a=5),
            {"2m": [], "15m": ["FairleadEngineQueueGrowing|a,lb1:9900"]},
            id="a growing queue",
        ),
        pytest.param(
            fleet(a=1) | {f'fairlead_engine_waiting{{{TARGET},backend="a"}}': constant(50)},
            {"15m": []},
            id="a long queue that does not grow",
        ),
        pytest.param(
            fleet(a=1)
            | gauges("fairlead_engine_metrics_age_seconds", a=90)
            | gauges("fairlead_inflight_requests", a=3),
            {"5m": ["FairleadEngineMetricsStale|a,lb1:9900"]},
            id="old metrics under load",
        ),
        pytest.param(
            fleet(a=1)
            | gauges("fairlead_engine_metrics_age_seconds", a=90)
            | gauges("fairlead_inflight_requests", a=0),
            {"5m": []},
            id="old metrics of an idle engine",
        ),
        pytest.param(
            fleet(a=1, b=1) | tokens(a=9000, b=100),
            {"2m": [], "10m": ["FairleadBackendTakesMostTokens|a,lb1:9900"]},
            id="most tokens go to one",
        ),
        pytest.param(fleet(a=1, b=1) | tokens(a=700, b=300), {"10m": []}, id="tokens at seven to three"),
        pytest.param(fleet(a=1) | tokens(a=9000), {"10m": []}, id="all tokens to the only one"),
        pytest.param(
            fleet(a=1, b=1, weights={"a": 0.9, "b": 0.1}) | tokens(a=9000, b=1000),
            {"10m": []},
            id="weights ask for most tokens",
        ),
        pytest.param(
            fleet(a=1, b=1) | gauges("fairlead_backend_ejected", b=1) | tokens(a=9000),
            {"10m": []},
            id="all tokens to one while the other rests",
        ),
        pytest.param(
            fleet(a=1, b=1) | {f'fairlead_panic{{{TARGET},model="m"}}': "0x8 1x20 0x100"},
            {"2m30s": [], "5m": ["FairleadPanic|,lb1:9900"], "10m": []},
            id="panic",
        ),
        pytest.param(
            fleet(a=0) | {f'fairlead_panic{{{TARGET},model="m"}}': constant(1)},
            {"1m45s": ["FairleadNoHealthyBackend|,lb1:9900"]},
            id="with none up, panic is no news",
        ),
        pytest.param(
            fleet(a=1) | {f"fairlead_retry_overflow_total{{{TARGET}}}": "0x20 3+3x20 63x100"},
            {"4m": [], "8m": ["FairleadRetryBudgetSpent|,lb1:9900"], "20m": []},
            id="the retry budget is spent",
        ),
        pytest.param(
            fleet(a=1) | {f"fairlead_retry_overflow_total{{{TARGET}}}": "0x20 1x100"}, {"6m": []}, id="one overflow",
        ),
        pytest.param(
            fleet(a=1, b=1)
            | gauges("fairlead_backend_pace", a=0.3, b=3.2)
            | gauges("fairlead_inflight_requests", a=1, b=1),
            {"4m": [], "7m": ["FairleadBackendSlow|b,lb1:9900"]},
            id="slow against its peers",
        ),
        pytest.param(
            fleet(a=1, b=1)
            | gauges("fairlead_backend_pace", a=0.3, b=3.2)
            | gauges("fairlead_inflight_requests", a=1, b=0),
            {"7m": []},
            id="slow once, and idle now",
        ),
        pytest.param(
            fleet(a=1, b=0) | {f'fairlead_prefix_distrusted{{{TARGET},backend="a"}}': "1x30 0x100"},
            {"4m": ["FairleadBackendDown|b,lb1:9900"], "10m": ["FairleadBackendDown|b,lb1:9900"]}
            | {"7m": ["FairleadBackendDown|b,lb1:9900", "FairleadPrefixViewDistrusted|a,lb1:9900"]},
            id="a distrusted view",
        ),
        pytest.param(
            fleet(a=1)
            | {
                f'fairlead_tls_expiry_timestamp_seconds{{{TARGET},where="{where}"}}': constant(86_400 * days)
                for where, days in (("listen [::]:443", 13), ("TLS with backend a", 15))
            },
            {"1m": ["FairleadCertificateEnds|,lb1:9900"]},
            id="a certificate ends in 13 days",
        ),
        pytest.param(
            fleet(a=1)
            | {f'fairlead_tls_expiry_timestamp_seconds{{{TARGET},where="listen [::]:443"}}': constant(86_400 * 15)},
            {"1m": [], "20m": []},
            id="a certificate that lasts",
        ),
        pytest.param(
            fleet(a=1) | {f"fairlead_config_last_reload_success{{{TARGET}}}": "1x8 0x20 1x100"},
            {"2m30s": [], "5m": ["FairleadReloadRefused|,lb1:9900"], "10m": []},
            id="a reload was refused",
        ),
        pytest.param({"up": constant(0)}, {"1m": [], "3m": ["FairleadAbsent|,"]}, id="nothing there"),
    ],
)  # fmt: skip
def test_other_rules(tmp_path: Path, series: Series, expected: dict[str, list[str]]) -> None:
    firing(tmp_path, series, expected)
