"""What runs beside the demo: the emulated engines in one process, the balancer in another.

    python -m fairlead.demo.child engines '{"engines": [{"profile": "h100-8b", "slow": 1}], "model": "m", "seed": 1}'
    python -m fairlead.demo.child balancer '{"config": {...}, "seed": 1}'

Rule 1: one JSON line on standard output once it serves ({"ready": ...}, or {"problem": ...} and status 1), then one
every half second with how it goes.
Rule 2: it ends when its standard input does, so that nothing is left behind however the demo ends.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import msgspec
import uvloop

from fairlead.config.build import App, StartError
from fairlead.config.load import parse
from fairlead.demo.lag import LagMeter
from fairlead.emulator.fleet import EmulatedFleet

TELL_SECONDS: Final = 0.5

Status = Callable[[], dict[str, Any]]


class CannotServe(Exception):
    """The message is a sentence for people."""


def _tell(what: dict[str, Any]) -> None:
    os.write(sys.stdout.fileno(), msgspec.json.encode(what) + b"\n")


@asynccontextmanager
async def engines(options: dict[str, Any]) -> AsyncIterator[tuple[dict[str, Any], Status]]:
    """All emulated engines."""
    wanted = options["engines"]
    fleet = EmulatedFleet([each["profile"] for each in wanted], model=options["model"], seed=options["seed"])
    for server, each in zip(fleet, wanted, strict=True):
        server.faults.set(slow=each["slow"])

    def status() -> dict[str, Any]:
        rows = []
        for server in fleet:
            engine = server.engine
            rows.append({
                "generated": engine.counters.generation_tokens,
                "running": engine.running,
                "waiting": engine.waiting,
            })  # fmt: skip
        return {"engines": rows}

    try:
        await fleet.start()
    except OSError as problem:
        raise CannotServe(f"the emulated engines cannot listen: {problem.strerror or problem}") from None
    try:
        yield {"urls": fleet.urls}, status
    finally:
        await fleet.stop()


@asynccontextmanager
async def balancer(options: dict[str, Any]) -> AsyncIterator[tuple[dict[str, Any], Status]]:
    """One Fairlead, as `fairlead serve` would run it."""
    config, problems = parse(options["config"], "demo")
    if config is None:
        raise CannotServe("; ".join(str(problem) for problem in problems))
    app = App(config, seed=options["seed"])
    try:
        bound = await app.start()
        yield {"url": bound.data[0], "admin": bound.admin}, dict
    except StartError as problem:
        raise CannotServe(str(problem)) from None
    finally:
        await app.stop(drain=0.0)


ROLES: Final = {"engines": engines, "balancer": balancer}


async def _live(role: str, options: dict[str, Any]) -> int:
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()

    def readable() -> None:
        if not os.read(sys.stdin.fileno(), 4096):
            loop.remove_reader(sys.stdin.fileno())
            ended.set()

    loop.add_reader(sys.stdin.fileno(), readable)
    loop.add_signal_handler(signal.SIGTERM, ended.set)
    try:
        async with ROLES[role](options) as (about, status):
            _tell({"ready": about})
            lag = LagMeter()
            while not ended.is_set():
                try:
                    async with asyncio.timeout(TELL_SECONDS):
                        await ended.wait()
                except TimeoutError:
                    _tell({"at": loop.time(), "lag": lag.take(), **status()})
            lag.stop()
    except CannotServe as problem:
        _tell({"problem": str(problem)})
        return 1
    except BrokenPipeError:  # nobody listens any more
        return 1
    return 0


def main(arguments: list[str]) -> int:
    role, options = arguments
    logging.disable(logging.ERROR)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_live(role, msgspec.json.decode(options)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
