"""`python -m bench.kills`: what do clients see when real vLLM engines are killed under load, one after the other?

Two vLLM on the CPU (scripts/engines/). In a round one of them is killed with everything of it (SIGKILL to its process
group) while streams run through fairlead, fairlead with `resume: true`, and nginx told to retry, one after the other;
each time it is started again and waited for. The next round kills the other one.
Rule 1: a stream is whole, failed before its first event, visibly broken, or short and silent about it; nothing else.
Rule 2: whole is what the engine itself says it is: all tokens by `usage`, a finish reason, `[DONE]`, no error.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from bench import proxies
from bench.engines import START, START_SECONDS
from bench.procs import Cores, Process, free_port, raise_file_limit
from bench.reliability.__main__ import write_between
from bench.reliability.balancers import CHANGES, wait_until
from bench.reliability.figures import of
from bench.work import MODEL

PAGE = proxies.ROOT / "docs" / "reliability-figures.md"
TOKENS = 80
WORDS = ("whole", "failed before commit", "broken visibly", "silently short")
WAYS = {"fairlead": "fairlead", "fairlead, `resume: true`": "fairlead", "nginx, told to retry": "nginx"}


def judged(status: int, events: Sequence[str], is_cut: bool) -> str:
    """One of WORDS, from the data of a stream's events; `is_cut`: its framing did not come to its end."""
    if status != 200 or not events:
        return "failed before commit"
    said: list[dict[str, Any]] = [json.loads(event) for event in events if event != "[DONE]"]
    if is_cut or any("error" in one for one in said):
        return "broken visibly"
    tokens = max(((one.get("usage") or {}).get("completion_tokens", 0) for one in said), default=0)
    finished = any(choice.get("finish_reason") for one in said for choice in one.get("choices", ()))
    return "whole" if tokens == TOKENS and finished and events[-1] == "[DONE]" else "silently short"


def stream(port: int, number: int) -> str:
    """Ask for one and read it to its end."""
    body: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": f"def handler_{number}():"}]}
    body |= {"max_tokens": TOKENS, "ignore_eos": True, "temperature": 0}
    body |= {"stream": True, "stream_options": {"include_usage": True}}
    status, events, is_cut = 0, list[str](), False
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=90.0)
    try:
        connection.request("POST", "/v1/chat/completions", json.dumps(body), {"content-type": "application/json"})
        answer = connection.getresponse()
        status = answer.status
        rest = b""
        while piece := answer.read1(65536):  # iterating over lines would take a cut for the end
            *lines, rest = (rest + piece).split(b"\n")
            events += [line[5:].strip().decode() for line in lines if line.startswith(b"data:")]
    except (OSError, http.client.HTTPException):
        is_cut = True
    finally:
        connection.close()
    return judged(status, events, is_cut)


class Engine:
    """One vLLM that can be killed and comes back on its port."""

    def __init__(self, number: int, core: int, folder: Path) -> None:
        self.port, self._log = free_port(), folder / f"engine-{number}.log"
        self._command = [str(START), "--port", str(self.port), "--core", str(core), "--served-as", MODEL]
        self._command += ["--", "--dtype", "float32"]
        self._process: Process | None = None

    def start(self) -> None:
        self._process = self._process or Process(self._command, None, self._log)

    def wait_until_up(self) -> None:
        wait_until(f"vLLM on port {self.port} to be healthy", self._is_healthy, START_SECONDS)

    def _is_healthy(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5.0)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        finally:
            connection.close()

    def kill(self) -> None:
        """Everything of it at once: how it looks when its machine dies."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.end()
            self._process = None


def kill_under_load(port: int, dead: Engine, streams: int, at_once: int, seed: int) -> Counter[str]:
    """`streams` of them, at most `at_once` at a time; the engine dies when a quarter has ended."""
    with ThreadPoolExecutor(at_once) as clients:
        asked: list[Future[str]] = [clients.submit(stream, port, seed * 1_000 + n) for n in range(streams)]
        while sum(one.done() for one in asked) < streams // 4:
            time.sleep(0.02)
        dead.kill()
        return Counter(one.result() for one in asked)


def compare(
    engines: Sequence[Engine], rounds: int, streams: int, at_once: int, folder: Path
) -> dict[str, Counter[str]]:
    """Every round kills one engine under each balancer, the next round the other one."""
    told: dict[str, Counter[str]] = {way: Counter() for way in WAYS}
    cores, files = Cores(), raise_file_limit()
    for number in range(rounds):
        dead = engines[number % len(engines)]
        for place, (way, name) in enumerate(WAYS.items()):
            dead.start()  # no effect on one that runs
            dead.wait_until_up()
            changes = [("admin: 127.0.0.1:0\n", "admin: 127.0.0.1:0\nresume: true\n")] if "resume" in way else []
            proxies.CHANGES["fairlead"] = changes
            running = proxies.start(name, folder / f"{number}-{place}", [one.port for one in engines], cores, files)
            try:
                time.sleep(2.0)  # its first look at both engines is over
                got = kill_under_load(running.port, dead, streams, at_once, number)
            finally:
                running.measured.end()
            told[way] += got
            _say(f"round {number + 1}, {way}: {dict(got)}")
        if number + 1 < rounds:
            dead.start()
            dead.wait_until_up()
    return told


def table(told: dict[str, Counter[str]]) -> str:
    lines = [f"| balancer | streams | {' | '.join(WORDS)} |", "|---|---:|" + "---:|" * len(WORDS)]
    for way, words in told.items():
        total = sum(words.values())
        cells = [of(words[word], total) if word in WORDS[1:] else f"{words[word]:,}" for word in WORDS]
        lines.append(f"| {way} | {total:,} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _end_on_term(number: int, frame: object) -> None:
    raise SystemExit(128 + number)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.kills", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=4, help="in each, one engine is killed under each balancer")
    parser.add_argument("--streams", type=int, default=60, help="for each kill")
    parser.add_argument("--at-once", type=int, default=16, help="how many of them run at a time")
    parser.add_argument("--write", action="store_true", help=f"put the table into docs/{PAGE.name}")
    options = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, _end_on_term)  # no engine is left behind
    proxies.CHANGES["nginx"] = [change for change in CHANGES["nginx"] if "master" not in change[0]]
    cores = sorted(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory(prefix="kills-") as temporary:
        folder = Path(temporary)
        proxies.copy_source(folder)
        engines = [Engine(number, cores[number % len(cores)], folder) for number in range(2)]
        try:
            for engine in engines:
                engine.start()
            for engine in engines:
                engine.wait_until_up()
            _say("both engines are up")
            told = compare(engines, options.rounds, options.streams, options.at_once, folder)
        except proxies.Absent as why:
            _say(str(why))
            return 1
        finally:
            for engine in engines:
                engine.kill()
    head = (
        f"{options.rounds} kills under each, {options.streams} streams of {TOKENS} tokens for each kill, "
        f"{options.at_once} at a time; {len(cores)} cores, shared by engines, balancer and clients."
    )
    text = head + "\n\n" + table(told)
    print(text)
    if options.write:
        write_between(PAGE, "kills", text)
    ours = [words for way, words in told.items() if way.startswith("fairlead")]
    return int(any(words["failed before commit"] + words["silently short"] for words in ours))


if __name__ == "__main__":
    sys.exit(main())
