"""`python -m bench.hedge`: what do hedges gain when one of four engines stalls now and then, and what do they cost?

Four emulated engines, each in a process of its own; every few seconds one of them stands still for a second or two, as
a machine does that compacts memory, loads an adapter or has a noisy neighbour: any of them, or always the same one with
`--same` (then a policy that learns speeds keeps away from it by itself). The same streamed requests at the same
times through a real `fairlead serve`, once as it comes and once for each setting of `hedging`, in turns.
Rule 1: open loop, and the same bytes, times and stalls within a round; the order of the settings changes by round.
Rule 2: extra requests are all that the balancer sent beyond those of the clients: hedges and retries.
Rule 3: a run begins with engines and a balancer that know nothing; its first WARM seconds are left out.
Rule 4: an answer that failed makes the run a failed one.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import signal
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from urllib.request import Request, urlopen

import msgspec
import uvloop

from bench.procs import Cores, Process, free_port
from fairlead.demo.client import OK, Load, Result
from fairlead.demo.figures import percentile
from fairlead.demo.workload import Ask
from fairlead.emulator.text import WORDS

ROOT = Path(__file__).resolve().parents[1]
MODEL = "emulated"
ENGINES = 4
WARM = 10.0  # seconds
PROMPTS = (200, 2_000)  # tokens, evenly
ANSWERS = (20, 120)
STALLS = (1.0, 2.0)  # seconds that the bad engine stands still
PAUSES = (3.0, 6.0)  # seconds between two stalls
PATIENCE = 60.0
SHARES = (0.5, 0.9, 0.99, 0.999)
SETTINGS = {  # what is added to the configuration
    "off": "",
    "auto, 5%": "hedging: {delay: auto, budget: 5%}\n",
    "auto, 20%": "hedging: {delay: auto, budget: 20%}\n",
    "300ms, 5%": "hedging: {delay: 300ms, budget: 5%}\n",
}


def requests(seed: int, seconds: float, rate: float) -> list[Ask]:
    """Streamed chats, a Poisson process."""
    rng = random.Random(f"hedge {seed}")
    asks: list[Ask] = []
    at = rng.expovariate(rate)
    while at < seconds:
        prompt, output = rng.randint(*PROMPTS), rng.randint(*ANSWERS)
        text = b"".join(rng.choices(WORDS, k=prompt)).decode()
        body = {
            "model": MODEL, "messages": [{"role": "user", "content": text}], "max_tokens": output, "stream": True,
            "stream_options": {"include_usage": True},
        }  # fmt: skip
        asks.append(Ask(at, msgspec.json.encode(body), prompt, output, "t", str(len(asks)), 1))
        at += rng.expovariate(rate)
    return asks


class Engines:
    """The emulated machines."""

    def __init__(self, folder: Path, cores: Cores, seed: int) -> None:
        self.ports = [free_port() for _ in range(ENGINES)]
        self._children = [
            Process(
                [sys.executable, "-m", "fairlead", "emulate", "--listen", f"127.0.0.1:{port}", "--seed", str(seed)],
                cores.stub, folder / f"engine-{port}.log",
            )
            for port in self.ports
        ]  # fmt: skip

    def freeze(self, number: int, frozen: bool) -> None:
        body = msgspec.json.encode({"freeze": frozen})
        with urlopen(Request(f"http://127.0.0.1:{self.ports[number]}/emulator/faults", body), timeout=5) as answer:
            answer.read()

    def end(self) -> None:
        for child in self._children:
            child.end()


def _page(url: str) -> str:
    with urlopen(url, timeout=5) as answer:
        return str(answer.read().decode())


def _wait(url: str) -> None:
    until = time.monotonic() + 20.0
    while True:
        try:
            _page(url)
            return
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.05)


async def _stalls(engines: Engines, plan: Plan) -> None:
    """One engine after the other stands still for a moment."""
    rng = random.Random(f"stalls {plan.seed}")
    number = ENGINES - 1
    try:
        while True:
            await asyncio.sleep(rng.uniform(*PAUSES))
            number = ENGINES - 1 if plan.same else rng.randrange(ENGINES)
            await asyncio.to_thread(engines.freeze, number, True)
            await asyncio.sleep(rng.uniform(*STALLS))
            await asyncio.to_thread(engines.freeze, number, False)
    finally:
        with suppress(OSError):
            engines.freeze(number, False)


def _count(page: str, name: str) -> dict[str, int]:
    """The samples of a metric with one label, by its value."""
    lines = [line for line in page.splitlines() if line.startswith(f"{name}{{")]
    return {line.split('"')[1]: int(float(line.split()[-1])) for line in lines}


@dataclass(frozen=True)
class Plan:
    """What is the same in all runs of a round."""

    seed: int
    seconds: float
    rate: float
    policy: str
    same: bool


@dataclass(frozen=True)
class Run:
    """What came of one run."""

    results: list[Result]  # behind the warm-up
    extra: float  # requests to engines beyond those of the clients, per request
    hedges: dict[str, int]  # by outcome

    def first_tokens(self) -> list[float]:
        return [result.first_token for result in self.results]

    def __str__(self) -> str:
        times = self.first_tokens()
        shown = ", ".join(_ms(percentile(times, share) or 0.0) for share in SHARES)
        return f"{len(times)} requests, {shown}; extra {self.extra:.1%}; {self.hedges}"


def run(setting: str, plan: Plan, folder: Path, cores: Cores) -> Run:
    engines = Engines(folder, cores, plan.seed)
    balancer: Process | None = None
    try:
        for port in engines.ports:
            _wait(f"http://127.0.0.1:{port}/health")
        data, admin = free_port(), free_port()
        config = folder / "fairlead.yaml"
        rows = "".join(f"  - {{url: 'http://127.0.0.1:{p}', name: e{i}}}\n" for i, p in enumerate(engines.ports))
        config.write_text(
            f"listen: 127.0.0.1:{data}\nadmin: 127.0.0.1:{admin}\npolicy: {plan.policy}\naccess_log: false\n"
            f"{SETTINGS[setting]}backends:\n{rows}"
        )
        balancer = Process(
            [sys.executable, "-m", "fairlead", "serve", str(config)], cores.proxy, folder / "fairlead.log"
        )
        _wait(f"http://127.0.0.1:{data}/health")
        results = uvloop.run(_drive(engines, plan, f"http://127.0.0.1:{data}"))
        page = _page(f"http://127.0.0.1:{admin}/metrics")
    finally:
        if balancer is not None:
            balancer.end()
        engines.end()
    bad = [result for result in results if result.outcome != OK]
    if bad:
        raise SystemExit(f"{setting}: {len(bad)} of {len(results)} requests got no whole answer")
    hedges = _count(page, "fairlead_hedges_total")
    extra = sum(hedges.values()) + sum(_count(page, "fairlead_retries_total").values())
    return Run([result for result in results if result.at >= WARM], extra / len(results), hedges)


async def _drive(engines: Engines, plan: Plan, url: str) -> list[Result]:
    load = Load(url)
    stalls = asyncio.create_task(_stalls(engines, plan))
    await load.run(requests(plan.seed, plan.seconds, plan.rate), PATIENCE)
    stalls.cancel()
    with suppress(asyncio.CancelledError):
        await stalls
    return load.results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="of one run")
    parser.add_argument("--rate", type=float, default=12.0, help="requests per second")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--policy", default="expected_completion")
    parser.add_argument("--same", action="store_true", help="it is always the same engine that stalls")
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    cores, names = Cores(), list(SETTINGS)
    who = "always the same engine" if asked.same else "any engine"
    rounds = f"{asked.rounds} rounds of {asked.seconds:g} s"
    print(f"{asked.policy}, {asked.rate:g} requests/s, {rounds}; {who} stalls; {cores}")
    runs: dict[str, list[Run]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as folder:
        for round in range(asked.rounds):
            plan = Plan(round, asked.seconds, asked.rate, asked.policy, asked.same)
            for name in names[round % len(names) :] + names[: round % len(names)]:
                made = run(name, plan, Path(folder), cores)
                runs[name].append(made)
                print(f"round {round + 1}, {name}: {made}; load {os.getloadavg()[0]:.1f}", flush=True)
    print("\n| hedging | p50 TTFT | p90 | p99 | p99.9 | mean | extra requests | won, lost, failed |")
    print("|---|---|---|---|---|---|---|---|")
    for name in names:
        times = [made.first_tokens() for made in runs[name]]
        ms = [_ms(median(percentile(each, share) or 0.0 for each in times)) for share in SHARES]
        mean = _ms(median(fmean(each) for each in times))
        extra = fmean(made.extra for made in runs[name])
        ends = ", ".join(str(sum(made.hedges[word] for made in runs[name])) for word in ("won", "lost", "failed"))
        print(f"| {name} | {' | '.join(ms)} | {mean} | {extra:.1%} | {ends} |")
    print("\nMedians of the rounds; extra requests over all of them.")


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:,.0f} ms"


if __name__ == "__main__":
    main()
