"""Looks at one engine: asks its pages, sends one small prompt twice, watches how long it keeps a connection.

Rule 1: changes nothing in the engine. Only GET and OPTIONS, /tokenize, and the prompt (not with `generate=False`).
Rule 2: everything has its time and its size; the whole look ends within `seconds` whatever the engine does.
Rule 3: judges nothing: facts are for the checks.
"""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import ipaddress
import secrets
import socket
import ssl
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from dataclasses import replace as changed
from time import monotonic, time
from typing import Any, Final
from urllib.parse import urlsplit

from fairlead.core.model import EngineStats
from fairlead.doctor import read
from fairlead.doctor.facts import EngineFacts, Generation, MetricsState, Model, Trouble
from fairlead.doctor.fetch import Failed, Fetcher, door, each, fetcher
from fairlead.engines.interface import Answer, Dialect
from fairlead.engines.reading import MODELS, count_of, header_has
from fairlead.engines.registry import DIALECTS, all_clues, detect

AT_ONCE: Final = 8  # engines
SENTENCE: Final = "The quick brown fox: 3.14159 naïve façades, “quoted” – {'json': [1, 2]}\n\tfor x in y: pass 漢字 🦊"
PROMPT_WORDS: Final = 700  # about as many tokens: several blocks of every usual size
SERVER_INFO: Final = "/server_info"
SETTLE_SECONDS: Final = 0.3  # counters move with the engine's next step

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Look:
    """How closely; seconds."""

    generate: bool = True
    page_timeout: float = 5.0
    slow_page_timeout: float = 30.0  # vLLM's /server_info looks through its whole machine when first asked
    health_timeout: float | None = None  # None: the engine's own; some run a token through the model
    generate_timeout: float = 30.0
    keepalive: float = 4.0  # how long Fairlead keeps an idle connection: watch one for a little longer
    keepalive_most: float = 10.0
    seconds: float = 60.0  # for everything together


@dataclass(frozen=True, slots=True)
class Target:
    """One engine to look at."""

    name: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    tls: ssl.SSLContext | None = None
    server_name: str | None = None
    engine: str | None = None  # a dialect's name, when the config says it
    health_path: str | None = None
    metrics_url: str | None = None
    max_connections: int | None = None


async def look_at_all(targets: Iterable[Target], look: Look, tell: Callable[[EngineFacts], None]) -> list[EngineFacts]:
    """Facts of every target, in order; `tell` is called as each is done."""
    return await each(targets, lambda target: look_at(target, look), tell, AT_ONCE)


async def look_at(target: Target, look: Look) -> EngineFacts:
    """Everything about one engine. Never raises for what an engine does."""
    begun = monotonic()
    facts = EngineFacts(name=target.name, url=target.url, max_connections=target.max_connections)
    with contextlib.suppress(TimeoutError):
        async with (
            asyncio.timeout(look.seconds),
            fetcher(door(target.url, target.headers, target.tls, target.server_name)) as asker,
        ):
            visit = _Visit(target, look, asker, facts)
            try:
                await visit.go()
            finally:
                facts = visit.facts  # what was found out before the time was over stays
    if facts.trouble is None and facts.models_status is None:  # the time was over before the first answer
        facts = changed(facts, trouble=Trouble.NO_ANSWER)
    return changed(facts, seconds=monotonic() - begun)


class _Visit:
    """The steps of one look; each adds to `facts`."""

    def __init__(self, target: Target, look: Look, asker: Fetcher, facts: EngineFacts) -> None:
        self.target, self.look, self.ask, self.facts = target, look, asker, facts
        self.answers: dict[str, Answer] = {}
        self.metrics_page = b""

    def note(self, **facts: Any) -> None:
        self.facts = changed(self.facts, **facts)

    async def go(self) -> None:
        try:
            await self._first()
        except Failed as failure:
            self.note(trouble=failure.trouble)
            return
        dialect = await self._detect()
        self._recognised(dialect)
        if not self.facts.answers or self.facts.models_status in (401, 403):
            return
        await asyncio.gather(
            self._health(dialect),
            self._pages_and_metrics(dialect),
            self._keep_alive(),
            self._is_public(),
            self._is_open(),
            self._tokenize(dialect),
        )
        if self.look.generate and self.facts.models:
            self.note(generation=await self._generate(dialect))

    # --- what is it? -----------------------------------------------------------------------------------------

    async def _first(self) -> None:
        """The first page also tells whether it can be reached, and what time it is there."""
        before = time()
        answer = await self.ask.get(MODELS, self.look.page_timeout)
        after = time()
        self.answers[MODELS] = answer
        with contextlib.suppress(TypeError, ValueError, KeyError):
            stamp = email.utils.parsedate_to_datetime(answer.headers["date"]).timestamp()
            # The header leaves out the fraction of the second; half a second is the best guess.
            self.note(clock_ahead=stamp + 0.5 - (before + after) / 2)

    async def _page(self, path: str, timeout: float | None = None) -> None:
        with contextlib.suppress(Failed):
            self.answers[path] = await self.ask.get(path, timeout or self.look.page_timeout)

    async def _detect(self) -> Dialect:
        """Its dialect by the clues; vLLM's own slow page is asked only if the others do not tell."""
        known = DIALECTS.get(self.target.engine or "")
        clues = [path for path in (known.clues if known is not None else all_clues()) if path != MODELS]
        await asyncio.gather(*(self._page(path) for path in clues if path != SERVER_INFO))
        dialect = known or detect(self.answers)
        if dialect.name == "vllm" or SERVER_INFO not in clues:
            return dialect
        await self._page(SERVER_INFO)
        return known or detect(self.answers)

    def _recognised(self, dialect: Dialect) -> None:
        models = read.models_of(self.answers)
        is_fairlead = any(header_has(self.answers, name, "fairlead") for name in ("server", "via"))
        lists = self.answers[MODELS].status == 200 and dialect.models(self.answers) is not None
        self.note(
            engine=dialect.name,
            title=dialect.title,
            version=dialect.version(self.answers),
            models_status=self.answers[MODELS].status,
            models=models,
            is_fairlead=is_fairlead,
            # Generic is what is left over: without a list of models there is no sign of an engine at all.
            is_engine=dialect.name != "generic" or lists or self.target.engine is not None,
        )

    # --- its pages -------------------------------------------------------------------------------------------

    async def _health(self, dialect: Dialect) -> None:
        path = self.target.health_path or dialect.health_path
        self.note(health_path=path)
        timeout = self.look.health_timeout or dialect.health_timeout
        with contextlib.suppress(Failed):
            answer = await self.ask.get(path, timeout)
            self.note(health=answer.status)

    async def _pages_and_metrics(self, dialect: Dialect) -> None:
        kind = dialect.name
        pages = [self._page(path, self.look.slow_page_timeout) for path in read.EXTRA_PAGES.get(kind, ())]
        await asyncio.gather(self._metrics(dialect), *pages)
        await self._dev_pages(kind)
        self.note(
            prefix_caching=read.prefix_caching(kind, self.answers, self.metrics_page),
            events=read.cache_events(kind, self.answers),
            queue_limit=read.queue_limit(kind, self.answers, self.metrics_page),
            sampling=read.sampling(kind, self.answers),
        )

    async def _metrics(self, dialect: Dialect) -> None:
        urls = self._metrics_urls(dialect)
        if not urls:
            self.note(metrics=MetricsState.NONE)
            return
        best, where, stats = MetricsState.ABSENT, urls[0], EngineStats()
        rank = (MetricsState.ABSENT, MetricsState.EMPTY, MetricsState.UNKNOWN, MetricsState.READ)
        for url in urls:
            state, found, page = await self._metrics_at(dialect, url)
            if rank.index(state) > rank.index(best):
                best, where, stats, self.metrics_page = state, url, found, page
            if best is MetricsState.READ:
                break
        self.note(metrics=best, metrics_url=where, block_tokens=stats.block_tokens)

    def _metrics_urls(self, dialect: Dialect) -> tuple[str, ...]:
        return (self.target.metrics_url,) if self.target.metrics_url else dialect.metrics_urls(self.ask.door.base)

    async def _metrics_at(self, dialect: Dialect, url: str) -> tuple[MetricsState, EngineStats, bytes]:
        try:
            answer = await self.ask.get(url, self.look.page_timeout)
        except Failed:
            return MetricsState.ABSENT, EngineStats(), b""
        if answer.status != 200:
            return MetricsState.ABSENT, EngineStats(), b""
        stats = dialect.parse_metrics(url, answer.body)
        return read.metrics_state(dialect, answer.body, stats), stats, answer.body

    async def _dev_pages(self, kind: str) -> None:
        """OPTIONS runs nothing: 405 says that the page is there for another method, 404 that it is not."""
        if kind != "vllm":
            return
        found = []
        with contextlib.suppress(Failed):
            if (await self.ask.ask("OPTIONS", read.RESET_CACHE, self.look.page_timeout)).status == 405:
                found.append(read.RESET_CACHE)
        if read.SERVER_INFO_JSON in self.answers and self.answers[read.SERVER_INFO_JSON].status == 200:
            found.append(SERVER_INFO)
        self.note(dev_pages=tuple(found))

    async def _is_open(self) -> None:
        if not self.target.headers:
            self.note(is_open=True)  # it has answered us without any
            return
        with contextlib.suppress(Failed):
            answer = await self.ask.get(MODELS, self.look.page_timeout, without_key=True)
            self.note(is_open=answer.status == 200)

    async def _is_public(self) -> None:
        if self.ask.door.socket_path:
            self.note(is_public=False, is_loopback=True)
            return
        host = urlsplit(self.target.url).hostname or ""
        with contextlib.suppress(OSError, UnicodeError):
            rows = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
            addresses = [ipaddress.ip_address(str(row[4][0]).partition("%")[0]) for row in rows]
            self.note(
                is_public=any(address.is_global for address in addresses),
                is_loopback=all(address.is_loopback for address in addresses),
            )

    # --- connections -----------------------------------------------------------------------------------------

    async def _keep_alive(self) -> None:
        """Its header's word, or the time until it closes a connection that nobody uses."""
        if (said := read.keep_alive_header(self.answers[MODELS])) is not None:
            self.note(keep_alive=said)
            return
        watched = min(self.look.keepalive, self.look.keepalive_most) + 0.5
        with contextlib.suppress(
            OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError
        ):
            closed_after = await self._idle_until_closed(watched)
            if closed_after is None:
                self.note(keep_alive_open=watched)
            else:
                self.note(keep_alive=closed_after)

    async def _idle_until_closed(self, watched: float) -> float | None:
        """Seconds from an answer to the end of its connection; None: still open after `watched`."""
        reader, writer = await self._connect()
        try:
            parts = urlsplit(self.ask.door.base)
            lines = [f"GET {parts.path}{MODELS} HTTP/1.1", f"Host: {parts.netloc}", "Connection: keep-alive"]
            lines += [f"{name}: {value}" for name, value in self.target.headers.items()]
            writer.write("\r\n".join([*lines, "", ""]).encode("latin-1"))
            async with asyncio.timeout(self.look.page_timeout):
                await reader.readuntil(b"\r\n\r\n")
            idle_since = monotonic()
            try:
                async with asyncio.timeout(watched):
                    while await reader.read(65_536):  # the body; nobody else speaks
                        idle_since = monotonic()
            except TimeoutError:
                return None
            return monotonic() - idle_since
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        where = self.ask.door
        async with asyncio.timeout(self.look.page_timeout):
            if where.socket_path:
                return await asyncio.open_unix_connection(where.socket_path)
            parts = urlsplit(where.base)
            is_tls = parts.scheme == "https"
            tls = (self.target.tls or ssl.create_default_context()) if is_tls else None
            return await asyncio.open_connection(
                parts.hostname,
                parts.port or (443 if is_tls else 80),
                ssl=tls,
                server_hostname=(where.server_name or parts.hostname) if is_tls else None,
            )

    # --- what it makes of a text -----------------------------------------------------------------------------

    async def _tokenize(self, dialect: Dialect) -> None:
        found: dict[str, str] = {}
        for model in [one for one in self.facts.models if not one.is_adapter][:4]:
            wanted = read.tokenize_request(dialect.name, model.id, SENTENCE)
            if wanted is None:
                return
            with contextlib.suppress(Failed):
                answer = await self.ask.ask("POST", wanted[0], self.look.page_timeout, json=wanted[1])
                print_ = read.fingerprint(answer.body) if answer.status == 200 else None
                if print_ is not None:
                    found[model.id] = print_
        self.note(tokenization=found)

    async def _generate(self, dialect: Dialect) -> Generation:
        """The same prompt twice, one token each: the second should come from the cache."""
        model = next((one for one in self.facts.models if not one.is_adapter), self.facts.models[0])
        prompt = _prompt(model)
        before = await self._hits(dialect)
        answer: Answer | None = None
        for _ in range(2):
            try:
                answer = await self._complete(model.id, prompt)
            except Failed as failure:
                return Generation(model.id, error=failure.trouble.value)
            if answer.status != 200:
                is_other_kind = answer.status in (400, 404, 405, 422)
                return Generation(
                    model.id,
                    error=("unsupported: " if is_other_kind else "") + read.error_of(answer.status, answer.body),
                )
        assert answer is not None
        usage = read.usage_of(answer.body)
        cached = read.cached_of(usage) if usage is not None else None
        hits = None
        if cached is None and before is not None:
            await asyncio.sleep(SETTLE_SECONDS)
            after = await self._hits(dialect)
            hits = after - before if after is not None and after >= before else None
        tokens = count_of(usage.get("prompt_tokens")) if usage is not None else None
        return Generation(
            model.id,
            prompt_tokens=int(tokens) if tokens is not None else None,
            has_usage=usage is not None and tokens is not None,
            has_details=cached is not None,
            cached=cached,
            hits=hits,
        )

    async def _complete(self, model: str, prompt: str) -> Answer:
        """By the plain route; by chat where that one is missing."""
        body = {"model": model, "max_tokens": 1, "temperature": 0, "stream": False}
        timeout = self.look.generate_timeout
        answer = await self.ask.ask("POST", "/v1/completions", timeout, json={**body, "prompt": prompt})
        if answer.status in (400, 404, 405, 422):
            turns = [{"role": "user", "content": prompt}]
            answer = await self.ask.ask("POST", "/v1/chat/completions", timeout, json={**body, "messages": turns})
        return answer

    async def _hits(self, dialect: Dialect) -> float | None:
        """The engine's counter of tokens that came from its cache."""
        if self.facts.metrics is not MetricsState.READ:
            return None
        _, stats, _ = await self._metrics_at(dialect, self.facts.metrics_url)
        return stats.prefix_hits


def _prompt(model: Model) -> str:
    """Begins with a word that nobody has sent, so that the first try cannot hit; short enough for the model."""
    words = min(PROMPT_WORDS, (model.longest or PROMPT_WORDS * 4) // 4)
    return f"{secrets.token_hex(8)} " + " ".join(f"word {number}" for number in range(words // 2))
