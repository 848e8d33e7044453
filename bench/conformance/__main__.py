"""`python -m bench.conformance`: what do Fairlead, nginx and HAProxy make of the same hostile bytes?

Each proxy stands before an engine of its own, with its defaults; each payload of payloads.py is sent to each on a new
connection. The table tells the answer's status, whether the request went on to the engine, and what differs from the
promise. `--write` puts it into docs/conformance.md. Ends with 1 where Fairlead differs from its promise, or a proxy is
not there.
"""

from __future__ import annotations

import argparse
import http.client
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from bench import proxies
from bench.conformance.payloads import PAYLOADS, Payload, answer
from bench.conformance.peers import Engine, Heard, speak
from bench.procs import Cores, Process, free_port

NAMES = ("fairlead", "nginx", "haproxy")
PAGE = proxies.ROOT / "docs" / "conformance.md"
BEGIN, END = "<!-- conformance: begin -->", "<!-- conformance: end -->"
START_SECONDS = 20.0


class Verdict:
    """What one proxy made of one payload."""

    def __init__(self, payload: Payload, heard: Heard, heads: Sequence[bytes]) -> None:
        self.forwarded = len(heads)
        self.statuses = heard.statuses
        self.closed = heard.closed
        leaked = b"evil" in heard.raw or any(b"evil" in head for head in heads)
        last = heard.statuses[-1] if heard.statuses else 0
        served = payload.statuses[-1] < 400
        self.exact = (
            not leaked
            and heard.closed == payload.closed
            and self.forwarded == payload.seen
            and heard.statuses[:-1] == payload.statuses[:-1]
            and last in (payload.statuses[-1], *payload.also)
        )
        # Another status, or none before the close, is as safe as ours.
        dropped = payload.dropping and heard.statuses == (200,) and self.forwarded == 1
        alike = heard.statuses == payload.statuses if served else last >= 400 or (not heard.statuses and heard.closed)
        self.safe = not leaked and (dropped or (alike and self.forwarded == payload.seen))
        self.leaked = leaked

    def __str__(self) -> str:
        text = ", ".join(map(str, self.statuses)) or ("closed" if self.closed else "waits")
        if self.forwarded:
            text += f" → {self.forwarded}"
        if self.leaked:
            text += " evil"
        return text if self.safe else f"**{text}**"


def expected(payload: Payload) -> str:
    """The promise, in the same form."""
    text = ", ".join(map(str, payload.statuses)) + "".join(f" or {status}" for status in payload.also)
    return text + (f" → {payload.seen}" if payload.seen else "")


def start(name: str, folder: Path, engine: Engine, cores: Cores) -> tuple[Process, int]:
    """Start a proxy before this engine; proxies.Absent where that fails."""
    if name != "fairlead":
        running = proxies.start(name, folder, [engine.port], cores, 1_024)
        return running.measured, running.port
    folder.mkdir()
    port = free_port()
    config = folder / "fairlead.yaml"
    settings = {
        "listen": f"127.0.0.1:{port}",
        "admin": "127.0.0.1:0",
        "access_log": {"path": str(folder / "access.log")},
        "backends": [{"url": f"http://127.0.0.1:{engine.port}", "engine": "generic", "models": ["m"]}],
        "health": {"max_fails": 0},  # the engine's bad answers are part of the play
    }
    config.write_text(json.dumps(settings))  # JSON is YAML
    process = Process([*proxies.PYTHON, "-m", "fairlead", "serve", str(config)], cores.proxy, folder / "output.log")
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.is_running:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
        try:
            connection.request("GET", "/health")
            if connection.getresponse().status == 200:
                return process, port
        except (OSError, http.client.HTTPException):
            pass
        finally:
            connection.close()
        time.sleep(0.1)
    process.end()
    raise proxies.Absent(f"fairlead did not start:\n{process.log_tail()}")


def judge(name: str, folder: Path, cores: Cores) -> list[Verdict]:
    """All payloads against one proxy."""
    verdicts = []
    with Engine() as engine:
        process, port = start(name, folder, engine, cores)
        try:
            for number, payload in enumerate(PAYLOADS):
                engine.said = payload.said or answer()
                engine.heads.clear()
                sent = payload.sent.replace(b"%NONCE", b"n%d" % number)
                heard = speak(port, sent, head=sent.startswith(b"HEAD"))
                verdicts.append(Verdict(payload, heard, list(engine.heads)))
        finally:
            process.end()
            engine.shutdown()
    return verdicts


def table(results: dict[str, list[Verdict]]) -> str:
    """The summary by case, and every payload, as Markdown."""
    heads = " | ".join(results)
    lines = [
        f"By `python -m bench.conformance --write`: {len(PAYLOADS)} payloads; "
        + ", ".join(proxies.version(name) for name in results)
        + ".",
        "",
        f"| case | payloads | as promised: {heads} |",
        "|---|---|---|" + "---|" * (len(results) - 1),
    ]
    for case in sorted({payload.case for payload in PAYLOADS}):
        rows = [i for i, payload in enumerate(PAYLOADS) if payload.case == case]
        cells = " | ".join(str(sum(verdicts[i].safe for i in rows)) for verdicts in results.values())
        lines.append(f"| {case} | {len(rows)} | {cells} |")
    totals = " | ".join(str(sum(verdict.safe for verdict in verdicts)) for verdicts in results.values())
    lines += [f"| all | {len(PAYLOADS)} | {totals} |", "", f"| payload | promised | {heads} |"]
    lines.append("|---|---|" + "---|" * len(results))
    for i, payload in enumerate(PAYLOADS):
        cells = " | ".join(str(verdicts[i]) for verdicts in results.values())
        name = payload.id.replace("|", "\\|").replace("`", "'")
        lines.append(f"| `{name}` | {expected(payload)} | {cells} |")
    return "\n".join(lines)


def write(text: str) -> None:
    """Put the table between the page's marks."""
    page = PAGE.read_text()
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.conformance", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--write", action="store_true", help="put the table into docs/conformance.md")
    parser.add_argument("--only", action="append", choices=NAMES, help="this proxy alone (repeatable)")
    arguments = parser.parse_args(argv)
    cores = Cores()
    results: dict[str, list[Verdict]] = {}
    complete = True
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.only or NAMES:
            try:
                results[name] = judge(name, Path(folder) / name, cores)
            except proxies.Absent as problem:
                print(problem, file=sys.stderr)
                complete = False
    text = table(results)
    print(text)
    if arguments.write and complete and len(results) == len(NAMES):
        write(text)
    broken = [p.id for p, v in zip(PAYLOADS, results.get("fairlead", []), strict=False) if not v.exact]
    for id in broken:
        print(f"fairlead differs from its promise: {id}", file=sys.stderr)
    return 0 if complete and not broken else 1


if __name__ == "__main__":
    sys.exit(main())
