"""Which trace does a request belong to? Only what is exactly as W3C has it counts."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairlead.proxy.trace import Tracer
from fairlead.wire.http1 import parse_request
from fairlead.wire.trace_context import Parent, parent_value, read_parent, read_state

TRACE, SPAN = b"4bf92f3577b34da6a3ce929d0e0e4736", b"00f067aa0ba902b7"
GOOD = b"00-" + TRACE + b"-" + SPAN + b"-01"

VALID = {
    "sampled": (GOOD, 1),
    "not sampled": (GOOD[:-2] + b"00", 0),
    "random trace id": (GOOD[:-2] + b"03", 3),
    "unknown flags": (GOOD[:-2] + b"ff", 3),
    "unknown flags, not sampled": (GOOD[:-2] + b"fc", 0),
    "a later version": (b"01" + GOOD[2:], 1),
    "the last version": (b"fe" + GOOD[2:], 1),
    "a later version with more": (b"cc" + GOOD[2:] + b"-what-the-future-will-be", 1),
    "a later version with nothing after the dash": (b"cc" + GOOD[2:] + b"-", 1),
}
INVALID = {
    "empty": b"",
    "version ff": b"ff" + GOOD[2:],
    "version of one digit": b"0" + GOOD[2:],
    "version of three digits": b"000" + GOOD[2:],
    "version with a capital": b"0A" + GOOD[2:],
    "version that is no number": b"xy" + GOOD[2:],
    "version 00 with more": GOOD + b"-more",
    "version 00 with a dash more": GOOD + b"-",
    "later version with more and no dash": b"cc" + GOOD[2:] + b".more",
    "all zero trace id": b"00-" + b"0" * 32 + b"-" + SPAN + b"-01",
    "all zero span id": b"00-" + TRACE + b"-" + b"0" * 16 + b"-01",
    "trace id with capitals": b"00-" + TRACE.upper() + b"-" + SPAN + b"-01",
    "span id with capitals": b"00-" + TRACE + b"-" + SPAN.upper() + b"-01",
    "flags with a capital": GOOD[:-2] + b"0A",
    "short trace id": b"00-" + TRACE[1:] + b"-" + SPAN + b"-01",
    "long trace id": b"00-0" + TRACE + b"-" + SPAN + b"-01",
    "short span id": b"00-" + TRACE + b"-" + SPAN[1:] + b"-01",
    "long span id": b"00-" + TRACE + b"-0" + SPAN + b"-01",
    "flags of one digit": GOOD[:-1],
    "flags of three digits": GOOD + b"0",
    "no flags": GOOD[:-3],
    "letters beyond f": GOOD.replace(b"4bf9", b"4bg9"),
    "other separators": GOOD.replace(b"-", b"_"),
    "blanks inside": GOOD.replace(b"-", b" - "),
    "two in one value": GOOD + b"," + GOOD,
    "not ASCII": GOOD[:-2] + b"\xb2\xb9",
}


@pytest.mark.parametrize("name", list(VALID))
def test_a_valid_parent_is_taken_up(name: str) -> None:
    value, flags = VALID[name]
    assert read_parent([value]) == Parent(TRACE, SPAN, flags, b"")


@pytest.mark.parametrize("name", list(INVALID))
def test_what_is_not_valid_counts_as_absent(name: str) -> None:
    assert read_parent([INVALID[name]]) is None


def test_two_of_them_are_none() -> None:
    assert read_parent([GOOD, GOOD]) is None
    assert read_parent([]) is None


@given(st.binary(max_size=80))
def test_any_bytes_are_read_or_not_and_what_is_read_can_be_told_again(value: bytes) -> None:
    parent = read_parent([value])
    if parent is not None:
        assert read_parent([parent_value(parent.trace_id, parent.span_id, parent.flags)]) == parent


STATES = {
    "none": ([], b""),
    "one": ([b"a=1"], b"a=1"),
    "in several headers": ([b"a=1", b"b=2,c=3"], b"a=1,b=2,c=3"),
    "blanks around": ([b" a=1 ,\t b=2 "], b"a=1,b=2"),
    "empty members": ([b"a=1,,b=2,"], b"a=1,b=2"),
    "of a tenant": ([b"0tenant@system=x/y z"], b"0tenant@system=x/y z"),
    "all signs of a key": ([b"a_-*/9=v"], b"a_-*/9=v"),
    "32": ([b",".join(b"k%d=v" % i for i in range(32))], b",".join(b"k%d=v" % i for i in range(32))),
    "33": ([b",".join(b"k%d=v" % i for i in range(33))], b""),
    "twice the same key": ([b"a=1,a=2"], b""),
    "no value": ([b"a="], b""),
    "no equals sign": ([b"a"], b""),
    "two equals signs": ([b"a=1=2"], b""),
    "capital in the key": ([b"A=1"], b""),
    "key begins with a digit": ([b"1a=1"], b""),
    "system begins with a digit": ([b"a@1=1"], b""),
    "long system": ([b"a@bcdefghijklmnop=1"], b""),
    "control in the value": ([b"a=1\x012"], b""),
    "not ASCII": ([b"a=\xc3\xa4"], b""),
    "one bad among good ones": ([b"a=1,B=2"], b""),
    "key of 256": ([b"a" * 256 + b"=1"], b"a" * 256 + b"=1"),
    "key of 257": ([b"a" * 257 + b"=1"], b""),
    "value of 256": ([b"a=" + b"v" * 256], b"a=" + b"v" * 256),
    "value of 257": ([b"a=" + b"v" * 257], b""),
    "too long": ([b",".join(b"k%d=%b" % (i, b"v" * 250) for i in range(20))], b""),
}


@pytest.mark.parametrize("name", list(STATES))
def test_a_state_is_passed_on_whole_or_not_at_all(name: str) -> None:
    values, expected = STATES[name]
    assert read_state(values) == expected
    parent = read_parent([GOOD], values)
    assert parent is not None
    assert parent.state == expected, "and its trace goes on"


# --- how a request goes on ------------------------------------------------------------------------------------


def begin(*lines: bytes, sample: float = 1.0) -> object:
    return Tracer(sample, Random(7)).begin(parse_request(b"\r\n".join((b"POST / HTTP/1.1", b"Host: h", *lines)), 100))


def test_what_a_client_wants_kept_is_kept_whatever_the_share() -> None:
    for sample in (0.0, 1.0):
        assert begin(b"traceparent: " + GOOD, sample=sample) is not None
        assert begin(b"traceparent: " + GOOD[:-2] + b"00", sample=sample) is None


def test_requests_of_no_trace_are_kept_by_their_share() -> None:
    tracer = Tracer(0.25, Random(7))
    head = parse_request(b"POST / HTTP/1.1\r\nHost: h", 100)
    made = [tracer.begin(head) for _ in range(4_000)]
    assert all(made), "a backend is told of each, kept or not"
    kept = sum(trace.sampled for trace in made if trace is not None)
    assert 900 < kept < 1_100
    assert len({trace.trace_id for trace in made if trace is not None}) == 4_000
    for sample in (0.0, 1.0):
        tracer = Tracer(sample, Random(7))
        assert {trace.sampled for _ in range(100) if (trace := tracer.begin(head))} == {bool(sample)}


def test_the_clients_own_lines_are_taken_out_and_no_other() -> None:
    trace = Tracer(1.0, Random(7)).begin(
        parse_request(
            b"POST / HTTP/1.1\r\nHost: h\r\nA: 1\r\nTraceparent: %b\r\nTRACESTATE: a=1\r\nTracestate: b=2\r\n"
            b"Traceparent-Of: mine\r\nB: 2" % GOOD,
            100,
        )
    )
    assert trace is not None
    assert trace.forward == b"\r\nA: 1\r\nTraceparent-Of: mine\r\nB: 2"
    assert (trace.trace_id, trace.parent_id, trace.state) == (TRACE, SPAN, b"a=1,b=2")
    line = trace.lines("nobody")
    assert line == b"\r\ntraceparent: 00-%b-%b-01\r\ntracestate: a=1,b=2" % (TRACE, trace.span_id)
