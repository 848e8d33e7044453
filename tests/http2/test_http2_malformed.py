"""Malformed requests end their own stream and reach no engine; what HTTP/1 refuses is refused with the same answer."""

from __future__ import annotations

import json

import pytest
from h2.exceptions import ProtocolError
from h2.utilities import HeaderValidationFlags, validate_headers
from http2_peer import Fields, dial2, head
from hypothesis import given
from hypothesis import strategies as st
from peers import run
from running import fleet

from fairlead.wire.fields import BadHttp
from fairlead.wire.http2 import Malformed, request_head

RIGHT = head(b"GET", b"/v1/x")
GET = (b":method", b"GET")
SCHEME = (b":scheme", b"http")
PATH = (b":path", b"/v1/x")
HOST = (b":authority", b"test")

MALFORMED: dict[str, Fields] = {
    "no_method": [SCHEME, PATH, HOST],
    "no_scheme": [GET, PATH, HOST],
    "no_path": [GET, SCHEME, HOST],
    "empty_path": [GET, SCHEME, (b":path", b""), HOST],
    "no_authority": [GET, SCHEME, PATH],
    "empty_authority": [GET, SCHEME, PATH, (b":authority", b"")],
    "two_paths": [*RIGHT, PATH],
    "two_methods": [GET, *RIGHT],
    "pseudo_behind_a_field": [GET, SCHEME, HOST, (b"x-a", b"1"), PATH],
    "pseudo_behind_a_cookie": [GET, SCHEME, HOST, (b"cookie", b"a=1"), PATH],
    "pseudo_behind_host": [GET, SCHEME, (b"host", b"test"), PATH],
    "unknown_pseudo": [*RIGHT, (b":evil", b"1")],
    "status": [*RIGHT, (b":status", b"200")],
    "protocol": [*RIGHT, (b":protocol", b"websocket")],
    "other_host": [*RIGHT, (b"host", b"other")],
    "two_hosts": [*RIGHT, (b"host", b"test"), (b"host", b"test")],
    "capitals": [*RIGHT, (b"X-A", b"1")],
    "space_in_name": [*RIGHT, (b"x a", b"1")],
    "colon_in_name": [*RIGHT, (b"x:a", b"1")],
    "newline_in_name": [*RIGHT, (b"x\r\ny", b"1")],
    "empty_name": [*RIGHT, (b"", b"1")],
    "newline_in_value": [*RIGHT, (b"x-a", b"1\r\ntransfer-encoding: chunked")],
    "bare_lf_in_value": [*RIGHT, (b"x-a", b"1\nx: y")],
    "nul_in_value": [*RIGHT, (b"x-a", b"1\0")],
    "space_before_value": [*RIGHT, (b"x-a", b" 1")],
    "tab_behind_value": [*RIGHT, (b"x-a", b"1\t")],
    "newline_in_path": [GET, SCHEME, HOST, (b":path", b"/ HTTP/1.1\r\nx: y")],
    "connection": [*RIGHT, (b"connection", b"x-a")],
    "keep_alive": [*RIGHT, (b"keep-alive", b"1")],
    "proxy_connection": [*RIGHT, (b"proxy-connection", b"close")],
    "transfer_encoding": [*RIGHT, (b"transfer-encoding", b"chunked")],
    "upgrade": [*RIGHT, (b"upgrade", b"h2c")],
    "te_gzip": [*RIGHT, (b"te", b"gzip")],
}

REFUSED: dict[str, tuple[Fields, int]] = {
    "connect": ([(b":method", b"CONNECT"), HOST], 501),
    "extended_connect": ([(b":method", b"CONNECT"), SCHEME, PATH, HOST], 501),
    "trace": ([(b":method", b"TRACE"), SCHEME, PATH, HOST], 405),
    "lower_case_method": ([(b":method", b"get"), SCHEME, PATH, HOST], 501),
    "method_with_a_space": ([(b":method", b"GET /x"), SCHEME, PATH, HOST], 400),
    "other_scheme": ([GET, (b":scheme", b"ftp"), PATH, HOST], 400),
    "asterisk": ([(b":method", b"OPTIONS"), SCHEME, (b":path", b"*"), HOST], 400),
    "absolute_path": ([GET, SCHEME, (b":path", b"http://other/"), HOST], 400),
    "space_in_path": ([GET, SCHEME, (b":path", b"/a b"), HOST], 400),
    "fragment": ([GET, SCHEME, (b":path", b"/a#b"), HOST], 400),
    "long_path": ([GET, SCHEME, (b":path", b"/" + b"a" * 17_000), HOST], 414),
    "bad_authority": ([GET, SCHEME, PATH, (b":authority", b"user@test")], 400),
    "unknown_expectation": ([*RIGHT, (b"expect", b"cake")], 417),
    "control_character": ([*RIGHT, (b"x-a", b"a\x01b")], 400),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_requests_end_their_stream_alone(name: str) -> None:
    async def body() -> None:
        async with fleet(1) as f:
            client = await dial2(f.address)
            got = await client.answer(client.begin(MALFORMED[name], end=True))
            assert (got.reset, got.fields) == (1, [])  # PROTOCOL_ERROR
            assert (await client.answer(client.get())).status == 200
            assert not f.seen
            assert f.app.recorder.refusals["bad_framing"] == 1
            assert [line["error"] for line in await f.logged(1)] == ["bad_framing"]
            client.close()

    run(body)


@pytest.mark.parametrize("name", REFUSED)
def test_what_http1_refuses_is_refused_with_the_same_answer(name: str) -> None:
    fields, status = REFUSED[name]

    async def body() -> None:
        async with fleet(1) as f:
            client = await dial2(f.address)
            got = await client.answer(client.begin(fields, end=True))
            assert (got.status, got.ended) == (status, True)
            assert json.loads(got.body)["error"]["code"]
            assert (await client.answer(client.get())).status == 200
            assert not f.seen
            client.close()

    run(body)


@pytest.mark.parametrize(("said", "sent"), [(b"5", 4), (b"5", 6), (b"+5", 5), (b"", 0), (b"5,5", 5)])
def test_a_length_that_is_not_that_of_the_body_ends_the_connection(said: bytes, sent: int) -> None:
    async def body() -> None:
        async with fleet(1) as f:
            client = await dial2(f.address)
            id = client.begin(head(b"POST", b"/v1/x", (b"content-length", said)))
            client.send(id, b"x" * sent, end=True)
            assert (await client.gone())[1] == 1
            assert not f.seen
            assert f.app.service.memory.used == 0

    run(body)


def test_two_lengths_are_refused() -> None:
    async def body() -> None:
        async with fleet(1) as f:
            client = await dial2(f.address)
            fields = head(b"POST", b"/v1/x", (b"content-length", b"1"), (b"content-length", b"1"))
            assert (await client.answer(client.begin(fields))).status == 400
            assert not f.seen
            client.close()

    run(body)


_names = st.sampled_from(
    [
        b":method",
        b":path",
        b":scheme",
        b":authority",
        b":status",
        b"host",
        b"te",
        b"connection",
        b"x-a",
        b"X",
        b"x:y",
        b"",
        b"cookie",
    ]
)
_values = st.one_of(st.sampled_from([b"GET", b"/", b"http", b"test", b"trailers"]), st.binary(max_size=6))


@given(st.lists(st.tuples(_names, _values), max_size=8))
def test_whatever_the_library_would_refuse_we_refuse(fields: Fields) -> None:
    flags = HeaderValidationFlags(is_client=False, is_trailer=False, is_response_header=False, is_push_promise=False)
    try:
        list(validate_headers(fields, flags))
    except ProtocolError:
        with pytest.raises((Malformed, BadHttp)):
            request_head(fields)


@given(st.lists(st.tuples(st.from_regex(rb"[a-z-]{1,8}", fullmatch=True), st.binary(max_size=12)), max_size=5))
def test_no_field_becomes_two_on_its_way_down(more: Fields) -> None:
    try:
        got = request_head([*RIGHT, *more])
    except (Malformed, BadHttp):
        return
    assert len(got.lines) <= len(more)
    assert got.forward.count(b"\r\n") == got.forward.count(b"\n") == len(got.lines)
