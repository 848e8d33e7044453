"""Cases 89, 90 and 95: what is not for outsiders, and what engines are shielded from.

Fields that only balancers may set are gone before anything reads them; the admin listener is behind no path of the data
port and answers no foreign page; long heads stop here; and what clients send can forge no line of a log.
"""

from __future__ import annotations

import json
import re

import pytest
from peers import Answer, dial, run
from running import CHAT, Fleet, ask, chunk, fleet, reply

from fairlead.control.log_formats import json_line, renderer
from fairlead.proxy.record import Record

HOST = b"Host: test\r\n"
ENDPOINT = "x-gateway-destination-endpoint"
RESERVED = [ENDPOINT, f"{ENDPOINT}-served", f"{ENDPOINT}-subset", "x-fairlead-tenant", "x-fairlead-anything"]


def spellings(name: str) -> list[str]:
    """The same field as engines' frameworks may read it."""
    return [name, name.upper(), name.title(), name.replace("-", "_"), name.upper().replace("-", "_"),
            name.replace("-", "_", 1), name.title()[::-1].replace("-", "_", 1)[::-1]]  # fmt: skip


@pytest.mark.parametrize("name", RESERVED)
def test_case_89_reserved_fields_never_reach_an_engine(name: str) -> None:
    async def body() -> None:
        async with fleet(2) as f:
            for number, spelling in enumerate(spellings(name)):
                lines = f"{spelling}: {f.engines[1].address[0]}:{f.engines[1].address[1]}\r\nX-Other: kept\r\n"
                answer = await f.get(ask(f"n{number}", fields=lines))
                assert answer.status == 200
                seen = next(seen for seen in f.seen if seen.nonce == f"n{number}")
                assert seen.field("x-other") == "kept"
                found = [key.replace("_", "-") for key, _ in seen.fields]
                assert not any(key.startswith(("x-gateway", "x-fairlead")) for key in found), spelling
            assert {seen.engine for seen in f.seen} == {"engine0", "engine1"}, "and it decides nothing"

    run(body)


@pytest.mark.parametrize("name", RESERVED)
def test_case_89_connection_cannot_name_a_reserved_field(name: str) -> None:
    async def body() -> None:
        async with fleet() as f:
            for spelling in spellings(name):
                answer = await f.get(ask(fields=f"{spelling}: x\r\nConnection: {spelling}\r\n"))
                assert (answer.status, json.loads(answer.body)["error"]["code"]) == (400, "bad_framing")
            assert not f.seen

    run(body)


def test_case_89_trailers_reach_no_engine() -> None:
    async def body() -> None:
        async with fleet() as f:
            head = (
                b"POST %b HTTP/1.1\r\n" % CHAT.encode()
                + HOST
                + b"Transfer-Encoding: chunked\r\nTrailer: X-Fairlead-Tenant\r\n\r\n"
            )
            trailers = b"X-Fairlead-Tenant: root\r\nX_Gateway_Destination_Endpoint: 10.0.0.1:1\r\nAuthorization: no\r\n"
            answer = await f.get(head + chunk(b'{"model":"m"}') + b"0\r\n" + trailers + b"\r\n")
            assert answer.status == 200
            assert f.seen[0].body == b'{"model":"m"}'
            assert not {"x-fairlead-tenant", "x_gateway_destination_endpoint", "authorization", "trailer"} & {
                key for key, _ in f.seen[0].fields
            }

    run(body)


def test_case_89_an_engine_cannot_say_them_to_clients_either() -> None:
    async def body() -> None:
        async with fleet() as f:
            f.play.default = reply(fields=b"X-Fairlead-Backend: secret\r\nx_fairlead_y: z\r\nX-Kept: yes\r\n")
            answer = await f.get()
            assert answer.field("x-kept") == "yes"
            assert not [key for key, _ in answer.fields if "fairlead" in key]

    run(body)


ADMIN = ["/metrics", "/api/config", "/api/backends", "/api/policy", "/readyz", "/healthz"]


def encodings(path: str) -> list[str]:
    """Ways to write a path that some server would normalise to it."""
    name = path[1:]
    return [
        path, f"/{path}", f"/./{name}", f"/x/..{path}", f"/%2e{path}", f"/x/%2e%2e{path}",
        f"/%{ord(name[0]):02x}{name[1:]}",
        f"/%25{ord(name[0]):02x}{name[1:]}", f"{path}/", f"{path}?x=y", f"{path};x=y", f"{path}%00", f"{path}%20",
        f"/{name.upper()}", path.replace("/", "%2f"), f"/v1/models/../..{path}", f"/health{path}", f"/health/..{path}",
    ]  # fmt: skip


@pytest.mark.parametrize("path", ADMIN)
def test_case_90_no_spelling_of_an_admin_path_is_answered_on_the_data_port(path: str) -> None:
    async def body() -> None:
        async with fleet() as f:
            admin = f"{f.admin[0]}:{f.admin[1]}"
            targets = encodings(path) + [f"http://{admin}{path}"]
            for target in targets:
                for method in ("GET", "POST"):
                    for host in ("test", admin):
                        before = len(f.seen)
                        request = ask("n", target=target, method=method, body=b"{}" if method == "POST" else b"")
                        answer = await f.get(request.replace(b"Host: test", f"Host: {host}".encode()), method)
                        if len(f.seen) == before:  # refused for what it is, by us
                            assert answer.status in (400, 404), target
                        else:
                            assert (answer.status, answer.body) == (200, b'{"nonce":"n"}'), target
                        assert b"fairlead_" not in answer.raw
                        assert b"policy" not in answer.raw

    run(body)


async def to_admin(f: Fleet, request: str) -> Answer:
    client = await dial(f.admin)
    try:
        await client.send(request.replace("\n", "\r\n").encode())
        return await client.answer(request.split(" ")[0])
    finally:
        client.transport.abort()


SWITCH = '{"policy": "random"}'


def post(port: int, **fields: str) -> str:
    """A request to switch the policy as a good client sends it, but for these fields ("" leaves one out)."""
    lines = {"Host": f"127.0.0.1:{port}", "Content-Type": "application/json", "Content-Length": str(len(SWITCH))}
    lines.update({name.replace("_", "-"): value for name, value in fields.items()})
    return "POST /api/policy HTTP/1.1\n" + "".join(f"{k}: {v}\n" for k, v in lines.items() if v) + "\n" + SWITCH


@pytest.mark.parametrize("bound", ["127.0.0.1", "0.0.0.0"])
@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({}, 200),
        ({"Host": "evil.example"}, 403),
        ({"Host": "evil.example:80", "Origin": "http://evil.example:80"}, 403),
        ({"Host": "127.0.0.1.evil.example"}, 403),
        ({"Host": "localhost.evil.example"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://localhost:1"}, 403),
        ({"Sec_Fetch_Site": "cross-site"}, 403),
        ({"Sec_Fetch_Site": "same-site"}, 403),
        ({"Content_Type": "text/plain"}, 415),
        ({"Content_Type": "application/x-www-form-urlencoded"}, 415),
        ({"Content_Type": "multipart/form-data; boundary=x"}, 415),
    ],
)
def test_case_90_a_browser_page_changes_nothing(bound: str, fields: dict[str, str], status: int) -> None:
    async def body() -> None:
        async with fleet(admin=f"{bound}:0") as f:
            f.admin = ("127.0.0.1", f.admin[1])
            assert (await to_admin(f, post(f.admin[1], **fields))).status == status
            assert (f.app.balancer.policy.name == "random") == (status == 200)

    run(body)


def test_case_90_a_rebound_name_reads_nothing() -> None:
    async def body() -> None:
        async with fleet() as f:
            for path in [*ADMIN, "/api/decisions", "/no/such/page"]:
                for host in (
                    "evil.example",
                    f"evil.example:{f.admin[1]}",
                    "[::1].evil.example",
                    "127.0.0.1@evil.example",
                ):
                    answer = await to_admin(f, f"GET {path} HTTP/1.1\nHost: {host}\n\n")
                    assert answer.status == 403, (path, host)
                    assert b"fairlead_" not in answer.raw
            assert (await to_admin(f, "GET /metrics HTTP/1.1\nHost: 127.0.0.1\n\n")).status == 200

    run(body)


def test_case_90_admin_allows_no_other_origin_to_ask() -> None:
    async def body() -> None:
        async with fleet() as f:
            asked = "Access-Control-Request-Method: POST\nAccess-Control-Request-Headers: content-type\n"
            answer = await to_admin(
                f, f"OPTIONS /api/policy HTTP/1.1\nHost: 127.0.0.1\nOrigin: http://evil.example\n{asked}\n"
            )
            assert answer.status in (403, 405)
            assert not [key for key, _ in answer.fields if key.startswith("access-control-")]

    run(body)


LONG = {
    "101 fields": (b"GET /v1/x HTTP/1.1\r\n" + HOST + b"X: y\r\n" * 100 + b"\r\n", 431, "too_many_fields"),
    "64 KiB head": (b"GET /v1/x HTTP/1.1\r\n" + HOST + b"X: " + b"y" * 65_536 + b"\r\n\r\n", 431, "head_too_long"),
    "endless head": (b"GET /v1/x HTTP/1.1\r\n" + HOST + b"X: " + b"y" * 66_000, 431, "head_too_long"),
    "16 KiB target": (b"GET /" + b"x" * 16_384 + b" HTTP/1.1\r\n" + HOST + b"\r\n", 414, "target_too_long"),
    "16 KiB query": (b"GET /v1/x?" + b"x" * 16_384 + b" HTTP/1.1\r\n" + HOST + b"\r\n", 414, "target_too_long"),
}  # fmt: skip


@pytest.mark.parametrize("name", list(LONG))
@pytest.mark.parametrize("size", [1 << 20, 1_000], ids=["whole", "in pieces"])
def test_case_95_long_heads_are_refused_here(name: str, size: int) -> None:
    data, status, reason = LONG[name]

    async def body() -> None:
        async with fleet() as f:
            client = await f.dial()
            await client.drip(data, size)
            answer = await client.answer()
            assert (answer.status, answer.field("connection")) == (status, "close")
            assert json.loads(answer.body)["error"]["code"] == reason
            assert not f.seen
            assert f.app.recorder.refusals[reason] == 1
            assert (await f.logged(1))[0]["error"] == reason

    run(body)


def test_case_95_what_just_fits_is_served() -> None:
    async def body() -> None:
        async with fleet() as f:
            assert (await f.get(b"GET /v1/x HTTP/1.1\r\n" + HOST + b"X: y\r\n" * 99 + b"\r\n", "GET")).status == 200
            assert (await f.get(b"GET /" + b"x" * 16_383 + b" HTTP/1.1\r\n" + HOST + b"\r\n", "GET")).status == 200
            long = b"GET /v1/x HTTP/1.1\r\n" + HOST + b"X: "
            assert (await f.get(long + b"y" * (65_536 - len(long)) + b"\r\n\r\n", "GET")).status == 200

    run(body)


EVIL = [
    "a\r\nforged",
    "a\nforged",
    "\x1b[31mred\x1b[0m",
    "\x9b31mred",
    "a\x00b",
    "a\x7fb",
    "\u2028next",
    'quo"te',
    "back\\slash",
]
CONTROLS = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029]")


@pytest.mark.parametrize("format", ["text", "json", "combined", "template"])
def test_case_95_nothing_from_a_client_forges_a_line_of_the_log(format: str) -> None:
    lines: list[str] = []
    line_of = renderer(format, "$remote_addr $request_path [$model] $request_id")

    async def body() -> None:
        async with fleet() as f:
            f.app.recorder._sinks = (*f.app.recorder._sinks, lambda record: lines.append(line_of(record, 1e9)))
            for number, evil in enumerate(EVIL):
                fields = 'User-Agent: x\t"y\\ \xe9\x9b31m\r\nX-Request-Id: a%0d%0aforged id\r\n'
                text = json.dumps({"model": evil, "messages": []}).encode()
                client = await f.dial()
                await client.send(
                    ask(f"n{number}", body=text).replace(b"X-Nonce", fields.encode("latin-1") + b"X-Nonce")
                )
                answer = await client.answer()
                client.close()
                assert answer.status == 404, "a model that nobody has"
                assert re.fullmatch(r"[A-Za-z0-9._-]{1,128}", answer.field("x-request-id") or "")
            for path in ("/v1/%0d%0aforged", "/v1/%1b[31m", '/v1/"quoted"="x"'):
                await f.get(ask(target=path, method="GET", body=b""), "GET")

    run(body)
    assert len(lines) == len(EVIL) + 3
    for line in lines:
        assert line.endswith("\n")
        assert not CONTROLS.search(line[:-1]), line
        assert line.isprintable() or line[:-1].isprintable()
        if format == "json":
            assert set(json.loads(line)) >= {"path", "model", "id"}


def test_case_95_the_json_log_keeps_what_was_said() -> None:
    record = Record()
    record.model = "".join(EVIL)
    assert json.loads(json_line(record, 0.0))["model"] == record.model
