"""Does the Anthropic SDK work through fairlead, on the route that vLLM offers for it?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from .client import MODEL

if TYPE_CHECKING:
    from anthropic import Anthropic
    from anthropic.types import MessageParam

pytestmark = pytest.mark.live

HELLO: list[MessageParam] = [{"role": "user", "content": "import os"}]
TO_THE_END: dict[str, Any] = {"ignore_eos": True}


def test_a_message_is_answered_in_full(anthropic_client: Anthropic) -> None:
    answer = anthropic_client.messages.create(model=MODEL, messages=HELLO, max_tokens=8)
    assert answer.type == "message"
    assert answer.role == "assistant"
    assert 0 < answer.usage.output_tokens <= 8


def test_a_streamed_message_keeps_the_order_of_its_events(anthropic_client: Anthropic) -> None:
    with anthropic_client.messages.stream(model=MODEL, messages=HELLO, max_tokens=8) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_message()
    assert kinds[0] == "message_start"
    assert kinds[-1] == "message_stop"
    assert kinds.index("content_block_start") < kinds.index("content_block_delta")
    assert final.usage.output_tokens > 0


def test_the_tokens_of_a_message_are_counted(anthropic_client: Anthropic) -> None:
    assert anthropic_client.messages.count_tokens(model=MODEL, messages=HELLO).input_tokens > 0


def test_an_unknown_model_is_not_found(anthropic_client: Anthropic) -> None:
    from anthropic import NotFoundError

    with pytest.raises(NotFoundError):
        anthropic_client.messages.create(model="no-such-model", messages=HELLO, max_tokens=8)


def test_a_wrong_request_is_the_engines_own_error(anthropic_client: Anthropic) -> None:
    from anthropic import BadRequestError

    with pytest.raises(BadRequestError):
        anthropic_client.messages.create(model=MODEL, messages=HELLO, max_tokens=100_000)
