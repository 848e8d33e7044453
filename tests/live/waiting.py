"""How does a live test wait for something that another process does?

It looks again and again until a deadline, and says what it saw last: never a bare sleep, never forever. Both helpers
count in real time, since engines do.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

PAUSE_SECONDS = 0.02
PROGRESS_SECONDS = 15.0


class WaitedTooLong(AssertionError):
    """The deadline passed; the message holds what was waited for and what was seen last."""


def wait_for(
    what: str,
    look: Callable[[], T],
    *,
    seconds: float,
    pause: float = PAUSE_SECONDS,
    tell: Callable[[str], None] | None = None,
) -> T:
    """Returns the first true value of `look`. Trouble with the network while looking counts as "not yet"."""
    begun = time.monotonic()
    told = begun
    seen: object = None
    while True:
        try:
            result = look()
            if result:
                return result
            seen = result
        except OSError as trouble:
            seen = trouble
        now = time.monotonic()
        if now - begun > seconds:
            raise WaitedTooLong(f"waited {seconds:g} s for {what}; seen last: {seen!r}")
        if tell is not None and now - told > PROGRESS_SECONDS:
            tell(f"{what}: {now - begun:.0f} s")
            told = now
        time.sleep(pause)


def holds_for(what: str, look: Callable[[], bool], *, seconds: float, pause: float = 0.1) -> None:
    """`look` is true now and stays so: for things that a slow part of fairlead might still spoil."""
    begun = time.monotonic()
    while (passed := time.monotonic() - begun) < seconds:
        assert look(), f"{what}: no longer after {passed:.1f} s"
        time.sleep(pause)
