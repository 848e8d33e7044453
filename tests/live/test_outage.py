"""What do clients see of an engine that dies under load, and of its return?

The second engine is killed with everything of it (SIGKILL to its process group) while both are at work. The tests of
this file read in the order of the events; the engine comes back in the last one, or after it.
Rule: an answer is whole, or an error, or visibly broken. What must not be is a short answer that looks whole.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import pytest

from .balancer import Fairlead
from .client import BROKEN, DONE, call, chat, streaming
from .conftest import Tell
from .engines import Engine
from .waiting import wait_for

pytestmark = pytest.mark.live

TOKENS = 100
STREAMS = 28
PLAIN = 12  # with the streams more than the 32 that both engines run at a time: some wait in a queue
CHAT = "/v1/chat/completions"
RETURN_SECONDS = 100.0  # other tests kill it as well: one that dies twice in short order has to stay down for a minute


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one client saw."""

    status: int
    events: int = 0  # before the end or the break
    tokens: int = 0  # told by the usage
    is_ended: bool = False  # by [DONE] or the whole body
    broken_by: str = ""  # the exception, or the error in the stream

    @property
    def is_whole(self) -> bool:
        return self.status == 200 and self.is_ended and not self.broken_by and self.tokens == TOKENS

    @property
    def is_visibly_broken(self) -> bool:
        return bool(self.broken_by) or not self.is_ended


@dataclass(frozen=True, slots=True)
class Outage:
    dead: Engine
    alive: Engine
    streams: list[Outcome]
    plain: list[Outcome]
    during: list[Outcome]  # asked after the death, from the first moment on


def stream_one(url: str, number: int) -> Outcome:
    body = chat(f"stream {number}", max_tokens=TOKENS, stream=True, stream_options={"include_usage": True})
    status, events, tokens, is_ended, broken_by = 0, 0, 0, False, ""
    try:
        with streaming(url + CHAT, body) as answer:
            status = answer.status
            for event in answer.events():
                events += 1
                if event == DONE:
                    is_ended = True
                    continue
                content = json.loads(event)
                if "error" in content:
                    broken_by = str(content["error"])
                tokens = (content.get("usage") or {}).get("completion_tokens", tokens)
    except BROKEN as trouble:
        broken_by = repr(trouble)
    return Outcome(status, events, tokens, is_ended, broken_by)


def plain_one(url: str, number: int) -> Outcome:
    try:
        answer = call("POST", url + CHAT, chat(f"plain {number}", max_tokens=TOKENS))
    except BROKEN as trouble:
        return Outcome(0, broken_by=repr(trouble))
    if answer.status != 200:
        return Outcome(answer.status, is_ended=True, broken_by=answer.body.decode(errors="replace"))
    return Outcome(200, tokens=answer.json()["usage"]["completion_tokens"], is_ended=True)


@pytest.fixture(scope="module")
def outage(fairlead: Fairlead, engines: tuple[Engine, Engine], tell: Tell) -> Iterator[Outage]:
    alive, dead = engines
    if not dead.is_ours:
        pytest.skip("FAIRLEAD_LIVE_ENGINES is set, and this test kills an engine")
    try:
        yield run_outage(fairlead, alive, dead)
    finally:
        if not dead.is_running():
            dead.start()
        dead.wait_until_up(tell)
        fairlead.wait_until_up(dead.url, seconds=RETURN_SECONDS)


def run_outage(fairlead: Fairlead, alive: Engine, dead: Engine) -> Outage:
    url = fairlead.url
    with ThreadPoolExecutor(STREAMS + PLAIN) as clients:
        streams: list[Future[Outcome]] = [clients.submit(stream_one, url, number) for number in range(STREAMS)]
        plain: list[Future[Outcome]] = [clients.submit(plain_one, url, number) for number in range(PLAIN)]
        wait_for(
            "both engines to be at work",
            lambda: min(alive.inflight(), dead.inflight()) >= 8 and dead.generated_tokens() > 0,
            seconds=20.0,
        )
        dead.kill()
        with ThreadPoolExecutor(8) as more:
            during = [more.submit(plain_one, url, number) for number in range(4)]
            during += [more.submit(stream_one, url, number) for number in range(4)]
        return Outage(
            dead,
            alive,
            [one.result() for one in streams],
            [one.result() for one in plain],
            [one.result() for one in during],
        )


def test_requests_without_a_byte_of_answer_finish_on_the_other_engine(outage: Outage) -> None:
    assert [one for one in outage.plain if not one.is_whole] == []
    assert [one for one in outage.streams if one.events == 0 and not one.is_whole] == []


def test_streams_that_had_begun_end_visibly(outage: Outage) -> None:
    cut = [one for one in outage.streams if not one.is_whole]
    assert cut, "no stream was on the engine that died: the test did not test anything"
    assert [one for one in cut if not one.is_visibly_broken] == []


def test_streams_on_the_other_engine_are_not_touched(outage: Outage) -> None:
    whole = [one for one in outage.streams if one.is_whole]
    assert len(whole) >= STREAMS / 4


def test_requests_that_come_after_the_death_all_succeed(outage: Outage) -> None:
    assert [one for one in outage.during if not one.is_whole] == []


def test_the_admin_port_shows_the_engine_down(outage: Outage, fairlead: Fairlead) -> None:
    wait_for(
        "the dead engine to be shown down",
        lambda: fairlead.backends()[outage.dead.url]["state"] == "down" and not fairlead.up()[outage.dead.url],
        seconds=30.0,
    )
    assert fairlead.up()[outage.alive.url]
    assert fairlead.get("/readyz").status == 200
    assert call("GET", f"{fairlead.url}/health").status == 200


def test_requests_succeed_while_one_engine_is_down(outage: Outage, fairlead: Fairlead) -> None:
    with ThreadPoolExecutor(16) as clients:
        statuses = list(clients.map(lambda _: call("POST", fairlead.url + CHAT, chat(max_tokens=5)).status, range(32)))
    assert statuses == [200] * 32


def test_the_engine_joins_by_itself_when_it_is_back(outage: Outage, fairlead: Fairlead, tell: Tell) -> None:
    tell("starting the killed engine again")
    outage.dead.start()
    outage.dead.wait_until_up(tell)
    fairlead.wait_until_up(outage.dead.url, seconds=RETURN_SECONDS)

    def gets_work() -> bool:
        with ThreadPoolExecutor(16) as clients:
            asked = clients.map(lambda number: plain_one(fairlead.url, number), range(16))
            assert [one for one in asked if not one.is_whole] == []
        return outage.dead.generated_tokens() >= TOKENS

    wait_for("the engine to get work again", gets_work, seconds=60.0)
