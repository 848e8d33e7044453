"""A terminal as a program for full screens needs it, and as it was, whatever happens.

Rule 1: every way out gives it back: the end, an error, a signal, ^Z. What it was is read once, at the start.
Rule 2: ^C, ^Z and ^\\ stay signals.
Rule 3: whatever wants attention (a key, a new size, news from a thread) ends the one wait that there is.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import termios
import tty
from types import FrameType
from typing import Any, Final, Self

from fairlead.top.screen import Line

STYLES: Final = {
    "title": "1", "head": "1", "dim": "2", "good": "32", "warn": "33", "bad": "31;1", "chosen": "7",
}  # fmt: skip
DUMB: Final = ("", "dumb", "unknown", "emacs")
ENTER: Final = "\x1b[?1049h\x1b[?25l"  # the other screen, no cursor
LEAVE: Final = "\x1b[0m\x1b[?25h\x1b[?1049l"
ENDING: Final = (signal.SIGTERM, signal.SIGHUP)


class Ended(Exception):
    """A signal wants it to end."""

    def __init__(self, number: int) -> None:
        self.number = number


def can_draw(term: str | None) -> bool:
    """Can a terminal of this kind show a full screen?"""
    return (term or "").lower() not in DUMB


def styled(line: Line, *, colours: bool) -> str:
    """A line with its escape codes; without colours only what reverses, as nothing else may get lost."""
    parts = []
    for text, style in line:
        code = STYLES.get(style) if colours or style == "chosen" else None
        parts.append(f"\x1b[{code}m{text}\x1b[0m" if code and text else text)
    return "".join(parts)


class Terminal:
    """Both ends of one terminal, for as long as a `with` lasts."""

    def __init__(self, keys: int, out: int, *, colours: bool) -> None:
        self._keys, self._out, self._colours = keys, out, colours
        self._was: list[Any] = []
        self._news, self._waker = os.pipe()
        for end in (self._news, self._waker):
            os.set_blocking(end, False)
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> Self:
        self._was = termios.tcgetattr(self._keys)
        for number in (signal.SIGWINCH, signal.SIGCONT, signal.SIGTSTP, *ENDING):
            self._handlers[number] = signal.signal(number, self._signalled)
        self._enter()
        return self

    def __exit__(self, *exc: object) -> None:
        interrupt = signal.getsignal(signal.SIGINT)
        for number in (signal.SIGINT, *self._handlers):  # a second one must not leave it half given back
            signal.signal(number, signal.SIG_IGN)
        self._leave()
        for number, handler in {**self._handlers, signal.SIGINT: interrupt}.items():
            signal.signal(number, handler)
        os.close(self._news)
        os.close(self._waker)

    def _enter(self) -> None:
        tty.setcbreak(self._keys)
        self._write(ENTER)

    def _leave(self) -> None:
        with contextlib.suppress(EOFError):
            self._write(LEAVE)
        with contextlib.suppress(termios.error, OSError):
            termios.tcsetattr(self._keys, termios.TCSADRAIN, self._was)

    def _signalled(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGTSTP:
            self._leave()
            signal.signal(signal.SIGTSTP, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTSTP)  # stands still here until it is continued
            signal.signal(signal.SIGTSTP, self._signalled)
        elif number == signal.SIGCONT:
            with contextlib.suppress(EOFError, termios.error):  # it also comes when the terminal goes away
                self._enter()
        elif number in ENDING:
            raise Ended(number)
        self.wake()

    def wake(self) -> None:
        """End the wait; any thread may."""
        with contextlib.suppress(BlockingIOError, OSError):
            os.write(self._waker, b"!")

    def wait(self, seconds: float) -> bytes:
        """What was typed, b"" when something else happened or the time is over. EOFError: nobody is there any more."""
        ready, _, _ = select.select([self._keys, self._news], [], [], seconds)
        if self._news in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(self._news, 4096)
        if self._keys not in ready:
            return b""
        try:
            data = os.read(self._keys, 1024)
        except OSError:
            data = b""  # the connection behind it is gone
        if not data:
            raise EOFError
        return data

    @property
    def size(self) -> tuple[int, int]:
        """(columns, lines)."""
        with contextlib.suppress(OSError):
            columns, lines = os.get_terminal_size(self._out)
            if columns and lines:
                return columns, lines
        found = shutil.get_terminal_size()
        return found.columns, found.lines

    def draw(self, lines: list[Line]) -> None:
        """All of the screen, written over what is there, so that nothing flickers. EOFError as `wait`."""
        text = "\x1b[K\r\n".join(styled(line, colours=self._colours) for line in lines)
        self._write(f"\x1b[H{text}\x1b[K\x1b[J")

    def _write(self, text: str) -> None:
        left = memoryview(text.encode("utf-8", "replace"))
        while left:
            try:
                left = left[os.write(self._out, left) :]
            except BlockingIOError:
                select.select([], [self._out], [])
            except OSError:
                raise EOFError from None
