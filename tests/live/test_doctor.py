"""Does the doctor find each fault that was set in a real vLLM, and none where none was set?

Two more engines are started, at the same time, with faults that vLLM's own options make; the two that run already are
the healthy ones. One look at all four is judged by every test here.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from .client import call
from .conftest import Tell
from .engines import HOME, Engine, free_port

pytestmark = pytest.mark.live

DOCTOR_SECONDS = 120.0
EVENTS = {"enable_kv_cache_events": True, "publisher": "zmq"}

POOR = (
    "--no-enable-prefix-caching", "--no-enable-prompt-tokens-details", "--max-model-len", "2048", "--block-size", "64",
    "--override-generation-config", '{"temperature": 0.5}',
)  # fmt: skip


class Looked:
    """What `fairlead doctor --json` printed."""

    def __init__(self, *targets: str) -> None:
        command = [sys.executable, "-m", "fairlead", "doctor", "--json", *targets]
        done = subprocess.run(command, capture_output=True, text=True, timeout=DOCTOR_SECONDS, check=False)
        assert done.stdout, done.stderr
        self.status, self.told = done.returncode, json.loads(done.stdout)

    def __repr__(self) -> str:
        return json.dumps(self.told, indent=1)

    def codes(self, engine: Engine) -> set[str]:
        """Of the findings in which this engine has a part."""
        return {row["code"] for row in self.told["findings"] if self._name(engine) in row["engines"]}

    def finding(self, code: str) -> dict[str, Any]:
        (row,) = [row for row in self.told["findings"] if row["code"] == code]
        assert isinstance(row, dict)
        return row

    def engine(self, engine: Engine) -> dict[str, Any]:
        (row,) = [row for row in self.told["engines"] if row["name"] == self._name(engine)]
        assert isinstance(row, dict)
        return row

    @staticmethod
    def _name(engine: Engine) -> str:
        return urlsplit(engine.url).netloc


@pytest.fixture(scope="module")
def faulty(engines: tuple[Engine, Engine], tell: Tell) -> Iterator[tuple[Engine, Engine]]:
    """One without caching, details, and with other limits; one without metrics, with a limit and events."""
    cores = sorted(os.sched_getaffinity(0))
    events = json.dumps({**EVENTS, "endpoint": f"tcp://*:{free_port()}"})
    bounded = ("--disable-log-stats", "--max-num-queued-reqs", "8", "--kv-events-config", events)
    poor = Engine("engine-poor", free_port(), "--core", str(cores[0]), "--", *POOR)
    blind = Engine("engine-blind", free_port(), "--core", str(cores[1 % len(cores)]), "--", *bounded)
    try:
        tell(f"starting two vLLM with faults, logs in {HOME}/logs")
        for engine in (poor, blind):
            engine.log.unlink(missing_ok=True)
            engine.start()
        for one in engines:  # vLLM looks through its machine when first asked: meanwhile, not while four are looked at
            call("GET", f"{one.url}/server_info", timeout=DOCTOR_SECONDS)
        for engine in (poor, blind):
            engine.wait_until_up(tell)
        yield poor, blind
    finally:
        for engine in (poor, blind):
            engine.stop()


@pytest.fixture(scope="module")
def looked(engines: tuple[Engine, Engine], faulty: tuple[Engine, Engine]) -> Looked:
    return Looked(*(engine.url for engine in (*engines, *faulty)), f"http://127.0.0.1:{free_port()}")


FLEET = {"context-differs", "block-size-differs", "sampling-differs"}
"""Findings between engines: whoever is compared has a part in them."""


def test_healthy_engines_have_only_what_is_true_of_every_plain_vllm(
    looked: Looked, engines: tuple[Engine, Engine]
) -> None:
    for engine in engines:
        assert looked.codes(engine) - FLEET == {"queue-unlimited", "events-off", "dev-pages-local"}, looked
        about = looked.engine(engine)
        assert (about["engine"], about["health"], about["metrics"]) == ("vllm", 200, "read")
        assert (about["prefix_caching"], about["block_tokens"]) == (True, 128)
        assert about["generation"]["cached_tokens"] > 0
        assert about["models"] == [{"id": "tiny", "longest": 4096}]
        assert about["keep_alive_at_least"] > 4.0


def test_caching_and_details_that_are_off_are_found(looked: Looked, faulty: tuple[Engine, Engine]) -> None:
    poor, _ = faulty
    assert {"prefix-caching-off", "usage-details-off"} <= looked.codes(poor), looked
    assert looked.codes(poor) - FLEET == {
        "prefix-caching-off", "usage-details-off", "queue-unlimited", "events-off", "dev-pages-local",
    }  # fmt: skip
    assert looked.engine(poor)["prefix_caching"] is False
    assert not looked.engine(poor)["generation"]["counted_hits"]


def test_metrics_that_are_off_are_found(looked: Looked, faulty: tuple[Engine, Engine]) -> None:
    _, blind = faulty
    assert looked.codes(blind) - FLEET == {"metrics-off", "dev-pages-local"}, looked
    assert looked.engine(blind)["queue_limit"] is True
    assert looked.engine(blind)["events"] is True
    assert looked.engine(blind)["generation"]["cached_tokens"] > 0


def test_differences_between_engines_of_one_model_are_found(looked: Looked, faulty: tuple[Engine, Engine]) -> None:
    poor, _ = faulty
    assert f"2048 on {urlsplit(poor.url).netloc}" in looked.finding("context-differs")["seen"]
    assert f"64 on {urlsplit(poor.url).netloc}" in looked.finding("block-size-differs")["seen"]
    assert "0.5" in looked.finding("sampling-differs")["seen"]
    codes = {row["code"] for row in looked.told["findings"]}
    assert codes.isdisjoint({"tokenizer-differs", "weights-differ", "version-differs", "clocks-apart"})


def test_an_engine_that_is_not_there_makes_the_exit_status(looked: Looked, engines: tuple[Engine, Engine]) -> None:
    assert looked.status == 2
    assert looked.finding("unreachable")["seen"] == "connection refused"
    assert Looked("--no-generate", *(engine.url for engine in engines)).status == 1  # no limit on their queues
