"""`fairlead init [HOST...]`: find engines, write a config file for them, say what to do next.

Rule 1: asks only the hosts, ports and small networks that were named, or this machine's usual ports.
Rule 2: never overwrites a file unless told to, and writes it whole or not at all.
Rule 3: exit status 0 when a file was written, 1 when no engine was found, 2 when something named is wrong.
"""

from __future__ import annotations

import os
import sys
from itertools import groupby
from pathlib import Path

import click
import uvloop

from fairlead.doctor.find import find
from fairlead.doctor.places import (
    CLOSED,
    ENGINE,
    FAIRLEAD,
    LOCAL,
    LOCKED,
    OTHER,
    USUAL_PORTS,
    BadPlace,
    Found,
    Place,
    parse_ports,
    places,
)
from fairlead.doctor.write import about, config_text

TELL_EVERY = 64
"""Places between two lines of progress."""


@click.command("init", short_help="Find engines and write a config file for them.")
@click.argument("hosts", nargs=-1, metavar="[HOST|HOST:PORT|NETWORK]...")
@click.option("--ports", metavar="LIST", help="Ports to ask where none is named, such as 8000-8010,30000.")
@click.option("--output", "-o", default="fairlead.yaml", show_default=True, help="File to write; - is standard output.")
@click.option("--force", is_flag=True, help="Overwrite the file if it is there.")
def init(hosts: tuple[str, ...], ports: str | None, output: str, force: bool) -> None:
    """Find engines on the named hosts and write a commented config file for them.

    Without a host it asks the usual ports of this machine. A network, such as 10.0.0.0/28, may have 256 addresses
    at most. Only pages by which engines are told apart are asked.

    \b
    fairlead init
    fairlead init gpu1 gpu2:8000 10.0.1.0/28 --ports 8000-8003
    """
    try:
        wanted = places(hosts, parse_ports(ports) if ports is not None else USUAL_PORTS)
    except BadPlace as problem:
        raise click.UsageError(str(problem)) from None
    if output != "-":
        _check_output(Path(output), force)
    found = uvloop.run(_find(wanted))
    _tell(found)
    engines = [one for one in found if one.what == ENGINE or (one.what == LOCKED and one.engine)]
    if not engines:
        _say("no engine found; nothing was written")
        _say("name the hosts (fairlead init gpu1 gpu2:8000), other ports (--ports 9000-9010),")
        _say("or try one without a GPU: fairlead emulate --listen 127.0.0.1:8000")
        sys.exit(1)
    text = config_text(engines, output)
    if output == "-":
        click.echo(text, nl=False)
        return
    _write(Path(output), text, force)
    count = f"{len(engines)} backend{'s' if len(engines) != 1 else ''}"
    _say(f"\nwrote {output} with {count}. Next:")
    for command, what in (("check", "is the file right?"), ("doctor", "are the engines?"), ("serve", "start")):
        _say(f"  fairlead {command} {output}".ljust(36) + f"  {what}")


def _say(text: str) -> None:
    """Standard output may be the file itself."""
    click.echo(text, err=True)


def _check_output(path: Path, force: bool) -> None:
    if path.is_dir():
        raise click.UsageError(f"{path} is a directory; name a file in it")
    if not path.parent.is_dir():
        raise click.UsageError(f"the directory {path.parent} is not there; create it")
    if path.exists() and not force:
        raise click.UsageError(f"{path} is there already; name another --output, or overwrite it with --force")


async def _find(wanted: list[Place]) -> list[Found]:
    hosts = dict.fromkeys(place.host for place in wanted)
    where = "this machine" if list(hosts) == [LOCAL] else f"{len(hosts)} host{'s' if len(hosts) != 1 else ''}"
    _say(f"asking {len(wanted)} port{'s' if len(wanted) != 1 else ''} of {where}")
    done = 0

    def tell(found: Found) -> None:
        nonlocal done
        done += 1
        if done % TELL_EVERY == 0 and done < len(wanted):
            _say(f"  {done} of {len(wanted)} asked")

    return await find(wanted, tell)


def _tell(found: list[Found]) -> None:
    """What was found per host; ports that are closed are only counted."""
    words = {FAIRLEAD: "a Fairlead, left out", OTHER: "answers, but is no engine that is known: left out"}
    for host, rows in groupby(found, key=lambda one: one.place.host):
        ports = list(rows)
        there = [one for one in ports if one.what != CLOSED]
        if not there:
            _say(f"{host}: nothing on {len(ports)} port{'s' if len(ports) != 1 else ''}")
        for one in there:
            text = words.get(one.what) or about(one)
            if one.what == LOCKED and not one.engine:
                text = "asks for a key and does not say what it is: left out"
            _say(f"{host}: {one.place.port}: {text}")


def _write(path: Path, text: str, force: bool) -> None:
    """Whole or not at all: over a file that is there, a new one is put in its place."""
    target = path.with_name(f".{path.name}.{os.getpid()}") if force else path
    try:
        with target.open("x", encoding="utf-8") as file:  # "x": never into a file that somebody made meanwhile
            file.write(text)
        if force:
            os.replace(target, path)
    except OSError as error:
        raise click.ClickException(f"{path} could not be written: {(error.strerror or str(error)).lower()}") from None
