"""What became of one request? A client that believes nothing: nonce, order of the events and end are checked.

Used by the soak and by the reliability bench; the judging is pure, the connection is not.
Rule 1: each request ends in one of WORDS, counted by its kind. Rule 2: lost is what a balancer could have saved: the
fault is one engine's, it happens before the answer's first byte, and yet there is no whole answer.
Rule 3: a kept connection that the proxy closed before a byte of the answer came is no failure: the request is sent
once more on a new one, as every HTTP client does; `raced` counts it.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter

from bench.soak_engine import EVENTS, event

WORDS = ("whole", "error", "broken", "lost", "silent", "mixed up", "doubled", "refused", "left")
SAVED = {"plain", "stream", "late", "race", "reset", "head", "503", "slow"}  # these can be answered in full
FIRST_ONLY = {"race", "reset", "head", "503"}  # faults of one engine only
_BODY = b'{"model":"m","messages":[{"role":"user","content":"%b"}],"stream":true}'

WHY: Counter[tuple[str, str]] = Counter()  # what was said to requests that are lost


class Broken(Exception):
    """The connection ended before the answer did."""


def judged(nonce: bytes, head: bytes, body: bytes, whole: bool) -> str:
    """The word for a 200 with this head (in lower case) and body; `whole`: its framing came to its end."""
    if b"text/event-stream" not in head:
        if not whole:
            return "broken"
        return "whole" if body == b'{"nonce":"%b","choices":[]}' % nonce else "mixed up"
    *events, rest = body.split(b"\n\n")
    told = any(part.startswith(b'data: {"error"') for part in events)
    done = b"data: [DONE]" in events
    tokens = [part + b"\n\n" for part in events if b'"choices"' in part]
    if any(token.count(nonce) != 1 for token in tokens):
        return "mixed up"
    if tokens != [event(nonce, number) for number in range(len(tokens))]:
        return "doubled"
    if told or not whole:
        return "broken"
    return "whole" if done and len(tokens) == EVENTS and not rest else "silent"


def counted(kind: str, word: str, begun: bool) -> str:
    """The word that counts for a request of this kind; `begun`: the head of a good answer had come."""
    if kind in SAVED and word in ("error", "broken") and not (kind == "slow" and begun):
        return "lost"
    return word


class Client:
    """One connection after the other, one request at a time."""

    def __init__(self, port: int, rng: random.Random, told: Counter[tuple[str, str]], engines: int) -> None:
        self._port, self._rng, self._told, self._engines = port, rng, told, engines
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self.first = 0.0  # seconds until the first byte of the last answer's body, 0 where there was none
        self.raced = 0

    async def ask(self, kind: str, nonce: bytes) -> str:
        word = counted(kind, await self._ask(kind, nonce), self._begun)
        self._told[kind, word] += 1
        if word == "lost":
            WHY[kind, self._last] += 1
        return word

    async def _ask(self, kind: str, nonce: bytes) -> str:
        self._begun, self._last, self.first = False, "the connection broke", 0.0
        self._sent = time.monotonic()
        for attempt in range(2):
            reused = self._writer is not None
            if self._writer is None:
                try:
                    self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
                except OSError:
                    return "refused"
            assert self._reader is not None
            if kind == "abort":
                self._writer.write(self._request("slow", nonce))
                await asyncio.sleep(self._rng.random() * 0.05)
                self.close()
                return "left"
            self._writer.write(self._request(kind, nonce))
            try:
                return await self._answer(nonce)
            except (Broken, OSError):
                self.close()
                if attempt or self._begun or not reused:
                    return "broken"
                self.raced += 1
        return "broken"

    def _request(self, kind: str, nonce: bytes) -> bytes:
        at = f"x-soak-at: {self._rng.randrange(self._engines)}\r\n" if kind in FIRST_ONLY else ""
        body = _BODY % nonce
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: soak\r\nx-soak: {kind}\r\n{at}"
        return f"{head}x-nonce: {nonce.decode()}\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body

    async def _answer(self, nonce: bytes) -> str:
        reader = self._reader
        assert reader is not None
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
        except asyncio.IncompleteReadError:
            raise Broken from None
        self._begun = head.startswith(b"http/1.1 200")
        whole = True
        body = b""
        try:
            if b"transfer-encoding: chunked" in head:
                while size := int(await reader.readline() or b"-1", 16):
                    if size < 0:
                        raise Broken
                    body += (await reader.readexactly(size + 2))[:-2]
                    self.first = self.first or time.monotonic() - self._sent
                await reader.readline()
            else:
                length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
                body = await reader.readexactly(length)
                self.first = time.monotonic() - self._sent
        except (asyncio.IncompleteReadError, Broken, OSError, ValueError):
            whole = False
        if not whole or b"connection: close" in head:
            self.close()
        if not self._begun:
            self._last = head[9:12].decode() + " " + body[:200].decode(errors="replace")
            return "error" if whole else "broken"
        return judged(nonce, head, body, whole)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.transport.abort()
        self._reader = self._writer = None
