"""Do the fuzzers find what they are for, and do the fuzzed parts take steps in proportion to their input?

Faults are planted one by one; each has to be found within a few thousand mutants, or the target is blind.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from typing import Any

import fuzz_engine
import fuzz_text
import fuzz_wire
import pytest
from fuzz_targets import TARGETS

from fairlead.config import document
from fairlead.config.load import parse as parse_config
from fairlead.config.load import to_plain
from fairlead.config.problems import Problems
from fairlead.engines import promtext
from fairlead.proxy import client, upstream
from fairlead.sim.readers import formats, lines
from fairlead.wire import chunked, fields, frames, http1, http2, openai, proxy_protocol

MOST = 4_000  # mutants within which a planted fault has to be found
TOKEN = b"[!#$%&'*+.^_`|~0-9A-Za-z-]+"


def _lenient_length(value: bytes) -> int:
    return int(value)


def _first_usage(tail: bytes) -> Any:
    return _read_usage(tail[: tail.find(b'"usage"', tail.find(b'"usage"') + 1)] if tail.count(b'"usage"') > 1 else tail)


_read_usage = openai.read_usage


def _quoting_facts(path: bytes, body: bytes, prefixes: bool) -> Any:
    try:
        return _read_facts(path, body, prefixes)
    except openai.BadBody:
        raise openai.BadBody(f"not JSON: {body[:60]!r}") from None


_read_facts = openai.read_facts
_parse_proxy = proxy_protocol.parse


def _eager_proxy(data: bytes) -> Any:
    return _parse_proxy(data + b"\n" if data.endswith(b"\r") else data)


class _Hungry(chunked.ChunkScanner):
    """Takes one byte too many for the body's."""

    def feed(self, data: bytes) -> None:
        super().feed(data[:-1] if len(data) > 60 else data)


_to_plain = to_plain


def _without_last(config: Any) -> Any:
    plain = _to_plain(config)
    return dict(list(plain.items())[:-1])


PLANTED: list[tuple[str, str, Any, str, Any]] = [
    ("a Content-Length of +5", "request", http1, "parse_length", _lenient_length),
    ("of many empty lines one is taken", "request", client, "EMPTY_LINES", re.compile(rb"\A\r\n")),
    ("a memo without bound", "request", fields, "MAX_FIELD_MEMO", -1),
    ("a blank behind a chunk's size", "chunked", chunked, "_SIZE_LINE", re.compile(rb"([0-9A-Fa-f]{1,16}) *(;.*)?")),
    ("any byte in trailers", "chunked", chunked, "_TRAILER", re.compile(TOKEN + rb":[^\0]*")),
    ("anything in a status line", "response", http1, "_STATUS_LINE", re.compile(rb"HTTP/1\.([01]) ([0-9]{3})(?: .*)?")),
    ("chunks passed on without their ends", "sse", upstream, "ChunkScanner", _Hungry),
    ("a GOAWAY that is passed on", "frames", frames, "GOAWAY", 99),
    ("line ends in a field's value", "fields", http2, "_BAD_VALUE", re.compile(rb"^[ \t]")),
    ("a header that ends early", "proxy", fuzz_wire, "parse", _eager_proxy),
    ("refusals that quote", "facts", fuzz_text, "read_facts", _quoting_facts),
    ("the first usage, not the last", "usage", fuzz_text, "read_usage", _first_usage),
    ("infinite numbers", "metrics", promtext, "math", type("", (), {"isfinite": lambda value: True})),
    ("ids of any kind", "trace", formats, "_hashes_of", lambda ids: {id: hash(id) for id in ids}),
    ("packed files that are not told", "trace", lines, "_GZIP", b"{\""),
    ("a table that is forgotten", "config", fuzz_text, "to_plain", _without_last),
]  # fmt: skip


@pytest.mark.parametrize("planted", PLANTED, ids=[planted[0] for planted in PLANTED])
def test_a_planted_fault_is_found(monkeypatch: pytest.MonkeyPatch, planted: tuple[str, str, Any, str, Any]) -> None:
    _, name, module, attribute, value = planted
    for memo in (fields.request_lines, fields.response_lines, http1._heads, http1._response_heads):
        memo.clear()
    monkeypatch.setattr(module, attribute, value)
    report = fuzz_engine.fuzz(TARGETS[name], seconds=60.0, seed=3, most=MOST, traced=0, faults=1)
    for memo in (fields.request_lines, fields.response_lines, http1._heads, http1._response_heads):
        memo.clear()
    assert report.crashes, f"not found among {report.tried} mutants"


def _chunks(data: bytes) -> None:
    with contextlib.suppress(fields.BadHttp):
        chunked.ChunkScanner([]).feed(data)


def _chunk_bytes(data: bytes) -> None:
    scanner = chunked.ChunkScanner([])
    with contextlib.suppress(fields.BadHttp):
        for i in range(len(data)):
            scanner.feed(data[i : i + 1])


def _request(data: bytes) -> None:
    with contextlib.suppress(fields.BadHttp):
        http1._parse_request(b"GET / HTTP/1.1\r\nHost: a\r\n" + data, 100_000, 1 << 20)


def _response(data: bytes) -> None:
    with contextlib.suppress(fields.BadHttp):
        http1._parse_response(b"HTTP/1.1 200 OK\r\n" + data, 100_000)


def _body(data: bytes) -> None:
    with contextlib.suppress(openai.BadBody):
        openai.read_facts(b"/v1/completions", data, True)


def _text(data: bytes) -> None:
    with contextlib.suppress(UnicodeDecodeError):
        made, lines_ = document.read_document(data.decode(), problems := Problems("x"))
        if not problems.has_errors and made is not None:
            parse_config(made, "x", lines_)


def _proxy(data: bytes) -> None:
    with contextlib.suppress(proxy_protocol.BadProxyHeader):
        proxy_protocol.parse(data)


PARTS: dict[str, tuple[Callable[[bytes], object], str, bytes]] = {
    "request": (_request, "request", b"\r\n"),
    "response": (_response, "response", b"\r\n"),
    "chunks at once": (_chunks, "chunked", b""),
    "chunks byte by byte": (_chunk_bytes, "chunked", b""),
    "facts": (_body, "facts", b","),
    "usage": (lambda data: openai.read_usage(b'"usage":{' + data), "usage", b","),
    "config": (_text, "config", b"\n"),
    "metrics": (lambda data: fuzz_text._scanner.scan(b"a" + data), "metrics", b""),
    "proxy": (_proxy, "proxy", b""),
}


@pytest.mark.parametrize("part", PARTS)
def test_steps_grow_with_the_input_and_no_faster(part: str) -> None:
    """Lines of our code that run, for each word of the format over and over again."""
    call, name, between = PARTS[part]
    for word in TARGETS[name].words:
        few, many = ((word + between) * 40, (word + between) * 160)
        steps = [fuzz_engine.lines_run(lambda data=data: call(data))[0] for data in (few, many)]  # type: ignore[misc]
        assert steps[1] <= 4.5 * steps[0] + 400, f"{word!r}: {steps[0]} steps for 40, {steps[1]} for 160"


def test_the_rule_of_steps_can_fail() -> None:
    """A part that looks at everything behind each byte takes sixteen times the steps for four times the bytes."""
    source = (
        "def slow(data):\n    for i in range(len(data)):\n        for j in range(i, len(data)):\n            data[j]\n"
    )
    space: dict[str, Any] = {}
    exec(compile(source, fuzz_engine.SOURCE + "/slow.py", "exec"), space)
    few, many = (fuzz_engine.lines_run(lambda size=size: space["slow"](b"a" * size))[0] for size in (40, 160))  # type: ignore[misc]
    assert many > 4.5 * few + 400
