"""An engine's answers: what can be said from them for sure?

Every function takes whatever came (HTML, half a document, wrong types, nothing) and answers with an empty value
instead of raising.
"""

from __future__ import annotations

import math
from typing import Any, Final

import msgspec

from fairlead.engines.interface import Answer, Answers

MODELS: Final = "/v1/models"
MAX_JSON: Final = 8 * 1024 * 1024  # bytes
MAX_MODELS: Final = 10_000
MAX_NAME: Final = 512  # characters of a model name
MAX_VERSION: Final = 64  # characters


def body_of(answers: Answers, path: str) -> bytes:
    """The body of a 200 answer; empty where there is none."""
    answer = answers.get(path)
    return answer.body if answer is not None and answer.status == 200 else b""


def parse_json(body: bytes) -> Any:
    """The decoded document, or None. Deep nesting and wrong encodings are refused like any other rubbish."""
    if not body or len(body) > MAX_JSON:
        return None
    try:
        return msgspec.json.decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None


def object_of(answers: Answers, path: str) -> dict[str, Any]:
    """The JSON object that a path answered with; empty where it did not."""
    document = parse_json(body_of(answers, path))
    return document if isinstance(document, dict) else {}


def count_of(value: object) -> float | None:
    """A finite number that is not negative, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        result = float(value)
    except OverflowError:
        return None
    return result if math.isfinite(result) and result >= 0 else None


def listed_models(answers: Answers) -> frozenset[str] | None:
    """Names under /v1/models, loaded adapters included; None where no such list came."""
    entries = _model_entries(answers)
    if entries is None:
        return None
    names = frozenset(name for entry in entries if (name := entry.get("id")) and _is_name(name))
    return names if names or not entries else None


def owners(answers: Answers) -> frozenset[str]:
    """Every `owned_by` under /v1/models, in lower case."""
    texts = (entry.get("owned_by") for entry in _model_entries(answers) or ())
    return frozenset(text.lower() for text in texts if isinstance(text, str))


def version_text(value: object) -> str | None:
    """A version worth showing to people, or None."""
    if not isinstance(value, str) or not 0 < len(value) <= MAX_VERSION or not value.isprintable():
        return None
    return value


def names_metric(body: bytes, prefix: bytes) -> bool:
    """Whether Prometheus text tells of a metric whose name begins so (comments count: fresh counters may be bare)."""
    return body.startswith(prefix) or b"\n" + prefix in body or b"# TYPE " + prefix in body


def header_has(answers: Answers, name: str, text: str) -> bool:
    """Whether any answer, of any status, has a header that holds this text (lower case)."""
    return any(text in _header(answer, name) for answer in answers.values())


def _header(answer: Answer, name: str) -> str:
    return str(answer.headers.get(name, "")).lower()


def _is_name(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= MAX_NAME


def _model_entries(answers: Answers) -> list[dict[str, Any]] | None:
    data = object_of(answers, MODELS).get("data")
    if not isinstance(data, list):
        return None
    entries = [entry for entry in data[:MAX_MODELS] if isinstance(entry, dict)]
    return entries if entries or not data else None
