"""How good is the default policy, against every rival's rule, on the same arrivals?

    python -m bench.policies                      all experiments, 5 seeds (half an hour on two cores)
    python -m bench.policies --only 1,8 --seeds 3
    python -m bench.policies --write              puts the tables into docs/policies.md, between its two marks

Every arm of a table sees the same arrivals; figures are means over the seeds with their standard deviation, the
last columns the paired difference of the default to that arm in mean first-token and whole-answer time, with its
95 % interval. Times are in seconds. Rivals are reference policies (docs/reference-policies.md).
"""

from __future__ import annotations

import argparse
import multiprocessing
import multiprocessing.pool
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from bench.policies.experiments import OWN, TRACES, Case, Experiment, experiments
from bench.policies.running import job
from fairlead.sim.summary import Summary, combine, compare

PAGE = Path(__file__).parents[2] / "docs" / "policies.md"
BEGIN, END = "<!-- evidence: python -m bench.policies --write -->", "<!-- end of evidence -->"


def tables(experiment: Experiment, seeds: list[int], pool: multiprocessing.pool.Pool) -> Iterator[str]:
    """Markdown of one experiment."""
    yield f"### {experiment.number}. {experiment.question}\n"
    for note in experiment.notes:
        yield f"{note}\n"
    for case in experiment.cases:
        tasks = [(case, row, seed) for seed in seeds for row in range(len(case.arms))]
        found = pool.map(job, tasks, chunksize=1)
        by_row = [[s for (_, r, _), s in zip(tasks, found, strict=True) if r == row] for row in range(len(case.arms))]
        yield from table(case, by_row)


def table(case: Case, by_row: list[list[Summary]]) -> Iterator[str]:
    faults = f" ({', '.join(case.faults)})" if case.faults and len(case.faults) < 3 else ""
    yield f"**{case.title}** ({case.fleet}){faults}\n"
    yield "| | TTFT mean | p90 | p99 | E2E mean | p99 | goodput | hits | TTFT, default to it | E2E, default to it |"
    yield "|---|---|---|---|---|---|---|---|---|---|"
    own = by_row[0]
    for arm, row in zip(case.arms, by_row, strict=True):
        both = combine(row).figures
        label = f"**{arm.label}**" if arm.label == OWN else f"{arm.label}{' (reference)' if arm.reference else ''}"
        cells = [
            f"{both['ttft_mean'].mean:.3f} ± {both['ttft_mean'].deviation or 0:.3f}",
            f"{both['ttft_p90'].mean:.2f}",
            f"{both['ttft_p99'].mean:.2f}",
            f"{both['e2e_mean'].mean:.2f} ± {both['e2e_mean'].deviation or 0:.2f}",
            f"{both['e2e_p99'].mean:.1f}",
            f"{both['goodput'].mean:.3f}",
            f"{both['hit_ratio'].mean:.3f}",
        ]
        for figure in ("ttft_mean", "e2e_mean"):
            if row is own:
                cells.append("")
                continue
            d = compare(row, own, figure)
            interval = "" if d.low is None or d.high is None else f" ({d.low:+.1f} to {d.high:+.1f})"
            cells.append("-" if d.percent is None else f"{d.percent:+.1f} %{interval}")
        yield f"| {label} | " + " | ".join(cells) + " |"
    yield ""
    rivals = [row for arm, row in zip(case.arms, by_row, strict=True) if arm.reference]
    if rivals and not case.arms[1].options:
        yield _against_best(own, rivals) + "\n"


def _against_best(own: list[Summary], rivals: list[list[Summary]]) -> str:
    """The default against the best rival of each figure, which need not be one and the same."""
    words = []
    for figure, name in (
        ("ttft_mean", "TTFT mean"),
        ("ttft_p99", "TTFT p99"),
        ("e2e_mean", "E2E mean"),
        ("goodput", "goodput"),
    ):
        sign = 1 if figure != "goodput" else -1
        best = min(rivals, key=lambda row: sign * (combine(row).figures[figure].mean or 0.0))
        d = compare(best, own, figure)
        if d.percent is not None:
            words.append(f"{name} {d.percent:+.1f} % ({best[0].policy})")
    return "Default against the best rival of each figure: " + ", ".join(words) + "."


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", default="", help="numbers of experiments in the order wanted, such as 8,1")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--write", action="store_true", help="put the tables into docs/policies.md")
    options = parser.parse_args()
    wanted = [number for number in options.only.split(",") if number]
    seeds = list(range(1, options.seeds + 1))
    parts = [
        f"{len(seeds)} seeds, `python -m bench.policies`. Without the traces the experiments on them are left out.\n"
    ]
    known = {e.number: e for e in experiments()}
    unknown = [number for number in wanted if number not in known]
    if unknown:
        parser.error(f"no experiment {', '.join(unknown)}; there are: {', '.join(known)}")
    with multiprocessing.get_context("spawn").Pool(options.jobs) as pool:
        for experiment in [known[number] for number in wanted] or known.values():
            if experiment.needs and not (TRACES / experiment.needs).is_file():
                parts.append(
                    f"### {experiment.number}. {experiment.question}\n\nNot run: {experiment.needs} is not there.\n"
                )
                continue
            begun = time.monotonic()
            for line in tables(experiment, seeds, pool):
                print(line, flush=True)
                parts.append(line)
            print(f"experiment {experiment.number}: {time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)
            if options.write:  # after each one: what was measured is not lost when the rest is cut short
                text = PAGE.read_text("utf-8")
                head, tail = text.partition(BEGIN)[0], text.partition(END)[2]
                PAGE.write_text(f"{head}{BEGIN}\n" + "\n".join(parts) + f"{END}{tail}", "utf-8")


if __name__ == "__main__":
    main()
