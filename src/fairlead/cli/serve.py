"""`fairlead serve TARGET...`: put Fairlead in front of engines.

Exit status: 0 after a clean stop, 1 when it cannot start (a port in use), 2 for wrong options or configuration.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import logging
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import uvloop

from fairlead import __version__
from fairlead.cli.handover import Handover
from fairlead.config.build import App, Bound, StartError
from fairlead.config.load import ERROR, Problem, read_file, read_targets
from fairlead.config.parts import Read
from fairlead.config.schema import POLICIES, Config
from fairlead.control.asked import settled
from fairlead.control.fleet import Refused
from fairlead.control.systemd import ActivationError
from fairlead.control.takeover import TakeoverError

if TYPE_CHECKING:
    from fairlead.workers.supervisor import Supervisor


@click.command("serve", short_help="Balance requests over engines.")
@click.argument("targets", nargs=-1, metavar="TARGET...")
@click.option("--config", "config_file", metavar="FILE", help="Config file; the same as giving it as the only TARGET.")
@click.option("--listen", metavar="HOST:PORT", help="Where clients are served.  [default: 127.0.0.1:8080]")
@click.option("--admin", metavar="HOST:PORT", help="Admin API and metrics; keep it private.  [default: 127.0.0.1:9900]")
@click.option("--policy", metavar="NAME", help=f"How a backend is chosen: {', '.join(POLICIES)}.")
@click.option("--shadow", metavar="NAME", help="A second policy that is asked, counted and never obeyed.")
@click.option("--workers", type=int, metavar="N", help="Processes that carry the traffic.  [default: 1]")
@click.option("--log-format", metavar="text|json", help="Format of the access log.  [default: text]")
@click.option("--access-log", metavar="FILE", help="File for the access log; - is standard output, off is none.")
@click.option("--takeover", is_flag=True, help="Take the sockets over from the one that runs; it drains and ends.")
@click.option("--record", metavar="FILE", help="Record the traffic (never its text) for replays in the simulator.")
def serve(
    targets: tuple[str, ...],
    config_file: str | None,
    listen: str | None,
    admin: str | None,
    policy: str | None,
    shadow: str | None,
    workers: int | None,
    log_format: str | None,
    access_log: str | None,
    takeover: bool,
    record: str | None,
) -> None:
    """Balance requests over the engines at the given URLs, or as one config file says.

    Engine kind, models, metrics and speed are found out; a backend that is down is waited for.

    \b
    fairlead serve http://gpu1:8000 http://gpu2:8000
    fairlead serve fairlead.yaml --listen 0.0.0.0:8080
    """
    overrides: dict[str, Any] = {}
    if listen is not None:
        overrides["listen"] = listen
    if admin is not None:
        overrides["admin"] = admin
    if policy is not None:
        overrides["policy"] = policy
    if shadow is not None:
        overrides["shadow"] = shadow
    if workers is not None:
        overrides["workers"] = workers
    if log_format is not None:
        overrides["access_log.format"] = log_format
    if access_log is not None:
        overrides["access_log.enabled"] = access_log != "off"
        if access_log != "off":
            # Relative to where the command was typed; what a config file names lies beside that file.
            overrides["access_log.path"] = access_log if access_log == "-" else os.path.abspath(access_log)
    if record is not None:
        overrides["recording.path"] = os.path.abspath(record)
    file = _file(targets, config_file)
    config, problems = _read(file, targets, overrides)
    for problem in problems:
        click.echo(str(problem), err=True)
    if config is None or any(p.severity == ERROR for p in problems):
        count = sum(p.severity == ERROR for p in problems)
        click.echo(f"nothing was started: {count} problem{'s' if count != 1 else ''} to mend first", err=True)
        sys.exit(2)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    reread = None if file is None else functools.partial(read_file, file, overrides)
    sys.exit(uvloop.run(_serve(config, reread, file, takeover=takeover)))


def _file(targets: tuple[str, ...], config_file: str | None) -> str | None:
    """The config file; None: the engines themselves were named."""
    files = [t for t in targets if t.endswith((".yaml", ".yml")) or Path(t).is_file()]
    if config_file is not None and targets:
        raise click.UsageError("give either --config or targets, not both")
    if files and len(targets) > 1:
        raise click.UsageError(f"give either engine URLs or one config file; {files[0]} is a file")
    return config_file or next(iter(files), None)


def _read(file: str | None, targets: tuple[str, ...], overrides: dict[str, Any]) -> tuple[Config | None, list[Problem]]:
    if file is not None:
        return read_file(file, overrides)
    if not targets:
        raise click.UsageError(
            "name at least one engine, for example: fairlead serve http://gpu1:8000 http://gpu2:8000"
        )
    return read_targets(targets, overrides)


async def _serve(config: Config, reread: Read | None, source: str | None, *, takeover: bool = False) -> int:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    signals = 0

    def on_signal() -> None:
        nonlocal signals
        signals += 1
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    hung_up = asyncio.Event()  # before there was anything to reload
    loop.add_signal_handler(signal.SIGHUP, hung_up.set)
    try:
        app = _make(config, reread, source)
    except StartError as problem:
        click.echo(f"cannot start: {problem}", err=True)
        return 1
    loop.add_signal_handler(signal.SIGUSR1, app.reopen_logs)
    handover = Handover(app)
    try:
        given = await handover.find(config, takeover=takeover)
        bound = await app.start(given)
    except (StartError, TakeoverError, ActivationError) as problem:
        click.echo(f"cannot start: {problem}{handover.hint(str(problem))}", err=True)
        await app.stop(drain=0.0)
        handover.close()
        return 1
    reloads: set[asyncio.Task[None]] = set()

    def on_hangup() -> None:
        task = loop.create_task(_reload(app, handover))
        reloads.add(task)
        task.add_done_callback(reloads.discard)

    loop.add_signal_handler(signal.SIGHUP, on_hangup)
    if hung_up.is_set():
        on_hangup()
    gc.collect()
    gc.freeze()  # what is there now stays: the collector need not walk over it again and again
    if not stop.is_set():  # who was told to stop as he began takes nothing over: the one before him serves on
        await handover.serve(stop)
        click.echo(summary(config, await settled(app.views.backends()), bound))
        sys.stdout.flush()
    await stop.wait()
    handover.stopping()
    running = await app.running()
    if running:
        click.echo(
            f"draining {running} requests, at most {app.config.drain:g} s (a second signal stops at once)", err=True
        )
    stopping = asyncio.ensure_future(app.stop())
    while not stopping.done():
        if signals > 1:
            app.break_off()
        await asyncio.wait([stopping], timeout=0.05)
    left = stopping.result()
    handover.close()
    if left:
        click.echo(f"{left} requests were broken off at the end of the drain", err=True)
    return 0


def _make(config: Config, reread: Read | None, source: str | None) -> App | Supervisor:
    """One process, or one that leads several."""
    if config.workers == 1:
        return App(config, reread=reread, source=source)
    from fairlead.workers.supervisor import Supervisor  # one process has no use for it

    return Supervisor(config, reread=reread, source=source)


async def _reload(app: App | Supervisor, handover: Handover) -> None:
    """What SIGHUP asks for; the log tells what came of it."""
    handover.notifier.reloading()
    with contextlib.suppress(Refused):
        await app.reloader.reload()
    handover.notifier.reloaded()


def summary(config: Config, rows: list[dict[str, Any]], bound: Bound) -> str:
    """What was found (rows of the admin API) and where it listens."""
    shadow = f", shadow {config.shadow.name}" if config.shadow is not None else ""
    workers = f", {config.workers} workers" if config.workers > 1 else ""
    lines = [f"fairlead {__version__}, policy {config.policy.name}{shadow}{workers}"]
    width = max(len(row["id"]) for row in rows)
    for row in rows:
        if row["state"] == "up":
            engine = f"{row['engine'] or ''} {row['version'] or ''}".strip()
            models = "any model" if "*" in row["models"] else ", ".join(row["models"])
            weight = f", weight {row['weight']:g}" if row["weight"] is not None else ""
            lines.append(f"  {row['id']:<{width}}  up    {engine}: {models}{weight}")
        else:
            lines.append(f"  {row['id']:<{width}}  down  {row['reason']}; it joins by itself when it answers")
    lines += [f"listening on {url}" for url in bound.data]
    if config.recording is not None:
        lines.append(f"recording to {config.recording.path}")
    lines += [f"dashboard on {bound.admin}/", f"admin on {bound.admin}"]
    return "\n".join(lines)
