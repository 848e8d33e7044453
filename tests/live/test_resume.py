"""Does a stream go on as if nothing had been, when the engine under it is killed?

Two engines of this file's own, in float32: there a continued answer can be compared with an undisturbed one, token by
token (in 16 bits it cannot, see docs/resume.md). Many streams are started one after the other, so that one kill cuts
them at many points. The engine that is killed stays dead: nothing behind this file needs it.
Rule: continued by token ids the text is the undisturbed one; continued by text (requests with stop strings) it is one
whole stream, and how often it is the same is told, not demanded.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from .balancer import Fairlead
from .client import BROKEN, DONE, MODEL, call, metrics, streaming
from .conftest import Tell
from .engines import Engine, free_port
from .waiting import wait_for

pytestmark = pytest.mark.live

TOKENS = 160
STREAMS = 24  # a third each: chat and completions by ids, chat by text
GAP = 5  # events of one stream before the next one begins
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
RETRIES = "fairlead_retries_total"


@dataclass
class Story:
    """One stream, as it comes."""

    text: str = ""
    events: int = 0
    heads: set[tuple[Any, ...]] = field(default_factory=set)
    finished: list[str] = field(default_factory=list)
    usages: list[tuple[int, int]] = field(default_factory=list)
    dones: int = 0
    trouble: str = ""
    moved_on: Event = field(default_factory=Event)  # GAP events came, or the end
    cut_at: int = 0  # events when the engine was killed

    def take(self, data: str) -> None:
        self.events += 1
        if data == DONE:
            self.dones += 1
            return
        said = json.loads(data)
        if "error" in said:
            self.trouble = str(said["error"])
            return
        self.heads.add((said["id"], said["object"], said["created"], said["model"]))
        if said.get("usage"):
            self.usages.append((said["usage"]["prompt_tokens"], said["usage"]["completion_tokens"]))
        for choice in said["choices"]:
            self.text += choice.get("text") or choice.get("delta", {}).get("content") or ""
            if choice.get("finish_reason"):
                self.finished.append(choice["finish_reason"])
        if self.events >= GAP:
            self.moved_on.set()

    @property
    def is_one_whole_stream(self) -> bool:
        """Is there one of everything?"""
        return (len(self.heads), self.finished, self.dones, self.trouble) == (1, ["length"], 1, "") and bool(self.text)


def asked(number: int) -> tuple[str, dict[str, Any]]:
    """(path, body) of a stream."""
    words = f"def handler_{number}(request):\n    import json, os\n    return {number * 7919}"
    body: dict[str, Any] = {"model": MODEL, "max_tokens": TOKENS, "ignore_eos": True, "temperature": 0, "stream": True}
    body["stream_options"] = {"include_usage": True}
    if number % 3 == 1:
        return COMPLETIONS, body | {"prompt": words}
    if number % 3 == 2:
        body["stop"] = ["\u2603 never said \u2603"]
    return CHAT, body | {"messages": [{"role": "user", "content": words}]}


def follow(url: str, number: int, story: Story) -> Story:
    path, body = asked(number)
    try:
        with streaming(url + path, body) as answer:
            for data in answer.events():
                story.take(data)
    except BROKEN as trouble:
        story.trouble = repr(trouble)
    story.moved_on.set()
    return story


@pytest.fixture(scope="module")
def pair(tell: Tell) -> Iterator[tuple[Engine, Engine]]:
    """Two engines of the same weights in float32."""
    cores = sorted(os.sched_getaffinity(0))
    both = [
        Engine(f"float32-{place}", free_port(), "--core", str(cores[place % len(cores)]), "--", "--dtype", "float32")
        for place in (0, 1)
    ]
    try:
        tell("starting two vLLM in float32")
        for engine in both:
            engine.start()
        for engine in both:
            engine.wait_until_up(tell)
        yield both[0], both[1]
    finally:
        for engine in both:
            engine.stop()


@pytest.fixture(scope="module")
def proxy(pair: tuple[Engine, Engine], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fairlead]:
    """A fairlead that resumes."""
    config: Path = tmp_path_factory.mktemp("resume") / "fairlead.yaml"
    config.write_text(f"resume: true\npolicy: round_robin\nbackends: [{', '.join(engine.url for engine in pair)}]\n")
    proxy = Fairlead("fairlead-resume", str(config))
    try:
        proxy.start()
        proxy.wait_until_up(*(engine.url for engine in pair))
        yield proxy
    finally:
        proxy.stop()


def resumed(proxy: Fairlead) -> float:
    return sum(
        value for name, labels, value in metrics(proxy.admin) if name == RETRIES and labels.get("reason") == "resume"
    )


@dataclass(frozen=True, slots=True)
class Kill:
    undisturbed: list[Story]
    stories: list[Story]
    resumed: float


@pytest.fixture(scope="module")
def kill(pair: tuple[Engine, Engine], proxy: Fairlead, tell: Tell) -> Kill:
    alive, dead = pair
    undisturbed = [follow(alive.url, number, Story()) for number in range(STREAMS)]
    for engine in pair:  # what is cached is computed in other sums
        assert call("POST", f"{engine.url}/reset_prefix_cache").status == 200
    stories = [Story() for _ in range(STREAMS)]
    with ThreadPoolExecutor(STREAMS) as clients:
        running = []
        for number, story in enumerate(stories):
            running.append(clients.submit(follow, proxy.url, number, story))
            assert story.moved_on.wait(60.0)
        for story in stories:
            story.cut_at = story.events
        dead.kill()
        for one in running:
            one.result()
    wait_for("fairlead to be idle", lambda: proxy.inflight() == 0, seconds=5.0)
    count = resumed(proxy)
    tell(f"{count:.0f} of {STREAMS} streams were cut and resumed; events at the kill: {[s.cut_at for s in stories]}")
    return Kill(undisturbed, stories, count)


def by_ids(number: int) -> bool:
    return number % 3 != 2


def test_the_kill_cut_streams_at_many_points(kill: Kill) -> None:
    assert kill.resumed >= STREAMS / 4
    assert len({story.cut_at for story in kill.stories}) >= STREAMS / 2


def test_every_stream_is_one_whole_stream(kill: Kill) -> None:
    assert [story for story in kill.stories if not story.is_one_whole_stream] == []


def test_streams_continued_by_ids_say_what_undisturbed_ones_say(kill: Kill) -> None:
    both = list(zip(kill.stories, kill.undisturbed, strict=True))
    different = [number for number, (one, other) in enumerate(both) if by_ids(number) and one.text != other.text]
    assert different == []


def test_usage_is_that_of_an_undisturbed_stream(kill: Kill) -> None:
    both = list(zip(kill.stories, kill.undisturbed, strict=True))
    assert [(one.usages, other.usages) for one, other in both if one.usages != other.usages] == []


def test_how_often_text_alone_says_the_same(kill: Kill, tell: Tell) -> None:
    both = [pair for number, pair in enumerate(zip(kill.stories, kill.undisturbed, strict=True)) if not by_ids(number)]
    same = sum(one.text == other.text for one, other in both)
    tell(f"streams with stop strings, half of them cut and continued by text: {same} of {len(both)} are the same")
    assert same > 0
