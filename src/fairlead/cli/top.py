"""`fairlead top`: the fleet in the terminal, as the dashboard shows it.

Rule 1: a full screen only on a terminal that can show one; elsewhere, and with --once, it prints once and ends.
Rule 2: exit status 0; 1 when no Fairlead answers, or it wants a token that it was not given; 2 for wrong options.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sys
from typing import TextIO

import click

from fairlead.cli.asking import ADMIN, asker_of, fail, token_options
from fairlead.top.ask import Asker, NoAnswer, Refused
from fairlead.top.fleet import look
from fairlead.top.run import run
from fairlead.top.screen import State, once
from fairlead.top.terminal import Ended, Terminal, can_draw, styled

WIDE = 200  # columns where nobody says how many there are


@click.command("top", short_help="The fleet in the terminal, live.")
@click.argument("admin", metavar="[ADMIN_URL]", default=ADMIN)
@click.option(
    "--interval", type=click.FloatRange(0.2, 60), default=1.0, show_default=True, help="Seconds between two looks."
)
@click.option("--once", "just_once", is_flag=True, help="Print it once and end.")
@click.option("--json", "wants_json", is_flag=True, help="Print it once, as JSON.")
@token_options
def top(
    admin: str, interval: float, just_once: bool, wants_json: bool, token: str | None, token_file: TextIO | None
) -> None:
    """Show the fleet of a running Fairlead: shares, queues, caches, times to the first token, errors, alerts.

    ADMIN_URL is its admin API, http://127.0.0.1:9900 unless you say otherwise. Keys: ? shows them all; arrows
    select and sort, d drains the selected backend, e gets it back, q quits.

    \b
    fairlead top
    fairlead top http://10.0.0.5:9900 --once --json | jq .backends[].state
    """
    asker = asker_of(admin, token, token_file)
    live = sys.stdin.isatty() and sys.stdout.isatty() and can_draw(os.environ.get("TERM"))
    if just_once or wants_json or not live:
        with contextlib.closing(asker):
            _print(asker, wants_json)
        return
    ended = 0
    try:
        with Terminal(sys.stdin.fileno(), sys.stdout.fileno(), colours="NO_COLOR" not in os.environ) as terminal:
            run(asker, terminal, interval)
    except KeyboardInterrupt:
        ended = signal.SIGINT
    except Ended as signalled:
        ended = signalled.number
    if ended:
        sys.exit(128 + ended)


def _print(asker: Asker, wants_json: bool) -> None:
    try:
        fleet = look(asker)
    except (NoAnswer, Refused) as problem:
        fail(asker, problem)
    except (KeyError, TypeError, AttributeError):
        fail(asker, NoAnswer("what answers there is not a Fairlead's admin API"))
    if wants_json:
        click.echo(json.dumps(fleet.as_json(), indent=2))
        return
    colours = sys.stdout.isatty() and can_draw(os.environ.get("TERM")) and "NO_COLOR" not in os.environ
    width = shutil.get_terminal_size((WIDE, 24)).columns
    for line in once(State(fleet=fleet, admin=asker.url), width):
        click.echo(styled(line, colours=colours).rstrip())
