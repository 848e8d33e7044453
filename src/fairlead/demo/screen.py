"""What people see while it runs: a live table on a terminal, now and then a plain line elsewhere.

Rule 1: no escape codes unless the output is a terminal.
Rule 2: a screen shows what it is given and knows nothing of processes or requests.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from fairlead.demo.figures import Figures
from fairlead.demo.gauges import Row
from fairlead.demo.words import ratio, seconds, time_left

WIDE: Final = 94  # columns that the whole table needs
LINE_SECONDS: Final = 5.0  # between two plain lines
FIRST_SECONDS: Final = 2.0  # from a policy's first line to the one after it
STATE_COLOURS: Final = {"up": "green", "starting": "dim", "draining": "yellow"}


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One moment of the demo."""

    policy: str
    number: int  # of this policy, from 1
    policies: int  # 0: no comparison is running any more
    elapsed: float  # seconds since the policy's first request was due
    seconds: float  # in which requests are sent
    sent: int
    answered: int
    errors: int
    rows: Sequence[Row]
    fraction: float
    left: float
    done: Sequence[Figures] = field(default=())

    @property
    def phase(self) -> str:
        if not self.policies:
            return f"running for {self.elapsed:.0f} s"
        if self.elapsed < self.seconds:
            return f"{self.elapsed:.0f} of {self.seconds:g} s"
        return f"last answers, {self.elapsed - self.seconds:.0f} s"

    @property
    def title(self) -> str:
        return f"policy {self.number} of {self.policies}" if self.policies else "policy"


class Screen(Protocol):
    """Where progress goes."""

    def show(self, snapshot: Snapshot, now: float) -> None: ...

    def close(self) -> None: ...


def make_screen(console: Console) -> Screen:
    """The right kind for this console."""
    return LiveScreen(console) if console.is_terminal else PlainScreen(console)


class PlainScreen:
    """One line every few seconds, and one when a policy begins."""

    def __init__(self, console: Console, every: float = LINE_SECONDS) -> None:
        self._console = console
        self._every = every
        self._due = 0.0
        self._policy: tuple[str, int] | None = None

    def show(self, snapshot: Snapshot, now: float) -> None:
        begins = self._policy != (snapshot.policy, snapshot.number)
        if not begins and now < self._due:
            return
        self._policy = (snapshot.policy, snapshot.number)
        self._due = now + (min(FIRST_SECONDS, self._every) if begins else self._every)
        if begins and snapshot.policies:
            self._say(f"{snapshot.title}: {snapshot.policy}, {time_left(snapshot.left)}")
            return
        placed = ", ".join(f"{row.name} {row.share:.0%}" for row in snapshot.rows)
        left = f"; {time_left(snapshot.left)}" if snapshot.policies else ""
        self._say(f"  {snapshot.phase}: {snapshot.answered}/{snapshot.sent} answered; {placed}{left}")

    def _say(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        pass


class LiveScreen:
    """A table that renews itself, gone when it is closed."""

    def __init__(self, console: Console) -> None:
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._started = False

    def show(self, snapshot: Snapshot, now: float) -> None:
        if not self._started:
            self._started = True
            self._live.start()
        self._live.update(render(snapshot, self._live.console.width), refresh=True)

    def close(self) -> None:
        if self._started:
            self._started = False
            self._live.stop()


def render(snapshot: Snapshot, width: int) -> Group:
    """The whole live view."""
    head = Text.assemble(
        (f"{snapshot.title}  ", "dim"),
        (snapshot.policy, "bold cyan"),
        (f"   {snapshot.phase}   ", ""),
        (f"{snapshot.answered:,} of {snapshot.sent:,} requests answered", "dim"),
        (f"   {snapshot.errors} errors", "bold red") if snapshot.errors else "",
    )
    parts: list[Padding] = [Padding(head, (1, 1, 0, 1)), Padding(backends(snapshot.rows, width), (1, 0, 0, 0))]
    if snapshot.done:
        parts.append(Padding(so_far(snapshot.done), (1, 0, 0, 0)))
    if snapshot.policies:
        bar = Table.grid(padding=(0, 1))
        bar.add_row(
            ProgressBar(total=1.0, completed=snapshot.fraction, width=40),
            f"{snapshot.fraction:4.0%}",
            Text(time_left(snapshot.left)),
        )
        parts.append(Padding(bar, (1, 1, 0, 1)))
        parts.append(Padding(Text("Ctrl-C ends it now, with what was measured so far", style="dim"), (0, 1)))
    return Group(*parts)


def backends(rows: Sequence[Row], width: int) -> Table:
    """One line per backend; on a narrow terminal without the engine's kind."""
    is_wide = width >= WIDE
    table = Table(box=None, header_style="bold", pad_edge=True, padding=(0, 1))
    table.add_column("backend")
    if is_wide:
        table.add_column("emulated engine", width=18, no_wrap=True)
    table.add_column("state", width=8)
    for heading, width in (
        ("share", 6), ("in flight", 9), ("pending tok", 11), ("queue", 5), ("tokens/s", 8), ("TTFT p50", 8),
    ):  # fmt: skip
        table.add_column(heading, justify="right", width=width, no_wrap=True)
    for row in rows:
        table.add_row(
            row.name,
            *([row.engine] if is_wide else []),
            Text(row.state, style=STATE_COLOURS.get(row.state, "red")),
            ratio(row.share),
            str(row.inflight),
            f"{row.pending:,}",
            "-" if row.queue is None else f"{row.queue:.0f}",
            f"{max(row.tokens_per_second, 0.0):,.0f}",
            seconds(row.ttft_p50),
        )
    return table


def so_far(done: Sequence[Figures]) -> Table:
    """Policies that have had their turn."""
    table = Table(box=None, header_style="bold", pad_edge=True, padding=(0, 1))
    table.add_column("so far", min_width=22)
    for heading in ("TTFT mean", "TTFT p99", "e2e mean", "e2e p99", "cached"):
        table.add_column(heading, justify="right", width=9)
    for each in done:
        cells = (each.ttft.mean, each.ttft.p99, each.whole.mean, each.whole.p99)
        table.add_row(each.policy, *(seconds(cell) for cell in cells), ratio(each.hit_ratio))
    return table
