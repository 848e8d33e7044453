"""Watches one backend: which engine is it, what does it serve, is it healthy, how long is its queue?

Two small loops per backend, beside the data plane and never in its way: a dead or slow health or metrics
endpoint delays nothing but the next reading. Facts go to the balancer; what people want to know about the
backend (engine, version, last problem) is kept in `Watch.about`. A loop that ends by a fault of ours is started anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import aiohttp

from fairlead.core.balancer import Balancer
from fairlead.core.cluster.backend import METRICS, PROBER
from fairlead.core.model import ANY_MODEL, EngineStats
from fairlead.engines.interface import Answer, Dialect
from fairlead.engines.registry import DIALECTS, all_clues, detect
from fairlead.feeds import canary
from fairlead.feeds.listing import entries

CLUE_BYTES = 1 << 20  # of one answer, when finding out what an engine is
CLUE_SECONDS = 2.0  # less than a start waits for the first round
REDISCOVER_SECONDS = 30.0  # models come and go (LoRA adapters) while an engine runs
DOWN_INTERVAL = 1.0  # a backend that is down, or failed its last probe, is asked at least this often
HURRY_SECONDS = 0.25  # least time between probes that failing requests ask for
MAX_BACKOFF = 30.0  # between scrapes of metrics that fail
NO_METRICS = "this engine has no metrics"
BIG_BODY = 256 * 1024  # metrics larger than this are parsed outside the event loop


@dataclass(frozen=True, slots=True)
class WatchSettings:
    """What the configuration says; seconds and bytes."""

    health_path: str | None  # None: the engine's own
    health_interval: float
    health_timeout: float
    metrics_interval: float
    metrics_timeout: float
    metrics_max_bytes: int
    metrics_url: str | None = None
    engine: str | None = None  # a dialect's name; None: find out
    models: frozenset[str] | None = None  # None: ask the engine
    server_name: str | None = None  # to ask for and to find in its certificate; None: its host
    context: Callable[[], ssl.SSLContext] | None = None  # that https is spoken with, asked for each time
    canary_timeout: float = 0.0  # of the token that it is asked for when it hung; 0: it is not asked


@dataclass(slots=True)
class About:
    """What was found out, for people."""

    engine: str = ""  # dialect name; "" until found out
    version: str = ""
    problem: str = "not checked yet"
    metrics_url: str = ""
    metrics_problem: str = ""
    entries: tuple[dict[str, Any], ...] = ()  # this backend's part of /v1/models


log = logging.getLogger("fairlead")


class Watch:
    """The loops of one backend. `changed` is called with (itself, up) when it goes up or down."""

    def __init__(
        self,
        id: str,
        url: str,
        settings: WatchSettings,
        balancer: Balancer,
        session: aiohttp.ClientSession,
        clock: Callable[[], float],
        changed: Callable[[Watch, bool], None],
    ) -> None:
        """`url` may be unix:/PATH: such a backend is asked through a session of the watch's own."""
        self.id = id
        self._socket_path = url.removeprefix("unix:") if url.startswith("unix:") else ""
        self.url = url.rstrip("/")
        self._base = "http://localhost" if self._socket_path else self.url
        self.settings = settings
        self.about = About()
        self.dialect: Dialect | None = DIALECTS.get(settings.engine) if settings.engine else None
        self.first_round = asyncio.Event()  # set when the backend was asked once
        self._balancer = balancer
        self._session = session
        self._own_session: aiohttp.ClientSession | None = None
        self._clock = clock
        self._changed = changed
        self._hurry = asyncio.Event()
        self._timed_out = False  # did the health page give no answer at all?
        self._found_at = float("-inf")
        self._tasks: list[asyncio.Task[None]] = []
        self._canary: asyncio.Task[None] | None = None
        self._no_canary: frozenset[str] | None = None  # it did not want to be asked while it served these models
        self._faults: set[str] = set()  # of our own, that the log knows
        self._jitter = random.Random(id)  # noqa: S311 -- spreads probes over time, no secret

    def start(self) -> None:
        loop = asyncio.get_running_loop()
        if self._socket_path:
            connector = aiohttp.UnixConnector(self._socket_path, limit=8, keepalive_timeout=4.0)
            self._own_session = aiohttp.ClientSession(connector=connector, headers=self._session.headers)
        self._tasks = [loop.create_task(self._keep(each)) for each in (self._health_loop, self._metrics_loop)]

    async def stop(self) -> None:
        self.cancel()
        await asyncio.gather(*self._all_tasks(), return_exceptions=True)
        if self._own_session is not None:
            await self._own_session.close()

    def cancel(self) -> None:
        """Not a step more; `stop` then waits for the end."""
        for task in self._all_tasks():
            task.cancel()

    def _all_tasks(self) -> list[asyncio.Task[None]]:
        return self._tasks if self._canary is None else [*self._tasks, self._canary]

    def change(self, settings: WatchSettings) -> None:
        """Other settings from now on. What was found out stays, unless they say otherwise."""
        old, self.settings = self.settings, settings
        if settings.engine != old.engine:
            self.dialect = DIALECTS.get(settings.engine) if settings.engine else None
            self.about.metrics_url = ""
        if settings.models != old.models and settings.models is not None:
            self._balancer.set_models(self.id, settings.models)
        self._found_at = float("-inf")
        self._no_canary = None
        self.hurry()

    def join(self, balancer: Balancer) -> None:
        """From now on tell another balancer, which has the backend now."""
        self._balancer = balancer

    def hurry(self) -> None:
        """A request failed here: look soon, not at the next turn."""
        self._hurry.set()

    async def _keep(self, loop: Callable[[], Awaitable[None]]) -> None:
        """Run a loop for ever, whatever becomes of it."""
        while True:
            try:
                await loop()
            except Exception as error:
                self._balancer.trouble(self.id, PROBER)
                if (fault := f"{type(error).__name__}: {error}") not in self._faults:
                    self._faults.add(fault)
                    log.exception("watching backend %s failed and goes on; this is a fault in Fairlead", self.id)
            self.first_round.set()
            await asyncio.sleep(DOWN_INTERVAL * self._jitter.uniform(0.9, 1.1))

    # --- health ----------------------------------------------------------------------------------------------

    async def _health_loop(self) -> None:
        while True:
            interval = self.settings.health_interval
            await self._check()
            self.first_round.set()
            probes = self._balancer.backends[self.id].probes
            wait = interval if probes.up and not probes.bad else min(interval, DOWN_INTERVAL)
            self._hurry.clear()
            await asyncio.sleep(min(HURRY_SECONDS, wait))
            remaining = wait * self._jitter.uniform(0.9, 1.1) - HURRY_SECONDS
            if remaining > 0:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(remaining):  # Python 3.11's wait_for can swallow the cancel of `stop`
                        await self._hurry.wait()

    async def _check(self) -> None:
        """One probe, and discovery where it is due."""
        self._timed_out = False
        known = self._balancer.backends[self.id]
        due = known.models is None or not known.up or self._clock() - self._found_at > REDISCOVER_SECONDS
        problem = await self._probe() if self.dialect is not None else ""
        if due and not problem:
            probed = self.dialect is not None
            unknown = await self._discover()
            if known.up and known.models is not None:
                pass  # it is well and we know what it serves: that it did not tell again is no reason to rest it
            elif unknown:
                problem = unknown
            elif not probed:
                problem = await self._probe()
        self.about.problem = problem
        if self._balancer.probe(self.id, not problem, problem, timed_out=self._timed_out):
            self._changed(self, not problem)
        self._care_for_canary()

    def _care_for_canary(self) -> None:
        """Say whether a token is asked for when it hung, and ask for it when it is time."""
        known, dialect = self._balancer.backends[self.id], self.dialect
        model = canary.model_of(known.models)
        asks = dialect is not None and dialect.canary_path and self.settings.canary_timeout
        known.passive.by_canary = bool(asks) and model is not None and self._no_canary != known.models
        if self._canary is not None and self._canary.done():
            self._canary = None
        if self._canary is None and known.up and model is not None and known.passive.awaits_canary(self._clock()):
            self._canary = asyncio.get_running_loop().create_task(self._ask_canary(model))

    async def _ask_canary(self, model: str) -> None:
        settings, sent_at, dialect = self.settings, self._clock(), self.dialect
        problem = await canary.ask(
            self._own_session or self._session,
            self._base + (dialect.canary_path if dialect is not None else ""),
            model,
            settings.canary_timeout,
            settings.context() if settings.context is not None else None,
            settings.server_name,
        )
        known = self._balancer.backends.get(self.id)
        if known is None:
            return
        if problem is None:
            self._no_canary = known.models
            known.passive.by_canary = False
            log.info("backend %s does not want to be asked for a token: a request will find out how it is", self.id)
            return
        self._balancer.canary(self.id, sent_at, self._clock(), problem)

    async def _probe(self) -> str:
        """Ask the health path; "" when it is well, else what is wrong."""
        dialect = self.dialect
        path = self.settings.health_path or (dialect.health_path if dialect else "/health")
        timeout = self.settings.health_timeout
        if self.settings.health_path is None and dialect is not None:
            timeout = max(timeout, dialect.health_timeout)
        try:
            answer = await self._get(path, timeout, 65_536)
        except TimeoutError:
            self._timed_out = True
            return f"GET {path} gave no answer within {timeout:g} s"
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return _why(error)
        if answer.status in (404, 405) and not self.settings.health_path and dialect and dialect.name == "generic":
            return ""  # a server without a health page that answers at all
        return "" if 200 <= answer.status < 300 else f"GET {path} answered {answer.status}"

    # --- discovery -------------------------------------------------------------------------------------------

    async def _discover(self) -> str:
        """Which engine, which version, which models? "" or why that could not be found out."""
        fixed = DIALECTS.get(self.settings.engine) if self.settings.engine else None
        self._found_at = self._clock()
        found = self.dialect if self._balancer.backends[self.id].up else None
        # A generic one may turn out to be something better known once it answers more.
        known = fixed or (found if found is not None and found.name != "generic" else None)
        clues = known.clues if known is not None else all_clues()
        # Of an engine that is known its metrics page would tell nothing new, and it is the page that hangs.
        paths = tuple(dict.fromkeys((*(c for c in clues if known is None or "metrics" not in c), "/v1/models")))
        answers: dict[str, Answer] = {}
        problems: list[str] = []
        patience = max(CLUE_SECONDS, self.settings.health_timeout) if known is not None else CLUE_SECONDS

        async def ask(path: str) -> None:
            try:
                answers[path] = await self._get(path, patience, CLUE_BYTES)
            except TimeoutError:
                problems.append(f"GET {path} gave no answer within {patience:g} s")
            except (aiohttp.ClientError, OSError, ValueError) as error:
                problems.append(_why(error))

        await asyncio.gather(*(ask(path) for path in paths))
        if not answers:
            return problems[0] if problems else "no answer"
        dialect = known or detect(answers)
        self.dialect = dialect
        self.about.engine = dialect.name
        self.about.version = dialect.version(answers) or ""
        models = self.settings.models or dialect.models(answers)
        if models is None:
            listed = answers.get("/v1/models")
            had = self._balancer.backends[self.id].models
            if listed is None and had is not None:
                return ""  # no word this time: what was known stays
            if listed is None:
                return next((p for p in problems if "/v1/models" in p), problems[0] if problems else "no answer")
            if listed.status >= 500:
                return f"GET /v1/models answered {listed.status}"  # still loading
            models = ANY_MODEL
        self.about.entries = entries(answers.get("/v1/models"), models)
        self._balancer.set_models(self.id, models)
        return ""

    # --- metrics ---------------------------------------------------------------------------------------------

    async def _metrics_loop(self) -> None:
        await self.first_round.wait()
        wait = self.settings.metrics_interval
        while True:
            settings, dialect = self.settings, self.dialect
            if dialect is not None and self._balancer.backends[self.id].up:
                ok = await self._scrape(dialect)
                if not ok and self.about.metrics_problem != NO_METRICS:
                    self._balancer.trouble(self.id, METRICS)
                wait = settings.metrics_interval if ok else min(wait * 2, MAX_BACKOFF)
            else:
                wait = settings.metrics_interval
            await asyncio.sleep(wait * self._jitter.uniform(0.9, 1.1))

    async def _scrape(self, dialect: Dialect) -> bool:
        """One reading; False when none of the engine's metrics addresses gave numbers."""
        settings = self.settings
        urls = (settings.metrics_url,) if settings.metrics_url else dialect.metrics_urls(self._base)
        if self.about.metrics_url in urls:
            urls = (self.about.metrics_url,)
        if not urls:
            self.about.metrics_problem = NO_METRICS
        for url in urls:
            mark = self._balancer.poll_started(self.id)
            try:
                answer = await self._get(url, settings.metrics_timeout, settings.metrics_max_bytes)
            except TimeoutError:
                self.about.metrics_problem = f"no answer within {settings.metrics_timeout:g} s"
                continue
            except (aiohttp.ClientError, OSError, ValueError) as error:
                self.about.metrics_problem = _why(error)
                continue
            if answer.status != 200:
                self.about.metrics_problem = f"answered {answer.status}"
                continue
            if len(answer.body) > BIG_BODY:
                loop = asyncio.get_running_loop()
                stats = await loop.run_in_executor(None, dialect.parse_metrics, url, answer.body)
            else:
                stats = dialect.parse_metrics(url, answer.body)
            if stats == EngineStats():
                if self.about.metrics_url == url:
                    self.about.metrics_problem = ""
                    return True  # nothing new since the last reading: that one stays
                self.about.metrics_problem = "holds no number that is known"
                continue
            self.about.metrics_url = url
            self.about.metrics_problem = ""
            self._balancer.poll_result(self.id, mark, stats, self._clock())
            return True
        self.about.metrics_url = ""
        return False

    # --- fetching --------------------------------------------------------------------------------------------

    async def _get(self, path: str, timeout: float, limit: int) -> Answer:
        """GET with bounds on time and size. TimeoutError, aiohttp.ClientError, OSError; ValueError if too large."""
        url = path if path.startswith(("http://", "https://")) else self._base + path
        settings, session = self.settings, self._session
        if self._own_session is not None and url.startswith(f"{self._base}/"):  # else it is another port's
            session = self._own_session
        async with (
            asyncio.timeout(timeout),
            session.get(
                url,
                allow_redirects=False,
                headers={"Accept-Encoding": "identity"},
                ssl=settings.context() if settings.context is not None else True,
                server_hostname=settings.server_name,
            ) as response,
        ):
            body = bytearray()
            async for chunk in response.content.iter_chunked(65_536):
                body += chunk
                if len(body) > limit:
                    raise ValueError(f"GET {path} answered more than {limit} bytes")
            headers = {name.lower(): value for name, value in response.headers.items()}
            return Answer(response.status, bytes(body), headers)


def _why(error: Exception) -> str:
    """A failure in a few words, without addresses."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return "its TLS certificate is not trusted"
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "its host name is not known"
    if isinstance(error, aiohttp.ClientSSLError):
        return "the TLS handshake failed"
    if isinstance(error, aiohttp.ClientConnectorError):
        return "connection refused" if isinstance(error.os_error, ConnectionRefusedError) else "cannot connect"
    if isinstance(error, ValueError):
        return str(error)
    return "the connection broke" if isinstance(error, aiohttp.ClientError | OSError) else type(error).__name__
