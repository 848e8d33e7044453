"""The alerting rules for Prometheus: what deserves a person's attention, and what should that person do?

Those that Fairlead judges by itself, too, have the names that core/alerts/table.py gives them.
Rule 1: every rule stands for one Fairlead. Sums leave out only the labels that Fairlead itself writes, so
        `job`, `instance` and whatever else Prometheus adds (cluster, namespace) stay apart.
Rule 2: a rule never needs a series that may be missing: `unless` and `or` instead of arithmetic with it.
Rule 3: metric names here are checked against the rendered page by a test.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from fairlead.config.schema import Config


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
    wanted: Callable[[Config], bool] = lambda config: True


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
        alert="FairleadBackendTakesMostTokens",
        why="""
        One backend gets nearly all of the work, though not nearly all of the requests: the long ones go there. As
        above, but for tokens of requests that have ended.
        """,
        expr="""
        (
          increase(fairlead_contested_tokens_total[$tokens_window])
          / ignoring (backend) group_left ()
          sum without (backend) (increase(fairlead_contested_tokens_total[$tokens_window]))
        ) > $tokens_threshold
        and ignoring (backend)
        sum without (backend) (increase(fairlead_contested_requests_total[$tokens_window])) >= $tokens_min_requests
        # this one and another were healthy all the time
        and ignoring (backend)
        count without (backend) (
          min_over_time(fairlead_backend_up[$tokens_window]) > 0
          unless max_over_time(fairlead_backend_ejected[$tokens_window]) > 0
        ) > 1
        unless
        (
          increase(fairlead_contested_tokens_total[$tokens_window])
          / ignoring (backend) group_left ()
          sum without (backend) (increase(fairlead_contested_tokens_total[$tokens_window]))
        ) <= $explained * max_over_time(fairlead_backend_weight_share[$tokens_window])
        """,
        severity="warning",
        summary="{{ $$labels.backend }} gets {{ $$value | humanizePercentage }} of the tokens",
        description="""
        Over the last $tokens_window one backend of the Fairlead at {{ $$labels.instance }} did more than
        $tokens_percent of the work while another was healthy. GET /api/explain/ID for a few long requests says why
        they went there. Usual causes: a policy that counts requests and not tokens, or one session or prefix that
        has all the long prompts. If it is meant, set weights.
        """,
    ),
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
        alert="FairleadPanic",
        why="So few backends of a model are usable that bad ones are tried. With none up the alert above says it.",
        expr="""
        fairlead_panic == 1
        and ignoring (model) max without (backend) (fairlead_backend_up) == 1
        """,
        hold="1m",
        severity="critical",
        summary="too few backends of {{ $$labels.model }} are usable",
        description="""
        Backends of the Fairlead at {{ $$labels.instance }} that are down or rest get requests again, as too few
        others are left. Look in GET /api/backends for those that are not up, and bring them back.
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
        A backend fails more than $errors_percent of its tries. Failed tries, and answers with a 5xx status, over all
        tries; the final 502 and 504 are Fairlead's own words for a try that is counted as failed already.
        """,
        expr="""
        (
          sum without (kind, model, code) (
            rate(fairlead_backend_errors_total[$errors_window])
            or rate(fairlead_requests_total{backend!="", code=~"5..", code!~"502|504"}[$errors_window])
          )
          /
          sum without (kind, model, code) (
            rate(fairlead_backend_errors_total[$errors_window])
            or rate(fairlead_requests_total{backend!="", code!~"502|504"}[$errors_window])
          )
        ) > $errors_threshold
        # more than a stray one
        and
        sum without (kind, model, code) (
          increase(fairlead_backend_errors_total[$errors_window])
          or increase(fairlead_requests_total{backend!="", code=~"5..", code!~"502|504"}[$errors_window])
        ) >= $min_errors
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
        fairlead_engine_waiting > $queue_waiting
        # not for one burst: its least lately is above its mean before
        and min_over_time(fairlead_engine_waiting[$queue_half])
        > $queue_rise + avg_over_time(fairlead_engine_waiting[$queue_half] offset $queue_half)
        """,
        hold="2m",
        severity="warning",
        summary="{{ $$value }} requests wait in the queue of {{ $$labels.backend }}, and it grows",
        description="""
        Its queue has grown for $queue_window, so times to the first token grow with it.
        If the other backends of {{ $$labels.instance }} queue as well, the fleet is too small: add backends, or
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
        alert="FairleadRetryBudgetSpent",
        why="Failed requests are not tried elsewhere any more: the fleet as a whole is failing.",
        expr="increase(fairlead_retry_overflow_total[2m]) >= 5",
        severity="warning",
        summary="{{ $$value | humanize }} failed requests were not tried again",
        description="""
        More requests fail than `retries.budget` lets the Fairlead at {{ $$labels.instance }} try elsewhere, so clients
        see the failures. Look at fairlead_backend_errors_total by backend and `kind`. Raise the budget only for a fleet
        that has room: retries are load.
        """,
        wanted=lambda config: config.retries.budget > 0,
    ),
    Rule(
        alert="FairleadSlowFirstToken",
        why="Clients wait longer for the first token than `alerts.ttft` allows.",
        expr="""
        histogram_quantile(
          $ttft_within, sum without (backend) (rate(fairlead_ttft_seconds_bucket[$ttft_window]))
        ) > $ttft_target
        and
        sum without (backend) (increase(fairlead_ttft_seconds_count[$ttft_window])) >= $ttft_min_requests
        """,
        hold="1m",
        severity="warning",
        summary="first tokens take {{ $$value | humanizeDuration }} on {{ $$labels.instance }}",
        description="""
        Fewer than $ttft_percent of the streamed answers began within $ttft_target s. If all backends have a queue
        (fairlead_engine_waiting), the fleet is too small: add backends, or have clients send less. If one has, look
        at it, and at GET /api/explain/ID for a slow request.
        """,
        wanted=lambda config: config.alerts.ttft is not None,
    ),
    Rule(
        alert="FairleadBackendSlow",
        why="A backend takes much longer for the same work than its peers. Counts only while it has requests.",
        expr="""
        fairlead_backend_pace > $slow
        and fairlead_backend_up == 1
        and max_over_time(fairlead_inflight_requests[1m]) > 0
        """,
        hold="5m",
        severity="warning",
        summary="{{ $$labels.backend }} takes {{ $$value | humanize }} times as long as its peers",
        description="""
        It gets less work for that, so clients may not notice; the fleet is smaller than it was. Look for another
        process on its GPU, heat, or a full KV cache. If the machine is meant to be slower, set weights in the config
        file of {{ $$labels.instance }} or raise `alerts.slow`.
        """,
    ),
    Rule(
        alert="FairleadPrefixViewDistrusted",
        why="An engine does not have cached what it should have, so requests are placed as if it had nothing.",
        expr="fairlead_prefix_distrusted == 1 and fairlead_backend_up == 1",
        hold="5m",
        severity="warning",
        summary="the view of the prefix cache of {{ $$labels.backend }} is wrong",
        description="""
        Its reports of cached tokens are far below what the Fairlead at {{ $$labels.instance }} expects. See whether its
        cache was reset, is smaller than its metrics say, or is used by somebody else. Trust comes back by itself with
        eight good reports.
        """,
    ),
    Rule(
        alert="FairleadCertificateEnds",
        why="A certificate in use ends soon, or has ended.",
        expr="fairlead_tls_expiry_timestamp_seconds - time() < $certificate",
        severity="warning",
        summary="the certificate of {{ $$labels.where }} ends in {{ $$value | humanizeDuration }}",
        description="""
        Put a new one into the same files: the Fairlead at {{ $$labels.instance }} takes it up without a restart, and
        fairlead_tls_reload_failed says whether it could.
        """,
    ),
    Rule(
        alert="FairleadReloadRefused",
        why="Somebody believes that his configuration is in force, and it is not.",
        expr="fairlead_config_last_reload_success == 0",
        hold="1m",
        severity="warning",
        summary="{{ $$labels.instance }} refused its last reload",
        description="""
        An older configuration is in force. `loaded.last_error` in GET /api/config says what is wrong; mend the file
        (fairlead check FILE says the same) and reload.
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
