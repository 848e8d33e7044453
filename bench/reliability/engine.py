"""An engine with slots and moods: it freezes, crawls or refuses when the bench says so, and tells what reached it.

Run as `python -m bench.reliability.engine PORT NUMBER`, like bench.soak_engine, whose answers it gives.
Rule 1: `GET /mood/WORD` changes it: `fine`, `frozen` (health is answered, nothing else), `slow` (ten times slower),
`refusing` (503). `GET /facts` tells. Both are asked by the bench itself, never by a balancer.
Rule 2: SLOTS answers at a time, the rest waits in a queue, so that there is such a thing as 70 % load.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from collections.abc import Callable
from typing import ClassVar

from bench.soak_engine import EVENTS, Engine, main

SLOTS = 10
PREFILL = 0.02  # seconds before the first event of a stream
SECONDS = {"slow": PREFILL + 0.12, "late": 0.03}  # how long an answer keeps its slot, about
_TOLD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"


class Slots:
    """Who is being answered, and who waits."""

    def __init__(self) -> None:
        self.busy = 0
        self.waiting: deque[Callable[[], None]] = deque()

    def leave(self) -> None:
        self.busy -= 1
        while self.waiting and self.busy < SLOTS:
            self.waiting.popleft()()


class Moody(Engine):
    """One connection."""

    mood = "fine"
    slots = Slots()
    asked = 0
    last_asked = 0.0
    gone: ClassVar[dict[str, float]] = {}  # nonce -> when its connection was closed under its answer

    def __init__(self) -> None:
        super().__init__()
        self._has_slot = False
        self._nonce = b""
        self._is_open = True

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._is_open = False
        if self._has_slot:
            Moody.gone[self._nonce.decode()] = time.monotonic()
            self._release()

    def _fact(self, path: bytes) -> None:
        if path.startswith(b"/mood/"):
            Moody.mood = path[6:].decode()
            Engine.slowness = 10.0 if Moody.mood == "slow" else 1.0
        if path.startswith((b"/mood/", b"/facts")):
            facts = {"running": self.slots.busy + len(self.slots.waiting), "asked": self.asked}
            told = json.dumps(facts | {"last": self.last_asked, "gone": self.gone}).encode()
            self._say(_TOLD % (len(told), told))
        else:
            super()._fact(path)

    def _play(self, kind: str, nonce: bytes) -> None:
        if self._has_slot:  # the second half of "late" is no new request
            if self.mood != "frozen":
                super()._play(kind, nonce)
                self._release()
            return
        Moody.asked += 1
        Moody.last_asked = time.monotonic()
        if self.mood == "frozen":
            return
        if self.mood == "refusing":
            kind = "503"
        if kind not in SECONDS:
            super()._play(kind, nonce)
        elif self.slots.busy < SLOTS:
            self._serve(kind, nonce)
        else:
            self.slots.waiting.append(lambda: self._serve(kind, nonce))

    def _serve(self, kind: str, nonce: bytes) -> None:
        if not self._is_open:
            return
        self.slots.busy += 1
        self._has_slot, self._nonce = True, nonce
        if kind == "slow":
            prefill = PREFILL * self.slowness
            self._timer = asyncio.get_running_loop().call_later(prefill, self._stream, nonce)
        else:
            super()._play(kind, nonce)

    def _stream(self, nonce: bytes) -> None:
        super()._play("slow", nonce)

    def _event(self, kind: str, nonce: bytes, number: int) -> None:
        if self.mood == "frozen":
            return
        super()._event(kind, nonce, number)
        if number == EVENTS and self._has_slot:
            self._release()

    def _release(self) -> None:
        self._has_slot = False
        self.slots.leave()


if __name__ == "__main__":
    main(Moody)
