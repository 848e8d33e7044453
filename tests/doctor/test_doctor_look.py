"""A look at scripted engines: each fault set in the engine comes out as its finding, and as no other."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
import trustme
from aiohttp import web
from doctor_peers import QUICK, scripted

from fairlead.doctor.checks import Pool
from fairlead.doctor.checks_fleet import check
from fairlead.doctor.facts import EngineFacts, MetricsState, Trouble
from fairlead.doctor.fetch import door, fetcher
from fairlead.doctor.look import Target, look_at, look_at_all

POOL = Pool(keepalive=1.0)
QUIET = {"unknown"}
"""What a vLLM in service cannot tell: its limit on the queue and its sampling defaults."""


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(30):
            await test()

    asyncio.run(bounded())


def seen(facts: EngineFacts, *more: EngineFacts, pool: Pool = POOL) -> list[str]:
    return [one.code for one in check([facts, *more], pool) if one.code not in QUIET]


def test_an_engine_without_fault_is_described_and_nothing_is_found() -> None:
    async def body() -> None:
        async with scripted() as (_, url):
            facts = await look_at(Target("e", url), QUICK)
        assert seen(facts) == []
        assert (facts.engine, facts.version, facts.health, facts.block_tokens) == ("vllm", "0.32.0", 200, 16)
        assert (facts.prefix_caching, facts.events, facts.is_public, facts.is_loopback) == (True, True, False, True)
        assert (facts.metrics, facts.keep_alive) == (MetricsState.READ, 5.0)
        assert facts.generation is not None
        assert facts.generation.cached and facts.generation.prompt_tokens
        assert abs(facts.clock_ahead or 99) < 2

    run(body)


def test_what_development_mode_tells_is_read() -> None:
    async def body() -> None:
        async with scripted(dev=True) as (_, url):
            facts = await look_at(Target("e", url), QUICK)
            assert (facts.queue_limit, facts.sampling) == (True, {"generation_config": "auto"})
            assert [one.code for one in check([facts], POOL)] == ["dev-pages-local"]

    run(body)


@pytest.mark.parametrize(
    ("code", "faults"),
    [
        ("prefix-caching-off", {"is_caching": False, "caching_label": "False"}),
        ("prefix-caching-off", {"is_caching": False, "caching_label": None}),
        ("prefix-no-hit", {"is_caching": False}),
        ("usage-details-off", {"has_details": False}),
        ("usage-missing", {"has_usage": False}),
        ("metrics-off", {"metrics_on": False}),
        ("metrics-off", {"pages": {"/metrics": 404}}),
        ("metrics-unknown", {"pages": {"/metrics": "vllm:brand_new_name 1\n"}}),
        ("events-off", {"pages": {"/kv_event_sources": {}}}),
        ("unhealthy", {"pages": {"/health": 503}}),
        ("no-models", {"pages": {"/v1/models": {"object": "list", "data": []}}}),
        ("generation-failed", {"pages": {"/v1/completions": 500}}),
        ("no-generation", {"pages": {"/v1/completions": 400}}),
        ("keepalive-short", {"keep_alive": "timeout=1, max=5"}),
        ("clocks-apart", {"clock": 3600.0}),
        ("clocks-apart", {"clock": -3600.0}),
        ("key-refused", {"key": "sesame"}),
        ("another-fairlead", {"server": "fairlead"}),
    ],
)
def test_a_fault_set_in_the_engine_is_found_alone(code: str, faults: dict[str, Any]) -> None:
    async def body() -> None:
        async with scripted(**faults) as (_, url):
            assert seen(await look_at(Target("e", url), QUICK)) == [code]

    run(body)


def test_no_limit_on_the_queue_is_found_where_the_engine_tells() -> None:
    async def body() -> None:
        async with scripted(dev=True, queue_limit=None) as (_, url):
            assert seen(await look_at(Target("e", url), QUICK)) == ["queue-unlimited", "dev-pages-local"]
            assert seen(await look_at(Target("e", url, max_connections=9), QUICK)) == ["dev-pages-local"]

    run(body)


@pytest.mark.parametrize(
    ("code", "faults"),
    [
        ("context-differs", {"longest": 2048}),
        ("block-size-differs", {"block": 32}),
        ("tokenizer-differs", {"vocabulary": 7}),
        ("weights-differ", {"root": "other/m"}),
        ("version-differs", {"version": "0.31.0"}),
        ("sampling-differs", {"generation_config": "vllm"}),
    ],
)
def test_a_difference_between_two_engines_is_found_alone(code: str, faults: dict[str, Any]) -> None:
    async def body() -> None:
        async with scripted(dev=True) as (_, one), scripted(dev=True, **faults) as (_, other):
            fleet = await look_at_all([Target("a", one), Target("b", other)], QUICK, lambda facts: None)
        assert [facts.name for facts in fleet] == ["a", "b"]
        assert seen(*fleet) == [code, "dev-pages-local"]

    run(body)


def test_hits_are_counted_where_the_usage_has_no_details() -> None:
    async def body(is_caching: bool) -> None:
        async with scripted(has_details=False, is_caching=is_caching, caching_label=None) as (_, url):
            facts = await look_at(Target("e", url), QUICK)
        assert facts.generation is not None
        assert bool(facts.generation.hits) == is_caching
        assert ("prefix-caching-off" in seen(facts)) == (not is_caching)

    run(lambda: body(True))
    run(lambda: body(False))


# --- connections ---------------------------------------------------------------------------------------------


def test_a_keep_alive_that_no_header_tells_is_measured() -> None:
    async def body() -> None:
        look = replace(QUICK, keepalive=3.0)
        async with scripted(keepalive=0.1, keep_alive=None) as (_, url):
            facts = await look_at(Target("e", url), look)
            assert facts.keep_alive is not None
            assert facts.keep_alive < 3.0
            assert seen(facts, pool=Pool(keepalive=3.0)) == ["keepalive-short"]
        async with scripted(keep_alive=None) as (_, url):
            facts = await look_at(Target("e", url), QUICK)
            assert (facts.keep_alive, facts.keep_alive_open) == (None, 0.5)
            assert seen(facts) == []

    run(body)


async def refused() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


def test_a_closed_port_a_name_nobody_has_and_a_missing_socket_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    async def unknown(*arguments: Any, **options: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    async def body() -> None:
        assert (await look_at(Target("e", await refused()), QUICK)).trouble is Trouble.REFUSED
        assert (await look_at(Target("e", "unix:/no/such.sock"), QUICK)).trouble is Trouble.REFUSED
        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", unknown)
        assert (await look_at(Target("e", "http://no-such-host.invalid:1"), QUICK)).trouble is Trouble.DNS

    run(body)


@pytest.mark.parametrize(
    ("said", "trouble"),
    [(None, Trouble.NO_ANSWER), (b"SSH-2.0-x\r\n\r\n", Trouble.NOT_HTTP), (b"", Trouble.BROKEN)],
)
def test_a_peer_that_speaks_no_http_is_told_from_one_that_is_silent(said: bytes | None, trouble: Trouble) -> None:
    async def body() -> None:
        ended: asyncio.Queue[None] = asyncio.Queue()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            if said is None:
                await reader.read()
            else:
                writer.write(said)
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
            ended.put_nowait(None)

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server:
            url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            facts = await look_at(Target("e", url), replace(QUICK, page_timeout=0.2))
            await ended.get()
        assert facts.trouble is trouble
        assert seen(facts) == ["unreachable"]

    run(body)


def test_tls_that_is_not_trusted_and_tls_that_is_not_spoken_are_told_apart() -> None:
    async def body() -> None:
        authority = trustme.CA()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(context)
        ours = ssl.create_default_context()
        authority.configure_trust(ours)

        async def page(request: web.Request) -> web.StreamResponse:
            if request.path == "/v1/models":
                return web.json_response({"data": [{"id": "m", "owned_by": "vllm"}]})
            return web.Response(status=200 if request.path == "/health" else 404)

        app = web.Application()
        app.router.add_route("*", "/{path:.*}", page)
        runner = web.AppRunner(app, handle_signals=False)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
            port = runner.addresses[0][1]
            assert (await look_at(Target("e", f"https://127.0.0.1:{port}"), QUICK)).trouble is Trouble.TLS_UNTRUSTED
            trusted = await look_at(Target("e", f"https://127.0.0.1:{port}", tls=ours), QUICK)
            assert (trusted.trouble, trusted.health, trusted.keep_alive_open) == (None, 200, 0.5)
        finally:
            await runner.cleanup()
        async with scripted() as (_, url):
            assert (await look_at(Target("e", url.replace("http", "https")), QUICK)).trouble is Trouble.TLS

    run(body)


def test_a_web_server_is_not_an_engine() -> None:
    async def body() -> None:
        everything = "<html>welcome</html>"
        paths = ("/v1/models", "/health", "/metrics", "/version", "/server_info", "/v2", "/info", "/props")
        async with scripted(pages=dict.fromkeys(paths, everything)) as (_, url):
            assert seen(await look_at(Target("e", url), QUICK)) == ["not-an-engine"]

    run(body)


# --- manners -------------------------------------------------------------------------------------------------


def test_only_reading_pages_are_asked_and_the_cache_is_never_reset() -> None:
    async def body() -> None:
        async with scripted(dev=True) as (script, url):
            await look_at(Target("e", url), QUICK)
            assert {pair for pair in script.asked if pair[0] != "GET"} == {
                ("OPTIONS", "/reset_prefix_cache"), ("POST", "/tokenize"), ("POST", "/v1/completions"),
            }  # fmt: skip
            assert script.asked.count(("POST", "/v1/completions")) == 2

    run(body)


def test_no_prompt_is_sent_when_none_is_wanted() -> None:
    async def body() -> None:
        async with scripted() as (script, url):
            facts = await look_at(Target("e", url), replace(QUICK, generate=False))
            assert script.prompts == []
            assert (facts.generation, facts.prefix_caching) == (None, True)
            assert seen(facts) == []

    run(body)


def test_a_key_is_sent_to_its_engine_and_once_left_out_to_see_whether_it_matters() -> None:
    async def body() -> None:
        async with scripted(key="sesame") as (script, url):
            target = Target("e", url, headers={"Authorization": "Bearer sesame"})
            facts = await look_at(target, QUICK)
            assert facts.is_open is False
            assert seen(facts) == []
            assert script.seen_keys.count("") == 1
            assert set(script.seen_keys) == {"", "Bearer sesame"}

    run(body)


def test_a_key_is_not_sent_to_another_port() -> None:
    async def body() -> None:
        async with scripted() as (_, url), scripted() as (other, elsewhere):
            headers = {"Authorization": "Bearer sesame"}
            await look_at(Target("e", url, headers=headers, metrics_url=f"{elsewhere}/metrics"), QUICK)
            assert set(other.seen_keys) == {""}
            async with fetcher(door("http://127.0.0.1", headers)) as ask:  # a URL that begins with ours is not ours
                await ask.get(f"{elsewhere}/metrics", 1.0)
            assert set(other.seen_keys) == {""}

    run(body)


def test_an_engine_that_hangs_on_every_page_but_the_first_is_given_up() -> None:
    async def body() -> None:
        async with scripted(keep_alive="timeout=5") as (script, url):
            script.pages = dict.fromkeys(
                ("/health", "/metrics", "/version", "/tokenize", "/v1/completions", "/kv_event_sources"), script.never
            )
            look = replace(QUICK, page_timeout=0.1, slow_page_timeout=0.1, health_timeout=0.1, generate_timeout=0.1)
            facts = await look_at(Target("e", url), look)
            script.released.set()
        assert seen(facts) == ["unhealthy", "generation-failed", "metrics-off"]

    run(body)


def test_the_whole_look_has_an_end_and_keeps_what_it_found(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body() -> None:
        loop = asyncio.get_running_loop()
        real = loop.time

        async with scripted() as (script, url):

            async def an_hour_passes(request: web.Request) -> web.StreamResponse:
                monkeypatch.setattr(loop, "time", lambda: real() + 3600)
                return await script.never(request)

            script.pages["/v1/completions"] = an_hour_passes
            facts = await look_at(Target("e", url), replace(QUICK, generate_timeout=1e6, seconds=600.0))
            script.released.set()
        assert (facts.engine, facts.health, facts.generation) == ("vllm", 200, None)

    asyncio.run(body())  # no bound on time: it would be over as well


def test_an_engine_that_is_silent_until_the_end_is_told_as_such() -> None:
    async def body() -> None:
        async with scripted() as (script, url):
            script.pages["/v1/models"] = script.never
            facts = await look_at(Target("e", url), replace(QUICK, page_timeout=1e6, seconds=0.05))
            script.released.set()
        assert facts.trouble is Trouble.NO_ANSWER

    run(body)


def test_an_endless_page_is_cut() -> None:
    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b"x" * 65_536)

    async def body() -> None:
        async with scripted(pages={"/metrics": endless}) as (_, url):
            assert seen(await look_at(Target("e", url), QUICK)) == ["metrics-off"]

    run(body)
