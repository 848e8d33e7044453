"""`make fuzz`, or `.venv/bin/python tests/fuzz/fuzz_run.py --minutes 5`: fuzz for longer than the tests do.

The time is shared among the targets. Prints inputs tried, faults, inputs slower than 50 ms, and how many reached
something new; ends with 1 if there was a fault. `--keep` puts what was found into the corpus, where tests replay it.
The engine is atheris where it is installed, else the one of fuzz_engine.py; `differential` is a target too.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import fuzz_differential
from fuzz_engine import SLOW, Report, fuzz
from fuzz_targets import MAX_FILE, TARGETS, Target

ROOT = Path(__file__).parents[2]
SCRATCH = ROOT / ".tools" / "fuzz"
MOST_KEPT = 6  # new inputs kept per target and run, the shortest first


def by_atheris(target: Target, seconds: int, seed: int) -> Report:
    """A run in a process of its own; what an earlier run found new is begun with."""
    folder = SCRATCH / target.name
    folder.mkdir(parents=True, exist_ok=True)
    for old in (*folder.glob("crash-*"), folder / "figures.json"):
        old.unlink(missing_ok=True)
    before = {file.name for file in folder.glob("new/*")}
    child = Path(__file__).with_name("fuzz_atheris.py")
    command = [sys.executable, str(child), target.name, str(folder), str(seconds), str(seed)]
    with (folder / "log").open("wb") as log:
        subprocess.run(command, stdout=log, stderr=log, check=False)
    report = Report(target.name, "atheris")
    try:
        figures = json.loads((folder / "figures.json").read_text())
    except FileNotFoundError:
        report.crashes.append((b"", f"it did not start: see {folder / 'log'}"))
        return report
    report.tried, report.seconds = figures["tried"], figures["seconds"]
    report.slow, report.slowest = figures["slow"], figures["slowest"]
    for said in figures["crashes"]:
        name, _, fault = said.partition(" ")
        report.crashes.append(((folder / name).read_bytes(), fault))
    # What libFuzzer itself ended with: hangs, memory, a dead process.
    for file in [*folder.glob("timeout-*"), *folder.glob("oom-*")]:
        report.crashes.append((file.read_bytes(), file.name))
        file.unlink()
    report.found = [file.read_bytes() for file in folder.glob("new/*") if file.name not in before]
    return report


def keep(target: Target, report: Report) -> int:
    """Put faults and the shortest new inputs into the corpus; how many."""
    known = {data for _, data in target.corpus()}
    news = sorted((data for data in report.found if len(data) <= MAX_FILE), key=len)[:MOST_KEPT]
    kept = [("fault", data) for data, _ in report.crashes if data] + [("found", data) for data in news]
    for word, data in kept:
        if data not in known:
            digest = hashlib.sha1(data, usedforsecurity=False).hexdigest()[:10]
            (target.folder / f"{word}-{digest}").write_bytes(data[:MAX_FILE])
    return len(kept)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--minutes", type=float, default=1.0, help="for all targets together (default 1)")
    names = [*TARGETS, "differential"]
    parser.add_argument("--target", action="append", choices=names, help="this one alone (repeatable)")
    parser.add_argument("--engine", choices=["atheris", "own"], help="default: atheris if it is installed")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", action="store_true", help="put what was found into the corpus")
    parser.add_argument("--fresh", action="store_true", help="forget what earlier runs found")
    return parser.parse_args()


def main() -> int:
    options = _arguments()
    names = options.target or [*TARGETS, "differential"]
    seconds = max(options.minutes * 60 / len(names), 2.0)
    engine = options.engine or ("atheris" if importlib.util.find_spec("atheris") else "own")
    if options.fresh and SCRATCH.exists():
        shutil.rmtree(SCRATCH)
    print(
        f"{'target':<14}{'engine':<10}{'inputs':>10}{'seconds':>9}{'faults':>8}{'> 50 ms':>9}{'slowest':>10}{'new':>6}"
    )
    total = faults = 0
    for name in names:
        if name == "differential":
            report = fuzz_differential.for_seconds(seconds, options.seed)
        elif engine == "atheris":
            report = by_atheris(TARGETS[name], int(seconds), options.seed)
        else:
            report = fuzz(TARGETS[name], seconds, options.seed)
        print(
            f"{name:<14}{report.engine:<10}{report.tried:>10,}{report.seconds:>9.0f}{len(report.crashes):>8}"
            f"{report.slow:>9}{report.slowest * 1000:>7.1f} ms{len(report.found):>6}", flush=True,
        )  # fmt: skip
        if report.forwarded:
            print(f"    {report.forwarded:,} requests forwarded, all read alike by all" * (not report.crashes))
        for data, fault in report.crashes:
            print(f"    {fault}\n    {data[:1_000]!r}", flush=True)
        if options.keep and name in TARGETS:
            print(f"    {keep(TARGETS[name], report)} put into the corpus")
        total += report.tried
        faults += len(report.crashes)
    bound = f" (with 95 % confidence below 1 in {total // 3:,})" if not faults and total >= 3 else ""
    print(f"{total:,} inputs, {faults} faults{bound}; an input is slow above {SLOW * 1000:.0f} ms")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
