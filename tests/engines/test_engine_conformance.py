"""Every registered dialect keeps the interface's promises, whatever the engine answers."""

from __future__ import annotations

import json
import math
from dataclasses import fields

import pytest
from engine_samples import OWN_ANSWERS, OWN_METRICS
from hypothesis import given, settings
from hypothesis import strategies as st

from fairlead.core.model import EngineStats
from fairlead.engines.interface import Answer, Dialect
from fairlead.engines.registry import DIALECTS, NAMES, all_clues, detect

NOTHING = EngineStats()
every_dialect = pytest.mark.parametrize("dialect", DIALECTS.values(), ids=NAMES)

KEYS = [
    "data",
    "id",
    "owned_by",
    "version",
    "name",
    "model_id",
    "model_path",
    "internal_states",
    "loads",
    "num_waiting_reqs",
    "token_usage",
    "numQueuedRequests",
    "kvCacheStats",
    "usedNumBlocks",
    "maxNumBlocks",
    "tokensPerBlock",
    "cacheHitRate",
    "total_slots",
    "default_generation_settings",
    "max_total_tokens",
    "router",
    "build_info",
    "vllm_config",
]

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(KEYS),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)
BODIES = st.binary(max_size=200) | JSON.map(lambda document: json.dumps(document).encode())
METRIC_LINES = st.lists(
    st.tuples(
        st.sampled_from([line.split(b" ")[0] for page in OWN_METRICS.values() for line in page.splitlines() if line]),
        st.sampled_from([b" 1", b" NaN", b" -1", b" 1e308", b" 0.5", b" 1e13", b"", b" x", b" 0", b" 120"]),
    ),
    max_size=12,
).map(lambda rows: b"\n".join(name + value for name, value in rows))


def check_ranges(stats: EngineStats) -> None:
    for each in fields(stats):
        value = getattr(stats, each.name)
        if value is None:
            continue
        assert math.isfinite(value) and value >= 0, each.name
        if each.name in {"kv_usage", "hit_rate"}:
            assert value <= 1
        if each.name in {"block_tokens", "kv_blocks"}:
            assert isinstance(value, int) and value > 0


@every_dialect
def test_a_dialect_says_who_it_is(dialect: Dialect) -> None:
    assert DIALECTS[dialect.name] is dialect
    assert dialect.name == dialect.name.lower() and dialect.title
    assert dialect.health_path.startswith("/") and dialect.health_timeout > 0
    assert dialect.clues and all(path.startswith("/") for path in dialect.clues)
    assert dialect.name in repr(dialect)


@every_dialect
@settings(max_examples=60)
@given(body=BODIES | METRIC_LINES)
def test_metrics_of_any_content_give_numbers_in_range_or_none(dialect: Dialect, body: bytes) -> None:
    for url in (*dialect.metrics_urls("http://engine:8000"), "not a url"):
        check_ranges(dialect.parse_metrics(url, body))


@every_dialect
@settings(max_examples=60)
@given(
    answers=st.dictionaries(
        st.sampled_from(all_clues()), st.builds(Answer, st.sampled_from([200, 404, 503]), BODIES), max_size=5
    )
)
def test_answers_of_any_content_are_judged_without_complaint(dialect: Dialect, answers: dict[str, Answer]) -> None:
    assert 0 <= dialect.recognise(answers) <= 100
    version = dialect.version(answers)
    assert version is None or (0 < len(version) <= 64 and version.isprintable())
    models = dialect.models(answers)
    assert models is None or all(isinstance(name, str) and name for name in models)
    assert detect(answers).name in DIALECTS


RUBBISH = {
    "html": b"<!DOCTYPE html><html><body>404</body></html>",
    "deep": b"[" * 200_000,
    "deep object": b'{"data":' * 100_000,
    "huge": b"x" * 9_000_000,
    "wrong types": b'{"data": {"id": 3}, "version": [1], "name": 7, "model_id": null, "loads": 3}',
    "rows of wrong types": b'{"data": [1, null, {"id": 5, "owned_by": {}}, {"id": ""}], "loads": [1, {"a": "x"}]}',
    "half": b'{"data": [{"id": "a", "owned_by": "vll',
    "wrong encoding": b'{"data": [{"id": "\xff\xfe"}]}',
    "null": b"null",
}


@every_dialect
@pytest.mark.parametrize("body", RUBBISH.values(), ids=RUBBISH)
def test_rubbish_tells_nothing_and_never_raises(dialect: Dialect, body: bytes) -> None:
    answers = {path: Answer(200, body) for path in all_clues()}
    assert dialect.recognise(answers) <= 1
    assert dialect.version(answers) is None
    assert dialect.models(answers) is None
    for url in dialect.metrics_urls("http://engine"):
        assert dialect.parse_metrics(url, body) == NOTHING


@every_dialect
def test_own_metrics_are_read_and_foreign_ones_are_not(dialect: Dialect) -> None:
    for name, body in OWN_METRICS.items():
        same_family = name == dialect.name or {name, dialect.name} == {"triton", "triton-openai"}
        assert (dialect.parse_metrics("http://engine/metrics", body) != NOTHING) == same_family, name


@every_dialect
def test_metrics_do_not_depend_on_the_order_of_lines_or_their_ends(dialect: Dialect) -> None:
    body = OWN_METRICS.get(dialect.name, b"")
    expected = dialect.parse_metrics("", body)
    lines = body.split(b"\n")
    assert dialect.parse_metrics("", b"\n".join(reversed(lines))) == expected
    assert dialect.parse_metrics("", b"\r\n".join(lines)) == expected


@every_dialect
def test_metrics_urls_are_absolute_and_keep_a_path_prefix(dialect: Dialect) -> None:
    urls = dialect.metrics_urls("http://engine:9000/behind/")
    assert bool(urls) == (dialect.name in OWN_METRICS)
    for url in urls:
        assert url.startswith(("http://engine:9000/behind/", "http://engine:8002/metrics"))
        assert "//" not in url.removeprefix("http://")


@every_dialect
def test_own_answers_name_models_and_version(dialect: Dialect) -> None:
    answers = OWN_ANSWERS[dialect.name]
    assert (dialect.models(answers) is None) == (dialect.name == "triton")
    assert (dialect.version(answers) is None) == (dialect.name in {"generic", "lmdeploy", "triton-openai"})
