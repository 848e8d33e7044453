"""`python -m bench.reliability`: what is lost when engines die, hang or crawl, and when the balancer itself changes?

The same scenarios through Fairlead, nginx and HAProxy, side by side; about eight minutes for all. `--write` puts the
table into docs/reliability-figures.md. Ends with 1 if Fairlead missed a target. Overload is left out: admission control
is not built yet. Mixed-up answers, memory and open files over many requests: `python -m bench.soak`.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import uvloop

from bench import proxies
from bench.procs import Cores, raise_file_limit
from bench.reliability.balancers import CHANGES, KINDS, Balancer
from bench.reliability.figures import Figure, table
from bench.reliability.scenarios import CAPACITY, ENGINES, LIGHT, RATE, SCENARIOS, SEED, World
from bench.soak import Engines

PAGE = proxies.ROOT / "docs" / "reliability-figures.md"
BEGIN, END = "<!-- {}: begin -->", "<!-- {}: end -->"


def lines_between(page: Path, name: str) -> list[str]:
    """What stands between the two markers of that name."""
    rest = page.read_text().partition(BEGIN.format(name))[2]
    return rest.partition(END.format(name))[0].splitlines()


def write_between(page: Path, name: str, text: str) -> None:
    """Replace what stands between them."""
    begin, end = BEGIN.format(name), END.format(name)
    before, _, rest = page.read_text().partition(begin)
    page.write_text(f"{before}{begin}\n\n{text}\n\n{end}{rest.partition(end)[2]}")


async def _watched(world: World, scenario: str, lags: list[float]) -> Figure:
    """The scenario, and four times a second a look at the balancer's event loop."""
    running = asyncio.ensure_future(SCENARIOS[scenario][2](world))
    while not running.done():
        await asyncio.wait([running], timeout=0.25)
        try:
            lags.append(await asyncio.to_thread(world.balancer.lag))
        except OSError:
            continue
    return running.result()


def _one(name: str, scenario: str, folder: Path, cores: Cores, files: int, lags: list[float]) -> Figure:
    balancer: Balancer | None = None
    folder.mkdir()
    engines = Engines(folder, cores, "bench.reliability.engine", ENGINES)
    try:
        balancer = KINDS[name](name, folder / name, engines.ports, cores, files)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_watched(World(engines, balancer), scenario, lags))
    except proxies.Absent as why:
        return Figure(f"not measured: {str(why).splitlines()[0]}")
    finally:
        if balancer is not None:
            balancer.end()
        engines.end()


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.reliability", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--only", metavar="NAME,..", help=f"these scenarios: {', '.join(SCENARIOS)}")
    parser.add_argument("--write", action="store_true", help=f"put the rows into docs/{PAGE.name}")
    arguments = parser.parse_args(argv)
    chosen = arguments.only.split(",") if arguments.only else list(SCENARIOS)
    if unknown := [name for name in chosen if name not in SCENARIOS]:
        parser.error(f"unknown scenario {unknown[0]!r}; there are {', '.join(SCENARIOS)}")
    files, cores = raise_file_limit(), Cores()
    proxies.CHANGES.update(CHANGES)
    results: dict[str, dict[str, Figure]] = {scenario: {} for scenario in chosen}
    lags: list[float] = []
    with tempfile.TemporaryDirectory(prefix="reliability-") as temporary:
        folder = Path(temporary)
        proxies.copy_source(folder)
        for scenario in chosen:
            for name in KINDS:
                figure = _one(name, scenario, folder / f"{scenario}-{name}", cores, files, lags)
                results[scenario][name] = figure
                print(f"{scenario}, {name}: {figure.text}", file=sys.stderr, flush=True)
    versions = []
    for name in KINDS:
        try:
            versions.append(proxies.version(name))
        except proxies.Absent:
            versions.append(f"no {name}")
    told = (
        f"{', '.join(versions)}; one worker each; {ENGINES} scripted engines, capacity {CAPACITY:.0f} requests/s, load "
        f"{RATE:.0f}/s (70 %), in the scenarios of failing engines {LIGHT:.0f}/s (35 %); seed {SEED}; "
        f"{os.cpu_count()} CPUs ({cores}). Worst lateness of fairlead's event loop seen: {max(lags) * 1e3:.0f} ms."
    )
    text = told + "\n\n" + table([(*SCENARIOS[name][:2], results[name]) for name in chosen], list(KINDS))
    print(text)
    if arguments.write:
        of_others = [f"| {title} |" for name, (title, _, _) in SCENARIOS.items() if name not in chosen]
        kept = [line for line in lines_between(PAGE, "reliability") if line.startswith(tuple(of_others))]
        write_between(PAGE, "reliability", "\n".join([text, *kept]))  # rows of an earlier run
    return int(any(result["fairlead"].met is False for result in results.values()))


if __name__ == "__main__":
    sys.exit(main())
