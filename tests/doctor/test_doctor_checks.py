"""Findings about one engine: each is there with its fault, and not without it."""

from __future__ import annotations

from typing import Any

import pytest
from doctor_peers import GOOD, facts, tried

from fairlead.doctor.checks import Pool, check_engine
from fairlead.doctor.facts import MetricsState, Trouble
from fairlead.doctor.findings import ERROR, KINDS, NOTE, WARNING, Finding, exit_status, merged
from fairlead.engines.registry import NAMES

POOL = Pool(keepalive=4.0)

FAULTS: list[tuple[str, dict[str, Any], str]] = [
    # code, what is otherwise, a part of the advice
    ("not-an-engine", {"is_engine": False, "models_status": 404}, "host, port and path"),
    ("another-fairlead", {"is_fairlead": True}, "name its engines"),
    ("key-refused", {"models_status": 401}, "--header"),
    ("key-refused", {"models_status": 403}, "--header"),
    ("unhealthy", {"health": 503}, "its log"),
    ("unhealthy", {"health": None}, "its log"),
    ("unhealthy", {"health": 404}, "health_path"),
    ("no-models", {"models": ()}, "load a model"),
    ("generation-failed", {"generation": tried(error="answered 500: boom")}, "curl"),
    ("no-generation", {"generation": tried(error="unsupported: answered 400")}, "embeds"),
    ("prefix-caching-off", {"prefix_caching": False}, "--enable-prefix-caching"),
    ("prefix-caching-off", {"prefix_caching": False, "generation": None}, "--enable-prefix-caching"),
    ("prefix-caching-off", {"prefix_caching": None, "generation": tried(cached=0)}, "--enable-prefix-caching"),
    ("prefix-caching-off", {"prefix_caching": None, "generation": tried(cached=None, hits=0)}, "prefix-caching"),
    ("prefix-no-hit", {"generation": tried(cached=0)}, "data-parallel"),
    ("usage-missing", {"generation": tried(has_usage=False, has_details=False)}, "usage"),
    ("usage-details-off", {"generation": tried(has_details=False)}, "--enable-prompt-tokens-details"),
    ("metrics-off", {"metrics": MetricsState.ABSENT}, "--disable-log-stats"),
    ("metrics-off", {"metrics": MetricsState.EMPTY}, "--disable-log-stats"),
    ("metrics-unknown", {"metrics": MetricsState.UNKNOWN}, "0.32.0"),
    ("no-metrics", {"metrics": MetricsState.NONE}, "metrics_url"),
    ("events-off", {"events": False}, "--kv-events-config"),
    ("keepalive-short", {"keep_alive": 2.0}, "keepalive: {timeout: 1.6s}"),
    ("keepalive-short", {"keep_alive": 4.2}, "keepalive: {timeout: 3.4s}"),  # later, but by less than a request needs
    ("keepalive-short", {"keep_alive": 4.0}, "VLLM_HTTP_TIMEOUT_KEEP_ALIVE"),
    ("queue-unlimited", {"queue_limit": False}, "--max-num-queued-reqs"),
    ("open-to-internet", {"is_public": True}, "--api-key"),
    ("dev-pages-open", {"dev_pages": ("/reset_prefix_cache",)}, "VLLM_SERVER_DEV_MODE"),
    ("dev-pages-local", {"dev_pages": ("/reset_prefix_cache",), "is_loopback": True}, "VLLM_SERVER_DEV_MODE"),
    ("clocks-apart", {"clock_ahead": 60.0}, "NTP"),
    ("clocks-apart", {"clock_ahead": -60.0}, "NTP"),
    ("unknown", {"queue_limit": None}, "--max-num-queued-reqs"),
    ("unknown", {"sampling": None}, "--generation-config"),
    ("unknown", {"events": None}, "--kv-events-config"),
    ("unknown", {"prefix_caching": None, "generation": None}, "by hand"),
    ("unknown", {"keep_alive": None, "keep_alive_open": None}, "by hand"),
    *(("unreachable", {"trouble": trouble}, "") for trouble in Trouble),
]  # fmt: skip


def codes(found: list[Finding]) -> list[str]:
    return [one.code for one in found]


def test_an_engine_without_fault_has_no_finding() -> None:
    assert check_engine(GOOD, POOL) == []


@pytest.mark.parametrize(("code", "otherwise", "advice"), FAULTS)
def test_each_fault_is_found_alone_and_with_its_advice(code: str, otherwise: dict[str, Any], advice: str) -> None:
    (found,) = check_engine(facts(**otherwise), POOL)
    assert (found.code, found.engines) == (code, ("a:1",))
    assert advice in found.mend
    assert found.seen
    assert found.why


def test_every_kind_about_one_engine_has_a_row_above() -> None:
    between = {"tokenizer-differs", "weights-differ", "context-differs", "sampling-differs", "block-size-differs"}
    assert {code for code, _, _ in FAULTS} == set(KINDS) - between - {"version-differs"}


@pytest.mark.parametrize(
    "otherwise",
    [
        {"keep_alive": 4.3},  # longer than ours, and by enough
        {"keep_alive": None, "keep_alive_open": 4.5},
        {"clock_ahead": 1.2},  # the header's grain
        {"clock_ahead": None},
        {"queue_limit": False, "max_connections": 32},  # Fairlead's own limit does
        {"queue_limit": None, "max_connections": 32},
        {"is_public": True, "is_open": False},
        {"is_public": None},
        {"prefix_caching": None},  # the repeated prompt did hit
        {"prefix_caching": None, "generation": tried(cached=None, hits=512.0)},
        {"generation": tried(cached=0, prompt_tokens=40)},  # less than a block or two
        {"generation": None},  # told not to
        {"events": None, "engine": "tgi"},  # has none that could be off
        {"models": (), "models_status": 404},  # an engine without that page
        {"health": 204},
    ],
)
def test_what_is_no_fault_is_not_reported(otherwise: dict[str, Any]) -> None:
    assert check_engine(facts(**otherwise), POOL) == []


def test_what_cannot_be_told_is_listed_in_one_note() -> None:
    (found,) = check_engine(facts(queue_limit=None, sampling=None, events=None), POOL)
    assert (found.code, found.severity) == ("unknown", NOTE)
    assert found.seen == "not told by the engine: a limit on the queue, sampling defaults, cache events"


def test_troubles_are_told_apart() -> None:
    told = [check_engine(facts(trouble=trouble), POOL)[0] for trouble in Trouble]
    assert len({one.seen for one in told}) == len({one.mend for one in told}) == len(Trouble)


@pytest.mark.parametrize("engine", NAMES)
def test_no_advice_for_an_engine_names_a_flag_of_another(engine: str) -> None:
    """Everything that can be wrong with one engine at once."""
    broken = facts(
        engine=engine, prefix_caching=False, metrics=MetricsState.ABSENT, events=False, queue_limit=False,
        keep_alive=1.0, is_public=True, generation=tried(has_details=False),
    )  # fmt: skip
    found = check_engine(broken, POOL)
    assert len(found) == 7
    text = " ".join(one.mend for one in found)
    assert ("--enable-prompt-tokens-details" in text) == (engine == "vllm")
    assert ("--enable-cache-report" in text) == (engine == "sglang")
    assert all(one.mend for one in found)


def test_what_engines_have_in_common_is_told_once_and_the_worst_comes_first() -> None:
    found = [*check_engine(facts(name="a", health=503, events=False), POOL)]
    found += check_engine(facts(name="b", events=False, queue_limit=False), POOL)
    rows = merged(found[::-1])
    assert [(one.code, one.engines) for one in rows] == [
        ("unhealthy", ("a",)), ("queue-unlimited", ("b",)), ("events-off", ("b", "a")),
    ]  # fmt: skip


def test_severities_fall_with_harm() -> None:
    severities = [kind.severity for kind in KINDS.values()]
    assert severities == sorted(severities, key=[ERROR, WARNING, NOTE].index)


@pytest.mark.parametrize(
    ("codes", "status"), [([], 0), (["unknown"], 0), (["clocks-apart"], 1), (["unhealthy", "unknown"], 2)]
)
def test_the_worst_finding_makes_the_exit_status(codes: list[str], status: int) -> None:
    assert exit_status([Finding(code=code, engines=("a",), seen="s", mend="m") for code in codes]) == status
