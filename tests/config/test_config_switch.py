"""What the body of a switch may say, and what it means."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairlead.config.schema import Policy, Shadow
from fairlead.config.switch import SwitchError, read_switch

NOW = Policy(name="round_robin")
FILE = Policy(name="session", header="x-chat", ttl=60.0), Shadow(name="expected_completion", throughput=0.25)


def read(body: object, policy: Policy = NOW, shadow: Shadow | None = None) -> tuple[Policy, Shadow | None]:
    return read_switch(body, policy, shadow, FILE)


def test_a_name_is_a_policy_with_the_defaults() -> None:
    assert read({"policy": "latency"}) == (Policy(name="latency"), None)
    assert read({"shadow": "latency"}) == (NOW, Shadow(name="latency"))


def test_options_belong_to_the_policy_or_else_to_the_shadow() -> None:
    assert read({"policy": "prefix_hash", "options": {"load_factor": 2}}) == (
        Policy(name="prefix_hash", load_factor=2.0),
        None,
    )
    assert read({"shadow": "prefix_cache", "options": {"overload": 3}})[1] == Shadow(name="prefix_cache", overload=3.0)
    both = {"policy": "prefix_hash", "options": {"load_factor": 2}, "shadow": {"name": "prefix_hash", "load_factor": 3}}
    assert read(both) == (Policy(name="prefix_hash", load_factor=2.0), Shadow(name="prefix_hash", load_factor=3.0))


def test_what_the_body_does_not_name_stays() -> None:
    shadow = Shadow(name="random")
    assert read({"policy": "latency"}, shadow=shadow) == (Policy(name="latency"), shadow)
    assert read({"shadow": None}, shadow=shadow) == (NOW, None)


def test_a_policy_of_the_file_keeps_the_options_of_the_file_where_none_are_given() -> None:
    assert read({"policy": "session"})[0] == FILE[0]
    assert read({"policy": "session", "options": {"ttl": "2m"}})[0] == Policy(
        name="session", header="x-chat", ttl=120.0
    )
    assert read({"policy": "expected_completion"})[0] == Policy(throughput=0.25)
    assert read({"shadow": {"name": "session", "cookie": "c"}})[1] == Shadow(
        name="session", header="x-chat", cookie="c", ttl=60.0
    )


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ([], "expected an object with some of policy, options, shadow, got a list"),
        ("latency", "expected an object with some of policy, options, shadow, got 'latency'"),
        ({}, "name a policy or a shadow"),
        ({"options": {}}, "name a policy or a shadow"),
        ({"polcy": "latency"}, "unknown key 'polcy' (did you mean 'policy'?)"),
        ({"policy": "latency", "x": 1}, "unknown key 'x' (known here: policy, options, shadow)"),
        ({"policy": None}, "policy: expected one of expected_completion, .*, got null (leave the key out to get the "
         "default)"),
        ({"policy": "leest_waiting"},
         "policy: expected one of .*, got 'leest_waiting' (did you mean 'least_waiting'?)"),
        ({"policy": "latency", "options": [1]}, "options: expected a table of options, got a list"),
        ({"policy": "latency", "options": {"name": "random"}}, "options: a name stands outside of the options"),
        ({"policy": {"name": "latency"}, "options": {}},
         "options: the options of policy stand in its own table already"),
        ({"policy": "latency", "options": {"ttl": "1m"}}, "policy.ttl: 'ttl' belongs to 'session', and the name here "
         "is 'latency' (leave it away, or set name: session)"),
        ({"policy": "prefix_hash", "options": {"load_facter": 2}},
         "policy.load_facter: unknown key 'load_facter' (did you mean 'load_factor'?)"),
        ({"shadow": "expected_completion", "options": {"throughput": 2}},
         "shadow.throughput: expected a number from 0 to 1, got 2"),
        ({"shadow": None, "options": {"throughput": 1}}, "options: no shadow, no options"),
        ({"policy": "session", "options": {"header": None}}, "policy: the session policy needs something that names "
         "the session (set header, cookie or body_field)"),
        ({"policy": "session", "shadow": {"name": "session", "cookie": "c"}}, "shadow: a session policy and its "
         "session shadow must find the session's name in the same place (give both the same header, cookie and "
         "body_field)"),
        ({"policy": "fast", "shadow": "slow"}, "policy: .* 'fast'; shadow: .* 'slow'.*"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_said_in_the_words_of_the_file(body: object, message: str) -> None:
    with pytest.raises(SwitchError) as refused:
        read(body)
    assert re.fullmatch(re.escape(message).replace(r"\.\*", ".*"), str(refused.value)), str(refused.value)


WORDS = st.sampled_from(["policy", "shadow", "options", "name", "ttl", "session", "latency", "throughput", "1m", "x"])
THINGS: st.SearchStrategy[Any] = st.recursive(
    WORDS | st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS | st.text(max_size=3), inner, max_size=4),
    max_leaves=12,
)


@given(THINGS)
def test_any_body_gives_two_policies_or_one_sentence(body: object) -> None:
    refused = ""
    try:
        policy, shadow = read(body)
    except SwitchError as problem:
        refused = str(problem) or "\n"
    else:
        assert type(policy) is Policy
        assert shadow is None or type(shadow) is Shadow
    assert "\n" not in refused
