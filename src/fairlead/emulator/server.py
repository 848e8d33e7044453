"""One emulated engine on one port: vLLM's HTTP dialect over the step model, in real time.

Rule 1: routes, shapes and errors are vLLM's; what the model says is made up, when it says it is the step model's doing.
Rule 2: a client that goes away, streaming or not, is aborted in the engine at once.
Rule 3: tokens are written by the step loop straight to the transport: no task wakes up per event.
Rule 4: faults act on this engine only; /emulator/faults answers even while everything else is silent.
"""

from __future__ import annotations

import asyncio
import itertools
import uuid
from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec
from aiohttp import web

from fairlead.emulator import asks, exposition
from fairlead.emulator.asks import Ask, AskError
from fairlead.emulator.engine import Engine
from fairlead.emulator.faults import BadFault, Faults, FaultValues
from fairlead.emulator.pacer import Pacer
from fairlead.emulator.plan import plan
from fairlead.emulator.profiles import Profile
from fairlead.emulator.replies import ChatReply, Choice, CompletionReply, EmbeddingReply, MessageReply, Reply
from fairlead.emulator.text import token_count, tokenize
from fairlead.emulator.work import EmulatedRequest, StepResult

VERSION: Final = "0.32.0+emulated"  # the vLLM whose behaviour is copied
KEEP_ALIVE_SECONDS: Final = 5.0  # as vLLM's HTTP server
MOST_BODY_BYTES: Final = 64 * 1024 * 1024

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class EmulatedServer:
    """`async with EmulatedServer(profile(...)) as server:` serves on `server.url` until the block ends."""

    def __init__(
        self,
        profile: Profile,
        *,
        model: str = "emulated",
        host: str = "127.0.0.1",
        port: int = 0,
        speed: float = 1.0,
        mean_output: float = 200.0,
        seed: int = 0,
        faults: FaultValues | None = None,
    ) -> None:
        if not speed > 0 or not mean_output > 0:
            raise ValueError(f"speed and mean_output must be above 0, got {speed!r} and {mean_output!r}")
        self.profile, self.model, self.host, self.port = profile, model, host, port
        self._speed, self._mean_output, self._seed = speed, mean_output, seed
        self.faults = Faults(faults or FaultValues(), self._faults_changed)
        self._audible = asyncio.Event()
        self._ids = itertools.count()
        self._live: dict[int, tuple[Reply, Choice, float]] = {}  # engine's id -> answer, sequence, arrival
        self._runner: web.AppRunner | None = None
        self._site: web.TCPSite | None = None
        self._restart: asyncio.Task[None] | None = None
        self._down = False

    # -- life

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    @property
    def engine(self) -> Engine:
        """The step model inside (a new one after a crash)."""
        return self._pacer.engine

    @property
    def is_down(self) -> bool:
        """Crashed, and not back yet."""
        return self._down

    async def start(self) -> None:
        """Listen; OSError if the port is taken. Afterwards `port` is the real one."""
        self._fresh_engine()

        @web.middleware
        async def gate(request: web.Request, handler: _Handler) -> web.StreamResponse:
            if request.path != "/emulator/faults":
                await self._audible.wait()
            return await handler(request)

        app = web.Application(client_max_size=MOST_BODY_BYTES, middlewares=[gate])
        app.router.add_get("/emulator/faults", self._faults_get)
        app.router.add_post("/emulator/faults", self._faults_post)
        app.router.add_post("/v1/chat/completions", self._generation(asks.chat, ChatReply))
        app.router.add_post("/v1/completions", self._generation(asks.completion, CompletionReply))
        app.router.add_post("/v1/messages", self._generation(asks.message, MessageReply))
        app.router.add_post("/v1/messages/count_tokens", self._count_tokens)
        app.router.add_post("/v1/embeddings", self._generation(asks.embeddings, EmbeddingReply))
        app.router.add_post("/tokenize", self._tokenize)
        app.router.add_post("/detokenize", self._detokenize)
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/health", self._health)
        app.router.add_get("/version", self._version)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_post("/reset_prefix_cache", self._reset_prefix_cache)
        runner = web.AppRunner(
            app,
            access_log=None,
            handler_cancellation=True,
            keepalive_timeout=KEEP_ALIVE_SECONDS,
            shutdown_timeout=0.5,
        )
        await runner.setup()
        self._runner = runner
        try:
            await self._listen()
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Cut what is open and stop listening."""
        if self._restart is not None:
            self._restart.cancel()
            await asyncio.gather(self._restart, return_exceptions=True)
            self._restart = None
        self._pacer.stop()
        self._cut_connections()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = self._site = None

    async def __aenter__(self) -> EmulatedServer:
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()

    async def _listen(self) -> None:
        assert self._runner is not None
        self._site = web.TCPSite(self._runner, self.host, self.port, backlog=1024)
        await self._site.start()
        self.port = self._runner.addresses[0][1]
        self._down = False

    def _fresh_engine(self) -> None:
        self._pacer = Pacer(Engine(self.profile, slowdown=self.faults.values.slow), self._speed, self._deliver)
        self._seen = exposition.Observations()
        self._live.clear()
        self._apply_faults()

    def _cut_connections(self) -> None:
        server = self._runner.server if self._runner is not None else None
        for connection in list(server.connections) if server is not None else ():
            if connection.transport is not None:
                connection.transport.abort()

    # -- faults

    def _faults_changed(self, old: FaultValues) -> None:
        if self._runner is not None:
            self._apply_faults()

    def _apply_faults(self) -> None:
        values = self.faults.values
        self.engine.set_slowdown(values.slow)
        if values.silent:
            self._audible.clear()
        else:
            self._audible.set()
        if values.freeze or values.silent:
            self._pacer.pause()
        else:
            self._pacer.resume()

    def _crash(self) -> None:
        """The process is gone: connections reset, nobody listening, cache and counters lost."""
        self._down = True
        self._pacer.stop()
        self.faults.set(crash_after_tokens=None)  # once is enough
        self._restart = asyncio.get_running_loop().create_task(self._stay_down(self.faults.values.down_for))

    async def _stay_down(self, seconds: float | None) -> None:
        if self._site is not None:
            await self._site.stop()
        self._cut_connections()
        self._fresh_engine()
        if seconds is not None:
            await asyncio.sleep(seconds)
            while self._down:
                try:
                    await self._listen()
                except OSError:  # somebody else has the port by now
                    await asyncio.sleep(0.2)

    async def _faults_get(self, request: web.Request) -> web.StreamResponse:
        return _json(self.faults.as_dict())

    async def _faults_post(self, request: web.Request) -> web.StreamResponse:
        try:
            changes = msgspec.json.decode(await request.read(), type=dict[str, Any])
            self.faults.update(changes)
        except (msgspec.DecodeError, BadFault) as error:
            return _refused(AskError(400, "BadRequestError", str(error)))
        return _json(self.faults.as_dict())

    # -- inference

    def _generation(self, parse: Callable[[bytes], Ask], kind: type[Reply]) -> _Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            try:
                await self._refuse_if_told()
                ask = parse(await request.read())
                self._check_model(ask.model)
                reply = kind(ask, self.model, request.headers.get("X-Request-Id") or uuid.uuid4().hex)
                sequences = plan(reply, self.profile, self._ids, self._mean_output, self._seed)
            except AskError as error:
                return _refused(error, anthropic=kind is MessageReply)
            return await self._answer(request, reply, sequences)

        return handle

    async def _refuse_if_told(self) -> None:
        values = self.faults.values
        if values.crash_after_tokens == 0:
            self._crash()
            await asyncio.Event().wait()  # until the connection is cut, which cancels this
        if values.status is not None:
            kind = "Service Unavailable" if values.status == 503 else "InternalServerError"
            raise AskError(values.status, kind, "The engine refuses requests because it was told to (fault `status`).")

    def _check_model(self, model: str | None) -> None:
        if model is not None and model != self.model:
            raise AskError(404, "NotFoundError", f"The model `{model}` does not exist.", "model")

    async def _answer(self, request: web.Request, reply: Reply, sequences: list[EmulatedRequest]) -> web.StreamResponse:
        response: web.StreamResponse
        arrived = asyncio.get_running_loop().time()
        try:
            if reply.ask.stream:
                response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
                reply.chunked = request.version >= (1, 1)
                if reply.chunked:
                    response.enable_chunked_encoding()
                writer = await response.prepare(request)
                if writer is not None:
                    writer.send_headers()  # as vLLM: the head goes out before the first token is ready
                reply.transport = request.transport
            for choice, sequence in zip(reply.choices, sequences, strict=True):
                self._live[choice.id] = (reply, choice, arrived)
                self._pacer.submit(sequence)
            await reply.done
        finally:
            for choice in reply.choices:
                if self._live.pop(choice.id, None) is not None:
                    self._pacer.abort(choice.id)
        if reply.ask.stream:
            await response.write_eof()
            return response
        return web.Response(body=reply.body(), content_type="application/json")

    def _deliver(self, result: StepResult) -> None:
        live, now = self._live, asyncio.get_running_loop().time()
        crash_at = self.faults.values.crash_after_tokens
        for output in result.outputs:
            assert isinstance(output.id, int)
            found = live.get(output.id)
            if found is None:
                continue
            reply, choice, arrived = found
            if output.cached is not None:
                self._seen.first_token.observe(now - arrived)
            if output.finished:
                del live[output.id]
                self._seen.whole.observe(now - arrived)
                self._seen.success[choice.reason] += 1
            reply.take(choice, output)
            if crash_at and choice.produced >= crash_at:
                self._crash()
                return

    # -- the cheap routes

    async def _count_tokens(self, request: web.Request) -> web.StreamResponse:
        try:
            ask = asks.message_count(await request.read())
            self._check_model(ask.model)
        except AskError as error:
            return _refused(error, anthropic=True)
        return _json({"input_tokens": token_count(ask.prompts[0])})

    async def _tokenize(self, request: web.Request) -> web.StreamResponse:
        try:
            ask = asks.tokenize(await request.read())
            self._check_model(ask.model)
        except AskError as error:
            return _refused(error)
        ids = tokenize(ask.prompts[0])
        return _json({"count": len(ids), "max_model_len": self.profile.max_model_len, "tokens": ids})

    async def _detokenize(self, request: web.Request) -> web.StreamResponse:
        try:
            model, text = asks.detokenized(await request.read())
            self._check_model(model)
        except AskError as error:
            return _refused(error)
        return _json({"prompt": text})

    async def _models(self, request: web.Request) -> web.StreamResponse:
        entry = {"id": self.model, "object": "model", "created": 0, "owned_by": "vllm", "root": self.model}
        entry |= {"parent": None, "max_model_len": self.profile.max_model_len, "permission": []}
        return _json({"object": "list", "data": [entry]})

    async def _health(self, request: web.Request) -> web.StreamResponse:
        return web.Response()

    async def _version(self, request: web.Request) -> web.StreamResponse:
        return _json({"version": VERSION})

    async def _metrics(self, request: web.Request) -> web.StreamResponse:
        page = exposition.render(self.engine, self._seen, self.model, "0")
        return web.Response(body=page.encode(), headers={"Content-Type": exposition.CONTENT_TYPE})

    async def _reset_prefix_cache(self, request: web.Request) -> web.StreamResponse:
        self.engine.reset_prefix_cache()
        return web.Response()


def _json(payload: Any) -> web.Response:
    return web.Response(body=msgspec.json.encode(payload), content_type="application/json")


def _refused(error: AskError, *, anthropic: bool = False) -> web.Response:
    return web.Response(status=error.status, body=error.body(anthropic=anthropic), content_type="application/json")
