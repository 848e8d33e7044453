"""`python -m bench.soak --requests 100000`: is anything lost, doubled, mixed up or taken for whole when it is not?

Mixed traffic (answers in one piece, streams, clients that leave, errors, engines that reset, break or end too early,
keep-alive races) through a real proxy process in front of engines that do what the request asks (soak_engine.py); then
every engine is killed with SIGKILL in turn, and started again, under load. The same with nginx, for comparison.
nginx runs twice: as it comes, and told to retry all that fairlead retries.
Rule 1: every answer is checked: its nonce, the order of its events, its end. Rule 2: lost is what a balancer could have
saved: a request whose fault happens at one engine, before the answer's first byte, and yet gets no whole answer.
Ends with 1 if fairlead lost, doubled or mixed up a request, or passed a cut answer off as a whole one.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import uvloop

from bench import proxies
from bench.procs import Cores, Process, raise_file_limit
from bench.soak_client import WHY, WORDS, Client

ENGINES = 3
AT_ONCE = 24
MIX = {  # kind -> share of the requests
    "plain": 40, "stream": 20, "late": 4, "race": 8, "reset": 3, "head": 3, "503": 4,
    "400": 3, "500": 2, "breaks": 3, "ends": 2, "abort": 8,
}  # fmt: skip
KILL_MIX = {"slow": 60, "late": 40}
TUNED = [  # nginx told to do what can be done: any failure before the answer goes elsewhere, nobody is rested
    ("127.0.0.1:{};", "127.0.0.1:{} max_fails=0;"),
    (
        "proxy_buffering off;",
        "proxy_buffering off; proxy_next_upstream error timeout http_502 http_503 non_idempotent;",
    ),
]


class Engines:
    """Processes that can be killed and come back on their port."""

    def __init__(self, folder: Path, cores: Cores, module: str = "bench.soak_engine", count: int = ENGINES) -> None:
        self._folder, self._cores, self._module = folder, cores, module
        self.ports = [0] * count
        self._running: dict[int, Process] = {}
        for number in range(count):
            self.start(number)

    def start(self, number: int) -> None:
        command = [sys.executable, "-m", self._module, str(self.ports[number]), str(number)]
        log, env = self._folder / f"engine-{number}.log", {"PYTHONPATH": str(proxies.ROOT)}
        self._running[number] = process = Process(command, self._cores.stub, log, env=env, talk=True)
        self.ports[number] = int(process.line().partition(" ")[2])

    def kill(self, number: int) -> None:
        os.kill(self._running[number].pid, signal.SIGKILL)
        self._running[number].end()

    def end(self) -> None:
        for process in self._running.values():
            process.end()


class Watch:
    """Memory of the process over the requests done."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self.samples: list[tuple[int, int]] = []

    def sample(self, done: int) -> None:
        self.samples.append((done, self._process.rss_bytes()))

    def files(self) -> int:
        return len(os.listdir(f"/proc/{self._process.pid}/fd"))

    def slope(self) -> float:
        """MiB per 100,000 requests, by least squares, over the later two thirds."""
        late = self.samples[len(self.samples) // 3 :]
        mean_x, mean_y = (sum(column) / len(late) for column in zip(*late, strict=True))
        spread = sum((x - mean_x) ** 2 for x, _ in late)
        return sum((x - mean_x) * (y - mean_y) for x, y in late) / spread * 100_000 / (1 << 20) if spread else 0.0


async def _traffic(port: int, mix: dict[str, int], total: int, seed: int, watch: Watch) -> Counter[tuple[str, str]]:
    rng = random.Random(seed)
    told: Counter[tuple[str, str]] = Counter()
    kinds = rng.choices(list(mix), list(mix.values()), k=total)
    left = iter(enumerate(kinds))

    async def worker(number: int) -> None:
        client = Client(port, random.Random(seed * 1_000 + number), told, ENGINES)
        for index, kind in left:
            if index % max(total // 60, 1) == 0:
                watch.sample(index)
            await client.ask(kind, b"s%dn%08d" % (seed, index))
        client.close()

    await asyncio.gather(*(worker(number) for number in range(AT_ONCE)))
    return told


async def _killed(port: int, engines: Engines, total: int, watch: Watch) -> Counter[tuple[str, str]]:
    """Traffic while every engine is killed and started again, round after round."""
    traffic = asyncio.create_task(_traffic(port, KILL_MIX, total, 2, watch))
    number = 0
    while not traffic.done():
        await asyncio.sleep(1.5)
        engines.kill(number % ENGINES)
        await asyncio.sleep(0.7)
        await asyncio.to_thread(engines.start, number % ENGINES)
        number += 1
    return traffic.result()


def _table(title: str, told: Counter[tuple[str, str]], seconds: float) -> None:
    print(f"\n{title}: {sum(told.values())} requests in {seconds:.0f} s")
    words = [word for word in WORDS if any(w == word for _, w in told)]
    print("| what happens | " + " | ".join(words) + " |\n|---" + "|---:" * len(words) + "|")
    for kind in dict.fromkeys(kind for kind, _ in sorted(told)):
        print(f"| {kind} | " + " | ".join(str(told[kind, word] or "") for word in words) + " |")


def _sum(told: Counter[tuple[str, str]], word: str) -> int:
    return sum(count for (_, w), count in told.items() if w == word)


def _one(name: str, title: str, folder: Path, cores: Cores, requests: int, kills: int, files: int) -> int:
    """Both parts with one proxy; how much went wrong."""
    wrong = 0
    engines = Engines(folder, cores)
    try:
        running = proxies.start(name, folder / name, engines.ports, cores, files)
        try:
            watch = Watch(running.measured)
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(_traffic(running.port, MIX, 2_000, 9, watch))  # warm-up
                watch.samples.clear()
                runner.run(asyncio.sleep(6.0))
                before, start = watch.files(), time.monotonic()
                told = runner.run(_traffic(running.port, MIX, requests, 1, watch))
                _table(f"{title}, mixed", told, time.monotonic() - start)
                runner.run(asyncio.sleep(6.0))
                after, rss = watch.files(), watch.samples[-1][1] / (1 << 20)
                print(
                    f"memory {rss:.1f} MiB, slope {watch.slope():+.2f} MiB per 100,000; open files {before} -> {after}"
                )
                start = time.monotonic()
                killed = runner.run(_killed(running.port, engines, kills, watch))
                _table(f"{title}, every engine killed in turn", killed, time.monotonic() - start)
            for (kind, said), count in WHY.most_common(6):
                print(f"lost {count} x {kind}: {said}")
            WHY.clear()
            for word in ("lost", "silent", "mixed up", "doubled"):
                count = _sum(told, word) + _sum(killed, word)
                wrong += count
                print(f"{title}: {word} {_sum(told, word)} of {requests}, {_sum(killed, word)} of {kills}")
        finally:
            running.measured.end()
    finally:
        engines.end()
    return wrong


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--requests", type=int, default=100_000, metavar="N", help="of the mixed part")
    parser.add_argument("--kills", type=int, default=5_000, metavar="N", help="requests while engines are killed")
    parser.add_argument("--only", choices=["fairlead", "nginx"], help="this proxy alone")
    arguments = parser.parse_args(argv)
    files, cores = raise_file_limit(), Cores()
    wrong = 0
    print(f"{AT_ONCE} clients, {ENGINES} engines, one worker, seeds 1 and 2; {cores}")
    for name, title in (("fairlead", "fairlead"), ("nginx", "nginx as it comes"), ("nginx", "nginx told to retry")):
        if arguments.only not in (None, name):
            continue
        proxies.CHANGES["nginx"] = TUNED if "told" in title else []
        with tempfile.TemporaryDirectory(prefix="soak-") as folder:
            try:
                if name == "fairlead":
                    proxies.copy_source(Path(folder))
                count = _one(name, title, Path(folder), cores, arguments.requests, arguments.kills, files)
            except proxies.Absent as problem:
                print(f"{name}: {problem}")
                count = int(name == "fairlead")
        wrong += count if name == "fairlead" else 0
    print("\nnothing was lost" if not wrong else f"\n{wrong} requests went wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main())
    sys.exit(130)
