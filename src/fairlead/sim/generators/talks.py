"""Workloads that are made of conversations: chat, bursts, outliers, closed_chat and agents.

A conversation belongs to a tenant and begins with the tenant's system prompt. Each turn's prompt is all that was said
before and a new question. A turn waits for the answer before it, and for the time that people think or tools run.
A conversation ends early when its next turn would not fit into `longest`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from random import Random
from typing import Final

from fairlead.sim.generators.building import (
    Drafts,
    Settings,
    Text,
    around,
    pause,
    pick,
    poisson,
    turns_around,
    zipf,
)
from fairlead.sim.trace import NO_REQUEST

_JITTER: Final = 1.0  # seconds within which the clients of a closed loop begin
_SYSTEM: Final = 0.6  # deviations of the logarithms of lengths
_QUESTION: Final = 0.9
_OUTPUT: Final = 0.7


class _Tenants:
    """System prompts of different lengths and popularity, each made when it is first needed."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._weights = zipf(settings.whole("tenants"), settings["skew"])
        self._texts: dict[int, Text] = {}

    def pick(self, rng: Random) -> tuple[str, Text]:
        """A tenant, and the beginning of a conversation with it."""
        place, settings = pick(rng, self._weights), self._settings
        if place not in self._texts:
            most = settings.whole("longest") // 4
            tokens = around(settings.chance("tenant", place), settings["system"], _SYSTEM, 0, most)
            self._texts[place] = settings.text()
            self._texts[place].say(f"system {place}", tokens)
        return f"tenant{place + 1}", self._texts[place].fork()


@dataclass(frozen=True, slots=True)
class _Talk:
    """How one conversation goes on."""

    settings: Settings
    rng: Random
    name: str
    tenant: str
    text: Text

    def run(self, drafts: Drafts, at: float, turns: int, think: str, after: int = NO_REQUEST) -> int:
        """Up to `turns` turns, the first at `at` (`after` that draft). Returns the last one's number."""
        settings, rng, text = self.settings, self.rng, self.text
        longest = settings.whole("longest")
        for turn in range(turns):
            # a quarter each for system prompt, question and answer: a first turn always fits
            question = around(rng, settings["question"], _QUESTION, 1, longest // 4)
            output = around(rng, settings["output"], _OUTPUT, 1, longest // 4)
            if turn and text.tokens + question + output > longest:
                break
            after = drafts.turn(text, f"{self.name}/{turn}", question, output, at, after, self.tenant)
            at = pause(rng, settings[think])
        return after


def _open_loop(settings: Settings, drafts: Drafts, pieces: Iterable[tuple[float, float]]) -> None:
    """Conversations that begin at random; `pieces` as in `poisson`, in requests per second."""
    tenants, turns = _Tenants(settings), settings["turns"]
    starts = poisson(settings.chance("arrivals"), ((seconds, rate / turns) for seconds, rate in pieces))
    for number, start in enumerate(starts):
        rng = settings.chance("talk", number)
        talk = _Talk(settings, rng, f"chat{number + 1}", *tenants.pick(rng))
        talk.run(drafts, start, turns_around(rng, turns), "think")


def chat(settings: Settings, drafts: Drafts) -> None:
    _open_loop(settings, drafts, [(settings["seconds"], settings["rate"])])


def bursts(settings: Settings, drafts: Drafts) -> None:
    _open_loop(settings, drafts, _phases(settings))


def _phases(settings: Settings) -> Iterator[tuple[float, float]]:
    """Quiet and burst in turn, quiet first; over both, the rate is the one that was asked for."""
    quiet, burst, times = settings["quiet_seconds"], settings["burst_seconds"], settings["times"]
    quiet_rate = settings["rate"] * (quiet + burst) / (quiet + burst * times)
    left = settings["seconds"]
    for seconds, rate in itertools.cycle(((quiet, quiet_rate), (burst, quiet_rate * times))):
        yield min(seconds, left), rate
        left -= seconds
        if left <= 0:
            return


def outliers(settings: Settings, drafts: Drafts) -> None:
    share, size = settings["share"], settings.whole("size")
    _open_loop(settings, drafts, [(settings["seconds"], settings["rate"] * (1 - share))])
    rng = settings.chance("outliers")
    for number, at in enumerate(poisson(rng, [(settings["seconds"], settings["rate"] * share)])):
        output = around(rng, settings["output"], _OUTPUT, 1, settings.whole("longest") // 4)
        drafts.turn(settings.text(), f"outlier{number + 1}/0", size, output, at, tenant="outliers")


def closed_chat(settings: Settings, drafts: Drafts) -> None:
    tenants, clients, turns = _Tenants(settings), settings.whole("clients"), settings.whole("turns")
    each, more = divmod(settings.whole("requests"), clients)
    for client in range(clients):
        left = each + (client < more)
        rng = settings.chance("client", client)
        at, after = rng.uniform(0.0, _JITTER), NO_REQUEST
        for number in itertools.count(1):
            if left <= 0:
                break
            before = len(drafts)
            talk = _Talk(settings, rng, f"client{client + 1}.{number}", *tenants.pick(rng))
            after = talk.run(drafts, at, min(left, rng.randint(turns, turns + turns // 2)), "think", after)
            left -= len(drafts) - before
            at = pause(rng, settings["think"])


def agents(settings: Settings, drafts: Drafts) -> None:
    tenants, turns = _Tenants(settings), settings.whole("turns")
    for client in range(settings.whole("clients")):
        rng = settings.chance("agent", client)
        at, after = rng.uniform(0.0, _JITTER), NO_REQUEST
        for task in range(settings.whole("tasks")):
            talk = _Talk(settings, rng, f"agent{client + 1}.{task + 1}", *tenants.pick(rng))
            steps = rng.randint(max(turns - turns // 2, 1), turns + turns // 2)
            after = talk.run(drafts, at, steps, "tool", after)
            at = pause(rng, settings["think"])
