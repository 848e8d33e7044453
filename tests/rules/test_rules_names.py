"""One name, one place: what the configuration offers is what the parts understand, and the docs tell of all of it."""

from __future__ import annotations

import inspect
import re
from dataclasses import MISSING

import pytest
import rules_checker as rules

from fairlead.config import schema
from fairlead.core import retry
from fairlead.core.policies import registry
from fairlead.engines.registry import NAMES

DOCS = rules.ROOT / "docs" / "policies.md"


def sections(text: str) -> set[str]:
    """Names in code letters that stand in headings: each of them has a section."""
    return {name for line in text.splitlines() if line.startswith("#") for name in re.findall(r"`(\w+)`", line)}


def test_policies_offered_are_the_policies_there_are() -> None:
    assert len(set(schema.POLICIES)) == len(schema.POLICIES)
    assert set(schema.POLICIES) == set(registry.POLICIES)


def test_the_default_policy_is_one() -> None:
    assert schema.Policy().name == registry.DEFAULT


def test_engines_offered_are_the_dialects_there_are() -> None:
    assert ("auto", *NAMES) == schema.ENGINES


def test_retry_reasons_offered_are_the_reasons_there_are() -> None:
    assert len(set(schema.RETRY_REASONS)) == len(schema.RETRY_REASONS)
    assert set(schema.RETRY_REASONS) == set(retry.REASONS)


def test_retry_defaults_are_the_same_in_both_places() -> None:
    rules_, offered = retry.RetryRules(), schema.Retries()
    assert (rules_.attempts, rules_.window, rules_.budget) == (offered.attempts, offered.window, offered.budget)
    assert rules_.on == set(offered.on)


@pytest.mark.parametrize("name", registry.POLICIES)
def test_policy_options_have_one_default(name: str) -> None:
    """An option that the policy's constructor knows is offered under the same name with the same default."""
    offered = schema.options_of(schema.Policy)
    for option, parameter in inspect.signature(registry.POLICIES[name]).parameters.items():
        assert option in offered, f"{name} takes {option!r}, and no configuration can set it"
        assert offered[option][0].only_for == name
        assert offered[option][1] is not MISSING
        assert parameter.default == offered[option][1], f"{name}: {option} has two defaults"


@pytest.mark.parametrize("name", registry.POLICIES)
def test_every_policy_has_a_section_in_the_docs(name: str) -> None:
    text = DOCS.read_text("utf-8")
    assert name in sections(text)
    assert f"[`{name}`]" in text, "and a row in the table at the top"


def test_no_section_is_about_a_policy_that_is_not_there() -> None:
    assert sections(DOCS.read_text("utf-8")) == set(registry.POLICIES)


def test_every_policy_option_is_told_in_the_docs() -> None:
    text = DOCS.read_text("utf-8")
    for option, (about, _) in schema.options_of(schema.Policy).items():
        if about.only_for:
            assert f"`{option}`" in text, option


def test_the_docs_rule_can_fail() -> None:
    assert sections("# Policies\n## `one`\n### `two` and `three`\ntext `four`\n") == {"one", "two", "three"}
