"""An engine without fault as facts, and a scripted one on loopback that can be given any fault."""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from typing import Any

from aiohttp import web

from fairlead.doctor.facts import EngineFacts, Generation, MetricsState, Model
from fairlead.doctor.look import Look

TRIED = Generation("m", prompt_tokens=800, has_usage=True, has_details=True, cached=768)

GOOD = EngineFacts(
    name="a:1",
    url="http://a:1",
    engine="vllm",
    title="vLLM",
    version="0.32.0",
    health=200,
    models_status=200,
    models=(Model("m", longest=4096, root="meta/m"),),
    is_public=False,
    is_open=True,
    metrics=MetricsState.READ,
    metrics_url="http://a:1/metrics",
    block_tokens=16,
    prefix_caching=True,
    events=True,
    queue_limit=True,
    sampling={"generation_config": "auto"},
    keep_alive=5.0,
    clock_ahead=0.1,
    tokenization={"m": "5 (abc)"},
    generation=TRIED,
)
"""An engine at which nothing is to be mended."""


def facts(**changed: Any) -> EngineFacts:
    return replace(GOOD, **changed)


def tried(**changed: Any) -> Generation:
    return replace(TRIED, **changed)


# --- a scripted engine ---------------------------------------------------------------------------------------

Reply = int | str | dict[str, Any] | Callable[[web.Request], Awaitable[web.StreamResponse]]

QUICK = Look(page_timeout=1.0, slow_page_timeout=1.0, generate_timeout=1.0, keepalive=0.0, seconds=20.0)
"""Nothing on loopback needs longer; idle connections are watched for half a second."""


class Script:
    """A vLLM without fault; each attribute is one thing that may be otherwise."""

    def __init__(self) -> None:
        self.pages: dict[str, Reply] = {}  # replies in place of its own
        self.model = "m"
        self.longest: int | None = 4096
        self.root = "meta/m"
        self.key = ""
        self.is_caching = True
        self.has_details = True
        self.has_usage = True
        self.block = 16
        self.caching_label: str | None = "True"
        self.metrics_on = True
        self.clock = 0.0  # seconds ahead
        self.keep_alive: str | None = "timeout=5"
        self.vocabulary = 0
        self.dev = False
        self.queue_limit: int | None = 8
        self.generation_config = "auto"
        self.version = "0.32.0"
        self.server = "uvicorn"
        self.asked: list[tuple[str, str]] = []
        self.prompts: list[str] = []
        self.seen_keys: list[str] = []
        self.hits = self.queries = 0
        self.released = asyncio.Event()

    async def never(self, request: web.Request) -> web.StreamResponse:
        """An answer that does not come before the test is over."""
        await self.released.wait()
        return web.Response(status=500)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append((request.method, request.path))
        self.seen_keys.append(request.headers.get("Authorization", ""))
        response = await self._answer(request)
        if not response.prepared:
            response.headers["Date"] = email.utils.formatdate(time.time() + self.clock, usegmt=True)
            response.headers["Server"] = self.server
            if self.keep_alive:
                response.headers["Keep-Alive"] = self.keep_alive
        return response

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        path = request.path
        if path in self.pages:
            reply = self.pages[path]
            if isinstance(reply, int):
                return web.Response(status=reply)
            if isinstance(reply, str):
                return web.Response(text=reply)
            return web.json_response(reply) if isinstance(reply, dict) else await reply(request)
        if self.key and path.startswith("/v1") and request.headers.get("Authorization") != f"Bearer {self.key}":
            return web.json_response({"error": "Unauthorized"}, status=401)
        if path == "/reset_prefix_cache":
            return web.Response(status=(200 if request.method == "POST" else 405) if self.dev else 404)
        if request.method not in ("GET", "POST"):
            return web.Response(status=404)
        page = {
            "/health": self._health, "/v1/models": self._models, "/metrics": self._metrics,
            "/version": self._version, "/server_info": self._server_info, "/tokenize": self._tokenize,
            "/kv_event_sources": self._sources, "/v1/completions": self._complete,
        }.get(path)  # fmt: skip
        return await page(request) if page is not None else web.Response(status=404)

    async def _health(self, request: web.Request) -> web.Response:
        return web.Response()

    async def _models(self, request: web.Request) -> web.Response:
        entry: dict[str, Any] = {"id": self.model, "object": "model", "owned_by": "vllm", "root": self.root}
        if self.longest is not None:
            entry["max_model_len"] = self.longest
        return web.json_response({"object": "list", "data": [entry]})

    async def _metrics(self, request: web.Request) -> web.Response:
        lines = ["# TYPE process_open_fds gauge", "process_open_fds 9"]
        if self.metrics_on:
            label = f',enable_prefix_caching="{self.caching_label}"' if self.caching_label else ""
            lines += [
                "vllm:num_requests_waiting 0",
                "vllm:num_requests_running 0",
                f'vllm:cache_config_info{{block_size="{self.block}",num_gpu_blocks="96"{label}}} 1',
                f"vllm:prefix_cache_queries_total {self.queries}",
                f"vllm:prefix_cache_hits_total {self.hits}",
            ]
        return web.Response(text="\n".join(lines) + "\n")

    async def _version(self, request: web.Request) -> web.Response:
        return web.json_response({"version": self.version})

    async def _server_info(self, request: web.Request) -> web.Response:
        if not self.dev:
            return web.Response(status=404)
        config: Any = "text"
        if request.query.get("config_format") == "json":
            config = {
                "scheduler_config": {"max_num_queued_reqs": self.queue_limit, "max_num_queued_tokens": None},
                "model_config": {"generation_config": self.generation_config},
            }
        return web.json_response({"vllm_config": config})

    async def _sources(self, request: web.Request) -> web.Response:
        return web.json_response({"0": {"publisher": "zmq"}})

    async def _tokenize(self, request: web.Request) -> web.Response:
        text = (await request.json())["prompt"]
        return web.json_response({"tokens": [len(word) + self.vocabulary for word in text.split()]})

    async def _complete(self, request: web.Request) -> web.Response:
        body = await request.json()
        assert (body["max_tokens"], body["model"]) == (1, self.model)
        prompt, tokens = body["prompt"], len(body["prompt"].split())
        cached = (tokens - 1) // self.block * self.block if self.is_caching and prompt in self.prompts else 0
        self.prompts.append(prompt)
        self.queries, self.hits = self.queries + tokens, self.hits + cached
        usage: dict[str, Any] = {"prompt_tokens": tokens, "completion_tokens": 1, "total_tokens": tokens + 1}
        usage["prompt_tokens_details"] = {"cached_tokens": cached} if self.has_details else None
        answer: dict[str, Any] = {"choices": [{"text": "x"}]}
        return web.json_response(answer | ({"usage": usage} if self.has_usage else {}))


@contextlib.asynccontextmanager
async def scripted(keepalive: float = 60.0, **changed: Any) -> AsyncIterator[tuple[Script, str]]:
    """The engine and its URL; it closes idle connections after `keepalive`."""
    script = Script()
    for name, value in changed.items():
        assert hasattr(script, name)
        setattr(script, name, value)
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", script.answer)
    runner = web.AppRunner(
        app, access_log=None, handle_signals=False, shutdown_timeout=0.1, keepalive_timeout=keepalive
    )
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield script, f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        script.released.set()
        await runner.cleanup()


@contextlib.contextmanager
def in_thread(manager: Any) -> Iterator[Any]:
    """What an asynchronous manager gives, on a loop of its own: the commands have one too."""
    ready, over = threading.Event(), threading.Event()
    made: list[Any] = []

    async def body() -> None:
        async with manager as value:
            made.append(value)
            ready.set()
            await asyncio.get_running_loop().run_in_executor(None, over.wait)

    thread = threading.Thread(target=lambda: asyncio.run(body()))
    thread.start()
    try:
        assert ready.wait(20)
        yield made[0]
    finally:
        over.set()
        thread.join()
