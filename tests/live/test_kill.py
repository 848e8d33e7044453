"""What is left of eight streams when one of two real engines is killed under them, with and without `resume`?

The second of the shared engines is killed with everything of it once per fairlead, and starts again.
Rule: no stream fails before its answer has begun; begun ones are whole or end with an error that the client sees.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from .balancer import Fairlead
from .conftest import OwnFairlead, Tell
from .engines import Engine
from .test_outage import Outcome, stream_one
from .waiting import wait_for

pytestmark = pytest.mark.live

STREAMS = 8


@pytest.fixture
def mortal(engines: tuple[Engine, Engine], tell: Tell) -> Iterator[Engine]:
    """The engine that is killed; it runs again afterwards, for the tests behind this one."""
    dead = engines[1]
    if not dead.is_ours:
        pytest.skip("FAIRLEAD_LIVE_ENGINES is set, and this test kills an engine")
    yield dead
    if not dead.is_running():
        dead.start()
    dead.wait_until_up(tell)


def killed_under_streams(proxy: Fairlead, dead: Engine) -> list[Outcome]:
    with ThreadPoolExecutor(STREAMS) as clients:
        before = dead.generated_tokens()
        asked = [clients.submit(stream_one, proxy.url, number) for number in range(STREAMS)]
        wait_for("the engine to be at work", lambda: dead.generated_tokens() > before + STREAMS, seconds=20.0)
        dead.kill()
        return [one.result() for one in asked]


def test_without_resume_a_stream_is_whole_or_ends_with_an_error(own: OwnFairlead, mortal: Engine) -> None:
    seen = killed_under_streams(own("--policy", "round_robin"), mortal)
    assert [one for one in seen if one.status != 200 or not one.events] == []
    assert [one for one in seen if not one.is_whole and not one.broken_by] == []
    assert any(one.broken_by for one in seen), "no stream was cut: the kill came too late to show anything"


def test_with_resume_every_stream_is_whole(engines: tuple[Engine, Engine], mortal: Engine, tmp_path: Path) -> None:
    urls = [engine.url for engine in engines]
    config = tmp_path / "fairlead.yaml"
    config.write_text(f"resume: true\npolicy: round_robin\nbackends: [{', '.join(urls)}]\n")
    proxy = Fairlead("fairlead-kill", str(config))
    try:
        proxy.start()
        proxy.wait_until_up(*urls)
        seen = killed_under_streams(proxy, mortal)
        wait_for("fairlead to be idle", lambda: proxy.inflight() == 0, seconds=5.0)
    finally:
        proxy.stop()
    assert [one for one in seen if not one.is_whole] == []
