"""Real clients: curl with prior knowledge, the OpenAI SDK by ALPN over TLS, and HTTP/1 on the same listener."""

from __future__ import annotations

import asyncio
import shutil
import ssl
from pathlib import Path

import openai
import pytest
import trustme
from http2_peer import STREAM_BODY, dial2
from peers import run
from running import DONE, LAST, ask, chunk, event, fleet, reply, sse_head, stream

COMPLETION = (
    b'{"id":"c","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"finish_reason":"stop",'
    b'"message":{"role":"assistant","content":"hello"}}],"usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}}'
)


def certificates(folder: Path) -> dict[str, str]:
    """Files of a certificate for localhost, and of the authority behind it."""
    authority = trustme.CA()
    own = authority.issue_cert("localhost", "127.0.0.1")
    own.private_key_pem.write_to_path(str(folder / "key.pem"))
    for number, blob in enumerate(own.cert_chain_pems):
        blob.write_to_path(str(folder / "cert.pem"), append=bool(number))
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    return {"cert": str(folder / "cert.pem"), "key": str(folder / "key.pem")}


def tls_listen(folder: Path, **more: object) -> list[dict[str, object]]:
    return [{"address": "127.0.0.1:0", "tls": certificates(folder), **more}]


def trusting(folder: Path, *alpn: str) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(folder / "ca.pem"))
    context.set_alpn_protocols(list(alpn))
    return context


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl_with_prior_knowledge() -> None:
    async def body() -> None:
        async with fleet(1, default=stream(3)) as f:
            url = f"http://{f.address[0]}:{f.address[1]}/v1/chat/completions"
            command = [
                "curl",
                "-sS",
                "--http2-prior-knowledge",
                "-w",
                "%{http_version} %{http_code}",
                "-d",
                STREAM_BODY.decode(),
            ]
            child = await asyncio.create_subprocess_exec(*command, url, stdout=asyncio.subprocess.PIPE)
            out, _ = await child.communicate()
            assert out == event(0) + event(1) + event(2) + DONE + b"2 200"

    run(body)


@pytest.mark.parametrize(("offered", "chosen"), [(("h2", "http/1.1"), "h2"), (("http/1.1",), "http/1.1"), ((), None)])
def test_alpn_chooses_the_version(tmp_path: Path, offered: tuple[str, ...], chosen: str | None) -> None:
    async def body() -> None:
        async with fleet(1, default=reply(b"ok"), listen=tls_listen(tmp_path)) as f:
            context = trusting(tmp_path, *offered)
            if chosen == "h2":
                client = await dial2(f.address, tls=context)
                assert client.transport.get_extra_info("ssl_object").selected_alpn_protocol() == "h2"
                assert (await client.answer(client.ask("n"))).body == b"ok"
                assert f.seen[0].field("x-forwarded-proto") == "https"
                client.close()
            else:
                reader, writer = await asyncio.open_connection(*f.address, ssl=context, server_hostname="localhost")
                assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == chosen
                writer.write(ask())
                assert (await reader.readline()) == b"HTTP/1.1 200 OK\r\n"
                writer.transport.abort()

    run(body)


def test_the_openai_sdk_streams_over_http2_and_tls(tmp_path: Path) -> None:
    httpx2 = pytest.importorskip("httpx2")

    async def body() -> None:
        async with fleet(1, listen=tls_listen(tmp_path)) as f:
            versions = []

            async def note(response: object) -> None:
                versions.append(response.http_version)  # type: ignore[attr-defined]

            async def sse(peer, seen) -> None:  # type: ignore[no-untyped-def]
                said = b'data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":[%b]}\n\n'
                await peer.send(sse_head(seen))
                for word in (b"a", b"b", b"c"):
                    choice = b'{"index":0,"delta":{"content":"%b"},"finish_reason":null}' % word
                    await peer.send(chunk(said % choice))
                await peer.send(chunk(DONE) + LAST)

            http = httpx2.AsyncClient(http2=True, verify=trusting(tmp_path), event_hooks={"response": [note]})
            client = openai.AsyncOpenAI(
                base_url=f"https://localhost:{f.address[1]}/v1", api_key="sk-test", http_client=http, max_retries=0
            )
            f.play.scripts += [reply(COMPLETION), sse]
            messages = [{"role": "user", "content": "hello"}]
            answer = await client.chat.completions.create(model="m", messages=messages)  # type: ignore[arg-type]
            assert answer.choices[0].message.content == "hello"
            parts = await client.chat.completions.create(model="m", messages=messages, stream=True)  # type: ignore[arg-type]
            assert isinstance(parts, openai.AsyncStream)
            assert [part.choices[0].delta.content async for part in parts] == ["a", "b", "c"]
            await f.engines[0].refuse()
            f.app.service.pools[f.app.config.backends[0].name].close()
            f.unseen_tries += 1
            with pytest.raises(openai.InternalServerError, match="accepts no connection"):
                await client.chat.completions.create(model="m", messages=messages)  # type: ignore[arg-type]
            assert set(versions) == {"HTTP/2"}
            assert len(f.app.service.clients) == 1
            await client.close()

    run(body)


def test_http1_and_http2_share_a_listener() -> None:
    async def body() -> None:
        async with fleet(1, default=reply(b"ok")) as f:
            old, new = await f.dial(), await dial2(f.address)
            await old.send(ask("a"))
            assert (await old.answer()).body == b"ok"
            assert (await new.answer(new.ask("b"))).body == b"ok"
            assert [seen.nonce for seen in f.seen] == ["a", "b"]
            new.close()

    run(body)


@pytest.mark.parametrize("where", ["first", "later"])
def test_the_preface_counts_only_at_the_start_and_where_http2_is_on(where: str) -> None:
    async def body() -> None:
        listen = [{"address": "127.0.0.1:0", "http2": where == "later"}]
        async with fleet(1, default=reply(b"ok"), listen=listen) as f:
            client = await f.dial()
            if where == "later":
                await client.send(ask("a"))
                assert (await client.answer()).status == 200
            await client.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
            assert (await client.answer()).status == 505

    run(body)
