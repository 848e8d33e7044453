"""What is sent, and what must come of it? The cases 1 to 14, spelled out byte by byte.

One table for the tests (tests/faults/test_conformance_*.py) and for the comparison (`python -m bench.conformance`), so
that what docs/conformance.md promises is what is tested. Pure data: nothing is sent from here.
Rule 1: every payload begins on a connection of its own.
Rule 2: `%NONCE` is replaced by the sender, in what the client says and in what the engine says, so that an answer can
be told to be that of its request.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

CHAT = b"/v1/chat/completions"
POST = b"POST " + CHAT + b" HTTP/1.1\r\n"
GET = b"GET /v1/thing HTTP/1.1\r\n"
HOST = b"Host: test\r\n"
NONCE = b"X-Nonce: %NONCE\r\n"
BODY = b'{"model":"m"}'
LENGTH = b"Content-Length: %d\r\n" % len(BODY)
CHUNKED = b"Transfer-Encoding: chunked\r\n"
LAST = b"0\r\n\r\n"


@dataclass(frozen=True)
class Payload:
    """Bytes of a client, and the only right verdict on them."""

    case: int
    name: str
    sent: bytes
    statuses: tuple[int, ...] = (400,)  # of the answers, in order
    reason: str = "bad_framing"  # what Fairlead counts and logs; "" where nothing is refused
    seen: int = 0  # requests that reach an engine
    closed: bool = True  # is the connection closed after the last answer?
    also: tuple[int, ...] = ()  # statuses that do as well in place of the last one
    said: bytes = b""  # what the engine answers, where that is the case; else 200
    kept: bool = True  # may the connection to the engine be used again?
    dropping: bool = False  # would another proxy be as safe if it served this without what says "evil"?

    @property
    def id(self) -> str:
        return f"{self.case}: {self.name}"


def answer(body: bytes = b"{}", *, status: bytes = b"200 OK", fields: bytes = b"", version: bytes = b"1.1") -> bytes:
    """A whole answer of an engine."""
    head = b"HTTP/%b %b\r\nX-Nonce: %%NONCE\r\n%bContent-Length: %d\r\n\r\n"
    return head % (version, status, fields, len(body)) + body


def good(nonce: bytes = b"%NONCE", fields: bytes = b"", line: bytes = POST) -> bytes:
    """A request that nobody refuses."""
    return b"%bHost: test\r\nX-Nonce: %b\r\n%bContent-Length: %d\r\n\r\n" % (line, nonce, fields, len(BODY)) + BODY


def shown(data: bytes) -> str:
    """Bytes as a short text for names and tables."""
    text = data.decode("latin-1").encode("unicode_escape").decode("ascii")
    return text if len(text) <= 44 else f"{text[:24]}... ({len(data)} bytes)"


def _case_1() -> Iterable[Payload]:
    pairs = {
        "length first": LENGTH + CHUNKED,
        "coding first": CHUNKED + LENGTH,
        "upper case": LENGTH.upper() + CHUNKED.upper(),
        "mixed case": b"content-LENGTH: 5\r\ntRANSFER-encoding: Chunked\r\n",
        "a field between them": LENGTH + b"X-A: b\r\n" + CHUNKED,
        "Content-Length: 0": b"Content-Length: 0\r\n" + CHUNKED,
    }
    for name, fields in pairs.items():
        yield Payload(1, name, POST + HOST + fields + b"\r\n" + LAST)


def _case_2() -> Iterable[Payload]:
    values = (
        b",chunked", b"xchunked", b"chunked, identity", b"chunked, chunked", b"chunked,", b"chunked;a", b"chunked a",
        b"gzip, chunked", b"\x0bchunked", b"chunked\x0b", b"chunked\x00", b"\xa0chunked", b"chunked\xa0", b'"chunked"',
        b"",
    )  # fmt: skip
    for value in values:
        yield Payload(2, shown(value) or "no value", POST + HOST + b"Transfer-Encoding: " + value + b"\r\n\r\n" + LAST)
    for value in (b"gzip", b"identity", b"br"):
        sent = POST + HOST + b"Transfer-Encoding: " + value + b"\r\n\r\n" + LAST
        yield Payload(2, shown(value), sent, (501,), "unknown_coding", also=(400,))
    rows = {
        "twice": CHUNKED * 2,
        "folded": b"Transfer-Encoding:\r\n chunked\r\n",
        "space before the colon": b"Transfer-Encoding : chunked\r\n",
    }
    for name, fields in rows.items():
        yield Payload(2, name, POST + HOST + fields + b"\r\n" + LAST)
    unknown = CHUNKED + b"transfer-encoding: identity\r\n"
    yield Payload(
        2, "twice, second unknown", POST + HOST + unknown + b"\r\n" + LAST, (501,), "unknown_coding", also=(400,)
    )
    yield Payload(2, "on HTTP/1.0", POST.replace(b"1.1", b"1.0") + HOST + CHUNKED + b"\r\n" + LAST)


def _case_3() -> Iterable[Payload]:
    values = (
        b"", b"+13", b"-1", b"0x0d", b"1_3", b"1Z", b"1 3", b"1,2", b"13, 13", b"13,", b"13;", b"13.0", b"\xb2",
        b"13\x0b", b"13\x00", b'"13"', b"1234567890123456789", b"9" * 400,
    )  # fmt: skip
    for value in values:
        sent = POST + HOST + b"Content-Length: " + value + b"\r\n\r\n" + BODY
        yield Payload(3, shown(value) or "no value", sent)
    rows = {
        "twice, alike": LENGTH * 2,
        "twice, other case": LENGTH + LENGTH.lower(),
        "twice, different": LENGTH + b"Content-Length: 14\r\n",
        "folded": b"Content-Length:\r\n 13\r\n",
        "space before the colon": b"Content-Length : 13\r\n",
    }
    for name, fields in rows.items():
        yield Payload(3, name, POST + HOST + fields + b"\r\n" + BODY)
    sent = POST + HOST + NONCE + b"Content-Length: 00013\r\n\r\n" + BODY
    yield Payload(3, "leading zeros", sent, (200,), "", seen=1, closed=False)


def _case_4() -> Iterable[Payload]:
    tails = (
        b"0xd\r\n", b"+d\r\n", b"-d\r\n", b"0_d\r\n", b" d\r\n", b"d \r\n", b"\td\r\n", b"\r\n", b";a\r\n",
        b"0000000000000000d\r\n", b"dg\r\n", b"d\n", b"d\r", b"d\rX", b"d;a\x00b\r\n", b"d;a\x7f\r\n", b"d;a\nb\r\n",
        b"d;a\rb\r\n", b"\xb2\r\n", b"d\x00\r\n", b"d ;a\r\n",
    )  # fmt: skip
    head = POST + HOST + CHUNKED + b"\r\n"
    for tail in tails:
        yield Payload(4, f"size {shown(tail)}", head + tail + BODY + b"\r\n" + LAST)
    whole = b"d\r\n" + BODY
    rows = {
        "data longer than its size": whole + b"X\r\n" + LAST,
        "no CRLF after the data": whole + LAST,
        "bare LF after the data": whole + b"\n" + LAST,
        "bare CR after the data": whole + b"\r" + LAST,
        "bare LF in the last chunk": whole + b"\r\n0\n\n",
        "one extension of 5,000 bytes": b"d;" + b"e" * 5_000 + b"\r\n" + BODY + b"\r\n" + LAST,
        "extensions of 5,000 bytes in all": (b"1;" + b"e" * 999 + b"\r\n{\r\n") * 5 + LAST,
        "a trailer without a colon": whole + b"\r\n0\r\nnocolon\r\n\r\n",
        "a trailer's name with a space": whole + b"\r\n0\r\nX Y: 1\r\n\r\n",
        "a trailer with a bare LF": whole + b"\r\n0\r\nX: a\nb\r\n\r\n",
        "a trailer with NUL": whole + b"\r\n0\r\nX: a\x00\r\n\r\n",
    }
    for name, tail in rows.items():
        yield Payload(4, name, head + tail)


def _case_5() -> Iterable[Payload]:
    lines = (
        b": empty name", b"X-Space : a", b"X-Tab\t: a", b"X Y: a", b"X(Y): a", b"X\xc3: a", b"X\x80: a", b"nocolon",
        b"X@Y: a", b"X,Y: a", b'"X": a', b"X\x00: a", b"\xef\xbb\xbfX: a", b" X-A: indented", b"X-A: a\x00b",
        b"X-A: a\rb", b"X-A: a\x01b", b"X-A: a\x7fb", b"X-A: a\x0bb", b"X-A: a\nX-B: b", b"X-A: a\r\n folded",
        b"X-A: a\r\n\tfolded", b"X-A: a\r\r\nX-B: b",
    )  # fmt: skip
    for line in lines:
        yield Payload(5, shown(line), POST + HOST + line + b"\r\n" + LENGTH + b"\r\n" + BODY)
    yield Payload(5, "the first line indented", POST + b" X: a\r\n" + HOST + LENGTH + b"\r\n" + BODY)
    head = (POST + HOST + LENGTH + b"\r\n").replace(b"\r\n", b"\n")
    yield Payload(5, "bare LF all over", head + BODY)
    yield Payload(5, "bare LF after Host", POST + b"Host: test\n" + LENGTH + b"\r\n" + BODY)
    yield Payload(5, "bare LF at the head's end", POST + HOST + LENGTH + b"\n" + BODY)


def _case_6() -> Iterable[Payload]:
    end = b"\r\n" + HOST + b"\r\n"
    lines = (
        b"GET /  HTTP/1.1", b"GET  / HTTP/1.1", b"GET\t/\tHTTP/1.1", b" GET / HTTP/1.1", b"GET / HTTP/1.1 ",
        b"GET /a b HTTP/1.1", b"GET /#part HTTP/1.1", b"GET * HTTP/1.1", b"OPTIONS * HTTP/1.1", b"GET a HTTP/1.1",
        b"GET /\x80 HTTP/1.1", b"GET / HTTP/1.1.1", b"GET / http/1.1", b"GET / HTTP/1.10", b"GET / HTTPS/1.1",
        b"GET /", b"GET HTTP/1.1", b"G(T / HTTP/1.1", b"GET ftp://a/ HTTP/1.1", b"GET http:///x HTTP/1.1",
        b"GET http://u@h/ HTTP/1.1", b"GET /\x00 HTTP/1.1",
    )  # fmt: skip
    for line in lines:
        yield Payload(6, shown(line), line + end)
    yield Payload(6, "no version at all", b"GET /\r\n\r\n")
    hosts = {
        "no Host": b"", "two Hosts": b"Host: a\r\nHost: b\r\n", "two Hosts alike": HOST * 2,
        "Host with a space": b"Host: a b\r\n", "Host with a path": b"Host: a/b\r\n",
        "Host with a user": b"Host: u@a\r\n", "Host with a word for a port": b"Host: a:b\r\n",
    }  # fmt: skip
    for name, field in hosts.items():
        yield Payload(6, name, GET + field + b"\r\n")
    for version in (b"2.0", b"3.0", b"0.9", b"1.2"):
        yield Payload(6, f"HTTP/{version.decode()}", b"GET / HTTP/" + version + end, (505,), "bad_version")
    for method in (b"get", b"PROPFIND", b"G"):
        yield Payload(6, f"method {method.decode()}", method + b" / HTTP/1.1" + end, (501,), "bad_method", also=(405,))
    for line in (b"TRACE / HTTP/1.1", b"CONNECT a:443 HTTP/1.1"):
        yield Payload(6, shown(line), line + end, (405,), "bad_method", also=(501,))
    sent = b"GET http://elsewhere:81/v1/thing HTTP/1.1\r\n" + HOST + NONCE + b"\r\n"
    yield Payload(6, "an absolute target", sent, (200,), "", seen=1, closed=False)


def _case_7() -> Iterable[Payload]:
    bad = POST + HOST + b"Content-Length: x\r\n\r\n"
    yield Payload(7, "two good ones, then a bad one", good() + good() + bad + good(), (200, 200, 400), seen=2)
    inner = good(b"inner")
    outer = b"POST /v1/other HTTP/1.1\r\n" + HOST + NONCE + b"Content-Length: %d\r\n\r\n" % len(inner) + inner
    yield Payload(7, "a request in a body", outer + good(), (200, 200), "", seen=2, closed=False)
    sent = good(fields=b"Connection: close\r\n") + good(b"never")
    yield Payload(7, "a request behind close", sent, (200,), "", seen=1)


def _case_8() -> Iterable[Payload]:
    # an early refusal while the body still comes: the client is still sending when it is answered
    sent = POST + HOST + b"Content-Length: 99999999999\r\n\r\n" + b"x" * 40_000
    yield Payload(8, "413 while the body comes", sent, (413,), "body_too_large")


def _case_9() -> Iterable[Payload]:
    expect = b"Expect: 100-continue\r\n"
    yield Payload(9, "the body came without waiting", good(fields=expect), (200,), "", seen=1, closed=False)
    old = POST.replace(b"1.1", b"1.0")
    yield Payload(9, "on HTTP/1.0", good(fields=expect, line=old), (200,), "", seen=1)
    yield Payload(
        9,
        "decided from the head",
        POST + HOST + expect + b"Content-Length: 99999999999\r\n\r\n",
        (413,),
        "body_too_large",
    )
    for value in (b"200-ok", b"100-continue, x", b"100-continue;a", b""):
        sent = good(fields=b"Expect: " + value + b"\r\n")
        yield Payload(9, f"Expect: {shown(value)}", sent, (417,), "bad_expect", also=(400,))


def _case_10() -> Iterable[Payload]:
    names = (
        b"host", b"Content-Length", b"transfer-encoding", b"content-type", b"content-encoding", b"authorization",
        b"x-api-key", b"cookie", b"x-tenant", b"X-Request-Id", b"expect", b"via", b"x-fairlead-x", b"X-Forwarded-For",
        b"forwarded", b"x-real-ip", b"x-gateway-destination-endpoint",
    )  # fmt: skip
    for name in names:
        yield Payload(10, f"Connection: {name.decode()}", good(fields=b"Connection: close, " + name + b"\r\n"))
    fields = b"Connection: X-Foo\r\nX-Foo: 1\r\nKeep-Alive: timeout=9\r\nTE: trailers\r\nUpgrade: websocket\r\n"
    yield Payload(10, "hop-by-hop fields", good(fields=fields), (200,), "", seen=1, closed=False)


def _case_11() -> Iterable[Payload]:
    get, head = GET + HOST + NONCE + b"\r\n", GET.replace(b"GET", b"HEAD") + HOST + NONCE + b"\r\n"
    evil = answer(b"evil", fields=b"X-Evil: 1\r\n").replace(b"%NONCE", b"evil")
    no_body = b"HTTP/1.1 204 No Content\r\nX-Nonce: %NONCE\r\n"
    rows: dict[str, tuple[bytes, int, bytes, bool]] = {
        "HEAD answered with a body": (head, 200, answer(b"evil"), False),
        "204 with a body": (get, 204, no_body + b"Content-Length: 4\r\n\r\nevil", False),
        "204 and a second answer": (get, 204, no_body + b"\r\n" + evil, False),
        "304 and a second answer": (get, 304, b"HTTP/1.1 304 Not Modified\r\nX-Nonce: %NONCE\r\n\r\n" + evil, False),
        "103 and then 200": (get, 200, b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + answer(), True),
        "Upgrade answered with 200": (
            get.replace(NONCE, NONCE + b"Connection: Upgrade\r\nUpgrade: websocket\r\n"), 200, answer(), True,
        ),
    }  # fmt: skip
    for name, (sent, status, said, kept) in rows.items():
        yield Payload(11, name, sent, (status,), "", seen=1, closed=False, said=said, kept=kept)
    switch = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nbytes"
    yield Payload(
        11, "101 that nobody asked for", get, (502,), "bad_response", seen=1, closed=False, said=switch, kept=False
    )


def _case_12() -> Iterable[Payload]:
    ok, end = b"HTTP/1.1 200 OK\r\nX-Nonce: %NONCE\r\n", b"\r\n\r\n{}"
    rows = {
        "length and coding": ok + b"Content-Length: 2\r\nTransfer-Encoding: chunked" + end,
        "two lengths": ok + b"Content-Length: 2\r\nContent-Length: 2" + end,
        "two lengths in one": ok + b"Content-Length: 2, 2" + end,
        "a negative length": ok + b"Content-Length: -2" + end,
        "a length that is no number": ok + b"Content-Length: x" + end,
        "chunked twice": ok + b"Transfer-Encoding: chunked, chunked" + end,
        "an unknown coding": ok + b"Transfer-Encoding: gzip, chunked" + end,
        "NUL in the head": ok + b"X-A: a\x00b\r\nContent-Length: 2" + end,
        "a folded line": ok + b"X-A: a\r\n folded\r\nContent-Length: 2" + end,
        "a bare LF": ok + b"X-A: a\nX-B: b\r\nContent-Length: 2" + end,
        "a space before the colon": ok + b"X-A : a\r\nContent-Length: 2" + end,
        "no HTTP": b"hello\r\n\r\n",
        "HTTP/2 in its status line": ok.replace(b"HTTP/1.1", b"HTTP/2") + b"Content-Length: 2" + end,
        "a head of 1 MiB": ok + b"X-Big: " + b"x" * (1 << 20) + b"\r\nContent-Length: 2" + end,
    }
    for name, said in rows.items():
        yield Payload(12, name, good(), (502,), "bad_response", seen=1, closed=False, said=said, kept=False)
    evil = answer(b"evil").replace(b"%NONCE", b"evil")
    for name, said in {
        "bytes behind the end": answer() + b"evil",
        "a second answer": answer() + evil,
        "a second answer behind chunks": ok + CHUNKED + b"\r\n2\r\n{}\r\n" + LAST + evil,
        "a second answer behind an empty one": answer(b"") + evil,
    }.items():
        yield Payload(12, name, good(), (200,), "", seen=1, closed=False, said=said, kept=False)


def _case_13() -> Iterable[Payload]:
    head = POST + HOST + NONCE + CHUNKED + b"\r\nd\r\n" + BODY + b"\r\n0\r\n"
    for trailer in (
        b"Content-Length: 99",
        b"Host: evil",
        b"Authorization: evil",
        b"Transfer-Encoding: evil",
        b"X-Benign: evil",
    ):
        yield Payload(13, f"trailer {shown(trailer)}", head + trailer + b"\r\n\r\n", (200,), "", seen=1, closed=False)


def _case_14() -> Iterable[Payload]:
    paths = (
        b"//v1/thing", b"/v1//thing", b"/v1/./thing", b"/v1/../thing", b"/v1/..", b"/v1/.", b"/v1/%2e%2e/thing",
        b"/v1/%2E/thing", b"/v1%2fthing", b"/v1%5cthing", b"/v1\\thing", b"/v1/thing%00", b"/v1/thing%0d%0aX-A:%20b",
        b"/v1/%c0%ae%c0%ae/thing", b"/v1/%e0%80%af", b"/v1/%f0%80%80%af", b"/v1/%ff", b"/v1/thing;x", b"/v1/thing%3bx",
        b"/v1/th%69ng", b"/v1/%", b"/v1/%zz", b"/v1/%252e%252e/thing", b"/v1/<thing>",
    )  # fmt: skip
    for path in paths:
        yield Payload(14, shown(path), b"GET " + path + b" HTTP/1.1\r\n" + HOST + b"\r\n")
    for name in (b"content_length", b"Transfer_Encoding", b"X_Api_Key", b"x_request_id", b"x_tenant", b"Content_Type"):
        yield Payload(14, f"{name.decode()} beside its twin", good(fields=name + b": evil\r\n"), dropping=True)
    for name in (b"X_Fairlead_Backend", b"X-Fairlead_Backend", b"X_Forwarded_For", b"x-real_ip"):
        sent = good(fields=name + b": evil\r\n")
        yield Payload(14, f"{name.decode()}, which is taken out", sent, (200,), "", seen=1, closed=False)
    for target in (
        b"/v1/a%20b",
        b"/v1/caf%C3%A9",
        b"/v1/a.b..c/x-~_y:z@",
        b"/v1/thing?a=//%2e%2f;../%00",
        b"/.well-known/x",
    ):
        sent = b"GET " + target + b" HTTP/1.1\r\n" + HOST + NONCE + b"\r\n"
        yield Payload(14, f"{shown(target)}, which is clear", sent, (200,), "", seen=1, closed=False)
    sent = good(fields=b"X_Harmless: 1\r\n")
    yield Payload(14, "X_Harmless, which has no twin", sent, (200,), "", seen=1, closed=False)


PAYLOADS: tuple[Payload, ...] = tuple(
    payload
    for case in (
        _case_1, _case_2, _case_3, _case_4, _case_5, _case_6, _case_7, _case_8, _case_9, _case_10, _case_11, _case_12,
        _case_13, _case_14,
    )
    for payload in case()
)  # fmt: skip
