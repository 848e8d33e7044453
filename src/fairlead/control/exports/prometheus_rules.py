"""Alerting rules for Prometheus: what deserves a person's attention, and what should that person do?

Rule 1: every rule stands for one Fairlead. Sums leave out only the labels that Fairlead itself writes, so
        `job`, `instance` and whatever else Prometheus adds (cluster, namespace) stay apart.
Rule 2: a rule never needs a series that may be missing: `unless` and `or` instead of arithmetic with it.
Rule 3: metric names here are checked against the rendered page by a test.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from string import Template
from textwrap import dedent, indent
from typing import Final

from fairlead.config.schema import Config
from fairlead.control.exports.prometheus_scrape import duration, scrape_interval
from fairlead.core.alerts import EXPLAINED

STALE_SECONDS: Final = 30.0  # an engine's numbers older than this, or than five readings, mislead
STALE_READINGS: Final = 5


@dataclass(frozen=True, slots=True)
class Rule:
    """One alerting rule; texts are templates, `$$` stands for the dollar sign that Prometheus reads."""

    alert: str
    why: str  # the comment before it
    expr: str
    severity: str
    summary: str
    description: str
    hold: str | None = None  # `for`: how long it has to be so


SHARE: Final = Rule(
    alert="FairleadBackendTakesMostTraffic",
    why="""
    One backend gets nearly all requests while another is healthy. Silent with few requests, for the only
    healthy backend, and where set weights ask for such a share (`weight` in Fairlead's config).
    """,
    expr="""
    (
      # each backend's share of the requests of the window that another backend could have taken as well
      increase(fairlead_contested_requests_total[$window])
      / ignoring (backend) group_left ()
      sum without (backend) (increase(fairlead_contested_requests_total[$window]))
    ) > $threshold
    # enough requests to say something
    and ignoring (backend)
    sum without (backend) (increase(fairlead_contested_requests_total[$window])) >= $min_requests
    # another backend was healthy during the whole window: all healthy ones less this one
    and
    (
      sum without (backend) (
        min_over_time(fairlead_backend_up[$window]) unless max_over_time(fairlead_backend_ejected[$window]) > 0
      )
      - ignoring (backend) group_right ()
      (
        (min_over_time(fairlead_backend_up[$window]) unless max_over_time(fairlead_backend_ejected[$window]) > 0)
        or 0 * fairlead_backend_up
      )
    ) > 0
    # set weights do not ask for it (the weight share is 0 where nobody set any)
    unless
    (
      increase(fairlead_contested_requests_total[$window])
      / ignoring (backend) group_left ()
      sum without (backend) (increase(fairlead_contested_requests_total[$window]))
    ) <= $explained * max_over_time(fairlead_backend_weight_share[$window])
    """,
    severity="warning",
    summary="{{ $$labels.backend }} gets {{ $$value | humanizePercentage }} of the requests",
    description="""
    Over the last $window one backend of the Fairlead at {{ $$labels.instance }} got more than $percent of the
    requests while another was healthy. Look at GET /api/backends on the admin address (share, capacity, state)
    and at GET /api/explain/ID for a few ids from GET /api/decisions to see why they went there. Usual causes:
    a session or prefix policy with few distinct sessions
    or prompts, or an engine that answers errors so fast that it looks idle. If it is meant, set weights.
    """,
)

RULES: Final = (
    SHARE,
    Rule(
        alert="FairleadNoHealthyBackend",
        why="Nobody can be served.",
        expr="max without (backend) (fairlead_backend_up) == 0",
        hold="30s",
        severity="critical",
        summary="no backend of the Fairlead at {{ $$labels.instance }} is healthy",
        description="""
        Every request is answered with 503. Look at GET /api/backends on the admin address: `reason` says what is
        wrong with each backend. Start the engines again; Fairlead takes them back by itself once they answer.
        """,
    ),
    Rule(
        alert="FairleadBackendDown",
        why="The fleet is smaller than it should be.",
        expr="fairlead_backend_up == 0",
        hold="2m",
        severity="warning",
        summary="backend {{ $$labels.backend }} is down",
        description="""
        It has failed Fairlead's health checks for two minutes and gets no requests. GET /api/backends on the admin
        address of {{ $$labels.instance }} says why, in `reason`. Look at the engine's own log, start it again, or
        take it out of the config file.
        """,
    ),
    Rule(
        alert="FairleadBackendErrors",
        why="""
        A backend fails more than one try in ten. Failed tries, and answers with a 5xx status, over all tries; the
        final 502 and 504 are Fairlead's own words for a try that is counted as failed already.
        """,
        expr="""
        (
          sum without (kind, model, code) (
            rate(fairlead_backend_errors_total[5m])
            or rate(fairlead_requests_total{backend!="", code=~"5..", code!~"502|504"}[5m])
          )
          /
          sum without (kind, model, code) (
            rate(fairlead_backend_errors_total[5m])
            or rate(fairlead_requests_total{backend!="", code!~"502|504"}[5m])
          )
        ) > 0.1
        # more than a stray one
        and
        sum without (kind, model, code) (
          increase(fairlead_backend_errors_total[5m])
          or increase(fairlead_requests_total{backend!="", code=~"5..", code!~"502|504"}[5m])
        ) >= 5
        """,
        hold="1m",
        severity="warning",
        summary="backend {{ $$labels.backend }} fails {{ $$value | humanizePercentage }} of what it is given",
        description="""
        See fairlead_backend_errors_total by `kind`: `connect` is a dead or restarting engine, `timeout` one that
        hangs or is overloaded, `upstream_broken` one that dies in the middle of answers, numbers are its own error
        statuses. Look at the engine's log; take it out of the config file of {{ $$labels.instance }} if it stays so.
        """,
    ),
    Rule(
        alert="FairleadEngineQueueGrowing",
        why="Requests come faster than an engine can work them off.",
        expr="""
        fairlead_engine_waiting > 10
        and min_over_time(fairlead_engine_waiting[10m]) >= 1
        and deriv(fairlead_engine_waiting[10m]) > 0.01
        """,
        hold="2m",
        severity="warning",
        summary="{{ $$value }} requests wait in the queue of {{ $$labels.backend }}, and it grows",
        description="""
        Its queue has not been empty for ten minutes and is still growing, so times to the first token grow with
        it. If the other backends of {{ $$labels.instance }} queue as well, the fleet is too small: add backends, or
        have clients send less. If they do not, look at this one: a smaller GPU, a full KV cache
        (fairlead_engine_kv_usage), or a weight that asks too much of it.
        """,
    ),
    Rule(
        alert="FairleadEngineMetricsStale",
        why="Fairlead chooses with old numbers. Counts only while the engine is up and has requests.",
        expr="""
        fairlead_engine_metrics_age_seconds > $stale
        and fairlead_backend_up == 1
        and max_over_time(fairlead_inflight_requests[1m]) > 0
        """,
        hold="1m",
        severity="warning",
        summary="the metrics of {{ $$labels.backend }} are {{ $$value | humanizeDuration }} old",
        description="""
        The engine answers requests, but its metrics page does not answer, or too late, or too large. Requests go
        on; Fairlead knows its queue less well meanwhile. GET /api/backends on the admin address of
        {{ $$labels.instance }} says what is wrong, in `metrics_problem`. Usual causes: an engine so busy that its HTTP
        server starves, a firewall, a page over metrics.max_bytes; `metrics_url` names another place to look.
        """,
    ),
    Rule(
        alert="FairleadAbsent",
        why="No Fairlead is read at all: it is down, or Prometheus does not find it.",
        expr="absent(fairlead_build_info)",
        hold="2m",
        severity="critical",
        summary="Prometheus reads no Fairlead",
        description="""
        Nothing above can be noticed. See whether Fairlead runs and whether Prometheus reaches its admin address
        (the page Status > Targets of Prometheus says what it got).
        """,
    ),
)

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
    """The file's text, with the share alert as `alerts.share` of `config` has it, or as it is by default."""
    known = config or Config()
    share = known.alerts.share
    words = {
        "threshold": _number(share.threshold),
        "percent": f"{_number(share.threshold * 100)} %",
        "window": duration(share.window),
        "min_requests": str(share.min_requests),
        "explained": _number(EXPLAINED),
        "stale": _number(max(STALE_SECONDS, STALE_READINGS * known.metrics.interval)),
        "interval": scrape_interval(share.window),
        "origin": "the defaults" if config is None else "alerts.share of the config file",
    }
    text = _HEAD + "\n".join("\n".join(_lines(rule)) + "\n" for rule in RULES)
    return Template(text).substitute(words)


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
