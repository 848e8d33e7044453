"""Do the benches that count lost requests count right? Their words are given by pure functions."""

from __future__ import annotations

import json
from typing import Any

import pytest
from bench import kills
from bench.reliability.figures import Figure, allowed_tries, bad, count, of, percentile, table
from bench.soak_client import counted, judged
from bench.soak_engine import EVENTS, event

NONCE = b"s1n00000007"
SSE = b"http/1.1 200 ok\r\ncontent-type: text/event-stream\r\n\r\n"
JSON = b"http/1.1 200 ok\r\ncontent-type: application/json\r\n\r\n"
DONE = b"data: [DONE]\n\n"
ALL = [event(NONCE, number) for number in range(EVENTS)]
TOLD = {("slow", "whole"): 7, ("late", "whole"): 2, ("slow", "lost"): 1, ("late", "lost"): 3, ("slow", "hung"): 1}


@pytest.mark.parametrize(
    ("events", "whole", "word"),
    [
        ([*ALL, DONE], True, "whole"),
        (ALL, True, "silent"),
        ([*ALL[:5], DONE], True, "silent"),
        ([*ALL[:5]], False, "broken"),
        ([*ALL, DONE], False, "broken"),
        ([*ALL[:5], b'data: {"error":{}}\n\n'], True, "broken"),
        ([*ALL[:5], *ALL[4:], DONE], True, "doubled"),
        ([ALL[1], ALL[0], *ALL[2:], DONE], True, "doubled"),
        ([*ALL[:5], event(b"s1n00000008", 5), *ALL[6:], DONE], True, "mixed up"),
        ([*ALL, DONE, b"data: "], True, "silent"),
    ],
)
def test_a_stream_of_the_soak_gets_its_word(events: list[bytes], whole: bool, word: str) -> None:
    assert judged(NONCE, SSE, b"".join(events), whole) == word


@pytest.mark.parametrize(
    ("body", "whole", "word"),
    [
        (b'{"nonce":"%b","choices":[]}' % NONCE, True, "whole"),
        (b'{"nonce":"%b","cho' % NONCE, False, "broken"),
        (b'{"nonce":"s1n00000008","choices":[]}', True, "mixed up"),
    ],
)
def test_an_answer_in_one_piece_gets_its_word(body: bytes, whole: bool, word: str) -> None:
    assert judged(NONCE, JSON, body, whole) == word


@pytest.mark.parametrize(
    ("kind", "word", "begun", "counts_as"),
    [
        ("late", "error", False, "lost"),
        ("late", "broken", True, "lost"),
        ("slow", "broken", False, "lost"),
        ("slow", "broken", True, "broken"),  # cut in the middle and told: nobody could have saved it
        ("400", "error", False, "error"),
        ("breaks", "broken", True, "broken"),
        ("slow", "silent", True, "silent"),
        ("late", "refused", False, "refused"),
    ],
)
def test_lost_is_what_could_have_been_saved(kind: str, word: str, begun: bool, counts_as: str) -> None:
    assert counted(kind, word, begun) == counts_as


def told(tokens: int = kills.TOKENS, finish: str | None = "length", error: bool = False) -> list[str]:
    """The data of a stream of an engine."""
    parts: list[dict[str, Any]] = [{"choices": [{"delta": {"content": "x"}}]}]
    parts += [
        {"choices": [{"delta": {}, "finish_reason": finish}]},
        {"choices": [], "usage": {"completion_tokens": tokens}},
    ]
    if error:
        parts.append({"error": {"message": "EngineCore died", "code": 500}})
    return [*map(json.dumps, parts), "[DONE]"]


@pytest.mark.parametrize(
    ("status", "events", "is_cut", "word"),
    [
        (200, told(), False, "whole"),
        (200, told(tokens=12), False, "silently short"),
        (200, told(finish=None), False, "silently short"),
        (200, told()[:-1], False, "silently short"),
        (200, told(error=True), False, "broken visibly"),  # as vLLM dies: an error, and [DONE] all the same
        (200, told()[:1], True, "broken visibly"),
        (200, [], True, "failed before commit"),
        (502, [], False, "failed before commit"),
        (0, [], True, "failed before commit"),
    ],
)
def test_a_stream_of_a_real_engine_gets_its_word(status: int, events: list[str], is_cut: bool, word: str) -> None:
    assert kills.judged(status, events, is_cut) == word


def test_words_are_summed_over_the_kinds_of_requests() -> None:
    assert count(TOLD, "lost", "hung") == 5
    assert bad(TOLD) == {"lost": 4, "hung": 1}


def test_no_failure_is_quoted_with_its_bound() -> None:
    assert of(0, 5_000) == "0 of 5,000 (< 0.06%)"
    assert of(3, 5_000) == "3 of 5,000"
    assert of(0, 0) == "0 of 0"


def test_the_percentile_is_by_nearest_rank() -> None:
    assert percentile([float(number) for number in range(100)], 0.99) == 99.0
    assert percentile([float(number) for number in range(200)], 0.99) == 198.0
    assert percentile([], 0.99) == 0.0


def test_a_failing_pool_may_see_a_fifth_more_and_ten_a_second() -> None:
    assert allowed_tries(1_000, 5.0) == 1_250.0


def test_the_table_marks_only_our_own_miss() -> None:
    figures = {"fairlead": Figure("3 of 5,000", met=False), "nginx": Figure("9 of 5,000", met=False)}
    last = table([("a fault", "0", figures)], ["fairlead", "nginx", "haproxy"]).splitlines()[-1]
    assert last == "| a fault | 0 | 3 of 5,000 (**missed**) | 9 of 5,000 | - |"
