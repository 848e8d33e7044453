"""`fairlead doctor TARGET...`: what about these engines hurts balancing, and how is it mended?

Rule 1: changes nothing: it asks pages and, unless told not to, has one token generated twice.
Rule 2: exit status 0: nothing but notes; 1: warnings; 2: errors, or wrong options.
Rule 3: results go to standard output, progress to standard error. Keys are sent, never shown.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import click
import uvloop

from fairlead.config.load import ERROR, read_file, read_targets
from fairlead.config.parts import client_tls
from fairlead.config.schema import Backend, Config
from fairlead.doctor.checks import Pool
from fairlead.doctor.checks_fleet import check
from fairlead.doctor.facts import EngineFacts
from fairlead.doctor.findings import exit_status
from fairlead.doctor.look import Look, Target, look_at_all
from fairlead.doctor.report import about, as_json, lines
from fairlead.proxy.tls import TlsProblem, make_client

HURRY_SECONDS = 2.0
"""Engines that are done sooner need no line of progress, unless they are many."""


@click.command("doctor", short_help="Look at engines: what hurts balancing, and how to mend it.")
@click.argument("targets", nargs=-1, required=True, metavar="TARGET...")
@click.option("--header", "headers", multiple=True, metavar="'NAME: VALUE'", help="Send this header, such as a key.")
@click.option("--no-generate", is_flag=True, help="Send no prompts; prefix caching and usage stay untried.")
@click.option("--timeout", type=click.FloatRange(0.1, 600), default=5.0, show_default=True, help="Seconds for a page.")
@click.option("--json", "wants_json", is_flag=True, help="Print the result as JSON.")
def doctor(
    targets: tuple[str, ...], headers: tuple[str, ...], no_generate: bool, timeout: float, wants_json: bool
) -> None:
    """Look at the engines at the given URLs, or at those of one config file, and tell what hurts balancing.

    Every finding comes with what was seen, why it matters and the flag to set. Engines are only asked, never
    changed; one short prompt is sent twice to see whether prefix caching works.

    Exits with 0 when there is nothing but notes, with 1 for warnings, with 2 for errors.

    \b
    fairlead doctor http://gpu1:8000 http://gpu2:8000
    fairlead doctor fairlead.yaml --no-generate
    """
    given = dict(_header(line) for line in headers)
    config = _config(targets)
    pool = config.keepalive.timeout
    look = Look(
        generate=not no_generate,
        page_timeout=timeout,
        health_timeout=None if timeout == 5.0 else timeout,
        keepalive=pool,
    )
    try:
        wanted = [_target(config, backend, given) for backend in config.backends]
    except TlsProblem as problem:
        raise click.UsageError(str(problem)) from None
    fleet = uvloop.run(_look(wanted, look))
    findings = check(fleet, Pool(keepalive=pool))
    status = exit_status(findings)
    if wants_json:
        click.echo(json.dumps(as_json(fleet, findings, status), indent=2))
    else:
        for text, colour in lines(fleet, findings):
            click.secho(text, fg=colour)
    sys.exit(status)


def _header(line: str) -> tuple[str, str]:
    name, colon, value = line.partition(":")
    if not colon or not name.strip() or any(char in line for char in "\r\n"):
        raise click.BadParameter("expected 'Name: value'", param_hint="--header")  # never shown: it may be a key
    return name.strip(), value.strip()


def _config(targets: tuple[str, ...]) -> Config:
    files = [target for target in targets if target.endswith((".yaml", ".yml")) or Path(target).is_file()]
    if files and len(targets) > 1:
        raise click.UsageError(f"give either engine URLs or one config file; {files[0]} is a file")
    config, problems = read_file(files[0]) if files else read_targets(targets)
    for problem in problems:
        if config is None or problem.severity != ERROR:
            click.echo(str(problem), err=True)
    if config is None:
        click.echo("no engine was looked at", err=True)
        raise click.exceptions.Exit(2)
    return config


def _target(config: Config, backend: Backend, headers: dict[str, str]) -> Target:
    """As `fairlead serve` would speak to it, with the headers of the command line besides. TlsProblem."""
    sent = [line.partition(":") for line in (*config.headers.set, *backend.headers)]
    tls = client_tls(config, backend)
    return Target(
        name=backend.name,
        url=backend.url,
        headers={**{name.strip(): value.strip() for name, _, value in sent}, **headers},
        tls=make_client(tls).context if tls is not None else None,
        server_name=tls.server_name if tls is not None else None,
        engine=None if backend.engine == "auto" else backend.engine,
        health_path=backend.health_path or (None if config.health.path == "auto" else config.health.path),
        metrics_url=backend.metrics_url,
        max_connections=backend.max_connections,
    )


async def _look(targets: list[Target], look: Look) -> list[EngineFacts]:
    done = 0

    def tell(facts: EngineFacts) -> None:
        nonlocal done
        done += 1
        click.echo(f"[{done}/{len(targets)}] {facts.name}: {about(facts)} ({facts.seconds:.1f} s)", err=True)

    async def remind() -> None:
        while True:
            await asyncio.sleep(HURRY_SECONDS)
            click.echo(f"looking at {len(targets)} engines, {done} done", err=True)

    reminder = asyncio.create_task(remind())
    try:
        return await look_at_all(targets, look, tell)
    finally:
        reminder.cancel()
