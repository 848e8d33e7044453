"""`python -m bench.profile small`: where does fairlead spend its time under one kind of work?

Starts fairlead under cProfile, drives one measurement through it and prints the functions by their own time.
Rule 1: cProfile makes every call dearer, so read shares, not microseconds; `python -m bench` has the microseconds.
Rule 2: time inside C (uvloop, the parser, the kernel) shows up under the Python function that called it. To see that
part, run `perf top -p PID` or `perf record -g -p PID` while `python -m bench --only fairlead --test small` runs.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import pstats
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import uvloop

from bench import proxies
from bench.measure import MEASUREMENTS, QUICK, Failed, Stage
from bench.procs import Cores, raise_file_limit


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.profile", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("test", choices=[name for name in MEASUREMENTS if name not in ("latency", "memory")])
    parser.add_argument("--lines", type=int, default=40, help="how many functions to print")
    parser.add_argument("--sort", choices=["tottime", "cumtime", "ncalls"], default="tottime")
    parser.add_argument("--keep", type=Path, help="also keep the profile in this file (for snakeviz and the like)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fairlead-profile-") as temporary:
        folder = Path(temporary)
        proxies.copy_source(folder)
        profile = options.keep.resolve() if options.keep else folder / "profile"
        cores = Cores()
        stubs = proxies.Stubs(folder, cores)
        stage = Stage(folder, replace(QUICK, small=20_000, large=8_000), cores, raise_file_limit(), stubs)
        proxies.PYTHON[:] = [sys.executable, "-m", "cProfile", "-o", str(profile)]
        try:
            if cores.client is not None:
                os.sched_setaffinity(0, {cores.client})
            target = stage.start("fairlead")
            try:
                with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                    print(runner.run(MEASUREMENTS[options.test](stage, target)))
            finally:
                target.measured.end(grace=20.0)  # the profile is written at the end
        except (Failed, proxies.Absent) as why:
            print(f"nothing measured: {why}")
            return 1
        finally:
            stubs.end()
        if not profile.exists():
            print(f"fairlead wrote no profile:\n{target.measured.log_tail()}")
            return 1
        pstats.Stats(str(profile)).strip_dirs().sort_stats(options.sort).print_stats(options.lines)
    return 0


if __name__ == "__main__":
    sys.exit(main())
