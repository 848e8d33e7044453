"""The recorder: what is counted, what is kept, and that neither can be made to grow."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest
from control_records import finish, make_balancer, page_of, place

from fairlead.control.recorder import MAX_DECISIONS, Histogram, Recorder
from fairlead.core.model import Facts, Kind, Usage
from fairlead.proxy.client import Client
from fairlead.proxy.record import Record
from fairlead.wire.http1 import RequestHead


def test_a_finished_request_is_counted_and_kept() -> None:
    balancer = make_balancer("a")
    seen: list[Record] = []
    recorder = Recorder(balancer, seen.append)
    lease = place(balancer, model="m", stream=True, prompt_bytes=400)
    balancer.first_token(lease, 10.5)
    lease.produced = 5
    finish(recorder, lease, 12.5, first_byte_at=10.5, usage=Usage(100, 5, 40))
    assert recorder.requests == {("a", "m", 200): 1}
    numbers = recorder.backends["a"]
    assert (numbers.prompt_tokens, numbers.output_tokens, numbers.cached_tokens) == (100, 5, 40)
    assert (numbers.ttft.total, numbers.seconds.total) == (0.5, 2.5)
    gaps = numbers.inter_token
    assert (sum(gaps.counts), gaps.total) == (4, 2.0)  # five tokens have four gaps, of half a second each
    (record,) = seen
    assert recorder.records["id-1"] is record
    assert (record.backend, record.ttft, record.duration, record.output_tokens) == ("a", 0.5, 2.5, 5)
    assert (record.peer, record.path) == ("192.0.2.7", "/v1/chat/completions")


def test_every_sink_gets_every_record() -> None:
    one: list[Record] = []
    two: list[Record] = []
    recorder = Recorder(make_balancer("a"), one.append, two.append)
    finish(recorder, None, 11.0)
    recorder.early(cast(Client, SimpleNamespace(peer="192.0.2.7", arrived=10.0)), 431, "head_too_long")
    assert one == two
    assert [record.status for record in one] == [200, 431]


def test_an_answer_in_one_piece_says_nothing_about_first_tokens() -> None:
    balancer = make_balancer("a")
    recorder = Recorder(balancer)
    finish(recorder, place(balancer, model="m"), 12.0, first_byte_at=11.0, usage=Usage(10, 5))
    numbers = recorder.backends["a"]
    assert sum(numbers.seconds.counts) == 1
    assert sum(numbers.ttft.counts) == sum(numbers.inter_token.counts) == 0
    assert recorder.records["id-1"].ttft == 1.0
    assert numbers.cached_tokens == 0


def test_a_request_that_went_nowhere_has_no_backend() -> None:
    recorder = Recorder(make_balancer("a"))
    finish(recorder, None, 11.0, "refused", status=404, error="model_not_found")
    assert recorder.requests == {("", "m", 404): 1}
    assert recorder.backends == {}
    assert recorder.records["id-1"].backend is None


@pytest.mark.parametrize(("first_byte_at", "phase"), [(0.0, "waiting"), (11.0, "streaming")])
def test_clients_that_leave_are_counted_by_phase(first_byte_at: float, phase: str) -> None:
    balancer = make_balancer("a")
    recorder = Recorder(balancer)
    left = place(balancer, model="m")
    finish(recorder, left, 12.0, "client_gone", first_byte_at=first_byte_at, status=499, error="client_gone")
    assert recorder.aborts == {phase: 1}


def test_small_counters_count() -> None:
    recorder = Recorder(make_balancer("a"))
    hurried: list[str] = []
    recorder.on_connect_failure = hurried.append
    for kind in ("connect", "connect", "upstream_broken", "timeout", "502"):
        recorder.failed("a", kind)
    recorder.retried("connect")
    recorder.refused("bad_body")
    recorder.refused("bad_body")
    recorder.decided(3e-5)
    counted = {key: count for key, count in recorder.errors.items() if count}
    assert counted == {("a", "connect"): 2, ("a", "upstream_broken"): 1, ("a", "timeout"): 1, ("a", "502"): 1}
    assert recorder.errors["a", "connect_timeout"] == 0  # there from the start
    assert hurried == ["a", "a", "a"]  # only what may mean that the engine is gone
    refusals = {reason: count for reason, count in recorder.refusals.items() if count}
    assert (recorder.retries, refusals, sum(recorder.decision.counts)) == ({"connect": 1}, {"bad_body": 2}, 1)


def test_what_is_refused_early_gets_its_log_line_and_no_query() -> None:
    seen: list[Record] = []
    recorder = Recorder(make_balancer("a"), seen.append)
    client = cast(Client, SimpleNamespace(peer="192.0.2.7", arrived=10.0))
    head = cast(RequestHead, SimpleNamespace(method=b"POST", target=b"/v1/chat/completions?key=secret"))
    recorder.early(client, 431, "head_too_long")
    recorder.early(client, 400, "bad_body", head, b"id-2")
    assert recorder.requests == {("", "", 431): 1, ("", "", 400): 1}
    assert [(r.status, r.error, r.method, r.path, r.request_id) for r in seen] == [
        (431, "head_too_long", "", "", ""),
        (400, "bad_body", "POST", "/v1/chat/completions", "id-2"),
    ]


def test_made_up_models_paths_and_ids_make_no_series() -> None:
    balancer = make_balancer("a", "b")
    recorder = Recorder(balancer)
    page = page_of(balancer, recorder)

    def send(name: str) -> None:
        path, facts = f"/v1/{name}".encode(), Facts(kind=Kind.CHAT, model=name)
        refused = {"status": 404, "error": "model_not_found", "path": path, "request_id": name.encode()}
        finish(recorder, None, 11.0, "refused", facts=facts, **refused)

    send("first")
    before = page.render().count(b"\n")
    for number in range(10_000):
        send(f"made-up-{number}")
    text = page.render()
    assert text.count(b"\n") == before
    assert b"made-up" not in text
    assert b'fairlead_requests_total{backend="",code="404",model="other"} 10001.0' in text
    assert len(recorder.records) == MAX_DECISIONS


def test_the_last_requests_are_kept_and_an_id_used_twice_is_the_later_one() -> None:
    recorder = Recorder(make_balancer("a"))
    for number in range(MAX_DECISIONS + 5):
        finish(recorder, None, 11.0, request_id=b"id-%d" % number)
    assert "id-4" not in recorder.records and "id-5" in recorder.records
    finish(recorder, None, 11.0, request_id=b"id-9", status=400)
    assert recorder.records["id-9"].status == 400
    assert len(recorder.records) == MAX_DECISIONS


def test_a_histogram_puts_a_value_into_the_first_bucket_that_holds_it() -> None:
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 2.0, 9.0):
        histogram.observe(value)
    histogram.observe(1.5, 3)
    assert (histogram.counts, histogram.total) == ([2, 5, 1], 18.5)
