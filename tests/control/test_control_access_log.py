"""The access log: one line per request whatever clients send, nothing secret in it, and nobody waits for it."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import re
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from control_app import engines, running
from control_records import finish, make_balancer, place, record

from fairlead.config.schema import TEMPLATE_NAMES
from fairlead.control import access_log
from fairlead.control.access_log import AccessLog
from fairlead.control.log_formats import VARIABLES, combined_line, json_line, renderer, template, text_line
from fairlead.control.recorder import Recorder
from fairlead.core.model import Facts, Kind
from fairlead.proxy.hedge import Told
from fairlead.proxy.record import Record
from fairlead.wire.openai import BadBody, read_facts

WALL = 1_700_000_000.25
HOSTILE = [
    "a\nb",
    "a\r\nb",
    'a"b',
    "a\\b",
    "a\x1b[31mb",
    "a\x00b",
    "a\u2028b",
    "a\u202eb",
    "a\x85b",
    "ä€😀",
    "x" * 5_000,
]


def test_a_text_line_for_people() -> None:
    balancer = make_balancer("a")
    lease = place(balancer, model="m")
    good = record(lease=lease, ttft=0.1234, prompt_tokens=100, output_tokens=5)
    assert text_line(good, WALL) == (
        "2023-11-14T22:13:20.250Z 192.0.2.7 POST /v1/chat/completions 200 backend=a model=m tries=1 tokens=100+5 "
        "ttft=0.123s time=0.250s outcome=ok id=id-1\n"
    )
    bad = record(status=502, error="upstream_unreachable", outcome="refused", tried=["a", "b"], tries=2)
    assert text_line(bad, WALL).endswith("outcome=refused error=upstream_unreachable failed_on=a,b id=id-1\n")
    raced = record(lease=lease, tries=2, hedge=Told("b", "a", "won"))
    assert text_line(raced, WALL).endswith("outcome=ok hedge=won first=b second=a id=id-1\n")
    assert json.loads(json_line(raced, WALL))["hedge"] == {"first": "b", "second": "a", "outcome": "won"}
    empty = Record()
    empty.status, empty.outcome, empty.error = 400, "refused", "bad_framing"
    assert " - - 400 backend=- model=- tries=0 tokens=-+- ttft=- " in text_line(empty, WALL)


def test_a_json_line_for_programs() -> None:
    lease = place(make_balancer("a"), model="m")
    made = record(lease=lease, ttft=0.1, prompt_tokens=100, output_tokens=5, stream=True, version=7)
    line = json_line(made, WALL)
    assert json.loads(line) == {
        "time": 1_700_000_000.25, "id": "id-1", "client": "192.0.2.7", "method": "POST",
        "path": "/v1/chat/completions", "status": 200, "model": "m", "stream": True, "backend": "a", "tries": 1,
        "failed_on": [], "hedged": False, "hedge": None,
        "prompt_tokens": 100, "output_tokens": 5, "bytes_out": 0, "ttft": 0.1, "duration": 0.25,
        "outcome": "ok", "error": None, "config_version": 7,
    }  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: ascii(text[:20]))
@pytest.mark.parametrize("field", ["path", "model"])
def test_hostile_text_stays_on_its_line(field: str, text: str) -> None:
    hostile = record(**{field: text})
    line = text_line(hostile, WALL)
    assert line.endswith("\n") and len(line.splitlines()) == 1
    assert line[:-1].isprintable()
    assert line.count('"') == line.count('\\"')
    line = json_line(hostile, WALL)
    assert line.count("\n") == 1 and "\x00" not in line and "\x1b" not in line
    assert json.loads(line)[field] == text


def test_a_model_name_cannot_pretend_to_be_other_fields() -> None:
    plain = text_line(record(model="m"), WALL)
    forged = text_line(record(model="m tries=1 outcome=ok id=forged"), WALL)
    assert len(forged.split(" ")) == len(plain.split(" "))


def test_a_huge_model_name_does_not_fill_log_and_memory() -> None:
    with pytest.raises(BadBody, match="1 to 512 characters"):  # it gets no further than this
        read_facts(b"/v1/chat/completions", b'{"model":"%b"}' % (b"m" * 1_000_000), False)
    balancer, lines = make_balancer("a"), list[str]()
    recorder = Recorder(balancer, lambda kept: lines.append(json_line(kept, WALL)))
    facts = Facts(kind=Kind.CHAT, model="m" * 512)
    finish(recorder, None, 11.0, "refused", status=404, facts=facts, path=b"/" + b"p" * 60_000)
    kept = recorder.records["id-1"]
    assert len(kept.model or "") <= 1_000 and len(kept.path) <= 4_000
    assert len(lines[0]) < 10_000


@pytest.mark.parametrize("format", ["text", "json"])
def test_each_record_is_one_line_in_order(tmp_path: Path, format: str) -> None:
    path = tmp_path / "access.log"
    log = AccessLog(str(path), renderer(format, None), lambda: 0.0)
    for number in range(access_log.MAX_BATCH + 10):  # more than one batch
        log(record(request_id=f"id-{number}", path=f"/{number}\n"))
    log.close()
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) == access_log.MAX_BATCH + 10
    assert "id-0" in lines[0] and f"id-{access_log.MAX_BATCH + 9}" in lines[-1]
    assert log.dropped == 0


def test_a_file_is_continued_and_one_that_cannot_be_opened_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    for _ in range(2):
        log = AccessLog(str(path), json_line, lambda: 0.0)
        log(record())
        log.close()
    assert len(path.read_text(encoding="utf-8").splitlines()) == 2
    with pytest.raises(OSError):
        AccessLog(str(tmp_path / "no" / "access.log"), json_line, lambda: 0.0)


def test_a_reader_that_stalls_costs_lines_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access_log, "MAX_BATCHES", 4)
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    fcntl.fcntl(reader, fcntl.F_SETPIPE_SZ, 4096)
    log = AccessLog(str(path), json_line, lambda: 0.0)
    sent = 0
    while log.dropped < 10:  # the pipe is full after a few lines, then the queue
        log(record(path="/" + "x" * 2000))
        log.flush()
        sent += 1
        assert sent < 10_000
    kept = sent - log.dropped
    received = bytearray()

    def drain() -> None:
        while data := os.read(reader, 65_536):
            received.extend(data)

    os.set_blocking(reader, True)
    thread = threading.Thread(target=drain)
    thread.start()
    log.close()
    thread.join(10)
    os.close(reader)
    lines = received.decode().splitlines()
    assert len(lines) == kept
    assert all(json.loads(line)["status"] == 200 for line in lines)


def test_a_reader_that_went_away_costs_lines_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    log = AccessLog(str(path), json_line, lambda: 0.0)
    os.close(reader)
    log(record())
    log.flush()
    log.close()
    assert log.dropped == 1


def test_prompts_keys_and_queries_are_never_in_it(tmp_path: Path) -> None:
    path = tmp_path / "access.log"

    async def body() -> None:
        async with engines(1) as (one,), running(one.url, log=path) as fairlead:
            status, _ = await fairlead.chat("m", "sesame-prompt", authorization="Bearer sesame-key")
            assert status == 200
            await fairlead.chat("unknown", "sesame-prompt", authorization="Bearer sesame-key")
            reader, writer = await asyncio.open_connection("127.0.0.1", int(fairlead.data.rpartition(":")[2]))
            writer.write(
                b"GET /v1/sesame?key=sesame-query HTTP/1.1\r\nHost: x\r\nCookie: a=sesame-cookie\r\n\r\n"
                b"POST /v1/completions?key=sesame-query HTTP/1.1\r\nHost: x\r\nContent-Length: 8\r\n\r\n{sesame}"
                b"POST / HTTP/1.1\r\nHost: x\r\nSesame Header: 1\r\n\r\n"
            )
            await reader.read()
            writer.close()
            await writer.wait_closed()
            page = (await fairlead.get("/metrics"))[1]
            assert b"sesame" not in page
            pages = [await fairlead.get(p) for p in ("/api/decisions", "/api/backends", "/api/config", "/api/models")]
            assert not any(secret in text for _, text in pages for secret in (b"sesame-", b"{sesame}"))

    asyncio.run(body())
    lines = path.read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["status"] for line in lines] == [200, 404, 404, 400, 400]
    text = "\n".join(lines).replace("/v1/sesame", "")
    assert "sesame" not in text.lower()


@pytest.mark.parametrize("render", [text_line, json_line])
def test_times_are_those_of_the_wall(render: Callable[[Record, float], str]) -> None:
    line = render(record(), 0.0)
    assert "1970-01-01T00:00:00.000Z" in line or '"time":0.0' in line


def test_the_combined_format_is_that_of_nginx() -> None:
    line = combined_line(record(lease=place(make_balancer("a")), bytes_out=321), WALL)
    pattern = (
        r'\S+ - - \[\d\d/\w{3}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4}\] "POST /v1/chat/completions HTTP/1\.1" 200 321 "-" "-"\n'
    )
    assert re.fullmatch(pattern, line), line
    hostile = combined_line(record(path='/a" 200 1 "x\r\n1.2.3.4 - - '), WALL)
    assert hostile.count('"') == 6
    assert hostile.count("\n") == 1


def test_a_template_writes_the_line_that_one_likes() -> None:
    render = template("$remote_addr $status $request_time|$ttft|$model")
    assert render(record(duration=1.5, ttft=None, model="m"), WALL) == f"{record().peer} 200 1.500|-|m\n"


def test_every_variable_of_a_template_has_a_value_or_a_dash() -> None:
    for name in VARIABLES:
        assert template(f"<${name}>")(Record(), WALL) not in ("<>\n", "<None>\n"), name
    assert set(VARIABLES) == set(TEMPLATE_NAMES), "what the configuration admits is what there is"
