"""Continuing a stream: what may be continued, what the next engine is asked, and how its events join the others."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fairlead.wire import resume
from fairlead.wire.resume import (
    CHAT,
    COMPLETIONS,
    Kept,
    Plan,
    Rewriter,
    asking_ids,
    closing,
    continuation,
    is_engines_end,
    read_plan,
    without_ids,
)
from fairlead.wire.sse import data_of

MESSAGES = [{"role": "user", "content": "hi"}]
HEAD = {"id": "one", "object": "chat.completion.chunk", "created": 1, "model": "m"}
TEXT_HEAD = HEAD | {"object": "text_completion"}


def body(**fields: Any) -> bytes:
    return json.dumps({"model": "m", "stream": True, "messages": MESSAGES, **fields}).encode()


def prompted(**fields: Any) -> bytes:
    return json.dumps({"model": "m", "stream": True, "prompt": "hi", "max_tokens": 9, **fields}).encode()


def plan_of(path: bytes, data: bytes) -> Plan:
    plan = read_plan(path, data)
    assert isinstance(plan, Plan), plan
    return plan


def eligible(path: bytes, data: bytes) -> str | None:
    """Why not; None if it is."""
    plan = read_plan(path, data)
    return plan if isinstance(plan, str) else None


def chat_event(text: str = "", ids: list[int] | None = None, finish: str | None = None, **more: Any) -> dict[str, Any]:
    choice: dict[str, Any] = {"index": 0, "delta": {"content": text}, "finish_reason": finish}
    if ids is not None:
        choice["token_ids"] = ids
    return HEAD | {"choices": [choice]} | more


def kept_of(*events: dict[str, Any], chat: bool = True, **fields: Any) -> Kept:
    kept = Kept(plan_of(CHAT, body(**fields)) if chat else plan_of(COMPLETIONS, prompted(**fields)))
    for said in events:
        kept.observe(said)
    return kept


def role(ids: list[int] | None = None) -> dict[str, Any]:
    said = HEAD | {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}]}
    return said | ({"prompt_token_ids": ids} if ids is not None else {})


def read(event: bytes) -> dict[str, Any]:
    data = data_of(event)
    assert data is not None
    said = json.loads(data)
    assert isinstance(said, dict)
    return said


# --- eligible ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"max_tokens": 5, "min_tokens": 2, "temperature": 0.5, "top_p": 1, "seed": 3, "stop": ["x"]},
        {"n": 1, "logprobs": False, "tools": [], "tool_choice": "none", "response_format": {"type": "text"}},
        {"n": None, "logprobs": None, "tools": None, "guided_json": None},
        {"frequency_penalty": 0, "presence_penalty": 0.0, "repetition_penalty": 1.1},
        {"chat_template_kwargs": {"enable_thinking": False}, "metadata": {"a": "b"}},
        {"stream_options": {"include_usage": True}, "return_token_ids": True},
    ],
)
def test_plain_text_may_be_continued(fields: dict[str, Any]) -> None:
    assert eligible(CHAT, body(**fields)) is None


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"n": 2}, "`n`"),
        ({"logprobs": True}, "`logprobs`"),
        ({"top_logprobs": 2}, "`top_logprobs`"),
        ({"frequency_penalty": 0.1}, "`frequency_penalty`"),
        ({"presence_penalty": -1}, "`presence_penalty`"),
        ({"response_format": {"type": "json_object"}}, "`response_format`"),
        ({"response_format": {"type": "json_schema", "json_schema": {}}}, "`response_format`"),
        ({"guided_grammar": "x"}, "`guided_grammar`"),
        ({"structured_outputs": {}}, "`structured_outputs`"),
        ({"tools": [{"type": "function"}]}, "`tools`"),
        ({"tool_choice": "auto"}, "`tool_choice`"),
        ({"continue_final_message": True}, "`continue_final_message`"),
        ({"add_generation_prompt": False}, "`add_generation_prompt`"),
        ({"kv_transfer_params": {}}, "`kv_transfer_params`"),
        ({"logits_processors": []}, "`logits_processors`"),
        ({"max_tokens": "5"}, "`max_tokens`"),
        ({"max_tokens": 0}, "`max_tokens`"),
        ({"min_tokens": 1.5}, "`min_tokens`"),
        ({"stream": False}, "no stream"),
        ({"prompt": "x"}, "`prompt`"),
    ],
)
def test_what_counts_steers_or_watches_the_text_may_not(fields: dict[str, Any], reason: str) -> None:
    assert eligible(CHAT, body(**fields)) == reason


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({}, None),
        ({"prompt": [1, 2, 3]}, None),
        ({"echo": False, "suffix": "", "best_of": 1}, None),
        ({"echo": True}, "`echo`"),
        ({"suffix": "x"}, "`suffix`"),
        ({"best_of": 2}, "`best_of`"),
        ({"logprobs": 0}, "`logprobs`"),
        ({"max_tokens": None}, "no `max_tokens`"),
        ({"chat_template": "x"}, "`chat_template`"),
    ],
)
def test_completions_are_judged_by_their_own_fields(fields: dict[str, Any], reason: str | None) -> None:
    assert eligible(COMPLETIONS, prompted(**fields)) == reason


def test_other_dialects_and_broken_bodies_may_not() -> None:
    assert eligible(b"/v1/messages", body()) is not None
    assert eligible(b"/v1/responses", body()) is not None
    assert eligible(CHAT, b"[]") == "the body cannot be read"
    assert eligible(CHAT, b'{"a":') == "the body cannot be read"


def test_ids_are_asked_for_in_front_and_only_where_nobody_spoke_of_them() -> None:
    asked = asking_ids(b' {"model":"m"}')
    assert asked == b' {"return_token_ids":true,"model":"m"}'
    assert plan_of(CHAT, body()).asks_ids
    assert not plan_of(CHAT, body(return_token_ids=False)).asks_ids


# --- what was said -------------------------------------------------------------------------------------------------


def test_text_and_ids_are_kept() -> None:
    kept = kept_of(role([1, 2]), chat_event("a", [5]), chat_event("bc", [6, 7]))
    assert (bytes(kept.text), list(kept.ids), kept.tokens, kept.by_ids) == (b"abc", [5, 6, 7], 3, True)
    assert kept.head == HEAD
    assert kept.size == 3 + 4 * 5


def test_tokens_whose_text_is_held_back_are_not_taken_as_sent() -> None:
    kept = kept_of(role([1]), chat_event("a", [5]), chat_event("", [6]))
    assert (list(kept.ids), kept.tokens) == ([5], 1)
    kept.observe(chat_event("é", [7]))
    assert list(kept.ids) == [5, 6, 7]


def test_with_stop_strings_ids_run_ahead_of_the_text_and_are_not_gone_on_from() -> None:
    kept = kept_of(role([1]), chat_event("", [5]), chat_event("a", [6]), stop=["xyz"])
    assert (kept.by_ids, kept.counted, kept.tokens) == (False, True, 1)
    kept.observe(chat_event("bc", [7], "stop"))
    assert kept.tokens == 3


@pytest.mark.parametrize("ids", [None, [-1], ["x"], [2**40], 7])
def test_without_good_ids_tokens_are_events_with_text(ids: Any) -> None:
    kept = kept_of(role([1]), chat_event("a", [5]), chat_event("b", ids), chat_event(""))
    assert (kept.by_ids, kept.tokens, kept.unfit) == (False, 2, "")


@pytest.mark.parametrize(
    "said",
    [
        HEAD | {"choices": [{"index": 0, "delta": {"tool_calls": [{"index": 0}]}}]},
        HEAD | {"choices": [{"index": 0, "delta": {"reasoning_content": "hm"}}]},
        HEAD | {"choices": [{"index": 1, "delta": {"content": "x"}}]},
        HEAD | {"choices": [{"index": 0}, {"index": 1}]},
        HEAD | {"choices": ["x"]},
        HEAD | {"choices": [{"index": 0, "message": {"content": "x"}}]},
        {"type": "something else"},
    ],
)
def test_what_is_more_than_one_text_gives_up(said: dict[str, Any]) -> None:
    kept = kept_of(role([1]), chat_event("a", [5]), said)
    assert kept.unfit
    assert (kept.size, bytes(kept.text), kept.by_ids) == (0, b"", False)


def test_too_much_text_gives_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resume, "MAX_KEPT", 10)
    kept = kept_of(role(), chat_event("x" * 10))
    assert not kept.unfit
    kept.observe(chat_event("x"))
    assert (kept.unfit, kept.size) == ("too much text", 0)


def test_ids_are_taken_out_of_events() -> None:
    said = role([1]) | {"choices": [{"index": 0, "text": "a", "token_ids": [5], "prompt_token_ids": None}]}
    assert without_ids(said)
    assert said == HEAD | {"choices": [{"index": 0, "text": "a"}]}
    assert not without_ids(said)


@pytest.mark.parametrize(
    ("said", "ends"),
    [
        ({"error": {"code": 500}}, True),
        ({"error": {"code": "503"}}, True),
        ({"error": {"code": 400}}, False),
        ({"error": {"message": "x"}}, False),
        ({"error": "x"}, False),
        ({"error": None, "choices": []}, False),
    ],
)
def test_an_engine_that_breaks_down_is_told_from_one_that_complains(said: dict[str, Any], ends: bool) -> None:
    assert is_engines_end(said) is ends


# --- what the next engine is asked -----------------------------------------------------------------------------------


def asked(data: bytes, kept: Kept, engine: str = "vllm", path: bytes = CHAT) -> tuple[bytes, dict[str, Any]]:
    found = continuation(path, data, plan_of(path, data), kept, engine)
    assert found is not None
    fields = json.loads(found[1])
    assert isinstance(fields, dict)
    return found[0], fields


SAID = (role([1, 2]), chat_event("a", [5]), chat_event("b", [6]))


def test_chat_goes_on_by_ids() -> None:
    data = body(max_completion_tokens=9, min_tokens=1, temperature=0, user="u", metadata={"a": 1})
    path, fields = asked(data, kept_of(*SAID))
    assert path == COMPLETIONS
    assert fields == {
        "model": "m", "stream": True, "temperature": 0, "user": "u", "prompt": [1, 2, 5, 6], "max_tokens": 7,
        "min_tokens": 0,
    }  # fmt: skip


def test_chat_without_a_limit_asks_for_as_much_as_fits() -> None:
    _, fields = asked(body(), kept_of(*SAID))
    assert fields["max_tokens"] is None


def test_chat_goes_on_by_text_where_ids_are_unknown() -> None:
    path, fields = asked(body(max_tokens=9), kept_of(role(), chat_event("a"), chat_event("b")), "sglang")
    assert path == CHAT
    assert fields["messages"] == [*MESSAGES, {"role": "assistant", "content": "ab"}]
    assert (fields["continue_final_message"], fields["add_generation_prompt"]) == (True, False)
    assert fields["max_tokens"] == 7


@pytest.mark.parametrize(
    "fields",
    [
        {"stop": ["x"]},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}]},
    ],
)
def test_ids_are_not_used_where_they_do_not_say_all(fields: dict[str, Any]) -> None:
    path, got = asked(body(**fields), kept_of(*SAID, **fields))
    assert (path, got["messages"][-1]) == (CHAT, {"role": "assistant", "content": "ab"})


def test_text_parts_are_no_media() -> None:
    path, _ = asked(body(messages=[{"role": "user", "content": [{"type": "text", "text": "x"}]}]), kept_of(*SAID))
    assert path == COMPLETIONS


def test_chat_is_not_asked_of_engines_that_would_begin_a_new_message() -> None:
    assert continuation(CHAT, body(), plan_of(CHAT, body()), kept_of(*SAID), "generic") is None
    data = body(messages=[*MESSAGES, {"role": "assistant", "content": "I"}])
    kept = kept_of(role(), chat_event("a"))
    assert continuation(CHAT, data, plan_of(CHAT, data), kept, "vllm") is None


def test_with_nothing_but_the_role_told_the_same_is_asked_again() -> None:
    assert asked(body(max_tokens=4), kept_of(role([1])), "generic") == (CHAT, json.loads(body(max_tokens=4)))


def completion(text: str, ids: list[int] | None = None, prompt: list[int] | None = None) -> dict[str, Any]:
    choice: dict[str, Any] = {"index": 0, "text": text, "finish_reason": None}
    if ids is not None:
        choice |= {"token_ids": ids, "prompt_token_ids": prompt}
    return TEXT_HEAD | {"choices": [choice]}


@pytest.mark.parametrize(
    ("prompt", "known", "expected"),
    [
        ("hi", True, [1, 5, 6]),
        ("hi", False, "hiab"),
        (["hi"], False, "hiab"),
        ([1], True, [1, 5, 6]),
        ([1], False, None),
        (["hi", "ho"], False, None),
    ],
)
def test_completions_go_on_behind_their_prompt(prompt: Any, known: bool, expected: Any) -> None:
    said = [completion("a", [5], [1]), completion("b", [6])] if known else [completion("a"), completion("b")]
    data = prompted(prompt=prompt)
    found = continuation(COMPLETIONS, data, plan_of(COMPLETIONS, data), kept_of(*said, chat=False), "vllm")
    if expected is None:
        assert found is None
        return
    assert found is not None
    fields = json.loads(found[1])
    assert (found[0], fields["prompt"], fields["max_tokens"]) == (COMPLETIONS, expected, 7)


# --- joining -------------------------------------------------------------------------------------------------------


def test_completions_become_chat() -> None:
    kept = kept_of(*SAID)
    rewriter = Rewriter(plan_of(CHAT, body()), kept, COMPLETIONS)
    choice = {"index": 0, "text": "c", "logprobs": None, "finish_reason": None, "token_ids": [7]}
    said = {"id": "two", "object": "text_completion", "created": 2, "model": "x", "choices": [choice]}
    expected = HEAD | {"choices": [{"index": 0, "logprobs": None, "finish_reason": None, "delta": {"content": "c"}}]}
    assert read(rewriter.rewrite(said)) == expected
    said = {"id": "two", "choices": [{"index": 0, "text": "", "finish_reason": "stop"}]}
    assert read(rewriter.rewrite(said))["choices"] == [{"index": 0, "finish_reason": "stop", "delta": {}}]
    assert (rewriter.finished, rewriter.said) == ("stop", 1)


def test_the_role_is_told_once() -> None:
    rewriter = Rewriter(plan_of(CHAT, body()), kept_of(role(), chat_event("a")), CHAT)
    assert rewriter.rewrite(role()) == b""
    both = HEAD | {"choices": [{"index": 0, "delta": {"role": "assistant", "content": "b"}, "finish_reason": None}]}
    assert read(rewriter.rewrite(both))["choices"][0]["delta"] == {"content": "b"}
    first = Rewriter(plan_of(CHAT, body()), kept_of(), CHAT)  # the first engine had told nothing at all
    assert read(first.rewrite(role()))["choices"][0]["delta"]["role"] == "assistant"


@pytest.mark.parametrize(("known", "prompt"), [(True, 2), (False, 8)])
def test_usage_is_counted_once(known: bool, prompt: int) -> None:
    said = SAID if known else (role(), chat_event("a"), chat_event("b"))
    rewriter = Rewriter(plan_of(CHAT, body()), kept_of(*said), CHAT)
    usage = {"prompt_tokens": 10, "completion_tokens": 4, "total_tokens": 14, "prompt_tokens_details": None}
    got = read(rewriter.rewrite({"id": "two", "choices": [], "usage": usage}))["usage"]
    assert (got["prompt_tokens"], got["completion_tokens"], got["total_tokens"]) == (prompt, 6, prompt + 6)
    assert rewriter.usage == got


def test_a_client_that_asked_for_ids_keeps_them() -> None:
    rewriter = Rewriter(plan_of(CHAT, body(return_token_ids=True)), kept_of(*SAID), COMPLETIONS)
    said = {"choices": [{"index": 0, "text": "c", "finish_reason": None, "token_ids": [7], "prompt_token_ids": [1]}]}
    assert read(rewriter.rewrite(said))["choices"][0]["token_ids"] == [7]
    assert "prompt_token_ids" not in said["choices"][0]


# --- ending --------------------------------------------------------------------------------------------------------

DONE_EVENT = b"data: [DONE]\n\n"


def test_a_stream_that_had_finished_is_closed() -> None:
    kept = kept_of(role([1]), chat_event("a", [5]), chat_event("", [9], "stop"))
    assert closing(plan_of(CHAT, body()), kept) == DONE_EVENT
    end = closing(plan_of(CHAT, body(stream_options={"include_usage": True})), kept)
    assert end is not None
    assert end.endswith(DONE_EVENT)
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    assert read(end.removesuffix(DONE_EVENT)) == HEAD | {"choices": [], "usage": usage}
    kept.done = True
    assert closing(plan_of(CHAT, body()), kept) == b""


def test_usage_that_nobody_knows_is_not_invented() -> None:
    kept = kept_of(role(), chat_event("a", None, "stop"))
    assert closing(plan_of(CHAT, body(stream_options={"include_usage": True})), kept) is None
    kept.observe(HEAD | {"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 1}})
    assert closing(plan_of(CHAT, body(stream_options={"include_usage": True})), kept) == DONE_EVENT


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
def test_a_limit_that_was_reached_is_the_finish_reason(path: bytes) -> None:
    chat = path == CHAT
    plan = plan_of(path, body(max_tokens=2) if chat else prompted(max_tokens=2))
    said = SAID if chat else (completion("a"), completion("b"))
    end = closing(plan, kept_of(*said, chat=chat))
    assert end is not None
    choice = read(end.removesuffix(DONE_EVENT))["choices"][0]
    assert choice["finish_reason"] == "length"
    assert choice["delta" if chat else "text"] == ({} if chat else "")


def test_a_stream_in_its_middle_is_not_closed() -> None:
    assert closing(plan_of(CHAT, body(max_tokens=3)), kept_of(*SAID)) is None
