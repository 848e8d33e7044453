"""What does a policy gain on real engines? Two vLLM on the CPU, one policy after the other, the same requests.

`python -m bench.engines` starts two vLLM with the 81-million-parameter model (scripts/engines/), one per core, and for
each policy a new `fairlead serve` before them. The model is made of random numbers, the engine is not: scheduler,
batching, prefix cache with eviction, usage and metrics are vLLM's own.

Rule 1: a run begins with empty prefix caches and a balancer that has learned nothing; what it must learn is counted.
Rule 2: open loop. Within a round every policy gets the same bytes at the same times, in an order that changes.
Rule 3: an answer that failed makes the run a failed one.
Rule 4: the machine is watched. A run waits until other work leaves the cores alone; one that was disturbed all the
same is done again, and what other work took stands beside the figures.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any
from urllib.error import URLError
from urllib.request import Request, urlopen

import msgspec
import uvloop

from bench.procs import Process, free_port, spent_between
from fairlead.demo.client import OK, Load, Result
from fairlead.demo.figures import percentile
from fairlead.demo.lag import LagMeter
from fairlead.demo.workload import Ask

ROOT = Path(__file__).resolve().parents[1]
START = ROOT / "scripts" / "engines" / "start.sh"
MODEL = "tiny"  # the name that start.sh serves it under
SIZE = "81m"
NAMES = ("first", "second")
POLICIES = ("round_robin", "least_connections", "prefix_hash", "expected_completion")
START_SECONDS = 240.0
PATIENCE = 60.0  # seconds that the last answers may take
PERIOD = 0.02  # seconds of one turn of a slowed engine
TRIES = 3  # for a run without disturbance
LOOK_SECONDS = 3.0  # how long the machine is watched before a run


class Failed(Exception):
    """A run that yields no figures, and why."""


# --- the requests ---------------------------------------------------------------------------------------------
VOCABULARY = (  # common in the sources that the tokenizer was trained on: mostly one token each
    "self return import value name path data class index line text error result list key item type file size node "
    "args state count code string output input method option level module table start event object number field"
)
WORDS = VOCABULARY.split()
SYSTEMS = ((1_300, 3), (900, 4), (600, 4), (300, 2))  # each tenant's system prompt in words, its share of new talks
MOST_TURNS = 5
LONGEST = 3_000  # words of a conversation; an engine takes 4,096 tokens
THINKING_SECONDS = 3.0  # least time between two turns
GOES_ON = 0.65  # how often an arrival is the next turn of a conversation, where one is due


@dataclass
class Talk:
    """One conversation. Its earlier answers are made up: what the model says cannot be known in an open loop."""

    name: str
    messages: list[dict[str, str]]
    turns_left: int
    words: int
    asked_at: float = 0.0


def requests(seed: int, seconds: float, rate: float) -> Iterator[Ask]:
    """Requests at `rate` per second (a Poisson process) for `seconds`; pure, the seed decides everything."""
    rng = random.Random(f"fairlead engines {seed}")
    systems = [(f"tenant {place} {_said(rng, words)}", words) for place, (words, _) in enumerate(SYSTEMS)]
    weights = [weight for _, weight in SYSTEMS]
    talks: list[Talk] = []
    begun = 0
    at = rng.expovariate(rate)
    while at < seconds:
        due = [talk for talk in talks if at - talk.asked_at >= THINKING_SECONDS]
        if due and rng.random() < GOES_ON:
            talk = rng.choice(due)
        else:
            begun += 1
            ((system, words),) = rng.choices(systems, weights)
            turns = rng.randint(1, MOST_TURNS)
            talk = Talk(f"{seed}-{begun}", [{"role": "system", "content": system}], turns, words)
            talks.append(talk)
        yield _turn(rng, talk, at)
        if not talk.turns_left or talk.words > LONGEST - 600:
            talks.remove(talk)
        at += rng.expovariate(rate)


def _turn(rng: random.Random, talk: Talk, at: float) -> Ask:
    words = min(int(rng.lognormvariate(4.4, 0.7)), 400)
    if rng.random() < 0.1:  # a page is pasted
        words += rng.randint(200, 600)
    words = min(words, LONGEST - talk.words)
    output = rng.randint(8, 40)
    talk.messages.append({"role": "user", "content": _said(rng, words)})
    # A random model would stop by chance, so it must go on to the limit.
    body = {"model": MODEL, "messages": talk.messages, "max_tokens": output, "ignore_eos": True, "temperature": 0,
            "stream": True, "stream_options": {"include_usage": True}}  # fmt: skip
    talk.words += words
    talk.asked_at, talk.turns_left = at, talk.turns_left - 1
    ask = Ask(at, msgspec.json.encode(body), talk.words, output, talk.messages[0]["content"][:8], talk.name, 0)
    talk.messages.append({"role": "assistant", "content": _said(rng, output)})
    talk.words += output
    return ask


def _said(rng: random.Random, words: int) -> str:
    return " ".join(rng.choices(WORDS, k=words))


# --- the engines ----------------------------------------------------------------------------------------------


def _get(url: str, timeout: float = 5.0) -> bytes:
    with urlopen(url, timeout=timeout) as answer:
        body: bytes = answer.read()
        return body


def _wait(what: str, look: Callable[[], bool], seconds: float, process: Process | None = None) -> None:
    """Until `look` is true; connections refused meanwhile are no news. Failed."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        with suppress(URLError, OSError):
            if look():
                return
        if process is not None and not process.is_running:
            raise Failed(f"{what}: it ended:\n{process.log_tail(15)}")
        time.sleep(0.1)
    raise Failed(f"{what}: not within {seconds:g} s")


class Engine:
    """One vLLM, its URL and what it may use of its core."""

    def __init__(self, name: str, core: int, blocks: int, folder: Path) -> None:
        port = free_port()
        self.name, self.url = name, f"http://127.0.0.1:{port}"
        options = ["--port", str(port), "--core", str(core), "--model", SIZE]
        command = [str(START), *options, "--", "--num-gpu-blocks-override", str(blocks)]
        self.process = Process(command, None, folder / f"{name}.log")

    def wait_until_up(self) -> None:
        _wait(f"{self.name} to start", lambda: _get(f"{self.url}/health") == b"", START_SECONDS, self.process)

    def forget(self) -> None:
        """Empty its prefix cache, once nothing runs any more."""
        _wait(f"{self.name} to be idle", self._is_idle, 30.0)
        with urlopen(Request(f"{self.url}/reset_prefix_cache", b"", method="POST"), timeout=10.0) as answer:
            if answer.status != 200:
                raise Failed(f"{self.name} did not empty its prefix cache: status {answer.status}")

    def _is_idle(self) -> bool:
        gauges = (b"vllm:num_requests_running{", b"vllm:num_requests_waiting{")
        lines = [line for line in _get(f"{self.url}/metrics").splitlines() if line.startswith(gauges)]
        return len(lines) >= len(gauges) and all(float(line.rsplit(b" ", 1)[1]) == 0.0 for line in lines)


@contextmanager
def slowed(engine: Engine, times: float) -> Iterator[None]:
    """The engine's processes run 1/`times` of the time: all are stopped for the rest of every PERIOD."""
    if times <= 1.0:
        yield
        return
    over = threading.Event()

    def pace() -> None:
        group, run = engine.process.pid, PERIOD / times  # it leads its own process group
        try:
            while not over.is_set():
                began = time.perf_counter()
                os.killpg(group, signal.SIGSTOP)
                time.sleep(PERIOD - run)
                os.killpg(group, signal.SIGCONT)
                time.sleep((time.perf_counter() - began) / (times - 1.0))  # a late wake-up is paid back
        finally:
            with suppress(ProcessLookupError):
                os.killpg(group, signal.SIGCONT)

    thread = threading.Thread(target=pace, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


# --- one run --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """One policy in one round; times in seconds."""

    ttft: list[float]
    e2e: list[float]
    prompt: int  # tokens
    cached: int
    placed: list[int]  # requests by engine
    others: float  # cores that other work took
    late: float  # worst lateness of our event loop

    def figures(self) -> dict[str, float]:
        return {
            "TTFT mean": fmean(self.ttft),
            "p50": percentile(self.ttft, 0.5) or 0.0,
            "p99": percentile(self.ttft, 0.99) or 0.0,
            "E2E mean": fmean(self.e2e),
            "E2E p99": percentile(self.e2e, 0.99) or 0.0,
        }


def _busy_seconds() -> float:
    """CPU time of everything on this machine since boot, over the cores that we may use."""
    cores = {f"cpu{core}" for core in os.sched_getaffinity(0)}
    lines = [line.split() for line in Path("/proc/stat").read_text().splitlines()]
    ticks = sum(sum(map(int, (*line[1:4], *line[6:9]))) for line in lines if line[0] in cores)
    return ticks / os.sysconf("SC_CLK_TCK")


def _wait_for_quiet(most: float, seconds: float) -> None:
    """Until other work takes at most so many cores, but no longer than `seconds`; the engines must be idle."""
    until, others = time.monotonic() + seconds, most + 1.0
    while others > most and time.monotonic() < until:
        busy, began = _busy_seconds(), time.monotonic()
        time.sleep(LOOK_SECONDS)
        others = (_busy_seconds() - busy) / (time.monotonic() - began)


async def _send(url: str, asks: Sequence[Ask]) -> tuple[list[Result], float]:
    lag = LagMeter()
    load = Load(url)
    await load.run(asks, PATIENCE)
    late = lag.take()
    lag.stop()
    return load.results, late


def run(policy: str, asks: Sequence[Ask], engines: Sequence[Engine], slow: float, folder: Path) -> Run:
    """Empty caches, a new balancer, all requests. Failed."""
    for engine in engines:
        engine.forget()
    config = {"listen": "127.0.0.1:0", "admin": "127.0.0.1:0", "policy": policy, "access_log": False,
              "backends": [{"url": engine.url, "name": engine.name} for engine in engines]}  # fmt: skip
    path = folder / "fairlead.yaml"
    path.write_bytes(msgspec.yaml.encode(config))
    command = [sys.executable, "-m", "fairlead", "serve", str(path)]
    balancer = Process(command, None, folder / "balancer.log", talk=True)
    try:
        said = [balancer.line()]
        while "admin on" not in said[-1]:
            if not balancer.is_running:
                raise Failed(f"fairlead did not start: {balancer.log_tail()}")
            said.append(balancer.line())
        url, admin = (
            next(line.rsplit(" ", 1)[1] for line in said if line.startswith(f"{what} on "))
            for what in ("listening", "admin")
        )

        def backends() -> list[dict[str, Any]]:
            return list(msgspec.json.decode(_get(f"{admin}/api/backends"))["backends"])

        _wait("fairlead to use both", lambda: all(row["state"] == "up" for row in backends()), 30.0, balancer)
        processes = [balancer, *(engine.process for engine in engines)]
        before, machine, own = [p.cpu_seconds() for p in processes], _busy_seconds(), time.process_time()
        began = time.perf_counter()
        with slowed(engines[-1], slow), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            results, late = runner.run(_send(url, asks))
        wall = time.perf_counter() - began
        ours = sum(spent_between(was, p.cpu_seconds()) for was, p in zip(before, processes, strict=True))
        others = (_busy_seconds() - machine - ours - (time.process_time() - own)) / wall
        rows = backends()
    finally:
        balancer.end()
    bad = [result for result in results if result.outcome != OK]
    if bad or len(results) != len(asks):
        raise Failed(f"{policy}: {len(bad)} of {len(results)} answers failed, the first: {bad[0] if bad else 'none'}")
    if views := [f"{row['id']} {row['prefix_view']}" for row in rows if row["prefix_view"]]:
        _say(f"  {policy}: {'; '.join(views)}")
    count = {row["id"]: row["requests"] for row in rows}
    placed = [count[engine.name] for engine in engines]
    ttft, e2e = [result.first_token for result in results], [result.end for result in results]
    prompt, cached = (sum(getattr(r, name) for r in results) for name in ("prompt_tokens", "cached_tokens"))
    return Run(ttft, e2e, prompt, cached, placed, max(others, 0.0), late)


# --- the table ------------------------------------------------------------------------------------------------


def table(runs: dict[str, list[Run]]) -> None:
    """Medians over the rounds; hits and shares over all requests."""
    heads = list(next(iter(runs.values()))[0].figures())
    print(f"| policy | {' | '.join(heads)} | TTFT mean by round | prompt tokens cached | shares | others' cores |")
    print("|---|" + "---|" * (len(heads) + 4))
    for policy, rounds in runs.items():
        each = [run.figures() for run in rounds]
        times = " | ".join(f"{median(figures[head] for figures in each) * 1e3:.0f}" for head in heads)
        means = " ".join(f"{figures['TTFT mean'] * 1e3:.0f}" for figures in each)
        cached = sum(run.cached for run in rounds) / sum(run.prompt for run in rounds)
        placed = [sum(run.placed[place] for run in rounds) for place in range(len(NAMES))]
        shares = " ".join(f"{count / sum(placed):.0%}" for count in placed)
        others = " ".join(f"{run.others:.2f}" for run in rounds)
        print(f"| `{policy}` | {times} | {means} | {cached:.1%} | {shares} | {others} |", flush=True)


def compare(options: argparse.Namespace, engines: Sequence[Engine], folder: Path) -> dict[str, list[Run]]:
    runs: dict[str, list[Run]] = {policy: [] for policy in options.policies}
    for number in range(options.rounds):
        asks = list(requests(options.seed + number, options.seconds, options.rate))
        order = list(options.policies)
        random.Random(number).shuffle(order)  # whoever runs beside us should not always hit the same one
        for policy in order:
            for again in reversed(range(TRIES)):
                _wait_for_quiet(options.quiet, options.wait)
                done = run(policy, asks, engines, options.slow, folder)
                if done.others <= options.quiet or not again:
                    break
                _say(f"  {policy}: other work took {done.others:.2f} cores, so once more")
            runs[policy].append(done)
            ms = "  ".join(f"{head} {value * 1e3:.0f}" for head, value in done.figures().items())
            _say(
                f"round {number + 1} {policy}: {len(asks)} requests, {done.prompt} prompt tokens, {ms} ms, "
                f"cached {done.cached / done.prompt:.0%}, shares {done.placed}; other work took {done.others:.2f} "
                f"cores, our event loop was late by {done.late * 1e3:.0f} ms at worst"
            )
    return runs


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.engines", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--policies", nargs="+", default=POLICIES, metavar="NAME", help="compare these")
    parser.add_argument("--seconds", type=float, default=40.0, help="how long requests are sent in each run")
    parser.add_argument("--rate", type=float, default=2.5, help="requests per second")
    parser.add_argument("--rounds", type=int, default=3, help="rounds with other requests")
    parser.add_argument("--slow", type=float, default=1.0, metavar="N", help="the second engine is N times slower")
    parser.add_argument("--blocks", type=int, default=96, help="blocks of 128 tokens in each engine's KV cache")
    parser.add_argument("--quiet", type=float, default=0.3, metavar="CORES", help="most that other work may take")
    parser.add_argument("--wait", type=float, default=60.0, metavar="SECONDS", help="wait so long for that, per run")
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args(argv)


def _end_on_term(number: int, frame: object) -> None:
    raise SystemExit(128 + number)


def main(argv: Sequence[str] | None = None) -> int:
    options = _arguments(argv)
    signal.signal(signal.SIGTERM, _end_on_term)
    cores = sorted(os.sched_getaffinity(0))
    _say(f"{len(cores)} cores, load average {os.getloadavg()[0]:.2f} before the start; starting two vLLM")
    with tempfile.TemporaryDirectory(prefix="fairlead-engines-") as temporary:
        folder = Path(temporary)
        engines: list[Engine] = []
        try:
            for place, name in enumerate(NAMES):
                engines.append(Engine(name, cores[place % len(cores)], options.blocks, folder))
            for engine in engines:
                engine.wait_until_up()
            _say("both are up")
            run(options.policies[0], list(requests(0, 4.0, 2.0)), engines, 1.0, folder)  # first requests take longer
            runs = compare(options, engines, folder)
        except Failed as why:
            _say(str(why))
            return 1
        finally:
            for engine in engines:
                engine.process.end()
    slow = f", the second engine {options.slow:g} times slower" if options.slow > 1.0 else ""
    print(
        f"{options.rounds} rounds of {options.seconds:g} s at {options.rate:g} requests/s{slow}; ms, medians of rounds"
    )
    table(runs)
    return 0


if __name__ == "__main__":
    sys.exit(main())
