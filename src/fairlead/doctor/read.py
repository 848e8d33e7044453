"""Pages of an engine -> facts. Which engine says what where, and what does it mean?

Rule 1: pure, and never raises on odd input: what cannot be read stays unknown.
Rule 2: one row per fact and family; an engine that does not tell has no row.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Final

from fairlead.core.model import EngineStats
from fairlead.doctor.facts import MetricsState, Model
from fairlead.engines.interface import Answer, Answers, Dialect
from fairlead.engines.promtext import Scanner, number
from fairlead.engines.reading import MODELS, count_of, names_metric, object_of, parse_json
from fairlead.engines.vllm import CACHE_INFO

SERVER_INFO_JSON: Final = "/server_info?config_format=json"  # vLLM, development mode only
EVENT_SOURCES: Final = "/kv_event_sources"  # vLLM, newer versions
RESET_CACHE: Final = "/reset_prefix_cache"  # vLLM, development mode only: looked for, never called

EXTRA_PAGES: Final[dict[str, tuple[str, ...]]] = {"vllm": (SERVER_INFO_JSON, EVENT_SOURCES)}
"""GET pages beyond the dialect's clues; none of them changes anything in the engine."""

PREFIXES: Final[dict[str, bytes]] = {
    "vllm": b"vllm:", "sglang": b"sglang:", "trtllm": b"trtllm_", "triton": b"nv_", "triton-openai": b"nv_",
    "tgi": b"tgi_", "llamacpp": b"llamacpp:", "lmdeploy": b"lmdeploy:",
}  # fmt: skip
SAMPLING_KEYS: Final = ("temperature", "top_k", "top_p", "min_p", "repeat_penalty")
MOST_MODELS: Final = 200
_CACHE_INFO: Final = Scanner([CACHE_INFO, "vllm:admission_rejections_total"])


def printable(value: object, most: int = 120) -> str:
    """A text of an engine as it may stand on a terminal: without control characters, cut."""
    text = "".join(char if char.isprintable() else "?" for char in str(value)[: most + 1])
    return text if len(text) <= most else text[:most] + "..."


def models_of(answers: Answers) -> tuple[Model, ...]:
    """The entries of /v1/models, with their context length wherever the engine tells it."""
    data = object_of(answers, MODELS).get("data")
    entries = [entry for entry in data if isinstance(entry, dict)] if isinstance(data, list) else []
    elsewhere = _longest_elsewhere(answers)
    found: dict[str, Model] = {}
    for entry in entries[:MOST_MODELS]:
        name = entry.get("id")
        if not isinstance(name, str) or not name:
            continue
        root, parent = entry.get("root"), entry.get("parent")
        found.setdefault(
            name,
            Model(
                id=printable(name),
                longest=_whole(entry.get("max_model_len")) or elsewhere,
                root=printable(root) if isinstance(root, str) and root and root != name else None,
                is_adapter=isinstance(parent, str) and bool(parent),
            ),
        )
    return tuple(found.values())


def _longest_elsewhere(answers: Answers) -> int | None:
    """llama.cpp and TGI tell it on pages of their own."""
    settings = object_of(answers, "/props").get("default_generation_settings")
    if isinstance(settings, dict) and (longest := _whole(settings.get("n_ctx"))):
        return longest
    return _whole(object_of(answers, "/info").get("max_total_tokens"))


def metrics_state(dialect: Dialect, body: bytes, stats: EngineStats) -> MetricsState:
    """What a page that answered 200 is worth."""
    if stats != EngineStats():
        return MetricsState.READ
    if dialect.name == "trtllm" and body[:1] == b"[":  # no step since the last reading; the next one has numbers
        return MetricsState.READ
    prefix = PREFIXES.get(dialect.name)
    return MetricsState.UNKNOWN if prefix and names_metric(body, prefix) else MetricsState.EMPTY


def hits_of(stats: EngineStats) -> float | None:
    """Tokens that came from the cache, as a counter."""
    return stats.prefix_hits


def _info(engine: str, answers: Answers) -> dict[str, Any]:
    """The server's own arguments, where it shows them."""
    if engine == "sglang":
        return object_of(answers, "/server_info") or object_of(answers, "/get_server_info")
    if engine == "vllm":
        config = object_of(answers, SERVER_INFO_JSON).get("vllm_config")
        return config if isinstance(config, dict) else {}
    return {}


def prefix_caching(engine: str, answers: Answers, metrics: bytes) -> bool | None:
    if engine == "vllm":
        told = {series.labels.get("enable_prefix_caching") for series in _CACHE_INFO.scan(metrics).get(CACHE_INFO, ())}
        if told & {"False"}:
            return False
        if told & {"True"}:
            return True
        return _flag(_part(_info(engine, answers), "cache_config").get("enable_prefix_caching"))
    if engine == "sglang":
        off = _flag(_info(engine, answers).get("disable_radix_cache"))
        return None if off is None else not off
    return None


def cache_events(engine: str, answers: Answers) -> bool | None:
    if engine == "vllm":
        answer = answers.get(EVENT_SOURCES)
        sources = parse_json(answer.body) if answer is not None and answer.status == 200 else None
        return bool(sources) if isinstance(sources, dict) else None
    if engine == "sglang":
        info = _info(engine, answers)
        for key in ("kv_events", "kv_events_config"):
            if key in info:
                told = info[key]
                told = parse_json(told.encode()) if isinstance(told, str) else told
                return isinstance(told, dict) and told.get("publisher", "null") not in (None, "null")
    return None


def queue_limit(engine: str, answers: Answers, metrics: bytes) -> bool | None:
    """Whether the engine refuses requests when its queue is long."""
    if engine == "vllm":
        limits = _part(_info(engine, answers), "scheduler_config")
        keys = [key for key in ("max_num_queued_reqs", "max_num_queued_tokens") if key in limits]
        if keys:
            return any(limits[key] is not None for key in keys)
        # One that has refused a request has a limit; one that has not may have it all the same.
        refused = _CACHE_INFO.scan(metrics).get("vllm:admission_rejections_total", ())
        return True if any(series.value > 0 for series in refused) else None
    if engine == "sglang":
        info = _info(engine, answers)
        return info["max_queued_requests"] is not None if "max_queued_requests" in info else None
    if engine == "llamacpp":
        return False  # it has none
    if engine in ("tgi", "ollama"):
        return True  # both always have one
    return None


def sampling(engine: str, answers: Answers) -> Mapping[str, str] | None:
    """Defaults of requests that name none, as far as told; texts, to be compared and shown."""
    info: Mapping[str, Any]
    if engine == "vllm":
        info = _part(_info(engine, answers), "model_config")
        wanted: tuple[str, ...] = ("generation_config", "override_generation_config")
    elif engine == "sglang":
        info, wanted = _info(engine, answers), ("sampling_defaults", "preferred_sampling_params")
    elif engine == "llamacpp":
        settings = object_of(answers, "/props").get("default_generation_settings")
        settings = settings if isinstance(settings, dict) else {}
        inner = settings.get("params")
        info, wanted = inner if isinstance(inner, dict) else settings, SAMPLING_KEYS
    else:
        return None
    told = {key: printable(info[key]) for key in wanted if key in info}
    return told or None


def tokenize_request(engine: str, model: str, text: str) -> tuple[str, dict[str, Any]] | None:
    """Path and body that turn a text into tokens without running the model; None: this engine cannot."""
    if engine in ("vllm", "sglang"):
        return "/tokenize", {"model": model, "prompt": text}
    if engine == "llamacpp":
        return "/tokenize", {"content": text}
    if engine == "tgi":
        return "/tokenize", {"inputs": text}
    return None


def fingerprint(body: bytes) -> str | None:
    """A short text that is the same for the same token ids."""
    document = parse_json(body)
    tokens = document.get("tokens") if isinstance(document, dict) else document
    if not isinstance(tokens, list) or not tokens:
        return None
    ids = [token.get("id") if isinstance(token, dict) else token for token in tokens]
    if not all(isinstance(one, int) and not isinstance(one, bool) for one in ids):
        return None
    digest = hashlib.sha256(",".join(map(str, ids)).encode()).hexdigest()[:8]
    return f"{len(ids)} ({digest})"


def keep_alive_header(answer: Answer) -> float | None:
    """`Keep-Alive: timeout=5, max=100`: seconds."""
    for part in answer.headers.get("keep-alive", "").split(","):
        key, _, value = part.strip().partition("=")
        if key.lower() == "timeout":
            return number(value.strip())
    return None


def usage_of(body: bytes) -> dict[str, Any] | None:
    """The usage of a completion; None where it has none."""
    document = parse_json(body)
    usage = document.get("usage") if isinstance(document, dict) else None
    return usage if isinstance(usage, dict) else None


def cached_of(usage: Mapping[str, Any]) -> int | None:
    details = usage.get("prompt_tokens_details")
    value = count_of(details.get("cached_tokens")) if isinstance(details, dict) else None
    return None if value is None else int(value)


def error_of(status: int, body: bytes) -> str:
    """An error answer in one line."""
    document = parse_json(body)
    inner = document.get("error") if isinstance(document, dict) else None
    text = inner.get("message") if isinstance(inner, dict) else inner
    if not text and isinstance(document, dict):
        text = document.get("message") or document.get("detail")
    return f"answered {status}" + (f": {printable(text)}" if isinstance(text, str) and text else "")


def _part(info: Mapping[str, Any], key: str) -> dict[str, Any]:
    part = info.get(key)
    return part if isinstance(part, dict) else {}


def _flag(value: object) -> bool | None:
    return value if isinstance(value, bool) else None


def _whole(value: object) -> int | None:
    found = count_of(value)
    return int(found) if found else None
