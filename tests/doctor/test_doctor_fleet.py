"""Findings between engines of one model: there when they differ, not there when they are alike or do not tell."""

from __future__ import annotations

from typing import Any

import pytest
from doctor_peers import facts

from fairlead.doctor.checks import Pool
from fairlead.doctor.checks_fleet import check
from fairlead.doctor.facts import EngineFacts, Model, Trouble
from fairlead.doctor.findings import Finding

POOL = Pool()

DIFFERENCES: list[tuple[str, dict[str, Any], str]] = [
    ("tokenizer-differs", {"tokenization": {"m": "6 (def)"}}, "5 (abc) on a:1; 6 (def) on b:1"),
    ("weights-differ", {"models": (Model("m", longest=4096, root="other/m"),)}, "meta/m on a:1; other/m on b:1"),
    ("context-differs", {"models": (Model("m", longest=2048, root="meta/m"),)}, "2048 on b:1; 4096 on a:1"),
    ("block-size-differs", {"block_tokens": 32}, "16 on a:1; 32 on b:1"),
    ("sampling-differs", {"sampling": {"generation_config": "vllm"}}, "generation_config=auto on a:1"),
    ("version-differs", {"version": "0.31.0"}, "vLLM 0.31.0 on b:1; vLLM 0.32.0 on a:1"),
    ("clocks-apart", {"clock_ahead": -2.95}, "4.9 s apart"),
]


def pair(**otherwise: Any) -> list[Finding]:
    """Two engines that differ in this alone."""
    return check([facts(clock_ahead=1.95), facts(name="b:1", **{"clock_ahead": 1.95, **otherwise})], POOL)


def test_two_engines_that_are_alike_have_no_finding() -> None:
    assert pair() == []


@pytest.mark.parametrize(("code", "otherwise", "seen"), DIFFERENCES)
def test_each_difference_is_found_alone(code: str, otherwise: dict[str, Any], seen: str) -> None:
    (found,) = pair(**otherwise)
    assert (found.code, set(found.engines)) == (code, {"a:1", "b:1"})
    assert seen in found.seen
    assert found.mend


@pytest.mark.parametrize(
    "otherwise",
    [
        {"tokenization": {}},
        {"models": (Model("m"),)},
        {"block_tokens": None},
        {"version": None},
        {"clock_ahead": None},
        {"sampling": {"generation_config": "vllm"}, "models": (Model("n", longest=1, root="x"),), "tokenization": {}},
    ],
)
def test_what_an_engine_does_not_tell_is_no_difference(otherwise: dict[str, Any]) -> None:
    assert pair(**otherwise) == []


def test_an_engine_that_cannot_be_asked_is_not_compared() -> None:
    found = pair(trouble=Trouble.REFUSED, version="0.1", block_tokens=1)
    assert [one.code for one in found] == ["unreachable"]


def test_sampling_is_compared_only_between_engines_of_one_kind() -> None:
    found = pair(engine="sglang", title="SGLang", sampling={"sampling_defaults": "model"})
    assert [one.code for one in found] == ["version-differs"]


def test_the_advice_for_different_kinds_names_the_flag_of_each() -> None:
    (found, _) = pair(engine="sglang", title="SGLang", models=(Model("m", longest=2048, root="meta/m"),))
    assert found.code == "context-differs"
    assert "--max-model-len" in found.mend
    assert "--context-length" in found.mend


def test_many_engines_are_named_shortly_and_listed_in_full() -> None:
    fleet: list[EngineFacts] = [facts(name=f"e{number}", block_tokens=16) for number in range(9)]
    fleet.append(facts(name="odd", block_tokens=128))
    (found,) = check(fleet, POOL)
    assert "16 on e0, e1, e2 and 6 more; 128 on odd" in found.seen
    assert len(found.engines) == 10


def test_one_clock_that_is_far_off_is_told_once() -> None:
    found = check([facts(clock_ahead=0.0), facts(name="b:1", clock_ahead=90.0)], POOL)
    assert [(one.code, one.engines) for one in found] == [("clocks-apart", ("b:1",))]
