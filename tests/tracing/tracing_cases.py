"""What tests of traces share: who is told what, and what an engine was told."""

from __future__ import annotations

import re
from typing import Any

from otlp_receiver import Got, Receiver
from peers import Seen

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{SPAN}-01"


def to(collector: Receiver, **more: Any) -> dict[str, Any]:
    return {"tracing": {"endpoint": collector.url, **more}}


def told(seen: Seen) -> tuple[str, str, str]:
    """(trace, span, flags) that an engine was told."""
    values = [value for name, value in seen.fields if name == "traceparent"]
    assert len(values) == 1, "one, and only one"
    match = re.fullmatch(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})", values[0])
    assert match is not None
    return match[1], match[2], match[3]


def assert_child(seen: Seen, span: Got, flags: str = "01") -> None:
    assert told(seen) == (span.trace_id, span.span_id, flags)
