"""Does curl get what it expects? Its habits (Expect, chunked uploads, HEAD) are those of many small scripts."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from .balancer import Fairlead
from .client import MODEL, chat

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed"),
]

JSON_BODY = ("-H", "Content-Type: application/json")


@dataclass(frozen=True, slots=True)
class Printed:
    heads: list[str]  # every head that came, 100 Continue included
    body: str

    @property
    def status(self) -> int:
        return int(self.heads[-1].split()[1])

    def header(self, name: str) -> str | None:
        for line in self.heads[-1].splitlines():
            found, _, value = line.partition(":")
            if found.strip().lower() == name:
                return value.strip()
        return None


def curl(*arguments: str) -> Printed:
    """Runs curl with `-i`; fails the test when curl itself is not content (cut bodies, wrong framing)."""
    command = ["curl", "-sS", "-i", "--http1.1", "--max-time", "60", *arguments]
    done = subprocess.run(command, capture_output=True, timeout=90, check=False)
    assert done.returncode == 0, f"curl ended with {done.returncode}: {done.stderr.decode()}"
    rest = done.stdout.decode().replace("\r\n", "\n")
    heads = []
    while rest.startswith("HTTP/"):
        head, _, rest = rest.partition("\n\n")
        heads.append(head)
    return Printed(heads, rest)


def test_a_streamed_chat_is_printed_event_by_event(door: str) -> None:
    body = json.dumps(chat(max_tokens=6, stream=True))
    printed = curl("-N", *JSON_BODY, "-d", body, f"{door}/v1/chat/completions")
    assert printed.status == 200
    assert (printed.header("content-type") or "").startswith("text/event-stream")
    events = [line for line in printed.body.splitlines() if line.startswith("data: ")]
    assert events[-1] == "data: [DONE]"
    assert len(events) >= 6


def test_the_first_token_does_not_wait_for_the_last(door: str) -> None:
    """Read from the pipe while curl runs: the first event is there, and curl still waits for more."""
    body = json.dumps(chat(max_tokens=200, stream=True))
    command = ["curl", "-sS", "-N", "--max-time", "60", *JSON_BODY, "-d", body, f"{door}/v1/chat/completions"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as running:
        assert running.stdout is not None
        try:
            assert running.stdout.readline().startswith(b"data: {")
            assert running.poll() is None
            rest = running.stdout.read()
        finally:
            running.kill()
    assert rest.rstrip().endswith(b"data: [DONE]")


@pytest.mark.parametrize("path", ["/health", "/v1/models", "/version"])
def test_head_has_no_body_and_the_connection_lives_on(door: str, path: str, tmp_path: Path) -> None:
    """vLLM refuses HEAD with 405; an answer to it may tell the length of a body but holds none.

    A body would be taken for the beginning of the next answer on the connection.
    """
    each = ("-sS", "--max-time", "30", "-o", str(tmp_path / "ignored"), "-w", "%{http_code} %{num_connects}\n")
    first = (*each, "--head", door + path)
    second = (*each, f"{door}/v1/models")
    done = subprocess.run(["curl", *first, "--next", *second], capture_output=True, timeout=90, check=True)
    head, after = done.stdout.decode().splitlines()
    assert head in ("200 1", "405 1")
    assert after == "200 0", "the second request needed a connection of its own, or failed"


def test_options_is_answered_by_the_engine(door: str) -> None:
    printed = curl("-X", "OPTIONS", f"{door}/v1/chat/completions")
    assert printed.status == 405
    assert printed.header("allow") == "POST"


def test_a_preflight_of_a_browser_is_answered_by_the_engine(door: str) -> None:
    origin = ("-H", "Origin: http://app.example", "-H", "Access-Control-Request-Method: POST")
    printed = curl("-X", "OPTIONS", *origin, f"{door}/v1/chat/completions")
    assert printed.header("access-control-allow-methods")
    assert "Origin" in (printed.header("vary") or "")


def test_a_client_that_waits_for_100_continue_gets_it(door: str) -> None:
    printed = curl(*JSON_BODY, "-H", "Expect: 100-continue", "-d", json.dumps(chat()), f"{door}/v1/chat/completions")
    assert printed.heads[0].split()[1] == "100"
    assert printed.status == 200


def test_a_huge_body_after_expect_gets_a_clean_refusal(door: str, tmp_path: Path) -> None:
    """More than 1 MiB, far over the model's context: 400 from the engine or 413, never a reset."""
    huge = tmp_path / "huge.json"
    huge.write_text(json.dumps(chat("word " * 300_000)))
    assert huge.stat().st_size > 1 << 20
    printed = curl(*JSON_BODY, "-H", "Expect: 100-continue", "--data-binary", f"@{huge}", f"{door}/v1/chat/completions")
    assert printed.status in (400, 413)
    assert json.loads(printed.body)["error"]["message"]


def test_a_chunked_upload_is_understood(door: str) -> None:
    body = json.dumps({"model": MODEL, "prompt": "import os", "max_tokens": 4, "ignore_eos": True})
    printed = curl(*JSON_BODY, "-H", "Transfer-Encoding: chunked", "-d", body, f"{door}/v1/completions")
    assert printed.status == 200
    assert json.loads(printed.body)["usage"]["completion_tokens"] == 4


def test_a_chunked_upload_from_a_pipe_is_understood(door: str) -> None:
    """`-T -` sends what it reads as it comes, in chunks of unknown number."""
    body = json.dumps(chat("word " * 2000, max_tokens=2)).encode()
    upload = ["curl", "-sS", "-X", "POST", "--max-time", "60", *JSON_BODY, "-T", "-", f"{door}/v1/chat/completions"]
    done = subprocess.run(upload, input=body, capture_output=True, timeout=90, check=True)
    assert json.loads(done.stdout)["usage"]["completion_tokens"] == 2


def test_http_1_0_gets_an_answer_that_ends_with_the_connection(fairlead: Fairlead) -> None:
    """Such a client knows no chunks, though the engine sends them (to HTTP/1.0 clients of its own as well)."""
    body = json.dumps(chat(max_tokens=4, stream=True))
    printed = curl("--http1.0", *JSON_BODY, "-d", body, f"{fairlead.url}/v1/chat/completions")
    assert printed.status == 200
    assert printed.header("transfer-encoding") is None
    assert printed.body.rstrip().endswith("data: [DONE]")
