"""Names in JSON bodies: whatever is given twice is found, and nothing else; whole values may lie anywhere."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairlead.core.model import Facts
from fairlead.wire import names
from fairlead.wire.openai import BadBody, read_facts

CHAT = b"/v1/chat/completions"
NONE = frozenset[str]()


def facts_of(body: bytes, path: bytes = CHAT) -> Facts:
    facts = read_facts(path, body, False)
    assert facts is not None
    return facts


def refusal(body: bytes, path: bytes = CHAT) -> str:
    """The reason why a body is refused; "" when it is not."""
    try:
        facts_of(body, path)
    except BadBody as problem:
        return problem.reason
    return ""


TWICE = (
    b'{"model":"a","model":"b"}', b'{"model":"a","model":"a"}', b'{"messages":[],"model":"a","x":{"y":1},"model":"b"}',
    b'{"stream":true,"stream":false}', b'{"max_tokens":12,"max_tokens":1}', b'{"cache_salt":"a","cache_salt":"b"}',
    b'{"messages":[1],"messages":[2],"model":"m"}', b'{"messages":[1],"messages":[1]}', b'{ "model" : "a" , "model":1}',
    b'{"model":"a","mod\\u0065l":"b"}', b'{"mod\\u0065l":"b"}', b'{"Model":"b"}', b'{"model":"a","MODEL":"b"}',
    b'{"messages":["\\"messages\\":[]"],"model":"a","model":"b"}', b'{"x":"\\\\","model":"a","model":"b"}',
    b'{"metadata":{"messages":[1]},"messages":[1],"model":"a","model":"b"}', b'{"model":"a",\n\t"model"\r:"b"}',
    b'{"temperature":1,"temperature":2}', b'{"model":"ab","model":"a"}', b'{"model":"","model":"a"}',
)  # fmt: skip
ONCE = (
    b'{"x":{"messages":12},"messages":1,"model":"a"}', b"{}", b' { } ', b'{"model":"a"}',
    b'{"x":{"model":"a","model":"b"},"model":"c"}', b'{"messages":[{"model":1}],"model":"a"}',
    b'{"model":"a","messages":[{"content":"\\"model\\":\\"b\\""}]}', b'{"model":"a","x":"\\"model\\":\\"b\\""}',
    b'{"tools":[{"model":1,"stream":2}],"model":"a","stream":true,"messages":[]}', b'{"x_model":1,"model":"a"}',
    b'{"metadata":{"messages":[1]},"messages":[2],"model":"a"}', b'{"messages":[],"model":"messages"}',
    b'{"x\\u0041":1,"model":"a"}', b'{"model"\n:\t"a" ,"messages" : [ ] }', b'{"Temperature":1}',
    b'{"messages":"a","x":"messages"}',
)  # fmt: skip


@pytest.mark.parametrize("body", TWICE)
def test_a_name_that_is_given_twice_or_spelled_otherwise_is_refused(body: bytes) -> None:
    for _ in range(2):  # and again, now that it was seen
        assert refusal(body) == "ambiguous_body"


@pytest.mark.parametrize("body", ONCE)
def test_names_inside_values_do_not_count(body: bytes) -> None:
    for _ in range(2):
        assert refusal(body) == ""


def test_the_memo_of_a_clear_body_does_not_hide_an_unclear_one() -> None:
    assert refusal(b'{"model":"a","messages":[1],"stream":true}') == ""
    assert refusal(b'{"model":"a","messages":[2],"stream":true}') == ""
    assert refusal(b'{"model":"a","messages":[2],"stream":true,"model":"b"}') == "ambiguous_body"
    # the cut would leave the same text, if it were made inside the string
    assert refusal(b'{"model":"a","messages":[1,"\\"messages\\":[1],\\"x"],"stream":true}') == ""
    assert refusal(b'{"a":"\\"messages\\":[1","messages":[1],"model":"a","model":"b"}') == "ambiguous_body"


_KEYS = st.sampled_from(["model", "messages", "stream", "tools", "a", "b\\", 'c"', "d:", "{e", "Messages2", "é"])
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(0, 12)
    | st.sampled_from(["", "a", '"', "\\", '","model":"x', '"messages":[', "{", "}"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(
    pairs=st.lists(st.tuples(_KEYS, _VALUES), max_size=6),
    spaces=st.sampled_from([("", ""), (" ", ""), ("", " "), ("\n ", "\t")]),
    long=st.lists(st.sampled_from(["messages", "tools", "a"]), max_size=3, unique=True),
)
def test_duplicates_are_found_as_a_full_parser_finds_them(
    pairs: list[tuple[str, Any]], spaces: tuple[str, str], long: list[str]
) -> None:
    before, after = spaces
    written = (f"{before}{json.dumps(name)}{before}:{after}{json.dumps(value)}" for name, value in pairs)
    body = ("{" + ",".join(written) + after + "}").encode()
    last = {name: msgspec.Raw(json.dumps(value).encode()) for name, value in pairs}
    values = [(json.dumps(name).encode(), last[name]) for name in long if name in last]
    twice = len(last) != len(pairs)
    for _ in range(2):
        assert (names.unclear_name(body, NONE, values) is not None) == twice, body


def test_what_other_parsers_would_read_is_called_ambiguous_and_the_rest_is_no_json() -> None:
    text = '{"model":"a"}'
    for body in (b"\xef\xbb\xbf{}", text.encode("utf-16"), text.encode("utf-32"), text.encode("utf-16-be"),
                 b'{"model":NaN}', b'{"x":[NaN]}', b'{"x": Infinity}', b'{"x":-Infinity,"model":"a"}',
                 b'{"messages":' + b"[" * 10_000 + b"]" * 10_000 + b"}"):  # fmt: skip
        assert refusal(body) == "ambiguous_body", body[:40]
    for body in (b"", b"{", b'{"x":nan}', b'{"N":}', b"{'a':1}", b'{"I":1', b"null"):
        assert refusal(body) == "bad_body", body


def test_bodies_made_to_be_slow_are_refused_before_they_are_gone_through() -> None:
    many = b"{" + b",".join(b'"k%d":1' % number for number in range(names.MAX_COLONS + 1)) + b"}"
    assert refusal(many) == "ambiguous_body"
    text = b'"a: b, c: d, \\"messages\\": [1]" '
    large = b'{"x":"\\n","messages":[' + b",".join([text] * 40_000) + b'],"model":"a"}'
    assert large.count(b":") > names.MAX_COLONS
    assert refusal(large) == ""  # the colons of a prompt do not count
