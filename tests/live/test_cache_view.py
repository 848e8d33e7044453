"""Does fairlead know what real prefix caches hold, and does it notice when it is wrong?

The engines keep whole blocks of 128 tokens, 96 of them; fairlead counts bytes of prompt and has blocks of its own. Both
round down, so predictions and reports are seldom equal, and that is no disagreement.
Rule: each test has a fairlead of its own, which knows nothing, and beginnings that no other test uses.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pytest

from .balancer import Fairlead
from .client import call, chat
from .conftest import OwnFairlead, Tell
from .engines import Engine
from .waiting import wait_for

pytestmark = pytest.mark.live

CHAT = "/v1/chat/completions"
ENGINE_BLOCK = 128  # tokens
OUR_BLOCK = 320  # tokens, about: our blocks are 1 KiB of text where these prompts end
CACHED = "prompt tokens cached"  # the policy's term


@dataclass(frozen=True, slots=True)
class Asked:
    """One answer: who gave it, what fairlead had thought and what the engine found."""

    beginning: str = field(repr=False)
    backend: str
    predicted: int
    elsewhere: int  # the most that any other backend was thought to have
    prompt: int
    found: int


def ask(proxy: Fairlead, beginning: str, number: int) -> Asked:
    answer = call("POST", proxy.url + CHAT, chat(f"{beginning} number {number}", max_tokens=4))
    assert answer.status == 200, answer.body
    usage = answer.json()["usage"]
    decision = proxy.explain(answer.headers["x-request-id"]).json()["decision"]
    assert decision["policy"] == "expected_completion"
    cached = {row["backend"]: int(row["terms"][CACHED]) for row in decision["candidates"]}
    predicted = cached.pop(decision["backend"])
    found = (usage["prompt_tokens_details"] or {}).get("cached_tokens", 0)
    return Asked(beginning, decision["backend"], predicted, max(cached.values()), usage["prompt_tokens"], found)


def ask_all(proxy: Fairlead, beginnings: list[str], number: int) -> list[Asked]:
    """Several at once, so that both engines get some."""
    with ThreadPoolExecutor(4) as clients:
        return list(clients.map(lambda beginning: ask(proxy, beginning, number), beginnings))


def beginning_of(name: str, sentences: int) -> str:
    """About 20 tokens for each sentence; no two names share more than the chat template."""
    return " ".join(f"{name} looks at {number}, {name} imports {number}." for number in range(sentences))


def view(proxy: Fairlead, backend: str) -> dict[str, Any]:
    (found,) = (row["prefix_view"] for row in proxy.backends().values() if row["id"] == backend)
    assert isinstance(found, dict)
    return found


def acquainted(own: OwnFairlead, name: str) -> Fairlead:
    """A fairlead that has learned how fast these engines are and how many bytes their tokens have."""
    proxy = own()
    for number in range(8):
        ask(proxy, beginning_of(f"{name} {number} is new and", 20 + number), 0)
    next_reading(proxy)
    return proxy


def next_reading(proxy: Fairlead) -> None:
    """Until fairlead has read the engines' counters once more."""
    begun = time.monotonic()

    def has_read() -> bool:
        passed = time.monotonic() - begun
        return all(row["metrics_age"] < passed - 0.1 for row in proxy.backends().values())

    wait_for("fairlead to read the engines' metrics", has_read, seconds=10.0)


def test_a_prompt_goes_where_its_beginning_is_and_the_engine_confirms_the_prediction(own: OwnFairlead) -> None:
    proxy = acquainted(own, "before")
    beginning = beginning_of("confirmed", 70)
    first = ask(proxy, beginning, 0)
    assert first.predicted == 0
    assert first.found < ENGINE_BLOCK  # nobody has asked this before
    assert first.prompt > 1_000
    next_reading(proxy)  # if the new prompt took long, that is forgotten by now
    later = [ask(proxy, beginning, number) for number in range(1, 13)]
    there = [one for one in later if one.backend == first.backend]
    assert len(there) >= 10  # an engine that stalls, as on a busy machine it may, is avoided for a moment
    assert [one for one in there if not one.predicted] == []
    far = [one for one in there if not -OUR_BLOCK <= one.predicted - one.found <= ENGINE_BLOCK]
    assert far == [], f"fairlead and the engine disagree by more than a block of either: {far}"
    seen = view(proxy, first.backend)
    assert seen["state"] == "exact"
    assert seen["blocks"] > 0
    assert seen["drops"] == 0


def test_differences_of_less_than_a_block_are_forgiven(own: OwnFairlead) -> None:
    """Prompts that share a few blocks and a part of one: fairlead counts the part, the engine does not."""
    proxy = acquainted(own, "whole")
    asked = []
    for size in range(16, 40, 2):
        asked += [ask(proxy, beginning_of(f"part {size}", size), number) for number in range(3)]
    higher = [one for one in asked if one.predicted > one.found >= ENGINE_BLOCK]
    assert len(higher) >= 6, f"too little to forgive, so nothing is tested: {asked}"
    views = [row["prefix_view"] for row in proxy.backends().values()]
    assert "exact" in [seen["state"] for seen in views]  # of both, if both were asked often enough
    assert [(seen["trust"], seen["drops"]) for seen in views] == [(1.0, 0)] * 2


def test_a_cache_that_was_emptied_behind_fairleads_back_is_noticed_and_believed_again(
    own: OwnFairlead, engines: tuple[Engine, Engine]
) -> None:
    proxy = acquainted(own, "full")
    names = {row["id"]: url for url, row in proxy.backends().items()}
    beginnings = [beginning_of(f"emptied {number}", 50) for number in range(10)]
    ask_all(proxy, beginnings, 0)
    warm: dict[str, list[str]] = {name: [] for name in names}
    for beginning in beginnings:
        again = ask(proxy, beginning, 1)
        assert again.found, "too much for the caches, so a miss tells nothing"
        warm[again.backend].append(beginning)
    backend, kept = max(warm.items(), key=lambda item: len(item[1]))
    (engine,) = (one for one in engines if one.url == names[backend])

    assert call("POST", f"{engine.url}/reset_prefix_cache").status == 200
    missed = []
    while kept and view(proxy, backend)["drops"] == 0:
        missed.append(ask(proxy, kept.pop(), 2))
    assert [one for one in missed if one.found] == []
    dropped = view(proxy, backend)
    assert dropped["drops"] == 1, f"{dropped} after {missed}"
    assert dropped["state"] == "distrusted"

    # Which of the two is chosen now is open: of all that it was thought to have, nothing is left to prefer it for.
    fresh = [beginning_of(f"believed {number}", 40) for number in range(8)]
    there = [one.beginning for one in ask_all(proxy, fresh, 0) if one.backend == backend]
    later = [ask(proxy, beginning, number) for number in range(1, 11) for beginning in there]
    assert len([one for one in later if one.found]) >= 0.8 * len(later)
    believed = view(proxy, backend)
    assert believed["state"] != "distrusted", f"{believed} after {later}"
    assert believed["drops"] == 1
    assert believed["trust"] > dropped["trust"]


def test_a_restarted_engine_is_known_to_have_nothing(
    own: OwnFairlead, engines: tuple[Engine, Engine], tell: Tell
) -> None:
    stays, restarted = engines
    if not restarted.is_ours:
        pytest.skip("FAIRLEAD_LIVE_ENGINES is set, and this test kills an engine")
    proxy = acquainted(own, "running")
    rows = proxy.backends()
    names = {engine: rows[engine.url]["id"] for engine in engines}
    beginnings = [beginning_of(f"restarted {number}", 40) for number in range(6)]
    placed = {one.beginning: one.backend for one in ask_all(proxy, beginnings, 0)}
    assert set(placed.values()) == set(names.values())

    try:
        restarted.kill()
        tell("starting the killed engine again")
        restarted.start()
        wait_for("its view to be emptied", lambda: view(proxy, names[restarted])["blocks"] == 0, seconds=60.0)
        assert view(proxy, names[stays])["blocks"] > 0
    finally:
        if not restarted.is_running():
            restarted.start()
        restarted.wait_until_up(tell)
        proxy.wait_until_up(restarted.url)
    seen = view(proxy, names[restarted])
    assert (seen["blocks"], seen["state"]) == (0, "approximate")  # empty, and not distrusted: it is known to be true
    for beginning, backend in placed.items():
        asked = ask(proxy, beginning, 1)
        assert max(asked.predicted, asked.elsewhere) > 0 if backend == names[stays] else asked.predicted == 0
