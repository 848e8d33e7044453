"""Workloads about nothing but shared beginnings: prefix_groups and hot_prefix. Single requests in an open loop."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from fairlead.sim.generators.building import Drafts, Settings, Text, around, poisson

_OWN: Final = 0.9  # deviations of the logarithms of lengths
_OUTPUT: Final = 0.7
_LONGEST: Final = 4  # an own part or an answer is at most so many times its median


def prefix_groups(settings: Settings, drafts: Drafts) -> None:
    """The prompts are `groups` x `prompts` fixed ones: each comes again and again, and is answered anew."""
    rng, output = settings.chance("arrivals"), settings.whole("output")
    known: dict[tuple[int, int], tuple[Text, tuple[int, ...]]] = {}
    shared: dict[int, Text] = {}
    for number, at in enumerate(poisson(rng, _stages(settings))):
        group, prompt = rng.randrange(settings.whole("groups")), rng.randrange(settings.whole("prompts"))
        if (group, prompt) not in known:
            if group not in shared:
                shared[group] = settings.text()
                shared[group].say(f"group {group}", settings.whole("shared"))
            text = shared[group].fork()
            text.say(f"group {group} prompt {prompt}", settings.whole("question"))
            known[group, prompt] = text, tuple(text.chain)
        text, blocks = known[group, prompt]
        drafts.ask(text.fork(), blocks, f"request{number + 1}/0", output, at, tenant=f"group{group + 1}")


def _stages(settings: Settings) -> Iterator[tuple[float, float]]:
    """The rate, or equally long stages from `rate` up (or down) to `rate_to`."""
    low, high, stages = settings["rate"], settings["rate_to"], settings.whole("stages")
    if not high or stages == 1:
        yield settings["seconds"], low
        return
    for stage in range(stages):
        yield settings["seconds"] / stages, low + (high - low) * stage / (stages - 1)


def hot_prefix(settings: Settings, drafts: Drafts) -> None:
    """Requests without the hot prefix have one of their own of the same length: only what is shared differs."""
    arrivals, share, move = settings.chance("arrivals"), settings["share"], settings["move"]
    hot: dict[int, Text] = {}
    for number, at in enumerate(poisson(arrivals, [(settings["seconds"], settings["rate"])])):
        rng = settings.chance("request", number)
        is_hot = rng.random() < share
        if is_hot:
            which = int(at // move) if move else 0
            if which not in hot:
                hot[which] = settings.text()
                hot[which].say(f"hot {which}", settings.whole("hot"))
            text = hot[which].fork()
        else:
            text = settings.text()
            text.say(f"cold {number}", settings.whole("hot"))
        question = around(rng, settings["question"], _OWN, 1, _LONGEST * settings.whole("question"))
        output = around(rng, settings["output"], _OUTPUT, 1, _LONGEST * settings.whole("output"))
        drafts.turn(text, f"request{number + 1}/0", question, output, at, tenant="hot" if is_hot else "cold")
