"""How do alerts get to people? By HTTP, from tasks of their own, so that nobody waits for a slow receiver.

What is sent and when is webhook_outbox.py's work, how it looks webhook_formats.py's.
Rule 1: URL and headers are secrets: no line of the log and no answer holds them, or an exception's words, which may.
Rule 2: one task and one message at a time per webhook; each has its limit of time.
Rule 3: a redirect is a failure: whoever answers for the URL must not send alerts elsewhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

import aiohttp

from fairlead.control.webhook_formats import Sender, render, url_of
from fairlead.control.webhook_outbox import Outbox
from fairlead.core.alerts.engine import Alert

log = logging.getLogger("fairlead")

TIMEOUT: Final = 10.0  # seconds for one message, from the name's lookup to the answer
FORMAT_NAMES: Final = ("slack", "alertmanager", "json")


@dataclass(frozen=True, slots=True)
class Target:
    """One webhook, as configured."""

    url: str = field(repr=False)
    format: str = "json"
    headers: tuple[str, ...] = field(default=(), repr=False)  # `Name: value`
    send_resolved: bool = True
    per_minute: int = 10


class Undelivered(Exception):
    """A message was not taken; the words are safe to log."""

    def __init__(self, why: str, wait: float = 0.0) -> None:
        super().__init__(why)
        self.wait = wait  # seconds, as the other side asks for


class Webhooks:
    """All of them. Make it inside a running event loop, and `close` it."""

    def __init__(self, clock: Callable[[], float], sender: Sender, timeout: float = TIMEOUT) -> None:
        self.failures = dict.fromkeys(FORMAT_NAMES, 0)  # messages that were not taken, by format; each try counts
        self.messages = dict.fromkeys(FORMAT_NAMES, 0)  # that were
        self.sender = sender
        self._clock = clock
        self._timeout = timeout
        self._posts: dict[Target, _Post] = {}
        self._session: aiohttp.ClientSession | None = None

    def follow(self, targets: Sequence[Target], standing: Iterable[Alert] = ()) -> None:
        """These from now on; those that were there before stay as they are. New ones are told of what stands."""
        for target in [target for target in self._posts if target not in targets]:
            self._posts.pop(target).stop()
        for place, target in enumerate(targets, 1):
            if target not in self._posts:
                post = self._posts[target] = _Post(self, target)
                post.tell(standing)
            self._posts[target].place = place

    def tell(self, alerts: Sequence[Alert]) -> None:
        """These were raised, or have ended. Never waits."""
        if alerts:
            for post in self._posts.values():
                post.tell(alerts)

    async def close(self) -> None:
        """Let go of everything; what was not told yet is not told any more."""
        posts, self._posts = list(self._posts.values()), {}
        for post in posts:
            post.stop()
        await asyncio.gather(*(post.task for post in posts), return_exceptions=True)
        if self._session is not None:
            await self._session.close()
            self._session = None

    def now(self) -> float:
        return self._clock()

    async def post(self, target: Target, body: bytes) -> None:
        """One message. Undelivered."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=8), headers={"User-Agent": "fairlead"},
                cookie_jar=aiohttp.DummyCookieJar(), timeout=aiohttp.ClientTimeout(total=self._timeout),
            )  # fmt: skip
        headers = {"Content-Type": "application/json"}
        for line in target.headers:
            name, _, value = line.partition(":")
            headers[name] = value.strip()
        url = url_of(target.format, target.url)
        try:
            async with self._session.post(url, data=body, headers=headers, allow_redirects=False) as answer:
                status, wait = answer.status, answer.headers.get("Retry-After", "")
        except TimeoutError:
            raise Undelivered(f"no answer within {self._timeout:g} s") from None
        except aiohttp.ClientConnectorCertificateError:
            raise Undelivered("its certificate is not trusted") from None
        except aiohttp.ClientConnectorError as problem:
            raise Undelivered(f"no connection ({_words(problem.os_error.errno)})") from None
        except (aiohttp.ClientError, OSError, ValueError) as problem:
            raise Undelivered(f"the exchange broke ({type(problem).__name__})") from None
        if not 200 <= status < 300:
            asked = float(wait) if wait.isascii() and wait.isdecimal() and len(wait) < 6 else 0.0
            raise Undelivered(f"it answered {status}", asked)


def _words(number: int | None) -> str:
    """Of an error's number: its own words may hold the address."""
    return os.strerror(number) if number is not None and number > 0 else "its name could not be looked up"


class _Post:
    """Sends to one webhook."""

    def __init__(self, webhooks: Webhooks, target: Target) -> None:
        self.place = 0  # in the configuration, for the log
        self._webhooks = webhooks
        self._target = target
        self._outbox = Outbox(
            per_minute=target.per_minute, send_resolved=target.send_resolved, repeats=target.format == "alertmanager"
        )
        self._news = asyncio.Event()
        self.task = asyncio.get_running_loop().create_task(self._run())

    def tell(self, alerts: Iterable[Alert]) -> None:
        self._outbox.tell(alerts, self._webhooks.now())
        self._news.set()

    def stop(self) -> None:
        self.task.cancel()

    async def _run(self) -> None:
        while True:
            due = self._outbox.due(self._webhooks.now())
            if due is None or due > 0:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(due):
                        await self._news.wait()
                self._news.clear()
            else:
                await self._send()

    async def _send(self) -> None:
        webhooks, outbox, target = self._webhooks, self._outbox, self._target
        now = webhooks.now()
        batch = outbox.take(now)
        try:
            await webhooks.post(target, render(target.format, batch, webhooks.sender, now))
        except Undelivered as problem:
            self._failed(outbox.failed(batch, webhooks.now(), problem.wait), str(problem))
        except Exception as problem:  # its words may hold the URL
            self._failed(outbox.failed(batch, webhooks.now()), f"a fault in Fairlead, {type(problem).__name__}")
        else:
            if outbox.failures:
                log.info("webhook %d (%s) works again", self.place, target.format)
            webhooks.messages[target.format] += 1
            outbox.sent(batch)

    def _failed(self, pause: float, why: str) -> None:
        self._webhooks.failures[self._target.format] += 1
        if self._outbox.failures == 1:  # one line per change, not per try
            log.warning(
                "webhook %d (%s) failed: %s; it is tried again in %.0f s, and then less and less often",
                self.place, self._target.format, why, pause,
            )  # fmt: skip
