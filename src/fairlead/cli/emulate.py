"""`fairlead emulate`: engines without GPUs, to try a balancer against.

Rule 1: says what it started, one line per engine, and ends with code 0 on SIGINT and SIGTERM.
Rule 2: what the user got wrong is answered with one sentence and no traceback.
"""

from __future__ import annotations

import asyncio
import signal
import sys

import click
import uvloop
from rich.console import Console
from rich.table import Table

from fairlead.emulator.faults import BadFault, FaultValues
from fairlead.emulator.fleet import EmulatedFleet
from fairlead.emulator.profiles import PROFILES, UnknownProfile, profile


def _address(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65_535:
        raise click.BadParameter(f"expected HOST:PORT, got {text!r}", param_hint="--listen")
    return host, int(port)


def _tell(fleet: EmulatedFleet, model: str, speed: float) -> None:
    if not sys.stdout.isatty():  # plain lines that a script can read
        for server in fleet:
            click.echo(f"{server.url} {server.profile.name} model={model} speed={speed:g}")
        click.echo(f"{len(fleet)} engines ready")
        return
    table = Table(box=None, header_style="bold")
    for heading in ("engine", "profile", "model", "step", "prefill", "KV tokens"):
        table.add_column(heading)
    for server in fleet:
        shown = server.profile
        prefill = f"{speed / shown.prefill:,.0f} tok/s"
        step = f"{shown.base / speed * 1e3:.1f} ms"
        table.add_row(server.url, shown.name, model, step, prefill, f"{shown.kv_tokens:,}")
    console = Console(highlight=False)
    console.print(table)
    console.print(f"[green]{len(fleet)} engines ready[/]; Ctrl-C ends them, POST /emulator/faults breaks one")


async def _serve(fleet: EmulatedFleet, model: str, speed: float) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with fleet:
        _tell(fleet, model, speed)
        await stop.wait()


@click.command()
@click.option("--listen", default="127.0.0.1:8101", show_default=True, help="Address of the first engine, HOST:PORT.")
@click.option("--count", type=click.IntRange(1, 1000), help="How many engines, on PORT, PORT+1, ...  [default: 1]")
@click.option(
    "--profile",
    "names",
    multiple=True,
    metavar="NAME",
    help=f"Model and machine: {', '.join(PROFILES)}. More than one are dealt out in turn.  [default: h100-8b]",
)
@click.option("--model", default="emulated", show_default=True, help="Name of the served model.")
@click.option("--speed", type=float, default=1.0, show_default=True, help="2 = twice as fast as the real engine.")
@click.option("--mean-output", type=float, default=200.0, show_default=True, help="Mean answer length in tokens.")
@click.option("--seed", type=int, default=0, show_default=True, help="Changes answers and their lengths.")
@click.option("--slow", type=float, default=1.0, help="Fault: steps take this many times as long.")
@click.option("--freeze", is_flag=True, help="Fault: accepts requests, is healthy, and never progresses.")
@click.option("--silent", is_flag=True, help="Fault: accepts connections and answers nothing at all.")
@click.option("--status", type=int, help="Fault: answers inference requests with this status.")
@click.option("--crash-after", type=int, help="Fault: dies once an answer has this many tokens.")
@click.option("--down-for", type=float, default=5.0, show_default=True, help="Seconds until it is back from a crash.")
def emulate(
    listen: str,
    count: int | None,
    names: tuple[str, ...],
    model: str,
    speed: float,
    mean_output: float,
    seed: int,
    slow: float,
    freeze: bool,
    silent: bool,
    status: int | None,
    crash_after: int | None,
    down_for: float,
) -> None:
    """Run emulated vLLM engines: real HTTP, real queues and timing, no GPU."""
    host, port = _address(listen)
    names = names or ("h100-8b",)
    count = count or len(names)
    if port and port + count - 1 > 65_535:
        raise click.BadParameter(f"{count} ports from {port} on go past 65535", param_hint="--listen")
    try:
        faults = FaultValues(slow, freeze, crash_after, down_for, status, silent)
        fleet = EmulatedFleet(
            [profile(names[place % len(names)]) for place in range(count)],
            model=model,
            host=host,
            port=port,
            speed=speed,
            mean_output=mean_output,
            seed=seed,
            faults=faults,
        )
    except (UnknownProfile, BadFault, ValueError) as error:
        raise click.UsageError(str(error)) from None
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(fleet, model, speed))
    except OSError as error:  # a port in use, or an address that is not ours
        raise click.ClickException(f"{error.strerror or error}; choose another --listen") from None
