"""`fairlead simulate TRACE`: what would this policy, or this fleet, do with this traffic?

Rule 1: same seed, same bytes on standard output; what depends on the machine (progress, speed) goes to standard error.
Rule 2: everything wrong with the input is said in a sentence before anything runs, with exit status 2.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from fairlead.core.policies.registry import DEFAULT, POLICIES
from fairlead.emulator.profiles import PROFILES
from fairlead.sim.fleet import Fleet, parse_fault, parse_fleet
from fairlead.sim.fleet_file import read_fleet_file
from fairlead.sim.host import Settings
from fairlead.sim.report import render_report
from fairlead.sim.rivals.registry import RIVALS
from fairlead.sim.runs import Plan, Result, Source, carry_out_all, plans
from fairlead.sim.summary import Slo
from fairlead.sim.table import show, to_json
from fairlead.sim.trace import Trace
from fairlead.sim.workload import parse_workload, workload_help

COMPARED = (DEFAULT, "least_connections", "round_robin")
FLEET = "h100-8b:4"
MAX_RUNS = 10_000
_TIME = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s)")
_WORKLOAD = re.compile(r"[a-z_]+(:.*)?")


def _seconds(value: str, option: str) -> float:
    match = _TIME.fullmatch(value)
    if match is None or not 0 <= (seconds := float(match[1]) * (1e-3 if match[2] == "ms" else 1.0)) <= 86_400:
        raise click.BadParameter(f"expected a time such as 100ms or 5s, got {value!r}", param_hint=option)
    return seconds


def _seeds(value: str) -> list[int]:
    first, dots, last = value.partition("..")
    if (
        first.isascii()
        and first.isdecimal()
        and (not dots or (last.isascii() and last.isdecimal()))
        and len(value) < 16
    ):
        low, high = int(first), int(last) if dots else int(first)
        if low <= high < low + 1_000:
            return list(range(low, high + 1))
    raise click.BadParameter(f"expected a number, or a range such as 1..5, got {value!r}", param_hint="--seed")


def _fleet(text: str) -> Fleet:
    return read_fleet_file(text) if text.endswith((".yaml", ".yml")) or Path(text).is_file() else parse_fleet(text)


@click.command("simulate", short_help="What would a policy or a fleet do with your traffic?")
@click.argument("trace", required=False, metavar="TRACE")
@click.option(
    "--policy",
    "policies",
    multiple=True,
    metavar="NAME",
    help="Policy, may be repeated; own ones take options (expected_completion:throughput=0.2).  "
    f"[default: {', '.join(COMPARED)}]",
)
@click.option(
    "--fleet",
    "fleets",
    multiple=True,
    metavar="FLEET",
    help=f"PROFILE:COUNT,... or a YAML file; may be repeated.  [default: {FLEET}]",
)
@click.option(
    "--seed",
    default="1",
    metavar="N|N..M",
    help="Seed, or a range of seeds for figures with their spread.  [default: 1]",
)
@click.option(
    "--fault",
    "faults",
    multiple=True,
    metavar="FAULT",
    help="KIND@START[-END]:BACKEND[:FACTOR], kinds slow, freeze, crash, join, leave, reset; may be repeated.",
)
@click.option(
    "--speedup",
    "speedups",
    multiple=True,
    type=click.FloatRange(0.001, 10_000),
    help="Rate of arrivals, times; may be repeated.  [default: 1]",
)
@click.option("--limit", type=click.IntRange(1), help="Only the first N requests of a file.")
@click.option(
    "--spread",
    type=click.Choice(["random", "even", "none"]),
    default="random",
    show_default=True,
    help="How times that a file has rounded are spread.",
)
@click.option("--skip-bad", is_flag=True, help="Leave out broken lines of a file, and say how many.")
@click.option(
    "--scrape",
    default="100ms",
    show_default=True,
    metavar="TIME",
    help="Between two readings of the engines' metrics; 0s: never.",
)
@click.option(
    "--slo-ttft", default="5s", show_default=True, metavar="TIME", help="A good answer's first token comes within this."
)
@click.option(
    "--slo-tpot",
    default="100ms",
    show_default=True,
    metavar="TIME",
    help="And each further token within this, on average.",
)
@click.option(
    "--what-if",
    "what_if",
    is_flag=True,
    help="TRACE is a recording: calibrate on it, reproduce it, and answer what would change it.",
)
@click.option("--json", "as_json", is_flag=True, help="Figures as JSON on standard output.")
@click.option("--report", metavar="FILE", help="Write one HTML page with charts; it needs no network.")
@click.option("--jobs", type=click.IntRange(1, 256), help="Processes.  [default: one per core]")
@click.option("--workloads", is_flag=True, help="List the made-up workloads and their parameters, and end.")
@click.option("--profiles", is_flag=True, help="List the engine profiles, and end.")
@click.option("--list-policies", is_flag=True, help="List all policies, the reference ones marked, and end.")
def simulate(
    trace: str | None,
    policies: tuple[str, ...],
    fleets: tuple[str, ...],
    seed: str,
    faults: tuple[str, ...],
    speedups: tuple[float, ...],
    limit: int | None,
    spread: str,
    skip_bad: bool,
    scrape: str,
    slo_ttft: str,
    slo_tpot: str,
    what_if: bool,
    as_json: bool,
    report: str | None,
    jobs: int | None,
    workloads: bool,
    profiles: bool,
    list_policies: bool,
) -> None:
    """Run traffic through policies and fleets in virtual time, with the same policy objects as `serve`.

    TRACE is a file (Mooncake JSONL, Azure CSV, an access log, a recording; .gz too) or a made-up workload.

    \b
    fairlead simulate chat:rate=8 --fleet h100-8b:2,l4-8b:4
    fairlead simulate trace.jsonl --fleet h100-70b-tp4:8 --policy lmetric --seed 1..5
    fairlead simulate recording.jsonl --what-if
    """
    if workloads or profiles or list_policies:
        _list(workloads, profiles, list_policies)
        return
    if trace is None:
        raise click.UsageError("name a trace file or a workload, such as chat:rate=4 (--workloads lists them)")
    source = Source(trace, skip_bad, limit, spread)
    if not source.is_made and not Path(trace).exists() and not _WORKLOAD.fullmatch(trace):
        raise click.UsageError(f"{trace}: no such file, and no workload of that name (--workloads lists them)")
    try:
        chosen = [_fleet(text).with_faults(tuple(map(parse_fault, faults))) for text in fleets or (FLEET,)]
        settings = Settings(scrape=_seconds(scrape, "--scrape"))
        slo = Slo(_seconds(slo_ttft, "--slo-ttft"), _seconds(slo_tpot, "--slo-tpot"))
        seeds = _seeds(seed)
        if not source.is_made and not Path(trace).exists():
            parse_workload(trace)  # says which workload was meant
        if what_if:
            _what_if(source, policies, seeds, as_json)
            return
        todo = plans(source, policies or COMPARED, chosen, seeds, speedups or (1.0,), settings, slo)
        if len(todo) > MAX_RUNS:
            raise click.UsageError(f"these are {len(todo)} runs: at most {MAX_RUNS} at once")
        traces = [source.trace(s, speedup) for speedup in speedups or (1.0,) for s in seeds]
        for path in filter(None, (report,)):
            Path(path).touch()
    except ValueError as problem:  # TraceError, WorkloadError, FleetError, PolicyError, WhatIfError
        click.echo(str(problem), err=True)
        sys.exit(2)
    except OSError as problem:
        click.echo(f"{problem.filename}: {problem.strerror}", err=True)
        sys.exit(2)
    _carry_out(todo, traces, jobs or os.cpu_count() or 1, as_json, report, named_fleet=bool(fleets))


def _carry_out(
    todo: Sequence[Plan], traces: Sequence[Trace], jobs: int, as_json: bool, report: str | None, *, named_fleet: bool
) -> None:
    notes = list(dict.fromkeys(note for trace in traces for note in trace.notes))
    errors = Console(stderr=True, highlight=False)
    if not as_json:
        for note in notes:
            errors.print(note)
        if not named_fleet:
            errors.print(f"No --fleet given: {FLEET}.")
    begun = time.perf_counter()
    results: list[Result] = []
    try:
        with _progress(errors, len(todo)) as step:
            for result in carry_out_all(todo, jobs):
                results.append(result)
                step()
    except KeyboardInterrupt:
        click.echo("interrupted", err=True)
        sys.exit(130)
    wall = time.perf_counter() - begun
    summaries = [r.summary for r in results]
    if as_json:
        sys.stdout.buffer.write(to_json(summaries) + b"\n")
        sys.stdout.flush()
    else:
        show(Console(highlight=False), summaries)
    simulated = sum(r.run.simulated_seconds for r in results)
    requests = sum(len(r.run.outcomes) for r in results)
    errors.print(
        f"{requests:,} requests over {simulated:,.0f} simulated seconds in {wall:.1f} s: "
        f"{requests / wall:,.0f} requests/s, {simulated / wall:,.0f} times as fast as real time"
    )
    if report:
        command = shlex.join(["fairlead", *sys.argv[1:]])
        title = f"{traces[0].name} on {', '.join(dict.fromkeys(r.run.fleet for r in results))}"
        page = render_report(title, traces, [r.run for r in results], summaries, command=command)
        try:
            Path(report).write_text(page, "utf-8")
        except OSError as problem:
            click.echo(f"{report}: {problem.strerror}", err=True)
            sys.exit(1)
        errors.print(f"report: {report}")


@contextmanager
def _progress(errors: Console, total: int) -> Iterator[Callable[[], None]]:
    """A bar where somebody is looking."""
    if not errors.is_terminal or total < 2:
        yield lambda: None
        return
    columns = (TextColumn("runs"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=errors, transient=True) as bar:
        task = bar.add_task("runs", total=total)
        yield lambda: bar.advance(task)


def _what_if(source: Source, policies: Sequence[str], seeds: Sequence[int], as_json: bool) -> None:
    from fairlead.sim.whatif import run_what_if

    trace = source.trace(1, 1.0)
    errors = Console(stderr=True, highlight=False)
    for note in trace.notes:
        errors.print(note)
    answer = run_what_if(
        trace, policies=policies or None, seeds=seeds, progress=lambda text: errors.print(text, style="dim")
    )
    if as_json:
        sys.stdout.buffer.write(answer.to_json() + b"\n")
        sys.stdout.flush()
    else:
        answer.show(Console(highlight=False))


def _list(workloads: bool, profiles: bool, policies: bool) -> None:
    if workloads:
        click.echo(workload_help().rstrip())
    if profiles:
        table = Table(box=None, header_style="bold")
        for heading in ("profile", "step", "prefill", "KV tokens", "tokens per step", "sequences"):
            table.add_column(heading, justify="left" if heading == "profile" else "right")
        for p in PROFILES.values():
            table.add_row(
                p.name, f"{p.base * 1e3:.1f} ms", f"{1 / p.prefill:,.0f} tok/s", f"{p.kv_tokens:,}",
                f"{p.token_budget:,}", f"{p.max_num_seqs:,}",
            )  # fmt: skip
        Console(highlight=False).print(table)
    if policies:
        for name in POLICIES:
            click.echo(f"{name}{' (default)' if name == DEFAULT else ''}")
        for name in RIVALS:
            click.echo(f"{name} (reference)")
