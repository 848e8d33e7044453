"""The loop of `fairlead top`: news from a thread that asks, keys from the terminal, a screen made of both.

Rule: nothing that waits for the network is done where keys are read: whoever presses q is gone at once.
"""

from __future__ import annotations

import dataclasses
import queue
import threading
import time
from collections.abc import Callable
from typing import Final
from urllib.parse import quote

from fairlead.top.ask import Asker, NoAnswer, Refused
from fairlead.top.fleet import Fleet, look
from fairlead.top.keys import Change, parse, pressed
from fairlead.top.screen import State, screen
from fairlead.top.terminal import Terminal

ESCAPE_SECONDS: Final = 0.1  # an escape that nothing follows for so long was the key
WANTS_TOKEN: Final = "it wants its admin token: --token-file FILE, or FAIRLEAD_ADMIN_TOKEN in the environment"  # noqa: S105 -- no token


class Feed:
    """Asks in a thread, again and again; changes first."""

    def __init__(self, asker: Asker, interval: float, wake: Callable[[], None]) -> None:
        self._asker, self._interval, self._wake = asker, interval, wake
        self._changes: queue.SimpleQueue[Change | None] = queue.SimpleQueue()
        self.news: queue.SimpleQueue[Fleet | str] = queue.SimpleQueue()  # a string: why there is none
        self.said: queue.SimpleQueue[str] = queue.SimpleQueue()  # what came of changes
        self._thread = threading.Thread(target=self._run, name="top", daemon=True)
        self._thread.start()

    def change(self, wanted: Change) -> None:
        self._changes.put(wanted)

    def end(self) -> None:
        """A daemon: nobody waits for what it asks for now."""
        self._changes.put(None)

    def _run(self) -> None:
        due = time.monotonic()
        while True:
            try:
                wanted = self._changes.get(timeout=max(due - time.monotonic(), 0.0))
            except queue.Empty:
                pass
            else:
                if wanted is None:
                    self._asker.close()
                    return
                self.said.put(self._do(wanted))
            self.news.put(self._look())
            self._wake()
            due = time.monotonic() + self._interval

    def _look(self) -> Fleet | str:
        try:
            return look(self._asker)
        except NoAnswer as problem:
            return str(problem)
        except Refused as problem:
            return WANTS_TOKEN if problem.status == 401 else str(problem)
        except (KeyError, TypeError, AttributeError):
            return "what answers there is not a Fairlead's admin API"

    def _do(self, wanted: Change) -> str:
        try:
            answer = self._asker.patch(f"/api/backends/{quote(wanted.backend, safe='')}", wanted.body)
        except NoAnswer as problem:
            return f"not changed: {problem}"
        except Refused as problem:
            return f"not changed: {WANTS_TOKEN if problem.status == 401 else problem}"
        told = {("drain", True): "drains", ("drain", False): "is back to work", ("enable", True): "is enabled"}
        lasts = answer.get("lasts") if isinstance(answer, dict) else None
        return f"{wanted.backend} {next(told[item] for item in wanted.body.items())}" + (f", {lasts}" if lasts else "")


def run(asker: Asker, terminal: Terminal, interval: float) -> None:
    """Until q is pressed or nobody is there to press it."""
    state = State(admin=asker.url)
    feed = Feed(asker, interval, terminal.wake)
    heard = time.monotonic()
    rest, shown = b"", None
    try:
        while True:
            size = terminal.size
            if (state, size) != shown:
                terminal.draw(screen(state, *size))
                shown = (state, size)
            typed = terminal.wait(ESCAPE_SECONDS if rest else interval)
            names, rest = parse(rest + typed)
            if not typed and rest:
                names, rest = [*names, "escape"], b""
            for name in names:
                state, wanted, over = pressed(state, name)
                if over:
                    return
                if wanted is not None:
                    feed.change(wanted)
            while not feed.said.empty():
                state = dataclasses.replace(state, said=feed.said.get())
            while not feed.news.empty():
                news = feed.news.get()
                if isinstance(news, Fleet):
                    heard = time.monotonic()
                    state = dataclasses.replace(state, fleet=news, lost="", lost_seconds=0.0)
                else:
                    state = dataclasses.replace(state, lost=news)
            if state.lost:
                state = dataclasses.replace(state, lost_seconds=float(int(time.monotonic() - heard)))
    except EOFError:
        pass  # as good as q
    finally:
        feed.end()
