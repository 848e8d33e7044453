"""One finished request as a line of the access log: for people, for programs, as nginx has it, or as you like it.

Rendered in the log's thread, from a `Record` alone. What came from clients is escaped: nothing in it can look like
another field or another line.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from fairlead.proxy.record import Record

Render = Callable[[Record, float], str]
"""(record, wall clock time of its arrival in seconds) -> a line with its end."""

_SPECIAL = re.compile(r'[\s"=\\]')
_UNSEEN = re.compile("[\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff]")


def _clean(text: str) -> str:
    """Text from a client, fit for one field of a line: nothing in it can look like another field."""
    if text.isprintable() and not _SPECIAL.search(text):
        return text
    return _SPECIAL.sub(lambda m: f"\\x{ord(m[0]):02x}", text.encode("unicode_escape").decode())


def text_line(record: Record, wall: float) -> str:
    """For people: time, request, where it went, how it went."""
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(wall)) + f".{int(wall % 1 * 1000):03d}Z"
    ttft = "-" if record.ttft is None else f"{record.ttft:.3f}s"
    tokens = f"{_or_dash(record.prompt_tokens)}+{_or_dash(record.output_tokens)}"
    line = (
        f"{stamp} {record.peer} {record.method or '-'} {_clean(record.path) or '-'} {record.status} "
        f"backend={record.backend or '-'} model={_clean(record.model or '-')} tries={record.tries} tokens={tokens} "
        f"ttft={ttft} time={record.duration:.3f}s outcome={record.outcome or '-'}"
    )
    if record.error:
        line += f" error={record.error}"
    if record.tried:
        line += f" failed_on={','.join(record.tried)}"
    if record.hedge is not None:
        line += f" hedge={record.hedge.outcome} first={record.hedge.first} second={record.hedge.second}"
    return f"{line} id={record.request_id or '-'}\n"


def json_line(record: Record, wall: float) -> str:
    """For programs: one JSON object."""
    fields = {
        "time": round(wall, 3),
        "id": record.request_id or None,
        "client": record.peer,
        "method": record.method or None,
        "path": record.path or None,
        "status": record.status,
        "model": record.model,
        "stream": record.stream,
        "backend": record.backend,
        "tries": record.tries,
        "failed_on": list(record.tried),
        "hedged": record.hedge is not None,
        "hedge": record.hedge._asdict() if record.hedge is not None else None,
        "prompt_tokens": record.prompt_tokens,
        "output_tokens": record.output_tokens,
        "bytes_out": record.bytes_out,
        "ttft": None if record.ttft is None else round(record.ttft, 6),
        "duration": round(record.duration, 6),
        "outcome": record.outcome,
        "error": record.error or None,
        "config_version": record.version,
    }
    text = msgspec.json.encode(fields).decode()
    if not text.isprintable():  # JSON lets DEL, C1 controls and line separators stand; terminals act on them
        text = _UNSEEN.sub(lambda m: f"\\u{ord(m[0]):04x}", text)
    return text + "\n"


def _or_dash(value: int | None) -> str:
    return "-" if value is None else str(value)


def combined_line(record: Record, wall: float) -> str:
    """nginx's `combined`; who refers and with what agent is not kept, so those two are dashes."""
    asked = f"{record.method or '-'} {_clean(record.path) or '-'} {record.protocol}"
    return f'{record.peer} - - [{_local(wall)}] "{asked}" {record.status} {record.bytes_out} "-" "-"\n'


def _local(wall: float) -> str:
    return time.strftime("%d/%b/%Y:%H:%M:%S %z", time.localtime(wall))


VARIABLES: Final[Mapping[str, Callable[[Record, float], object]]] = {
    "time_local": lambda record, wall: _local(wall),
    "time_iso8601": lambda record, wall: time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(wall)),
    "remote_addr": lambda record, wall: record.peer,
    "request_method": lambda record, wall: record.method,
    "request_path": lambda record, wall: _clean(record.path),
    "status": lambda record, wall: record.status,
    "body_bytes_sent": lambda record, wall: record.bytes_out,
    "request_time": lambda record, wall: f"{record.duration:.3f}",
    "upstream_addr": lambda record, wall: record.backend,
    "upstream_tries": lambda record, wall: record.tries,
    "ttft": lambda record, wall: None if record.ttft is None else f"{record.ttft:.3f}",
    "model": lambda record, wall: _clean(record.model or ""),
    "prompt_tokens": lambda record, wall: record.prompt_tokens,
    "output_tokens": lambda record, wall: record.output_tokens,
    "outcome": lambda record, wall: record.outcome,
    "error": lambda record, wall: record.error,
    "request_id": lambda record, wall: record.request_id,
    "config_version": lambda record, wall: record.version,
}
"""What may stand in a template as $name; what is not known is a dash."""

_NAME: Final = re.compile(r"\$([A-Za-z0-9_]+)")


def template(text: str) -> Render:
    """A line of your own. KeyError for a variable that does not exist."""
    pieces: list[str | Callable[[Record, float], object]] = []
    at = 0
    for match in _NAME.finditer(text):
        pieces += [text[at : match.start()], VARIABLES[match[1]]]
        at = match.end()
    pieces.append(text[at:])

    def render(record: Record, wall: float) -> str:
        parts = []
        for piece in pieces:
            if isinstance(piece, str):
                parts.append(piece)
            else:
                value = piece(record, wall)
                parts.append("-" if value is None or value == "" else str(value))
        return "".join(parts) + "\n"

    return render


def renderer(format: str, text: str | None) -> Render:
    """By the option `access_log.format`; `text` is `access_log.template`."""
    if format == "template":
        return template(text or "")
    return {"text": text_line, "json": json_line, "combined": combined_line}[format]
