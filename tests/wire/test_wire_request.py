"""Request heads: what is refused, what is read, and that two other parsers read all that we accept alike.

The judges are llhttp (httptools) and h11. Both are laxer than we are in places; so the law goes one way: a head
that we accept is accepted by both, with the same method, target, fields and body framing.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import Any

import h11
import httptools
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairlead.wire.fields import BadHttp
from fairlead.wire.http1 import METHODS, RequestHead, check_partial, parse_request

BODY = b"twelve bytes"


@dataclass
class Read:
    """A request as one parser reads it."""

    method: bytes = b""
    target: bytes = b""
    fields: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: bytes = b""
    whole: bool = False


class _Callbacks:
    def __init__(self) -> None:
        self.read = Read()

    def on_url(self, url: bytes) -> None:
        self.read.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.read.fields.append((name.lower(), value))

    def on_body(self, data: bytes) -> None:
        self.read.body += data

    def on_message_complete(self) -> None:
        self.read.whole = True


def by_llhttp(data: bytes) -> Read | None:
    callbacks = _Callbacks()
    parser = httptools.HttpRequestParser(callbacks)
    try:
        parser.feed_data(data)
    except httptools.HttpParserUpgrade:
        return None
    except httptools.HttpParserError:
        return None
    callbacks.read.method = parser.get_method()
    return callbacks.read


def by_h11(data: bytes) -> Read | None:
    judge = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    judge.receive_data(data)
    read = Read()
    try:
        while True:
            got: Any = judge.next_event()
            if isinstance(got, h11.Request):
                read.method, read.target = got.method, got.target
                read.fields = list(got.headers)
            elif isinstance(got, h11.Data):
                read.body += bytes(got.data)
            elif isinstance(got, h11.EndOfMessage):
                read.whole = True
                return read
            else:
                return read
    except h11.RemoteProtocolError:
        return None


def framed(head: RequestHead) -> bytes:
    """A body as the head announces it."""
    if head.chunked:
        return b"c\r\n" + BODY + b"\r\n0\r\n\r\n"
    return (BODY * 20)[: head.content_length or 0]


def assert_all_agree(raw: bytes) -> None:
    """Both judges read an accepted head, with its body, as we do."""
    ours = parse_request(raw)
    body = framed(ours)
    data = raw + b"\r\n\r\n" + body
    payload = BODY if ours.chunked else body
    for judge in (by_llhttp, by_h11):
        theirs = judge(data)
        assert theirs is not None, f"{judge.__name__} refuses what we accept: {raw!r}"
        assert theirs.method == ours.method
        assert theirs.target.endswith(ours.target), (theirs.target, ours.target)
        assert (theirs.whole, theirs.body) == (True, payload), f"{judge.__name__} frames it differently: {raw!r}"
        values = [(name, value.strip(b" \t")) for name, value in theirs.fields]
        for line in ours.lines:
            name, _, value = line.partition(b":")
            assert (name.lower(), value.strip(b" \t")) in values
        assert [v for n, v in values if n == b"via"] == ours.via


GOOD = [
    b"GET / HTTP/1.1\r\nHost: a",
    b"GET / HTTP/1.1\r\nHost:",
    b"GET /a?b=c&d=%20 HTTP/1.1\r\nhost: a:80\r\nAccept: */*",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 12\r\nContent-Type: application/json",
    b"POST / HTTP/1.1\r\nHost: a\r\ncontent-length:  012  ",
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked",
    b"POST / HTTP/1.1\r\nHost: a\r\ntransfer-encoding:\tChunked ",
    b"PUT / HTTP/1.1\r\nHost: [::1]:8000\r\nX-Empty:\r\nX-Tab:\ta\tb\t",
    b"DELETE /x HTTP/1.0",
    b"GET / HTTP/1.0\r\nConnection: keep-alive",
    b"POST / HTTP/1.0\r\nContent-Length: 5",
    b"GET http://a.example:81/b HTTP/1.1\r\nHost: c",
    b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close, X-A\r\nX-A: 1\r\nVia: 1.1 x\r\nVia: 1.0 y",
    b'PATCH / HTTP/1.1\r\nHost: a\r\nX-Obs: caf\xe9\r\nX-B: "quoted, string"; a=b',
    b"OPTIONS /x HTTP/1.1\r\nHost: a-b_c.d",
    b"HEAD /x HTTP/1.1\r\nHost: a\r\n!#$%&'*+-.^_`|~09: token",
]


@pytest.mark.parametrize("raw", GOOD)
def test_good_heads_are_read_alike_by_all(raw: bytes) -> None:
    assert_all_agree(raw)
    again = parse_request(raw)  # and alike when it was seen before
    first = parse_request(raw)
    for name in ("method", "target", "minor", "host", "content_length", "chunked", "keep_alive", "lines", "via"):
        assert getattr(first, name) == getattr(again, name)


NAMES = [b"Host", b"host", b"Content-Length", b"content-length", b"CONTENT-LENGTH", b"Transfer-Encoding", b"Connection",
         b"X-A", b"x-b", b"Via", b"Expect", b"TE", b"Content-Type", b"X-Request-Id", b"Cookie", b"X A", b"", b" X",
         b"X\xff", b"Content-Length ", b"Upgrade", b"Keep-Alive"]  # fmt: skip
VALUES = [b"a", b"", b"0", b"5", b"12", b"05", b"+5", b"5,5", b"0x5", b"5 5", b"chunked", b"Chunked", b"gzip, chunked",
          b"identity", b"close", b"keep-alive", b"X-A", b"host", b"a:80", b"a b", b"[::1]", b"100-continue", b"1.1 x",
          b"a\tb", b"\xe9", b"a\x00", b"a\rb", b"a\nb", b"\x0b5", b"application/json", b"a;b=c",
          b"99999999999999999999"]  # fmt: skip
LINES = ([b"GET", b"POST", b"HEAD", b"get", b"", b"CONNECT", b"PUT"],
         [b"/", b"/a?b", b"*", b"http://a/b", b"/#", b"a:1", b"/ b"],
         [b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0", b"HTTP/1.2", b"http/1.1", b""])  # fmt: skip


@st.composite
def heads(draw: st.DrawFn) -> bytes:
    """Heads of which many are good and many nearly so."""
    mostly = st.integers(0, 9)
    first = [parts[0] if draw(mostly) < 7 else draw(st.sampled_from(parts)) for parts in LINES]
    lines = [b" ".join(first)]
    if draw(mostly) < 9:
        lines.append(b"Host: a")
    for _ in range(draw(st.integers(0, 5))):
        name, value = draw(st.sampled_from(NAMES)), draw(st.sampled_from(VALUES))
        lines.append(
            name + draw(st.sampled_from([b": ", b":", b":  ", b":\t"])) + value + draw(st.sampled_from([b"", b" "]))
        )
    raw = b"\r\n".join(lines)
    if draw(mostly) == 0:
        at = draw(st.integers(0, len(raw)))
        raw = raw[:at] + draw(st.binary(min_size=1, max_size=2)) + raw[at:]
    return raw


@settings(max_examples=500, deadline=None)
@given(raw=heads())
def test_what_we_accept_others_read_alike(raw: bytes) -> None:
    if b"\r\n\r\n" in raw:
        return  # that is the end of a head, not a part of one
    try:
        parse_request(raw)
    except BadHttp as problem:
        if problem.status not in (400, 405, 414, 417, 431, 501, 505) or not (problem.reason and problem.message):
            raise
        return
    assert_all_agree(raw)


@settings(max_examples=250, deadline=None)
@given(raw=st.binary(max_size=80) | st.binary(max_size=60).map(lambda tail: b"GET / HTTP/1.1\r\nHost: a\r\n" + tail))
def test_random_bytes_raise_nothing_but_badhttp(raw: bytes) -> None:
    with contextlib.suppress(BadHttp):
        check_partial(raw)
        parse_request(raw)


@settings(max_examples=150, deadline=None)
@given(first=heads(), second=heads())
def test_a_head_means_the_same_whatever_was_read_before(first: bytes, second: bytes) -> None:
    def verdict(raw: bytes) -> tuple[object, ...]:
        try:
            head = parse_request(raw)
        except BadHttp as problem:
            return (problem.status, problem.reason, problem.message)
        return (
            head.method,
            head.target,
            head.host,
            head.content_length,
            head.chunked,
            head.keep_alive,
            list(head.lines),
        )

    before = verdict(second)
    for raw in (first, first + b"\r\nContent-Length: 3", second):
        verdict(raw)
    assert verdict(second) == before


def test_limits_are_those_of_the_call_and_not_of_the_one_before() -> None:
    raw = b"POST /" + b"x" * 50 + b" HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 10 + b"Content-Length: 5"
    for _ in range(2):
        assert parse_request(raw, 100, 100).content_length == 5
    with pytest.raises(BadHttp) as caught:
        parse_request(raw, 5, 100)
    assert caught.value.status == 431
    with pytest.raises(BadHttp) as caught:
        parse_request(raw, 100, 20)
    assert caught.value.status == 414


def test_lines_are_forwarded_as_they_are_or_not_at_all() -> None:
    head = parse_request(
        b"POST /v1 HTTP/1.1\r\nHost: a\r\nX-Odd:  a , b\t\r\nauthorization: Bearer k\r\nContent-Length: 3\r\n"
        b"TE: trailers\r\nUpgrade: x\r\nKeep-Alive: 1\r\nProxy-Authorization: p\r\nX-Fairlead-Foo: 1\r\n"
        b"Connection: X-Gone\r\nx-gone: 1\r\nX-Request-Id: r-1\r\nVia: 1.1 v\r\nContent-Type: text/plain"
    )
    assert head.lines == [b"X-Odd:  a , b\t", b"authorization: Bearer k", b"Via: 1.1 v", b"Content-Type: text/plain"]
    assert (head.request_id, head.content_length) == (b"r-1", 3)
    assert head.field(b"authorization") == b"Bearer k"
    assert head.field(b"missing") is None
    assert head.keep_alive


@pytest.mark.parametrize(("fields", "minor", "alive"), [
    (b"", 1, True), (b"", 0, False), (b"Connection: close", 1, False), (b"Connection: keep-alive", 0, True),
    (b"Connection: Keep-Alive, close", 0, False), (b"Connection: close, keep-alive", 0, False),
    (b"Connection: CLOSE", 1, False), (b"Connection: keep-alive\r\nConnection: close", 1, False),
    (b"Connection: , ,", 1, True), (b"Connection: x , close", 1, False),
])  # fmt: skip
def test_keep_alive(fields: bytes, minor: int, alive: bool) -> None:
    raw = b"GET / HTTP/1.%d\r\nHost: a" % minor + (b"\r\n" + fields if fields else b"")
    assert parse_request(raw).keep_alive is alive
    length = raw + b"\r\nContent-Length: 0"
    assert [parse_request(length).keep_alive for _ in range(2)] == [alive, alive]


def test_methods_and_limits() -> None:
    for method in METHODS:
        assert parse_request(method + b" / HTTP/1.1\r\nHost: a").method == method
    for raw, status in (
        (b"TRACE / HTTP/1.1\r\nHost: a", 405), (b"PROPFIND / HTTP/1.1\r\nHost: a", 501),
        (b"GET / HTTP/2.0\r\nHost: a", 505),
        (b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: a", 414), (b"G" * 20_000, 414),
        (b"GET / HTTP/1.1\r\nHost: a" + b"\r\nX: y" * 100, 431), (b"GET / HTTP/1.1\r\nHost: a\r\nExpect: x", 417),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip", 501), (b"GET / HTTP/1.1", 400),
    ):  # fmt: skip
        with pytest.raises(BadHttp) as caught:
            parse_request(raw)
        assert caught.value.status == status, raw[:60]


def test_a_partial_head_with_a_bare_lf_is_refused_early_and_others_wait() -> None:
    for data in (b"GET / HTTP/1.1\n", b"GET /\r\nHost: a\nX", b"\n", b"a\r\n\n"):
        with pytest.raises(BadHttp):
            check_partial(data)
    for data in (b"", b"G", b"GET / HTTP/1.1\r\nHost: a\r\n", b"GET / HTTP/1.1\r", b"a\r\nb\r\n"):
        check_partial(data)
