"""Does the OpenAI SDK work through fairlead as it does on the engine itself?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from .client import MODEL, call, chat, streaming

if TYPE_CHECKING:
    from openai import OpenAI
    from openai.types.chat import ChatCompletionMessageParam

pytestmark = pytest.mark.live

HELLO: list[ChatCompletionMessageParam] = [
    {"role": "system", "content": "be brief"},
    {"role": "user", "content": "import os"},
]
TO_THE_END: dict[str, Any] = {"ignore_eos": True}  # a random model would stop by chance


def test_a_chat_is_answered_in_full(openai_client: OpenAI) -> None:
    answer = openai_client.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=12, extra_body=TO_THE_END)
    assert answer.model == MODEL
    assert answer.choices[0].finish_reason == "length"
    assert answer.choices[0].message.content
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 12


def test_a_streamed_chat_comes_in_pieces_and_ends_by_itself(openai_client: OpenAI) -> None:
    stream = openai_client.chat.completions.create(
        model=MODEL, messages=HELLO, max_tokens=12, stream=True, extra_body=TO_THE_END
    )
    chunks = list(stream)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices[0].finish_reason == "length"
    assert sum(bool(chunk.choices[0].delta.content) for chunk in chunks) > 1
    assert len({chunk.id for chunk in chunks}) == 1


def test_usage_is_in_the_stream_when_the_client_asks_for_it(openai_client: OpenAI) -> None:
    stream = openai_client.chat.completions.create(
        model=MODEL,
        messages=HELLO,
        max_tokens=12,
        stream=True,
        stream_options={"include_usage": True},
        extra_body=TO_THE_END,
    )
    *texts, last = list(stream)
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.completion_tokens == 12
    assert all(chunk.usage is None for chunk in texts)


def test_usage_is_not_in_the_stream_when_nobody_asked(door: str) -> None:
    with streaming(f"{door}/v1/chat/completions", chat(stream=True)) as answer:
        events = list(answer.events())
    assert events[-1] == "[DONE]"
    assert not [event for event in events if '"usage"' in event or '"choices":[]' in event]


def test_a_completion_is_answered_in_full(openai_client: OpenAI) -> None:
    answer = openai_client.completions.create(
        model=MODEL, prompt="def main(", max_tokens=12, n=2, extra_body=TO_THE_END
    )
    assert [choice.finish_reason for choice in answer.choices] == ["length", "length"]
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 24


def test_a_completion_of_token_ids_is_answered(openai_client: OpenAI) -> None:
    answer = openai_client.completions.create(model=MODEL, prompt=[300, 301, 302], max_tokens=4, extra_body=TO_THE_END)
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (3, 4)


def test_a_streamed_completion_comes_in_pieces(openai_client: OpenAI) -> None:
    stream = openai_client.completions.create(
        model=MODEL, prompt="def main(", max_tokens=12, stream=True, extra_body=TO_THE_END
    )
    chunks = list(stream)
    assert len(chunks) > 1
    assert chunks[-1].choices[0].finish_reason == "length"


def test_fields_that_only_the_engine_knows_reach_it(openai_client: OpenAI) -> None:
    answer = openai_client.completions.create(
        model=MODEL, prompt=[300, 301], max_tokens=3, extra_body={"return_token_ids": True, **TO_THE_END}
    )
    choice = answer.choices[0].model_dump()
    assert choice["prompt_token_ids"] == [300, 301]
    assert len(choice["token_ids"]) == 3


def test_the_responses_route_works(openai_client: OpenAI) -> None:
    answer = openai_client.responses.create(model=MODEL, input="import os", max_output_tokens=6)
    assert answer.output_text
    assert answer.usage is not None
    assert 0 < answer.usage.output_tokens <= 6


def test_the_responses_route_streams(openai_client: OpenAI) -> None:
    stream = openai_client.responses.create(model=MODEL, input="import os", max_output_tokens=6, stream=True)
    kinds = [event.type for event in stream]
    assert kinds[0] == "response.created"
    assert kinds[-1] in ("response.completed", "response.incomplete")
    assert "response.output_text.delta" in kinds


def test_the_models_are_listed(openai_client: OpenAI) -> None:
    assert [model.id for model in openai_client.models.list()] == [MODEL]


def test_a_prompt_that_is_too_long_is_the_engines_own_error(openai_client: OpenAI) -> None:
    from openai import BadRequestError

    with pytest.raises(BadRequestError, match="maximum context length") as caught:
        openai_client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "word " * 5000}], max_tokens=4, stream=True
        )
    assert caught.value.status_code == 400


def test_an_unknown_model_is_not_found(openai_client: OpenAI) -> None:
    from openai import NotFoundError

    with pytest.raises(NotFoundError) as caught:
        openai_client.chat.completions.create(model="no-such-model", messages=HELLO)
    assert isinstance(caught.value.body, dict)
    assert "no-such-model" in caught.value.body["message"]


def test_one_client_can_ask_many_times_on_its_connection(openai_client: OpenAI) -> None:
    """Streams, errors and plain answers in turn: each ends cleanly enough for the next one."""
    from openai import NotFoundError

    for _ in range(5):
        stream = openai_client.chat.completions.create(
            model=MODEL, messages=HELLO, max_tokens=3, stream=True, extra_body=TO_THE_END
        )
        assert list(stream)[-1].choices[0].finish_reason == "length"
        with pytest.raises(NotFoundError):
            openai_client.chat.completions.create(model="no-such-model", messages=HELLO)
        answer = openai_client.completions.create(model=MODEL, prompt="x = ", max_tokens=2, extra_body=TO_THE_END)
        assert answer.choices[0].finish_reason == "length"


def test_the_answer_is_the_one_the_engine_gives(door: str, engines: tuple[object, object]) -> None:
    """Greedy decoding of a short prompt is repeatable, so nothing on the way may have changed the request."""
    body = chat("class Shell:", max_tokens=24, temperature=0)
    through = call("POST", f"{door}/v1/chat/completions", body).json()
    again = call("POST", f"{door}/v1/chat/completions", body).json()
    for answer in (through, again):
        for field in ("id", "created"):
            answer.pop(field)
    assert through["choices"] == again["choices"]
    assert through["usage"]["completion_tokens"] == 24
