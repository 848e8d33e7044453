"""Is what Fairlead forwards read the same by every parser that an engine may have?

A real service on loopback stands in front of an upstream that records every byte. Inputs (mutated requests, pipelines,
chunks, smuggling) are sent to it in pieces; then what came out of each of its connections is read by Node (llhttp in
its server), llhttp, h11 and aiohttp's own parser.
Rule: all agree on methods, targets, header lists, bodies and the number of requests, for all that is forwarded; and
nothing is forwarded that the service did not take for a request.
"""

from __future__ import annotations

import asyncio
import base64
import json
import random
import re
import shutil
import subprocess
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from aiohttp.base_protocol import BaseProtocol
from aiohttp.http_parser import HttpRequestParserPy
from fuzz_client import BODY_LIMIT, FIELDS_LIMIT, HEAD_LIMIT, Outcome, door
from fuzz_cuts import cut
from fuzz_engine import Report
from fuzz_judges import Message, requests_by_h11, requests_by_llhttp
from fuzz_mutate import mutate
from fuzz_targets import TARGETS

from fairlead.config.build import App
from fairlead.config.load import parse

NODE = shutil.which("node")
PATIENCE = 5.0  # seconds until an answer that does not come is a fault
BATCH = 200
AT_ONCE = 8
_STATUS = re.compile(rb"HTTP/1\.1 [2-5][0-9][0-9] ")
_LENGTH = re.compile(rb"\r\ncontent-length: ([0-9]+)\r\n", re.IGNORECASE)
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


@dataclass
class Batch:
    """What came of some inputs."""

    streams: list[bytes] = field(default_factory=list)  # what each connection to the upstream carried
    faults: list[tuple[bytes, str]] = field(default_factory=list)
    forwarded: int = 0


class Upstream(asyncio.Protocol):
    """Records everything. Reads just enough to answer: heads, and Content-Length, which is all that it is to get."""

    def __init__(self, streams: list[bytearray]) -> None:
        self.received = bytearray()
        self.done = 0
        streams.append(self.received)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.received += data
        while (end := self.received.find(b"\r\n\r\n", self.done)) >= 0:
            length = _LENGTH.search(self.received, self.done, end + 2)
            stop = end + 4 + (int(length[1]) if length else 0)
            if len(self.received) < stop:
                return
            self.done = stop
            self.transport.write(ANSWER)


class Sender(asyncio.Protocol):
    """A client: counts final answers."""

    def __init__(self) -> None:
        self.received = bytearray()
        self.closed = False
        self.changed = asyncio.Event()

    def data_received(self, data: bytes) -> None:
        self.received += data
        self.changed.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        self.changed.set()

    @property
    def answers(self) -> int:
        return len(_STATUS.findall(self.received))


def inputs(seed: int, count: int) -> list[bytes]:
    """Mutants of the request corpus; those that hold at least one whole request come twice as often."""
    rng = random.Random(f"differential {seed}")
    corpus = [data for _, data in TARGETS["request"].corpus()]
    found: list[bytes] = []
    while len(found) < count:
        data = mutate(rng.choice(corpus), rng, TARGETS["request"].words, corpus)
        if door().read([data]).requests or len(found) % 3 == 0:
            found.append(data)
    return found


async def forward(batch: list[bytes]) -> Batch:
    """Send the inputs through a service."""
    loop = asyncio.get_running_loop()
    recorded: list[bytearray] = []
    server = await loop.create_server(lambda: Upstream(recorded), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    config, problems = parse(
        {
            "listen": {"address": "127.0.0.1:0", "http2": False}, "admin": "127.0.0.1:0", "access_log": False,
            "backends": [{"url": f"http://127.0.0.1:{port}", "engine": "generic", "models": ["m"]}],
            "health": {"interval": "60s"}, "metrics": {"interval": "60s"},
            "limits": {"head": f"{HEAD_LIMIT}B", "body": f"{BODY_LIMIT}B", "headers": FIELDS_LIMIT, "connections": 100},
        },
        "fuzz",
    )  # fmt: skip
    assert config is not None, problems
    app = App(config, seed=1)
    bound = await app.start()
    address = bound.data[0].removeprefix("http://").rpartition(":")
    result = Batch()
    gate = asyncio.Semaphore(AT_ONCE)
    expected: Counter[tuple[bytes, bytes, bytes]] = Counter()

    async def one(data: bytes) -> None:
        outcome = door().read([data])
        expected.update((got.method, got.target, got.body) for got in outcome.requests)
        async with gate:
            problem = await _send(address[0], int(address[2]), data, outcome)
        if problem:
            result.faults.append((data, problem))

    try:
        await asyncio.gather(*(one(data) for data in batch))
    finally:
        await app.stop(drain=0.0)
        server.close()
    # Probes come on connections of their own; what is forwarded tells of the service in Via.
    result.streams = [bytes(r) for r in recorded if b"\r\nVia: " in r and b" fairlead-" in r]
    for stream in result.streams:
        ours = split(stream)
        result.forwarded += len(ours)
        unknown = Counter((m.method, m.target, m.body) for m in ours) - expected
        if unknown:
            result.faults.append((stream, f"forwarded, and never taken for a request: {list(unknown)[:3]}"))
    return result


async def _send(host: str, port: int, data: bytes, outcome: Outcome) -> str:
    """Send in pieces, and wait for as many answers as the service has to give; what is wrong, or nothing."""
    transport, sender = await asyncio.get_running_loop().create_connection(Sender, host, port)
    rng = random.Random(len(data))
    places = sorted(rng.sample(range(1, len(data)), min(len(data) - 1, rng.choice((0, 1, 3))))) if len(data) > 1 else []
    for piece in cut(data, places):
        transport.write(piece)
        await asyncio.sleep(0)
    deadline = time.monotonic() + PATIENCE
    try:
        while sender.answers < outcome.answers:
            if sender.closed or time.monotonic() > deadline:
                return f"{sender.answers} answers of {outcome.answers}: {bytes(sender.received[-300:])!r}"
            sender.changed.clear()
            try:
                async with asyncio.timeout(PATIENCE):
                    await sender.changed.wait()
            except TimeoutError:
                continue
    finally:
        transport.abort()
    if sender.answers > outcome.answers:
        return f"{sender.answers} answers where {outcome.answers} are due"
    return ""


def split(stream: bytes) -> list[Message]:
    """What was meant: heads and bodies by Content-Length alone."""
    messages = []
    while stream:
        head, _, stream = stream.partition(b"\r\n\r\n")
        first, *lines = head.split(b"\r\n")
        method, target, version = first.split(b" ")
        assert version == b"HTTP/1.1", first
        fields = []
        for line in lines:
            name, _, value = line.partition(b":")
            fields.append((name.lower(), value.strip(b" \t")))
        sizes = [int(value) for name, value in fields if name == b"content-length"]
        assert len(sizes) <= 1 and not any(name == b"transfer-encoding" for name, _ in fields), head
        size = sizes[0] if sizes else 0
        messages.append(Message(method, target, fields=fields, body=stream[:size], whole=len(stream) >= size))
        stream = stream[size:]
    return messages


def requests_by_aiohttp(stream: bytes) -> list[Message]:
    """By the parser that aiohttp has in Python; its other one is llhttp again."""
    loop = asyncio.get_running_loop()
    parser = HttpRequestParserPy(BaseProtocol(loop), loop, 1 << 22)
    messages, _, _ = parser.feed_data(stream)
    return [
        Message(
            said.method.encode(), said.path.encode("utf-8", "surrogateescape"),
            fields=[(name.lower(), value.strip(b" \t")) for name, value in said.raw_headers],
            body=b"".join(cast(Any, body)._buffer) if hasattr(body, "_buffer") else b"",
            whole=body.is_eof(),
        )
        for said, body in messages
    ]  # fmt: skip


def requests_by_node(streams: list[bytes]) -> list[list[Message]]:
    """By Node's own server, in one process for all."""
    assert NODE is not None
    said = json.dumps([base64.b64encode(stream).decode() for stream in streams])
    script = Path(__file__).with_name("fuzz_node.mjs")
    done = subprocess.run([NODE, str(script)], input=said.encode(), stdout=subprocess.PIPE, check=True, timeout=60)
    found = []
    for one in json.loads(done.stdout):
        messages = []
        for method, target, raw, body in one["requests"]:
            values = [text.encode("latin-1") for text in raw]
            fields = [
                (name.lower(), value.strip(b" \t")) for name, value in zip(values[::2], values[1::2], strict=True)
            ]
            decoded = base64.b64decode(body) if body is not None else b""
            messages.append(Message(method.encode(), target.encode("latin-1"), 0, fields, decoded, body is not None))
        found.append(messages)
    return found


def disagreements(streams: list[bytes], *, node: bool) -> list[tuple[bytes, str]]:
    """(stream, who reads it how) for each that is not read as it was meant. Needs a running loop, for aiohttp."""
    found = []
    by_node = requests_by_node(streams) if node else [None] * len(streams)
    for stream, theirs in zip(streams, by_node, strict=True):
        meant = split(stream)
        readings = {"h11": requests_by_h11(stream), "llhttp": requests_by_llhttp(stream)}
        try:
            readings["aiohttp"] = requests_by_aiohttp(stream)
        except Exception as problem:
            found.append((stream, f"aiohttp refuses: {type(problem).__name__}: {problem}"))
        if theirs is not None:
            readings["node"] = theirs
        for judge, messages in readings.items():
            wrong = _difference(meant, messages)
            if wrong:
                found.append((stream, f"{judge}: {wrong}"))
    return found


def _difference(meant: list[Message], read: list[Message]) -> str:
    for index, (ours, theirs) in enumerate(zip(meant, read, strict=False)):
        for name in ("method", "target", "body", "whole"):
            if getattr(ours, name) != getattr(theirs, name):
                return f"request {index}, {name}: {getattr(theirs, name)!r}, not {getattr(ours, name)!r}"
        values = [(name, value.strip(b" \t")) for name, value in theirs.fields]
        if values != ours.fields:
            return f"request {index}: fields {values}, not {ours.fields}"
    return f"{len(read)} requests, not {len(meant)}" if len(read) != len(meant) else ""


async def check(batch: list[bytes]) -> Batch:
    """Forward a batch and let all judges read it."""
    result = await forward(batch)
    result.faults += disagreements(result.streams, node=NODE is not None)
    return result


def for_seconds(seconds: float, seed: int) -> Report:
    """Batches for so long."""
    report = Report("differential", "loopback" if NODE else "no node")
    began = time.monotonic()
    while time.monotonic() - began < seconds:
        batch = inputs(seed * 1_000_000 + report.tried, BATCH)
        result = asyncio.run(check(batch))
        report.tried += len(batch)
        report.forwarded += result.forwarded
        report.crashes += result.faults[:3]
    report.seconds = time.monotonic() - began
    return report
