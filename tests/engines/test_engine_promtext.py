"""The Prometheus scanner: tolerant, bounded, silent."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairlead.engines import promtext
from fairlead.engines.promtext import Scanner, Series, number

SCANNER = Scanner(["up", "up_total", "a:b"])


def values(body: bytes, name: str = "up") -> list[float]:
    return [series.value for series in SCANNER.scan(body).get(name, [])]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"up 1\n", [1.0]),
        (b"up 1", [1.0]),
        (b"up\t1\r\n", [1.0]),
        (b"up   1.5e2   1700000000000\n", [150.0]),
        (b"up{} 2\n", [2.0]),
        (b'up{a="b",} 2\n', [2.0]),
        (b'up { a = "b" , c="d" } 2\n', [2.0]),
        (b'up{a="}{ 9",b="\\"} 8"} 2\n', [2.0]),
        (b'up{a="b"} 3 # {trace_id="x"} 0.5 1.0\n# EOF\n', [3.0]),
        (b"up NaN\nup +Inf\nup -Inf\nup -1\nup 4\n", [4.0]),
        (b"# HELP up up 5\n# TYPE up gauge\nup 6\n", [6.0]),
        (b"uptime 7\nup_created 7\nsetup 7\n", []),
        (b'other{x="\nup 8\n', [8.0]),  # an unclosed quote ends with its line
        (b'up{a="b" 2\n', []),
        (b"up{a=b} 2\n", []),
        (b"up\n", []),
        (b"up two\n", []),
        (b"up " + b"1" * 100 + b"\n", []),
        (b"<html>up 1</html>", []),
        (b"", []),
    ],
)
def test_lines_that_can_be_read_are_read_and_others_are_skipped(body: bytes, expected: list[float]) -> None:
    assert values(body) == expected


def test_a_counter_and_its_suffixed_name_stay_apart() -> None:
    found = SCANNER.scan(b"up 1\nup_total 2\na:b 3\n")
    assert found == {"up": [Series({}, 1.0)], "up_total": [Series({}, 2.0)], "a:b": [Series({}, 3.0)]}


def test_escapes_and_odd_bytes_in_label_values_are_decoded() -> None:
    body = b'up{path="C:\\\\x",quote="\\"",line="a\\nb",odd="\xff"} 1\n'
    assert SCANNER.scan(body)["up"][0].labels == {
        "path": "C:\\x",
        "quote": '"',
        "line": "a\nb",
        "odd": "\N{REPLACEMENT CHARACTER}",
    }


def test_a_scanner_without_names_finds_nothing() -> None:
    assert Scanner([]).scan(b"\n 1\n") == {}


def test_series_of_one_name_are_bounded() -> None:
    body = b"".join(b'up{i="%d"} 1\n' % index for index in range(promtext.MAX_SERIES + 10))
    assert len(SCANNER.scan(body)["up"]) == promtext.MAX_SERIES


def test_a_page_over_the_limit_loses_whole_lines_never_half_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(promtext, "MAX_BODY", 12)
    assert values(b"up 11\nup 2222\nup 3\n") == [11.0]


@pytest.mark.parametrize(
    "body",
    [
        b"\nup" * 400_000,
        b"\nup{" + b"a" * 1_000_000,
        b"\nup{" + b'a="' * 400_000,
        b'\nup{a="' + b"\\" * 1_000_001,
        b"\nup" + b" " * 1_000_000 + b"x",
        b"\nup{" + b"," * 1_000_000,
        b'\nup{a="b"' + b" " * 1_000_000,
        b"\n" * 1_000_000,
    ],
    ids=["names", "label name", "quotes", "backslashes", "blanks", "commas", "no end", "line feeds"],
)
@pytest.mark.timeout(20)  # linear work takes milliseconds; quadratic work would take hours
def test_hostile_pages_cost_linear_time(body: bytes) -> None:
    assert SCANNER.scan(body) == {}


@given(st.binary(max_size=400))
def test_random_bytes_never_raise(body: bytes) -> None:
    SCANNER.scan(body)
    SCANNER.scan(b"up{" + body)
    SCANNER.scan(b'up{a="' + body + b'"} 1')


LABEL_TEXT = st.text(st.characters(codec="utf-8"), max_size=20)


@given(
    st.dictionaries(st.from_regex(r"[a-z_][a-z0-9_]{0,8}", fullmatch=True), LABEL_TEXT, max_size=4), st.floats(0, 1e300)
)
def test_what_is_written_by_the_rules_is_read_back(labels: dict[str, str], value: float) -> None:
    def quote(text: str) -> str:
        return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")

    inside = ",".join(f'{key}="{quote(text)}"' for key, text in labels.items())
    assert SCANNER.scan(f"up{{{inside}}} {value!r}\n".encode()) == {"up": [Series(labels, value)]}


@pytest.mark.parametrize("text", [None, "", "None", "nan", "inf", "-1", "1" * 65, b"x", "auto"])
def test_what_is_no_count_is_no_number(text: bytes | str | None) -> None:
    assert number(text) is None
