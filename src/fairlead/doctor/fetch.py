"""One request to an engine, bounded in time and size, and a failure in one word.

Rule 1: no redirect is followed, nothing is tried again, no cookie is kept.
Rule 2: every failure is a `Trouble`; nothing else leaves here.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import aiohttp

from fairlead.doctor.facts import Trouble
from fairlead.engines.interface import Answer

Wanted = TypeVar("Wanted")
Known = TypeVar("Known")

PAGE_BYTES: Final = 4 << 20
USER_AGENT: Final = "fairlead-doctor"


class Failed(Exception):
    """There is no answer."""

    def __init__(self, trouble: Trouble) -> None:
        super().__init__(trouble.value)
        self.trouble = trouble


@dataclass(frozen=True, slots=True)
class Door:
    """Where an engine is and how it is spoken to."""

    base: str  # without a slash at its end; http://localhost for a socket
    headers: Mapping[str, str]
    socket_path: str = ""
    tls: ssl.SSLContext | bool = True
    server_name: str | None = None


def door(
    url: str,
    headers: Mapping[str, str] | None = None,
    tls: ssl.SSLContext | None = None,
    server_name: str | None = None,
) -> Door:
    """`url` is as in a config file: http://, https:// or unix:/PATH."""
    path = url.removeprefix("unix:") if url.startswith("unix:") else ""
    base = "http://localhost" if path else url.rstrip("/")
    return Door(base, dict(headers or {}), path, True if tls is None else tls, server_name)


class Fetcher:
    """Requests to one engine over a few connections."""

    def __init__(self, door: Door, session: aiohttp.ClientSession) -> None:
        self.door = door
        self._session = session

    async def get(self, path: str, timeout: float, **options: Any) -> Answer:
        return await self.ask("GET", path, timeout, **options)

    async def ask(
        self,
        method: str,
        path: str,
        timeout: float,
        *,
        json: object = None,
        without_key: bool = False,
        limit: int = PAGE_BYTES,
    ) -> Answer:
        """`path` may be a whole URL (metrics on another port). Raises Failed, and nothing else."""
        url = path if path.startswith(("http://", "https://")) else self.door.base + path
        headers = {"Accept-Encoding": "identity", "User-Agent": USER_AGENT}
        if not without_key and url.startswith(f"{self.door.base}/"):  # keys are for the engine alone
            headers.update(self.door.headers)
        try:
            async with (
                asyncio.timeout(timeout),
                self._session.request(
                    method,
                    url,
                    json=json,
                    headers=headers,
                    allow_redirects=False,
                    ssl=self.door.tls,
                    server_hostname=self.door.server_name,
                    timeout=aiohttp.ClientTimeout(total=None, sock_connect=timeout * 0.9),
                ) as response,
            ):
                body = bytearray()
                async for chunk in response.content.iter_chunked(65_536):
                    body += chunk
                    if len(body) > limit:
                        break
                return Answer(
                    response.status,
                    bytes(body[:limit]),
                    {name.lower(): value for name, value in response.headers.items()},
                )
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
            raise Failed(trouble_of(error)) from None


@asynccontextmanager
async def fetcher(door: Door, connections: int = 8) -> AsyncIterator[Fetcher]:
    """Its connections are closed at the end."""
    connector: aiohttp.BaseConnector
    if door.socket_path:
        connector = aiohttp.UnixConnector(door.socket_path, limit=connections)
    else:
        connector = aiohttp.TCPConnector(limit=connections)
    async with aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar()) as session:
        yield Fetcher(door, session)


def trouble_of(error: BaseException) -> Trouble:
    """What a person would call it."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError | ssl.SSLCertVerificationError):
        return Trouble.TLS_UNTRUSTED
    if isinstance(error, aiohttp.ClientConnectorDNSError | socket.gaierror):
        return Trouble.DNS
    if isinstance(error, aiohttp.ClientSSLError | ssl.SSLError):
        return Trouble.TLS
    if isinstance(error, aiohttp.ServerTimeoutError):
        return Trouble.CONNECT_TIMEOUT
    if isinstance(error, TimeoutError):
        return Trouble.NO_ANSWER
    if isinstance(error, aiohttp.ClientConnectorError):
        inner = error.os_error
        if isinstance(inner, ConnectionRefusedError | FileNotFoundError):
            return Trouble.REFUSED
        return Trouble.CONNECT_TIMEOUT if isinstance(inner, TimeoutError) else Trouble.BROKEN
    if isinstance(error, ConnectionRefusedError):
        return Trouble.REFUSED
    if isinstance(error, aiohttp.ClientResponseError):  # what came cannot be read as HTTP
        return Trouble.NOT_HTTP
    return Trouble.BROKEN


async def each(
    wanted: Iterable[Wanted], ask: Callable[[Wanted], Awaitable[Known]], tell: Callable[[Known], None], at_once: int
) -> list[Known]:
    """What `ask` says of each, in order; so many are asked at a time, and `tell` is called as each is known."""
    gate = asyncio.Semaphore(at_once)

    async def one(each: Wanted) -> Known:
        async with gate:
            known = await ask(each)
            tell(known)
            return known

    return list(await asyncio.gather(*(one(each) for each in wanted)))
