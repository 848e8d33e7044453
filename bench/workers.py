"""What do more workers cost in placement, and what do they gain in throughput?

`python -m bench.workers` sends the same requests (conversations that share prompts, so that cache hits matter) to four
emulated engines behind one, two and four workers, and behind four Fairleads that know nothing of each other. Then small
requests go as fast as they can to stubs behind one worker and behind two.

Rule 1: every run has new engines and a new Fairlead, which has learned nothing; within a round all get the same bytes
at the same times.
Rule 2: an answer that failed makes the run a failed one.
Rule 3: client, stubs and workers share the machine's cores, and so does whoever else uses it: the load of the machine
stands beside the figures.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import fmean
from urllib.error import URLError
from urllib.request import urlopen

import uvloop

from bench.load import ClosedLoop
from bench.procs import Process, free_port, raise_file_limit, spent_between
from bench.work import fixed
from fairlead.demo.client import OK, Load
from fairlead.demo.figures import percentile
from fairlead.demo.workload import MODEL, Ask, workload

ENGINES = 4
START_SECONDS = 30.0
PATIENCE = 60.0  # seconds that the last answers may take
APART = 4  # Fairleads that know nothing of each other
CONNECTIONS = 32
SMALL = 400  # bytes of a small prompt


class Failed(Exception):
    """A run that yields no figures, and why."""


def _get(url: str) -> bytes:
    with urlopen(url, timeout=5) as answer:
        found: bytes = answer.read()
        return found


def _wait(process: Process, url: str) -> None:
    """Until it answers with 200."""
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until and process.is_running:
        try:
            _get(url)
        except (URLError, OSError):
            time.sleep(0.1)
        else:
            return
    raise Failed(f"it did not start:\n{process.log_tail()}")


@contextmanager
def started(command: Sequence[str], log: Path, ready: str) -> Iterator[Process]:
    process = Process([sys.executable, "-m", *command], None, log)
    try:
        _wait(process, ready)
        yield process
    finally:
        process.end()


class Fleet:
    """Engines and Fairleads before them."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder, self._stack = folder, stack
        self.proxies: list[Process] = []
        self.data: list[int] = []
        self.admin: list[int] = []

    def emulate(self, seed: int) -> list[str]:
        """Engines on ports of the system's choice; their URLs, which they print."""
        command = ["fairlead", "emulate", "--listen", "127.0.0.1:0", "--count", str(ENGINES)]
        command += ["--model", MODEL, "--seed", str(seed)]
        log = self._folder / "engines.log"
        process = Process([sys.executable, "-m", *command], None, log)
        self._stack.callback(process.end)
        until = time.monotonic() + START_SECONDS
        while "engines ready" not in log.read_text():
            if time.monotonic() > until or not process.is_running:
                raise Failed(f"the engines did not start:\n{process.log_tail()}")
            time.sleep(0.1)
        return [line.split()[0] for line in log.read_text().splitlines() if line.startswith("http")]

    def stubs(self, count: int) -> list[str]:
        urls = []
        for number in range(count):
            stub = Process([sys.executable, "-m", "bench.stub"], None, self._folder / f"stub{number}.log", talk=True)
            self._stack.callback(stub.end)
            urls.append(f"http://127.0.0.1:{stub.line().split()[1]}")
        return urls

    def serve(self, urls: Sequence[str], workers: int) -> None:
        data, admin = free_port(), free_port()
        command = [
            "fairlead", "serve", *urls, "--listen", f"127.0.0.1:{data}", "--admin", f"127.0.0.1:{admin}",
            "--workers", str(workers), "--access-log", str(self._folder / "access.log"),
        ]  # fmt: skip
        log = self._folder / f"fairlead{len(self.proxies)}.log"
        ready = f"http://127.0.0.1:{admin}/readyz"
        self.proxies.append(self._stack.enter_context(started(command, log, ready)))
        self.data.append(data)
        self.admin.append(admin)

    def cpu_seconds(self) -> dict[int, float]:
        return {pid: spent for proxy in self.proxies for pid, spent in proxy.cpu_seconds().items()}

    def placed(self) -> Counter[str]:
        """Requests by backend, as the admin APIs tell it."""
        found: Counter[str] = Counter()
        for port in self.admin:
            for row in json.loads(_get(f"http://127.0.0.1:{port}/api/backends"))["backends"]:
                found[row["id"]] += row["requests"]
        return found


async def placement(asks: list[Ask], ports: Sequence[int]) -> list[Load]:
    """Send everything; with several ports each request goes to one of them in turn."""
    loads = [Load(f"http://127.0.0.1:{port}") for port in ports]
    parts = [asks[number :: len(ports)] for number in range(len(ports))]
    await asyncio.gather(*(load.run(part, PATIENCE) for load, part in zip(loads, parts, strict=True)))
    return loads


def measure_placement(workers: int, apart: bool, seed: int, seconds: float, rate: float) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        fleet = Fleet(Path(folder), stack)
        urls = fleet.emulate(seed)
        for _ in range(APART if apart else 1):
            fleet.serve(urls, workers)
        asks = list(workload(seed, seconds, rate))
        before = fleet.cpu_seconds()
        loads = uvloop.run(placement(asks, fleet.data))
        spent = spent_between(before, fleet.cpu_seconds())
        results = [result for load in loads for result in load.results]
        bad = Counter(result.outcome for result in results if result.outcome != OK)
        if bad:
            raise Failed(f"of {len(results)} requests not all ended well: {dict(bad)}")
        first = [result.first_token for result in results]
        placed = fleet.placed()
        return {
            "requests": len(results),
            "TTFT mean, ms": fmean(first) * 1e3,
            "TTFT p99, ms": (percentile(first, 0.99) or 0.0) * 1e3,
            "hit ratio": sum(r.cached_tokens for r in results) / sum(r.prompt_tokens for r in results),
            "largest share": max(placed.values()) / placed.total(),
            "CPU, ms/request": spent / len(results) * 1e3,
        }


def measure_throughput(workers: int, requests: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        fleet = Fleet(Path(folder), stack)
        fleet.serve(fleet.stubs(2), workers)

        async def run() -> tuple[float, float]:
            loop = ClosedLoop(fleet.data[0], CONNECTIONS)
            work = fixed(SMALL, 2_000)
            try:
                warm = await loop.run(work, requests // 5, PATIENCE)
                before = fleet.cpu_seconds()
                tally = await loop.run(work, requests, PATIENCE)
                problem = warm.problem(requests // 5) or tally.problem(requests)
                if problem:
                    raise Failed(problem)
                return tally.wall_seconds, spent_between(before, fleet.cpu_seconds())
            finally:
                loop.close()

        wall, cpu = uvloop.run(run())
        return {"requests/s": requests / wall, "CPU, us/request": cpu / requests * 1e6, "cores in use": cpu / wall}


def _table(title: str, rows: dict[str, list[dict[str, float]]]) -> None:
    names = list(next(iter(rows.values()))[0])
    print(f"\n{title}\n\n| | " + " | ".join(names) + " |\n|" + "---|" * (len(names) + 1))
    for name, runs in rows.items():
        cells = [fmean(run[column] for run in runs) for column in names]
        print(f"| {name} | " + " | ".join(f"{cell:,.3g}" if cell < 100 else f"{cell:,.0f}" for cell in cells) + " |")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.workers", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--seconds", type=float, default=40.0, help="of each run of the placement (default 40)")
    parser.add_argument("--rate", type=float, default=24.0, help="requests per second (default 24)")
    parser.add_argument("--rounds", type=int, default=2, help="each with another seed (default 2)")
    parser.add_argument("--requests", type=int, default=30_000, help="of each run of the throughput (default 30000)")
    parser.add_argument("--test", choices=("placement", "throughput"), help="this one alone")
    options = parser.parse_args()
    raise_file_limit()
    cases = {"1 worker": (1, False), "2 workers": (2, False), "4 workers": (4, False), "4 apart": (1, True)}
    placed: dict[str, list[dict[str, float]]] = {name: [] for name in cases}
    fast: dict[str, list[dict[str, float]]] = {"1 worker": [], "2 workers": []}
    print(f"{len(os.sched_getaffinity(0))} cores; load of the machine before: {os.getloadavg()[0]:.2f}")
    for seed in range(1, options.rounds + 1):
        for name, (workers, apart) in cases.items() if options.test != "throughput" else ():
            placed[name].append(measure_placement(workers, apart, seed, options.seconds, options.rate))
            print(f"round {seed} {name}: {placed[name][-1]}", file=sys.stderr, flush=True)
        for name in fast if options.test != "placement" else ():
            fast[name].append(measure_throughput(int(name.split()[0]), options.requests))
            print(f"round {seed} {name}: {fast[name][-1]}", file=sys.stderr, flush=True)
    if options.test != "throughput":
        _table(f"Placement: {ENGINES} emulated engines, {options.rate:g} requests/s for {options.seconds:g} s", placed)
    if options.test != "placement":
        _table(f"Throughput: {CONNECTIONS} connections, prompts of {SMALL} characters", fast)
    print(f"\nload of the machine after: {os.getloadavg()[0]:.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
