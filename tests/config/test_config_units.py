"""Units: what is read, what is refused with which hint, and that formatting is the way back."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairlead.config.units import (
    UnitError,
    format_duration,
    format_percent,
    format_size,
    parse_duration,
    parse_percent,
    parse_size,
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("5s", 5.0),
        ("500ms", 0.5),
        ("2m", 120.0),
        ("1h", 3600.0),
        ("1h30m", 5400.0),
        ("1m30s", 90.0),
        ("1.5s", 1.5),
        ("0.25ms", 0.00025),
        ("1d", 86400.0),
        ("0s", 0.0),
        ("0", 0.0),
        (0, 0.0),
    ],
)
def test_a_duration_is_read(text: object, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    ("raw", "hint"),
    [
        (5, "write 5s or 5ms"),
        (0.5, "write 0.5s or 0.5ms"),
        ("5", "write 5s or 5ms"),
        ("5 sec", "write 5s"),
        ("10min", "write 10m"),
        ("3 Hours", "write 3h"),
        ("20 millis", "write 20ms"),
        ("30m1h", "write for example 1h30m or 1m30s"),
        ("1s1s", "write for example 1h30m or 1m30s"),
        ("soon", "units are ms, s, m, h and d"),
        ("-5s", "units are ms, s, m, h and d"),
        ("٣s", "units are ms, s, m, h and d"),
        ("", "units are ms, s, m, h and d"),
        (True, None),
        (None, None),
        (float("nan"), "write 5s or 5ms"),
        pytest.param(10**5000, "write 5s or 5ms", id="thousands of digits"),
    ],
)
def test_an_unclear_duration_is_refused_with_what_to_write(raw: object, hint: str | None) -> None:
    with pytest.raises(UnitError) as caught:
        parse_duration(raw)
    assert caught.value.hint == hint


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("32MiB", 32 * 1024**2),
        ("10MB", 10_000_000),
        ("64KiB", 65536),
        ("1GiB", 1024**3),
        ("100B", 100),
        ("1.5KiB", 1536),
        (0, 0),
        ("0", 0),
    ],
)
def test_a_size_is_read(text: object, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    ("raw", "hint"),
    [
        (32, "write 32MiB or 32KiB"),
        ("32", "write 32MiB, 32KiB or 32B"),
        ("32m", "write 32MiB"),
        ("64k", "write 64KiB"),
        ("1 gb", "write 1GiB"),
        ("8mib", "write 8MiB"),
        ("much", "units are B, KiB, MiB, GiB, KB, MB and GB"),
        (False, None),
        ([], None),
    ],
)
def test_an_unclear_size_is_refused_with_what_to_write(raw: object, hint: str | None) -> None:
    with pytest.raises(UnitError) as caught:
        parse_size(raw)
    assert caught.value.hint == hint


@pytest.mark.parametrize(
    ("raw", "share"),
    [("20%", 0.2), ("12.5 %", 0.125), (0.2, 0.2), (1.0, 1.0), (0, 0.0), ("0%", 0.0)],
)
def test_a_share_is_read(raw: object, share: float) -> None:
    assert parse_percent(raw) == share


@pytest.mark.parametrize(
    ("raw", "hint"),
    [(20, "write 20%"), (1, "write 1%"), ("20", "write 20%"), (2.5, "write 2.5%"), (-1, None), ("x", None)],
)
def test_an_unclear_share_is_refused_with_what_to_write(raw: object, hint: str | None) -> None:
    with pytest.raises(UnitError) as caught:
        parse_percent(raw)
    assert caught.value.hint == hint


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (600, "10m"), (75, "75s"), (0.5, "500ms"), (0.0015, "1.5ms"), (5400, "90m"), (86400, "1d")],
)
def test_a_duration_is_written_in_its_largest_whole_unit(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@given(st.integers(0, 10**14))
def test_a_written_duration_reads_as_itself(micros: int) -> None:
    seconds = micros / 1e6
    assert parse_duration(format_duration(seconds)) == seconds


@given(st.integers(0, 10**15) | st.builds(lambda n, e: n * 1024**e, st.integers(0, 999), st.integers(0, 3)))
def test_a_written_size_reads_as_itself(size: int) -> None:
    assert parse_size(format_size(size)) == size


@given(st.integers(0, 10**6))
def test_a_written_share_reads_as_itself(millionths: int) -> None:
    share = round(millionths / 1e6, 6)
    assert parse_percent(format_percent(share)) == share


@given(st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.lists(st.text()))
def test_readers_raise_unit_errors_and_nothing_else(raw: object) -> None:
    for read in (parse_duration, parse_size, parse_percent):
        with contextlib.suppress(UnitError):
            assert read(raw) >= 0
