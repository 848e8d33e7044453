"""`python -m bench`: the data plane's cost, fairlead beside nginx, in one run.

Prints a table that can be pasted into docs/performance.md, with the budget and whether it is met. Ends with 1 if any
run failed (wrong or missing answers, a proxy that is not there), 0 otherwise; a missed budget is printed, not an error.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import FrameType

import uvloop

from bench import proxies, report
from bench.measure import DIRECT, MEASUREMENTS, QUICK, WITHOUT_PROXY, Failed, Size, Stage
from bench.procs import Cores, raise_file_limit


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, metavar="N", help="interleaved rounds (default 5; 2 with --quick)")
    parser.add_argument("--quick", action="store_true", help="half a minute: does it run, is anything far off?")
    parser.add_argument("--only", action="append", choices=proxies.NAMES, help="measure this proxy alone (repeatable)")
    parser.add_argument("--with", dest="extra", action="append", default=[], choices=["haproxy"], help="add a proxy")
    parser.add_argument("--test", action="append", choices=list(MEASUREMENTS), help="this measurement (repeatable)")
    parser.add_argument("--json", action="store_true", help="print JSON; progress goes to standard error")
    parser.add_argument("--no-install", action="store_true", help="leave a missing nginx missing")
    return parser.parse_args(argv)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _end_on_term(signum: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + signum)


async def _run(stage: Stage, tests: Sequence[str]) -> report.Results:
    """All rounds: within a round every measurement goes through all targets, one right after the other."""
    results = report.Results()
    began = time.monotonic()
    for number in range(stage.size.rounds):
        for test in tests:
            if test == "memory" and number >= stage.size.memory_rounds:
                continue
            for name, target in stage.targets.items():
                if name == DIRECT and test not in WITHOUT_PROXY:
                    continue
                try:
                    figures = await MEASUREMENTS[test](stage, target)
                except Failed as why:
                    results.fail(test, name, str(why))
                    _say(f"  round {number + 1} {test:8} {name:9} FAILED: {why}")
                    continue
                results.add(test, name, number, figures)
                shown = "  ".join(f"{key} {value:.4g}" for key, value in figures.items())
                _say(f"  round {number + 1} {test:8} {name:9} {shown}")
        _say(f"round {number + 1} of {stage.size.rounds} done after {time.monotonic() - began:.0f} s")
    return results


def _facts(stage: Stage) -> dict[str, object]:
    """Where and with what this was measured."""
    cpu = "unknown CPU"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            cpu = line.split(":", 1)[1].strip()
            break
    return {
        "machine": f"{cpu}, {os.cpu_count()} cores, Linux {platform.release()}, Python {platform.python_version()}",
        "cores": str(stage.cores),
        "versions": {name: proxies.version(name) for name in stage.targets if name != DIRECT},
        "absent": stage.absent,
        "load_average": os.getloadavg(),
        "size": asdict(stage.size),
    }


def main(argv: Sequence[str] | None = None) -> int:
    options = _arguments(argv)
    signal.signal(signal.SIGTERM, _end_on_term)
    size = QUICK if options.quick else Size()
    if options.rounds:
        size = replace(size, rounds=options.rounds, memory_rounds=min(options.rounds, size.memory_rounds))
    names = options.only or ["nginx", "fairlead", *options.extra]
    if not options.no_install:
        for name in names:
            told = proxies.fetch(name) if name != "fairlead" else None
            if told:
                _say(told)
    cores = Cores()
    files = raise_file_limit()
    with tempfile.TemporaryDirectory(prefix="fairlead-bench-") as temporary:
        folder = Path(temporary)
        proxies.copy_source(folder)
        stubs = proxies.Stubs(folder, cores)
        stage = Stage(folder, size, cores, files, stubs)
        try:
            if cores.client is not None:
                os.sched_setaffinity(0, {cores.client})
            stage.open(names)
            for why in stage.absent.values():
                _say(f"NOT MEASURED: {why}")
            if len(stage.targets) == 1:
                return 1
            facts = _facts(stage)
            _say(f"{facts['machine']}; {cores}")
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                results = runner.run(_run(stage, options.test or list(MEASUREMENTS)))
        finally:
            stage.close()
            stubs.end()
    lines = [
        row
        for row in report.rows(size.idle, size.streams, size.rate)
        if not options.test or row.measurement in options.test
    ]
    if options.json:
        print(json.dumps(report.as_json(lines, results, facts), indent=1))
    else:
        _print(lines, results, stage, facts)
    return 1 if results.failures or stage.absent else 0


def _print(lines: list[report.Row], results: report.Results, stage: Stage, facts: dict[str, object]) -> None:
    versions = facts["versions"]
    assert isinstance(versions, dict)
    print(f"\n{facts['machine']}; {stage.cores}.")
    print(f"{', '.join(versions.values())}; two stub backends, {stage.size.rounds} interleaved rounds.")
    print("Median (min–max) over the rounds; ratios are taken per round.\n")
    print(report.table(lines, results, list(stage.targets)))
    print()
    for note in report.notes(results):
        print(f"- {note}")
    for name, why in stage.absent.items():
        print(f"- {name} was not measured: {why}")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        _say("interrupted; everything that was started has been ended")
        sys.exit(130)
