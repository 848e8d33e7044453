"""Response heads of engines: read strictly, judged by two other parsers, and 502 when they cannot be trusted."""

from __future__ import annotations

import h11
import httptools
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairlead.wire.fields import BadHttp
from fairlead.wire.http1 import ResponseHead, parse_response

BODY = b"twelve bytes"


class _Callbacks:
    def __init__(self) -> None:
        self.fields: list[tuple[bytes, bytes]] = []
        self.body = b""
        self.whole = False

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name.lower(), value))

    def on_body(self, data: bytes) -> None:
        self.body += data

    def on_message_complete(self) -> None:
        self.whole = True


def framed(head: ResponseHead) -> bytes:
    if head.chunked:
        return b"c\r\n" + BODY + b"\r\n0\r\n\r\n"
    return BODY if head.content_length is None else (BODY * 20)[: head.content_length]


def assert_all_agree(raw: bytes) -> None:
    ours = parse_response(raw)
    if ours.status < 200 or ours.status in (204, 304):
        return
    if (ours.content_length or 0) > len(BODY) * 20:
        return
    body = framed(ours)
    payload = BODY if ours.chunked else body
    data = raw + b"\r\n\r\n" + body

    callbacks = _Callbacks()
    parser = httptools.HttpResponseParser(callbacks)
    parser.feed_data(data)
    assert (parser.get_status_code(), callbacks.body) == (ours.status, payload), raw

    judge = h11.Connection(h11.CLIENT)
    judge.send(h11.Request(method="GET", target="/", headers=[("host", "a")]))
    judge.send(h11.EndOfMessage())
    judge.receive_data(data)
    if not ours.chunked and ours.content_length is None:
        judge.receive_data(b"")
    got = judge.next_event()
    assert isinstance(got, h11.Response), raw
    assert got.status_code == ours.status
    said = b""
    while isinstance(got := judge.next_event(), h11.Data):
        said += bytes(got.data)
    assert isinstance(got, h11.EndOfMessage), raw
    assert said == payload


OK = b"HTTP/1.1 200 OK\r\n"
GOOD = [
    OK + b"Content-Length: 12", OK + b"content-length: 0", OK + b"Transfer-Encoding: chunked", b"HTTP/1.1 200 OK",
    OK + b"Content-Length: 007\r\nContent-Type: text/event-stream; charset=utf-8",
    b"HTTP/1.0 200 OK\r\nContent-Length: 3",
    b"HTTP/1.1 404 Not Found\r\nContent-Length: 5", b"HTTP/1.1 599 \r\nContent-Length: 0", OK + b"X-A:\r\nX-B:\t a\t",
    OK + b"Connection: close\r\nContent-Length: 2", OK + b"Set-Cookie: a=1\r\nSet-Cookie: b=2\r\nContent-Length: 1",
]  # fmt: skip


@pytest.mark.parametrize("raw", GOOD)
def test_good_heads_are_read_alike_by_all(raw: bytes) -> None:
    for _ in range(2):
        assert_all_agree(raw)


BAD = [
    b"", b"HTTP/1.1", b"HTTP/1.1 ", b"HTTP/1.1 2", b"HTTP/1.1 20", b"HTTP/1.1 2000 OK", b"HTTP/1.1 099 X",
    b"HTTP/1.1 600 X",
    b"HTTP/2 200 OK", b"HTTP/1.2 200 OK", b"http/1.1 200 OK", b"HTTP/1.1  200 OK", b"HTTP/1.1 200OK",
    b"HTTP/1.1 200 O\x00K",
    b" HTTP/1.1 200 OK", b"ICY 200 OK", b"HTTP/1.1 200 OK\r\n", OK + b"nocolon", OK + b" X: folded", OK + b"X : a",
    OK + b": a",
    OK + b"X: a\x00", OK + b"X: a\rb", OK + b"X: a\nb", OK + b"X\xff: a",
    OK + b"Content-Length: 5\r\nContent-Length: 5",
    OK + b"Content-Length: 5, 5", OK + b"Content-Length: +5", OK + b"Content-Length: ",
    OK + b"Content-Length: 9" + b"9" * 20,
    OK + b"Content-Length: 5\r\nTransfer-Encoding: chunked",
    OK + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
    OK + b"Transfer-Encoding: gzip", OK + b"Transfer-Encoding: chunked, gzip", OK + b"Transfer-Encoding: ",
    b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked", OK + b"X: y\r\n" * 200 + b"X: y",
]  # fmt: skip


@pytest.mark.parametrize("raw", BAD, ids=[repr(raw[-40:]) for raw in BAD])
def test_bad_heads_are_the_backends_fault(raw: bytes) -> None:
    for _ in range(2):
        with pytest.raises(BadHttp) as caught:
            parse_response(raw)
        assert (caught.value.status, caught.value.reason) == (502, "bad_response")


def accepted(raw: bytes) -> bool:
    """Is it? If not, it is the backend's fault, and nothing else is raised."""
    try:
        parse_response(raw)
    except BadHttp as problem:
        if (problem.status, problem.reason) != (502, "bad_response"):
            raise
        return False
    return True


PARTS = st.lists(
    st.sampled_from([
        b"Content-Length: 5", b"content-length: 12", b"Content-Length: x", b"Transfer-Encoding: chunked",
        b"Connection: close",
        b"Connection: keep-alive, X-A", b"X-A: 1", b"Content-Type: text/event-stream", b"X-B: \xe9", b"X: \x01",
        b"Bad Name: 1",
        b"Set-Cookie: a", b"Transfer-Encoding: gzip", b" fold", b"Keep-Alive: 5",
    ]),
    max_size=4,
)  # fmt: skip
FIRST = st.sampled_from(
    [b"HTTP/1.1 200 OK", b"HTTP/1.1 200 OK", b"HTTP/1.0 200 OK", b"HTTP/1.1 404 ", b"HTTP/1.1 999 X", b"x"]
)


@settings(max_examples=250, deadline=None)
@given(first=FIRST, lines=PARTS, noise=st.binary(max_size=3), at=st.integers(0, 60), noisy=st.integers(0, 5))
def test_what_we_accept_others_read_alike(first: bytes, lines: list[bytes], noise: bytes, at: int, noisy: int) -> None:
    raw = b"\r\n".join([first, *lines])
    if not noisy:
        raw = raw[:at] + noise + raw[at:]
    if b"\r\n\r\n" in raw or raw.endswith(b"\r\n"):
        return
    if accepted(raw):
        assert_all_agree(raw)


@settings(max_examples=300, deadline=None)
@given(raw=st.binary(max_size=80) | st.binary(max_size=60).map(lambda tail: OK + tail))
def test_random_bytes_raise_nothing_but_badhttp(raw: bytes) -> None:
    accepted(raw)


def test_what_goes_on_and_what_ends_here() -> None:
    head = parse_response(
        b"HTTP/1.1 201 Made it\r\nServer: uvicorn\r\nX-Own:  a \r\nConnection: X-Gone, keep-alive\r\nx-gone: 1\r\n"
        b"Keep-Alive: timeout=5\r\nProxy-Authenticate: x\r\nUpgrade: h2c\r\nX-Request-Id: theirs\r\n"
        b"Content-Length: 4\r\nContent-Type: application/json"
    )
    assert head.lines == [b"Server: uvicorn", b"X-Own:  a ", b"Content-Type: application/json"]
    assert (head.status, head.reason, head.content_length, head.keep_alive) == (201, b"201 Made it", 4, True)


@pytest.mark.parametrize(("raw", "alive"), [
    (OK + b"Content-Length: 0", True), (OK + b"Connection: close", False), (OK + b"Connection: Close, x", False),
    (b"HTTP/1.0 200 OK\r\nContent-Length: 0", False), (b"HTTP/1.0 200 OK\r\nConnection: keep-alive", True),
    (OK + b"Connection: close, keep-alive", False), (OK + b"Connection: keep-alive\r\nConnection: close", False),
])  # fmt: skip
def test_keep_alive(raw: bytes, alive: bool) -> None:
    assert parse_response(raw).keep_alive is alive
