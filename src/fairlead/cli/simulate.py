"""`fairlead simulate TRACE`: what would this policy, or this fleet, do with this traffic?

Rule 1: same seed, same bytes on standard output; what depends on the machine (progress, speed) goes to standard error.
Rule 2: everything wrong with the input is said in a sentence before anything runs, with exit status 2. Ctrl-C ends it
with 130, and what failed on the way (a process lost, a full disk) with 1.
Rule 3: names, notes and files are the user's: nothing in them is read as markup.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final

import click
import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from fairlead.core.policies.registry import DEFAULT, POLICIES
from fairlead.emulator.profiles import PROFILES
from fairlead.sim.fleet import Fleet, parse_fault, parse_fleet
from fairlead.sim.fleet_file import read_fleet_file
from fairlead.sim.host import Settings
from fairlead.sim.report import render_report
from fairlead.sim.rivals.registry import RIVALS
from fairlead.sim.runs import Plan, Result, RunError, Source, carry_out_all, default_fleet, plans, trace_of
from fairlead.sim.summary import Slo, quantile
from fairlead.sim.table import show, to_json
from fairlead.sim.trace import NO_REQUEST, Trace
from fairlead.sim.workload import parse_workload, workload_help

COMPARED = (DEFAULT, "least_connections", "round_robin")
MAX_RUNS = 10_000
TYPED: Final = f"{__name__}.typed"  # in the context: the arguments as people typed them
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


def _rates(ctx: click.Context, option: click.Parameter, values: tuple[float, ...]) -> tuple[float, ...]:
    for value in values:
        if not 0.001 <= value <= 10_000:  # refuses NaN too, which a range of click's does not
            raise click.BadParameter(f"expected a number from 0.001 to 10000, got {value:g}", ctx, option)
    return values


def _fleet(text: str) -> Fleet:
    return read_fleet_file(text) if text.endswith((".yaml", ".yml")) or Path(text).is_file() else parse_fleet(text)


class _Command(click.Command):
    """Keeps what was typed: the report tells how to repeat it."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta[TYPED] = [*args]
        return super().parse_args(ctx, args)


@click.command("simulate", cls=_Command, short_help="What would a policy or a fleet do with your traffic?")
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
    help="PROFILE:COUNT,... or a YAML file; may be repeated.  [default: as many h100-8b as the traffic needs]",
)
@click.option(
    "--seed",
    "--seeds",
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
    callback=_rates,
    type=float,
    metavar="F",
    help="Rate of arrivals, times; may be repeated.  [default: 1]",
)
@click.option("--limit", type=click.IntRange(1), help="Only the first N requests.")
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
@click.option("--trace-info", "trace_info", is_flag=True, help="Say what is in the trace, and end; --json too.")
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
    trace_info: bool,
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
        settings = Settings(scrape=_seconds(scrape, "--scrape"))
        slo = Slo(_seconds(slo_ttft, "--slo-ttft"), _seconds(slo_tpot, "--slo-tpot"))
        seeds, rates = _seeds(seed), list(dict.fromkeys(speedups or (1.0,)))
        if not source.is_made and not Path(trace).exists():
            parse_workload(trace)  # says which workload was meant
        if report:
            _check_report(Path(report))
        if trace_info:
            _tell(trace_of(source, seeds[0], rates[0]), as_json)
        elif what_if:
            ignored = {"--fleet": fleets, "--fault": faults, "--speedup": speedups, "--report": report}
            if given := [option for option, value in ignored.items() if value]:
                raise click.UsageError(f"--what-if asks about the recorded fleet: leave out {', '.join(given)}")
            _what_if(source, policies, seeds, as_json)
        else:
            count = len(policies or COMPARED) * len(fleets or "1") * len(seeds) * len(rates)
            if count > MAX_RUNS:
                raise click.UsageError(f"these are {count} runs: at most {MAX_RUNS} at once")
            traces = [trace_of(source, seeds[0], rate) for rate in rates]
            texts = fleets or (default_fleet(traces[0]),)
            chosen = [_fleet(text).with_faults(tuple(map(parse_fault, faults))) for text in texts]
            todo = plans(source, policies or COMPARED, chosen, seeds, rates, settings, slo, detailed=bool(report))
            said = f"No --fleet given: {texts[0]}, by the work in the trace." if not fleets else ""
            _carry_out(todo, traces, jobs or os.cpu_count() or 1, as_json, report, said)
    except KeyboardInterrupt:
        click.echo("interrupted", err=True)
        sys.exit(130)
    except ValueError as problem:  # TraceError, WorkloadError, FleetError, PolicyError, WhatIfError
        click.echo(str(problem), err=True)
        sys.exit(2)
    except RunError as problem:
        click.echo(str(problem), err=True)
        sys.exit(1)


def _check_report(path: Path) -> None:
    """Better now than after the runs."""
    if path.is_dir() or not path.parent.is_dir():
        reason = "is a directory" if path.is_dir() else "its directory does not exist"
        raise click.BadParameter(f"{path}: {reason}", param_hint="--report")


def _carry_out(
    todo: Sequence[Plan], traces: Sequence[Trace], jobs: int, as_json: bool, report: str | None, said: str
) -> None:
    errors = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    if not as_json:
        for note in dict.fromkeys((*(note for trace in traces for note in trace.notes), said)):
            errors.print(note, end="\n" if note else "")
    begun = time.perf_counter()
    with _progress(errors, len(todo), as_json) as tell, closing(carry_out_all(todo, jobs, tell)) as running:
        results: list[Result] = list(running)
    wall = time.perf_counter() - begun
    summaries = [r.summary for r in results]
    if as_json:
        _write(to_json(summaries))
    else:
        show(Console(highlight=False, markup=False), summaries)
    simulated = sum(r.run.simulated_seconds for r in results)
    requests = sum(r.summary.offered for r in results)
    errors.print(
        f"{requests:,} requests over {simulated:,.0f} simulated seconds in {wall:.1f} s: "
        f"{requests / wall:,.0f} requests/s, {simulated / wall:,.0f} times as fast as real time"
    )
    if report:
        command = shlex.join(["fairlead", "simulate", *click.get_current_context().meta[TYPED]])
        title = f"{traces[0].name} on {', '.join(dict.fromkeys(r.run.fleet for r in results))}"
        notes = (said,) if said else ()
        page = render_report(title, traces, [r.run for r in results], summaries, command=command, notes=notes)
        try:
            Path(report).write_text(page, "utf-8")
        except OSError as problem:
            raise RunError(f"{report}: {problem.strerror}") from None
        errors.print(f"report: {report}")


def _write(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.flush()


@contextmanager
def _progress(errors: Console, total: int, silent: bool) -> Iterator[Callable[[float], None] | None]:
    """A bar where somebody is looking: of runs, or of the requests of a single one."""
    if silent or not errors.is_terminal:
        yield None
        return
    done = MofNCompleteColumn() if total > 1 else TaskProgressColumn()
    with Progress(
        TextColumn("simulating"), BarColumn(), done, TimeElapsedColumn(), console=errors, transient=True
    ) as bar:
        task = bar.add_task("", total=total)
        yield lambda runs: bar.update(task, completed=runs)


def _tell(trace: Trace, as_json: bool) -> None:
    """What is in the trace, before anything is simulated."""
    requests = trace.requests
    prompts, outputs = sorted(r.prompt for r in requests), sorted(r.output for r in requests)
    met: set[int] = set()
    shared = 0
    for request in requests:
        known = next((i for i, block in enumerate(request.blocks) if block not in met), len(request.blocks))
        shared += known * trace.block_tokens
        met.update(request.blocks, request.output_blocks)
    timed = sum(r.after == NO_REQUEST for r in requests)
    told: dict[str, Any] = {
        "trace": trace.name,
        "requests": len(requests),
        "timed requests": timed,
        "requests that wait for another": len(requests) - timed,
        "seconds": round(trace.seconds, 6),
        "timed requests per second": round(timed / trace.seconds, 6) if trace.seconds else None,
        "prompt tokens p50, p90, p99": [quantile(prompts, share) for share in (0.5, 0.9, 0.99)],
        "output tokens p50, p90, p99": [quantile(outputs, share) for share in (0.5, 0.9, 0.99)],
        "tokens per block": trace.block_tokens,
        "share of prompt tokens seen before": round(shared / sum(prompts), 6),
        "models": len({r.model for r in requests}),
        "notes": list(trace.notes),
    }
    if as_json:
        _write(msgspec.json.format(msgspec.json.encode(told), indent=2) + b"\n")
        return
    for key, value in told.items():
        numbers = value if isinstance(value, list) else [value]
        words = [f"{n:,.6g}" if isinstance(n, float) else f"{n:,}" if isinstance(n, int) else str(n) for n in numbers]
        click.echo(f"{key}: {(' ' if key == 'notes' else ', ').join(words) if value is not None else '-'}")


def _what_if(source: Source, policies: Sequence[str], seeds: Sequence[int], as_json: bool) -> None:
    from fairlead.sim.whatif import run_what_if

    trace = source.trace(1, 1.0)
    errors = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    for note in trace.notes:
        errors.print(note)
    answer = run_what_if(
        trace, policies=policies or None, seeds=seeds, progress=lambda text: errors.print(text, style="dim")
    )
    if as_json:
        _write(answer.to_json() + b"\n")
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
