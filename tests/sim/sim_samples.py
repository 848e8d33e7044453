"""Trace files for tests, made by hand; and the table of workloads as docs/traces.md has it."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fairlead.sim.workload import KINDS

SHARED = Path(__file__).resolve().parents[3] / "shared" / "traces"
MOONCAKE_FILE = SHARED / "mooncake_conversation_first6000.jsonl.gz"
AZURE_FILE = SHARED / "azure_2023_conv_first10000.csv.gz"

AZURE_HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens"
AZURE_LINES = (
    AZURE_HEADER,
    "2023-11-16 18:17:03.9799600,4808,10",
    "2023-11-16 18:17:04.0319600,110,27",
    "2023-11-16 18:17:06.4799600,3180,0",
)


def mooncake(at_ms: float, prompt: int = 1_100, output: int = 20, ids: Sequence[Any] = (0, 1, 2), **other: Any) -> str:
    row = {"timestamp": at_ms, "input_length": prompt, "output_length": output, "hash_ids": list(ids), **other}
    return json.dumps(row)


def access(time: float, prompt: int | None = 100, output: int | None = 10, **other: Any) -> str:
    """A line as the access log has it."""
    row = {
        "time": time, "id": "r", "client": "192.0.2.1", "method": "POST", "path": "/v1/chat/completions",
        "status": 200, "model": "m", "stream": True, "backend": "a", "tries": 1, "failed_on": [],
        "prompt_tokens": prompt, "output_tokens": output, "bytes_out": 900, "ttft": 0.25, "duration": 2.5,
        "outcome": "ok", "error": None, **other,
    }  # fmt: skip
    return json.dumps(row)


def header(started: float = 1_700_000_000.0, version: Any = 1) -> str:
    return json.dumps({"fairlead_recording": version, "block_tokens": None, "started": started, "fairlead": "1.0"})


def recorded(
    at: float, prompt: int, size: int, blocks: Sequence[str] = (), ends: Sequence[Any] = (), **other: Any
) -> str:
    """A line of a recording: `prompt` tokens in `size` bytes."""
    row = {
        "at": at, "model": "m", "prompt_tokens": prompt, "prompt_bytes": size, "output_tokens": 12, "max_tokens": 64,
        "stream": True, "blocks": list(blocks), "ends": list(ends), "backend": "a", "ttft": 0.5, "duration": 3.0,
        "cached_tokens": 32, "status": 200, "outcome": "ok", "tenant": "ab12", "session": "", **other,
    }  # fmt: skip
    return json.dumps(row)


def write(path: Path, lines: Sequence[str], ended: bool = True, packed: bool = False) -> str:
    """A file of these lines; returns its name."""
    data = ("\n".join(lines) + ("\n" if ended else "")).encode()
    path.write_bytes(gzip.compress(data, mtime=0) if packed else data)
    return str(path)


def workload_markdown() -> str:
    """The workloads' sections of the page; print them after a change of the table, and put them there."""
    parts = []
    for kind in KINDS.values():
        rows = "".join(f"| `{p.name}` | {p.default:g} | {p.range} | {p.what} |\n" for p in kind.parameters)
        parts.append(
            f"### `{kind.name}`\n\n{kind.what}.\n\n| parameter | default | range | meaning |\n|---|---|---|---|\n{rows}"
        )
    return "\n".join(parts)
