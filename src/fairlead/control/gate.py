"""Who may use the admin listener? A token in `Authorization: Bearer`, when one is set; else whoever reaches it.

Rule 1: with a token, every call that changes something needs it. Reading needs it only where the listener is not on
        loopback; /healthz, /readyz and /metrics are for probes and Prometheus and stay open.
Rule 2: only a hash of it is kept, and compared in constant time. It is never shown or logged.
Rule 3: a file is read again when somebody shows a token, at most once a second: a new token needs no restart. While
        the file cannot be used, the last good one counts.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
from pathlib import Path
from time import monotonic
from typing import Final

log = logging.getLogger("fairlead")

VARIABLE: Final = "FAIRLEAD_ADMIN_TOKEN"  # of the environment
LEAST: Final = 16  # characters
MOST: Final = 4096
FRESH_SECONDS: Final = 1.0


class TokenProblem(Exception):
    """It cannot be used; the message is a sentence for people and does not hold it."""


def checked(text: str) -> bytes:
    """The hash of a token. TokenProblem."""
    if not LEAST <= len(text) <= MOST:
        raise TokenProblem(f"expected a token of at least {LEAST} characters, got {len(text)}")
    if not all("!" <= char <= "~" for char in text):
        raise TokenProblem("expected a token of visible ASCII characters without spaces, so that a header can hold it")
    return hashlib.sha256(text.encode()).digest()


def read(file: Path) -> bytes:
    """The hash of the token in a file: its first line. TokenProblem."""
    try:
        with file.open("rb") as opened:
            line = opened.read(MOST + 2).partition(b"\n")[0]
    except OSError as problem:
        raise TokenProblem(f"{file}: {problem.strerror}") from None
    try:
        return checked(line.decode("ascii", "replace").strip())
    except TokenProblem as problem:
        raise TokenProblem(f"{file}: {problem}") from None


class AdminToken:
    """The token that is asked for."""

    def __init__(self, *, file: str | None = None, text: str = "") -> None:
        """From the file, or as it is. TokenProblem."""
        self._file = Path(file) if file is not None else None
        self._digest = checked(text) if self._file is None else read(self._file)
        self._read_at = monotonic()
        self._problem = ""

    async def fits(self, header: str) -> bool:
        """Is it in this Authorization header?"""
        scheme, _, shown = header.partition(" ")
        if scheme.lower() != "bearer":
            return False
        if self._file is not None and monotonic() - self._read_at >= FRESH_SECONDS:
            self._read_at = monotonic()
            await self._read_again(self._file)
        digest = hashlib.sha256(shown.strip().encode("utf-8", "surrogateescape")).digest()
        return hmac.compare_digest(digest, self._digest)

    async def _read_again(self, file: Path) -> None:
        try:
            self._digest = await asyncio.to_thread(read, file)
            self._problem = ""
        except TokenProblem as problem:
            if str(problem) != self._problem:
                self._problem = str(problem)
                log.error("the admin token of before counts, as the new one cannot be used: %s", problem)
