"""The admin listener: health, metrics and the API. Separate from the data port, loopback unless told otherwise.

A browser page from elsewhere must not use it.
Rule 1: what is read could be read through a rebound DNS name, so on loopback requests whose Host is neither an
        address nor localhost are refused.
Rule 2: what changes something must be JSON by its content type, which no page elsewhere may send without being asked
        first (and we allow nobody), must not come from another origin as far as the browser says, and must
        name this very listener in its Host, on loopback or not.
Rule 3: whoever may ask at all may still have to show a token: see gate.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import ipaddress
import logging
import re
import socket
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import msgspec
from aiohttp import web

from fairlead import __version__
from fairlead.control.asked import Renders, Shows, Soon, Switches, settled
from fairlead.control.fleet import Fleet, Refused
from fairlead.control.gate import AdminToken
from fairlead.control.history import STEP, History
from fairlead.control.live import MAX_VIEWERS, Live
from fairlead.control.metrics import CONTENT_TYPE
from fairlead.control.switching import SwitchRefused
from fairlead.dashboard import POLICY, File, files

log = logging.getLogger("fairlead")

MAX_LISTED = 1_000
MAX_BODY = 64 * 1024
CLOSE_SECONDS = 2.0  # at the end, for callers that have not sent all of their request, or do not take their answer
LISTED_LIVE = 20  # decisions that the dashboard shows

_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9.-]+))(?::[0-9]{1,5})?")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def _json(data: Any, status: int = 200) -> web.Response:
    body = msgspec.json.format(msgspec.json.encode(data), indent=2) + b"\n"
    return web.Response(body=body, status=status, content_type="application/json")


def _error(status: int, message: str) -> web.Response:
    return _json({"error": {"message": message}}, status)


async def _body(request: web.Request) -> Any:
    """The JSON that was sent. Refused."""
    try:
        return msgspec.json.decode(await request.read())
    except (msgspec.MsgspecError, ValueError, RecursionError):
        raise Refused(400, "expected JSON") from None


def _is_local(host: str) -> bool:
    """Is it a loopback address or localhost?"""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _host_in(header: str) -> str:
    """The host that a Host header names, without port and brackets; "" when it cannot be read."""
    match = _HOST.fullmatch(header)
    name = "" if match is None else (match[1] or match[2]).lower()
    return str(ipaddress.ip_address(name)) if _is_address(name) else name


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _asked_by_address(header: str) -> bool:
    """Does a Host header name an address or localhost, and not a name that could be rebound?"""
    name = _host_in(header)
    return name == "localhost" or _is_address(name)


def _why_not_change(request: web.Request, own: Iterable[str]) -> tuple[int, str] | None:
    """(status, sentence) when this request may not change anything; `own` are the listener's names."""
    hosts = request.headers.getall("Host", [])
    host = _host_in(hosts[0]) if len(hosts) == 1 else ""
    if not _is_local(host) and host not in own:
        return 403, "ask this listener by its own address or as localhost"
    for origin in request.headers.getall("Origin", []):
        if origin.lower() != f"http://{hosts[0].lower()}":
            return 403, "this came from a page of another origin"
    if any(site != "same-origin" for site in request.headers.getall("Sec-Fetch-Site", [])):
        return 403, "this came from a page of another origin"
    if request.content_type != "application/json":
        return 415, "expected a JSON body with content-type: application/json"
    return None


def _guard(bound: str, token: AdminToken | None) -> Any:
    """Names are for loopback only: a listener that is open to others is asked by whatever name it has there."""
    local = _is_local(bound)

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        hosts = request.headers.getall("Host", [""])
        if len(hosts) != 1 or (local and not _asked_by_address(hosts[0])):
            return _error(403, "ask this listener by its address or as localhost")
        changes = request.method not in ("GET", "HEAD") and request.match_info.http_exception is None
        if changes:
            socket = request.get_extra_info("sockname")
            refused = _why_not_change(request, {bound, *(socket or ())[:1]})
            if refused is not None:
                return _error(*refused)
        asks = changes or (not local and request.path.startswith("/api/") and request.path != "/api/access")
        if asks and token is not None and not await _shows(token, request):
            answer = _error(401, "show the admin token: Authorization: Bearer TOKEN")
            answer.headers["WWW-Authenticate"] = 'Bearer realm="fairlead"'
            return answer
        try:
            return await handler(request)
        except Refused as refused:
            error = {"message": str(refused), "problems": refused.problems}
            return _json({"error": error}, refused.status)
        except web.HTTPNotFound:
            return _error(404, f"no such page here: {', '.join(PAGES)}")
        except web.HTTPRequestEntityTooLarge:
            return _error(413, f"a body is at most {MAX_BODY // 1024} KiB here")
        except web.HTTPMethodNotAllowed as problem:
            return _error(405, f"allowed here: {', '.join(sorted(problem.allowed_methods))}")

    return guard


async def _shows(token: AdminToken, request: web.Request) -> bool:
    """Does it show the token?"""
    headers = request.headers.getall("Authorization", [])
    return len(headers) == 1 and await token.fits(headers[0])


PAGES = (
    "/", "/healthz", "/readyz", "/metrics", "/api/backends", "/api/backends/{id}", "/api/decisions",
    "/api/explain/{request_id}", "/api/policy", "/api/shadow", "/api/alerts", "/api/models", "/api/config",
    "/api/reload", "/api/live", "/api/access",
)  # fmt: skip


class Admin:
    """Serves views and metrics over HTTP."""

    def __init__(
        self,
        fleet: Fleet,
        views: Shows,
        metrics: Renders,
        switching: Switches,
        ready: Callable[[], Soon[str]],
        token: AdminToken | None = None,
    ) -> None:
        """`ready` answers "" or why the balancer cannot take requests; `token` is asked for, see gate.py."""
        self._fleet = fleet
        self._views = views
        self._metrics = metrics
        self._switching = switching
        self._ready = ready
        self._token = token
        self._history = History()
        self._live = Live(self._snapshot)
        self._sampling: asyncio.Task[None] | None = None
        self._files = files()
        self._local = _is_local(fleet.config.admin.host)
        app = web.Application(middlewares=[_guard(fleet.config.admin.host, token)], client_max_size=MAX_BODY)
        app.add_routes(
            [
                web.get("/", self._file),
                web.get("/dashboard/{name}", self._file),
                web.get("/api/live", self._watch),
                web.get("/api/access", self._access),
                web.get("/healthz", self._healthz),
                web.get("/readyz", self._readyz),
                web.get("/metrics", self._page),
                web.get("/api/backends", self._backends),
                web.post("/api/backends", self._add),
                web.get("/api/backends/{id:.+}", self._backend),
                web.patch("/api/backends/{id:.+}", self._change),  # a name may hold slashes
                web.delete("/api/backends/{id:.+}", self._remove),
                web.post("/api/reload", self._reload),
                web.get("/api/decisions", self._decisions),
                web.get("/api/explain/{id}", self._explain),
                web.get("/api/policy", self._policy),
                web.post("/api/policy", self._switch),
                web.get("/api/shadow", self._shadow),
                web.get("/api/alerts", self._alerts),
                web.get("/api/models", self._models),
                web.get("/api/config", self._show_config),
            ]
        )
        self.sockets: list[socket.socket] = []
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=CLOSE_SECONDS)

    async def listen(self, sockets: list[socket.socket]) -> tuple[str, int]:
        """Serve on these, which are ours now; the address of the first."""
        self.sockets = sockets
        await self._runner.setup()
        for sock in sockets:
            await web.SockSite(self._runner, sock).start()
        self._sampling = asyncio.create_task(self._sample())
        host, port = self._runner.addresses[0][:2]
        return str(host), int(port)

    async def release(self) -> None:
        """Accept no more; connections that are open stay."""
        for site in list(self._runner.sites):
            await site.stop()
        self.sockets = []

    async def close(self) -> None:
        if self._sampling is not None:
            self._sampling.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._sampling
        await self._live.close()
        await self._runner.cleanup()
        for sock in self.sockets:  # those that were never served
            sock.close()

    # --- the dashboard -------------------------------------------------------------------------------------------

    async def _file(self, request: web.Request) -> web.Response:
        file: File | None = self._files.get(request.match_info.get("name", ""))
        if file is None:
            raise web.HTTPNotFound
        headers = {
            "Content-Security-Policy": POLICY,
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cache-Control": "no-cache",
            "ETag": file.tag,
        }
        if request.headers.get("If-None-Match") == file.tag:
            return web.Response(status=304, headers=headers)
        return web.Response(body=file.body, headers={**headers, "Content-Type": file.type})

    async def _access(self, request: web.Request) -> web.Response:
        token = self._token
        shown = token is not None and await _shows(token, request)
        return _json({
            "token_set": token is not None,
            "token_valid": shown,
            "may_read": token is None or self._local or shown,
            "may_change": token is None or shown,
        })  # fmt: skip

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        answer = await self._live.serve(request)
        return answer or _error(503, f"{MAX_VIEWERS} look already, or it is about to stop: try again later")

    async def _sample(self) -> None:
        """Feed the history, whether somebody looks or not."""
        while True:
            try:
                rows = await settled(self._views.backends())
                self._history.sample(rows, time.monotonic(), time.time())
            except Exception:
                log.exception("the history could not be kept; this is a fault in Fairlead")
            await asyncio.sleep(STEP)

    async def _rows(self) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """Rows with their figures of the last minute, and those of the whole fleet."""
        return self._history.measure(await settled(self._views.backends()), time.monotonic())

    async def _snapshot(self, history: bool) -> dict[str, Any]:
        """What the dashboard shows."""
        views = self._views  # of several processes one may take its time: all are asked at once
        (rows, whole), problem, alerts, decisions = await asyncio.gather(
            self._rows(), settled(self._ready()), settled(views.alerts()), settled(views.decisions(LISTED_LIVE))
        )
        now = {
            "time": round(time.time(), 3),
            "version": __version__,
            "status": problem or "ready",
            "backends": rows,
            "last_minute": whole,
            "alerts": alerts,
            "decisions": decisions,
            **self._switching.shown(),
            "loaded": self._fleet.versions.shown(),
            "sample": self._history.latest,
        }
        return {**now, "history": self._history.shown()} if history else now

    # --- pages ---------------------------------------------------------------------------------------------------

    async def _healthz(self, request: web.Request) -> web.Response:
        return _json({"status": "ok", "version": __version__})

    async def _readyz(self, request: web.Request) -> web.Response:
        problem = await settled(self._ready())
        return _json({"status": problem or "ready"}, 503 if problem else 200)

    async def _page(self, request: web.Request) -> web.Response:
        return web.Response(body=await settled(self._metrics.render()), headers={"Content-Type": CONTENT_TYPE})

    async def _backends(self, request: web.Request) -> web.Response:
        return _json({"backends": (await self._rows())[0], "policy": self._switching.policy.name})

    async def _backend(self, request: web.Request) -> web.Response:
        id = request.match_info["id"]
        found = next((row for row in (await self._rows())[0] if row["id"] == id), None)
        return _error(404, f"no such backend: {id!r:.100}") if found is None else _json(found)

    async def _add(self, request: web.Request) -> web.Response:
        return _json(await self._fleet.add(await _body(request)), 201)

    async def _change(self, request: web.Request) -> web.Response:
        return _json(await self._fleet.change(request.match_info["id"], await _body(request)))

    async def _remove(self, request: web.Request) -> web.Response:
        force = request.query.get("force", "0")
        if force not in ("0", "1"):
            return _error(400, f"force: expected 0 or 1, got {force!r:.40}")
        return _json(await self._fleet.remove(request.match_info["id"], force=force == "1"))

    async def _reload(self, request: web.Request) -> web.Response:
        return _json(await self._fleet.reload())

    async def _decisions(self, request: web.Request) -> web.Response:
        text = request.query.get("limit", "50")
        if not (text.isascii() and text.isdecimal() and len(text) < 6 and 1 <= int(text) <= MAX_LISTED):
            return _error(400, f"limit: expected a number from 1 to {MAX_LISTED}, got {text!r:.40}")
        return _json({"decisions": await settled(self._views.decisions(int(text)))})

    async def _explain(self, request: web.Request) -> web.Response:
        found = await settled(self._views.explain(request.match_info["id"]))
        if found is None:
            return _error(404, "no such request among the last ones: take the x-request-id of a recent answer")
        return _json(found)

    async def _policy(self, request: web.Request) -> web.Response:
        return _json(self._switching.shown())

    async def _switch(self, request: web.Request) -> web.Response:
        try:
            body = msgspec.json.decode(await request.read())
        except (msgspec.MsgspecError, ValueError, RecursionError):
            return _error(400, 'expected JSON such as {"policy": "expected_completion"}')
        try:
            return _json(await settled(self._switching.switch(body)))
        except SwitchRefused as problem:
            return _error(400, str(problem))

    async def _shadow(self, request: web.Request) -> web.Response:
        return _json(await settled(self._views.shadow()))

    async def _alerts(self, request: web.Request) -> web.Response:
        return _json({
            "alerts": await settled(self._views.alerts()),
            "ended": await settled(self._views.ended_alerts()),
        })  # fmt: skip

    async def _models(self, request: web.Request) -> web.Response:
        return _json({"models": await settled(self._views.models())})

    async def _show_config(self, request: web.Request) -> web.Response:
        now = self._switching
        config = dataclasses.replace(self._fleet.config, policy=now.policy, shadow=now.shadow)
        shown = _plain(dataclasses.asdict(config))
        traced = [shown["tracing"]] if shown["tracing"] is not None else []
        others = [(each, "headers") for each in (*shown["backends"], *shown["alerts"]["webhooks"], *traced)]
        for table, option in ((shown["headers"], "set"), *others):
            table[option] = [f"{line.partition(':')[0]}: (not shown)" for line in table[option]]  # they may be keys
        for webhook in shown["alerts"]["webhooks"]:
            webhook["url"] = "(not shown)"  # whoever has it may write there
        return _json({**shown, "loaded": self._fleet.versions.shown()})


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(v) for v in value]
    return value
