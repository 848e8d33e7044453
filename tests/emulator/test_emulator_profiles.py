"""Profiles: are the times what the table's units say?"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from fairlead.emulator.profiles import PROFILES, UnknownProfile, profile


def test_the_table_holds_the_five_profiles_and_they_are_consistent() -> None:
    assert list(PROFILES) == ["h100-8b", "a100-8b", "l4-8b", "h100-70b-tp4", "a100-70b-tp4"]
    for row in PROFILES.values():
        assert row.block_tokens == 16
        assert row.max_model_len <= row.kv_blocks * row.block_tokens


@pytest.mark.parametrize(
    ("name", "prefill", "attended", "read", "sequences", "milliseconds"),
    [
        ("h100-8b", 0, 0, 0, 0, 6.8),
        ("h100-8b", 1000, 1000 * 500, 0, 1, 6.8 + 20 + 0.65 + 0.005),
        ("h100-8b", 0, 0, 100_000, 64, 6.8 + 7.6 + 0.32),
        ("a100-8b", 2048, 2048 * 1024, 0, 1, 10.5 + 122.88 + 8.388608 + 0.005),
        ("l4-8b", 0, 0, 10_000, 10, 64 + 8.5 + 0.08),
        ("h100-70b-tp4", 100, 100 * 50, 1000, 2, 16.6 + 7 + 0.0083 + 0.048 + 0.016),
        ("a100-70b-tp4", 1, 0.5, 0, 1, 25.6 + 0.175 + 0.0000025 + 0.008),
    ],
)
def test_step_times_by_hand(
    name: str, prefill: int, attended: float, read: int, sequences: int, milliseconds: float
) -> None:
    assert profile(name).step_seconds(prefill, attended, read, sequences) * 1e3 == pytest.approx(milliseconds)


def test_an_unknown_name_is_answered_with_the_nearest_right_one() -> None:
    with pytest.raises(UnknownProfile, match="did you mean 'h100-8b'"):
        profile("h100-8B")
    with pytest.raises(UnknownProfile, match="known: h100-8b"):
        profile("???")


@pytest.mark.parametrize("wrong", [{"token_budget": 0}, {"kv_tokens": 15}, {"max_model_len": 10**9}])
def test_a_profile_that_cannot_work_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="profile 'h100-8b'"):
        replace(profile("h100-8b"), **wrong)
