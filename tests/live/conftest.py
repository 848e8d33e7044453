"""Fixtures of the tests against real engines, and the switch that turns them on.

FAIRLEAD_LIVE=1                   runs them; without it each is skipped with a reason (`make test-engines` sets it)
FAIRLEAD_LIVE_ENGINES="URL URL"   uses two engines that run already (scripts/engines/start.sh), for quick repetition;
                                  tests that must kill or restart an engine are skipped then
FAIRLEAD_LIVE_DIRECT=1            points the clients at the first engine, without fairlead between: does a failure
                                  come from fairlead, or would the engine alone fail the test too?
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from .balancer import Fairlead
from .engines import HOME, Engine, free_port
from .waiting import wait_for

if TYPE_CHECKING:
    from anthropic import Anthropic
    from openai import OpenAI

LIVE = bool(os.environ.get("FAIRLEAD_LIVE"))
DIRECT = bool(os.environ.get("FAIRLEAD_LIVE_DIRECT"))
ENGINES = os.environ.get("FAIRLEAD_LIVE_ENGINES", "").split()

TEST_SECONDS = 400  # the first test of a run waits for the engines; each wait inside has its own, shorter deadline
SETTLE_SECONDS = 2.0

Tell = Callable[[str], None]
OwnFairlead = Callable[..., Fairlead]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    missing = "" if LIVE else "needs real engines: run `make test-engines` (FAIRLEAD_LIVE is not set)"
    for item in items:
        if item.get_closest_marker("live") is None:
            continue
        item.add_marker(pytest.mark.timeout(TEST_SECONDS))
        if missing:
            item.add_marker(pytest.mark.skip(reason=missing))


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt(f"signal {number}")


@pytest.fixture(scope="session", autouse=LIVE)
def ended_by_signal() -> Iterator[None]:
    """SIGTERM ends the run as ctrl-c does, through the fixtures: no engine is left behind."""
    before = signal.signal(signal.SIGTERM, _interrupt)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture(scope="session")
def tell(pytestconfig: pytest.Config) -> Tell:
    """Prints a line although pytest captures output: starting engines takes long enough to worry."""
    capture = pytestconfig.pluginmanager.getplugin("capturemanager")

    def line(text: str) -> None:
        with capture.global_and_fixture_disabled():
            print(f"\nengines: {text}", end="", flush=True)

    return line


@pytest.fixture(scope="session")
def started() -> list[Engine | Fairlead]:
    """Everything that was started; `settled` looks at what of it still runs."""
    return []


@pytest.fixture(scope="session")
def engines(tell: Tell, started: list[Engine | Fairlead]) -> Iterator[tuple[Engine, Engine]]:
    """Two vLLM with the same small model, one core each."""
    if ENGINES:
        assert len(ENGINES) == 2, f"FAIRLEAD_LIVE_ENGINES: expected two URLs, got {ENGINES}"
        first, second = (
            Engine(f"given-{place}", urlsplit(url).port or 80, ours=False) for place, url in enumerate(ENGINES)
        )
    else:
        cores = sorted(os.sched_getaffinity(0))
        first, second = (
            Engine(f"engine-{place}", free_port(), "--core", str(cores[place % len(cores)])) for place in (0, 1)
        )
    try:
        if not ENGINES:
            tell(f"starting two vLLM, logs in {HOME}/logs")
            for engine in (first, second):
                engine.log.unlink(missing_ok=True)
                engine.start()
        for engine in (first, second):
            engine.wait_until_up(tell)
        tell("both are up")
        started += [first, second]
        yield first, second
    finally:
        for engine in (first, second):
            engine.stop()


@pytest.fixture(scope="session")
def fairlead(engines: tuple[Engine, Engine], started: list[Engine | Fairlead]) -> Iterator[Fairlead]:
    """`fairlead serve URL URL`, as in the first line of the manual; shared, so that it lives through everything."""
    if DIRECT:
        pytest.skip("FAIRLEAD_LIVE_DIRECT is set, and this test is about fairlead")
    proxy = Fairlead("fairlead", *(engine.url for engine in engines))
    try:
        proxy.start()
        proxy.wait_until_up(*(engine.url for engine in engines))
        started.append(proxy)
        yield proxy
    finally:
        proxy.stop()


@pytest.fixture
def own(engines: tuple[Engine, Engine], started: list[Engine | Fairlead]) -> Iterator[OwnFairlead]:
    """`own("--policy", "random")`: a fairlead for one test, one that knows nothing yet or that is going to end."""
    if DIRECT:
        pytest.skip("FAIRLEAD_LIVE_DIRECT is set, and this test is about fairlead")
    urls = [engine.url for engine in engines]
    mine: list[Fairlead] = []

    def make(*options: str) -> Fairlead:
        proxy = Fairlead("fairlead-own", *urls, options=options)
        mine.append(proxy)
        proxy.start()
        proxy.wait_until_up(*urls)
        started.append(proxy)
        return proxy

    try:
        yield make
    finally:
        for proxy in mine:
            proxy.stop()


@pytest.fixture(scope="session")
def door(request: pytest.FixtureRequest, engines: tuple[Engine, Engine]) -> str:
    """Where clients send their requests."""
    if DIRECT:
        return engines[0].url
    proxy = request.getfixturevalue("fairlead")
    assert isinstance(proxy, Fairlead)
    return proxy.url


@pytest.fixture(autouse=LIVE)
def settled(started: list[Engine | Fairlead]) -> Iterator[None]:
    """After every test: nothing is in flight, neither in an engine nor in the ledger of a fairlead."""
    yield
    for one in filter(lambda one: one.is_running(), started):
        wait_for(f"no request in flight in {one}", partial(is_idle, one), seconds=SETTLE_SECONDS)


def is_idle(one: Engine | Fairlead) -> bool:
    return one.inflight() == 0


@pytest.fixture
def openai_client(door: str) -> Iterator[OpenAI]:
    from openai import OpenAI

    with OpenAI(base_url=f"{door}/v1", api_key="not-needed", max_retries=0, timeout=60.0) as client:
        yield client


@pytest.fixture
def anthropic_client(door: str) -> Iterator[Anthropic]:
    from anthropic import Anthropic

    with Anthropic(base_url=door, api_key="not-needed", max_retries=0, timeout=60.0) as client:
        yield client
