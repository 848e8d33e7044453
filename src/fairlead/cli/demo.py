"""`fairlead demo`: see it work in a minute and a half, without a GPU, an argument or a network.

Exit status: 0 after a full comparison, 130 when it was interrupted before that (what was measured is printed all the
same), 1 when something did not start or broke, or a policy got no answer at all, 2 for wrong options.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Sequence
from difflib import get_close_matches

import aiohttp
import click
import msgspec
import uvloop
from rich.console import Console

from fairlead.config.schema import POLICIES
from fairlead.core.policies.registry import DEFAULT
from fairlead.demo.children import Child, ChildFailed
from fairlead.demo.fleet import FLEET
from fairlead.demo.report import as_json, compare, conclusions
from fairlead.demo.run import Demo, Settings
from fairlead.demo.screen import LiveScreen, PlainScreen, make_screen

COMPARED = ("round_robin", "least_connections", "expected_completion")
PLAIN_WIDTH = 100  # columns where there is no terminal
KEEP_LINE_SECONDS = 30.0
INTERRUPTED = 130


def _known(ctx: click.Context, param: click.Parameter, names: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        if name not in POLICIES:
            near = get_close_matches(name, POLICIES, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(POLICIES)}"
            raise click.BadParameter(f"unknown policy {name!r}; {hint}")
    return tuple(dict.fromkeys(names))


@click.command("demo", short_help="See it work: emulated engines, load, a comparison.")
@click.option(
    "--policy", "policies", multiple=True, metavar="NAME", callback=_known,
    help=f"Compare this policy; may be repeated.  [default: {', '.join(COMPARED)}]",
)  # fmt: skip
@click.option(
    "--seconds", type=click.FloatRange(1, 3600), default=20.0, show_default=True,
    help="How long requests are sent under each policy.",
)  # fmt: skip
@click.option(
    "--rate", type=click.FloatRange(0.5, 100), default=20.0, show_default=True,
    help="Requests per second. Past about 22 the slow engine falls far behind under round_robin.",
)  # fmt: skip
@click.option("--seed", type=click.IntRange(0, 2**32), default=1, show_default=True, help="Changes the requests.")
@click.option("--json", "wants_json", is_flag=True, help="Comparison as JSON on standard output, the rest on stderr.")
@click.option("--keep", is_flag=True, help="Afterwards keep it running with light load until Ctrl-C.")
def demo(policies: tuple[str, ...], seconds: float, rate: float, seed: int, wants_json: bool, keep: bool) -> None:
    """Emulated engines of unequal speed, the same requests under several policies, a comparison.

    Needs no GPU and no network. Ctrl-C ends it at any time, with what was measured so far.

    \b
    fairlead demo
    fairlead demo --policy least_pending_tokens --policy expected_completion --seconds 60
    """
    settings = Settings(policies or COMPARED, seconds, rate, seed)
    console = Console(stderr=wants_json, highlight=False)
    if not console.is_terminal:
        console = Console(stderr=wants_json, highlight=False, width=PLAIN_WIDTH)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        sys.exit(runner.run(_demo(settings, console, wants_json, keep)))


async def _demo(settings: Settings, console: Console, wants_json: bool, keep: bool) -> int:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()

    def on_signal(number: signal.Signals) -> None:
        stop.set()
        loop.remove_signal_handler(number)  # a second one ends it the hard way

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal, number)
    screen = make_screen(console)
    try:
        console.print(_opening(settings))
        async with Demo(settings, screen, stop) as demo:
            try:
                await demo.compare()
            finally:
                screen.close()
            _finish(demo, console, wants_json)
            if keep and not stop.is_set():
                await _keep(demo, console, settings.policies[-1] if len(settings.policies) == 1 else DEFAULT)
            if not demo.complete:
                return INTERRUPTED
            return 0 if all(each.finished for each in demo.done) else 1
    except (ChildFailed, aiohttp.ClientError) as problem:
        Console(stderr=True, highlight=False).print(f"the demo broke off: {problem}", markup=False)
        return 1


def _opening(settings: Settings) -> str:
    fast = ", ".join(f"{machine.name} ({machine.shown})" for machine in FLEET)
    several = len(settings.policies)
    return (
        f"[bold]fairlead demo[/]: four emulated engines (no GPU) of unequal speed, which the balancer is not told:\n"
        f"{fast}.\n"
        f"{settings.rate:g} requests/s for {settings.seconds:g} s under "
        f"{'each of ' + str(several) + ' policies' if several > 1 else settings.policies[0]}, "
        f"prompts of 200 to 8,000 tokens with shared beginnings."
    )


def _finish(demo: Demo, console: Console, wants_json: bool) -> None:
    settings = demo.settings
    if not demo.complete:
        console.print("\n[yellow]Interrupted: this is what was measured so far.[/]")
    if demo.done:
        console.print()
        compare(console, demo.done)
        if len(demo.done) > 1:
            console.print("[dim]* best of its row[/]")
        console.print()
    for line in conclusions(demo.done):
        console.print(line, markup=False)
    console.print("The engines were emulated: on real ones expect other seconds. Try it on yours:")
    console.print("  [bold cyan]fairlead serve http://gpu1:8000 http://gpu2:8000[/]", soft_wrap=True)
    if wants_json:
        data = as_json(
            demo.done, seed=settings.seed, seconds=settings.seconds, rate=settings.rate, complete=demo.complete
        )
        click.echo(msgspec.json.format(msgspec.json.encode(data), indent=2).decode())


async def _keep(demo: Demo, console: Console, policy: str) -> None:
    """Goes on until Ctrl-C, and says where to look."""
    balancer = await demo.start_to_keep(policy)
    try:
        for line in _addresses(balancer, demo.urls, policy):
            console.print(line, markup=False, soft_wrap=True)
        screen = LiveScreen(console) if console.is_terminal else PlainScreen(console, KEEP_LINE_SECONDS)
        demo.show_on(screen)
        try:
            await demo.keep(balancer, policy)
        finally:
            screen.close()
    finally:
        await balancer.stop()


def _addresses(balancer: Child, engines: Sequence[str], policy: str) -> list[str]:
    url, admin = balancer.ready["url"], balancer.ready["admin"]
    body = '{"messages": [{"role": "user", "content": "hello"}]}'
    return [
        "",
        f"Still running with {policy} and light load, until Ctrl-C. In another terminal:",
        f"  curl {url}/v1/chat/completions -H 'content-type: application/json' -d '{body}'",
        f"  {admin}/                      the dashboard, for a browser",
        f"  curl {admin}/api/backends     each engine's share, load and learned speed",
        f"  curl {admin}/api/decisions    the last requests, and where they went",
        f"  curl {admin}/metrics          for Prometheus",
        f"  curl {engines[0]}/emulator/faults -d '{{\"slow\": 10}}'    make the first engine slow, and look",
    ]
