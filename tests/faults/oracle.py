"""Was anything lost? Invariants G1 to G8 of a running fleet, asserted after a case.

`async with judged(2) as (f, oracle):` is `fleet(2)` (running.py, which asserts leases, loads, exchanges, tries and
tasks) with a judge beside it. Requests sent by `oracle.speak` are watched: each ends in one outcome, with its own nonce
and with nobody else's. When the block is left, the books must agree:

- G1 every request has one final answer or a visibly broken connection, and nothing comes after it;
- G2, G3 loads, leases, exchanges, pools and tasks are at zero (running.py), open files at the baseline;
- G4 access-log lines = counted requests = outcomes that clients saw, status by status; refusals = logged reasons;
- G5 no answer with another nonce; G6 tries = requests at the engines (running.py), at most `attempts` each;
- G8 no canary (a key, a prompt) in the access log, the program's own log, metrics, records or errors.

G7 (no stall of the loop) is measured by the benches, as tests assert no times.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import re
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from peers import Answer, Gone, Peer, Script, dial, until
from running import Fleet, ask, fleet

CANARY_KEY = "sk-canary-4f1d9c"
CANARY_PROMPT = "canary-prompt-7be2"
MAX_TRIES = 3

CANARY_FIELDS = f"Authorization: Bearer {CANARY_KEY}\r\n"
CANARY_BODY = b'{"model":"m","messages":[{"role":"user","content":"%b"}]}' % CANARY_PROMPT.encode()


@dataclass
class Verdict:
    """What came of what a client said."""

    answers: list[Answer] = field(default_factory=list)
    closed: bool = False  # did the balancer end the connection after them?
    reset: bool = False  # with a reset, so that an answer may be lost?
    rest: bytes = b""  # bytes behind the answers

    @property
    def statuses(self) -> tuple[int, ...]:
        return tuple(answer.status for answer in self.answers)


class Oracle:
    """Watches a fleet's clients, and judges in the end."""

    def __init__(self, f: Fleet, log: list[str]) -> None:
        self.f = f
        self.outcomes: Counter[int] = Counter()  # final statuses that clients saw
        self.errors: list[bytes] = []  # bodies of errors
        self._log = log
        self._nonces = itertools.count()

    def nonce(self) -> str:
        """One that no request had before."""
        return f"oracle-{next(self._nonces)}"

    async def speak(
        self,
        data: bytes,
        nonces: Sequence[str] = (),
        *,
        count: int = 1,
        method: str = "POST",
        closed: bool = True,
        pieces: Sequence[int] = (),
    ) -> Verdict:
        """Say this on a connection of its own and read `count` answers.

        Then the connection is `closed`, or it must serve one more request. `nonces` are those of the answers that come
        from an engine, in order. `pieces` are the sizes in which the bytes are sent, one by one; then the rest.
        """
        f = self.f
        client = await f.dial()
        if pieces:
            await _in_pieces(client, data, pieces)
        else:
            await client.send(data)
        verdict = Verdict()
        for _ in range(count):
            verdict.answers.append(await self._answer(client, method))
        said = [answer.field("x-nonce") for answer in verdict.answers if answer.field("x-nonce") is not None]
        if nonces and said != list(nonces):
            raise AssertionError(f"G5: answers to {list(nonces)} are those of {said}")
        if closed:
            verdict.rest = await client.end()
            verdict.closed = True
        else:
            own = self.nonce()
            await client.send(ask(own, body=CANARY_BODY, fields=CANARY_FIELDS))
            after = await self._answer(client, "POST")
            if after.status != 200 or after.field("x-nonce") != own:
                raise AssertionError(f"G5: the request after it got {after.raw!r}")
        verdict.reset = client.reset_by_other
        client.transport.abort()
        return verdict

    async def _answer(self, client: Peer, method: str) -> Answer:
        try:
            answer = await client.answer(method)
        except Gone:
            raise AssertionError(f"G1: the connection ended without an answer: {client.unread!r}") from None
        if not answer.whole:
            raise AssertionError(f"G1: cut short: {answer.raw!r}")
        self.outcomes[answer.status] += 1
        if answer.status >= 400 and answer.field("server") == "fairlead":
            self.errors.append(answer.raw)
        return answer

    async def settle(self) -> None:
        """The books agree, as far as that can be seen while the App runs."""
        f = self.f
        await f.assert_quiet()
        lines = await f.logged(sum(self.outcomes.values()))
        logged = Counter(line["status"] for line in lines)
        if logged != self.outcomes:
            raise AssertionError(f"G4: clients saw {self.outcomes}, the log tells {logged}")
        counted: Counter[int] = Counter()
        for (_, _, status), times in f.app.recorder.requests.items():
            counted[status] += times
        if counted != logged:
            raise AssertionError(f"G4: counted {counted}, logged {logged}")
        early = Counter(line["error"] for line in lines if line["outcome"] == "refused" and not line["tries"])
        if early != Counter(f.app.recorder.refusals):
            raise AssertionError(f"G4: refused for {f.app.recorder.refusals}, logged {early}")
        if any(line["tries"] > MAX_TRIES or len(set(line["failed_on"])) < len(line["failed_on"]) for line in lines):
            raise AssertionError("G6: a request was tried too often, or twice on one backend")
        texts = {
            "the access log": repr(lines),
            "the program's log": "\n".join(self._log),
            "errors": repr(self.errors),
            "records": await self._page("/api/decisions"),
            "metrics": await self._page("/metrics"),
        }
        for place, text in texts.items():
            if found := re.search(f"{CANARY_KEY}|{CANARY_PROMPT}", text):
                raise AssertionError(f"G8: {found[0]} stands in {place}")

    async def _page(self, path: str) -> str:
        client = await dial(self.f.admin)
        await client.send(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
        answer = await client.answer("GET")
        client.transport.abort()
        if answer.status != 200:
            raise AssertionError(f"{path} answers {answer.status}")
        return answer.body.decode()


async def _in_pieces(client: Peer, data: bytes, pieces: Sequence[int]) -> None:
    at = 0
    for size in pieces:
        await client.drip(data[at : at + size], max(size, 1))
        at += size
    await client.send(data[at:])


def open_files() -> int:
    """Descriptors in use; not the one that the balancer holds back for when there are no more."""
    count = 0
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            count += os.readlink(f"/proc/self/fd/{number}") != os.devnull
    return count


@contextlib.asynccontextmanager
async def judged(
    count: int = 1, *, default: Script | None = None, **options: Any
) -> AsyncIterator[tuple[Fleet, Oracle]]:
    """A fleet and its judge; everything is asserted when the block is left."""
    lines: list[str] = []

    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(self.format(record))

    handler = Kept(logging.DEBUG)
    root = logging.getLogger()
    root.addHandler(handler)
    files = open_files()
    try:
        async with fleet(count, default=default, **options) as f:
            oracle = Oracle(f, lines)
            yield f, oracle
            await oracle.settle()
        await until(lambda: open_files() <= files, f"G3: no more than {files} files are open")
    finally:
        root.removeHandler(handler)
