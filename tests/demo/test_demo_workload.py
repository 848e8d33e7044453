"""The workload: the same for the same seed, within its bounds, and it really shares prefixes."""

from __future__ import annotations

import msgspec
import pytest

from fairlead.demo.workload import LEAST, LONGEST, MOST, SHORTEST, Ask, workload
from fairlead.emulator.asks import chat
from fairlead.emulator.text import output_text, output_words, seed_of, token_count


def make_workload(seed: int, seconds: float, rate: float) -> list[Ask]:
    return list(workload(seed, seconds, rate))


def test_the_same_seed_gives_the_same_bytes_at_the_same_times() -> None:
    assert make_workload(7, 5.0, 10.0) == make_workload(7, 5.0, 10.0)
    assert make_workload(7, 5.0, 10.0) != make_workload(8, 5.0, 10.0)


def test_a_longer_run_begins_like_a_shorter_one() -> None:
    short, long = make_workload(3, 4.0, 10.0), make_workload(3, 8.0, 10.0)
    assert long[: len(short)] == short


@pytest.mark.parametrize("seed", range(4))
def test_arrivals_and_lengths_keep_within_what_is_promised(seed: int) -> None:
    asks = make_workload(seed, 40.0, 20.0)
    assert [ask.at for ask in asks] == sorted(ask.at for ask in asks)
    assert asks[0].at > 0 and asks[-1].at < 40.0
    assert 650 < len(asks) < 950  # a Poisson number with mean 800
    assert all(SHORTEST <= ask.prompt_tokens <= LONGEST for ask in asks)
    assert all(LEAST <= ask.output_tokens <= MOST for ask in asks)
    assert min(ask.prompt_tokens for ask in asks) < 400 and max(ask.prompt_tokens for ask in asks) > 7_000
    assert {ask.turn for ask in asks} >= {1, 2, 3}
    assert len({ask.tenant for ask in asks}) == 8


def test_lengths_are_those_that_an_emulated_engine_counts() -> None:
    for ask in make_workload(1, 3.0, 10.0):
        read = chat(ask.body)
        assert token_count(read.prompts[0]) == ask.prompt_tokens
        assert (read.limit, read.stream, read.wants_usage) == (ask.output_tokens, True, True)


def test_a_turn_begins_with_the_turn_before_it_and_the_engines_own_answer() -> None:
    seed, later = 5, 0
    before: dict[str, tuple[bytes, int]] = {}
    for ask in make_workload(seed, 20.0, 10.0):
        (prompt,) = chat(ask.body).prompts
        known = before.get(ask.conversation)
        if known is not None:
            earlier, tokens = known
            answer = output_text(output_words(seed_of(earlier, seed)), tokens)
            assert prompt.startswith(earlier + answer)
            later += 1
        before[ask.conversation] = (prompt, ask.output_tokens)
    assert later > 20


def test_tenants_share_their_system_prompt() -> None:
    systems: dict[str, set[str]] = {}
    for ask in make_workload(2, 20.0, 10.0):
        first = msgspec.json.decode(ask.body)["messages"][0]
        assert first["role"] == "system"
        systems.setdefault(ask.tenant, set()).add(first["content"])
    assert all(len(texts) == 1 for texts in systems.values())
    assert len(systems) > 4
