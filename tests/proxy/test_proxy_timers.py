"""The timer wheel: bounded entries, and nothing that goes wrong in it stops it."""

from __future__ import annotations

import asyncio
from time import monotonic

import pytest

from fairlead.proxy import timers
from fairlead.proxy.timers import NEVER, Wheel


class Sleeper:
    """An owner that notes when it was called."""

    def __init__(self) -> None:
        self.deadline = NEVER
        self.wake = NEVER
        self.called: list[float] = []

    def on_deadline(self, now: float) -> None:
        self.deadline = NEVER
        self.called.append(now)


class Raising(Sleeper):
    def on_deadline(self, now: float) -> None:
        super().on_deadline(now)
        raise RuntimeError("on purpose")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(timers, "monotonic", lambda: now[0])
    return now


def moved(wheel: Wheel, owner: Sleeper, seconds: float) -> None:
    owner.deadline = wheel.now + seconds
    if owner.deadline < owner.wake:
        wheel.enter(owner)


def passes(wheel: Wheel, clock: list[float], seconds: float) -> None:
    """So much time goes by, with a tick every second."""
    for _ in range(int(seconds)):
        clock[0] += 1.0
        wheel._fire()


def test_a_busy_connection_keeps_few_entries(clock: list[float]) -> None:
    loop = asyncio.new_event_loop()
    try:
        wheel, owner = Wheel(loop), Sleeper()
        wheel.start()
        for _ in range(5_000):  # a request of 5 s every 10 s, for half a day
            moved(wheel, owner, 600.0)
            passes(wheel, clock, 5.0)
            moved(wheel, owner, 75.0)
            passes(wheel, clock, 5.0)
        assert sum(len(slot) for slot in wheel._slots) <= 20
        assert owner.called == []
        passes(wheel, clock, 80.0)
        assert len(owner.called) == 1
        wheel.stop()
    finally:
        loop.close()


def test_case_104_time_in_which_the_process_was_frozen_counts_for_nobody(clock: list[float]) -> None:
    loop = asyncio.new_event_loop()
    try:
        wheel, ticks = Wheel(loop), list[float]()
        owners = [Sleeper() for _ in range(200)]
        wheel.on_tick.append(ticks.append)
        wheel.start()
        for number, owner in enumerate(owners):
            moved(wheel, owner, 1.0 + number / 10)
        clock[0] += 30.0  # SIGSTOP, and SIGCONT half a minute later
        wheel._fire()
        assert [owner.called for owner in owners if owner.called] == [], "no mass expiry"
        assert ticks == [1030.0], "what happens at a tick is told the real time"
        passes(wheel, clock, 10.0)
        assert 85 <= sum(bool(owner.called) for owner in owners) <= 95, "then each has what was left of its time"
        passes(wheel, clock, 12.0)
        assert all(len(owner.called) == 1 for owner in owners)
        wheel.stop()
    finally:
        loop.close()


def test_what_fails_in_a_tick_stops_nothing(clock: list[float], caplog: pytest.LogCaptureFixture) -> None:
    loop = asyncio.new_event_loop()
    try:
        wheel, bad, good, ticks = Wheel(loop), Raising(), Sleeper(), list[float]()

        def hook(now: float) -> None:
            raise ValueError("on purpose")

        wheel.on_tick += [hook, ticks.append]
        wheel.start()
        moved(wheel, bad, 0.2)
        moved(wheel, good, 0.2)
        for _ in range(4):
            clock[0] += 0.1
            wheel._fire()
        assert len(bad.called) == len(good.called) == 1
        assert len(ticks) == 4
        assert "a fault in Fairlead" in caplog.text
        wheel.stop()
    finally:
        loop.close()


def test_the_real_clock_calls_an_owner_in_time() -> None:
    async def body() -> None:
        wheel, owner = Wheel(asyncio.get_running_loop()), Sleeper()
        wheel.start()
        begun = monotonic()
        moved(wheel, owner, 0.15)
        while not owner.called and monotonic() - begun < 5.0:
            await asyncio.sleep(0.01)
        assert owner.called
        assert 0.1 <= owner.called[0] - begun < 2.0
        wheel.stop()

    asyncio.run(body())
