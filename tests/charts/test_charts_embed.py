"""Script, style and data in one page: complete, safe and allowed by their own policy."""

from __future__ import annotations

import base64
import hashlib
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairlead import charts

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(values)
def test_embedded_data_come_back_and_cannot_end_their_element(data: object) -> None:
    text = charts.embed(data)
    assert "<" not in text
    assert json.loads(text) == data


def test_the_same_data_give_the_same_text() -> None:
    assert charts.embed({"b": 1, "a": "</script><!--"}) == charts.embed({"a": "</script><!--", "b": 1})


def test_what_json_does_not_know_is_refused() -> None:
    with pytest.raises(ValueError):
        charts.embed({"a": float("nan")})


def test_the_policy_allows_exactly_what_is_given() -> None:
    policy = charts.policy(["let a;"], ["p {}", "b {}"])
    digest = base64.b64encode(hashlib.sha256(b"let a;").digest()).decode()
    assert f"script-src 'sha256-{digest}';" in policy
    assert policy.startswith("default-src 'none';")
    assert policy.count("sha256-") == 3
    assert "unsafe" not in policy


def test_the_files_are_there_and_ask_for_nothing_from_elsewhere() -> None:
    script, style = charts.script(), charts.style()
    assert "export function draw(" in script
    assert "</" not in script and "</" not in style  # would end the element that they stand in
    assert re.findall(r"https?://[^\s\"]+", script + style) == ["http://www.w3.org/2000/svg"]  # a name, not an address
    assert not re.search(r"\b(?:import|fetch|XMLHttpRequest|innerHTML|eval)\b|@import|url\(", script + style)
    assert "\r" not in script + style  # a browser would hash it with other line ends


def test_every_class_that_the_script_uses_has_a_style() -> None:
    used = set(re.findall(r"\bfl-[a-z]+(?![a-z0-9-]*\$|[a-z-]*\{|-)", charts.script())) - {"fl-chart", "fl-c"}
    styled = set(re.findall(r"\.(fl-[a-z0-9]+)", charts.style()))
    assert used and used <= styled
    assert {f"fl-c{number}" for number in (*range(8), "x")} <= styled


def _luminance(colour: str) -> float:
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _contrast(one: str, other: str) -> float:
    low, high = sorted((_luminance(one), _luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_text_and_series_can_be_told_from_what_they_stand_on() -> None:
    """WCAG 2.2: 4.5:1 for text, 3:1 for what a chart is made of; by daylight and at night."""
    themes = re.findall(r":root \{(.*?)\}", charts.style(), re.DOTALL)
    assert len(themes) == 2
    for theme in themes:
        colours = dict(re.findall(r"--([a-z0-9]+): (#[0-9a-f]{6});", theme))
        for text in ("ink", "muted", "accent"):
            for ground in ("page", "surface"):
                assert _contrast(colours[text], colours[ground]) >= 4.5, (text, ground, colours[text])
        assert _contrast(colours["ink"], colours["mark"]) >= 4.5
        for series in (*(f"c{number}" for number in range(8)), "cx"):
            assert _contrast(colours[series], colours["surface"]) >= 3.0, (series, colours[series])
