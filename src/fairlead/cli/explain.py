"""`fairlead explain REQUEST_ID`: why did a request go where it went, and what came of it?

Exit status 0; 1 when no Fairlead answers, wants a token, or does not know the request; 2 for wrong options.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
from typing import Any, TextIO
from urllib.parse import quote

import click

from fairlead.cli.asking import ADMIN, asker_of, fail, token_options
from fairlead.top.ask import Asker, NoAnswer, Refused
from fairlead.top.story import story
from fairlead.top.terminal import can_draw, styled

WIDEST = 110  # columns; longer lines are hard to read


@click.command("explain", short_help="Why did a request go where it went?")
@click.argument("request_id", required=False)
@click.option("--last", is_flag=True, help="The last request that has ended.")
@click.option("--admin", "url", metavar="URL", default=ADMIN, help="Its admin API.", show_default=True)
@click.option("--json", "wants_json", is_flag=True, help="Print the admin API's answer.")
@token_options
def explain(
    request_id: str | None, last: bool, url: str, wants_json: bool, token: str | None, token_file: TextIO | None
) -> None:
    """Tell why a request went where it went: what it was, which backends could have had it and which could not, every
    score in words and numbers, how fresh each signal was, and what came of it.

    REQUEST_ID is the x-request-id of its answer. The last 1000 requests are known; for older ones, see the option
    `decisions` of the config file.

    \b
    fairlead explain 13acd280bafd-25
    fairlead explain --last --json
    """
    if (request_id is None) != last:
        raise click.UsageError("name one request, or --last")
    asker = asker_of(url, token, token_file)
    try:
        with contextlib.closing(asker):
            answer = asker.get(f"/api/explain/{quote(request_id or _last(asker), safe='')}")
        lines = story(answer, min(shutil.get_terminal_size((WIDEST, 24)).columns, WIDEST))
    except (NoAnswer, Refused) as problem:
        fail(asker, problem)
    except (KeyError, TypeError, AttributeError):
        fail(asker, NoAnswer("what answers there is not this version of Fairlead's admin API"))
    if wants_json:
        click.echo(json.dumps(answer, indent=2))
        return
    colours = sys.stdout.isatty() and can_draw(os.environ.get("TERM")) and "NO_COLOR" not in os.environ
    for line in lines:
        click.echo(styled(line, colours=colours))


def _last(asker: Asker) -> str:
    """The id of the last request that ended."""
    decisions: list[dict[str, Any]] = asker.get("/api/decisions?limit=1")["decisions"]
    if not decisions:
        raise Refused(404, "no request has ended yet")
    return str(decisions[0]["id"])
