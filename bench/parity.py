"""Does the simulator tell what would really happen? The same requests, served in real time and simulated.

`python -m bench.parity` starts emulated engines (`fairlead emulate`, at the speed of the machines they stand for) and a
balancer (`fairlead serve`) as processes of their own, sends the demo's requests to it at their times, and simulates the
same requests over the same fleet. It prints both sides' times to the first token and to the end, the relative
difference, and how busy each process was: a machine with something else to do measures itself.
`--compare` compares policies instead, live: one workload, several rounds, the same fleet.

Rule 1: every run begins with new engines and a new balancer: empty caches, nothing learned.
Rule 2: both sides get the same arrivals, prompts and answer lengths; nothing is fitted to the run that is compared.
Rule 3: a run with an answer that failed is a failed run and says so.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from statistics import fmean, median
from urllib.request import Request as HttpRequest
from urllib.request import urlopen

import msgspec
import uvloop

from bench.procs import Process, spent_between
from fairlead.core.policies.registry import make
from fairlead.demo.client import OK, Load, Result
from fairlead.demo.figures import percentile
from fairlead.demo.fleet import FLEET
from fairlead.demo.lag import LagMeter
from fairlead.demo.workload import MODEL, Ask, workload
from fairlead.emulator.profiles import PROFILES
from fairlead.emulator.text import Message, block_hashes, output_text, output_words, render_chat, seed_of
from fairlead.sim.fleet import Fleet, Member
from fairlead.sim.host import Settings, Simulation
from fairlead.sim.trace import OK as ANSWERED
from fairlead.sim.trace import Outcome, Request, Trace

PATIENCE = 60.0  # seconds that the last answers may take
POLICIES = ("round_robin", "least_connections", "expected_completion")
COMPARED = ("round_robin", "least_connections", "prefix_hash", "expected_completion")
SIMULATED = 8  # seeds of the simulator: chance decides between equals, there and here
BLOCK = 16  # tokens of a KV block
SCRAPE = 1.0  # seconds between two readings, as `fairlead serve` does by default
GOAL = 0.1  # relative difference of the means


class Failed(Exception):
    """A run that yields no figures; the message says why."""


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    seconds: float
    rate: float
    rounds: int


@dataclass
class Side:
    """Times of all requests of one policy, over all rounds, in seconds."""

    ttft: list[float] = field(default_factory=list)
    e2e: list[float] = field(default_factory=list)
    prompt: int = 0  # tokens
    cached: int = 0
    placed: dict[str, int] = field(default_factory=dict)

    def of(self, what: str) -> list[float]:
        return self.ttft if what == "TTFT" else self.e2e

    @property
    def hits(self) -> float:
        return self.cached / self.prompt if self.prompt else 0.0


@dataclass
class Busy:
    """CPU time over wall time of each process, and the worst lateness of our own event loop."""

    engines: float = 0.0
    balancer: float = 0.0
    client: float = 0.0
    late: float = 0.0

    def __str__(self) -> str:
        shares = f"engines {self.engines:.0%}, balancer {self.balancer:.0%}, client {self.client:.0%}"
        return f"CPU: {shares}; our event loop was late by {self.late * 1e3:.0f} ms at worst"


# --- served --------------------------------------------------------------------------------------------------


def _child(command: Sequence[str], folder: Path, name: str, ready: str) -> tuple[Process, list[str]]:
    """Start a fairlead command and read what it says until a line holds `ready`."""
    process = Process([sys.executable, "-m", "fairlead", *command], None, folder / f"{name}.log", talk=True)
    said: list[str] = []
    while not said or ready not in said[-1]:
        line = process.line()
        if not line and not process.is_running:
            process.end()
            raise Failed(f"{name} did not start: {process.log_tail()}")
        said.append(line)
    return process, said


def _engines(folder: Path, seed: int) -> tuple[Process, list[str]]:
    """All emulated engines in one process, and their URLs."""
    profiles = [part for machine in FLEET for part in ("--profile", machine.profile)]
    command = ["emulate", "--listen", "127.0.0.1:0", *profiles, "--model", MODEL, "--seed", str(seed)]
    process, said = _child(command, folder, "engines", "engines ready")
    urls = [line.split()[0] for line in said[:-1]]
    for machine, url in zip(FLEET, urls, strict=True):
        body = msgspec.json.encode({"slow": machine.slow})
        with urlopen(HttpRequest(f"{url}/emulator/faults", body, method="POST"), timeout=5.0) as answer:
            answer.read()
    return process, urls


def _balancer(folder: Path, urls: Sequence[str], policy: str) -> tuple[Process, str, str]:
    """`fairlead serve` with its defaults, and its two URLs."""
    backends = [{"url": url, "name": machine.name} for url, machine in zip(urls, FLEET, strict=True)]
    config = {"listen": "127.0.0.1:0", "admin": "127.0.0.1:0", "policy": policy, "access_log": False,
              "backends": backends}  # fmt: skip
    path = folder / "fairlead.yaml"
    path.write_bytes(msgspec.yaml.encode(config))
    process, said = _child(["serve", str(path)], folder, "balancer", "admin on")
    data = next(line for line in said if line.startswith("listening on "))
    return process, data.rsplit(" ", 1)[1], said[-1].rsplit(" ", 1)[1]


async def _send(url: str, asks: Iterable[Ask]) -> tuple[list[Result], float]:
    lag = LagMeter()
    load = Load(url)
    await load.run(asks, PATIENCE)
    late = lag.take()
    lag.stop()
    return load.results, late


def serve(policy: str, asks: Sequence[Ask], seed: int) -> tuple[list[Result], dict[str, int], Busy]:
    """One run in real time: the results, requests by backend, and how busy everybody was. Failed."""
    with tempfile.TemporaryDirectory(prefix="fairlead-parity-") as temporary:
        folder = Path(temporary)
        running: list[Process] = []
        try:
            engines, urls = _engines(folder, seed)
            running.append(engines)
            balancer, url, admin = _balancer(folder, urls, policy)
            running.append(balancer)
            before, began, own = [p.cpu_seconds() for p in running], time.perf_counter(), time.process_time()
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                results, late = runner.run(_send(url, asks))
            wall = time.perf_counter() - began
            shares = [spent_between(was, p.cpu_seconds()) / wall for was, p in zip(before, running, strict=True)]
            busy = Busy(shares[0], shares[1], (time.process_time() - own) / wall, late)
            with urlopen(f"{admin}/api/backends", timeout=5.0) as answer:
                rows = msgspec.json.decode(answer.read())["backends"]
        finally:
            for process in reversed(running):
                process.end()
    bad = [result for result in results if result.outcome != OK]
    if bad or len(results) != len(asks):
        raise Failed(f"{policy}: {len(bad)} of {len(results)} answers failed, the first: {bad[0] if bad else 'none'}")
    return results, {row["id"]: row["requests"] for row in rows}, busy


# --- simulated -----------------------------------------------------------------------------------------------


def trace_of(asks: Sequence[Ask], seed: int) -> Trace:
    """The same requests for the simulator, with the KV blocks that the emulated engines find in them."""
    requests = []
    for ask in asks:
        messages = [Message(m["role"], m["content"]) for m in msgspec.json.decode(ask.body)["messages"]]
        prompt = render_chat(messages)  # whole tokens
        answer = output_text(output_words(seed_of(prompt, seed)), ask.output_tokens)
        hashes = block_hashes(prompt + answer, BLOCK)
        full = ask.prompt_tokens // BLOCK
        blocks, more = tuple(hashes[:full]), tuple(hashes[full:])
        requests.append(
            Request(
                ask.at,
                ask.prompt_tokens,
                ask.output_tokens,
                blocks,
                output_blocks=more,
                tenant=ask.tenant,
                session=ask.conversation,
                max_tokens=ask.output_tokens,
            )
        )
    return Trace(f"demo workload, seed {seed}", requests, BLOCK)


def simulate(policy: str, trace: Trace, seed: int, settings: Settings) -> list[Outcome]:
    """One run in virtual time. Failed."""
    members = tuple(Member(m.name, PROFILES[m.profile], slowdown=m.slow) for m in FLEET)
    run = Simulation(trace, Fleet("the demo's", members), make(policy), seed=seed, settings=settings).run()
    if any(outcome.status != ANSWERED for outcome in run.outcomes):
        raise Failed(f"{policy}: not all simulated requests were answered")
    return run.outcomes


# --- the two tables ------------------------------------------------------------------------------------------


def _take(side: Side, results: Sequence[Result], placed: dict[str, int]) -> None:
    side.ttft += [result.first_token for result in results]
    side.e2e += [result.end for result in results]
    side.prompt += sum(result.prompt_tokens for result in results)
    side.cached += sum(result.cached_tokens for result in results)
    for name, count in placed.items():
        side.placed[name] = side.placed.get(name, 0) + count


def _take_simulated(side: Side, trace: Trace, outcomes: Sequence[Outcome]) -> None:
    side.ttft += [outcome.ttft or 0.0 for outcome in outcomes]
    side.e2e += [outcome.e2e for outcome in outcomes]
    side.prompt += sum(request.prompt for request in trace.requests)
    side.cached += sum(outcome.cached for outcome in outcomes)
    for outcome in outcomes:
        side.placed[outcome.backend] = side.placed.get(outcome.backend, 0) + 1


FIGURES: dict[str, Callable[[list[float]], float]] = {
    "mean": fmean,
    "p50": lambda values: percentile(values, 0.5) or 0.0,
    "p90": lambda values: percentile(values, 0.9) or 0.0,
    "p99": lambda values: percentile(values, 0.99) or 0.0,
}


def _shares(sides: Sequence[Side]) -> str:
    """Of all requests, by backend."""
    counts = [sum(side.placed.get(machine.name, 0) for side in sides) for machine in FLEET]
    return " ".join(f"{count / sum(counts):.0%}" for count in counts)


def parity(size: Size, policies: Sequence[str], overhead: float, seed: int) -> int:
    """Served against simulated, per policy; 1 where a mean is further off than the goal."""
    variants = {0.0: "simulated (lowest to highest)"}
    if overhead:
        variants[overhead] = f"with {overhead * 1e3:g} ms overhead"
    print(f"{size.rounds} x {size.seconds:g} s at {size.rate:g} requests/s, {SIMULATED} seeds simulated; milliseconds")
    print(f"| policy | figure | served | {' | '.join(f'{title} | difference' for title in variants.values())} |")
    print(f"|---|---|---|{'---|---|' * len(variants)}", flush=True)
    missed = 0
    for policy in policies:
        served = Side()
        simulated = {extra: [Side() for _ in range(SIMULATED)] for extra in variants}  # one for each seed
        apart: list[float] = []
        for number in range(size.rounds):
            asks = list(workload(seed + number, size.seconds, size.rate))
            results, placed, busy = serve(policy, asks, seed + number)
            print(f"{policy} round {number + 1}: {len(asks)} requests; {busy}", file=sys.stderr, flush=True)
            _take(served, results, placed)
            trace = trace_of(asks, seed + number)
            for extra, sides in simulated.items():
                for chance, side in enumerate(sides):
                    outcomes = simulate(policy, trace, chance + 1, Settings(scrape=SCRAPE, overhead=extra))
                    _take_simulated(side, trace, outcomes)
                    if not extra:
                        apart += [r.first_token - (o.ttft or 0.0) for r, o in zip(results, outcomes, strict=True)]
        missed += _tell(policy, served, list(simulated.values()))
        print(f"{policy}: served TTFT is {median(apart) * 1e3:+.2f} ms longer, median of requests", file=sys.stderr)
    verdict = f"{missed} means are further off than {GOAL:.0%}" if missed else f"all means within {GOAL:.0%}"
    print(verdict, file=sys.stderr)
    return 1 if missed else 0


def _tell(policy: str, served: Side, variants: Sequence[Sequence[Side]]) -> int:
    """Print one policy's rows; how many means of the first variant are too far off?"""
    missed = 0
    for what in ("TTFT", "E2E"):
        for name in ("mean", "p50", "p90"):
            real = FIGURES[name](served.of(what))
            row = f"| `{policy}` | {what} {name} | {real * 1e3:.1f} |"
            for place, sides in enumerate(variants):
                each = [FIGURES[name](side.of(what)) for side in sides]
                off = fmean(each) / real - 1.0
                missed += name == "mean" and not place and abs(off) > GOAL
                spread = "" if place else f" ({min(each) * 1e3:.1f} to {max(each) * 1e3:.1f})"
                row += f" {fmean(each) * 1e3:.1f}{spread} | {off:+.1%} |"
            print(row)
    cached, shares = f" {served.hits:.1%} |", f" {_shares([served])} |"
    for sides in variants:
        hits = fmean(side.hits for side in sides)
        cached += f" {hits:.1%} | {(hits - served.hits) * 100:+.1f} points |"
        shares += f" {_shares(sides)} | |"
    print(f"| `{policy}` | prompt tokens cached |{cached}")
    print(f"| `{policy}` | shares |{shares}", flush=True)
    return missed


def compare(size: Size, policies: Sequence[str], seed: int) -> int:
    """Policies against each other, served. Within a round all get the same requests, one right after the other."""
    print(f"{size.rounds} rounds of {size.seconds:g} s at {size.rate:g} requests/s; seconds")
    sides: dict[str, Side] = {policy: Side() for policy in policies}
    means: dict[str, list[float]] = {policy: [] for policy in policies}
    for number in range(size.rounds):
        asks = list(workload(seed + number, size.seconds, size.rate))
        order = list(policies)
        Random(number).shuffle(order)  # whoever runs beside us should not always hit the same one
        for policy in order:
            results, placed, busy = serve(policy, asks, seed + number)
            _take(sides[policy], results, placed)
            means[policy].append(fmean(result.first_token for result in results))
            print(f"round {number + 1} {policy}: {len(asks)} requests; {busy}", file=sys.stderr, flush=True)
    names = ("mean", "p50", "p99")
    heads = [f"{what} {name}" for what in ("TTFT", "E2E") for name in names]
    print(f"| policy | {' | '.join(heads)} | TTFT mean by round | cached | shares {' '.join(m.name for m in FLEET)} |")
    print("|---|" + "---|" * (len(heads) + 3))
    for policy, side in sides.items():
        times = [f"{FIGURES[name](values):.3f}" for values in (side.ttft, side.e2e) for name in names]
        rounds = " ".join(f"{mean:.3f}" for mean in means[policy])
        print(f"| `{policy}` | {' | '.join(times)} | {rounds} | {side.hits:.1%} | {_shares([side])} |")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.parity", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--compare", action="store_true", help="policies against each other, served")
    parser.add_argument("--quick", action="store_true", help="one short round: does it run, is anything far off?")
    parser.add_argument("--policy", action="append", help="this policy (repeatable)")
    parser.add_argument("--seconds", type=float, help="how long requests are sent in each run (default 40)")
    parser.add_argument("--rate", type=float, help="requests per second (default 10; 20 with --compare)")
    parser.add_argument("--rounds", type=int, help="rounds with other requests (default 4; 3 with --compare)")
    parser.add_argument("--overhead", type=float, default=0.002, help="simulate also with so many seconds of overhead")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(argv)
    quick, live = options.quick, options.compare
    size = Size(
        options.seconds or (8.0 if quick else 40.0),
        options.rate or (20.0 if live else 10.0),
        options.rounds or (1 if quick else 3 if live else 4),
    )
    load = os.getloadavg()[0]
    print(f"{os.cpu_count()} cores, load average {load:.2f} before the start", file=sys.stderr)
    try:
        if live:
            return compare(size, options.policy or COMPARED, options.seed)
        return parity(size, options.policy or POLICIES, options.overhead, options.seed)
    except Failed as why:
        print(why, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
