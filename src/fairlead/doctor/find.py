"""Asks places whether an engine is there: which one, with which models?

Rule 1: a few places at a time, a second for each step; a closed port costs one connection attempt.
Rule 2: only GET, and only the pages by which engines are told apart.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from typing import Final

from fairlead.doctor import read
from fairlead.doctor.fetch import Failed, Fetcher, door, each, fetcher
from fairlead.doctor.places import ENGINE, FAIRLEAD, LOCKED, OTHER, Found, Place
from fairlead.engines.interface import Answer
from fairlead.engines.reading import MODELS, header_has
from fairlead.engines.registry import all_clues, detect

AT_ONCE: Final = 32
STEP_SECONDS: Final = 1.0
CLUE_BYTES: Final = 1 << 20


async def find(
    wanted: Iterable[Place], tell: Callable[[Found], None], *, at_once: int = AT_ONCE, seconds: float = STEP_SECONDS
) -> list[Found]:
    """What is at each place, in order; `tell` is called as each is known."""
    return await each(wanted, lambda place: _ask(place, seconds), tell, at_once)


async def _ask(place: Place, seconds: float) -> Found:
    if not await _is_open(place, seconds):
        return Found(place)
    answers: dict[str, Answer] = {}
    async with fetcher(door(place.url)) as ask:
        await _page(ask, MODELS, seconds, answers)
        if MODELS not in answers:  # it speaks something else, or hangs
            return Found(place, OTHER)
        await asyncio.gather(*(_page(ask, path, seconds, answers) for path in all_clues() if path != MODELS))
    dialect = detect(answers)
    status = answers[MODELS].status
    if any(header_has(answers, name, "fairlead") for name in ("server", "via")):
        return Found(place, FAIRLEAD)
    if dialect.name == "generic" and not (status == 200 and dialect.models(answers) is not None):
        return Found(place, LOCKED if status in (401, 403) else OTHER)
    what = LOCKED if status in (401, 403) else ENGINE
    return Found(place, what, dialect.name, dialect.title, dialect.version(answers), read.models_of(answers))


async def _is_open(place: Place, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            _, writer = await asyncio.open_connection(place.host, place.port)
    except (OSError, TimeoutError, UnicodeError):
        return False
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return True


async def _page(ask: Fetcher, path: str, seconds: float, answers: dict[str, Answer]) -> None:
    with contextlib.suppress(Failed):
        answers[path] = await ask.get(path, seconds, limit=CLUE_BYTES)
