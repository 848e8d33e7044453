"""Values on their way from nginx and to it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairlead.config.load import parse
from fairlead.config.units import UnitError
from fairlead.control.exports import nginx_words
from fairlead.control.exports.nginx import render
from fairlead.nginx import values


@given(st.integers(0, 1 << 36))
@settings(derandomize=True)
def test_a_size_is_the_same_number_of_bytes_again(count: int) -> None:
    assert values.size(nginx_words.size(count)) == count


@given(st.integers(1, 10**9))
@settings(derandomize=True)
def test_a_time_is_the_same_number_of_milliseconds_again(millis: int) -> None:
    assert round(values.seconds(nginx_words.duration(millis / 1000)) * 1000) == millis


@pytest.mark.parametrize(
    ("text", "seconds"), [("60", 60), ("1m30s", 90), ("1h 1", 3601), ("1w", 604800), ("5ms", 0.005)]
)
def test_times_as_nginx_writes_them(text: str, seconds: float) -> None:
    assert values.seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "s", "-1", "1.5s", "1x", "1 m"])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(UnitError):
        values.seconds(text)


@pytest.mark.parametrize("text", ["", "k", "-1", "1.5m", "1kb", "1t"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(UnitError):
        values.size(text)


@pytest.mark.parametrize(
    ("given_weights", "written"),
    [
        ([None, None], [None, None]),
        ([2.0, None], [2, 1]),
        ([2.0, 4.0], [2, 4]),
        ([0.5, 1.25], [2, 5]),
        ([0.001, 1000.0], [1, 10_000]),
    ],
)
def test_weights_become_whole_numbers(given_weights: list[float | None], written: list[int | None]) -> None:
    assert nginx_words.weights(given_weights) == written


@pytest.mark.parametrize(
    ("text", "word"),
    [("/v1/", "/v1/"), ("a b", '"a b"'), ("x\\", '"x\\\\"'), ('"', '"\\""'), ("", '""'), ("a;b", '"a;b"')],
)
def test_words_are_quoted_where_nginx_needs_it(text: str, word: str) -> None:
    assert nginx_words.quoted(text) == word


@pytest.mark.parametrize(
    ("retries", "line"),
    [
        ({}, "proxy_next_upstream error timeout http_502 http_503 non_idempotent;"),
        ({"on": ["429", "connect"]}, "proxy_next_upstream error http_429 non_idempotent;"),
        ({"on": []}, "proxy_next_upstream off;"),
        ({"attempts": 0}, "proxy_next_upstream off;"),
    ],
)
def test_retries_are_for_post_too(retries: dict[str, object], line: str) -> None:
    config, problems = parse({"backends": ["a:1"], "retries": retries}, "test")
    assert config is not None, problems
    assert f"    {line}\n" in render(config)
