"""The file with the alerting rules for Prometheus: how is it written, and with which numbers?

The rules themselves are in prometheus_alerts.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from string import Template
from textwrap import dedent, indent
from typing import Final

from fairlead.config.schema import Config, FirstToken
from fairlead.control.exports.prometheus_alerts import RULES, Rule
from fairlead.control.exports.prometheus_scrape import duration, scrape_interval
from fairlead.core.alerts.rules import EXPLAINED, GROWTH, MIDDLES, STALE_READINGS, STALE_SECONDS
from fairlead.core.alerts.table import BY_NAME

_HEAD: Final = """\
# Alerting rules for Fairlead, written by `fairlead export prometheus-rules`.
# Name this file under `rule_files` in prometheus.yml. Check it with: promtool check rules FILE
#
# The share alert was written for threshold $percent, window $window, min_requests $min_requests ($origin).
# It needs at least four readings in its window: scrape_interval $interval or shorter.
# It counts requests that another backend could have taken as well, as Fairlead's own alert does
# (fairlead_alert_active == 1).

groups:
  - name: fairlead
    rules:
"""


def render(config: Config | None) -> str:
    """The file's text, with the numbers that `alerts` of `config` has, or with the defaults."""
    known = config or Config()
    alerts = known.alerts
    share, tokens, errors, queue = alerts.share, alerts.tokens, alerts.errors, alerts.queue
    ttft = alerts.ttft or FirstToken(target=0.0)  # whose rule is left out
    words = {
        "threshold": _number(share.threshold),
        "percent": f"{_number(share.threshold * 100)} %",
        "window": duration(share.window),
        "min_requests": str(share.min_requests),
        "explained": _number(EXPLAINED),
        "tokens_threshold": _number(tokens.threshold),
        "tokens_percent": f"{_number(tokens.threshold * 100)} %",
        "tokens_window": duration(tokens.window),
        "tokens_min_requests": str(tokens.min_requests),
        "errors_threshold": _number(errors.threshold),
        "errors_percent": f"{_number(errors.threshold * 100)} %",
        "errors_window": duration(errors.window),
        "min_errors": str(errors.min_errors),
        "queue_waiting": str(queue.waiting),
        "queue_window": duration(queue.window),
        "queue_half": duration(queue.window / 2),
        "queue_rise": _number(GROWTH * MIDDLES * queue.window),
        "ttft_target": _number(ttft.target),
        "ttft_within": _number(ttft.within),
        "ttft_percent": f"{_number(ttft.within * 100)} %",
        "ttft_window": duration(ttft.window),
        "ttft_min_requests": str(ttft.min_requests),
        "slow": _number(alerts.slow),
        "certificate": _number(alerts.certificate),
        "stale": _number(max(STALE_SECONDS, STALE_READINGS * known.metrics.interval)),
        "interval": scrape_interval(share.window),
        "origin": "the defaults" if config is None else "alerts.share of the config file",
    }
    text = _HEAD + "\n".join("\n".join(_lines(rule)) + "\n" for rule in rules_of(known))
    return Template(text).substitute(words)


def rules_of(config: Config) -> list[Rule]:
    """Without those that it turns off, or that nothing is set for."""
    off = {BY_NAME[name].title for name in config.alerts.off}
    return [rule for rule in RULES if rule.alert not in off and rule.wanted(config)]


def _lines(rule: Rule) -> Iterator[str]:
    for line in dedent(rule.why).strip().splitlines():
        yield f"      # {line}"
    yield f"      - alert: {rule.alert}"
    yield "        expr: |"
    yield _block(rule.expr)
    if rule.hold is not None:
        yield f"        for: {rule.hold}"
    yield "        labels:"
    yield f"          severity: {rule.severity}"
    yield "        annotations:"
    yield "          summary: >-"
    yield _block(rule.summary)
    yield "          description: >-"
    yield _block(rule.description)


def _block(text: str) -> str:
    return indent(dedent(text).strip(), " " * 12)


def _number(value: float) -> str:
    """Short, and exact enough: 0.8 and not 0.8000000000000002."""
    return f"{value:.12g}"
