"""The measurements: what does one proxy do with one piece of work?

Each returns named figures for one target in one round, or raises Failed; never both.
Rule 1: connections are opened and a tenth of the work is done before the clock starts.
Rule 2: CPU time is the proxy's own, over exactly the work; the client reads it before and after.
Rule 3: memory is measured on a fresh process that has done a little of every kind of work, as growth of RSS.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench import work
from bench.load import ClosedLoop, OneShots, OpenLoop, Tally
from bench.procs import Cores, Meter
from bench.proxies import Absent, Running, Stubs, start
from bench.streams import IdleStreams, StreamRun
from bench.work import Request

DIRECT = "direct"
_TIMEOUT = 60.0
_FIRST_MS = 5
_FOREVER_MS = 3_600_000
_SHAKING = 16  # handshakes at once


class Failed(Exception):
    """This run has no figures; the text says why."""


@dataclass(frozen=True)
class Size:
    """How much work a run does."""

    rounds: int = 5
    connections: int = 64
    small: int = 20_000
    large: int = 8_000
    varied: int = 16_000
    handshakes: int = 2_000
    streams: int = 200
    events: int = 120
    interval_ms: int = 25
    rate: float = 500.0
    seconds: float = 4.0
    idle: tuple[int, ...] = (1000, 2000)
    memory_rounds: int = 3


QUICK = Size(
    rounds=2, small=4000, large=1500, varied=3000, handshakes=500, events=60, seconds=1.5, idle=(1000,), memory_rounds=1
)


@dataclass
class Stage:
    """What stands while the bench runs: stubs, proxies, prepared work."""

    folder: Path
    size: Size
    cores: Cores
    files: int
    stubs: Stubs
    targets: dict[str, Running] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    _started: int = 0

    def __post_init__(self) -> None:
        size = self.size
        self.small = work.fixed(400, 256)
        self.large = work.fixed(40_000, 128)
        self.varied = work.varied(997)
        self.streams = work.streams(size.streams, size.events, size.interval_ms, _FIRST_MS)
        self.idle = work.streams(max(size.idle), 2, _FOREVER_MS, _FIRST_MS)

    def start(self, name: str) -> Running:
        """A new process of this proxy; the caller ends it. Raises Absent."""
        self._started += 1
        return start(name, self.folder / f"{name}-{self._started}", self.stubs.ports, self.cores, self.files)

    def open(self, names: Sequence[str]) -> None:
        """Start the proxies that stay for the whole run; those that cannot are noted in `absent`."""
        self.targets[DIRECT] = Running(DIRECT, self.stubs.ports[0])
        for name in names:
            try:
                self.targets[name] = self.start(name)
            except Absent as why:
                self.absent[name] = str(why)

    def close(self) -> None:
        for target in self.targets.values():
            if target.process is not None:
                target.process.end()


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which `share` of the values lie; raises on none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def _require(problem: str | None, target: Running) -> None:
    if target.process is not None and not target.process.is_running:
        raise Failed(f"{target.name} is gone: {target.process.log_tail(3)}")
    if problem is not None:
        raise Failed(problem)


@contextlib.contextmanager
def _reported() -> Iterator[None]:
    """A refused connection is a failed run, not the end of the bench."""
    try:
        yield
    except OSError as error:
        raise Failed(f"cannot connect: {error.strerror}") from None


async def _closed(
    stage: Stage, target: Running, requests: Sequence[Request], total: int, secure: ssl.SSLContext | None = None
) -> dict[str, float]:
    load = ClosedLoop(target.port if secure is None else target.tls_port, stage.size.connections, secure)
    try:
        with _reported():
            warm = await load.run(requests, max(total // 10, 2 * stage.size.connections), _TIMEOUT)
            _require(warm.problem(warm.good), target)
            meter = Meter(target.measured, stage.cores)
            meter.start()
            tally: Tally = await load.run(requests, total, _TIMEOUT)
            meter.stop()
    finally:
        load.close()
    _require(tally.problem(total), target)
    rate = total / tally.wall_seconds
    return {"cpu_us": meter.cpu_seconds / total * 1e6, "busy": meter.busy, "others": meter.others, "rate": rate}


async def small(stage: Stage, target: Running) -> dict[str, float]:
    return await _closed(stage, target, stage.small, stage.size.small)


async def large(stage: Stage, target: Running) -> dict[str, float]:
    return await _closed(stage, target, stage.large, stage.size.large)


async def varied(stage: Stage, target: Running) -> dict[str, float]:
    return await _closed(stage, target, stage.varied, stage.size.varied)


async def tls(stage: Stage, target: Running) -> dict[str, float]:
    """The small ones again, over TLS connections that stay."""
    return await _closed(stage, target, stage.small, stage.size.small, _unverified())


async def handshake(stage: Stage, target: Running) -> dict[str, float]:
    """A new TLS connection for each request, without resumption."""
    load, context = OneShots(target.tls_port, _SHAKING), _unverified()
    with _reported():
        await load.run(stage.small[0], stage.size.handshakes // 10, context)
        meter = Meter(target.measured, stage.cores)
        meter.start()
        good = await load.run(stage.small[0], stage.size.handshakes, context)
        meter.stop()
    if good != stage.size.handshakes:
        raise Failed(f"{good} of {stage.size.handshakes} answers came")
    return {"cpu_us": meter.cpu_seconds / good * 1e6, "busy": meter.busy, "others": meter.others}


def _unverified() -> ssl.SSLContext:
    """A client's context that trusts anybody: what the client does is not measured."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


async def stream(stage: Stage, target: Running) -> dict[str, float]:
    """Cost per event while all streams are open; time to the first event while they start."""
    size = stage.size
    run = StreamRun(target.port, stage.streams, size.events, size.interval_ms / 1e3)
    await run.open()
    await asyncio.sleep(0.1)
    meter = Meter(target.process, stage.cores)
    await run.run(_TIMEOUT, meter.start, meter.stop)
    tally = run.check()
    _require(tally.problem(), target)
    figures: dict[str, float] = {}
    if target.process is not None:
        figures = {"cpu_us": meter.cpu_seconds / tally.events * 1e6, "busy": meter.busy, "others": meter.others}
    return figures | {
        "first_p50_ms": percentile(tally.first_seconds, 0.5) * 1e3,
        "first_p99_ms": percentile(tally.first_seconds, 0.99) * 1e3,
        "reads_per_event": tally.reads / tally.events,
    }


async def latency(stage: Stage, target: Running) -> dict[str, float]:
    size = stage.size
    total = int(size.rate * size.seconds)
    load = OpenLoop(target.port)
    try:
        with _reported():
            warm = await load.run(stage.small, size.rate, total // 10, _TIMEOUT)
            _require(warm.problem(warm.good), target)
            tally = await load.run(stage.small, size.rate, total, _TIMEOUT)
    finally:
        load.close()
    _require(tally.problem(total), target)
    return {
        "p50_us": percentile(tally.latencies, 0.5) * 1e6,
        "p99_us": percentile(tally.latencies, 0.99) * 1e6,
        "late_p99_us": percentile(tally.lateness, 0.99) * 1e6,
    }


async def memory(stage: Stage, target: Running) -> dict[str, float]:
    try:
        fresh = stage.start(target.name)
    except Absent as why:
        raise Failed(str(why)) from None
    idle = IdleStreams(fresh.port)
    try:
        await _warm(fresh)
        base = fresh.measured.rss_bytes()
        figures = {"base_mb": base / 2**20}
        opened = 0
        for count in stage.size.idle:
            if 2 * count + 200 > stage.files:
                break
            await idle.add(stage.idle[opened:count], _TIMEOUT)
            opened = count
            await asyncio.sleep(0.5)
            figures[f"kb_{count}"] = (fresh.measured.rss_bytes() - base) / count / 1024
        _require(idle.check().problem(), fresh)
    finally:
        idle.close()
        fresh.measured.end()
    return figures


async def _warm(target: Running) -> None:
    """A little of everything, so that what is set up once is not counted as a stream's."""
    load = ClosedLoop(target.port, 8)
    try:
        with _reported():
            tally = await load.run(work.fixed(400, 64), 200, _TIMEOUT)
        _require(tally.problem(200), target)
    finally:
        load.close()
    run = StreamRun(target.port, work.streams(8, 100, 10, 1), 100, 0.01)
    await run.open()
    await run.run(_TIMEOUT, lambda: None, lambda: None)
    _require(run.check().problem(), target)
    await asyncio.sleep(0.3)


Measurement = Callable[[Stage, Running], Coroutine[Any, Any, dict[str, float]]]

MEASUREMENTS: dict[str, Measurement] = {
    "small": small,
    "large": large,
    "varied": varied,
    "tls": tls,
    "handshake": handshake,
    "stream": stream,
    "latency": latency,
    "memory": memory,
}
WITHOUT_PROXY = frozenset({"stream", "latency"})
"""What is also measured without any proxy, to compare with."""
