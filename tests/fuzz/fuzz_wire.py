"""Fuzz targets for what arrives on sockets: requests, answers, chunked bodies, event streams, PROXY headers.

A target takes any bytes and says in a word what came of them; AssertionError, or any exception that is not
documented, means that a law is broken.
Law 1: whole, byte by byte and cut anywhere the outcome is the same. Law 2: what we accept, h11 and llhttp accept, with
the same boundaries. Law 3: what is kept between pieces and between inputs has a bound.
"""

from __future__ import annotations

import ipaddress

from fuzz_client import Got, door
from fuzz_cuts import cuttings, rng_of
from fuzz_judges import Message, answer_by_h11, answers_by_llhttp, requests_by_h11, requests_by_llhttp
from fuzz_upstream import Answered, answer

from fairlead.wire import chunked as chunks
from fairlead.wire import fields, http1
from fairlead.wire.chunked import ChunkScanner
from fairlead.wire.fields import BadHttp
from fairlead.wire.proxy_protocol import MAX_V2, BadProxyHeader, parse

CHUNKED_HEAD = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
SSE_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


# --- requests ------------------------------------------------------------------------------------------------


def request(data: bytes) -> str:
    """A client connection: pipelined requests, and the first thing that is none."""
    whole = door().read([data])
    for pieces in cuttings(data):
        other = door().read(pieces)
        assert other == whole, f"cut into {len(pieces)}: {other}\nwhole: {whole}"
    for name, memo, bound in (
        ("lines", fields.request_lines, fields.MAX_FIELD_MEMO),
        ("heads", http1._heads, http1.MAX_HEADS),
    ):
        assert len(memo) <= bound, f"{name} without bound"
    _judge_requests(data, whole.requests)
    if whole.refusal is not None:
        return f"{len(whole.requests)} then {whole.refusal[0]} {whole.refusal[1]}"
    return f"{len(whole.requests)} requests{', over' if whole.over else ''}"


def _judge_requests(data: bytes, ours: tuple[Got, ...]) -> None:
    if not ours:
        return
    for judge, theirs in (("llhttp", requests_by_llhttp(data)), ("h11", requests_by_h11(data))):
        for index, mine in enumerate(ours):
            if _excused(judge, data, ours[:index]):
                break
            assert index < len(theirs), f"{judge} refuses request {index} that we accept: {mine}"
            if theirs[index].refused and (mine.chunked or not theirs[index].method):
                break  # an extension or a trailer that it does not take (see `chunked`); an empty line before the line
            _same(judge, mine, theirs[index])


def _excused(judge: str, data: bytes, before: tuple[Got, ...]) -> bool:
    """What a judge cannot judge: neither reads beyond an upgrade, and h11 ends with the first of HTTP/1.0."""
    if b"\nupgrade" in data.lower() or b"http2-settings" in data.lower():
        return True
    return judge == "h11" and any(request.minor == 0 for request in before)


def _same(judge: str, mine: Got, theirs: Message) -> None:
    assert theirs.whole, f"{judge} sees no end of {mine}"
    assert theirs.body == mine.body, f"{judge} reads the body {theirs.body!r} of {mine}"
    assert theirs.method == mine.method
    path = mine.target if theirs.target[:1] == b"/" or b"?" not in mine.target else mine.target.lstrip(b"/")
    assert theirs.target.endswith(path) or mine.target == b"/", f"{judge} reads the target {theirs.target!r}"
    values = [(name, value.strip(b" \t")) for name, value in theirs.fields]
    for line in mine.lines:
        name, _, value = line.partition(b":")
        assert (name.lower(), value.strip(b" \t")) in values, f"{judge} does not read {line!r}"


# --- answers -------------------------------------------------------------------------------------------------


def response(data: bytes) -> str:
    """A backend's answer to POST, to HEAD, and for a client of HTTP/1.0; then the backend closes."""
    said = []
    for method, minor in ((b"POST", 1), (b"HEAD", 1), (b"POST", 0)):
        whole = answer([data], method=method, minor=minor, end=True)
        for pieces in cuttings(data):
            other = answer(pieces, method=method, minor=minor, end=True)
            assert _comparable(other) == _comparable(whole), f"cut into {len(pieces)}: {other}\nwhole: {whole}"
        if whole.verdict == "answered":
            _judge_answer(data, whole, method)
        said.append(whole.verdict)
    assert len(fields.response_lines) <= fields.MAX_FIELD_MEMO
    assert len(http1._response_heads) <= http1.MAX_HEADS
    return " ".join(said)


def _comparable(got: Answered) -> tuple[object, ...]:
    """Of an answer that breaks, what came before it may be passed on or not; of others all is, whatever the cuts."""
    if got.verdict == "broken":
        return got.verdict, got.status, got.reusable
    return got.verdict, got.status, got.head, got.payload, got.interim, got.reusable, got.usage


def _judge_answer(data: bytes, ours: Answered, method: bytes) -> None:
    theirs = answer_by_h11(data, method, end=True)
    if theirs is None:
        assert b"chunked" in data.lower(), f"h11 refuses an answer that we pass on: {ours}"
        # It refuses framing fields in trailers, which we drop: what the client gets has to be right.
    else:
        assert theirs.whole
        assert (theirs.status, theirs.body) == (ours.status, ours.payload), f"h11 reads {theirs}, we {ours}"
    passed = ours.head + ours.framing + b"\r\n" + ours.body
    again = answer_by_h11(passed, method, end=True)
    assert again is not None and again.whole, f"h11 refuses what the client would get: {passed!r}"
    assert (again.status, again.body) == (ours.status, ours.payload), f"the client would read {again}, not {ours}"
    if method == b"HEAD" or ours.interim:
        return  # llhttp is not told the method here, and takes interim answers for final ones
    first = answers_by_llhttp(passed)[0]
    assert (first.status, first.body) == (ours.status, ours.payload), f"llhttp reads {first}, not {ours}"


# --- bodies --------------------------------------------------------------------------------------------------


def chunked(data: bytes) -> str:
    """A chunked body and what stands behind it."""
    whole = _scan([data])
    for pieces in cuttings(data):
        other = _scan(pieces)
        assert other == whole, f"cut into {len(pieces)}: {other}, whole: {whole}"
    assert len(chunks._sizes) <= chunks.MAX_SIZES
    verdict, payload, end = whole
    if verdict == "done":
        for judge in (requests_by_llhttp, requests_by_h11):
            first = judge(CHUNKED_HEAD + data[:end])[0]
            if first.refused:  # they take no framing in trailers, llhttp no odd extensions: that moves no boundary
                assert not first.whole
                continue
            assert first.whole and first.body == payload, f"{judge.__name__}: {first.body!r}, we: {payload!r}"
            early = judge(CHUNKED_HEAD + data[: end - 1])
            assert not early[0].whole, f"{judge.__name__} sees the end before us"
    return verdict


def _scan(pieces: list[bytes]) -> tuple[str, bytes, int]:
    """(done, more or bad; payload; bytes that the body took)."""
    sink: list[bytes] = []
    scanner, blind = ChunkScanner(sink), ChunkScanner()
    taken = 0
    refusal: tuple[int, str] | None
    again: tuple[int, str] | None
    for piece in pieces:
        try:
            if not blind.whole(piece):
                blind.feed(piece)
        except BadHttp as problem:
            refusal = problem.status, problem.reason
        else:
            refusal = None
        try:
            scanner.feed(piece)
        except BadHttp as problem:
            again = problem.status, problem.reason
        else:
            again = None
        assert again == refusal, "with a sink and without one"
        if refusal is not None:
            assert refusal == (400, "bad_framing")
            return "bad", b"", 0
        assert (blind.done, blind.payload, blind.between) == (scanner.done, scanner.payload, scanner.between)
        assert len(scanner._partial) <= chunks.MAX_LINE + 2
        if scanner.done:
            assert scanner.end <= len(piece)
            taken += scanner.end
            break
        taken += len(piece)
    payload = b"".join(sink)
    assert len(payload) <= scanner.payload
    return ("done" if scanner.done else "more"), payload, taken


def sse(data: bytes) -> str:
    """An event stream with this payload, in chunks of any sizes: nothing lost, nothing altered."""
    frames, rng = [SSE_HEAD], rng_of(data)
    lines = data.split(b"\n\n")
    for index, line in enumerate(lines):  # mostly an event to a chunk, as engines send them
        part = line + b"\n\n" if index < len(lines) - 1 else line
        torn = len(part) > 1 and index % 4 == 3
        cuts = sorted(rng.sample(range(1, len(part)), min(len(part) - 1, 2))) if torn else []
        for begin, stop in zip([0, *cuts], [*cuts, len(part)], strict=True):
            if begin < stop:
                frames.append(b"%x\r\n%b\r\n" % (stop - begin, part[begin:stop]))
    frames.append(b"0\r\n\r\n")
    raw = b"".join(frames)
    whole = answer([raw])
    assert whole.verdict == "answered" and whole.reusable
    assert whole.payload == data
    framed = answer(frames)
    assert framed.body == whole.body
    assert framed.events == whole.events, "an event to a read counts as in one read"
    for pieces in cuttings(raw):
        other = answer(pieces)
        assert (other.verdict, other.reusable, other.body) == ("answered", True, whole.body)
        assert other.events <= whole.events
    return f"{min(whole.events, 3)} events{', usage' if whole.usage else ''}"


# --- the PROXY protocol --------------------------------------------------------------------------------------


def proxy(data: bytes) -> str:
    """A connection's first bytes: every beginning of them leads to the same header or refusal."""
    verdict: object = None
    found: object
    size = 0
    for stop in range(min(len(data), MAX_V2 + 8) + 1):
        try:
            header, said = parse(data[:stop]), ""
        except BadProxyHeader as problem:
            said, found = str(problem), "refused"
        else:
            found = header
            if header is None:
                assert stop < MAX_V2, "more bytes are kept than promised"
            else:
                size = header.size
                if header.client not in (None, "unix"):
                    ipaddress.ip_address(header.client or "")
        assert said.isascii() and said.isprintable()
        assert verdict is None or found == verdict, f"{verdict} at first, {found} with {stop} bytes"
        if found is None:
            assert not size
        verdict = found
    if verdict is None or verdict == "refused":
        return str(verdict or "open")
    return "v1" if data[:1] == b"P" else "v2"
