"""W3C Trace Context: which trace does a request belong to, as its headers say?

Rule 1: what is not exactly as the recommendation has it counts as absent, never as repaired: a trace that is taken up
wrongly joins requests that have nothing to do with each other.
Rule 2: a version that we do not know is read as far as version 00 goes, and passed on as version 00.
Rule 3: a `tracestate` that cannot be read is lost, and its trace goes on.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, NamedTuple

SAMPLED: Final = 0x01
RANDOM: Final = 0x02  # the trace id is random in its last seven bytes (level 2); nothing else is known
KNOWN: Final = SAMPLED | RANDOM

MAX_MEMBERS: Final = 32
MAX_STATE: Final = 4_096  # bytes of tracestate that are read; what must be passed on is 512

_PARENT: Final = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.DOTALL)
_KEY: Final = rb"(?:[a-z][a-z0-9_\-*/]{0,255}|[a-z0-9][a-z0-9_\-*/]{0,240}@[a-z][a-z0-9_\-*/]{0,13})"
_MEMBER: Final = re.compile(_KEY + rb"=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]")


class Parent(NamedTuple):
    """Who asked: a span of somebody else."""

    trace_id: bytes  # 32 digits
    span_id: bytes  # 16 digits
    flags: int  # those that are known
    state: bytes  # the tracestate to pass on, may be empty

    @property
    def sampled(self) -> bool:
        return bool(self.flags & SAMPLED)


def read_parent(values: Sequence[bytes], states: Sequence[bytes] = ()) -> Parent | None:
    """The parent that the values of traceparent and tracestate tell; None: there is none that can be believed."""
    if len(values) != 1:
        return None
    match = _PARENT.fullmatch(values[0])
    if match is None:
        return None
    version, trace_id, span_id, flags, more = match.groups()
    if version == b"ff" or (version == b"00" and more is not None):
        return None
    if not trace_id.strip(b"0") or not span_id.strip(b"0"):
        return None
    return Parent(trace_id, span_id, int(flags, 16) & KNOWN, read_state(states))


def read_state(values: Sequence[bytes]) -> bytes:
    """The list members of all these headers as one value; empty when there are none, or any of them is wrong."""
    text = b",".join(values)
    if not text or len(text) > MAX_STATE:
        return b""
    members = [member for part in text.split(b",") if (member := part.strip(b" \t"))]
    keys = {member.partition(b"=")[0] for member in members}
    if len(members) > MAX_MEMBERS or len(keys) < len(members):
        return b""
    return b",".join(members) if all(_MEMBER.fullmatch(member) for member in members) else b""


def parent_value(trace_id: bytes, span_id: bytes, flags: int) -> bytes:
    """A traceparent that names this span."""
    return b"00-%b-%b-%02x" % (trace_id, span_id, flags)
