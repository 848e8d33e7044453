"""What bodies of every route tell, and that no body can do harm."""

from __future__ import annotations

import contextlib
import itertools
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairlead.core.model import Facts, Kind
from fairlead.wire.openai import BLOCK_ENDS, IMAGE_BYTES, MAX_TOKENS, ROUTES, BadBody, hash_blocks, read_facts

CHAT = b"/v1/chat/completions"
TEXT = "a prompt of some length, so that it counts"
USER = [{"role": "user", "content": TEXT}]


def facts_of(path: bytes, body: Any, prefixes: bool = False) -> Facts:
    facts = read_facts(path, body if isinstance(body, bytes) else json.dumps(body).encode(), prefixes)
    assert facts is not None
    return facts


def size(value: Any) -> int:
    return len(json.dumps(value))


# path, body -> kind, model, prompt bytes (of which value), token ids, limit, n, stream
TABLE: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("/v1/chat/completions", {"model": "m", "messages": USER},
     {"kind": Kind.CHAT, "model": "m", "prompt_bytes": size(USER), "needs_model": True}),
    ("/v1/chat/completions", {"messages": USER, "max_completion_tokens": 7, "stream": True, "n": 3},
     {"max_tokens": 7, "stream": True, "n": 3, "model": None}),
    ("/v1/chat/completions", {"messages": USER, "stream": True, "stream_options": {"include_usage": True}},
     {"wants_usage": True}),
    ("/v1/chat/completions", {"messages": USER, "tools": [{"type": "function"}]},
     {"prompt_bytes": size(USER) + size([{"type": "function"}])}),
    ("/v1/completions", {"model": "m", "prompt": TEXT, "max_tokens": 5},
     {"kind": Kind.COMPLETION, "prompt_bytes": size(TEXT), "max_tokens": 5, "prompt_ids": 0}),
    ("/v1/completions", {"prompt": [TEXT, TEXT]}, {"prompt_bytes": size([TEXT, TEXT]), "prompt_ids": 0}),
    ("/v1/completions", {"prompt": [101, 2054, 2003, 102]}, {"prompt_ids": 4, "prompt_bytes": 0}),
    ("/v1/completions", {"prompt": [[1, 22, 333], [4444, 5]]}, {"prompt_ids": 5, "prompt_bytes": 0}),
    ("/v1/embeddings", {"model": "e", "input": TEXT, "max_tokens": 9},
     {"kind": Kind.PROMPT_ONLY, "model": "e", "prompt_bytes": size(TEXT), "max_tokens": None}),
    ("/v1/embeddings", {"input": [TEXT, "b"]}, {"prompt_bytes": size([TEXT, "b"])}),
    ("/v1/embeddings", {"input": [11, 22, 33, 44]}, {"prompt_ids": 4}),
    ("/v1/embeddings", {"input": [[11, 22], [33, 44]]}, {"prompt_ids": 4}),
    ("/v1/messages", {"model": "c", "system": "be brief, please", "messages": USER, "max_tokens": 64},
     {"kind": Kind.CHAT, "prompt_bytes": size("be brief, please") + size(USER), "max_tokens": 64}),
    ("/v1/responses", {"model": "m", "input": TEXT, "max_output_tokens": 12},
     {"kind": Kind.CHAT, "prompt_bytes": size(TEXT), "max_tokens": 12}),
    ("/v1/responses", {"input": USER}, {"prompt_bytes": size(USER)}),
    ("/v1/responses", {"input": "go on", "instructions": TEXT * 10}, {"prompt_bytes": size("go on") + size(TEXT * 10)}),
    ("/v2/models/ens/generate", {"text_input": TEXT, "max_tokens": 20},
     {"kind": Kind.COMPLETION, "model": "ens", "prompt_bytes": size(TEXT), "max_tokens": 20, "stream": False}),
    ("/v2/models/ens/versions/1/generate_stream", {"text_input": TEXT, "parameters": {"max_tokens": 8}},
     {"model": "ens", "max_tokens": 8, "stream": True}),
    ("/generate", {"inputs": TEXT, "parameters": {"max_new_tokens": 30}},
     {"kind": Kind.COMPLETION, "needs_model": False, "prompt_bytes": size(TEXT), "max_tokens": 30}),
    ("/generate_stream", {"inputs": TEXT}, {"stream": True}),
    ("/generate", {"text": TEXT, "sampling_params": {"max_new_tokens": 31}, "stream": True},
     {"prompt_bytes": size(TEXT), "max_tokens": 31, "stream": True}),
    ("/generate", {"input_ids": [5, 6, 7, 8, 9], "sampling_params": {}}, {"prompt_ids": 5}),
    ("/completion", {"prompt": TEXT, "n_predict": 17}, {"kind": Kind.COMPLETION, "max_tokens": 17}),
    ("/completion", {"prompt": TEXT, "n_predict": -1}, {"max_tokens": None}),
    ("/api/chat", {"model": "l", "messages": USER, "options": {"num_predict": 11}},
     {"kind": Kind.CHAT, "model": "l", "max_tokens": 11, "prompt_bytes": size(USER)}),
    ("/api/generate", {"model": "l", "prompt": TEXT, "options": {"num_predict": 12}},
     {"kind": Kind.COMPLETION, "max_tokens": 12, "prompt_bytes": size(TEXT)}),
    ("/tokenize", {"model": "m", "prompt": TEXT}, {"kind": Kind.CHEAP, "model": "m"}),
    ("/v1/rerank", {"model": "r", "documents": [TEXT, TEXT]},
     {"kind": Kind.PROMPT_ONLY, "prompt_bytes": size([TEXT, TEXT])}),
]  # fmt: skip


@pytest.mark.parametrize(("path", "body", "expected"), TABLE, ids=[f"{i}{row[0]}" for i, row in enumerate(TABLE)])
def test_facts_of_every_dialect(path: str, body: dict[str, Any], expected: dict[str, Any]) -> None:
    facts = facts_of(path.encode(), body)
    assert {name: getattr(facts, name) for name in expected} == expected


def test_token_ids_are_counted_however_they_are_written() -> None:
    for written in (
        b"[1,2,3]",
        b"[ 1, 2, 3 ]",
        b"[\n  1,\n  2,\n  3\n]",
        b"[[1,2],[3]]",
        b"[ [ 1, 2 ], [ 3 ] ]",
        b"[\t1,2,3]",
    ):
        facts = facts_of(b"/v1/completions", b'{"prompt": %b}' % written)
        assert (facts.prompt_ids, facts.prompt_bytes) == (3, 0), written


def test_other_routes_are_not_read() -> None:
    for path in (b"/v1/files", b"/", b"/v1/chat/completions/x", b"/v2/models/a/b/generate", b"/v2/models//generate"):
        assert read_facts(path, b"not json", False) is None


def test_pictures_are_not_counted_as_text() -> None:
    picture = "data:image/png;base64," + "QUJD" * 500_000
    content = [{"type": "text", "text": TEXT}, {"type": "image_url", "image_url": {"url": picture}}]
    facts = facts_of(CHAT, {"messages": [{"role": "user", "content": content}]})
    assert len(TEXT) < facts.prompt_bytes < IMAGE_BYTES + 1_000
    two = facts_of(CHAT, {"messages": [{"role": "user", "content": content * 2}]})
    assert facts.prompt_bytes < two.prompt_bytes < 2 * facts.prompt_bytes + 100
    anthropic = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "QUJD" * 500_000}}
    facts = facts_of(b"/v1/messages", {"messages": [{"role": "user", "content": [anthropic]}]})
    assert facts.prompt_bytes < IMAGE_BYTES + 1_000


def test_limits_that_make_no_sense_count_as_none() -> None:
    limits: list[Any] = [0, -1, -(10**30), None]
    for value in limits:
        assert facts_of(CHAT, {"messages": USER, "max_tokens": value}).max_tokens is None, value
    assert facts_of(CHAT, {"messages": USER, "max_tokens": 10**18}).max_tokens == MAX_TOKENS
    assert facts_of(CHAT, {"messages": USER, "max_tokens": 7.0}).max_tokens == 7
    assert facts_of(CHAT, {"messages": USER, "max_completion_tokens": 0, "max_tokens": 5}).max_tokens == 5
    counts: list[Any] = [0, -3, None, 10**9]
    for value in counts:
        assert facts_of(CHAT, {"messages": USER, "n": value}).n == 1, value


_WRONG: list[tuple[str, list[Any]]] = [
    ("max_tokens max_completion_tokens max_output_tokens n", [1.5, "7", True, [], {}]),
    ("stream", ["true", 1, 0, [], {}]),
    ("cache_salt", [1, True, [], {}]),
    ("model", [1, True, [], {}, ""]),
]
WRONG = [(name, value) for names, values in _WRONG for name in names.split() for value in values]


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_a_field_of_the_wrong_type_is_refused_as_engines_differ_in_what_they_make_of_it(name: str, value: Any) -> None:
    with pytest.raises(BadBody) as caught:
        facts_of(CHAT, {"messages": USER, name: value})
    assert caught.value.reason == "ambiguous_body"
    assert name in str(caught.value)


def test_bodies_that_cannot_be_read_are_told_apart() -> None:
    for body in (b"", b"{", b"null", b"[]", b"1", b'"x"', b"{}x", b"\xef\xbb\xbf{}", b"{'a':1}", b'{"model":"\xff"}',
                 b'{"model":NaN}', b"\x00", "{}".encode("utf-16"), b'{"model":1}', b'{"model":""}', b'{"model":[]}',
                 b'{"messages":' + b"[" * 100_000, b'{"x":' * 50_000):  # fmt: skip
        with pytest.raises(BadBody) as caught:
            read_facts(CHAT, body, True)
        assert len(str(caught.value)) < 300


def test_an_error_holds_no_text_of_the_body() -> None:
    for body in (b'{"messages":"canary}', b'{"messages":[canary]}', b'{"model":{"canary":1}}', b'["canary"]'):
        with pytest.raises(BadBody) as caught:
            read_facts(CHAT, body, True)
        assert "canary" not in str(caught.value)


_JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
_NAMES = (
    "model", "messages", "system", "tools", "prompt", "input", "inputs", "text_input", "text", "documents", "stream",
    "max_tokens", "max_completion_tokens", "max_output_tokens", "n_predict", "n", "stream_options", "parameters",
    "sampling_params", "options", "input_ids", "instructions",
)  # fmt: skip
_TYPED = ("model", "stream", "max_tokens", "max_completion_tokens", "max_output_tokens", "n_predict", "n")


@settings(max_examples=150, deadline=None)
@given(
    path=st.sampled_from([*ROUTES, b"/v2/models/x/generate"]),
    body=st.dictionaries(st.sampled_from(_NAMES), _JUNK, max_size=6),
)
def test_wrong_types_never_crash(path: bytes, body: dict[str, Any]) -> None:
    try:
        facts = facts_of(path, body, True)
    except BadBody as problem:
        told = str(problem)
        assert any(body.get(name) is not None and f"`{name}`" in told for name in _TYPED)
        return
    assert facts.prompt_bytes >= 0
    assert facts.prompt_ids >= 0
    assert facts.max_tokens is None or 0 < facts.max_tokens <= MAX_TOKENS
    assert 1 <= facts.n <= 128
    assert facts.model is None or isinstance(facts.model, str)


@settings(max_examples=150, deadline=None)
@given(path=st.sampled_from([*ROUTES]), body=st.binary(max_size=60) | st.text(max_size=40).map(str.encode))
def test_random_bytes_are_read_or_refused(path: bytes, body: bytes) -> None:
    with contextlib.suppress(BadBody):
        read_facts(path, body, True)


def blocks_of(prompt: bytes, model: str | None = None, salt: object = None) -> list[int]:
    facts = Facts(model=model)
    hash_blocks(prompt, facts, salt)
    assert facts.span == len(prompt)
    assert facts.block_ends is BLOCK_ENDS
    return list(facts.blocks)


def test_blocks_are_fine_where_prompts_begin_and_bounded_in_number() -> None:
    assert BLOCK_ENDS[0] == 256
    assert BLOCK_ENDS[-1] == 4 * 1024 * 1024
    sizes = [end - start for start, end in itertools.pairwise((0, *BLOCK_ENDS))]
    assert sizes == sorted(sizes)
    assert len(BLOCK_ENDS) < 256
    assert {256, 1_024, 4_096, 16_384, 65_536} <= set(BLOCK_ENDS), "what prefix_hash takes for its keys"


@pytest.mark.parametrize("at", [0, 3, 15, 20, 40, 90])
def test_prompts_with_the_same_beginning_share_the_hashes_of_its_blocks(at: int) -> None:
    base = b"".join(b"%d " % number for number in range(600_000))
    end = BLOCK_ENDS[at]
    one, two = blocks_of(base[:end] + b"A" * 100), blocks_of(base[:end] + b"B" * 100)
    assert one[: at + 1] == two[: at + 1]
    assert one[at + 1] != two[at + 1]
    assert len(one) == at + 2


def test_no_more_than_four_mebibytes_are_hashed() -> None:
    long = bytes(5 * 1024 * 1024)
    assert blocks_of(long) == blocks_of(long + b"more")
    assert len(blocks_of(long)) == len(BLOCK_ENDS)


@settings(max_examples=100, deadline=None)
@given(prompt=st.binary(max_size=3_000), other=st.binary(max_size=3_000))
def test_hashes_depend_on_the_bytes_and_on_nothing_else(prompt: bytes, other: bytes) -> None:
    first, second = blocks_of(prompt), blocks_of(other)
    assert first == blocks_of(bytes(bytearray(prompt)))
    assert len(first) == max(-(-len(prompt) // 256), 1)
    for i, end in enumerate(BLOCK_ENDS[: min(len(first), len(second))]):
        assert (first[i] == second[i]) == (prompt[:end] == other[:end])


def test_models_and_cache_salts_share_nothing() -> None:
    body = {"messages": [{"role": "user", "content": "hello " * 100}]}
    path = b"/v1/chat/completions"
    kinds = [
        facts_of(path, {**body, **more}, True).blocks
        for more in ({}, {"model": "a"}, {"model": "b"}, {"model": "a", "cache_salt": "s"}, {"cache_salt": "s"})
    ]
    assert len({tuple(blocks) for blocks in kinds}) == len(kinds)
    assert facts_of(path, {**body, "model": "a"}, True).blocks == kinds[1]
    assert facts_of(path, {**body, "model": "a"}).blocks == ()


def test_the_next_turn_of_a_conversation_begins_with_the_hashes_of_the_last() -> None:
    said = [{"role": "system", "content": "be brief " * 200}, {"role": "user", "content": "why? " * 100}]
    path = b"/v1/chat/completions"
    first = facts_of(path, {"model": "m", "messages": said}, True)
    more = [*said, {"role": "assistant", "content": "because"}, {"role": "user", "content": "and then?"}]
    second = facts_of(path, {"model": "m", "messages": more}, True)
    whole = sum(end <= first.span - 1 for end in BLOCK_ENDS)  # the last byte of the first is its closing bracket
    assert whole >= 5
    assert first.blocks[:whole] == second.blocks[:whole]
