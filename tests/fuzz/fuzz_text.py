"""Fuzz targets for text: request bodies, usage in answers, configurations, metric pages, traces.

A target takes any bytes and says in a word what came of them; AssertionError, or any exception that is not
documented, means that a law is broken.
"""

from __future__ import annotations

import dataclasses
import gzip
import json
import math
import os
import re
import tempfile
from pathlib import Path
from typing import Any, Final

from fuzz_cuts import rng_of

from fairlead.config.document import read_document
from fairlead.config.load import parse, to_plain
from fairlead.config.problems import Problems
from fairlead.config.walk import BAD
from fairlead.core.model import Facts, Kind, Usage
from fairlead.engines.promtext import MAX_SERIES, Scanner
from fairlead.sim.readers import Reading, TraceError, read_file
from fairlead.wire import openai
from fairlead.wire.openai import BLOCK_ENDS, BadBody, read_facts, read_usage

KINDS: Final = {value for name, value in vars(Kind).items() if not name.startswith("_")}
# What a refusal of a body may say: words of the code that says it, and of the JSON decoder. Others are the body's.
_DECODER: Final = (
    "as byte can character characters codec comma continuation data decode deserializing depth end escape escaped "
    "exceeded expected in input invalid is json key keys malformed maximum must object of out pair position range "
    "recursion start strings surrogate t trailing truncated unexpected unicode utf was while array be control"
)
SAID: Final = frozenset(
    re.findall(
        r"[a-z]+",
        " ".join([_DECODER, *(file.read_text().lower() for file in Path(openai.__file__).parent.glob("*.py"))]),
    )
)


# --- bodies of requests --------------------------------------------------------------------------------------


def facts(data: bytes) -> str:
    """A path, a line feed, and a body: what it asks for, and not a word of what it says."""
    path, _, body = data.partition(b"\n")
    try:
        found = read_facts(path, body, prefixes=True)
    except BadBody as problem:
        found, refusal = None, str(problem)
    else:
        refusal = ""
    if refusal:
        said = set(re.findall(r"[a-z]+", re.sub(r"0x[0-9a-f]+", "", refusal.lower())))
        assert said <= SAID, f"the refusal may quote the body: {refusal}: {said - SAID}"
        return "refused"
    if found is None:
        return "not ours"
    _check_facts(found, len(body))
    blind = read_facts(path, body, prefixes=False)
    assert blind is not None
    assert dataclasses.replace(found, blocks=(), block_ends=(), span=0) == blind
    _compare_with_json(found, path, body)
    return f"{found.kind}{' stream' if found.stream else ''}"


def _check_facts(found: Facts, size: int) -> None:
    assert found.kind in KINDS
    assert found.session is None and (found.model is None or isinstance(found.model, str))
    for option in dataclasses.fields(found):
        value = getattr(found, option.name)
        if option.name not in ("kind", "model", "blocks", "block_ends", "session", "group"):
            assert value is None or type(value) in (int, bool), f"{option.name} is {value!r}"
    assert 0 <= found.prompt_bytes <= size and 0 <= found.prompt_ids <= size
    assert 1 <= found.n <= 128 and (found.max_tokens is None or found.max_tokens > 0)
    assert len(found.blocks) <= len(BLOCK_ENDS) and all(type(block) is int for block in found.blocks)


def _compare_with_json(found: Facts, path: bytes, body: bytes) -> None:
    """Another reader of JSON, where it reads the body at all, sees the same model, stream and n."""
    try:
        other: Any = json.loads(body.decode())
    except (ValueError, RecursionError):
        return
    assert isinstance(other, dict)
    if not path.startswith(b"/v2/models/"):
        assert found.model == other.get("model")
    if found.kind != Kind.CHEAP:
        assert found.stream == (other.get("stream") is True or path.endswith(b"generate_stream"))
    if found.kind in (Kind.CHAT, Kind.COMPLETION) and found.n != 1:
        assert found.n == other["n"]


# --- usage ---------------------------------------------------------------------------------------------------


def usage(data: bytes) -> str:
    """The end of an answer: the last usage in it, as a JSON reader sees it, or none."""
    found = read_usage(data)
    if found is None:
        return "none"
    assert found == _usage_by_json(data), f"{found} is not what JSON says"
    for count in (found.prompt_tokens, found.completion_tokens, found.cached_tokens):
        assert count is None or (type(count) is int and 0 <= count <= 10**12)
    return "cached" if found.cached_tokens is not None else "usage"


def _usage_by_json(data: bytes) -> Usage | None:
    text = data.decode("latin-1")
    start = text.find("{", text.rfind('"usage"'))
    try:
        said, _ = json.JSONDecoder().raw_decode(text, start)
    except ValueError:
        return None
    details = said.get("prompt_tokens_details")
    details = said.get("input_tokens_details") if details is None else details
    cached = details.get("cached_tokens") if details is not None else said.get("cache_read_input_tokens")
    prompt, output = said.get("prompt_tokens"), said.get("completion_tokens")
    prompt = said.get("input_tokens") if prompt is None else prompt
    output = said.get("output_tokens") if output is None else output
    return Usage(prompt or 0, output or 0, cached)


# --- configurations ------------------------------------------------------------------------------------------


def config(data: bytes) -> str:
    """A configuration's text: problems that point into it, or a configuration that reads as itself."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return "not text"
    problems = Problems("fuzz")
    document, lines = read_document(text, problems)
    last = text.count("\n") + text.count("\r") + text.count("\x85") + text.count("\u2028") + text.count("\u2029") + 1
    for problem in problems.in_order():
        assert problem.message and (problem.line is None or 1 <= problem.line <= last)
        assert len(str(problem)) < 2_000 + len(problem.path)
    if document is None:
        return "empty"
    if document is BAD or problems.has_errors:
        return "bad yaml"
    made, found = parse(document, "fuzz", lines)
    assert (made is None) == any(problem.severity == "error" for problem in found)
    assert len(found) <= 100 + len(data), "more problems than letters"
    for problem in found:
        assert problem.message and problem.line is not None and 1 <= problem.line <= last, problem
    if made is None:
        return "bad config"
    plain = to_plain(made)
    again, repeated = parse(plain, "again")
    assert again == made, f"{again} is not {made}"
    assert to_plain(again) == plain and len(repeated) == len(found)
    return "config"


# --- metric pages --------------------------------------------------------------------------------------------

NAMES: Final = ("vllm:num_requests_running", "vllm:num_requests_waiting", "a", "a_total")
_scanner: Final = Scanner(NAMES)


def metrics(data: bytes) -> str:
    """A metrics page: finite numbers of wanted names, the same whatever stands around their lines."""
    found = _scanner.scan(data)
    for name, series in found.items():
        assert name in NAMES and 0 < len(series) <= MAX_SERIES
        for one in series:
            assert math.isfinite(one.value) and one.value >= 0
            assert sum(len(key) + len(value) for key, value in one.labels.items()) <= 3 * len(data)
    ends = [place for place, byte in enumerate(data) if byte == 10]
    for place in rng_of(data).sample(ends, min(len(ends), 4)):
        parts = (_scanner.scan(data[: place + 1]), _scanner.scan(data[place + 1 :]))
        for name in NAMES:
            both = parts[0].get(name, []) + parts[1].get(name, [])
            assert found.get(name, []) == both, "a page means something else than its two parts"
    around = _scanner.scan(b"# HELP a\nother 1\n" + data + b"\n")
    assert around == found, "a line means something else among others"
    return f"{min(sum(map(len, found.values())), 3)} series"


# --- traces --------------------------------------------------------------------------------------------------

_MEMORY: Final = "/dev/shm"
_folder: Final = tempfile.TemporaryDirectory(dir=_MEMORY if os.path.isdir(_MEMORY) else None)
_LIMIT: Final = 3
_GZIP: Final = b"\x1f\x8b"


def trace(data: bytes) -> str:
    """A trace file, plain and packed, whole lines and skipped ones: requests in order, or one TraceError."""
    strict, said = _read(data, "plain")
    packed, packed_said = _read(gzip.compress(data, 1, mtime=0), "packed")
    if data[:2] != _GZIP:
        assert _rows(packed) == _rows(strict) and packed_said == said, f"{packed_said}, plain: {said}"
    lenient, _ = _read(data, "plain", skip_bad=True)
    few, _ = _read(data, "plain", limit=_LIMIT)
    if strict is not None:
        assert _rows(lenient) == _rows(strict)
        assert few is None or len(few.trace.requests) <= _LIMIT
        assert strict.skipped == 0
    return "refused" if lenient is None else "skipped" if strict is None else "trace"


def _read(data: bytes, name: str, **options: Any) -> tuple[Reading | None, str]:
    path = Path(_folder.name) / f"{name}-{os.getpid()}"
    path.write_bytes(data)
    try:
        reading = read_file(str(path), spread="none", **options)
    except TraceError as refused:
        reading, error = None, refused
    if reading is None:
        packed = data[:2] == _GZIP  # then the lines are those of what is packed
        assert error.file == str(path) and (packed or error.line <= data.count(b"\n") + 1)
        assert len(error.reason) < 1_000
        return None, f"{error.line}: {error.reason}"
    before = 0.0
    for request in reading.trace.requests:
        assert before <= request.at < 1e12 and math.isfinite(request.at)
        assert request.prompt >= 1 and request.output >= 0
        assert len(request.blocks) * reading.trace.block_tokens <= request.prompt
        before = request.at
    assert reading.trace.requests[0].at == 0
    return reading, ""


def _rows(reading: Reading | None) -> object:
    return None if reading is None else (reading.trace.requests, reading.trace.measured, reading.cut)
